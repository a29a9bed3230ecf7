//! Packets of clients, with their checksums computed in full.

use std::net::IpAddr;

/// The Internet checksum over the pseudo-header and `segment`.
pub(crate) fn transport_sum(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(a) => bytes.extend(a.octets()),
            IpAddr::V6(a) => bytes.extend(a.octets()),
        }
    }
    bytes.extend(u32::try_from(segment.len()).unwrap().to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(segment);
    sum(&bytes)
}

/// The Internet checksum (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap()
}

/// A frame around `segment`, whose checksum lies at `at`.
pub(crate) fn packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    mut segment: Vec<u8>,
    at: usize,
) -> Vec<u8> {
    segment[at..at + 2].fill(0);
    let check = transport_sum(source, destination, protocol, &segment);
    segment[at..at + 2].copy_from_slice(&check.to_be_bytes());
    let mut out = vec![2, 0, 0, 0, 9, 1, 2, 0, 0, 0, 9, 2];
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let mut ip = vec![0x45, 0x02];
            ip.extend(u16::try_from(20 + segment.len()).unwrap().to_be_bytes());
            ip.extend([0x12, 0x34, 0x40, 0, hops, protocol, 0, 0]);
            ip.extend(s.octets());
            ip.extend(d.octets());
            let check = sum(&ip).to_be_bytes();
            ip[10..12].copy_from_slice(&check);
            out.extend([8, 0]);
            out.extend(ip);
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            out.extend([0x86, 0xdd, 0x60, 0x20, 0xab, 0xcd]);
            out.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
            out.extend([protocol, hops]);
            out.extend(s.octets());
            out.extend(d.octets());
        }
        _ => panic!("one family"),
    }
    out.extend(segment);
    out
}

/// TCP from port 40,000; `mss` 0: no option.
pub(crate) fn tcp(source: IpAddr, destination: IpAddr, port: u16, flags: u8, hops: u8, mss: u16) -> Vec<u8> {
    tcp_from(40_000, source, destination, port, flags, hops, mss)
}

/// TCP from `client_port`; `mss` 0: no option.
pub(crate) fn tcp_from(
    client_port: u16,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    flags: u8,
    hops: u8,
    mss: u16,
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(client_port.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 1, 0, 0, 0, 2, 0, if mss == 0 { 0x50 } else { 0x60 }, flags, 0xff, 0xff, 0, 0, 0, 0]);
    if mss != 0 {
        segment.extend([2, 4]);
        segment.extend(mss.to_be_bytes());
    }
    segment.extend(b"payload");
    packet(source, destination, 6, hops, segment, 16)
}

/// UDP from port 40,000.
pub(crate) fn udp(source: IpAddr, destination: IpAddr, port: u16, hops: u8) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(40_000u16.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend(15u16.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(b"payload");
    packet(source, destination, 17, hops, segment, 6)
}
