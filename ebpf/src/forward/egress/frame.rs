//! Reading a frame that leaves: IPv4 with options and IPv6 with extension headers, down to the ports.
//!
//! What is read of it lies in this CPU's room, for two reasons: the start of a frame is fetched in one piece, linear or not; and the verifier
//! knows nothing of what lies in a map, so that either family, every kind and each table that knows a flow is one way to what follows.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;

use super::lookup::Found;
use super::via::Back;
use crate::packet::{ETHERNET, forgotten, opaque};
use crate::parse::{
    ETH_IPV4, ETH_IPV6, ETH_QINQ, ETH_VLAN, IPV4, IPV6, Ipv4Header, Ipv6Header, MAX_TAGS, TcpHeader, UdpHeader,
};

/// IP protocol numbers (IANA).
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
/// Bytes fetched of a frame: Ethernet, two VLAN tags, IPv6 and TCP without options, to the next word.
const HEAD: usize = 88;
/// Bytes of the shortest frame with an IP header.
const LEAST: usize = ETHERNET + IPV4;
/// Extension headers and how many are walked.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MAX_HEADERS: usize = 8;

/// What is known of a frame that leaves.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Leaving {
    head: Head,
    pub(super) packet: Packet,
    pub(super) ports: Ports,
    pub(super) found: Found,
    pub(super) back: Back,
}

/// The start of a frame. Aligned: read by words.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Head {
    bytes: [u8; HEAD],
    /// How many of them the frame has.
    length: usize,
}

impl Head {
    /// Fetches it; false: the frame is shorter than an IP packet.
    #[inline(always)]
    fn fetch(&mut self, ctx: &TcContext) -> bool {
        let length = opaque(ctx.len() as usize);
        if length < LEAST {
            return false;
        }
        let length = if length < HEAD { length } else { HEAD };
        self.length = length;
        // SAFETY: the program's context, and room for the bytes that are asked for.
        unsafe {
            bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, self.bytes.as_mut_ptr().cast::<c_void>(), length as u32) == 0
        }
    }

    /// Reads a header.
    #[inline(always)]
    fn read<T: Copy>(&self, at: usize) -> Option<T> {
        let at = opaque(at);
        if at > HEAD - size_of::<T>() || at + size_of::<T>() > self.length {
            return None;
        }
        // SAFETY: inside the bytes that were fetched; alignment as in `crate::packet::Packet::read`.
        Some(unsafe { *self.bytes.as_ptr().add(at).cast::<T>() })
    }
}

/// What there is to do with a packet.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub(super) enum Kind {
    /// TCP or UDP.
    Whole,
    /// The first fragment of TCP or UDP: it has the ports.
    First,
    /// A later fragment.
    Later,
    /// ICMP or ICMPv6; whether it is an error is seen later.
    Error,
}

/// A packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Packet {
    pub(super) source: VipKey,
    pub(super) destination: VipKey,
    /// Identification of a fragmented datagram, network order (IPv4: in the low half).
    pub(super) id: u32,
    /// Offset of the IP header in the frame.
    start: u16,
    /// Offset of the upper header.
    upper: u16,
    /// Checksum of the IPv4 header.
    pub(super) checksum: u16,
    /// 4 or 6.
    pub(super) family: u8,
    /// Upper protocol: TCP, UDP, ICMP, ICMPv6.
    pub(super) protocol: u8,
    pub(super) kind: Kind,
    /// TOS or traffic class.
    pub(super) tos: u8,
}

impl Packet {
    /// Offset of the IP header in the frame.
    #[inline(always)]
    pub(super) fn l3(&self) -> usize {
        usize::from(self.start)
    }

    /// Offset of the upper header.
    #[inline(always)]
    pub(super) fn l4(&self) -> usize {
        usize::from(self.upper)
    }
}

/// The part of an upper header that is needed.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Ports {
    /// Network order.
    pub(super) source: u16,
    /// Network order.
    pub(super) destination: u16,
    /// TCP flags; 0 for UDP.
    pub(super) flags: u8,
    /// Bytes of the header.
    pub(super) header: u8,
}

/// Reads a frame into `leaving`; `None`: not TCP, UDP or ICMP over IP, or cut off.
#[inline(always)]
pub(super) fn parse(ctx: &TcContext, leaving: &mut Leaving) -> Option<()> {
    if !leaving.head.fetch(ctx) {
        return None;
    }
    let mut at = ETHERNET - 2;
    let mut ethertype = u16::from_be(leaving.head.read(at)?);
    for _ in 0..MAX_TAGS {
        if ethertype != ETH_VLAN && ethertype != ETH_QINQ {
            break;
        }
        at += 4;
        ethertype = u16::from_be(leaving.head.read(at)?);
    }
    leaving.packet.start = at as u16 + 2;
    let l3 = usize::from(forgotten(&leaving.packet.start));
    leaving.packet = match ethertype {
        ETH_IPV4 => ipv4(&leaving.head, l3)?,
        ETH_IPV6 => ipv6(ctx, &leaving.head, l3)?,
        _ => return None,
    };
    Some(())
}

/// Makes the verifier forget what it knows of a number, so that what follows is verified once and not once for every value.
#[inline(always)]
pub(super) fn forget<T: Copy>(value: T) -> T {
    let mut cell = value;
    // SAFETY: a local variable, written and read through one pointer to it.
    unsafe {
        (&raw mut cell).write_volatile(value);
        (&raw const cell).read_volatile()
    }
}

#[inline(always)]
fn ipv4(head: &Head, l3: usize) -> Option<Packet> {
    let h: Ipv4Header = head.read(l3)?;
    if h.version_length >> 4 != 4 || h.version_length & 0x0f < 5 {
        return None;
    }
    let fragment = u16::from_be(h.fragment);
    Some(Packet {
        source: VipKey::v4(h.source.to_ne_bytes()),
        destination: VipKey::v4(h.destination.to_ne_bytes()),
        id: u32::from(h.id),
        start: l3 as u16,
        upper: (l3 + usize::from(h.version_length & 0x0f) * 4) as u16,
        checksum: h.checksum,
        family: 4,
        protocol: h.protocol,
        // 13 bits of offset, the bit before them says that more follow (RFC 791 section 3.1).
        kind: kind(h.protocol, ICMP, fragment & 0x1fff != 0, fragment & 0x2000 != 0)?,
        tos: h.tos,
    })
}

#[inline(always)]
fn ipv6(ctx: &TcContext, head: &Head, l3: usize) -> Option<Packet> {
    let h: Ipv6Header = head.read(l3)?;
    let first = u32::from_be(h.head);
    if first >> 28 != 6 {
        return None;
    }
    let upper = walk(ctx, h.next, l3 + IPV6)?;
    Some(Packet {
        source: h.source,
        destination: h.destination,
        id: upper.id,
        start: l3 as u16,
        upper: upper.offset as u16,
        checksum: 0,
        family: 6,
        protocol: upper.protocol,
        kind: kind(upper.protocol, ICMPV6, upper.later, upper.more)?,
        tos: (first >> 20) as u8,
    })
}

#[inline(always)]
fn kind(protocol: u8, icmp: u8, later: bool, more: bool) -> Option<Kind> {
    if protocol == icmp {
        // An error is never longer than the smallest MTU: fragments of ICMP are echoes.
        return if later || more { None } else { Some(Kind::Error) };
    }
    if protocol != TCP && protocol != UDP {
        return None;
    }
    Some(match (later, more) {
        (true, _) => Kind::Later,
        (false, true) => Kind::First,
        (false, false) => Kind::Whole,
    })
}

/// What lies behind the extension headers.
pub(super) struct Upper {
    pub(super) protocol: u8,
    pub(super) offset: usize,
    pub(super) id: u32,
    pub(super) later: bool,
    pub(super) more: bool,
}

/// Walks the extension headers (RFC 8200 section 4).
#[inline(always)]
pub(super) fn walk(ctx: &TcContext, first: u8, start: usize) -> Option<Upper> {
    let mut next = first;
    let mut offset = start;
    let mut id = 0;
    let mut field = 0u16;
    for _ in 0..MAX_HEADERS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            break;
        }
        let h: [u8; 8] = ctx.load(offset).ok()?;
        if next == FRAGMENT {
            field = u16::from_be_bytes([h[2], h[3]]);
            id = u32::from_ne_bytes([h[4], h[5], h[6], h[7]]);
            next = h[0];
            offset += 8;
            if field & 0xfff8 != 0 {
                // What follows is payload.
                break;
            }
            continue;
        }
        next = h[0];
        offset += (usize::from(h[1]) + 1) * 8;
    }
    let (field, id) = (forget(field), forget(id));
    Some(Upper {
        protocol: forget(next),
        offset: usize::from(forget(offset as u16)),
        id,
        later: field & 0xfff8 != 0,
        more: field & 1 != 0,
    })
}

/// Addresses and upper protocol of an IPv6 packet that is quoted at `l3`.
#[inline(always)]
pub(super) fn quoted_ipv6(ctx: &TcContext, l3: usize) -> Option<(VipKey, VipKey, Upper)> {
    let h: Ipv6Header = ctx.load(l3).ok()?;
    if u32::from_be(h.head) >> 28 != 6 {
        return None;
    }
    Some((h.source, h.destination, walk(ctx, h.next, l3 + IPV6)?))
}

/// Reads ports and, of TCP, flags and length; `None`: the header is not there in full.
#[inline(always)]
pub(super) fn ports(ctx: &TcContext, leaving: &mut Leaving) -> Option<()> {
    let l4 = leaving.packet.l4();
    leaving.ports = if forgotten(&leaving.packet.protocol) == UDP {
        let h: UdpHeader = upper(ctx, &leaving.head, l4)?;
        Ports { source: h.ports.source, destination: h.ports.destination, flags: 0, header: 8 }
    } else {
        let h: TcpHeader = upper(ctx, &leaving.head, l4)?;
        let header = (h.offset >> 4) * 4;
        Ports { source: h.ports.source, destination: h.ports.destination, flags: h.flags, header }
    };
    Some(())
}

/// A header of what was fetched; behind more options or extension headers, of the frame.
#[inline(always)]
fn upper<T: Copy>(ctx: &TcContext, head: &Head, l4: usize) -> Option<T> {
    if l4 > HEAD - size_of::<T>() { ctx.load(l4).ok() } else { head.read(l4) }
}
