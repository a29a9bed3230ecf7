//! The server end: checks the order of records, echoes them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::conn::{Conn, Heard};
use super::record;
use crate::{LabError, Netns, Result};

/// Pending connections; above somaxconn's default the kernel takes that.
const BACKLOG: i32 = 4096;
/// How often the stop flag is looked at.
const TICK_MS: u16 = 20;
/// Token of the listener; connections have their descriptors.
const LISTENER: u64 = u64::MAX;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicU64,
    records: AtomicU64,
    disorder: AtomicU64,
}

/// A running server. Stops when dropped; its connections end with it.
pub struct AuditServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl AuditServer {
    /// Serves on `port` of `netns` as server number `number`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(netns: &Netns, number: u32, port: u16) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let (ready, started) = mpsc::sync_channel(1);
        let thread = netns.spawn(&format!("audit-{number}"), move || match open(port) {
            Ok((listener, epoll)) => {
                // The other end waits for it.
                let _ = ready.send(Ok(()));
                serve(&listener, &epoll, number, &own);
            }
            Err(error) => drop(ready.send(Err(error))),
        });
        let opened = started.recv().unwrap_or_else(|_| Err(std::io::Error::other("the server's thread panicked")));
        opened.map_err(LabError::io("the audit server's socket"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Connections it took.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Records it echoed.
    pub fn records(&self) -> u64 {
        self.shared.records.load(Ordering::Relaxed)
    }

    /// Records that came out of order, twice, or in the middle of a stream it never saw the start of.
    pub fn disorder(&self) -> u64 {
        self.shared.disorder.load(Ordering::Relaxed)
    }
}

impl Drop for AuditServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own unwinding.
            let _ = thread.join();
        }
    }
}

/// The listener and the queue it is watched by, in descriptors of this thread's own.
fn open(port: u16) -> std::io::Result<(TcpListener, Epoll)> {
    super::own_descriptors()?;
    let listener = listen(port)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    Ok((listener, epoll))
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// One accepted flow.
struct Served {
    conn: Conn,
    flow: Option<u32>,
    next: u64,
}

fn serve(listener: &TcpListener, epoll: &Epoll, number: u32, shared: &Shared) {
    let mut served: HashMap<u64, Served> = HashMap::new();
    let mut events = vec![EpollEvent::empty(); 512];
    let mut buffer = vec![0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(count) = epoll.wait(&mut events, EpollTimeout::from(TICK_MS)) else { continue };
        for event in &events[..count] {
            if event.data() == LISTENER {
                accept(listener, epoll, &mut served, shared);
                continue;
            }
            let Some(one) = served.get_mut(&event.data()) else { continue };
            if !answer(one, number, &mut buffer, shared) || !interest(epoll, one, event.data()) {
                served.remove(&event.data());
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, served: &mut HashMap<u64, Served>, shared: &Shared) {
    while let Ok((stream, _)) = listener.accept() {
        let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        let token = u64::from(stream.as_raw_fd().unsigned_abs());
        if ready.is_err() || epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, token)).is_err() {
            continue;
        }
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        served.insert(token, Served { conn: Conn::new(stream), flow: None, next: 0 });
    }
}

/// Echoes what came; false when the flow is over.
fn answer(one: &mut Served, number: u32, buffer: &mut [u8], shared: &Shared) -> bool {
    let mut echo = Vec::new();
    let (flow, next) = (&mut one.flow, &mut one.next);
    let mut fine = true;
    let heard = one.conn.read(buffer, |named, _, record_number| {
        fine = *flow.get_or_insert(named) == named && record_number == *next;
        *next += 1;
        if fine {
            echo.extend_from_slice(&record(named, number, record_number));
        }
        fine
    });
    let count = u64::try_from(echo.len() / super::RECORD).unwrap_or_default();
    shared.records.fetch_add(count, Ordering::Relaxed);
    if !fine {
        shared.disorder.fetch_add(1, Ordering::Relaxed);
    }
    let sent = one.conn.flush().and_then(|()| one.conn.send(&echo));
    fine && heard == Heard::All && sent.is_ok()
}

/// Waits for room only while something is kept back.
fn interest(epoll: &Epoll, one: &mut Served, token: u64) -> bool {
    let mut flags = EpollFlags::EPOLLIN;
    flags.set(EpollFlags::EPOLLOUT, one.conn.backlog() > 0);
    epoll.modify(one.conn.stream.as_fd(), &mut EpollEvent::new(flags, token)).is_ok()
}
