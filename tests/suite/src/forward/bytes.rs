//! Bytes and checksums: the tester's own reading of them (RFC 791, 768, 9293, 8200, 1071, 1624).

use std::net::IpAddr;

use bascule_ebpf_common::VipKey;

/// Reads a number in network order, if the slice is long enough.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([b[0], b[1]]))
}

/// Reads a 32-bit number in network order, if the slice is long enough.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Writes a number in network order.
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length as a 16-bit field.
///
/// # Panics
/// When it does not fit: no test packet is that long.
#[must_use]
pub fn len16(length: usize) -> u16 {
    u16::try_from(length).expect("a test packet is shorter than 64 KiB")
}

/// The low 16 bits.
///
/// # Panics
/// Never: the value is masked.
#[must_use]
pub fn low16(value: u64) -> u16 {
    u16::try_from(value & 0xffff).expect("masked")
}

/// The low 8 bits.
///
/// # Panics
/// Never: the value is masked.
#[must_use]
pub fn low8(value: u64) -> u8 {
    u8::try_from(value & 0xff).expect("masked")
}

/// One's complement sum of 16-bit words, odd byte padded (RFC 1071), not inverted.
#[must_use]
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u64;
    for part in parts {
        let mut words = part.chunks_exact(2);
        for w in &mut words {
            total += u64::from(u16::from_be_bytes([w[0], w[1]]));
        }
        if let [last] = words.remainder() {
            total += u64::from(u16::from_be_bytes([*last, 0]));
        }
    }
    fold(total)
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    low16(total)
}

/// Checksum after `old` became `new` (RFC 1624 equation 3).
#[must_use]
pub fn adjusted(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let mut total = u64::from(!checksum);
    for w in old.chunks_exact(2) {
        total += u64::from(!u16::from_be_bytes([w[0], w[1]]));
    }
    for w in new.chunks_exact(2) {
        total += u64::from(u16::from_be_bytes([w[0], w[1]]));
    }
    !fold(total)
}

/// Bytes of an address as they stand in a header of its family.
#[must_use]
pub fn address_bytes(key: &VipKey) -> Vec<u8> {
    if is_v4(key) { key.addr[12..].to_vec() } else { key.addr.to_vec() }
}

/// Is it a mapped IPv4 address?
#[must_use]
pub fn is_v4(key: &VipKey) -> bool {
    key.addr[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

/// The key of an address.
#[must_use]
pub fn key_of(address: IpAddr) -> VipKey {
    match address {
        IpAddr::V4(a) => VipKey::v4(a.octets()),
        IpAddr::V6(a) => VipKey::v6(a.octets()),
    }
}

/// The address of a key.
///
/// # Panics
/// Never: the lengths are fixed.
#[must_use]
pub fn address_of(key: &VipKey) -> IpAddr {
    if is_v4(key) {
        IpAddr::from(<[u8; 4]>::try_from(&key.addr[12..]).expect("four bytes"))
    } else {
        IpAddr::from(key.addr)
    }
}

/// Pseudo header of an L4 checksum (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[must_use]
pub fn pseudo(source: &VipKey, destination: &VipKey, protocol: u8, length: usize) -> Vec<u8> {
    let mut p = address_bytes(source);
    p.extend(address_bytes(destination));
    if is_v4(source) {
        p.extend([0, protocol]);
        p.extend(len16(length).to_be_bytes());
    } else {
        p.extend(u32::from(len16(length)).to_be_bytes());
        p.extend([0, 0, 0, protocol]);
    }
    p
}
