//! `recvmsg` and `sendmsg` with the link and the addresses in control messages.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use bascule_core::types::LinkId;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
};

use crate::net::NetError;

/// A datagram as it arrived; its bytes are in the caller's buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Where it arrived.
    pub link: LinkId,
    /// IP source.
    pub src: IpAddr,
    /// IP destination.
    pub dst: IpAddr,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// Where in the buffer the payload lies. A datagram longer than the buffer is cut at its end.
    pub payload: Range<usize>,
}

/// Takes one datagram; `None` when there is none.
pub(super) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<Datagram>, NetError> {
    // in6_pktinfo is the larger one; the TTL is an int in both families.
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
            Ok(message) => break message,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(NetError::system("receive a datagram")(error)),
        }
    };
    let source = message.address.ok_or(NetError::NoControl("source address"))?;
    let src = match (source.as_sockaddr_in(), source.as_sockaddr_in6()) {
        (Some(v4), _) => IpAddr::V4(v4.ip()),
        (_, Some(v6)) => IpAddr::V6(v6.ip()),
        _ => return Err(NetError::NoControl("source address")),
    };
    let (mut arrived, mut ttl) = (None, None);
    for control in message.cmsgs().map_err(NetError::system("read control messages"))? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // in_addr holds network byte order; an interface index is never negative.
                let dst = IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into());
                arrived = Some((LinkId(info.ipi_ifindex.unsigned_abs()), dst));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                arrived = Some((LinkId(info.ipi6_ifindex), IpAddr::V6(info.ipi6_addr.s6_addr.into())));
            }
            ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                ttl = u8::try_from(value).ok();
            }
            _ => {}
        }
    }
    let (link, dst) = arrived.ok_or(NetError::NoControl("packet info"))?;
    let ttl = ttl.ok_or(NetError::NoControl("TTL"))?;
    Ok(Some(Datagram { link, src, dst, ttl, payload: 0..message.bytes }))
}

/// Sends one datagram from `src` out of `link`; `port` is 0 for raw sockets.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    link: LinkId,
    src: IpAddr,
    dst: IpAddr,
    port: u16,
    payload: &[u8],
) -> Result<(), NetError> {
    let parts = [IoSlice::new(payload)];
    let sent = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(to)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: i32::try_from(link.0).unwrap_or(i32::MAX),
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(src).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let to = SockaddrIn::from(SocketAddrV4::new(to, port));
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            retry(|| sendmsg(fd.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to)))
        }
        (IpAddr::V6(src), IpAddr::V6(to)) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: src.octets() }, ipi6_ifindex: link.0 };
            // A scope is only legal for destinations that need one.
            let scope = if to.is_unicast_link_local() || to.is_multicast() { link.0 } else { 0 };
            let to = SockaddrIn6::from(SocketAddrV6::new(to, port, 0, scope));
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            retry(|| sendmsg(fd.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to)))
        }
        _ => return Err(NetError::MixedFamilies { src, dst }),
    };
    sent.map(drop).map_err(NetError::system("send a datagram"))
}

/// Repeats a call that a signal interrupted.
fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> nix::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
