//! Neighbor Solicitation and Neighbor Advertisement (RFC 4861 sections 4.3 and 4.4), as whole Ethernet frames.

use core::net::{IpAddr, Ipv6Addr};

use super::ethernet::{self, ETHERTYPE_IPV6};
use super::{ones_complement, pseudo_header};
use crate::types::Mac;

/// ICMPv6 next header.
const ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Source and target link-layer address options (RFC 4861 section 4.6.1).
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Every ND message carries 255, so that none can come through a router (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const IPV6_LEN: usize = 40;
/// Flags of an advertisement, first byte: router, solicited, override.
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;

/// All-nodes group, ff02::1.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A neighbour discovery message that concerns ownership of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ndp {
    /// Somebody asks who has `target`.
    Solicitation {
        /// The asker; unspecified for duplicate address detection (RFC 4862 section 5.4.2).
        source: Ipv6Addr,
        /// The address asked for.
        target: Ipv6Addr,
        /// Source MAC of the frame.
        mac: Mac,
    },
    /// Somebody says that it has `target`.
    Advertisement {
        /// Sender of the packet.
        source: Ipv6Addr,
        /// The address claimed.
        target: Ipv6Addr,
        /// Target link-layer address option, else the source MAC of the frame.
        mac: Mac,
        /// An answer to a solicitation.
        solicited: bool,
    },
}

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let o = addr.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    Mac([0x33, 0x33, o[12], o[13], o[14], o[15]])
}

impl Ndp {
    /// Reads an Ethernet frame; `None` for anything but a valid NS or NA (RFC 4861 sections 7.1.1 and 7.1.2).
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (_, src_mac, ethertype, packet) = ethernet::parse(frame)?;
        if ethertype != ETHERTYPE_IPV6 {
            return None;
        }
        let (header, payload) = packet.split_at_checked(IPV6_LEN)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let message = payload.get(..len)?;
        if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != HOP_LIMIT || message.len() < 24 || message[1] != 0
        {
            return None;
        }
        let source = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
        let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?);
        let pseudo = pseudo_header(IpAddr::V6(source), IpAddr::V6(destination), ICMPV6, message.len());
        if ones_complement(&[&pseudo, message]) != 0 {
            return None;
        }
        let target = Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..24]).ok()?);
        if target.is_multicast() {
            return None;
        }
        let target_mac = target_option(&message[24..])?;
        match message[0] {
            NEIGHBOR_SOLICITATION => Some(Self::Solicitation { source, target, mac: src_mac }),
            NEIGHBOR_ADVERTISEMENT => Some(Self::Advertisement {
                source,
                target,
                mac: target_mac.unwrap_or(src_mac),
                solicited: message[4] & FLAG_SOLICITED != 0,
            }),
            _ => None,
        }
    }
}

/// The target link-layer address option, if there is one; the outer `None` when an option has no length or is cut short, for which
/// RFC 4861 sections 7.1.1 and 7.1.2 have the whole message discarded.
fn target_option(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut found = None;
    while let Some(&kind) = options.first() {
        let len = usize::from(*options.get(1)?) * 8;
        let (option, rest) = options.split_at_checked(len).filter(|_| len > 0)?;
        if kind == OPTION_TARGET && len == 8 && found.is_none() {
            found = option[2..8].try_into().ok().map(Mac);
        }
        options = rest;
    }
    Some(found)
}

/// Unsolicited advertisement to all nodes with the override flag (RFC 4861 section 7.2.6): the gratuitous ARP of IPv6.
pub fn unsolicited_advertisement(mac: Mac, addr: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    message.extend(addr.octets());
    message.extend([OPTION_TARGET, 1]);
    message.extend(mac.0);
    build(mac, addr, ALL_NODES, message)
}

/// Duplicate address detection probe (RFC 4862 section 5.4.2): from the unspecified address, without options.
pub fn probe(mac: Mac, addr: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(addr.octets());
    build(mac, Ipv6Addr::UNSPECIFIED, solicited_node(addr), message)
}

/// A solicitation for `target` from `source`, as a client would ask.
pub fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([OPTION_SOURCE, 1]);
    message.extend(mac.0);
    build(mac, source, solicited_node(target), message)
}

fn build(mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let pseudo = pseudo_header(IpAddr::V6(source), IpAddr::V6(destination), ICMPV6, message.len());
    let sum = ones_complement(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet::frame(multicast_mac(destination), mac, ETHERTYPE_IPV6, IPV6_LEN + message.len());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn vip() -> Ipv6Addr {
        "2001:db8::100".parse().expect("address")
    }

    #[test]
    fn unsolicited_advertisement_overrides_and_names_the_mac() {
        let frame = unsolicited_advertisement(MAC, vip());
        assert_eq!(&frame[..6], &[0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame[54 + 4], FLAG_OVERRIDE);
        let expected = Ndp::Advertisement { source: vip(), target: vip(), mac: MAC, solicited: false };
        assert_eq!(Ndp::parse(&frame), Some(expected));
    }

    #[test]
    fn probe_goes_to_the_solicited_node_group() {
        let frame = probe(MAC, vip());
        assert_eq!(&frame[..6], &[0x33, 0x33, 0xff, 0, 1, 0]);
        let expected = Ndp::Solicitation { source: Ipv6Addr::UNSPECIFIED, target: vip(), mac: MAC };
        assert_eq!(Ndp::parse(&frame), Some(expected));
    }

    #[test]
    fn a_routed_or_damaged_message_is_refused() {
        let good = unsolicited_advertisement(MAC, vip());
        for (at, value) in [(14 + 7, 254), (54 + 2, 0), (54 + 1, 1), (14, 0x40), (14 + 6, 17)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Ndp::parse(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn an_option_without_length_or_cut_short_discards_the_message() {
        let with = |units: u8| {
            let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
            message.extend(vip().octets());
            message.extend([OPTION_TARGET, units, 2, 0, 0, 0, 0, 9]);
            Ndp::parse(&build(MAC, vip(), ALL_NODES, message))
        };
        assert!(matches!(with(1), Some(Ndp::Advertisement { mac: Mac([2, 0, 0, 0, 0, 9]), .. })));
        assert_eq!((with(0), with(2)), (None, None));
    }

    proptest! {
        #[test]
        fn parse_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            if bytes.len() > 13 {
                bytes[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
            }
            let _ = Ndp::parse(&bytes);
        }

        #[test]
        fn damaged_frames_never_panic(at in 0usize..86, value: u8, cut in 0usize..86) {
            let mut frame = unsolicited_advertisement(MAC, vip());
            frame[at] = value;
            let _ = Ndp::parse(&frame);
            let _ = Ndp::parse(&frame[..cut]);
        }
    }
}
