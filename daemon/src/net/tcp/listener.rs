//! The listening side: keys stand on it before the first segment of a handshake arrives.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Socket};

use super::{Key, Stream, is_later, open, options};
use crate::net::NetError;

/// Handshakes and finished connections that may wait. Neighbors are few; more is a flood, and the kernel answers that with cookies.
const BACKLOG: i32 = 64;

/// A listening socket of one family. Non-blocking; readiness by [`AsFd`].
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
}

impl Listener {
    /// Takes the address in the network namespace of the calling thread; nobody is answered before [`Self::listen`], so that keys can be
    /// set first. Of `[::]` only IPv6 is meant.
    ///
    /// # Errors
    /// When the address is in use or not ours.
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        let socket = open(Domain::for_address(address))?;
        options::common(&socket, address.is_ipv6())?;
        // Connections of a former run may still be in TIME_WAIT. Another listener is refused all the same.
        let bound = socket.set_reuse_address(true).and_then(|()| socket.bind(&address.into()));
        bound.map_err(NetError::setting("listen", address))?;
        Ok(Self { socket, address })
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// When somebody else listens there, who allows reuse as well.
    pub fn listen(&self) -> Result<(), NetError> {
        self.socket.listen(BACKLOG).map_err(NetError::setting("listen", self.address))
    }

    /// Only segments of `remote` that carry this key are heard from now on; `None`: only those without any. Connections that stand keep
    /// the key they were made with.
    ///
    /// # Errors
    /// When the kernel has no TCP MD5, or no room for the key (`net.core.optmem_max`).
    pub fn set_key(&self, remote: IpAddr, key: Option<&Key>) -> Result<(), NetError> {
        options::key(&self.socket, remote, key)
    }

    /// TTL of the answers to a handshake, and smallest TTL that is heard (0: any). Accepted connections begin with both.
    ///
    /// # Errors
    /// When the kernel refuses, which is a bug.
    pub fn set_hops(&self, ttl: u8, least: u8) -> Result<(), NetError> {
        options::hops(&self.socket, self.address.is_ipv6(), ttl, least)
    }

    /// Takes one connection; `None` when there is none.
    ///
    /// # Errors
    /// When no descriptor is left. A connection that broke while it waited is none.
    pub fn accept(&self) -> Result<Option<Stream>, NetError> {
        let (socket, _) = match self.socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if is_later(&error) || error.kind() == io::ErrorKind::ConnectionAborted => return Ok(None),
            Err(error) => return Err(NetError::system("accept a connection")(error)),
        };
        socket.set_nonblocking(true).map_err(NetError::system("make a connection non-blocking"))?;
        // One that is gone already has no other end.
        Ok(Stream::of(socket).ok())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
