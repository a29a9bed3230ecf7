//! The packet at a tc hook: headers read in place once they are linear, changed by helpers, which unshare a clone and keep the
//! kernel's checksum state (none, complete, partial) true.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0,
    BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_pull_data, bpf_skb_store_bytes,
    bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;

use super::{Change, ETHERNET, HEADERS, Inner, Packet, Room, Sum};
use crate::parse::{ETH_IPV4, ETH_IPV6, IPPROTO_TCP, IPV4, IPV6};

/// `BPF_F_IPV6` of `bpf_l4_csum_replace` (linux/bpf.h, since 6.16 and in stable kernels): with `CHECKSUM_COMPLETE` the change of an IPv6
/// address and that of the checksum make up for one another.
const BPF_F_IPV6: u64 = 1 << 7;

/// To this host's link address (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// A frame in tc.
pub(crate) struct Skb<'a>(pub(crate) &'a TcContext);

impl Packet for Skb<'_> {
    const CALLS: bool = true;

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.raw().cast()
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.0.data(), self.0.data_end())
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn segment(&self) -> usize {
        // SAFETY: `skb` is the program's context; the field is readable in a classifier.
        unsafe { (*self.raw()).gso_size as usize }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: `skb` is the program's context; the field is readable in a classifier.
        unsafe { (*self.raw()).ifindex }
    }

    #[inline(always)]
    fn for_host(&self) -> bool {
        // SAFETY: `skb` is the program's context; the field is readable in a classifier.
        unsafe { (*self.raw()).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn prepare(&self) {
        let wanted = if self.length() < HEADERS { self.length() } else { HEADERS };
        let (start, end) = self.bounds();
        if start + wanted > end && !self.has_tcp() {
            // SAFETY: `skb` is the program's context. If it fails, the reads behind it find less.
            unsafe { bpf_skb_pull_data(self.raw(), wanted as u32) };
        }
    }

    #[inline(always)]
    fn store<T: Copy>(&self, offset: usize, value: &T, sum: Sum) -> Option<()> {
        let flags = if sum == Sum::Changes { u64::from(BPF_F_RECOMPUTE_CSUM) } else { 0 };
        // SAFETY: `skb` is the program's context, the source a value of the length given; the helper checks the offset.
        let result = unsafe {
            bpf_skb_store_bytes(
                self.raw(),
                offset as u32,
                core::ptr::from_ref(value).cast::<c_void>(),
                size_of::<T>() as u32,
                flags,
            )
        };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn fix_ip(&self, offset: usize, change: u32) -> Option<()> {
        // SAFETY: `skb` is the program's context; with size 0 the third number is the change itself.
        (unsafe { bpf_l3_csum_replace(self.raw(), offset as u32, 0, u64::from(change), 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn fix_transport(&self, offset: usize, change: Change) -> Option<()> {
        let zero = if change.udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        if change.pseudo != 0 {
            let pseudo = zero | u64::from(BPF_F_PSEUDO_HDR);
            // A kernel without the flag refuses it before it changes anything.
            let done = (change.v6 && self.fix_l4(offset, change.pseudo, pseudo | BPF_F_IPV6).is_some())
                || self.fix_l4(offset, change.pseudo, pseudo).is_some();
            if !done {
                return None;
            }
        }
        // All ones are a zero too: a port that stays what it is.
        if change.plain != 0 && change.plain != 0xffff {
            self.fix_l4(offset, change.plain, zero)?;
        }
        Some(())
    }

    #[inline(always)]
    fn encapsulate(&self, inner: Inner, room: Room) -> Option<()> {
        // The outer frame leaves untagged: a tag the kernel holds beside the frame goes, and with it each one in the frame.
        // SAFETY: `skb` is the program's context; the field is readable in a classifier.
        if unsafe { (*self.raw()).vlan_present } != 0 {
            self.untag()?;
        }
        if inner.link > ETHERNET {
            self.untag()?;
        }
        if inner.link > ETHERNET + 4 {
            self.untag()?;
        }
        if inner.at != inner.link {
            let outer = inner.at - inner.link;
            if outer == room.bytes() {
                return Some(());
            }
            self.shrink(outer, inner.v6)?;
        }
        let family = if room.v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        self.room(room.bytes() as i32, family | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_FIXED_GSO)
    }

    #[inline(always)]
    fn decapsulate(&self, inner: Inner, outer: Room) -> Option<()> {
        if inner.link != ETHERNET {
            // The kernel keeps the outer tag beside the frame and removes room behind the Ethernet header: a second tag would be cut.
            return None;
        }
        let kind: u16 = if inner.v6 { 0x86dd } else { 0x0800 };
        if inner.v6 == outer.v6 {
            self.room(-(outer.bytes() as i32), BPF_F_ADJ_ROOM_FIXED_GSO)
        } else {
            self.shrink(outer.bytes(), inner.v6)?;
            self.store(ETHERNET - 2, &kind.to_be(), Sum::Stays)
        }
    }
}

impl Skb<'_> {
    /// Are the headers in place already, of plain TCP? Its payload, in pages of its own, must not be moved for nothing: the kernel would
    /// copy the head of every segment, for each is a clone of what the sender keeps.
    #[inline(always)]
    fn has_tcp(&self) -> bool {
        let Some(kind) = self.read::<u16>(ETHERNET - 2) else { return false };
        let header = if kind == ETH_IPV4.to_be() {
            // Version and header length, of a header without options; TTL and protocol.
            let (Some([first, _]), Some([_, protocol])) =
                (self.read::<[u8; 2]>(ETHERNET), self.read::<[u8; 2]>(ETHERNET + 8))
            else {
                return false;
            };
            if first != 0x45 || protocol != IPPROTO_TCP {
                return false;
            }
            IPV4
        } else if kind == ETH_IPV6.to_be() {
            let Some([next, _]) = self.read::<[u8; 2]>(ETHERNET + 6) else { return false };
            if next != IPPROTO_TCP {
                return false;
            }
            IPV6
        } else {
            return false;
        };
        let Some([offset, _]) = self.read::<[u8; 2]>(ETHERNET + header + 12) else { return false };
        let (start, end) = self.bounds();
        start + ETHERNET + header + usize::from(offset >> 4) * 4 <= end
    }

    /// Does the kernel hold a tag beside the frame?
    #[inline(always)]
    pub(crate) fn is_tagged(&self) -> bool {
        // SAFETY: `skb` is the program's context; the field is readable in a classifier.
        unsafe { (*self.raw()).vlan_present != 0 }
    }

    /// Room behind the Ethernet header for a moment. Nothing else that the kernel says of the frame changes, above all not that it is
    /// encapsulated: a device that completes checksums would look for them elsewhere from then on.
    #[inline(always)]
    pub(crate) fn lend(&self, bytes: usize) -> Option<()> {
        self.room(bytes as i32, BPF_F_ADJ_ROOM_FIXED_GSO)
    }

    /// Ends [`Skb::lend`].
    #[inline(always)]
    pub(crate) fn take_back(&self, bytes: usize) -> Option<()> {
        self.room(-(bytes as i32), BPF_F_ADJ_ROOM_FIXED_GSO)
    }

    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    #[inline(always)]
    fn fix_l4(&self, offset: usize, change: u32, flags: u64) -> Option<()> {
        // SAFETY: `skb` is the program's context; with size 0 the third number is the change itself.
        (unsafe { bpf_l4_csum_replace(self.raw(), offset as u32, 0, u64::from(change), flags) } == 0).then_some(())
    }

    #[inline(always)]
    fn untag(&self) -> Option<()> {
        // SAFETY: `skb` is the program's context.
        (unsafe { bpf_skb_vlan_pop(self.raw()) } == 0).then_some(())
    }

    /// Removes room and says which family is then in front.
    #[inline(always)]
    fn shrink(&self, bytes: usize, v6: bool) -> Option<()> {
        let family = if v6 { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 };
        self.room(-(bytes as i32), family | BPF_F_ADJ_ROOM_FIXED_GSO)
    }

    #[inline(always)]
    fn room(&self, by: i32, flags: u32) -> Option<()> {
        // SAFETY: `skb` is the program's context; pointers into the frame are not kept over the call.
        (unsafe { bpf_skb_adjust_room(self.raw(), by, BPF_ADJ_ROOM_MAC, u64::from(flags)) } == 0).then_some(())
    }
}
