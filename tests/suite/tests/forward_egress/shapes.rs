//! Packets that are odd in one way or another, each built whole and with its checksums computed in full.

use std::net::IpAddr;

use crate::frames::{packet, sum};

/// A TCP segment; the checksum is the caller's.
pub(crate) fn segment(source: u16, destination: u16, flags: u8, options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut s = Vec::new();
    s.extend(source.to_be_bytes());
    s.extend(destination.to_be_bytes());
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    s.extend([0, 0, 3, 0, 0, 0, 4, 0, words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    s.extend(options);
    s.extend(b"payload");
    s
}

pub(crate) fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8, options: &[u8], hops: u8) -> Vec<u8> {
    packet(from.0, to.0, 6, hops, segment(from.1, to.1, flags, options), 16)
}

pub(crate) fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8], hops: u8) -> Vec<u8> {
    let mut s = Vec::new();
    s.extend(from.1.to_be_bytes());
    s.extend(to.1.to_be_bytes());
    s.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    s.extend([0, 0]);
    s.extend(payload);
    packet(from.0, to.0, 17, hops, s, 6)
}

/// ICMP or ICMPv6 with its eight bytes of header, `rest` the last four.
pub(crate) fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: [u8; 4], body: &[u8], hops: u8) -> Vec<u8> {
    let mut s = vec![kind, code, 0, 0];
    s.extend(rest);
    s.extend(body);
    if from.is_ipv6() {
        return packet(from, to, 58, hops, s, 2);
    }
    let check = sum(&s);
    let mut frame = packet(from, to, 1, hops, s, 2);
    frame[36..38].copy_from_slice(&check.to_be_bytes());
    frame
}

/// The two fragments of a frame, cut `at` bytes behind the IP header.
pub(crate) fn fragments(frame: &[u8], at: usize, id: u16) -> [Vec<u8>; 2] {
    assert_eq!(at % 8, 0);
    let offset = u16::try_from(at).unwrap();
    if frame[12..14] == [8, 0] {
        let part = |field: u16, payload: &[u8]| {
            let mut f = frame[..34].to_vec();
            f[16..18].copy_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
            f[18..20].copy_from_slice(&id.to_be_bytes());
            f[20..22].copy_from_slice(&field.to_be_bytes());
            fix_header(&mut f);
            f.extend(payload);
            f
        };
        return [part(0x2000, &frame[34..34 + at]), part(offset / 8, &frame[34 + at..])];
    }
    let part = |field: u16, payload: &[u8]| {
        let mut f = frame[..54].to_vec();
        f[18..20].copy_from_slice(&u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        f[20] = 44;
        f.extend([frame[20], 0]);
        f.extend(field.to_be_bytes());
        f.extend([0, 0]);
        f.extend(id.to_be_bytes());
        f.extend(payload);
        f
    };
    [part(1, &frame[54..54 + at]), part(offset, &frame[54 + at..])]
}

/// The frame with IPv4 options (no-operations and a router alert), or with a hop-by-hop and a destination options header.
pub(crate) fn with_extras(frame: &[u8]) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        let mut f = frame[..34].to_vec();
        f[14] = 0x47;
        let length = u16::from_be_bytes([f[16], f[17]]) + 8;
        f[16..18].copy_from_slice(&length.to_be_bytes());
        f.extend([1, 1, 1, 1, 0x94, 4, 0, 0]);
        fix_header(&mut f);
        f.extend(&frame[34..]);
        return f;
    }
    let mut f = frame[..54].to_vec();
    let length = u16::from_be_bytes([f[18], f[19]]) + 24;
    f[18..20].copy_from_slice(&length.to_be_bytes());
    f[20] = 0;
    f.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    f.extend([frame[20], 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    f.extend(&frame[54..]);
    f
}

/// Computes the checksum of the IPv4 header that is all the frame has behind the link header.
pub(crate) fn fix_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let check = sum(&frame[14..]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

/// The frame as it is behind one more router.
pub(crate) fn routed(frame: &[u8]) -> Vec<u8> {
    let mut f = frame.to_vec();
    if f[12..14] == [8, 0] {
        let header = usize::from(f[14] & 0x0f) * 4;
        f[22] -= 1;
        let mut head = f[..14 + header].to_vec();
        fix_header(&mut head);
        f[..14 + header].copy_from_slice(&head);
    } else {
        f[21] -= 1;
    }
    f
}

/// The frame with a VLAN tag in front of its EtherType.
pub(crate) fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    bascule_suite::fence::frames::tagged(frame, tpid, tci)
}
