//! Reading a frame that leaves: IPv4 with options and IPv6 with extension headers, down to the ports.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;

/// EtherTypes (IEEE 802 numbers).
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;
/// VLAN tags read over; a third is nobody's.
const MAX_TAGS: usize = 2;

/// IP protocol numbers (IANA).
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
/// Extension headers and how many are walked.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MAX_HEADERS: usize = 8;

/// What there is to do with a packet.
#[derive(Clone, Copy, PartialEq)]
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
pub(super) struct Packet {
    /// 4 or 6.
    pub(super) family: u8,
    /// Offset of the IP header in the frame.
    pub(super) l3: usize,
    /// Offset of the upper header.
    pub(super) l4: usize,
    pub(super) source: VipKey,
    pub(super) destination: VipKey,
    /// Upper protocol: TCP, UDP, ICMP, ICMPv6.
    pub(super) protocol: u8,
    /// Identification of a fragmented datagram, network order (IPv4: in the low half).
    pub(super) id: u32,
    pub(super) kind: Kind,
}

/// The part of an upper header that is needed.
pub(super) struct Ports {
    /// Network order.
    pub(super) source: u16,
    /// Network order.
    pub(super) destination: u16,
    /// TCP flags; 0 for UDP.
    pub(super) flags: u8,
    /// Bytes of the header.
    pub(super) header: usize,
}

/// The IPv6 header (RFC 8200 section 3); the addresses lie where keys can lie.
#[repr(C)]
struct Ipv6 {
    /// Version, traffic class, flow label, payload length, next header (6), hop limit.
    head: [u8; 8],
    source: VipKey,
    destination: VipKey,
}

const _: () = assert!(size_of::<Ipv6>() == 40);

/// Reads a frame; `None`: not TCP, UDP or ICMP over IP, or cut off.
#[inline(always)]
pub(super) fn parse(ctx: &TcContext) -> Option<Packet> {
    let mut at = 12;
    let mut ethertype = word(ctx, at)?;
    for _ in 0..MAX_TAGS {
        if ethertype != ETH_VLAN && ethertype != ETH_QINQ {
            break;
        }
        at += 4;
        ethertype = word(ctx, at)?;
    }
    let l3 = usize::from(forget(at as u16 + 2));
    match ethertype {
        ETH_IPV4 => ipv4(ctx, l3),
        ETH_IPV6 => ipv6(ctx, l3),
        _ => None,
    }
}

#[inline(always)]
fn word(ctx: &TcContext, at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(ctx.load(at).ok()?))
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
fn ipv4(ctx: &TcContext, l3: usize) -> Option<Packet> {
    let h: [u8; 20] = ctx.load(l3).ok()?;
    if h[0] >> 4 != 4 || h[0] & 0x0f < 5 {
        return None;
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]);
    Some(Packet {
        family: 4,
        l3,
        l4: usize::from(forget((l3 + usize::from(h[0] & 0x0f) * 4) as u16)),
        source: VipKey::v4([h[12], h[13], h[14], h[15]]),
        destination: VipKey::v4([h[16], h[17], h[18], h[19]]),
        protocol: h[9],
        id: u32::from(u16::from_ne_bytes([h[4], h[5]])),
        // 13 bits of offset, the bit before them says that more follow (RFC 791 section 3.1).
        kind: kind(h[9], ICMP, fragment & 0x1fff != 0, fragment & 0x2000 != 0)?,
    })
}

#[inline(always)]
fn ipv6(ctx: &TcContext, l3: usize) -> Option<Packet> {
    let h: Ipv6 = ctx.load(l3).ok()?;
    if h.head[0] >> 4 != 6 {
        return None;
    }
    let upper = walk(ctx, h.head[6], l3 + 40)?;
    Some(Packet {
        family: 6,
        l3,
        l4: upper.offset,
        source: h.source,
        destination: h.destination,
        protocol: upper.protocol,
        id: upper.id,
        kind: kind(upper.protocol, ICMPV6, upper.later, upper.more)?,
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
    let h: Ipv6 = ctx.load(l3).ok()?;
    if h.head[0] >> 4 != 6 {
        return None;
    }
    Some((h.source, h.destination, walk(ctx, h.head[6], l3 + 40)?))
}

/// Ports and, of TCP, flags and length; `None`: the header is not there in full.
#[inline(always)]
pub(super) fn ports(ctx: &TcContext, packet: &Packet) -> Option<Ports> {
    if packet.protocol == UDP {
        let h: [u16; 4] = ctx.load(packet.l4).ok()?;
        return Some(Ports { source: h[0], destination: h[1], flags: 0, header: 8 });
    }
    let h: [u16; 10] = ctx.load(packet.l4).ok()?;
    let [offset, flags] = h[6].to_ne_bytes();
    Some(Ports { source: h[0], destination: h[1], flags, header: usize::from(offset >> 4) * 4 })
}
