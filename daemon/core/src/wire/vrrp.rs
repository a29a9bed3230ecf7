//! VRRP version 3 adverts, RFC 9568 section 5.2.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use super::{ones_complement, pseudo_header};
use crate::types::{Centis, Family};

/// IP protocol number (RFC 9568 section 5.1.1.4).
pub const PROTOCOL: u8 = 112;
/// IPv4 group (RFC 9568 section 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// IPv6 group (RFC 9568 section 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// TTL and hop limit that every advert must have on arrival (RFC 9568 sections 5.1.1.3 and 5.1.2.3).
pub const HOP_LIMIT: u8 = 255;
/// DSCP CS6, network control (RFC 4594 section 3.2), in the upper six bits of TOS and traffic class.
pub const CLASS: u8 = 0xc0;
/// Priority with which an Active says that it stops (RFC 9568 section 5.2.4).
pub const PRIORITY_RELEASE: u8 = 0;
/// Length of the header before the addresses, in bytes.
const HEADER_LEN: usize = 8;

/// What an advert says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advert {
    /// Virtual router, 1..=255.
    pub vrid: u8,
    /// 0 = stops, 1..=99 sick, 100..=254 healthy, 255 address owner.
    pub priority: u8,
    /// Max Advertise Interval.
    pub interval: Centis,
    /// Addresses of the virtual router, in the sender's order; all of one family.
    pub addresses: Vec<IpAddr>,
}

/// Why a packet is not an advert. The variant is also the label of the metric that counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum VrrpError {
    /// Shorter than its header and its address count demand.
    #[error("advert of {got} bytes is shorter than the {need} it announces")]
    Truncated {
        /// Bytes received.
        got: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Not version 3 (RFC 9568 section 7.1).
    #[error("VRRP version {version}, not 3")]
    Version {
        /// The version nibble.
        version: u8,
    },
    /// Not an ADVERTISEMENT.
    #[error("VRRP type {kind}, not 1 (ADVERTISEMENT)")]
    Type {
        /// The type nibble.
        kind: u8,
    },
    /// VRID 0 is not a virtual router.
    #[error("VRID 0")]
    Vrid,
    /// No address, or an interval of 0.
    #[error("advert with {count} addresses and interval {interval} cs")]
    Empty {
        /// Address count field.
        count: u8,
        /// Interval field.
        interval: u16,
    },
    /// Neither reading of the checksum fits.
    #[error("checksum {got:#06x} does not fit the advert")]
    Checksum {
        /// The field as received.
        got: u16,
    },
    /// TTL or hop limit below 255: it crossed a router (RFC 9568 section 7.1).
    #[error("TTL {ttl}, not 255")]
    HopLimit {
        /// The TTL received.
        ttl: u8,
    },
}

impl Advert {
    /// Family of the virtual router; IPv4 when the list is empty.
    pub fn family(&self) -> Family {
        self.addresses.first().map_or(Family::V4, Family::of)
    }

    /// Reads the VRRP message in `payload`, which came from `src` to `dst`.
    ///
    /// RFC 9568 leaves the pseudo-header out of an IPv4 checksum; keepalived and FRR put it in, as RFC 5798 was read. Both are
    /// accepted: either proves that the message is whole.
    ///
    /// # Errors
    /// [`VrrpError`] for anything that is not a whole VRRPv3 advert.
    pub fn parse(payload: &[u8], src: IpAddr, dst: IpAddr) -> Result<Self, VrrpError> {
        let Some((header, rest)) = payload.split_at_checked(HEADER_LEN) else {
            return Err(VrrpError::Truncated { got: payload.len(), need: HEADER_LEN });
        };
        let (version, kind) = (header[0] >> 4, header[0] & 0x0f);
        if version != 3 {
            return Err(VrrpError::Version { version });
        }
        if kind != 1 {
            return Err(VrrpError::Type { kind });
        }
        let (vrid, priority, count) = (header[1], header[2], header[3]);
        if vrid == 0 {
            return Err(VrrpError::Vrid);
        }
        // The upper four bits are reserved and ignored on receipt (section 5.2.6).
        let raw_interval = u16::from_be_bytes([header[4], header[5]]) & 0x0fff;
        let Some(interval) = Centis::new(raw_interval).filter(|_| count > 0) else {
            return Err(VrrpError::Empty { count, interval: raw_interval });
        };
        let size = if src.is_ipv4() { 4 } else { 16 };
        let need = usize::from(count) * size;
        let Some(body) = rest.get(..need) else {
            return Err(VrrpError::Truncated { got: payload.len(), need: HEADER_LEN + need });
        };
        let message = &payload[..HEADER_LEN + need];
        let with_pseudo = ones_complement(&[&pseudo_header(src, dst, PROTOCOL, message.len()), message]) == 0;
        let plain = src.is_ipv4() && ones_complement(&[message]) == 0;
        if !with_pseudo && !plain {
            return Err(VrrpError::Checksum { got: u16::from_be_bytes([header[6], header[7]]) });
        }
        let addresses = body.chunks_exact(size).filter_map(address).collect();
        Ok(Self { vrid, priority, interval, addresses })
    }

    /// The message as sent from `src` to `dst`, its checksum over the pseudo-header too (what keepalived and FRR send and want).
    pub fn encode(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
        let count = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        let mut out = Vec::with_capacity(HEADER_LEN + self.addresses.len() * 16);
        out.extend([0x31, self.vrid, self.priority, count]);
        out.extend(self.interval.get().to_be_bytes());
        out.extend([0, 0]);
        for addr in self.addresses.iter().take(usize::from(count)) {
            match addr {
                IpAddr::V4(a) => out.extend(a.octets()),
                IpAddr::V6(a) => out.extend(a.octets()),
            }
        }
        let sum = ones_complement(&[&pseudo_header(src, dst, PROTOCOL, out.len()), &out]);
        out[6..8].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

fn address(chunk: &[u8]) -> Option<IpAddr> {
    match chunk.len() {
        4 => <[u8; 4]>::try_from(chunk).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(chunk).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn advert(addresses: Vec<IpAddr>) -> Advert {
        Advert { vrid: 51, priority: 200, interval: Centis::new(10).expect("in range"), addresses }
    }

    fn v4() -> (IpAddr, IpAddr, Advert) {
        let src = IpAddr::from([10, 9, 0, 1]);
        (src, IpAddr::V4(GROUP_V4), advert(vec![IpAddr::from([10, 9, 0, 100]), IpAddr::from([10, 9, 0, 101])]))
    }

    #[test]
    fn layout_is_that_of_section_5_2() {
        let (src, dst, advert) = v4();
        let bytes = advert.encode(src, dst);
        assert_eq!(&bytes[..6], &[0x31, 51, 200, 2, 0, 10]);
        assert_eq!(&bytes[8..], &[10, 9, 0, 100, 10, 9, 0, 101]);
    }

    #[test]
    fn both_ipv4_checksums_are_accepted_and_no_third() {
        let (src, dst, advert) = v4();
        let mut bytes = advert.encode(src, dst);
        assert_eq!(Advert::parse(&bytes, src, dst), Ok(advert.clone()));
        bytes[6..8].fill(0);
        let plain = ones_complement(&[&bytes]);
        bytes[6..8].copy_from_slice(&plain.to_be_bytes());
        assert_eq!(Advert::parse(&bytes, src, dst), Ok(advert));
        bytes[6] ^= 1;
        assert!(matches!(Advert::parse(&bytes, src, dst), Err(VrrpError::Checksum { .. })));
    }

    #[test]
    fn ipv6_needs_the_pseudo_header() {
        let src: IpAddr = "fe80::1".parse().expect("address");
        let dst = IpAddr::V6(GROUP_V6);
        let advert = advert(vec!["fe80::100".parse().expect("address"), "2001:db8::100".parse().expect("address")]);
        let mut bytes = advert.encode(src, dst);
        assert_eq!(Advert::parse(&bytes, src, dst), Ok(advert));
        bytes[6..8].fill(0);
        let plain = ones_complement(&[&bytes]);
        bytes[6..8].copy_from_slice(&plain.to_be_bytes());
        assert!(matches!(Advert::parse(&bytes, src, dst), Err(VrrpError::Checksum { .. })));
    }

    #[test]
    fn receive_checks_of_section_7_1() {
        let (src, dst, advert) = v4();
        let good = advert.encode(src, dst);
        let broken = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Advert::parse(&bytes, src, dst)
        };
        assert_eq!(broken(0, 0x21), Err(VrrpError::Version { version: 2 }));
        assert_eq!(broken(0, 0x32), Err(VrrpError::Type { kind: 2 }));
        assert_eq!(broken(1, 0), Err(VrrpError::Vrid));
        assert_eq!(broken(3, 0), Err(VrrpError::Empty { count: 0, interval: 10 }));
        assert_eq!(broken(3, 3), Err(VrrpError::Truncated { got: 16, need: 20 }));
        assert_eq!(broken(5, 0), Err(VrrpError::Empty { count: 2, interval: 0 }));
        assert_eq!(Advert::parse(&good[..7], src, dst), Err(VrrpError::Truncated { got: 7, need: 8 }));
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            let src: IpAddr = if v6 { "fe80::1".parse().expect("address") } else { [10, 0, 0, 1].into() };
            let dst: IpAddr = if v6 { IpAddr::V6(GROUP_V6) } else { IpAddr::V4(GROUP_V4) };
            let _ = Advert::parse(&bytes, src, dst);
        }

        #[test]
        fn what_is_sent_is_read_back(vrid in 1u8.., priority: u8, cs in 1u16..4096, tails in proptest::collection::vec(any::<u32>(), 1..20)) {
            let advert = Advert {
                vrid,
                priority,
                interval: Centis::new(cs).expect("in range"),
                addresses: tails.into_iter().map(|t| IpAddr::from(t.to_be_bytes())).collect(),
            };
            let src = IpAddr::from([10, 0, 0, 1]);
            let dst = IpAddr::V4(GROUP_V4);
            prop_assert_eq!(Advert::parse(&advert.encode(src, dst), src, dst), Ok(advert));
        }
    }
}
