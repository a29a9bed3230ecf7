//! Watches a router's kernel tables: when a route came, changed or went, by the kernel's own notice (rtnetlink(7)).

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;

use crate::{LabError, Netns, Result, Stamp, capture, fifo, wait_for};

/// How often the thread looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// What became of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was added, or its next hops are others now (RTM_NEWROUTE).
    Set,
    /// It was deleted (RTM_DELROUTE).
    Gone,
}

/// One notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEvent {
    /// When this process read it.
    pub at: Stamp,
    /// The route.
    pub prefix: IpNet,
    /// What became of it.
    pub change: Change,
}

/// A running watch. Dropped, it stops.
#[derive(Debug)]
pub struct RouteWatch {
    events: Arc<Mutex<Vec<RouteEvent>>>,
    lost: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RouteWatch {
    /// Watches both families' tables of `netns`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.run(subscribe)?;
        let (events, lost, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::default(), Arc::default());
        let (into, missed, end) = (Arc::clone(&events), Arc::clone(&lost), Arc::clone(&stop));
        let thread = Some(netns.spawn("route-watch", move || read(&socket, &into, &missed, &end)));
        Ok(Self { events, lost, stop, thread })
    }

    /// Notices since `since`, in order.
    pub fn events(&self, since: Stamp) -> Vec<RouteEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| event.at >= since).copied().collect()
    }

    /// True when the kernel had to drop notices: then their absence proves nothing.
    pub fn overrun(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits for the first notice of this kind about `prefix` since `since`.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn wait(&self, prefix: IpNet, change: Change, since: Stamp, deadline: Duration) -> Result<RouteEvent> {
        wait_for(deadline, &format!("the kernel's route to {prefix} to be {change:?}"), || {
            self.events(since).into_iter().find(|event| event.prefix == prefix && event.change == change)
        })
    }
}

impl Drop for RouteWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A netlink socket in the groups of both families' routes.
fn subscribe() -> Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers; a descriptor it gives is ours alone.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(LabError::io("netlink socket")(std::io::Error::last_os_error()));
        }
        OwnedFd::from_raw_fd(fd)
    };
    // A full table of 10,000 routes must fit while the thread waits for its turn.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(16 << 20))
        .map_err(LabError::errno("SO_RCVBUFFORCE"))?;
    let groups = u32::try_from(libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE).expect("two small bits");
    let address = nix::sys::socket::NetlinkAddr::new(0, groups);
    nix::sys::socket::bind(socket.as_raw_fd(), &address).map_err(LabError::errno("netlink bind"))?;
    Ok(socket)
}

fn read(socket: &OwnedFd, events: &Mutex<Vec<RouteEvent>>, lost: &AtomicBool, stop: &AtomicBool) {
    fifo();
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if !capture::readable(socket.as_fd(), LOOK) {
            continue;
        }
        match nix::sys::socket::recv(socket.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                let found = parse(&buffer[..length], Stamp::now());
                events.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            }
            Err(nix::errno::Errno::ENOBUFS) => lost.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }
}

/// Messages of one datagram: nlmsghdr (16 octets), rtmsg (12), attributes; each aligned to 4 (netlink(7), rtnetlink(7)).
fn parse(mut datagram: &[u8], at: Stamp) -> Vec<RouteEvent> {
    let mut events = Vec::new();
    while let Some(length) = datagram.first_chunk().map(|b| u32::from_ne_bytes(*b)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = datagram.get(..length).filter(|_| length >= 28) else { break };
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let change = match kind {
            libc::RTM_NEWROUTE => Some(Change::Set),
            libc::RTM_DELROUTE => Some(Change::Gone),
            _ => None,
        };
        if let (Some(change), Some(prefix)) = (change, destination(&message[16..])) {
            events.push(RouteEvent { at, prefix, change });
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

/// RTA_DST of a route message; None for a default route, which has none.
fn destination(message: &[u8]) -> Option<IpNet> {
    let length = message[1];
    let mut rest = message.get(12..)?;
    while let Some(&[a, b, c, d]) = rest.first_chunk() {
        let (size, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = rest.get(4..size)?;
        if kind == libc::RTA_DST {
            let address = match value.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
                16 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
                _ => return None,
            };
            return IpNet::new(address, length).ok();
        }
        rest = rest.get(size.next_multiple_of(4)..)?;
    }
    None
}
