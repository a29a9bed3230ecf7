//! The state of one shard at one instant, and the two bits that follow from it.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::{
    COUNTER_ADVERTS_PASSED, DropReason, FLAG_MAIN_V6, Heard, LinkInfo, ROLE_ACTIVE, ROLE_LEAVING, ShardCtl,
    ShardKernel, VipEntry, answer_open, awaits_successor, deadline_ns, deliver_open, deposed, deposes, fence_ns,
    hands_on, repeats,
};

use crate::Verdict;
use crate::frame::{self, Advert, Ip, Side};
use crate::maps;

/// One look at a shard.
pub(crate) struct Shard {
    ctl: ShardCtl,
    kernel: ShardKernel,
    /// Where the programs keep their half.
    cell: *mut ShardKernel,
    now: u64,
}

impl Shard {
    /// Reads both halves. `None`: no such slot, which the rules take for closed.
    ///
    /// An update by user space is not atomic: a mix of two claims can be read. It can open nothing that the newer claim
    /// does not open: the role alone has no deadline, and a new deadline is written only by a claim already made.
    #[inline(always)]
    pub(crate) fn look(slot: u32) -> Option<Self> {
        let ctl = maps::CTL.get_ptr(slot)?;
        let cell = maps::KERNEL.get_ptr_mut(slot)?;
        // SAFETY: valid map values of these types; volatile, so that each field is read once.
        let (ctl, kernel) = unsafe { (ctl.read_volatile(), cell.read_volatile()) };
        // SAFETY: the helper has no precondition.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        Some(Self { ctl, kernel, cell, now })
    }

    /// An own advert is about to leave: judge it and, with the right to own, extend the deadline.
    #[inline(always)]
    pub(crate) fn advert_leaves(&self, advert: &Advert, ip: &Ip) -> Verdict {
        let in_time = self.now < deadline_ns(&self.ctl, &self.kernel);
        let role = self.ctl.role;
        if role != ROLE_ACTIVE && !(role == ROLE_LEAVING && advert.priority == 0) {
            return Verdict::Drop(DropReason::AdvertRole);
        }
        if !in_time {
            return Verdict::Drop(DropReason::AdvertExpired);
        }
        // A deposed node is a Backup, whatever its daemon knows of it: it has nothing to release and nothing to claim. What it said
        // before it may say once more, to no effect here: the better one must learn that neighbours have heard us.
        if deposed(&self.ctl, &self.kernel) {
            if !repeats(&self.ctl, &self.kernel, advert.priority) {
                return Verdict::Drop(DropReason::AdvertRole);
            }
            maps::count(COUNTER_ADVERTS_PASSED);
            return Verdict::Pass;
        }
        // Priority 0 gives the VIP up (RFC 9568 section 6.4.3): it must not lengthen what it ends. An interval of 0 is
        // no interval.
        if advert.priority != 0 && advert.interval_ns != 0 {
            self.extend(advert, ip);
        }
        maps::count(COUNTER_ADVERTS_PASSED);
        Verdict::Pass
    }

    #[inline(always)]
    fn extend(&self, advert: &Advert, ip: &Ip) {
        let interval_ns = advert.interval_ns;
        let same_term = self.kernel.term == self.ctl.term;
        let before = if same_term { self.kernel.interval_ns } else { self.ctl.interval_ns };
        // The peers still count with the interval of the advert before this one until they have this one.
        let effective = if before != 0 && before < interval_ns { before } else { interval_ns };
        // SAFETY: `cell` is a valid map value; only the advert path of these programs writes these fields, and one
        // shard's adverts come from one thread. Term last: until then the fields belong to no term.
        unsafe {
            (&raw mut (*self.cell).deadline_ns).write_volatile(self.now + fence_ns(effective));
            (&raw mut (*self.cell).interval_ns).write_volatile(interval_ns);
            (&raw mut (*self.cell).adverts).write_volatile(self.kernel.adverts + 1);
            (&raw mut (*self.cell).priority).write_volatile(u64::from(advert.priority));
            if ip.family == if self.ctl.flags & FLAG_MAIN_V6 != 0 { 6 } else { 4 } {
                (&raw mut (*self.cell).source).write(ip.source);
            }
            (&raw mut (*self.cell).term).write_volatile(self.ctl.term);
        }
    }

    /// Another node advertised the shard's virtual router.
    #[inline(always)]
    pub(crate) fn rival_advertises(&self, heard: &Heard, mac: &[u8; 6]) {
        self.rival_announces(mac);
        // SAFETY: a valid map value; adverts of other nodes are the only writers of these two fields, and any order of two that arrive
        // at once is as good.
        unsafe {
            (&raw mut (*self.cell).heard_ns).write_volatile(self.now);
            if deposes(&self.ctl, &self.kernel, heard) {
                (&raw mut (*self.cell).deposed_term).write_volatile(self.ctl.term);
            }
        }
    }

    /// Another node announced a VIP of this shard, or its advert did: if that is the successor we wait for, stop answering.
    #[inline(always)]
    pub(crate) fn rival_announces(&self, mac: &[u8; 6]) {
        if awaits_successor(&self.ctl) {
            // SAFETY: a valid map value; every writer writes the same term, and while nobody else took the shard the same address, which
            // comes first: it counts with the term only.
            unsafe {
                (&raw mut (*self.cell).successor).write_volatile(LinkInfo { mac: *mac, pad: [0; 2] });
                (&raw mut (*self.cell).answer_closed_term).write_volatile(self.ctl.term);
            }
        }
    }
}

/// ARP or NDP speaks for, or asks for, the VIP on `ifindex`: needs the right link and `answer`.
#[inline(always)]
pub(crate) fn need_answer(entry: VipEntry, ifindex: u32, second_link: DropReason, closed: DropReason) -> Verdict {
    if entry.ifindex != ifindex {
        return Verdict::Drop(second_link);
    }
    match Shard::look(entry.shard) {
        Some(s) if answer_open(&s.ctl, &s.kernel, s.now) => Verdict::Pass,
        _ => Verdict::Drop(closed),
    }
}

/// A packet of the VIP that the forwarding plane serves on any node.
#[inline(always)]
pub(crate) fn forwarded(ctx: &TcContext, ip: &Ip, side: Side) -> bool {
    frame::forwarded_key(ctx, ip, side).is_some_and(|key| maps::forwarded(&key))
}

/// [`delivery`]: dropped.
pub(crate) const CLOSED: u64 = u64::MAX;
/// [`delivery`]: served by this node, new connections included.
pub(crate) const HERE: u64 = 0;
/// Set in every other value of [`delivery`], above the six bytes of the address: one of zeroes is an address too.
const SUCCESSOR: u64 = 1 << 63;

/// An IP packet to or from the VIP: [`CLOSED`], [`HERE`], or the hardware address of who takes new connections instead, for [`mac`]. A number
/// and not an enum: without CAP_PERFMON the verifier refuses the copies of half-filled values that the compiler makes.
#[inline(always)]
pub(crate) fn delivery(entry: VipEntry) -> u64 {
    let Some(s) = Shard::look(entry.shard) else { return CLOSED };
    if !deliver_open(&s.ctl, &s.kernel, s.now) {
        return CLOSED;
    }
    if !hands_on(&s.ctl, &s.kernel, s.now) {
        return HERE;
    }
    let m = s.kernel.successor.mac;
    u64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0]) | SUCCESSOR
}

/// The address in a value of [`delivery`] that is neither [`CLOSED`] nor [`HERE`].
#[inline(always)]
pub(crate) fn mac(delivery: u64) -> [u8; 6] {
    let m = delivery.to_le_bytes();
    [m[0], m[1], m[2], m[3], m[4], m[5]]
}
