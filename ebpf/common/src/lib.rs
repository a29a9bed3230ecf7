//! The map ABI between the fence programs in the kernel and the daemon, and the few formulas both must share.
//!
//! Every type is `repr(C)` without padding, so that a value is its bytes. Integers are in host order; addresses are in
//! network order. All times are nanoseconds of `CLOCK_BOOTTIME` (`bpf_ktime_get_boot_ns` in the kernel), which goes on
//! while a machine is suspended: a resumed owner finds its deadline passed.
//!
//! [`ShardCtl`] is written by user space only and [`ShardKernel`] by the programs only, so neither side can overwrite
//! what the other just decided. `layout-v1.txt` is the golden description of it all; [`ABI_STAMP`] is its digest and
//! travels with the pinned maps, so that a daemon never reuses maps of another layout.
#![no_std]

pub mod forward;
mod rules;

pub use rules::{Heard, active, answer_open, deadline_ns, deliver_open, deposed, deposes, fence_ns, repeats};

/// Version of the map ABI. It is part of the pin path (`v1`) and of [`ABI_STAMP`]; raise it with every layout change that
/// follows a release; the digest tells the builds between two releases apart.
pub const ABI_VERSION: u32 = 1;

/// Digest of the ABI: version in the upper half, FNV-1a (32 bit) of `layout-v1.txt` in the lower.
pub const ABI_STAMP: u64 = ((ABI_VERSION as u64) << 32) | fnv1a(include_bytes!("../layout-v1.txt")) as u64;

/// Entries of the VIP map. Enough for 400 shards of 20 addresses (the most one advert may list by our configuration).
pub const MAX_VIPS: u32 = 8192;
/// Entries of the advert map: one per family and shard.
pub const MAX_ADVERTS: u32 = 2048;
/// Shards (slots) of one node.
pub const MAX_SHARDS: u32 = 1024;
/// Links the fence can stand on at once.
pub const MAX_LINKS: u32 = 256;
/// Entries of the map of forwarded frames: equal to [`forward::MAX_SERVICE_KEYS`], which it can hold at most.
pub const MAX_FORWARDED: u32 = 16384;
/// Slots of the per-CPU counter array: slot 0 counts passed adverts, slot `DropReason as u32` the drops.
pub const COUNTERS: u32 = 16;
/// Counter slot of the adverts that extended a deadline or released it.
pub const COUNTER_ADVERTS_PASSED: u32 = 0;

/// Role of [`ShardCtl::role`]: not owner, nothing is answered or delivered.
pub const ROLE_BACKUP: u32 = 0;
/// Role of [`ShardCtl::role`]: owner for as long as the deadline has not passed.
pub const ROLE_ACTIVE: u32 = 1;
/// Role of [`ShardCtl::role`]: handed over; frames that still arrive are served until `deliver_until_ns`.
pub const ROLE_LEAVING: u32 = 2;

/// Flag of [`ShardCtl::flags`]: a successor was granted the shard and is about to announce. Nothing is answered from here on, so that no
/// answer crosses the announcement; and the announcement mutes the term for good.
pub const FLAG_HANDOVER: u32 = 1;
/// Flag of [`ShardCtl::flags`]: RFC 9568 Accept_Mode is off: own the address, deliver nothing to it.
pub const FLAG_NO_ACCEPT: u32 = 2;
/// Flag of [`ShardCtl::flags`]: this term goes on with an ownership that was advertised before: what the last advert said holds.
pub const FLAG_CONTINUED: u32 = 4;
/// Flag of [`ShardCtl::flags`]: the group's main family is IPv6: its addresses settle ties of priority.
pub const FLAG_MAIN_V6: u32 = 8;

/// The one value of TTL or hop limit that an advert may have (RFC 9568 sections 5.1.1.3 and 5.1.2.3).
pub const ADVERT_HOPS: u8 = 255;
/// [`ShardCtl::heed_ns`] of a claim that no advert of another node voids.
pub const HEED_NOBODY: u64 = u64::MAX;

/// Address of a VIP in network order; IPv4 as `::ffff:a.b.c.d`. Aligned, so that the programs move it in two words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct VipKey {
    /// The sixteen bytes of the (mapped) IPv6 address.
    pub addr: [u8; 16],
}

impl VipKey {
    /// Key of an IPv4 address given in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(a: [u8; 4]) -> Self {
        // As one number: written as bytes, the zeroes become a call of memset, whose pointer arithmetic the verifier
        // allows only with CAP_PERFMON.
        Self { addr: (0xffff_0000_0000u128 | u32::from_be_bytes(a) as u128).to_be_bytes() }
    }

    /// Key of an IPv6 address given in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v6(addr: [u8; 16]) -> Self {
        Self { addr }
    }
}

/// What the fence knows of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VipEntry {
    /// Slot of the shard that owns the VIP, below [`MAX_SHARDS`].
    pub shard: u32,
    /// The one link that may answer ARP and NDP for the VIP.
    pub ifindex: u32,
}

/// Names one virtual router on one link, as its adverts show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AdvertKey {
    /// Link the advert leaves by.
    pub ifindex: u32,
    /// IP version of the advert: 4 or 6.
    pub family: u8,
    /// Virtual router identifier (RFC 9568 section 5.2.3).
    pub vrid: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

impl AdvertKey {
    /// Key of the adverts of `vrid` over IP version `family` (4 or 6) on `ifindex`.
    #[inline(always)]
    #[must_use]
    pub const fn new(ifindex: u32, family: u8, vrid: u8) -> Self {
        Self { ifindex, family, vrid, pad: [0; 2] }
    }
}

/// Names frames of a VIP that the forwarding plane serves on any node: `deliver` is open for them whatever the shard says, `answer`
/// is not touched. Value: 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ForwardedKey {
    /// The VIP: destination of what arrives, source of what leaves.
    pub vip: VipKey,
    /// Port on the VIP's side, network order; 0 for frames without one: later fragments, and every protocol but TCP, UDP and SCTP.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad0: u8,
    /// Always zero. Two fields, for five bytes would be a call of memset, whose pointer arithmetic asks for CAP_PERFMON.
    pub pad1: u32,
}

impl ForwardedKey {
    /// Key of `vip`, `port` (network order) and `protocol`.
    #[inline(always)]
    #[must_use]
    pub const fn new(vip: VipKey, port: u16, protocol: u8) -> Self {
        Self { vip, port, protocol, pad0: 0, pad1: 0 }
    }
}

/// The will of user space for one shard. Written by the daemon only. All zero is Backup: closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ShardCtl {
    /// One of [`ROLE_BACKUP`], [`ROLE_ACTIVE`], [`ROLE_LEAVING`]; anything else is closed.
    pub role: u32,
    /// Bits [`FLAG_HANDOVER`], [`FLAG_NO_ACCEPT`], [`FLAG_CONTINUED`] and [`FLAG_MAIN_V6`].
    pub flags: u32,
    /// Term of the claim, at least 1 and never used twice by one daemon run.
    pub term: u64,
    /// Deadline of the claim itself; the programs extend it in [`ShardKernel::deadline_ns`].
    pub deadline_ns: u64,
    /// With [`ROLE_LEAVING`]: until when arriving frames are still served.
    pub deliver_until_ns: u64,
    /// Advert interval in force when the claim was made; 0: take the packet's.
    pub interval_ns: u64,
    /// When the silence was found that this claim stands on. An advert of another node that arrives later voids the claim until its
    /// own first advert is out; [`HEED_NOBODY`] where the claim stands on something else.
    pub heed_ns: u64,
}

/// What the programs proved for one shard. Written by the programs only (and zeroed before the first program runs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ShardKernel {
    /// Term whose adverts set `deadline_ns`; of no meaning while it differs from [`ShardCtl::term`]. Written last.
    pub term: u64,
    /// Deadline set by the last advert that left.
    pub deadline_ns: u64,
    /// Interval that advert carried.
    pub interval_ns: u64,
    /// Term in which a successor's announcement was seen: no answers any more in that term.
    pub answer_closed_term: u64,
    /// Adverts that extended the deadline, all terms.
    pub adverts: u64,
    /// When another node's advert (priority above 0) for this shard last arrived, whatever our role.
    pub heard_ns: u64,
    /// Term that ended because a superior advert arrived (RFC 9568 section 6.4.3): only another one opens.
    pub deposed_term: u64,
    /// Priority in the own advert that left last.
    pub priority: u64,
    /// Source of the own advert of the main family that left last.
    pub source: VipKey,
}

/// Hardware address of a fenced link: tells a successor's announcement from our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LinkInfo {
    /// MAC address.
    pub mac: [u8; 6],
    /// Always zero.
    pub pad: [u8; 2],
}

/// Why a frame was dropped; the value is its slot in the counter array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum DropReason {
    /// Ingress IP frame with the VIP as destination while `deliver` is closed.
    IngressDeliver = 1,
    /// Egress IP frame with the VIP as source while `deliver` is closed.
    EgressDeliver = 2,
    /// Ingress ARP request or neighbour solicitation for the VIP while `answer` is closed.
    IngressAnswer = 3,
    /// Egress ARP or NDP that speaks for the VIP while `answer` is closed.
    EgressAnswer = 4,
    /// Own advert after the deadline.
    AdvertExpired = 5,
    /// Own advert in a role that may not send it.
    AdvertRole = 6,
    /// ARP or NDP for the VIP on a link that is not the VIP's, ingress.
    IngressSecondLink = 7,
    /// ARP or NDP for the VIP on a link that is not the VIP's, egress.
    EgressSecondLink = 8,
}

impl DropReason {
    /// Every reason, in the order of its counter slot.
    pub const ALL: [Self; 8] = [
        Self::IngressDeliver,
        Self::EgressDeliver,
        Self::IngressAnswer,
        Self::EgressAnswer,
        Self::AdvertExpired,
        Self::AdvertRole,
        Self::IngressSecondLink,
        Self::EgressSecondLink,
    ];

    /// Stable name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IngressDeliver => "ingress_deliver",
            Self::EgressDeliver => "egress_deliver",
            Self::IngressAnswer => "ingress_answer",
            Self::EgressAnswer => "egress_answer",
            Self::AdvertExpired => "advert_expired",
            Self::AdvertRole => "advert_role",
            Self::IngressSecondLink => "ingress_second_link",
            Self::EgressSecondLink => "egress_second_link",
        }
    }
}

/// FNV-1a, 32 bit (offset basis and prime of the FNV reference).
pub(crate) const fn fnv1a(bytes: &[u8]) -> u32 {
    let mut hash = 0x811c_9dc5u32;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

// Sizes without padding: the kernel compares map values byte by byte with nothing in between.
const _: () = assert!(size_of::<VipKey>() == 16 && align_of::<VipKey>() == 8);
const _: () = assert!(size_of::<VipEntry>() == 8);
const _: () = assert!(size_of::<AdvertKey>() == 8);
const _: () = assert!(size_of::<ForwardedKey>() == 24);
const _: () = assert!(MAX_FORWARDED == forward::MAX_SERVICE_KEYS);
const _: () = assert!(size_of::<ShardCtl>() == 48 && align_of::<ShardCtl>() == 8);
const _: () = assert!(size_of::<ShardKernel>() == 80 && align_of::<ShardKernel>() == 8);
const _: () = assert!(size_of::<LinkInfo>() == 8);
const _: () = assert!((DropReason::ALL.len() as u32) < COUNTERS);

#[cfg(feature = "user")]
mod pod {
    //! SAFETY of all: `repr(C)`, `Copy`, no padding (asserted above), every bit pattern valid.
    macro_rules! pod {
        ($($t:ident),*) => { $(
            // SAFETY: see the module's comment.
            unsafe impl aya::Pod for super::$t {}
        )* };
    }
    pod!(VipKey, VipEntry, AdvertKey, ForwardedKey, ShardCtl, ShardKernel, LinkInfo);

    macro_rules! forward_pod {
        ($($t:ident),*) => { $(
            // SAFETY: see the module's comment.
            unsafe impl aya::Pod for super::forward::$t {}
        )* };
    }
    forward_pod!(
        ServiceKey,
        Service,
        SourceKey,
        Node,
        Site,
        Key,
        Config,
        Endpoint,
        ReverseKey,
        ReverseEntry,
        FlowKey,
        Flow,
        Half,
        FragmentKey,
        ServiceStats,
        EndpointStats,
        Bucket
    );
}
