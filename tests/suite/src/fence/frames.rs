//! Frames, byte by byte: a second reading of the formats beside the programs' own.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub type Mac = [u8; 6];

/// MAC of a client.
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
/// MAC of another node.
pub const RIVAL_MAC: Mac = [2, 0, 0, 0, 0, 0xb2];
/// The broadcast MAC.
pub const BROADCAST: Mac = [0xff; 6];

/// Ethernet header and payload.
#[must_use]
pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The same frame with a tag between source and EtherType (IEEE 802.1Q).
#[must_use]
pub fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend(tpid.to_be_bytes());
    out.extend(tci.to_be_bytes());
    out.extend(&frame[12..]);
    out
}

/// ARP for Ethernet and IPv4.
#[must_use]
pub fn arp(source: Mac, operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4];
    p.extend(operation.to_be_bytes());
    p.extend(source);
    p.extend(sender.octets());
    p.extend([0; 6]);
    p.extend(target.octets());
    ethernet(BROADCAST, source, 0x0806, &p)
}

/// IPv4 with `fragment` (flags and offset as on the wire).
#[must_use]
pub fn ipv4_fragment(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a test frame is short");
    let mut p = vec![0x45, 0];
    p.extend(length.to_be_bytes());
    p.extend([0x12, 0x34]);
    p.extend(fragment.to_be_bytes());
    p.extend([255, protocol, 0, 0]);
    p.extend(source.octets());
    p.extend(destination.octets());
    p.extend(payload);
    ethernet([2, 0, 0, 0, 0, 1], CLIENT_MAC, 0x0800, &p)
}

/// IPv4, whole.
#[must_use]
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_fragment(source, destination, protocol, 0, payload)
}

/// IPv4 with `words` words of options.
#[must_use]
pub fn ipv4_options(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, words: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ipv4(source, destination, protocol, &[vec![1; usize::from(words) * 4], payload.to_vec()].concat());
    frame[14] = 0x45 + words;
    frame
}

/// IPv6.
#[must_use]
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_from(CLIENT_MAC, source, destination, next, payload)
}

/// IPv6 from a chosen MAC.
#[must_use]
pub fn ipv6_from(mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend(u16::try_from(payload.len()).expect("a test frame is short").to_be_bytes());
    p.extend([next, 255]);
    p.extend(source.octets());
    p.extend(destination.octets());
    p.extend(payload);
    ethernet([2, 0, 0, 0, 0, 1], mac, 0x86dd, &p)
}

/// An IPv6 extension header of `words` words of eight bytes (hop-by-hop, destination options) before `rest`.
#[must_use]
pub fn extension(next: u8, words: u8, rest: &[u8]) -> Vec<u8> {
    let mut p = vec![next, words - 1];
    p.resize(usize::from(words) * 8, 0);
    p.extend(rest);
    p
}

/// An IPv6 fragment header: `offset` in bytes (a multiple of eight).
#[must_use]
pub fn fragment(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let mut p = vec![next, 0];
    p.extend((offset | u16::from(more)).to_be_bytes());
    p.extend([0, 0, 0, 9]);
    p.extend(rest);
    p
}

/// An authentication header (RFC 4302) of 24 bytes before `rest`.
#[must_use]
pub fn auth(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut p = vec![next, 4];
    p.resize(24, 0);
    p.extend(rest);
    p
}

/// ICMPv6 neighbour discovery: type, and the target for 135 and 136.
#[must_use]
pub fn ndp(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut p = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    if kind >= 135 {
        p.extend(target.octets());
    }
    p
}

/// A VRRPv3 advertisement: router, priority, interval in centiseconds.
#[must_use]
pub fn advert(vrid: u8, priority: u8, centiseconds: u16) -> Vec<u8> {
    let mut p = vec![0x31, vrid, priority, 1];
    p.extend(centiseconds.to_be_bytes());
    p.extend([0, 0]);
    p.extend([10, 9, 0, 100]);
    p
}

/// The frame as another host sends it, with a TTL or hop limit of its choice.
#[must_use]
pub fn sent_by(mac: Mac, hops: u8, mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    let at = if frame[14] >> 4 == 4 { 22 } else { 21 };
    frame[at] = hops;
    frame
}

/// Cuts a frame.
#[must_use]
pub fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

/// A neighbour solicitation as a kernel accepts it: to the solicited-node group, with checksum and source option.
#[must_use]
pub fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let t = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(t[13]), u16::from_be_bytes([t[14], t[15]]));
    let mut p = ndp(135, target);
    // Source link-layer address, one word of eight bytes (RFC 4861 section 4.6.1).
    p.extend([1, 1]);
    p.extend(mac);
    let sum = icmpv6_checksum(source, group, &p);
    p[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ipv6_from(mac, source, group, 58, &p);
    frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, t[13], t[14], t[15]]);
    frame
}

/// RFC 4443 section 2.3: one's complement over pseudo-header and message.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("a test frame is short");
    let pseudo = [&source.octets()[..], &destination.octets(), &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum: u32 = [&pseudo[..], message]
        .concat()
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).expect("folded twice")
}
