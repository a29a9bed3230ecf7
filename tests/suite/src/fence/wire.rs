//! A packet socket on one link: frames as they are, in and out. What it sends goes through tc egress like all else.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::boot_ns;

/// All protocols (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;

/// A bound packet socket.
#[derive(Debug)]
pub struct Wire {
    fd: OwnedFd,
}

impl Wire {
    /// Opens the link in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(ifindex: u32) -> io::Result<Self> {
        let protocol = ETH_P_ALL.to_be();
        // SAFETY: no pointers; the descriptor is checked and owned at once.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
            sll_protocol: protocol,
            sll_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: the address is a live sockaddr_ll of the length given.
        let rc = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        if rc == 0 { Ok(Self { fd }) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one frame. One that the fence drops is no error: the kernel reports it as sent or as ENOBUFS.
    ///
    /// # Errors
    /// What the kernel says, ENOBUFS excepted.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        let error = io::Error::last_os_error();
        if sent < 0 && error.raw_os_error() != Some(libc::ENOBUFS) { Err(error) } else { Ok(()) }
    }

    /// Throws away what has arrived, so that the next answer is one to the next question.
    pub fn drain(&self) {
        let mut byte = 0u8;
        // SAFETY: one live byte; a datagram socket discards the rest of each frame.
        while unsafe { libc::recv(self.fd.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) } >= 0 {}
    }

    /// Reads frames until one satisfies `wanted` or `patience` is over. Frames we sent ourselves are skipped.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait_for(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
        let end = boot_ns() + u64::try_from(patience.as_nanos()).map_err(io::Error::other)?;
        let mut buffer = [0u8; 2048];
        loop {
            // What is there is read before the clock is asked: a stall of this thread is not the other side's silence.
            match self.receive(&mut buffer)? {
                Some((got, ours)) if !ours && wanted(&buffer[..got]) => return Ok(Some(buffer[..got].to_vec())),
                Some(_) => continue,
                None => {}
            }
            let left = end.saturating_sub(boot_ns());
            if left == 0 {
                return Ok(None);
            }
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.div_ceil(1_000_000)).map_err(io::Error::other)?;
            // SAFETY: one live pollfd. Time-out and interruption are both answered by the next turn.
            unsafe { libc::poll(&raw mut poll, 1, millis) };
        }
    }

    /// One frame if there is one: its length, and whether it is one we sent.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
        // SAFETY: all zero is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of_val(&from)).map_err(io::Error::other)?;
        // SAFETY: buffer and address are live and of the lengths given.
        let got = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        match usize::try_from(got) {
            Ok(got) => Ok(Some((got, from.sll_pkttype == libc::PACKET_OUTGOING))),
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                e => Err(e),
            },
        }
    }
}
