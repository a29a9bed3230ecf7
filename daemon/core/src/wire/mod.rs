//! Formats on the wire: parse and build, nothing else. Every parser takes untrusted bytes and never panics.

pub mod arp;
pub mod bfd;
pub mod ethernet;
pub mod multicast;
pub mod ndp;
pub mod peer;
pub mod site;
pub mod vrrp;

/// One's complement sum of RFC 1071 over a list of byte runs; every run but the last must have an even length.
pub(crate) fn ones_complement(runs: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for run in runs {
        let mut words = run.chunks_exact(2);
        for word in &mut words {
            sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            sum += u32::from(*last) << 8;
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The folding above leaves at most 16 bits.
    !u16::try_from(sum).unwrap_or(0)
}

/// Pseudo-header sum input for `payload` bytes of protocol `protocol` (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub(crate) fn pseudo_header(src: core::net::IpAddr, dst: core::net::IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    use core::net::IpAddr::{V4, V6};
    let mut out = Vec::with_capacity(40);
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    match (src, dst) {
        (V4(s), V4(d)) => {
            out.extend(s.octets());
            out.extend(d.octets());
            out.extend([0, protocol]);
            out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        }
        (V6(s), V6(d)) => {
            out.extend(s.octets());
            out.extend(d.octets());
            out.extend(len.to_be_bytes());
            out.extend([0, 0, 0, protocol]);
        }
        // Mixed families have no pseudo-header: an empty one makes every checksum comparison fail.
        _ => {}
    }
    out
}
