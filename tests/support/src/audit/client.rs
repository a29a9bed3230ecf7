//! The client end: opens flows, keeps a schedule, checks echoes.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::conn::{Conn, Heard};
use super::record;
use super::report::{AuditReport, End, FlowOutcome};
use crate::{LabError, Netns, Result, Stamp, wait_for};

/// Connections that are being opened at once: below the servers' backlog and the half-open table by far.
const OPENING: usize = 128;
/// The client's thread looks whether it is asked once a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Where to connect.
    pub target: SocketAddrV4,
    /// Flows that send one record per `every`.
    pub paced: usize,
    /// Time between two records of such a flow.
    pub every: Duration,
    /// Flows at full speed: the next window goes out as the last has come back.
    pub full_speed: usize,
    /// Records such a flow has under way: 1 is question and answer.
    pub window: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Paced flows send nothing meanwhile.
    held: AtomicBool,
    open: AtomicUsize,
    settled: AtomicUsize,
    echoed: AtomicU64,
    least: AtomicU64,
    stall_ns: AtomicU64,
    /// Servers whose flows may end.
    dead: Mutex<Vec<u32>>,
    /// Flows that ended before their time: their servers.
    ended: Mutex<Vec<Option<u32>>>,
    asked: AtomicBool,
    /// Who asks wants a new window to begin.
    renew: AtomicBool,
    told: Mutex<Option<AuditReport>>,
    report: Mutex<Option<AuditReport>>,
}

/// Running flows.
pub struct Flows {
    shared: Arc<Shared>,
    total: usize,
    thread: Option<JoinHandle<()>>,
}

impl Flows {
    /// Opens the flows of `load` from `client` and starts their schedule.
    ///
    /// # Errors
    /// When the event queue cannot be made.
    pub fn start(client: &Netns, load: Load) -> Result<Self> {
        super::room_for(load.paced + load.full_speed)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(LabError::errno("epoll"))?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = client.spawn("audit-client", move || {
            let report = Client::new(load, &epoll, &own).run();
            *own.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        });
        Ok(Self { shared, total: load.paced + load.full_speed, thread: Some(thread) })
    }

    /// Waits until every flow has had an answer or has failed; gives how many live.
    ///
    /// # Errors
    /// When it takes longer than `deadline`.
    pub fn wait_open(&self, deadline: Duration) -> Result<usize> {
        wait_for(deadline, "the flows to open", || {
            (self.shared.settled.load(Ordering::Relaxed) >= self.total).then_some(())
        })?;
        Ok(self.shared.open.load(Ordering::Relaxed))
    }

    /// Records that have come back so far.
    pub fn echoed(&self) -> u64 {
        self.shared.echoed.load(Ordering::Relaxed)
    }

    /// Lets paced flows send nothing (what is under way still comes back), or go on with their schedule from now.
    pub fn hold(&self, held: bool) {
        self.shared.held.store(held, Ordering::Relaxed);
    }

    /// From now on flows on these servers may end or stand still: [`Flows::least`] and [`Flows::broken`] leave them out.
    pub fn excuse(&self, servers: &[u32]) {
        self.shared.dead.lock().unwrap_or_else(PoisonError::into_inner).extend(servers);
    }

    /// Flows that have ended so far although nobody [excused](Flows::excuse) their server.
    pub fn broken(&self) -> usize {
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dead = self.shared.dead.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().filter(|server| !server.is_some_and(|server| dead.contains(&server))).count()
    }

    /// Echoes that every living paced flow has had at least; brought up to date once a turn.
    pub fn least(&self) -> u64 {
        self.shared.least.load(Ordering::Relaxed)
    }

    /// What became of the flows so far; stalls and the client's lateness are those of the window that the last [`Flows::window`], or the
    /// start, began. A stall that began before counts whole.
    ///
    /// # Errors
    /// When the client's thread does not answer.
    pub fn look(&self) -> Result<AuditReport> {
        self.ask(false)
    }

    /// The same, and begins a new window.
    ///
    /// # Errors
    /// Those of [`Flows::look`].
    pub fn window(&self) -> Result<AuditReport> {
        self.ask(true)
    }

    fn ask(&self, renew: bool) -> Result<AuditReport> {
        self.shared.renew.store(renew, Ordering::Relaxed);
        self.shared.asked.store(true, Ordering::Release);
        wait_for(PATIENCE, "the flows' client to tell", || {
            self.shared.told.lock().unwrap_or_else(PoisonError::into_inner).take()
        })
    }

    /// The longest stall so far of a paced flow that lives on a server nobody [excused](Flows::excuse); brought up to date once a turn.
    pub fn stall(&self) -> Duration {
        Duration::from_nanos(self.shared.stall_ns.load(Ordering::Relaxed))
    }

    /// Flows that live now.
    pub fn alive(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Stops and gives what became of the flows.
    ///
    /// # Panics
    /// When the client's thread did.
    pub fn finish(mut self) -> AuditReport {
        self.stop();
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.take().expect("the thread has ended and left its report")
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own unwinding.
            let _ = thread.join();
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One flow in its life.
struct Flow {
    conn: Option<Conn>,
    connected: bool,
    waiting_since: Option<Stamp>,
    /// Longest stall since the last look; the outcome has the longest of all.
    lately: Duration,
    outcome: FlowOutcome,
}

struct Client<'a> {
    load: Load,
    epoll: &'a Epoll,
    shared: &'a Shared,
    flows: Vec<Flow>,
    opening: usize,
    /// The next paced record: this flow, at this time.
    turn: usize,
    due: Option<Stamp>,
    late: Duration,
    /// Since the last look.
    lately: Duration,
}

impl<'a> Client<'a> {
    fn new(load: Load, epoll: &'a Epoll, shared: &'a Shared) -> Self {
        let flows = Vec::with_capacity(load.paced + load.full_speed);
        let (late, lately) = (Duration::ZERO, Duration::ZERO);
        Self { load, epoll, shared, flows, opening: 0, turn: 0, due: None, late, lately }
    }

    fn run(mut self) -> AuditReport {
        let mut events = vec![EpollEvent::empty(); 1024];
        let mut buffer = vec![0; 65_536];
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.open_more();
            self.send_due();
            if self.shared.asked.swap(false, Ordering::Acquire) {
                let window = self.window(self.shared.renew.load(Ordering::Relaxed));
                *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(window);
            }
            let Ok(count) = self.epoll.wait(&mut events, EpollTimeout::from(1u16)) else { continue };
            for event in &events[..count] {
                let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
                self.serve(index, event.events(), &mut buffer);
            }
        }
        let now = Stamp::now();
        self.flows.iter_mut().for_each(|flow| flow.stalled(now));
        AuditReport { flows: self.flows.iter().map(|flow| flow.outcome).collect(), late: self.late }
    }

    fn window(&mut self, renew: bool) -> AuditReport {
        let now = Stamp::now();
        let flows = self.flows.iter_mut().map(|flow| {
            flow.stalled(now);
            let stall = flow.lately;
            if renew {
                flow.lately = Duration::ZERO;
            }
            FlowOutcome { stall, ..flow.outcome }
        });
        let report = AuditReport { flows: flows.collect(), late: self.lately };
        if renew {
            self.lately = Duration::ZERO;
        }
        report
    }

    fn total(&self) -> usize {
        self.load.paced + self.load.full_speed
    }

    fn open_more(&mut self) {
        while self.opening < OPENING && self.flows.len() < self.total() {
            let index = self.flows.len();
            let outcome = FlowOutcome { server: None, sent: 0, echoed: 0, stall: Duration::ZERO, end: None };
            let (waiting_since, lately) = (Some(Stamp::now()), Duration::ZERO);
            self.flows.push(Flow { conn: None, connected: false, waiting_since, lately, outcome });
            self.opening += 1;
            let opened = connect(self.load.target).and_then(|stream| {
                let token = u64::try_from(index).map_err(std::io::Error::other)?;
                self.epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLOUT, token))?;
                Ok(stream)
            });
            match opened {
                Ok(stream) => self.flows[index].conn = Some(Conn::new(stream)),
                Err(error) => self.end(index, End::NotOpened(error.kind())),
            }
        }
    }

    /// Sends what the schedule asks for, once all flows are there.
    fn send_due(&mut self) {
        if self.shared.settled.load(Ordering::Relaxed) < self.total() || self.load.paced == 0 {
            return;
        }
        if self.shared.held.load(Ordering::Relaxed) {
            self.due = None;
            return;
        }
        let step = self.load.every / u32::try_from(self.load.paced).unwrap_or(u32::MAX);
        let now = Stamp::now();
        let mut due = *self.due.get_or_insert(now);
        while due <= now {
            self.late = self.late.max(now.since(due));
            self.lately = self.lately.max(now.since(due));
            self.send(self.turn, 1);
            self.turn = (self.turn + 1) % self.load.paced;
            if self.turn == 0 {
                let dead = self.shared.dead.lock().unwrap_or_else(PoisonError::into_inner);
                let excused = |flow: &Flow| flow.outcome.server.is_some_and(|server| dead.contains(&server));
                let living = self.flows[..self.load.paced].iter().filter(|flow| flow.conn.is_some() && !excused(flow));
                let both = living.map(|flow| (flow.outcome.echoed, flow.stall(now)));
                let (least, stall) = both.fold((u64::MAX, Duration::ZERO), |(a, b), (c, d)| (a.min(c), b.max(d)));
                self.shared.least.store(if least == u64::MAX { 0 } else { least }, Ordering::Relaxed);
                self.shared.stall_ns.store(u64::try_from(stall.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            due = due + step;
        }
        self.due = Some(due);
    }

    fn send(&mut self, index: usize, count: u64) {
        let flow = &mut self.flows[index];
        let Some(conn) = flow.conn.as_mut().filter(|_| flow.connected) else { return };
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let bytes: Vec<u8> = (0..count).flat_map(|n| record(number, 0, flow.outcome.sent + n)).collect();
        flow.outcome.sent += count;
        flow.waiting_since.get_or_insert_with(Stamp::now);
        let sent = conn.send(&bytes);
        if conn.backlog() > 0 {
            self.watch(index);
        }
        if let Err(error) = sent {
            self.end(index, End::Failed(error.kind()));
        }
    }

    fn watch(&self, index: usize) {
        let Some(conn) = &self.flows[index].conn else { return };
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, conn.backlog() > 0);
        let token = u64::try_from(index).unwrap_or(u64::MAX);
        self.epoll.modify(conn.stream.as_fd(), &mut EpollEvent::new(flags, token)).expect("a watched socket");
    }

    fn serve(&mut self, index: usize, events: EpollFlags, buffer: &mut [u8]) {
        let Some(flow) = self.flows.get_mut(index) else { return };
        let Some(conn) = flow.conn.as_mut() else { return };
        if !flow.connected {
            let failed = conn.stream.take_error().ok().flatten();
            if let Some(error) = failed {
                return self.end(index, End::NotOpened(error.kind()));
            }
            if !events.contains(EpollFlags::EPOLLOUT) {
                return;
            }
            flow.connected = true;
            self.watch(index);
            let first = if index < self.load.paced { 1 } else { self.load.window };
            return self.send(index, first);
        }
        if events.contains(EpollFlags::EPOLLOUT) {
            if let Err(error) = conn.flush() {
                return self.end(index, End::Failed(error.kind()));
            }
            self.watch(index);
        }
        self.hear(index, buffer);
    }

    fn hear(&mut self, index: usize, buffer: &mut [u8]) {
        let flow = &mut self.flows[index];
        let Some(conn) = flow.conn.as_mut() else { return };
        let before = flow.outcome.echoed;
        let outcome = &mut flow.outcome;
        let mut wrong = None;
        let heard = conn.read(buffer, |named, server, number| {
            if usize::try_from(named).ok() != Some(index) || number != outcome.echoed {
                wrong = Some(End::Disorder);
            } else if *outcome.server.get_or_insert(server) != server {
                wrong = Some(End::OtherServer);
            } else {
                outcome.echoed += 1;
            }
            wrong.is_none()
        });
        let fresh = flow.outcome.echoed - before;
        if fresh > 0 {
            let now = Stamp::now();
            flow.stalled(now);
            flow.waiting_since = (flow.outcome.echoed < flow.outcome.sent).then_some(now);
            self.shared.echoed.fetch_add(fresh, Ordering::Relaxed);
            if before == 0 {
                self.opening -= 1;
                self.shared.open.fetch_add(1, Ordering::Relaxed);
                self.shared.settled.fetch_add(1, Ordering::Relaxed);
            }
        }
        match (wrong, heard) {
            (Some(end), _) => self.end(index, end),
            (None, Heard::Closed) => self.end(index, End::Closed),
            (None, Heard::Failed(kind)) => self.end(index, End::Failed(kind)),
            (None, Heard::All) => {
                let flow = &self.flows[index];
                if index >= self.load.paced && flow.outcome.echoed == flow.outcome.sent {
                    self.send(index, self.load.window);
                }
            }
        }
    }

    fn end(&mut self, index: usize, end: End) {
        let flow = &mut self.flows[index];
        flow.stalled(Stamp::now());
        flow.waiting_since = None;
        flow.conn = None;
        flow.outcome.end = Some(end);
        self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner).push(flow.outcome.server);
        if flow.outcome.echoed > 0 {
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.opening -= 1;
            self.shared.settled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Flow {
    /// How long it waits by now.
    fn waiting(&self, now: Stamp) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// The longest stall of all.
    fn stall(&self, now: Stamp) -> Duration {
        self.outcome.stall.max(self.waiting(now))
    }

    /// Notes the stall that is under way.
    fn stalled(&mut self, now: Stamp) {
        let stall = self.waiting(now);
        self.outcome.stall = self.outcome.stall.max(stall);
        self.lately = self.lately.max(stall);
    }
}

fn connect(target: SocketAddrV4) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SocketAddr::V4(target).into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}
