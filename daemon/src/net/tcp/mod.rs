//! TCP for BGP sessions: connections that are dialled and accepted with the protections a routing session needs.
//!
//! Nothing here blocks: a [`Dial`] is settled when its descriptor becomes writable, a [`Stream`] reads and writes what the kernel has room
//! for. Who dials whom, when, and what a failure means is decided elsewhere.

mod listener;
mod options;

use std::io::{self, Read as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

pub use listener::Listener;

use super::NetError;

/// Longest key of TCP MD5 in bytes (`TCP_MD5SIG_MAXKEYLEN` of `linux/tcp.h`).
pub const KEY_MAX: usize = 80;

/// How a connection is made, resolved from the configuration of a neighbor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Own address; the kernel chooses when absent.
    pub source: Option<IpAddr>,
    /// Link by name: the connection uses this one only, and it is the scope of link-local addresses.
    pub interface: Option<String>,
    /// Distance to the other end.
    pub hops: Hops,
    /// TCP MD5 key (RFC 2385).
    pub key: Option<Key>,
    /// How long sent bytes may stay unacknowledged, or untaken by a closed window, before the kernel gives the connection up.
    pub user_timeout: Duration,
}

/// Distance to the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hops {
    /// Send with this TTL, accept any.
    Limit(u8),
    /// GTSM (RFC 5082): send with 255, accept 255 - hops + 1 and more; never 0.
    Security(u8),
}

impl Hops {
    /// TTL or hop limit of what is sent.
    pub fn ttl(self) -> u8 {
        match self {
            Self::Limit(ttl) => ttl,
            Self::Security(_) => u8::MAX,
        }
    }

    /// Smallest TTL or hop limit that is accepted; 0 accepts all.
    pub fn least(self) -> u8 {
        match self {
            Self::Limit(_) => 0,
            Self::Security(hops) => u8::MAX - hops.saturating_sub(1),
        }
    }
}

/// A TCP MD5 key. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A connection on its way. Readiness for writing says that it is settled.
#[derive(Debug)]
pub struct Dial {
    socket: Socket,
    remote: SocketAddr,
}

impl Dial {
    /// Starts to connect from the network namespace of the calling thread. A link-local `remote` needs an interface.
    ///
    /// # Errors
    /// A setting that the kernel refuses, by its name, or an answer that is known at once (no route).
    pub fn start(remote: SocketAddr, how: &Options) -> Result<Self, NetError> {
        let socket = open(Domain::for_address(remote))?;
        let scope = options::link(&socket, how.interface.as_deref())?;
        options::common(&socket, remote.is_ipv6())?;
        options::session(&socket, remote.is_ipv6(), how)?;
        if let Some(key) = &how.key {
            options::key(&socket, remote.ip(), Some(key))?;
        }
        if let Some(source) = how.source {
            let bound = socket.bind(&scoped(SocketAddr::new(source, 0), scope)?.into());
            bound.map_err(NetError::setting("source", source))?;
        }
        let remote = scoped(remote, scope)?;
        match socket.connect(&remote.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                Err(NetError::Connect { remote, source: error })
            }
            _ => Ok(Self { socket, remote }),
        }
    }

    /// As [`Stream::set_key`], while the handshake is under way.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_key(&self, key: &Key) -> Result<(), NetError> {
        options::key(&self.socket, self.remote.ip(), Some(key))
    }

    /// Whether it is settled: `None` while it is under way, then how it ended.
    pub fn settled(&self) -> Option<Result<(), NetError>> {
        let failed = |source| Some(Err(NetError::Connect { remote: self.remote, source }));
        match self.socket.take_error() {
            Ok(Some(error)) | Err(error) => return failed(error),
            Ok(None) => {}
        }
        match self.socket.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => failed(error),
        }
    }

    /// The connection, once [`Self::settled`] said that it stands.
    ///
    /// # Errors
    /// When it broke meanwhile.
    pub fn into_stream(self) -> Result<Stream, NetError> {
        Stream::of(self.socket)
    }
}

impl AsFd for Dial {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What one reading gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The other end sends no more.
    End,
}

/// A connection that stands. Non-blocking; readiness by [`AsFd`]. Dropped, it closes: with a FIN, or with a RST when bytes that arrived
/// were not read.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Stream {
    fn of(socket: Socket) -> Result<Self, NetError> {
        let address = |found: io::Result<socket2::SockAddr>| {
            found.and_then(|a| a.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported)))
        };
        let local = address(socket.local_addr()).map_err(NetError::system("name the own end of a connection"))?;
        let remote = address(socket.peer_addr()).map_err(NetError::system("name the other end of a connection"))?;
        Ok(Self { socket, local, remote })
    }

    /// Own end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other end.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Protects an accepted connection as `how` says (key and source belong to the handshake and were the listener's).
    ///
    /// # Errors
    /// A setting that the kernel refuses, by its name; a link-local other end that is on another link than [`Options::interface`].
    pub fn protect(&self, how: &Options) -> Result<(), NetError> {
        let link = options::link(&self.socket, how.interface.as_deref())?;
        if scoped(self.remote, link)? != self.remote {
            let other = io::Error::from(io::ErrorKind::AddrNotAvailable);
            return Err(NetError::Connect { remote: self.remote, source: other });
        }
        options::session(&self.socket, self.remote.is_ipv6(), how)
    }

    /// Signs and checks segments with this key from now on, in place of the one that the connection was made with.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_key(&self, key: &Key) -> Result<(), NetError> {
        options::key(&self.socket, self.remote.ip(), Some(key))
    }

    /// Reads once.
    ///
    /// # Errors
    /// The kernel's, which end the connection.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        match (&self.socket).read(buffer) {
            Ok(0) => Ok(Read::End),
            Ok(count) => Ok(Read::Bytes(count)),
            Err(error) if is_later(&error) => Ok(Read::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Writes what the kernel has room for; 0 when it has none.
    ///
    /// # Errors
    /// The kernel's, which end the connection.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.send_with_flags(bytes, libc::MSG_NOSIGNAL) {
            Err(error) if is_later(&error) => Ok(0),
            other => other,
        }
    }

    /// Bytes that the other end has not acknowledged, those that were not sent yet included (`SIOCOUTQ`). The FIN counts as one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unacknowledged(&self) -> Result<usize, NetError> {
        options::unacknowledged(&self.socket).map_err(NetError::system("ask for unacknowledged bytes"))
    }

    /// Says that no more will be sent; reading goes on.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Makes the drop a RST: bytes on their way are thrown away, and the other end learns that it is over even when its window is closed,
    /// behind which a FIN could never pass.
    pub fn reset_on_close(&self) {
        // Refused only on a socket that is gone.
        let _linger = self.socket.set_linger(Some(Duration::ZERO));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(domain: Domain) -> Result<Socket, NetError> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(domain, kind, Some(Protocol::TCP)).map_err(NetError::system("open a TCP socket"))
}

/// Link-local addresses get the scope of the interface, and are meaningless without one.
fn scoped(address: SocketAddr, scope: Option<u32>) -> Result<SocketAddr, NetError> {
    match (address, scope) {
        (SocketAddr::V6(mut v6), scope) if v6.ip().is_unicast_link_local() => {
            let scope = scope.ok_or(NetError::NoScope { address: *v6.ip() })?;
            v6.set_scope_id(scope);
            Ok(v6.into())
        }
        _ => Ok(address),
    }
}

/// Errors that mean "try again".
fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_become_a_ttl_to_send_and_one_to_accept() {
        assert_eq!((Hops::Limit(1).ttl(), Hops::Limit(1).least()), (1, 0));
        assert_eq!((Hops::Security(1).ttl(), Hops::Security(1).least()), (255, 255));
        assert_eq!(Hops::Security(3).least(), 253);
        assert_eq!(Hops::Security(255).least(), 1);
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", Key(b"secret".to_vec())), "Key(..)");
    }

    #[test]
    fn only_link_local_addresses_get_a_scope() {
        let local: SocketAddr = "[fe80::1]:179".parse().expect("address");
        assert!(scoped(local, None).is_err());
        let SocketAddr::V6(with) = scoped(local, Some(7)).expect("scoped") else { panic!("family changed") };
        assert_eq!(with.scope_id(), 7);
        let global: SocketAddr = "[2001:db8::1]:179".parse().expect("address");
        assert_eq!(scoped(global, Some(7)).expect("unscoped"), global);
    }
}
