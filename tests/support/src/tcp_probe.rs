//! A client that opens a new TCP connection to a VIP at every tick, asks once and resets it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use crate::responder::PROBE;
use crate::{LabError, Netns, Probe, ProbeOptions, Record, Result, Stamp, fifo};

/// An attempt without an answer after this time is lost: shorter than TCP's first retransmission (1 s, RFC 6298), so that
/// what is measured is the path and not the client's back-off.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Shared {
    records: Mutex<Vec<Record>>,
    stop: AtomicBool,
}

/// A running TCP prober. Every attempt costs five frames and more: a tick of 2 ms is above one packet per millisecond.
pub struct TcpProber {
    shared: Arc<Shared>,
    options: ProbeOptions,
    thread: Option<JoinHandle<()>>,
}

impl TcpProber {
    /// Connects from `client` to `vip:port` at every `options.interval`.
    ///
    /// # Errors
    /// When the event queue cannot be made.
    pub fn start(client: &Netns, vip: IpAddr, port: u16, options: ProbeOptions) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(LabError::errno("epoll"))?;
        let shared = Arc::new(Shared::default());
        let (own, to) = (Arc::clone(&shared), SocketAddr::new(vip, port));
        let thread = client.spawn("prober-tcp", move || probe(&epoll, to, options.interval, &own));
        Ok(Self { shared, options, thread: Some(thread) })
    }

    /// What it saw so far of attempts that were due since `since`.
    pub fn snapshot(&self, since: Stamp) -> Probe {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        let first = records.partition_point(|r| r.due < since);
        Probe { records: records[first..].to_vec(), interval: self.options.interval }
    }

    /// Stops and gives everything.
    pub fn finish(mut self) -> Probe {
        self.stop();
        self.snapshot(Stamp(0))
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for TcpProber {
    fn drop(&mut self) {
        self.stop();
    }
}

fn probe(epoll: &Epoll, to: SocketAddr, interval: Duration, shared: &Shared) {
    fifo();
    let mut open: HashMap<usize, Socket> = HashMap::new();
    let mut oldest = 0;
    let mut due = Stamp::now() + interval;
    while !shared.stop.load(Ordering::Relaxed) {
        while Stamp::now() >= due {
            let mut records = shared.records.lock().unwrap_or_else(PoisonError::into_inner);
            let sequence = records.len();
            records.push(Record { due, send_late: Stamp::now().since(due), answered: None, by: 0 });
            drop(records);
            if let Some(socket) = connect(epoll, to, sequence) {
                open.insert(sequence, socket);
            }
            due = due + interval;
        }
        while oldest < shared.records.lock().unwrap_or_else(PoisonError::into_inner).len() {
            let age = Stamp::now().since(shared.records.lock().unwrap_or_else(PoisonError::into_inner)[oldest].due);
            if open.contains_key(&oldest) && age < PATIENCE {
                break;
            }
            open.remove(&oldest);
            oldest += 1;
        }
        let mut events = [EpollEvent::empty(); 64];
        // Whole milliseconds only: the tick is met by the loop above, at most 1 ms late, and its lateness is recorded.
        let left = u16::try_from(due.since(Stamp::now()).as_millis()).unwrap_or(u16::MAX);
        let ready = epoll.wait(&mut events, EpollTimeout::from(left)).unwrap_or(0);
        for event in &events[..ready] {
            let sequence = usize::try_from(event.data()).expect("a sequence number");
            let Some(socket) = open.get_mut(&sequence) else { continue };
            match step(epoll, socket, sequence, event.events()) {
                Step::Waits => continue,
                Step::Answered(by) => {
                    let mut records = shared.records.lock().unwrap_or_else(PoisonError::into_inner);
                    records[sequence].answered = Some((Stamp::now(), Duration::ZERO));
                    records[sequence].by = by;
                }
                Step::Failed => {}
            }
            open.remove(&sequence);
        }
    }
}

enum Step {
    Waits,
    Answered(u32),
    Failed,
}

fn connect(epoll: &Epoll, to: SocketAddr, sequence: usize) -> Option<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None).ok()?;
    socket.set_tcp_nodelay(true).ok()?;
    // Reset on close: no TIME_WAIT piles up at either end.
    socket.set_linger(Some(Duration::ZERO)).ok()?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return None,
        _ => {}
    }
    let event = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT, u64::try_from(sequence).ok()?);
    epoll.add(socket.as_fd(), event).ok()?;
    Some(socket)
}

fn step(epoll: &Epoll, socket: &mut Socket, sequence: usize, ready: EpollFlags) -> Step {
    let failed = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
    if ready.intersects(failed) {
        return Step::Failed;
    }
    let tag = u64::try_from(sequence).expect("a sequence number");
    if ready.contains(EpollFlags::EPOLLOUT) {
        let mut bytes = [0; PROBE];
        bytes[..8].copy_from_slice(&tag.to_be_bytes());
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, tag);
        let sent = socket.write(&bytes).is_ok_and(|n| n == PROBE);
        return if sent && epoll.modify(socket.as_fd(), &mut event).is_ok() { Step::Waits } else { Step::Failed };
    }
    let mut bytes = [0; PROBE];
    match socket.read(&mut bytes) {
        Ok(PROBE) if bytes[..8] == tag.to_be_bytes() => {
            Step::Answered(u32::from_be_bytes(bytes[8..].try_into().expect("four bytes")))
        }
        _ => Step::Failed,
    }
}
