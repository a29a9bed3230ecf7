//! Socket options that the VRRP, the peer and the BFD sockets share, and those that no crate wraps.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use bascule_core::types::{Family, LinkId};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{InterfaceIndexOrAddress, Socket};

use crate::net::{NetError, enlarge};

/// VRRP group, 224.0.0.18 (RFC 9568 section 5.1.1.2).
pub(super) const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// VRRP group, ff02::12 (RFC 9568 section 5.1.2.2).
pub(super) const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// DSCP CS6, network control (RFC 4594 section 3.2), in the upper six bits of TOS and traffic class.
const TOS_CS6: u32 = 0xc0;
/// Highest priority of an skb: the first band of pfifo_fast, traffic class 7 of mqprio.
pub(super) const SKB_PRIORITY: i32 = 7;
/// Receive buffer in bytes: some thousand small packets, what 1,000 virtual routers send in a stall of a second at 1 s intervals.
pub(super) const RECEIVE_BUFFER: usize = 2 << 20;

/// Everything but TTLs: no own packets back, only groups joined here, link and TTL reported, network control.
pub(super) fn common(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => {
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_all_v4(false)?;
        }
        Family::V6 => {
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_all_v6(false)?;
        }
    }
    report(socket, family)?;
    network_control(socket, family)?;
    enlarge(socket, RECEIVE_BUFFER)
}

/// Link, destination and TTL come with every packet.
pub(super) fn report(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
        }
        Family::V6 => {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            socket.set_recv_hoplimit_v6(true)?;
        }
    }
    Ok(())
}

/// Packets leave as network control, before the node's other traffic.
pub(super) fn network_control(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => socket.set_tos_v4(TOS_CS6)?,
        Family::V6 => socket.set_tclass_v6(TOS_CS6)?,
    }
    // After the TOS: setting that resets the priority.
    Ok(setsockopt(socket, sockopt::Priority, &SKB_PRIORITY)?)
}

/// Joins the VRRP group of the family on a link; already joined is success.
pub(super) fn join(socket: &Socket, family: Family, link: LinkId) -> Result<(), NetError> {
    let joined = match family {
        Family::V4 => socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(link.0)),
        Family::V6 => socket.join_multicast_v6(&GROUP_V6, link.0),
    };
    match joined {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        other => other.map_err(NetError::system("join the VRRP multicast group")),
    }
}

/// Leaves it; not joined, or a link that is gone, is success.
pub(super) fn leave(socket: &Socket, family: Family, link: LinkId) -> Result<(), NetError> {
    let left = match family {
        Family::V4 => socket.leave_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(link.0)),
        Family::V6 => socket.leave_multicast_v6(&GROUP_V6, link.0),
    };
    match left {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        other => other.map_err(NetError::system("leave the VRRP multicast group")),
    }
}

/// Sets an option that neither nix nor socket2 knows. `value` must be the plain C type that the option wants.
pub(super) fn set<T: Copy>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel only reads it.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
