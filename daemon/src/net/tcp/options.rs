//! Socket options of BGP sessions.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockAddr, Socket};

use super::{KEY_MAX, Key, Options};
use crate::net::NetError;

/// DSCP CS6, network control (RFC 4594 section 3.2), in the upper six bits of TOS and traffic class.
const TOS_CS6: u32 = 0xc0;
/// Highest priority of an skb: the first band of pfifo_fast, traffic class 7 of mqprio.
const SKB_PRIORITY: i32 = 7;
/// Bytes that may wait unsent in the kernel before it takes no new segment (of up to 64 kB). A withdrawal stands behind so much at most; the
/// rest waits where it can still be changed.
const NOTSENT_LOWAT: u32 = 16 << 10;
/// `IPV6_MINHOPCOUNT` of `linux/in6.h`.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// What every session has, however it is made; an accepted connection inherits it from its listener.
pub(super) fn common(socket: &Socket, v6: bool) -> Result<(), NetError> {
    let set = || {
        if v6 {
            socket.set_only_v6(true)?;
            socket.set_tclass_v6(TOS_CS6)?;
        } else {
            socket.set_tos_v4(TOS_CS6)?;
        }
        // After the TOS: setting that resets the priority.
        setsockopt(socket, sockopt::Priority, &SKB_PRIORITY)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        // Liveness is the hold timer's: keepalives of TCP can be forged and prove nothing about the speaker.
        socket.set_keepalive(false)
    };
    set().map_err(NetError::system::<io::Error>("set the options of a BGP connection"))
}

/// What differs between sessions.
pub(super) fn session(socket: &Socket, v6: bool, how: &Options) -> Result<(), NetError> {
    hops(socket, v6, how.hops.ttl(), how.hops.least())?;
    let timeout = how.user_timeout;
    socket.set_tcp_user_timeout(Some(timeout)).map_err(NetError::system("set TCP_USER_TIMEOUT"))
}

/// TTL to send with and smallest TTL to accept, hop limits in IPv6.
pub(super) fn hops(socket: &Socket, v6: bool, ttl: u8, least: u8) -> Result<(), NetError> {
    let (sent, level, name) = if v6 {
        (socket.set_unicast_hops_v6(u32::from(ttl)), libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT)
    } else {
        (socket.set_ttl_v4(u32::from(ttl)), libc::IPPROTO_IP, libc::IP_MINTTL)
    };
    sent.map_err(NetError::setting("multihop", ttl))?;
    set(socket, level, name, &libc::c_int::from(least)).map_err(NetError::setting("ttlSecurity", least))
}

/// Binds to the link, if one is named; returns its index, which is the scope of link-local addresses.
pub(super) fn link(socket: &Socket, name: Option<&str>) -> Result<Option<u32>, NetError> {
    let Some(name) = name else { return Ok(None) };
    let index = if_nametoindex(name).map_err(NetError::setting("interface", name))?;
    socket.bind_device(Some(name.as_bytes())).map_err(NetError::setting("interface", name))?;
    Ok(Some(index))
}

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix: u8,
    length: u16,
    /// A VRF, when flagged. Never set: a key without it holds in every VRF, and other links are refused by the kernel.
    interface: libc::c_int,
    key: [u8; KEY_MAX],
}

/// Sets the key for segments from and to `remote`; `None` takes it back, which succeeds when there is none.
pub(super) fn key(socket: &Socket, remote: IpAddr, key: Option<&Key>) -> Result<(), NetError> {
    let bytes = key.map_or(&[][..], |key| &key.0);
    let refused = NetError::setting("passwordFile, key for", remote);
    let mut padded = [0; KEY_MAX];
    match padded.get_mut(..bytes.len()) {
        Some(front) => front.copy_from_slice(bytes),
        None => return Err(refused(io::Error::from_raw_os_error(libc::EINVAL))),
    }
    let address = SockAddr::from(SocketAddr::new(remote, 0));
    let option = TcpMd5Sig {
        address: storage(&address),
        flags: 0,
        prefix: 0,
        length: u16::try_from(bytes.len()).expect("at most 80"),
        interface: 0,
        key: padded,
    };
    match set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option) {
        Err(error) if key.is_none() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(refused),
    }
}

fn storage(address: &SockAddr) -> libc::sockaddr_storage {
    // SAFETY: all zero is a valid sockaddr_storage: an address of no family.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = usize::try_from(address.len()).unwrap_or(usize::MAX).min(size_of::<libc::sockaddr_storage>());
    // SAFETY: `address` holds `address.len()` initialised bytes, `storage` at least as many; the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(address.as_ptr().cast::<u8>(), (&raw mut storage).cast::<u8>(), length) };
    storage
}

/// `SIOCOUTQ` of `linux/sockios.h`, which is `TIOCOUTQ`.
pub(super) fn unacknowledged(socket: &Socket) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int to the pointer, which is that of a live one.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { Ok(usize::try_from(count).unwrap_or_default()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option that socket2 does not know. `value` must be the plain C type that the option wants.
fn set<T: Copy>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_a_key_is_the_kernels() {
        // `linux/tcp.h`: 128 bytes of address, flags, prefix length, key length, interface, 80 bytes of key.
        assert_eq!(size_of::<TcpMd5Sig>(), 128 + 1 + 1 + 2 + 4 + 80);
        assert_eq!(std::mem::offset_of!(TcpMd5Sig, key), 136);
    }
}
