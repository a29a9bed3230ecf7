//! Golden packets: whole frames with right checksums, as a client sends them.

use std::net::Ipv4Addr;

use bascule_lab::forward::{HEAD_WORDS, Packet, SHORT_WORDS};

/// TCP flags (RFC 9293 section 3.1).
pub const SYN: u8 = 0x02;
/// See [`SYN`].
pub const ACK: u8 = 0x10;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// A client's address and port: a million of them differ.
pub fn client(flow: u32) -> (Ipv4Addr, u16) {
    // 16 ports of each address, as behind a small NAT. Both in steps of odd numbers, so that neighbours share no cache line of a table.
    let port = 1024 + (flow % 16) * 3571;
    (Ipv4Addr::from_bits(0x0a40_0000 | (flow / 16)), u16::try_from(port).expect("below 2^16"))
}

/// One side of a packet.
pub type Side = (Ipv4Addr, u16);

/// A TCP segment over IPv4 with `payload` bytes; a SYN carries the MSS option (1460).
pub fn tcp4(from: Side, to: Side, flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = tcp_header(from.1, to.1, flags);
    segment.resize(segment.len() + payload, 0x5a);
    let sum = pseudo4(from.0, to.0, TCP, segment.len()) + add(&segment);
    segment[16..18].copy_from_slice(&fold(sum).to_be_bytes());
    ipv4(from.0, to.0, TCP, &segment)
}

/// A UDP datagram over IPv4.
pub fn udp4(from: Side, to: Side, payload: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload).expect("a small datagram");
    let mut datagram = [from.1, to.1, length, 0].map(u16::to_be_bytes).concat();
    datagram.resize(8 + payload, 0x5a);
    let sum = pseudo4(from.0, to.0, UDP, datagram.len()) + add(&datagram);
    datagram[6..8].copy_from_slice(&fold(sum).to_be_bytes());
    ipv4(from.0, to.0, UDP, &datagram)
}

/// A TCP segment over IPv6, between the mapped forms of the addresses under 2001:db8::/32.
pub fn tcp6(from: Side, to: Side, flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = tcp_header(from.1, to.1, flags);
    segment.resize(segment.len() + payload, 0x5a);
    let (source, destination) = (v6(from.0), v6(to.0));
    let length = u16::try_from(segment.len()).expect("a small segment");
    let sum = add(&source) + add(&destination) + u32::from(length) + u32::from(TCP) + add(&segment);
    segment[16..18].copy_from_slice(&fold(sum).to_be_bytes());
    let mut frame = ethernet(0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([TCP, 64]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(segment);
    frame
}

/// The frame inside an outer IPv4 and UDP header (checksum 0, RFC 6935's rule for tunnels) and `shim`.
pub fn encapsulated(frame: &[u8], from: Side, to: Side, shim: &[u8]) -> Vec<u8> {
    let inner = &frame[ETHERNET..];
    let length = u16::try_from(8 + shim.len() + inner.len()).expect("a small packet");
    let mut datagram = [from.1, to.1, length, 0].map(u16::to_be_bytes).concat();
    datagram.extend(shim);
    datagram.extend(inner);
    ipv4(from.0, to.0, UDP, &datagram)
}

/// The frame with these addresses.
pub fn addressed(mut frame: Vec<u8>, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame
}

/// The IPv6 address of the lab that stands for an IPv4 one.
pub fn v6(address: Ipv4Addr) -> [u8; 16] {
    let mut all = [0; 16];
    all[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    all[12..].copy_from_slice(&address.octets());
    all
}

/// A packet in the shim's form; frames below the least Ethernet length are padded, as on a wire.
pub fn packet(mut frame: Vec<u8>) -> Packet {
    frame.resize(frame.len().max(SHORT_WORDS * 8), 0);
    let length = u32::try_from(frame.len()).expect("a frame");
    frame.resize(frame.len().max(HEAD_WORDS * 8), 0);
    let (words, _) = frame.as_chunks::<8>();
    Packet { length, pad: 0, head: std::array::from_fn(|word| u64::from_ne_bytes(words[word])) }
}

fn tcp_header(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let options: &[u8] = if flags & SYN != 0 { &[2, 4, 0x05, 0xb4] } else { &[] };
    let words = u8::try_from(5 + options.len() / 4).expect("at most fifteen");
    let mut header = [from.to_be_bytes(), to.to_be_bytes()].concat();
    header.extend([0x12, 0x34, 0x56, 0x78, 0, 0, 0, if flags & ACK != 0 { 1 } else { 0 }]);
    header.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header.extend(options);
    header
}

fn ethernet(kind: u16) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a small packet").to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let check = fold(add(&header)).to_be_bytes();
    header[10..12].copy_from_slice(&check);
    let mut frame = ethernet(0x0800);
    frame.extend(header);
    frame.extend(payload);
    frame
}

fn pseudo4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, length: usize) -> u32 {
    add(&from.octets()) + add(&to.octets()) + u32::from(protocol) + u32::try_from(length).expect("a small packet")
}

/// Sum of 16-bit words, not folded (RFC 1071); small packets only.
pub fn add(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

/// The checksum of a sum.
pub fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    // What is cut off is zero by now.
    !u16::try_from(twice & 0xffff).expect("sixteen bits")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{ACK, ETHERNET, SYN, add, client, fold, packet, pseudo4, tcp4, udp4};

    #[test]
    fn a_million_clients_differ() {
        let all: HashSet<_> = (0..1 << 20).map(client).collect();
        assert_eq!(all.len(), 1 << 20);
    }

    #[test]
    fn checksums_add_up_to_zero() {
        let (from, to) = (client(77), client(1_000_000));
        for (frame, protocol) in [(tcp4(from, to, SYN, 0), 6), (tcp4(from, to, ACK, 11), 6), (udp4(from, to, 22), 17)] {
            let (header, payload) = frame[ETHERNET..].split_at(20);
            assert_eq!(fold(add(header)), 0);
            assert_eq!(fold(pseudo4(from.0, to.0, protocol, payload.len()) + add(payload)), 0);
        }
    }

    #[test]
    fn packets_have_at_least_the_least_length() {
        let (from, to) = (client(0), client(1));
        assert_eq!(packet(tcp4(from, to, ACK, 0)).length, 64);
        assert_eq!(packet(tcp4(from, to, ACK, 200)).length, 254);
    }
}
