//! Encapsulation made by hand: what a node would send, or somebody who would like to be one.

use std::net::{Ipv4Addr, SocketAddrV4};

use bascule_ebpf_common::forward::{DEFAULT_TUNNEL_PORT, SHIM_LEN, Shim, ShimHead, Tuple, entropy_port};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socket};
use std::os::fd::AsRawFd;

use super::v4;
use crate::{LabError, Mac, Netns, Result};

/// Protocol number of UDP (IANA).
const UDP: u8 = 17;
/// EtherType of IPv4 (IANA).
const IPV4: u16 = 0x0800;
/// Hop limits: of a packet that one router has seen, and of a fresh outer header (docs/forwarding.md).
const INNER_TTL: u8 = 63;
const OUTER_TTL: u8 = 8;

/// A datagram of a client in the encapsulation of a node, IPv4 in IPv4.
#[derive(Debug, Clone, Copy)]
pub struct Encapsulated {
    /// Outer addresses.
    pub outer: (Ipv4Addr, Ipv4Addr),
    /// Sending and receiving node, as the tag has them.
    pub path: (u16, u16),
    /// Key that steers flows.
    pub flow_key: [u64; 2],
    /// Key of the tag, and its slot.
    pub key: [u64; 2],
    /// See [`Encapsulated::key`].
    pub slot: u8,
    /// Number of the service in the shim.
    pub service: u16,
    /// Inner source and destination.
    pub inner: (SocketAddrV4, SocketAddrV4),
    /// Bits of the tag that are turned round.
    pub spoilt: u32,
    /// Version in the shim.
    pub version: u8,
}

impl Encapsulated {
    /// The outer IP packet, with `payload` in the innermost datagram.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let (client, vip) = self.inner;
        let tuple = Tuple {
            client: v4(*client.ip()),
            vip: v4(*vip.ip()),
            client_port: client.port().to_be(),
            vip_port: vip.port().to_be(),
            protocol: UDP,
        };
        let hash = tuple.hash(self.flow_key);
        let head =
            ShimHead { flags: self.slot & 1, service: self.service, epoch: 1, origin_site: 1, ..ShimHead::default() };
        let mut shim = head.seal(self.key, hash, self.path.0, self.path.1);
        shim.tag ^= self.spoilt.to_be();
        shim.version_flags = self.version << 4 | shim.version_flags & 0x0f;
        let datagram = udp(client.port(), vip.port(), payload);
        let mut body = bytes(shim).to_vec();
        body.extend(ipv4(UDP, (*client.ip(), *vip.ip()), INNER_TTL, &datagram));
        let datagram = udp(entropy_port(hash), DEFAULT_TUNNEL_PORT, &body);
        ipv4(UDP, self.outer, OUTER_TTL, &datagram)
    }
}

fn bytes(shim: Shim) -> [u8; SHIM_LEN] {
    // SAFETY: sixteen bytes without padding, every pattern valid (asserted in the ABI crate).
    unsafe { std::mem::transmute(shim) }
}

/// A datagram without a checksum, which IPv4 allows (RFC 768).
fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a short packet");
    let mut datagram = Vec::new();
    for word in [source, destination, length, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(payload);
    datagram
}

/// An IPv4 packet without options and with DF.
///
/// # Panics
/// When it would be longer than a packet can be.
pub fn ipv4(protocol: u8, (source, destination): (Ipv4Addr, Ipv4Addr), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a short packet").to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, ttl, protocol, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    // RFC 1071: the complement of the sum in one's complement.
    let words = header.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let check = u16::try_from(!sum & 0xffff).expect("16 bits").to_be_bytes();
    header[10..12].copy_from_slice(&check);
    header.extend(payload);
    header
}

/// Sends an IPv4 packet in a frame of its own to `to`, by `device` of `netns`.
///
/// # Errors
/// When the socket cannot be made or the kernel does not take the frame.
pub fn send_frame(netns: &Netns, device: &str, to: Mac, packet: &[u8]) -> Result<()> {
    let index = i32::try_from(netns.ifindex(device)?).expect("an index of a device");
    let from = netns.mac(device)?;
    let mut frame = [to.0, from.0].concat();
    frame.extend(IPV4.to_be_bytes());
    frame.extend(packet);
    netns.run(move || {
        let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .map_err(LabError::errno("packet socket"))?;
        // SAFETY: zeroes are a valid sockaddr_ll.
        let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        at.sll_family = u16::try_from(libc::AF_PACKET).expect("a small number");
        at.sll_ifindex = index;
        at.sll_halen = 6;
        let length = libc::socklen_t::try_from(size_of_val(&at)).expect("a small struct");
        // SAFETY: buffer and address are valid for the call.
        let sent = unsafe {
            libc::sendto(
                raw.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                MsgFlags::empty().bits(),
                (&raw const at).cast(),
                length,
            )
        };
        if usize::try_from(sent) == Ok(frame.len()) {
            return Ok(());
        }
        Err(LabError::io("sendto a packet socket")(std::io::Error::last_os_error()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_checksum_are_those_of_the_rfcs() {
        let made = Encapsulated {
            outer: (Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 1)),
            path: (2, 1),
            flow_key: [1, 2],
            key: [3, 4],
            slot: 1,
            service: 513,
            inner: ("192.0.2.7:4000".parse().unwrap(), "10.9.7.100:53".parse().unwrap()),
            spoilt: 0,
            version: 1,
        };
        let packet = made.packet(&[0; 12]);
        assert_eq!(packet.len(), 20 + 8 + 16 + 20 + 8 + 12);
        // 198.51.100.7 > 192.0.2.10, 20 bytes of header and none behind: computed by hand.
        let addresses = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 10));
        assert_eq!(ipv4(UDP, addresses, 64, &[])[10..12], [0x4e, 0x94]);
        assert_eq!((packet[28], packet[30], packet[31]), (0x11, 2, 1), "version 1, slot 1; service 513");
        let other = Encapsulated { spoilt: 1, ..made }.packet(&[0; 12]);
        assert!(packet[..43] == other[..43] && packet[43] ^ other[43] == 1 && packet[44..] == other[44..]);
    }
}
