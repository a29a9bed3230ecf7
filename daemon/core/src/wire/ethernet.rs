//! The Ethernet II header.

use crate::types::Mac;

/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Destination, source, type.
pub const HEADER_LEN: usize = 14;

/// Starts a frame: destination, source, EtherType.
pub fn frame(dst: Mac, src: Mac, ethertype: u16, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + capacity);
    out.extend(dst.0);
    out.extend(src.0);
    out.extend(ethertype.to_be_bytes());
    out
}

/// Splits a frame into (destination, source, EtherType, payload); `None` when it is shorter than a header.
pub fn parse(frame: &[u8]) -> Option<(Mac, Mac, u16, &[u8])> {
    let (header, payload) = frame.split_at_checked(HEADER_LEN)?;
    let dst = Mac(header[0..6].try_into().ok()?);
    let src = Mac(header[6..12].try_into().ok()?);
    Some((dst, src, u16::from_be_bytes([header[12], header[13]]), payload))
}
