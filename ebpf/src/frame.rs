//! Reading a frame: link header with tags, ARP, IPv4, IPv6 with its extension headers, VRRP, NDP.
//!
//! Nothing here judges. A header that is not there in full is `None`, and what follows from that is the caller's.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::{ForwardedKey, VipKey};

/// EtherTypes (IEEE 802 numbers).
const ETH_IPV4: u16 = 0x0800;
const ETH_ARP: u16 = 0x0806;
const ETH_VLAN: u16 = 0x8100;
const ETH_IPV6: u16 = 0x86dd;
const ETH_QINQ: u16 = 0x88a8;
/// VLAN identifier in the tag control information.
const VID_MASK: u32 = 0x0fff;
/// Priority tags (VLAN 0) read over. Linux strips them one by one; nobody sends more than one.
const MAX_PRIORITY_TAGS: usize = 2;

/// IP protocol numbers (IANA).
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_SCTP: u8 = 132;
pub(crate) const IPPROTO_ICMPV6: u8 = 58;
pub(crate) const IPPROTO_VRRP: u8 = 112;
/// Given when the upper protocol is not in this frame (a later fragment) or lies too deep. 255 is reserved by IANA.
const IPPROTO_NONE: u8 = 255;

/// Extension headers (IANA protocol numbers) and how many are walked: more than any stack sends.
const EXT_HOP_BY_HOP: u8 = 0;
const EXT_ROUTING: u8 = 43;
const EXT_FRAGMENT: u8 = 44;
const EXT_AUTH: u8 = 51;
const EXT_DESTINATION: u8 = 60;
const MAX_EXT_HEADERS: usize = 8;

/// Neighbour discovery message types (RFC 4861): 133 router solicitation to 137 redirect.
pub(crate) const NDP_FIRST: u8 = 133;
pub(crate) const NDP_SOLICIT: u8 = 135;
pub(crate) const NDP_ADVERT: u8 = 136;
pub(crate) const NDP_LAST: u8 = 137;

/// Control bits of a TCP header (RFC 9293 section 3.1).
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// ARP operation "request" (RFC 826).
pub(crate) const ARP_REQUEST: u16 = 1;

/// The protocols the fence looks into.
pub(crate) enum Network {
    Arp(Arp),
    Ip(Ip),
}

/// One frame, as far as the fence cares.
pub(crate) struct Frame {
    pub(crate) source_mac: [u8; 6],
    pub(crate) network: Network,
}

/// An ARP packet for Ethernet and IPv4.
pub(crate) struct Arp {
    pub(crate) operation: u16,
    pub(crate) sender: VipKey,
    pub(crate) target: VipKey,
}

/// An IP packet of either version.
pub(crate) struct Ip {
    /// 4 or 6.
    pub(crate) family: u8,
    pub(crate) source: VipKey,
    pub(crate) destination: VipKey,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// Upper protocol.
    pub(crate) protocol: u8,
    /// The same, named also where its header is not in this frame (a later fragment).
    pub(crate) carried: u8,
    /// Offset of the upper protocol in the frame.
    pub(crate) offset: usize,
}

/// The fields of a VRRPv3 advertisement (RFC 9568 section 5.2) that the fence reads.
pub(crate) struct Advert {
    pub(crate) vrid: u8,
    pub(crate) priority: u8,
    pub(crate) interval_ns: u64,
}

/// Reads a frame; `None`: not ARP or IP of this link, or too short to be.
#[inline(always)]
pub(crate) fn parse(ctx: &TcContext) -> Option<Frame> {
    // A tag the device has taken off: another VLAN is another link with a fence of its own; VLAN 0 is this link.
    // SAFETY: `skb` is the program's context; both fields are readable in a classifier.
    let (present, tci) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
    if present != 0 && tci & VID_MASK != 0 {
        return None;
    }
    let ethernet: [u8; 14] = ctx.load(0).ok()?;
    let source_mac = [ethernet[6], ethernet[7], ethernet[8], ethernet[9], ethernet[10], ethernet[11]];
    // From the frame and not from skb->protocol: a packet socket may give any protocol to what it sends.
    let mut ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    let mut offset = 14;
    for _ in 0..MAX_PRIORITY_TAGS {
        if ethertype != ETH_VLAN && ethertype != ETH_QINQ {
            break;
        }
        let tag: [u8; 4] = ctx.load(offset).ok()?;
        if u32::from(u16::from_be_bytes([tag[0], tag[1]])) & VID_MASK != 0 {
            return None;
        }
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        offset += 4;
    }
    let network = match ethertype {
        ETH_ARP => Network::Arp(arp(ctx, offset)?),
        ETH_IPV4 => Network::Ip(ipv4(ctx, offset)?),
        ETH_IPV6 => Network::Ip(ipv6(ctx, offset)?),
        _ => return None,
    };
    Some(Frame { source_mac, network })
}

#[inline(always)]
fn arp(ctx: &TcContext, offset: usize) -> Option<Arp> {
    let p: [u8; 28] = ctx.load(offset).ok()?;
    // Hardware type 1, protocol 0x0800, lengths 6 and 4 (RFC 826).
    if p[0] != 0 || p[1] != 1 || p[2] != 8 || p[3] != 0 || p[4] != 6 || p[5] != 4 {
        return None;
    }
    Some(Arp {
        operation: u16::from_be_bytes([p[6], p[7]]),
        sender: VipKey::v4([p[14], p[15], p[16], p[17]]),
        target: VipKey::v4([p[24], p[25], p[26], p[27]]),
    })
}

#[inline(always)]
fn ipv4(ctx: &TcContext, offset: usize) -> Option<Ip> {
    let h: [u8; 20] = ctx.load(offset).ok()?;
    if h[0] >> 4 != 4 {
        return None;
    }
    let later_fragment = u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0;
    Some(Ip {
        family: 4,
        source: VipKey::v4([h[12], h[13], h[14], h[15]]),
        destination: VipKey::v4([h[16], h[17], h[18], h[19]]),
        hops: h[8],
        protocol: if later_fragment { IPPROTO_NONE } else { h[9] },
        carried: h[9],
        offset: offset + usize::from(h[0] & 0x0f) * 4,
    })
}

/// The IPv6 header (RFC 8200 section 3); the addresses lie where keys can lie.
#[repr(C)]
struct Ipv6Header {
    /// Version, traffic class, flow label, payload length, next header (6), hop limit.
    head: [u8; 8],
    source: VipKey,
    destination: VipKey,
}

const _: () = assert!(size_of::<Ipv6Header>() == 40);

#[inline(always)]
fn ipv6(ctx: &TcContext, offset: usize) -> Option<Ip> {
    let h: Ipv6Header = ctx.load(offset).ok()?;
    if h.head[0] >> 4 != 6 {
        return None;
    }
    let (protocol, carried, offset) = upper_protocol(ctx, h.head[6], offset + 40);
    let (protocol, carried, offset) = (forget(protocol), forget(carried), usize::from(forget(offset as u16)));
    Some(Ip { family: 6, source: h.source, destination: h.destination, hops: h.head[7], protocol, carried, offset })
}

/// Makes the verifier forget what it knows of a number (it does not track bytes and half-words on the stack): what
/// follows the walk is then verified once, not once for every depth and offset the walk can end with.
#[inline(always)]
fn forget<T: Copy>(value: T) -> T {
    let mut cell = value;
    // SAFETY: a local variable, written and read through one pointer to it.
    unsafe {
        (&raw mut cell).write_volatile(value);
        (&raw const cell).read_volatile()
    }
}

/// Walks the extension headers (RFC 8200 section 4) to the upper protocol: the one whose header is there, the one that is carried.
#[inline(always)]
fn upper_protocol(ctx: &TcContext, first: u8, start: usize) -> (u8, u8, usize) {
    let mut next = first;
    let mut offset = start;
    for _ in 0..MAX_EXT_HEADERS {
        if !matches!(next, EXT_HOP_BY_HOP | EXT_ROUTING | EXT_FRAGMENT | EXT_AUTH | EXT_DESTINATION) {
            return (next, next, offset);
        }
        let Ok(h) = ctx.load::<[u8; 4]>(offset) else { return (IPPROTO_NONE, IPPROTO_NONE, offset) };
        offset += match next {
            EXT_FRAGMENT => {
                if u16::from_be_bytes([h[2], h[3]]) & 0xfff8 != 0 {
                    return (IPPROTO_NONE, h[0], offset);
                }
                8
            }
            // Counted in words of four bytes, less two (RFC 4302).
            EXT_AUTH => (usize::from(h[1]) + 2) * 4,
            _ => (usize::from(h[1]) + 1) * 8,
        };
        next = h[0];
    }
    (IPPROTO_NONE, IPPROTO_NONE, offset)
}

/// The VIP's side of a frame.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// What the forwarding plane would call this frame of the VIP on `side`; `None`: it is neighbour discovery, or its ports are
/// cut off.
#[inline(always)]
pub(crate) fn forwarded_key(ctx: &TcContext, ip: &Ip, side: Side) -> Option<ForwardedKey> {
    let (vip, at) = match side {
        Side::Source => (ip.source, 0),
        Side::Destination => (ip.destination, 2),
    };
    // Neighbour discovery is between hosts, whatever address it is sent to.
    if ndp_type(ctx, ip).is_some() {
        return None;
    }
    // Both ports begin every header that has ports (RFC 9293, RFC 768, RFC 9260).
    let port = match ip.protocol {
        IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP => u16::from_ne_bytes(ctx.load(ip.offset + at).ok()?),
        _ => 0,
    };
    Some(ForwardedKey::new(vip, port, ip.carried))
}

/// Reads an advertisement of VRRP version 3, type 1; `None` for anything else.
#[inline(always)]
pub(crate) fn advert(ctx: &TcContext, ip: &Ip) -> Option<Advert> {
    if ip.protocol != IPPROTO_VRRP {
        return None;
    }
    let h: [u8; 6] = ctx.load(ip.offset).ok()?;
    if h[0] != 0x31 {
        return None;
    }
    // Twelve bits of centiseconds (RFC 9568 section 5.2.7); the upper four are reserved.
    let centiseconds = u16::from_be_bytes([h[4] & 0x0f, h[5]]);
    Some(Advert { vrid: h[1], priority: h[2], interval_ns: u64::from(centiseconds) * 10_000_000 })
}

/// The first address that an advert lists (RFC 9568 section 5.2.9): it tells our virtual router from another with our number.
#[inline(always)]
pub(crate) fn advert_address(ctx: &TcContext, ip: &Ip) -> Option<VipKey> {
    if ip.family == 6 {
        return ctx.load(ip.offset + 8).ok();
    }
    let first: [u8; 4] = ctx.load(ip.offset + 8).ok()?;
    Some(VipKey::v4(first))
}

/// Type of a neighbour discovery message, 133 to 137; `None` for anything else.
#[inline(always)]
pub(crate) fn ndp_type(ctx: &TcContext, ip: &Ip) -> Option<u8> {
    if ip.family != 6 || ip.protocol != IPPROTO_ICMPV6 {
        return None;
    }
    let kind: [u8; 1] = ctx.load(ip.offset).ok()?;
    if kind[0] < NDP_FIRST || kind[0] > NDP_LAST { None } else { Some(kind[0]) }
}

/// A segment of the TCP handshake (RFC 9293 section 3.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Syn,
    SynAck,
}

/// What part of a handshake the packet is; `None` for anything else.
#[inline(always)]
pub(crate) fn handshake(ctx: &TcContext, ip: &Ip) -> Option<Handshake> {
    if ip.protocol != IPPROTO_TCP {
        return None;
    }
    let flags: [u8; 1] = ctx.load(ip.offset + 13).ok()?;
    match flags[0] & (TCP_SYN | TCP_ACK) {
        TCP_SYN => Some(Handshake::Syn),
        both if both == TCP_SYN | TCP_ACK => Some(Handshake::SynAck),
        _ => None,
    }
}

/// Target address of a neighbour solicitation or advertisement (RFC 4861 sections 4.3 and 4.4).
#[inline(always)]
pub(crate) fn ndp_target(ctx: &TcContext, ip: &Ip) -> Option<VipKey> {
    ctx.load(ip.offset + 8).ok()
}
