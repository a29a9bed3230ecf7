//! Frames from a packet socket, and SYNs from ever new tuples with right checksums: what a kernel would drop unseen is no flood.
//!
//! Not XDP live frames: each such run changes the kernel's dispatcher and waits for it, 30 ms or so, and a flood that is sent in bursts
//! small enough for the queues is thousands of runs.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use bascule_lab::Netns;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};

use super::frames::{ETHERNET, add, fold};

/// Tuples are counted by address first (22 bits), then by source port.
const ADDRESS_BITS: u32 = 22;
/// First source port, and how many are used.
const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 0x8000;
/// Offsets in an untagged frame with an IPv4 header of 20 bytes (RFC 791 section 3.1, RFC 9293 section 3.1).
const IP_CHECK: usize = ETHERNET + 10;
const IP_SOURCE: usize = ETHERNET + 12;
const TCP_SOURCE: usize = ETHERNET + 20;
const TCP_CHECK: usize = ETHERNET + 36;

/// Sends frames out of one device.
pub struct Sender {
    fd: OwnedFd,
    device: LinkAddr,
}

impl Sender {
    /// For the device `name` of `netns`.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn new(netns: &Netns, name: &str) -> Result<Self> {
        let fd = netns
            .run(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None))
            .context("packet socket")?;
        let raw = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).expect("a small constant"),
            sll_protocol: 0,
            sll_ifindex: netns.ifindex(name)?.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&raw)).expect("twenty bytes");
        // SAFETY: `raw` is a whole sockaddr_ll of family AF_PACKET and `length` is its size.
        let device = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }.context("sockaddr_ll")?;
        Ok(Self { fd, device })
    }

    /// Sends one frame; false: the queue was full.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn send(&self, frame: &[u8]) -> Result<bool> {
        match sendto(self.fd.as_raw_fd(), frame, &self.device, MsgFlags::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::ENOBUFS) => Ok(false),
            Err(error) => Err(error).context("sendto"),
        }
    }
}

/// One SYN after another, each from another tuple.
pub struct Syns {
    frame: Vec<u8>,
    source: u32,
    next: u32,
    /// Sums of the IPv4 header, and of pseudo header and TCP, without what changes.
    ip: u32,
    tcp: u32,
}

impl Syns {
    /// Of the untagged `frame`, a SYN over IPv4 already; the lower 22 bits of `source` are counted.
    pub fn new(frame: Vec<u8>, source: u32) -> Self {
        let mut bytes = frame[ETHERNET..].to_vec();
        // IPv4 checksum and source, TCP source port and checksum.
        for range in [10..16, 20..22, 36..38] {
            bytes[range].fill(0);
        }
        let (ip, tcp) = bytes.split_at(20);
        let length = u32::try_from(tcp.len()).expect("a small segment");
        // Destination, protocol 6 and length stand in the pseudo header too (RFC 9293 section 3.1).
        let (ip, tcp) = (add(ip), add(&ip[16..20]) + 6 + length + add(tcp));
        Self { frame, source, next: 0, ip, tcp }
    }

    /// Makes the next one.
    pub fn make(&mut self) -> &[u8] {
        let source = self.source | (self.next & ((1 << ADDRESS_BITS) - 1));
        let port = FIRST_PORT + (self.next >> ADDRESS_BITS) % PORTS;
        self.next += 1;
        let halves = (source >> 16) + (source & 0xffff);
        let mut put = |at: usize, bytes: &[u8]| self.frame[at..at + bytes.len()].copy_from_slice(bytes);
        put(IP_SOURCE, &source.to_be_bytes());
        put(TCP_SOURCE, &u16::try_from(port).expect("below 2^16").to_be_bytes());
        put(IP_CHECK, &fold(self.ip + halves).to_be_bytes());
        put(TCP_CHECK, &fold(self.tcp + halves + port).to_be_bytes());
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::frames::{SYN, tcp4};
    use super::Syns;

    #[test]
    fn every_syn_is_a_whole_packet_of_its_own() {
        let to = (Ipv4Addr::new(10, 7, 0, 1), 80);
        let first = Ipv4Addr::new(10, 128, 0, 0);
        let mut syns = Syns::new(tcp4((first, 1024), to, SYN, 0), first.to_bits());
        assert_eq!(syns.make(), tcp4((first, 1024), to, SYN, 0));
        assert_eq!(syns.make(), tcp4((Ipv4Addr::new(10, 128, 0, 1), 1024), to, SYN, 0));
        syns.next = (2 << 22) + 0x12_3456;
        assert_eq!(syns.make(), tcp4((Ipv4Addr::new(10, 146, 52, 86), 1026), to, SYN, 0));
    }
}
