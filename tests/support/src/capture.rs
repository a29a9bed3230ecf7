//! Receives datagrams and frames with the kernel's time stamp: what the user-space thread's own lateness is measured by.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrLike, recvmsg, setsockopt, sockopt};

use crate::{LabError, Result, Stamp};

/// One received message.
pub(crate) struct Received<S> {
    /// Bytes in the buffer.
    pub(crate) len: usize,
    /// When the kernel had it.
    pub(crate) at: Stamp,
    /// How much later this thread read it.
    pub(crate) late: Duration,
    /// Where it came from.
    pub(crate) from: Option<S>,
    /// Which local address it was sent to, on sockets that asked for it.
    pub(crate) to: Option<IpAddr>,
}

/// Asks the kernel to stamp what arrives on `socket`.
pub(crate) fn stamp_arrivals(socket: &impl AsFd) -> Result<()> {
    setsockopt(&socket.as_fd(), sockopt::ReceiveTimestampns, &true).map_err(LabError::errno("SO_TIMESTAMPNS"))
}

/// Waits until `socket` has something, at most `for_`; false when it has nothing.
pub(crate) fn readable(socket: BorrowedFd<'_>, for_: Duration) -> bool {
    let timeout = PollTimeout::try_from(for_).unwrap_or(PollTimeout::ZERO);
    poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}

/// Takes the next message without waiting; None when there is none.
pub(crate) fn receive<S: SockaddrLike>(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<Received<S>>> {
    let mut control = nix::cmsg_space!(libc::timespec, libc::in6_pktinfo, libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = match recvmsg::<S>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
        Ok(message) => message,
        // An ICMP error for an earlier datagram, or a link that went down, is not the end of the socket.
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETDOWN) => {
            return Ok(None);
        }
        Err(errno) => return Err(LabError::errno("recvmsg")(errno)),
    };
    let now = Stamp::now();
    let (mut at, mut to) = (now, None);
    for item in message.cmsgs().map_err(LabError::errno("control messages"))? {
        match item {
            ControlMessageOwned::ScmTimestampns(spec) => {
                at = Stamp::from_realtime(crate::time::nanos(Duration::from(spec)));
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                to = Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                to = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
            }
            _ => {}
        }
    }
    let from = message.address;
    Ok(Some(Received { len: message.bytes, at, late: now.since(at), from, to }))
}
