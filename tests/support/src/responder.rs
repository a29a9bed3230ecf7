//! What a node serves on its VIP: an echo over UDP and TCP that says which node answered.
//!
//! It listens on the wildcard address, as most services do, and answers from the address it was asked at. It belongs to the
//! lab and not to the daemon under test: it goes on when that is killed or frozen, as a node's services do.

use std::io::{IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{LabError, Netns, Result, capture, fifo};

/// Bytes of a probe and of its answer: sequence number, responder, both big endian; the probe's responder is 0.
pub(crate) const PROBE: usize = 12;
/// How often a thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);
/// A TCP client that says nothing for this long is let go.
const PATIENCE: Duration = Duration::from_millis(500);

/// A running responder; dropped, it stops.
pub struct Responder {
    stop: Arc<AtomicBool>,
    mute: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Responder {
    /// Serves UDP and TCP, both families, on `port` in `netns`, answering as number `id` (not 0).
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(netns: &Netns, id: u32, port: u16) -> Result<Self> {
        let mut responder =
            Self { stop: Arc::default(), mute: Arc::default(), late: Arc::default(), threads: Vec::new() };
        for domain in [Domain::IPV4, Domain::IPV6] {
            let udp = netns.run(|| udp_socket(domain, port))?;
            let (stop, mute) = (Arc::clone(&responder.stop), Arc::clone(&responder.mute));
            let late = Arc::clone(&responder.late);
            responder.threads.push(netns.spawn("responder-udp", move || serve_udp(&udp, id, &stop, &mute, &late)));
            let tcp = netns.run(|| tcp_socket(domain, port))?;
            let stop = Arc::clone(&responder.stop);
            responder.threads.push(netns.spawn("responder-tcp", move || serve_tcp(&tcp, id, &stop)));
        }
        Ok(responder)
    }

    /// While mute it reads datagrams and answers none: an outage that begins and ends when it is told, to the microsecond.
    pub fn mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::Release);
    }

    /// The longest time a datagram lay in the socket since the last call, before this responder read it.
    pub fn take_lateness(&self) -> Duration {
        Duration::from_nanos(self.late.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bound(domain: Domain, kind: Type, protocol: Protocol, port: u16) -> std::io::Result<Socket> {
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_reuse_address(true)?;
    let any = if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
        SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
    } else {
        SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port))
    };
    socket.bind(&any.into())?;
    Ok(socket)
}

fn udp_socket(domain: Domain, port: u16) -> Result<UdpSocket> {
    let socket = bound(domain, Type::DGRAM, Protocol::UDP, port).map_err(LabError::io("responder UDP socket"))?;
    if domain == Domain::IPV6 {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).map_err(LabError::errno("IPV6_RECVPKTINFO"))?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).map_err(LabError::errno("IP_PKTINFO"))?;
    }
    capture::stamp_arrivals(&socket)?;
    // The default holds 277 small datagrams: what arrives while the machine stands still for 300 ms must not be lost here.
    setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).map_err(LabError::errno("SO_RCVBUFFORCE"))?;
    Ok(socket.into())
}

fn serve_udp(socket: &UdpSocket, id: u32, stop: &AtomicBool, mute: &AtomicBool, late: &AtomicU64) {
    fifo();
    let mut buffer = [0; PROBE];
    while !stop.load(Ordering::Relaxed) {
        if !capture::readable(socket.as_fd(), LOOK) {
            continue;
        }
        while let Ok(Some(received)) = capture::receive::<SockaddrStorage>(socket.as_fd(), &mut buffer) {
            late.fetch_max(crate::time::nanos(received.late), Ordering::Relaxed);
            let (Some(from), Some(to)) = (received.from, received.to) else { continue };
            if mute.load(Ordering::Acquire) {
                continue;
            }
            buffer[8..].copy_from_slice(&id.to_be_bytes());
            answer(socket, &buffer, &from, to);
        }
    }
}

/// Answers from the address that was asked. A failure is a lost answer, which the prober counts.
fn answer(socket: &UdpSocket, bytes: &[u8], to: &SockaddrStorage, from: IpAddr) {
    let parts = [IoSlice::new(bytes)];
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let _ = match from {
        IpAddr::V4(from) => {
            let source = libc::in_addr { s_addr: u32::from(from).to_be() };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: source };
            sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(to))
        }
        IpAddr::V6(from) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(to))
        }
    };
}

fn tcp_socket(domain: Domain, port: u16) -> Result<TcpListener> {
    let make = || {
        let socket = bound(domain, Type::STREAM, Protocol::TCP, port)?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    make().map_err(LabError::io("responder TCP socket"))
}

/// One short conversation at a time: the prober sends its probe right behind its SYN.
fn serve_tcp(listener: &TcpListener, id: u32, stop: &AtomicBool) {
    fifo();
    while !stop.load(Ordering::Relaxed) {
        if capture::readable(listener.as_fd(), LOOK)
            && let Ok((stream, _)) = listener.accept()
        {
            // A client that went away is its own loss.
            let _ = echo(stream, id);
        }
    }
}

fn echo(mut stream: TcpStream, id: u32) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; PROBE];
    stream.read_exact(&mut buffer)?;
    buffer[8..].copy_from_slice(&id.to_be_bytes());
    stream.write_all(&buffer)
}
