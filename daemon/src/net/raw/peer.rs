//! The peer channel's socket: UDP, one socket a family for all links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use bascule_core::types::{Family, LinkId};
use socket2::{Domain, Protocol, Socket, Type};

use super::{message, options};
use crate::net::NetError;

/// Multicast stays on the link.
const MULTICAST_TTL: u32 = 1;

/// UDP socket of one family, bound to the peer port on every address. Non-blocking; readiness by [`AsFd`].
#[derive(Debug)]
pub struct PeerSocket {
    socket: Socket,
    family: Family,
}

impl PeerSocket {
    /// Opens it in the network namespace of the calling thread. The port is ours alone: no address reuse, so that nobody else can
    /// take our datagrams.
    ///
    /// # Errors
    /// When the port is taken or an option is refused.
    pub fn open(family: Family, port: u16) -> Result<Self, NetError> {
        let open = || {
            let kind = Type::DGRAM.nonblocking().cloexec();
            let (domain, any): (_, IpAddr) = match family {
                Family::V4 => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
                Family::V6 => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
            };
            let socket = Socket::new(domain, kind, Some(Protocol::UDP))?;
            match family {
                Family::V4 => socket.set_multicast_ttl_v4(MULTICAST_TTL)?,
                Family::V6 => {
                    socket.set_only_v6(true)?;
                    socket.set_multicast_hops_v6(MULTICAST_TTL)?;
                }
            }
            options::common(&socket, family)?;
            socket.bind(&SocketAddr::new(any, port).into())?;
            Ok(socket)
        };
        let socket = open().map_err(NetError::system::<std::io::Error>("open the peer socket"))?;
        Ok(Self { socket, family })
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Hears multicast datagrams of a link (the VRRP group: peers are the routers of that group). Joined already is success.
    ///
    /// # Errors
    /// As for the VRRP socket.
    pub fn join(&self, link: LinkId) -> Result<(), NetError> {
        options::join(&self.socket, self.family, link)
    }

    /// The reverse; not joined, or a link that is gone, is success.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn leave(&self, link: LinkId) -> Result<(), NetError> {
        options::leave(&self.socket, self.family, link)
    }

    /// Takes one datagram: link, source and length; `None` when there is none.
    ///
    /// # Errors
    /// Those of `recvmsg`.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Option<(LinkId, IpAddr, usize)>, NetError> {
        let datagram = message::receive(self.socket.as_fd(), buffer)?;
        Ok(datagram.map(|d| (d.link, d.src, d.payload.end)))
    }

    /// Sends a datagram from one of our addresses out of `link`.
    ///
    /// # Errors
    /// Those of `sendmsg`. An ICMP error to an earlier datagram is not among them: the socket is not connected.
    pub fn send(&self, link: LinkId, src: IpAddr, dst: IpAddr, port: u16, payload: &[u8]) -> Result<(), NetError> {
        message::send(self.socket.as_fd(), link, src, dst, port, payload)
    }
}

impl AsFd for PeerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
