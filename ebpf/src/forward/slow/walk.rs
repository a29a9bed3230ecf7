//! Reading what the fast program leaves: IPv4 with options, IPv6 with extension headers, fragments.

use bascule_ebpf_common::VipKey;

use crate::packet::Packet;
use crate::parse::{IPPROTO_TCP, IPPROTO_UDP, IPV4, IPV6, Ipv4Header, Ipv6Header};
use crate::request::Work;

/// IP protocol numbers (IANA).
pub(super) const IPPROTO_ICMP: u8 = 1;
pub(super) const IPPROTO_ICMPV6: u8 = 58;
/// Extension headers, and how many are walked: more than any stack sends.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MAX_HEADERS: usize = 8;
/// Flags and offset of an IPv4 fragment (RFC 791 section 3.1); the same of IPv6 (RFC 8200 section 4.5).
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const MORE6: u16 = 1;
const OFFSET6: u16 = 0xfff8;

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Shape {
    /// TCP or UDP, all of it.
    Whole,
    /// The first fragment of TCP or UDP.
    First,
    /// A later fragment of TCP or UDP.
    Later,
    /// ICMP or ICMPv6, whole.
    Icmp,
    /// Anything else: not ours.
    Other,
}

/// Reads the IP packet at `at` into the work.
#[inline(always)]
pub(super) fn ip<P: Packet>(packet: &P, at: usize, v6: bool, work: &mut Work) -> Shape {
    work.ip.start = at as u8;
    work.ip.v6 = v6;
    work.ip.extra = 0;
    work.ip.partial = false;
    if v6 { ipv6(packet, work) } else { ipv4(packet, work) }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, work: &mut Work) -> Shape {
    let ip = &mut work.ip;
    let Some(h) = packet.read::<Ipv4Header>(ip.at()) else { return Shape::Other };
    let header = usize::from(h.version_length & 0x0f) * 4;
    if h.version_length >> 4 != 4 || header < IPV4 {
        return Shape::Other;
    }
    let fragment = u16::from_be(h.fragment);
    ip.extra = (header - IPV4) as u8;
    ip.length = u32::from(u16::from_be(h.length));
    ip.tos = h.tos;
    ip.hops = h.ttl;
    ip.protocol = h.protocol;
    ip.source = VipKey::v4(h.source.to_ne_bytes());
    ip.destination = VipKey::v4(h.destination.to_ne_bytes());
    work.fragment = u32::from(h.id);
    shape(work, IPPROTO_ICMP, fragment & OFFSET != 0, fragment & MORE != 0)
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, work: &mut Work) -> Shape {
    let ip = &mut work.ip;
    let Some(h) = packet.read::<Ipv6Header>(ip.at()) else { return Shape::Other };
    let head = u32::from_be(h.head);
    if head >> 28 != 6 {
        return Shape::Other;
    }
    ip.length = IPV6 as u32 + u32::from(u16::from_be(h.payload));
    ip.tos = (head >> 20) as u8;
    ip.hops = h.hops;
    ip.protocol = h.next;
    ip.source = h.source;
    ip.destination = h.destination;
    work.fragment = 0;
    let mut field = 0;
    // What the loop finds lies in the work, where the verifier does not follow it.
    for _ in 0..MAX_HEADERS {
        let next = work.ip.protocol;
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            break;
        }
        let Some(h) = packet.read::<[u16; 4]>(work.ip.transport()) else { return Shape::Other };
        let [following, words] = h[0].to_ne_bytes();
        let [_, left] = h[1].to_ne_bytes();
        // Somebody else is the destination then (RFC 8200 section 4.4).
        if next == ROUTING && left != 0 {
            return Shape::Other;
        }
        let bytes = if next == FRAGMENT { 8 } else { (u32::from(words) + 1) * 8 };
        let extra = u32::from(work.ip.extra) + bytes;
        if extra > 0xff {
            return Shape::Other;
        }
        work.ip.extra = extra as u8;
        work.ip.protocol = following;
        if next == FRAGMENT {
            field = u16::from_be(h[1]);
            work.fragment = u32::from(h[2]) | u32::from(h[3]) << 16;
            if field & OFFSET6 != 0 {
                break;
            }
        }
    }
    shape(work, IPPROTO_ICMPV6, field & OFFSET6 != 0, field & MORE6 != 0)
}

#[inline(always)]
fn shape(work: &mut Work, icmp: u8, later: bool, more: bool) -> Shape {
    let protocol = work.ip.protocol;
    if protocol == icmp {
        return if later || more { Shape::Other } else { Shape::Icmp };
    }
    if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP {
        return Shape::Other;
    }
    if later {
        return Shape::Later;
    }
    work.ip.partial = more;
    if more { Shape::First } else { Shape::Whole }
}
