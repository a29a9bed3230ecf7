//! Communities from text.

use std::net::Ipv4Addr;

use super::super::error::shown;
use super::super::values::{Wrong, wrong};

/// Well-known communities (IANA registry "BGP Well-known Communities").
const WELL_KNOWN: [(&str, u32); 6] = [
    ("graceful-shutdown", 0xffff_0000),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04),
];

/// Types of extended communities: two-octet AS, IPv4 address, four-octet AS (RFC 4360 section 3, RFC 5668 section 2).
const TWO_OCTET_AS: u8 = 0x00;
const IPV4: u8 = 0x01;
const FOUR_OCTET_AS: u8 = 0x02;
/// Sub-types of all three: route target and route origin (RFC 4360 sections 4 and 5).
const SUBTYPES: [(&str, u8); 2] = [("rt", 0x02), ("soo", 0x03)];

/// COMMUNITIES (RFC 1997): the AS in the high 16 bits.
pub(super) fn standard(text: &str) -> Result<u32, Wrong> {
    if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let parts: Option<Vec<u16>> = text.split(':').map(number).collect();
    match parts.as_deref() {
        Some([high, low]) => Ok(u32::from(*high) << 16 | u32::from(*low)),
        _ => wrong(format!("{} is not a community", shown(text))),
    }
}

/// LARGE_COMMUNITY (RFC 8092).
pub(super) fn large(text: &str) -> Result<[u32; 3], Wrong> {
    let parts: Option<Vec<u32>> = text.split(':').map(number).collect();
    match parts.as_deref() {
        Some([global, one, two]) => Ok([*global, *one, *two]),
        _ => wrong(format!("{} is not a large community", shown(text))),
    }
}

/// EXTENDED COMMUNITIES (RFC 4360), in wire order.
pub(super) fn extended(text: &str) -> Result<[u8; 8], Wrong> {
    let bad = || Wrong::from(format!("{} is not an extended community", shown(text)));
    let mut parts = text.split(':');
    let (Some(kind), Some(administrator), Some(value), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let (_, subtype) = SUBTYPES.iter().find(|(name, _)| *name == kind).ok_or_else(bad)?;
    let (kind, head, tail) = if let Ok(address) = administrator.parse::<Ipv4Addr>() {
        (IPV4, address.octets().to_vec(), number::<u16>(value).ok_or_else(bad)?.to_be_bytes().to_vec())
    } else if let Some(short) = number::<u16>(administrator) {
        (TWO_OCTET_AS, short.to_be_bytes().to_vec(), number::<u32>(value).ok_or_else(bad)?.to_be_bytes().to_vec())
    } else {
        let long = number::<u32>(administrator).ok_or_else(bad)?;
        (FOUR_OCTET_AS, long.to_be_bytes().to_vec(), number::<u16>(value).ok_or_else(bad)?.to_be_bytes().to_vec())
    };
    [&[kind, *subtype][..], &head, &tail].concat().try_into().map_err(|_| bad())
}

/// Digits only: `parse` alone also takes a sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_the_bytes_of_their_rfcs() {
        assert_eq!(standard("65001:100").expect("a community"), 0xfde9_0064);
        assert_eq!(standard("no-export").expect("well-known"), 0xffff_ff01);
        assert_eq!(standard("graceful-shutdown").expect("well-known"), 0xffff_0000);
        assert_eq!(large("65001:1:4294967295").expect("large"), [65001, 1, u32::MAX]);
        assert_eq!(extended("rt:65001:100").expect("two octets"), [0, 2, 0xfd, 0xe9, 0, 0, 0, 100]);
        assert_eq!(extended("soo:10.0.0.1:7").expect("IPv4"), [1, 3, 10, 0, 0, 1, 0, 7]);
        assert_eq!(extended("rt:70000:7").expect("four octets"), [2, 2, 0, 1, 0x11, 0x70, 0, 7]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in ["", "1", "1:2:3", "65536:1", "1:65536", "-1:1", "+1:1", "a:b", "no_export"] {
            assert!(standard(text).is_err(), "{text}");
        }
        for text in ["", "1:2", "1:2:3:4", "1:2:4294967296"] {
            assert!(large(text).is_err(), "{text}");
        }
        for text in ["", "rt:1", "rt:1:2:3", "xx:1:2", "rt:70000:65536", "rt:10.0.0.1:65536", "rt:4294967296:1"] {
            assert!(extended(text).is_err(), "{text}");
        }
    }
}
