//! The VRRP socket: IP protocol 112, one socket a family for all links.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use bascule_core::types::{Family, LinkId};
use socket2::{Domain, Protocol, Socket, Type};

use super::message::{self, Datagram};
use super::options;
use crate::net::NetError;

/// IP protocol number of VRRP (RFC 9568 section 5.1.1.4).
const PROTOCOL: i32 = 112;
/// TTL and hop limit of every advert (RFC 9568 sections 5.1.1.3 and 5.1.2.3).
const TTL: u32 = 255;
/// Shortest IPv4 header, bytes.
const IPV4_HEADER: usize = 20;

/// Raw socket of one family. Non-blocking; readiness by [`AsFd`].
#[derive(Debug)]
pub struct VrrpSocket {
    socket: Socket,
    family: Family,
}

impl VrrpSocket {
    /// Opens it in the network namespace of the calling thread. Hears unicast adverts at once, multicast after [`Self::join`].
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when an option is refused.
    pub fn open(family: Family) -> Result<Self, NetError> {
        let open = || {
            let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new_raw(domain, kind, Some(Protocol::from(PROTOCOL)))?;
            match family {
                Family::V4 => {
                    socket.set_ttl_v4(TTL)?;
                    socket.set_multicast_ttl_v4(TTL)?;
                }
                Family::V6 => {
                    socket.set_unicast_hops_v6(TTL)?;
                    socket.set_multicast_hops_v6(TTL)?;
                    // The checksum of an advert is ours in both directions (-1: the kernel neither writes nor verifies it).
                    options::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, &-1_i32)?;
                }
            }
            options::common(&socket, family)?;
            Ok(socket)
        };
        let socket = open().map_err(NetError::system::<std::io::Error>("open the VRRP socket"))?;
        Ok(Self { socket, family })
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Hears multicast adverts of a link. Joined already is success.
    ///
    /// # Errors
    /// When the link does not exist or has no address of the family (IPv4), or past `net.ipv4.igmp_max_memberships` (20) links.
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

    /// Takes one message; `None` when there is none. The payload is the VRRP message without IP header.
    ///
    /// # Errors
    /// Those of `recvmsg`.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Option<Datagram>, NetError> {
        let Some(mut datagram) = message::receive(self.socket.as_fd(), buffer)? else { return Ok(None) };
        if self.family == Family::V4 {
            // IPv4 raw sockets deliver the header, options included; its length is in the low four bits, in 32-bit words.
            let header = usize::from(buffer.first().map_or(0, |b| b & 0x0f)) * 4;
            let end = datagram.payload.end;
            datagram.payload = header.max(IPV4_HEADER).min(end)..end;
        }
        Ok(Some(datagram))
    }

    /// Sends a message from one of our addresses out of `link`.
    ///
    /// # Errors
    /// Those of `sendmsg`: `src` is not on this node, the link is down, no room (the caller counts it and goes on).
    pub fn send(&self, link: LinkId, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Result<(), NetError> {
        message::send(self.socket.as_fd(), link, src, dst, 0, payload)
    }
}

impl AsFd for VrrpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
