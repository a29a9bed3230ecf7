//! Frames on a device, read and written by a packet socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::Result;
use bascule_lab::{Netns, Stamp};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use std::os::fd::OwnedFd;

/// Room of a socket: some thousand frames.
const BUFFER: usize = 8 << 20;
const TCP: u8 = 6;

/// A packet socket on one device.
pub(crate) struct Tap(OwnedFd);

/// An IP packet in a frame.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Who sent the frame.
    pub(crate) source_mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Upper protocol; of IPv6 the next header.
    pub(crate) protocol: u8,
    /// What is behind the IP header.
    pub(crate) payload: Vec<u8>,
}

impl Tap {
    pub(crate) fn open(netns: &Netns, device: &str) -> Result<Self> {
        let index = i32::try_from(netns.ifindex(device)?)?;
        let fd =
            netns.run(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll))?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET)?,
            sll_protocol: u16::try_from(libc::ETH_P_ALL)?.to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&address))?;
        // SAFETY: the descriptor is a packet socket, the address one of its family and lives through the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        if bound != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Self(fd))
    }

    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The IP packets that are there now, and those that come until `enough` of all of them, at most for `patience`.
    pub(crate) fn collect(&self, patience: Duration, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let end = Stamp::now() + patience;
        let mut all = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while !enough(&all) {
            let left = PollTimeout::try_from(end.since(Stamp::now())).unwrap_or(PollTimeout::ZERO);
            if !poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], left).is_ok_and(|ready| ready > 0) {
                break;
            }
            if let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                all.extend(seen(&buffer[..length]));
            }
        }
        all
    }

    /// What has arrived by now.
    pub(crate) fn drain(&self) -> Vec<Seen> {
        self.collect(Duration::ZERO, |_| false)
    }
}

fn seen(frame: &[u8]) -> Option<Seen> {
    let source_mac = frame.get(6..12)?.try_into().ok()?;
    let ip = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(ip.first()? & 0x0f) * 4;
            let word = |at: usize| -> Option<[u8; 4]> { ip.get(at..at + 4)?.try_into().ok() };
            let (source, destination) = (Ipv4Addr::from(word(12)?).into(), Ipv4Addr::from(word(16)?).into());
            Some(Seen { source_mac, source, destination, protocol: *ip.get(9)?, payload: ip.get(header..)?.to_vec() })
        }
        [0x86, 0xdd] => {
            let word = |at: usize| -> Option<[u8; 16]> { ip.get(at..at + 16)?.try_into().ok() };
            let (source, destination) = (Ipv6Addr::from(word(8)?).into(), Ipv6Addr::from(word(24)?).into());
            Some(Seen { source_mac, source, destination, protocol: *ip.get(6)?, payload: ip.get(40..)?.to_vec() })
        }
        _ => None,
    }
}

impl Seen {
    /// Flags and MSS option of a TCP segment that has one.
    pub(crate) fn mss(&self) -> Option<(u8, u16)> {
        if self.protocol != TCP {
            return None;
        }
        let header = usize::from(self.payload.get(12)? >> 4) * 4;
        let mut options = self.payload.get(20..header)?;
        // RFC 9293 section 3.2: kind 1 is one byte, others have a length.
        loop {
            match *options {
                [2, 4, high, low, ..] => return Some((*self.payload.get(13)?, u16::from_be_bytes([high, low]))),
                [1, ..] => options = options.get(1..)?,
                [0, ..] | [_] | [] => return None,
                [_, length, ..] => options = options.get(usize::from(length).max(2)..)?,
            }
        }
    }
}

/// The Internet checksum over these pieces, each of even length but the last (RFC 1071).
pub(crate) fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for word in pieces.concat().chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or_default()]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}
