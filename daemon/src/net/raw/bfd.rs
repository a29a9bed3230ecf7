//! Sockets of BFD: one listener for each family and kind of session, one sender for each source port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use bascule_core::types::{Family, LinkId};
use bascule_core::wire::bfd::{HOP_LIMIT, PORT_MULTIHOP, PORT_SINGLE_HOP};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::message::{self, Datagram};
use super::options;
use crate::net::NetError;

/// Receive buffer in bytes; the kernel doubles it and charges some 800 bytes a packet. Far more than a stall of a second leaves behind
/// at 10 ms and ten peers, and less than what the driver reads in one look.
const RECEIVE_BUFFER: usize = 256 << 10;

/// Hears the packets of one family and one kind of session on every address. Non-blocking; readiness by [`AsFd`].
#[derive(Debug)]
pub struct BfdListener {
    socket: Socket,
    multihop: bool,
}

impl BfdListener {
    /// Opens it in the network namespace of the calling thread. The port is ours alone: another BFD on this node would take half of
    /// the packets of both.
    ///
    /// # Errors
    /// When the port is taken or an option is refused.
    pub fn open(family: Family, multihop: bool) -> Result<Self, NetError> {
        let open = || {
            let socket = datagram(family)?;
            options::report(&socket, family)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket
                .bind(&SocketAddr::new(any(family), if multihop { PORT_MULTIHOP } else { PORT_SINGLE_HOP }).into())?;
            Ok(socket)
        };
        let socket = open().map_err(NetError::system::<std::io::Error>("open the BFD socket"))?;
        Ok(Self { socket, multihop })
    }

    /// On the port of multihop sessions.
    pub fn multihop(&self) -> bool {
        self.multihop
    }

    /// Takes one packet; `None` when there is none.
    ///
    /// # Errors
    /// Those of `recvmsg`.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Option<Datagram>, NetError> {
        message::receive(self.socket.as_fd(), buffer)
    }
}

impl AsFd for BfdListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends from one source port: TTL 255 (RFC 5881 section 5), network control. It is never read: answers come to the listener.
#[derive(Debug)]
pub struct BfdSender {
    socket: Socket,
    family: Family,
    multihop: bool,
}

impl BfdSender {
    /// Opens it in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the port is taken ([`NetError::port_taken`]) or an option is refused.
    pub fn open(family: Family, multihop: bool, source_port: u16) -> Result<Self, NetError> {
        let open = || {
            let socket = datagram(family)?;
            match family {
                Family::V4 => socket.set_ttl_v4(HOP_LIMIT.into())?,
                Family::V6 => socket.set_unicast_hops_v6(HOP_LIMIT.into())?,
            }
            options::network_control(&socket, family)?;
            // The least there is: what strangers send here is not kept.
            setsockopt(&socket, sockopt::RcvBuf, &0)?;
            socket.bind(&SocketAddr::new(any(family), source_port).into())?;
            Ok(socket)
        };
        let socket = open().map_err(NetError::system::<std::io::Error>("open a BFD source port"))?;
        Ok(Self { socket, family, multihop })
    }

    /// Sends a packet; the link and our address are the kernel's choice where none is given.
    ///
    /// # Errors
    /// Those of `sendmsg`. An ICMP error to an earlier packet is not among them: the socket is not connected.
    pub fn send(&self, link: Option<LinkId>, src: Option<IpAddr>, dst: IpAddr, payload: &[u8]) -> Result<(), NetError> {
        let port = if self.multihop { PORT_MULTIHOP } else { PORT_SINGLE_HOP };
        // Zero and the unspecified address leave it to routing (ip(7), ipv6(7)).
        let (link, src) = (link.unwrap_or(LinkId(0)), src.unwrap_or(any(self.family)));
        message::send(self.socket.as_fd(), link, src, dst, port, payload)
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn datagram(family: Family) -> std::io::Result<Socket> {
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
