//! One packet, whichever hook it came to: bounded reads, writes, checksums, room in front.
//!
//! The rules are written once over [`Packet`] and compiled for each hook. Offsets count from the start of the frame. An operation that
//! cannot be done is `None`; what follows from that is the caller's.

mod skb;
mod xdp;

pub(crate) use skb::Skb;
pub(crate) use xdp::Xdp;

use aya_ebpf::cty::c_void;
use bascule_ebpf_common::VipKey;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes that [`Packet::prepare`] makes readable: two VLAN tags, encapsulation over IPv6, IPv6 and a whole TCP header.
pub(crate) const HEADERS: usize = ETHERNET + 8 + 64 + 40 + 60;

/// How a store bears on what the kernel knows of the packet's checksum (an skb with `CHECKSUM_COMPLETE`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    /// It changes the sum over the packet: tell the kernel.
    Changes,
    /// It does not: link header, or another store makes up for it.
    Stays,
}

/// A change under a transport checksum, as one's complement sums of the differences in memory order.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    /// In the pseudo-header: addresses.
    pub(crate) pseudo: u32,
    /// In the segment itself: ports.
    pub(crate) plain: u32,
    /// UDP: a checksum of zero is none and stays none (RFC 768).
    pub(crate) udp: bool,
    /// Over IPv6, whose header has no sum of its own that would make up for the address.
    pub(crate) v6: bool,
}

/// A packet at a hook.
pub(crate) trait Packet {
    /// A store is a call of a helper: one that changes nothing is worth a question.
    const CALLS: bool;

    /// The program's context, for helpers.
    fn context(&self) -> *mut c_void;

    /// First byte and end of what can be read in place.
    fn bounds(&self) -> (usize, usize);

    /// Bytes of the whole frame.
    fn length(&self) -> usize;

    /// Payload bytes of one segment of an aggregate (GSO); 0: not an aggregate.
    fn segment(&self) -> usize;

    /// Device it arrived on.
    fn ifindex(&self) -> u32;

    /// Does the kernel take the frame for this host's? False where it cannot be asked.
    fn for_host(&self) -> bool;

    /// Makes [`HEADERS`] readable, as far as the frame has them, or all headers where they are known to be fewer.
    fn prepare(&self);

    /// Writes `value` at `offset`.
    fn store<T: Copy>(&self, offset: usize, value: &T, sum: Sum) -> Option<()>;

    /// Corrects the IPv4 header checksum at `offset`.
    fn fix_ip(&self, offset: usize, change: u32) -> Option<()>;

    /// Corrects the transport checksum at `offset`.
    fn fix_transport(&self, offset: usize, change: Change) -> Option<()>;

    /// Makes the inner packet, which starts at `inner`, start behind an Ethernet header and `room` bytes; VLAN tags and earlier
    /// encapsulation give way. All bytes in front of it are then the caller's to write.
    fn encapsulate(&self, inner: Inner, room: Room) -> Option<()>;

    /// Takes `outer` away from between link header and inner packet.
    fn decapsulate(&self, inner: Inner, outer: Room) -> Option<()>;

    /// Reads a header in place.
    ///
    /// The value's own alignment is used although the frame promises none: programs with such loads are admitted where the machine has
    /// efficient unaligned access (as C programs that overlay header structs rely on), and byte-wise loads would cost a fifth of the path.
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        const { assert!(size_of::<T>() > 1, "the verifier learns nothing from a bound of one byte") };
        let (start, end) = self.bounds();
        let at = opaque(start + offset);
        if at + size_of::<T>() > end {
            return None;
        }
        // SAFETY: inside the frame by the comparison, which the verifier repeats; alignment: see above.
        Some(unsafe { *(at as *const T) })
    }
}

/// Where the packet lies to which the rules apply.
#[derive(Clone, Copy)]
pub(crate) struct Inner {
    /// Bytes of the link header, with VLAN tags.
    pub(crate) link: usize,
    /// Offset of its IP header: `link`, or `link` and the encapsulation.
    pub(crate) at: usize,
    /// IPv6 rather than IPv4.
    pub(crate) v6: bool,
}

/// An encapsulation to be made or removed.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// Its bytes.
    pub(crate) length: u8,
    /// Over IPv6 rather than IPv4.
    pub(crate) v6: bool,
}

impl Room {
    /// Its bytes.
    #[inline(always)]
    pub(crate) fn bytes(self) -> usize {
        usize::from(self.length)
    }
}

/// The same pointer or number, of which the compiler knows nothing: it cannot compute it anew after the comparison, and it is the compared copy alone
/// that the verifier trusts.
#[inline(always)]
pub(crate) fn opaque(mut pointer: usize) -> usize {
    // SAFETY: a move of a register to itself. Without any instruction two line records would share one place, which the kernel refuses.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags)) };
    pointer
}

/// A field of a map's value, read so that the compiler does not take it from the register in which it was before. The verifier knows
/// nothing of what lies in a map: ways that differed in this value are one again.
#[inline(always)]
pub(crate) fn forgotten<T: Copy>(field: &T) -> T {
    // SAFETY: a reference.
    unsafe { core::ptr::from_ref(field).read_volatile() }
}

/// Are two addresses the same? As numbers: a comparison of byte arrays goes byte by byte here.
#[inline(always)]
pub(crate) fn same(a: &VipKey, b: &VipKey) -> bool {
    u128::from_ne_bytes(a.addr) == u128::from_ne_bytes(b.addr)
}

/// An address as two words. The compiler moves them in registers; of a field it may make a call that moves byte by byte.
#[inline(always)]
pub(crate) fn halves(key: &VipKey) -> [u64; 2] {
    let all = u128::from_ne_bytes(key.addr);
    [all as u64, (all >> 64) as u64]
}

/// A word as two half-words in the order in which they lie in memory.
#[inline(always)]
pub(crate) fn halves16(word: u32) -> [u16; 2] {
    // The target is little-endian, as the object's name says.
    [word as u16, (word >> 16) as u16]
}

/// A copy of an address, by words.
#[inline(always)]
pub(crate) fn copy(key: &VipKey) -> VipKey {
    VipKey { addr: u128::from_ne_bytes(key.addr).to_ne_bytes() }
}

/// The one's complement sum that replaces `old` by `new` (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`), in memory order.
#[inline(always)]
pub(crate) fn difference(old: &VipKey, new: &VipKey) -> u32 {
    let (o, n) = (words(old), words(new));
    let mut sum = 0u64;
    sum += u64::from(!o[0]) + u64::from(n[0]);
    sum += u64::from(!o[1]) + u64::from(n[1]);
    sum += u64::from(!o[2]) + u64::from(n[2]);
    sum += u64::from(!o[3]) + u64::from(n[3]);
    fold32(sum)
}

/// The same for a half-word in network order.
#[inline(always)]
pub(crate) fn difference16(old: u16, new: u16) -> u32 {
    u32::from(!old) + u32::from(new)
}

/// The four 32-bit words of an address, in memory order. For mapped IPv4 three of them are the same in every address.
#[inline(always)]
fn words(key: &VipKey) -> [u32; 4] {
    let all = u128::from_ne_bytes(key.addr);
    [all as u32, (all >> 32) as u32, (all >> 64) as u32, (all >> 96) as u32]
}

/// Folds a sum of 32-bit words to one of them (each fold adds the carries back).
#[inline(always)]
fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub(crate) fn fold16(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A checksum after a change (RFC 1624, equation 3).
#[inline(always)]
pub(crate) fn corrected(checksum: u16, change: u64) -> u16 {
    !fold16(u64::from(!checksum) + change)
}
