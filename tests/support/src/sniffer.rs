//! Watches every port of one or more switches, and tells who spoke for a VIP when.
//!
//! A frame counts where the LAN carried it: as the switch sent it out of a port. What a cut node still sends is seen as well
//! (`out == false` on its own port) but is not counted as carried.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::LinkAddr;
use socket2::{Domain, Protocol, Socket, Type};

use crate::bridge::PortKind;
use crate::{Bridge, Frame, Kind, LabError, Mac, Result, Stamp, capture, classify};

/// Frames kept; at 2,000 VIP frames a second this is more than eight minutes. What is pushed out is counted.
const KEPT: usize = 1 << 20;
/// Enough of a frame for every header that is looked at.
const SNAP: usize = 160;
/// How often a capturing thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);
/// Copies of one broadcast leave all ports of a switch within this time.
const COPIES: Duration = Duration::from_millis(2);
/// How far apart in the log two frames of the wrong order may be stamped.
const DISORDER: Duration = Duration::from_secs(1);
/// Receive buffer of a capture, bytes: a stall of the reading thread of one second at 10,000 frames.
const BUFFER: usize = 32 << 20;

/// Frames by which a node other than the owner spoke for a VIP.
#[derive(Debug, Default, Clone)]
pub struct Dual {
    /// ARP replies, gratuitous ARP, neighbour advertisements, SYN-ACKs.
    pub claims: Vec<Frame>,
    /// Other packets with the VIP as their source.
    pub served: Vec<Frame>,
}

#[derive(Default)]
struct Log {
    frames: VecDeque<Frame>,
}

struct Shared {
    vips: Vec<IpAddr>,
    log: Mutex<Log>,
    stop: AtomicBool,
    pushed_out: AtomicU64,
    dropped: AtomicU64,
}

/// A running capture; dropped, it stops.
pub struct Sniffer {
    shared: Arc<Shared>,
    bridges: Vec<Bridge>,
    threads: Vec<JoinHandle<()>>,
}

impl Sniffer {
    /// Starts to watch every port of `bridges`, also ports that are added later. Of ordinary IP packets only those from
    /// `vips` are kept.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(bridges: &[&Bridge], vips: &[IpAddr]) -> Result<Self> {
        let shared = Arc::new(Shared {
            vips: vips.to_vec(),
            log: Mutex::default(),
            stop: AtomicBool::new(false),
            pushed_out: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        for bridge in bridges {
            let socket = bridge.netns().run(open)?;
            let (shared, id, own) = (Arc::clone(&shared), bridge.id(), bridge.netns().ifindex("br0")?);
            threads.push(bridge.netns().spawn("sniffer", move || capture_loop(&socket, id, own, &shared)));
        }
        Ok(Self { shared, bridges: bridges.iter().map(|b| (*b).clone()).collect(), threads })
    }

    /// Frames since `since` that `wanted` picks, in the order the switch handled them.
    pub fn frames(&self, since: Stamp, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let log = self.shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Frames of several switches are logged in nearly the order of their stamps: within a capture's own lateness.
        let first = log.frames.partition_point(|f| f.at < since - DISORDER);
        let mut found: Vec<Frame> = log.frames.range(first..).filter(|f| f.at >= since && wanted(f)).copied().collect();
        drop(log);
        found.sort_by_key(|f| f.at);
        found
    }

    /// Like [`Sniffer::frames`], but only what the LAN carried to a host, each frame once however many ports it left by.
    pub fn carried(&self, since: Stamp, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut found: Vec<Frame> = Vec::new();
        for frame in self.frames(since, |f| f.out && self.to_host(f) && wanted(f)) {
            let copy = |f: &&Frame| f.digest == frame.digest && f.bridge == frame.bridge;
            let recent = found.iter().rev().take_while(|f| frame.at.since(f.at) < COPIES);
            if recent.into_iter().find(copy).is_none() {
                found.push(frame);
            }
        }
        found
    }

    fn to_host(&self, frame: &Frame) -> bool {
        let bridge = self.bridges.iter().find(|b| b.id() == frame.bridge);
        matches!(bridge.and_then(|b| b.port_kind(frame.port)), Some(PortKind::Host(_)))
    }

    /// The first unasked claim (gratuitous ARP, unsolicited advertisement) of `vip` since `since` by a sender that
    /// `by` accepts.
    pub fn first_announcement(&self, vip: IpAddr, since: Stamp, by: impl Fn(Mac) -> bool) -> Option<Frame> {
        self.carried(since, |f| f.announces() && f.speaks_for() == Some(vip) && by(f.src)).into_iter().next()
    }

    /// Who announced `vip` since `since`, one entry per change of the announcing MAC.
    pub fn announcers(&self, vip: IpAddr, since: Stamp) -> Vec<(Stamp, Mac)> {
        let mut changes: Vec<(Stamp, Mac)> = Vec::new();
        for frame in self.carried(since, |f| f.announces() && f.speaks_for() == Some(vip)) {
            if changes.last().is_none_or(|(_, mac)| *mac != frame.src) {
                changes.push((frame.at, frame.src));
            }
        }
        changes
    }

    /// Frames in `from..until`, carried by the LAN (by the switch `on` only, when given), by which a node other than
    /// `owner` spoke for `vip`. For a fault, `owner` is the successor and `from` its first announcement.
    pub fn dual_frames(&self, vip: IpAddr, owner: Mac, from: Stamp, until: Stamp, on: Option<&Bridge>) -> Dual {
        let wrong = |f: &Frame| {
            f.at < until
                && f.src != owner
                && f.speaks_for() == Some(vip)
                && on.is_none_or(|bridge| bridge.id() == f.bridge)
        };
        let (claims, served) = self.carried(from, wrong).into_iter().partition(Frame::claims);
        Dual { claims, served }
    }

    /// VRRP advertisements of `vrid` that came in from the nodes since `since`.
    pub fn adverts(&self, vrid: u8, since: Stamp) -> Vec<Frame> {
        self.frames(since, |f| !f.out && matches!(f.kind, Kind::Vrrp { vrid: id, .. } if id == vrid))
    }

    /// Makes room: nobody will ask for frames before `before` any more. These count as lost to nobody.
    pub fn forget(&self, before: Stamp) {
        let mut log = self.shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = log.frames.partition_point(|f| f.at < before - DISORDER);
        log.frames.drain(..gone);
    }

    /// Frames that the kernel or the bounded log lost: when not 0, "no frame seen" proves nothing.
    pub fn lost(&self) -> u64 {
        self.shared.pushed_out.load(Ordering::Relaxed) + self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn open() -> Result<Socket> {
    let all = u16::try_from(libc::ETH_P_ALL).expect("an ethertype has 16 bits").to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(all))))
        .map_err(LabError::io("packet socket"))?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)
        .map_err(LabError::errno("SO_RCVBUFFORCE"))?;
    capture::stamp_arrivals(&socket)?;
    Ok(socket)
}

fn capture_loop(socket: &Socket, bridge: u16, own: u32, shared: &Shared) {
    // A log that lags behind a busy machine would answer "not seen" where "not yet read" is true.
    crate::fifo();
    let mut buffer = [0; SNAP];
    while !shared.stop.load(Ordering::Relaxed) {
        if !capture::readable(socket.as_fd(), LOOK) {
            shared.dropped.fetch_add(kernel_drops(socket), Ordering::Relaxed);
            continue;
        }
        // A switch that is taken away ends the capture; what was seen stays.
        while let Ok(Some(received)) = capture::receive::<LinkAddr>(socket.as_fd(), &mut buffer) {
            let (Some(from), Some(bytes)) = (received.from, buffer.get(..received.len)) else { continue };
            let port = u32::try_from(from.ifindex()).expect("an interface index has 31 bits");
            // The bridge device sees a copy of every group frame: the switch's own ear, no port.
            if port == own {
                continue;
            }
            let Some((src, dst, kind, digest)) = classify(bytes) else { continue };
            if let Kind::Ip { source, .. } = kind
                && !shared.vips.contains(&source)
            {
                continue;
            }
            let out = from.pkttype() == libc::PACKET_OUTGOING;
            let frame = Frame { at: received.at, bridge, port, out, src, dst, kind, digest };
            let mut log = shared.log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.frames.len() == KEPT {
                log.frames.pop_front();
                shared.pushed_out.fetch_add(1, Ordering::Relaxed);
            }
            log.frames.push_back(frame);
        }
    }
}

/// Frames the kernel dropped on this socket since the last call (PACKET_STATISTICS resets itself).
fn kernel_drops(socket: &Socket) -> u64 {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&stats)).expect("eight bytes");
    // SAFETY: `stats` and `length` are valid for writes and the length is that of `stats`; the socket is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    };
    if result == 0 { u64::from(stats.tp_drops) } else { 0 }
}
