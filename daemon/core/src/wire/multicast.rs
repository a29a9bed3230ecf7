//! IP packets to a multicast group, as whole Ethernet frames.
//!
//! The destination's hardware address follows from the group, so that a sender that builds the frame itself needs nothing of the kernel's
//! neighbour table. The table may be full: the kernel then drops what it has no entry for, and entries of groups are the first that it
//! takes away to make room (`neigh_forced_gc` of `net/core/neighbour.c`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use super::{ones_complement, pseudo_header};
use crate::types::Mac;

/// Bytes of an IPv4 header without options (RFC 791 section 3.1).
const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header (RFC 8200 section 3).
const IPV6_HEADER: usize = 40;
/// IP protocol number of UDP.
const UDP: u8 = 17;
/// Bytes of a UDP header (RFC 768).
const UDP_HEADER: usize = 8;
/// Don't Fragment. With it the identification means nothing and is 0 (RFC 6864 section 4.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// What the header says beside the addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// IP protocol number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class: DSCP in the upper six bits.
    pub class: u8,
}

/// Ports of a UDP datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}

/// The frame from `mac` that carries `payload` from `src` to the group `dst`. `None` when `dst` is no group of the family of `src`, or when
/// the packet would be longer than its length field can say.
pub fn frame(mac: Mac, src: IpAddr, dst: IpAddr, header: Header, payload: &[u8]) -> Option<Vec<u8>> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if dst.is_multicast() => v4(mac, src, dst, header, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) if dst.is_multicast() => v6(mac, src, dst, header, payload),
        _ => None,
    }
}

/// As [`frame`], with `payload` in a UDP datagram; the protocol of `header` is not looked at.
pub fn udp(mac: Mac, src: IpAddr, dst: IpAddr, header: Header, ports: Ports, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(length));
    for field in [ports.src, ports.dst, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    let sum = ones_complement(&[&pseudo_header(src, dst, UDP, datagram.len()), &datagram]);
    // A sum of 0 is sent as all ones: 0 says that there is none (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    frame(mac, src, dst, Header { protocol: UDP, ..header }, &datagram)
}

fn v4(mac: Mac, src: Ipv4Addr, dst: Ipv4Addr, header: Header, payload: &[u8]) -> Option<Vec<u8>> {
    let total = u16::try_from(IPV4_HEADER + payload.len()).ok()?;
    let [_, b, c, d] = dst.octets();
    // 01:00:5e and the lower 23 bits of the group (RFC 1112 section 6.4).
    let group = Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    let mut out = ethernet::frame(group, mac, ETHERTYPE_IPV4, usize::from(total));
    let at = out.len();
    out.extend([0x45, header.class]);
    out.extend(total.to_be_bytes());
    out.extend([0, 0]);
    out.extend(DONT_FRAGMENT.to_be_bytes());
    out.extend([header.hop_limit, header.protocol, 0, 0]);
    out.extend(src.octets());
    out.extend(dst.octets());
    let sum = ones_complement(&[&out[at..]]);
    out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    out.extend(payload);
    Some(out)
}

fn v6(mac: Mac, src: Ipv6Addr, dst: Ipv6Addr, header: Header, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?;
    let [.., a, b, c, d] = dst.octets();
    // 33:33 and the lower 32 bits of the group (RFC 2464 section 7).
    let mut out = ethernet::frame(Mac([0x33, 0x33, a, b, c, d]), mac, ETHERTYPE_IPV6, IPV6_HEADER + payload.len());
    // Version 6, traffic class, flow label 0.
    out.extend((6_u32 << 28 | u32::from(header.class) << 20).to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend([header.protocol, header.hop_limit]);
    out.extend(src.octets());
    out.extend(dst.octets());
    out.extend(payload);
    Some(out)
}

#[cfg(test)]
mod tests {
    use pnet_packet::Packet;
    use pnet_packet::ethernet::EthernetPacket;
    use pnet_packet::ipv4::{Ipv4Packet, checksum};
    use pnet_packet::ipv6::Ipv6Packet;
    use pnet_packet::udp::{self as pnet_udp, UdpPacket};

    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
    const HEADER: Header = Header { protocol: 112, hop_limit: 255, class: 0xc0 };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a constant")
    }

    #[test]
    fn ipv4() {
        let frame = frame(MAC, ip("10.9.0.1"), ip("239.129.0.18"), HEADER, b"hello").unwrap();
        let ethernet = EthernetPacket::new(&frame).unwrap();
        // 129 has the bit that the mapping leaves out.
        assert_eq!(ethernet.get_destination().octets(), [1, 0, 0x5e, 1, 0, 18]);
        assert_eq!((ethernet.get_source().octets(), ethernet.get_ethertype().0), (MAC.0, 0x0800));
        let packet = Ipv4Packet::new(ethernet.payload()).unwrap();
        assert_eq!((packet.get_version(), packet.get_header_length(), packet.get_total_length()), (4, 5, 25));
        assert_eq!((packet.get_dscp(), packet.get_ttl(), packet.get_next_level_protocol().0), (48, 255, 112));
        assert_eq!((packet.get_identification(), packet.get_flags(), packet.get_fragment_offset()), (0, 2, 0));
        assert_eq!((packet.get_source(), packet.get_destination()), ([10, 9, 0, 1].into(), [239, 129, 0, 18].into()));
        assert_eq!(packet.get_checksum(), checksum(&packet));
        assert_eq!(packet.payload(), b"hello");
    }

    #[test]
    fn ipv6() {
        let frame = frame(MAC, ip("fe80::a"), ip("ff02::1:ff00:12"), HEADER, b"hello").unwrap();
        let ethernet = EthernetPacket::new(&frame).unwrap();
        assert_eq!(ethernet.get_destination().octets(), [0x33, 0x33, 0xff, 0, 0, 0x12]);
        assert_eq!((ethernet.get_source().octets(), ethernet.get_ethertype().0), (MAC.0, 0x86dd));
        let packet = Ipv6Packet::new(ethernet.payload()).unwrap();
        assert_eq!((packet.get_version(), packet.get_traffic_class(), packet.get_flow_label()), (6, 0xc0, 0));
        assert_eq!((packet.get_payload_length(), packet.get_next_header().0, packet.get_hop_limit()), (5, 112, 255));
        assert_eq!(IpAddr::V6(packet.get_source()), ip("fe80::a"));
        assert_eq!(IpAddr::V6(packet.get_destination()), ip("ff02::1:ff00:12"));
        assert_eq!(packet.payload(), b"hello");
    }

    #[test]
    fn datagrams() {
        let ports = Ports { src: 3112, dst: 3113 };
        let frame4 = udp(MAC, ip("10.9.0.1"), ip("224.0.0.18"), HEADER, ports, b"hello").unwrap();
        let frame6 = udp(MAC, ip("fe80::a"), ip("ff02::12"), HEADER, ports, b"hello").unwrap();
        for (frame, header) in [(&frame4, IPV4_HEADER), (&frame6, IPV6_HEADER)] {
            let packet = UdpPacket::new(&frame[ethernet::HEADER_LEN + header..]).unwrap();
            assert_eq!((packet.get_source(), packet.get_destination(), packet.get_length()), (3112, 3113, 13));
            assert_eq!(packet.payload(), b"hello");
        }
        let sum =
            |frame: &[u8], header| UdpPacket::new(&frame[ethernet::HEADER_LEN + header..]).unwrap().get_checksum();
        let packet = UdpPacket::new(&frame4[ethernet::HEADER_LEN + IPV4_HEADER..]).unwrap();
        let wanted = pnet_udp::ipv4_checksum(&packet, &[10, 9, 0, 1].into(), &[224, 0, 0, 18].into());
        assert_eq!((sum(&frame4, IPV4_HEADER), frame4[ethernet::HEADER_LEN + 9]), (wanted, UDP));
        let packet = UdpPacket::new(&frame6[ethernet::HEADER_LEN + IPV6_HEADER..]).unwrap();
        let wanted = pnet_udp::ipv6_checksum(&packet, &"fe80::a".parse().unwrap(), &"ff02::12".parse().unwrap());
        assert_eq!((sum(&frame6, IPV6_HEADER), frame6[ethernet::HEADER_LEN + 6]), (wanted, UDP));
        // The two bytes that make the sum 0.
        let zero = |payload: &[u8]| udp(MAC, ip("10.9.0.1"), ip("224.0.0.18"), HEADER, ports, payload).unwrap();
        let rest = sum(&zero(&[0, 0]), IPV4_HEADER);
        assert_eq!(sum(&zero(&rest.to_be_bytes()), IPV4_HEADER), 0xffff);
    }

    #[test]
    fn nothing_but_a_group_of_the_family() {
        let frame = |src, dst, length| frame(MAC, ip(src), ip(dst), HEADER, &vec![0; length]);
        assert_eq!(frame("10.9.0.1", "10.9.0.2", 8), None);
        assert_eq!(frame("10.9.0.1", "ff02::12", 8), None);
        assert_eq!(frame("fe80::a", "fe80::b", 8), None);
        assert!(frame("10.9.0.1", "224.0.0.18", 65_515).is_some());
        assert_eq!(frame("10.9.0.1", "224.0.0.18", 65_516), None);
        assert_eq!(frame("fe80::a", "ff02::12", 65_536), None);
    }
}
