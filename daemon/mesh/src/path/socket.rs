//! Sockets of probes: connected, never fragmented.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, Type};
use tokio::net::UdpSocket;

use super::Flow;

/// A flow from `here` to `there`, in the network namespace of this thread. Packets leave with DF set and are not held to what the kernel
/// believes of the path: to find out what gets through is their purpose (RFC 8899 section 4.3).
///
/// # Errors
/// The kernel's, when the address is not ours or has no route.
pub fn open(here: SocketAddr, there: SocketAddr) -> io::Result<Flow> {
    let socket = socket2::Socket::new(Domain::for_address(here), Type::DGRAM, Some(Protocol::UDP))?;
    // Flows to several nodes leave one port; the kernel gives each socket what comes from the node that it is connected to.
    socket.set_reuse_address(true)?;
    socket.bind(&here.into())?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    let (level, name, value) = match here {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    let len = libc::socklen_t::try_from(size_of_val(&value)).expect("an int is short");
    // SAFETY: the descriptor is open, and the kernel reads `len` bytes of an int that lives.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.connect(there)?;
    Ok(Flow { socket: UdpSocket::from_std(socket)?, number: None })
}
