//! Prefixes as they are written in UPDATE (RFC 4271 section 4.3; RFC 4760 section 5): a length in bits, then as few octets as hold them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::bytes::Reader;
use super::family::Family;

/// A list of prefixes cannot be read: a length above the address's bits, or fewer octets than it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a whole field of IPv4 prefixes. Bits past the length are ignored (RFC 4271 section 4.3).
///
/// # Errors
/// [`Malformed`]; nothing of the field can be trusted then.
pub fn decode_v4(field: &[u8]) -> Result<Vec<Ipv4Net>, Malformed> {
    decode(field, 32, |octets: [u8; 4], len| Ipv4Net::new(Ipv4Addr::from(octets), len).ok().map(|net| net.trunc()))
}

/// Reads a whole field of IPv6 prefixes.
///
/// # Errors
/// As [`decode_v4`].
pub fn decode_v6(field: &[u8]) -> Result<Vec<Ipv6Net>, Malformed> {
    decode(field, 128, |octets: [u8; 16], len| Ipv6Net::new(Ipv6Addr::from(octets), len).ok().map(|net| net.trunc()))
}

/// Reads a whole field of prefixes of `family`.
///
/// # Errors
/// As [`decode_v4`].
pub fn decode_any(family: Family, field: &[u8]) -> Result<Vec<IpNet>, Malformed> {
    match family {
        Family::Ipv4 => Ok(decode_v4(field)?.into_iter().map(IpNet::V4).collect()),
        Family::Ipv6 => Ok(decode_v6(field)?.into_iter().map(IpNet::V6).collect()),
    }
}

fn decode<const N: usize, T>(
    field: &[u8],
    bits: u8,
    build: impl Fn([u8; N], u8) -> Option<T>,
) -> Result<Vec<T>, Malformed> {
    let mut reader = Reader::new(field);
    let mut all = Vec::new();
    while let Some(len) = reader.u8() {
        if len > bits {
            return Err(Malformed);
        }
        let short = reader.take(usize::from(len.div_ceil(8))).ok_or(Malformed)?;
        let mut octets = [0; N];
        octets[..short.len()].copy_from_slice(short);
        all.push(build(octets, len).ok_or(Malformed)?);
    }
    Ok(all)
}

/// Octets of one prefix.
pub fn encoded_len(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len().div_ceil(8))
}

/// Appends one prefix, bits past its length cleared.
pub fn encode(prefix: &IpNet, out: &mut Vec<u8>) {
    out.push(prefix.prefix_len());
    let octets = encoded_len(prefix) - 1;
    match prefix {
        IpNet::V4(net) => out.extend_from_slice(&net.network().octets()[..octets]),
        IpNet::V6(net) => out.extend_from_slice(&net.network().octets()[..octets]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(prefix: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&prefix.parse().unwrap(), &mut out);
        out
    }

    #[test]
    fn a_prefix_has_as_few_octets_as_hold_it() {
        for (prefix, expected) in [
            ("0.0.0.0/0", &[0][..]),
            ("10.0.0.0/7", &[7, 10]),
            ("10.1.2.3/16", &[16, 10, 1]),
            ("10.1.2.255/25", &[25, 10, 1, 2, 128]),
            ("10.1.2.3/32", &[32, 10, 1, 2, 3]),
            ("::/0", &[0]),
            ("2001:db8::/32", &[32, 0x20, 1, 0x0d, 0xb8]),
            ("2001:db8::1/128", &[128, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ] {
            assert_eq!(bytes(prefix), expected, "{prefix}");
            assert_eq!(encoded_len(&prefix.parse().unwrap()), expected.len());
        }
    }

    #[test]
    fn bits_past_the_length_are_ignored_when_read() {
        assert_eq!(decode_v4(&[9, 10, 0xff]), Ok(vec!["10.128.0.0/9".parse().unwrap()]));
        assert_eq!(decode_v6(&[1, 0xff]), Ok(vec!["8000::/1".parse().unwrap()]));
    }

    #[test]
    fn what_cannot_be_a_prefix_is_malformed() {
        for field in [&[33, 1, 2, 3, 4, 5][..], &[32, 10, 0, 0], &[8], &[0, 0, 24, 1, 2], &[255]] {
            assert_eq!(decode_v4(field), Err(Malformed), "{field:?}");
        }
        for field in [&[129][..], &[64, 0, 0, 0, 0, 0, 0, 0], &[0, 8]] {
            assert_eq!(decode_v6(field), Err(Malformed), "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            v4 in prop::collection::vec((any::<[u8; 4]>(), 0..=32_u8), 0..20),
            v6 in prop::collection::vec((any::<[u8; 16]>(), 0..=128_u8), 0..20),
        ) {
            let v4: Vec<IpNet> = v4.into_iter().map(|(a, l)| IpNet::new(a.into(), l).unwrap().trunc()).collect();
            let v6: Vec<IpNet> = v6.into_iter().map(|(a, l)| IpNet::new(a.into(), l).unwrap().trunc()).collect();
            for (family, prefixes) in [(Family::Ipv4, v4), (Family::Ipv6, v6)] {
                let mut field = Vec::new();
                prefixes.iter().for_each(|prefix| encode(prefix, &mut field));
                prop_assert_eq!(field.len(), prefixes.iter().map(encoded_len).sum::<usize>());
                prop_assert_eq!(decode_any(family, &field), Ok(prefixes));
            }
        }
    }
}
