//! Whole Ethernet frames of one link: ARP, NS and NA in and out, and adverts to a group out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use bascule_core::types::LinkId;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use socket2::{Domain, SockFilter, Socket, Type};

use super::options;
use crate::net::{NetError, enlarge};

/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`, since Linux 4.20: own frames are not delivered to us.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Packet socket of one link. Non-blocking; readiness by [`AsFd`].
///
/// `PACKET_QDISC_BYPASS` stays off: frames that we send must pass the fence at the link's egress.
#[derive(Debug)]
pub struct NeighborSocket {
    socket: Socket,
    link: LinkId,
}

impl NeighborSocket {
    /// Opens it in the network namespace of the calling thread. From the first moment only ARP, NS and NA can be read.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or when the link does not exist.
    pub fn open(link: LinkId) -> Result<Self, NetError> {
        let socket = open(link).map_err(NetError::system("open the neighbour socket"))?;
        Ok(Self { socket, link })
    }

    /// The link it belongs to.
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// Takes one frame and returns its length; `None` when there is none. A frame longer than the buffer is cut at its end.
    ///
    /// # Errors
    /// Those of `recv`. A link that went down is none of them: the socket stays valid and hears again when the link is back.
    pub fn recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, NetError> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => return Ok(Some(length)),
                // The kernel reports a link that goes down once, as an error; frames may still be queued behind it.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(NetError::system("receive a frame")(error)),
            }
        }
    }

    /// Sends a whole Ethernet frame.
    ///
    /// # Errors
    /// Those of `send`: the link is down (ENETDOWN) or gone (ENXIO), no room or dropped by the fence (ENOBUFS), longer than the MTU (EMSGSIZE).
    pub fn send(&self, frame: &[u8]) -> Result<(), NetError> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(NetError::system("send a frame")),
            }
        }
    }
}

impl AsFd for NeighborSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(link: LinkId) -> io::Result<Socket> {
    let index = i32::try_from(link.0).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // Protocol 0 hears nothing: the filter is in place before the first frame can come.
    let socket = Socket::new_raw(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
    socket.attach_filter(&filter())?;
    match options::set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32) {
        // Kernels before 4.20 cannot: own frames come back then and are told by their source MAC.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {}
        other => other?,
    }
    // NAs to groups that the host has not joined must be seen as well: a rival answers whoever asked.
    let membership = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: u16::try_from(libc::PACKET_MR_ALLMULTI).expect("a constant below 2^16"),
        mr_alen: 0,
        mr_address: [0; 8],
    };
    options::set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    setsockopt(&socket, sockopt::Priority, &options::SKB_PRIORITY)?;
    enlarge(&socket, options::RECEIVE_BUFFER)?;
    bind(&socket, index)?;
    Ok(socket)
}

/// Binds to every protocol of the link.
fn bind(socket: &Socket, index: i32) -> io::Result<()> {
    let protocol = u16::try_from(libc::ETH_P_ALL).expect("a constant below 2^16");
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("a constant below 2^16"),
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("a small struct");
    // SAFETY: the pointer and the length describe `address`, a complete sockaddr_ll; the kernel only reads it.
    let result = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Classic BPF over the Ethernet frame: untagged ARP, and ICMPv6 directly after the IPv6 header of type 135 or 136.
///
/// ND messages with extension headers do not pass; hosts do not send them (RFC 6980 forbids fragments, and the parser wants none).
fn filter() -> [SockFilter; 13] {
    /// `SKF_AD_OFF + SKF_AD_VLAN_TAG` of `linux/filter.h`: the tag that the NIC took off, 0 when there was none.
    const VLAN_TAG: u32 = 0xffff_f000 + 44;
    /// `BPF_LD` of a word, a half word and a byte at an absolute offset.
    const LDW: u16 = 0x20;
    const LDH: u16 = 0x28;
    const LDB: u16 = 0x30;
    const AND: u16 = 0x54;
    /// `BPF_JMP | BPF_JEQ | BPF_K`.
    const JEQ: u16 = 0x15;
    const RET: u16 = 0x06;
    const ACCEPT: u8 = 12;
    const DROP: u8 = 11;
    // Jumps are relative to the next instruction.
    let equal = |at: u8, value: u32, yes: u8, no: u8| SockFilter::new(JEQ, yes - at - 1, no - at - 1, value);
    [
        SockFilter::new(LDW, 0, 0, VLAN_TAG),
        SockFilter::new(AND, 0, 0, 0x0fff),
        equal(2, 0, 3, DROP),
        SockFilter::new(LDH, 0, 0, 12),
        equal(4, 0x0806, ACCEPT, 5),
        equal(5, 0x86dd, 6, DROP),
        SockFilter::new(LDB, 0, 0, 14 + 6),
        equal(7, 58, 8, DROP),
        SockFilter::new(LDB, 0, 0, 14 + 40),
        equal(9, 135, ACCEPT, 10),
        equal(10, 136, ACCEPT, DROP),
        SockFilter::new(RET, 0, 0, 0),
        SockFilter::new(RET, 0, 0, u32::MAX),
    ]
}
