//! The BGP room: the speaker of `bascule-bgp` with its sockets, on a thread of its own.
//!
//! A thread of its own, because neither of the others will do: the real-time loop must not encode ten thousand prefixes between two
//! adverts, and on the shared runtime a slow HTTP request or a burst of probes would delay keepalives until a neighbor's hold time is
//! over. Decides nothing: routes are wished by the node, sessions are the speaker's.

mod connections;
mod links;
mod transport;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bascule_bgp::config::SpeakerConfig;
use bascule_bgp::event::Event;
use bascule_bgp::graceful::FormerRun;
use bascule_bgp::io::{Action, BfdState, Command, Input};
use bascule_bgp::speaker::Speaker;
use bascule_bgp::wire::{Family, FamilySet};
use bascule_core::announce::route::{RouteWish, Want};
use bascule_core::bfd::io::{BfdUpdate, PathState};
use bascule_core::node::io::LinkInfo;
use bascule_core::time::Instant;
use bascule_core::types::LinkId;
use thiserror::Error;
use tokio::sync::mpsc;

use self::connections::Connections;
use crate::clock;
use crate::handle::bgp::{BgpPort, BgpRequest, BgpStatus};
use crate::net::NetError;
use crate::net::rt::{Readiness, boot_now};

/// Orders that may wait for the room. The sender waits when it is full: nothing is lost.
pub const ORDER_QUEUE: usize = 256;
/// Events on their way to logs, metrics and readers. When it is full the newest is dropped, and how many is logged: a blocked log must not
/// delay a keepalive.
pub const EVENT_QUEUE: usize = 4096;
/// Orders, requests and updates taken of each queue in one turn.
const BUDGET: usize = 64;
/// Batches of wishes taken in one turn: a batch is milliseconds of work, and a keepalive may wait in a socket.
const WISHES_BUDGET: usize = 1;
/// Longest wait of one turn: the room is judged by its last turn.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// What the room is told to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The speaker.
    pub speaker: SpeakerConfig,
    /// Where neighbors dial us, opened only when one may.
    pub listen: SocketAddr,
}

/// What the room is told.
#[derive(Debug)]
pub enum Order {
    /// A new configuration, applied as a difference; `None`: BGP is not configured any more.
    Config(Option<Box<Config>>),
    /// A link appeared or changed.
    Link(LinkInfo),
    /// A link is gone.
    LinkGone(LinkId),
    /// The node has its first configuration and knows the links: routes that are not wished by now are not wanted.
    Synced,
    /// Withdraw, say why, close, and end within this time whatever the neighbors do.
    Stop {
        /// Shutdown Communication (RFC 9003), at most 255 bytes.
        text: String,
        /// Then connections are cut.
        within: Duration,
    },
    /// As `Stop`, but neighbors that know graceful restart keep our routes.
    Restart {
        /// Then connections are cut.
        within: Duration,
    },
}

/// An event with the wall clock of its moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Told {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// What happened.
    pub event: Event,
}

/// The room's ends of the queues.
pub struct Ports {
    /// Requests of the admin side.
    pub handle: BgpPort,
    /// From the app.
    pub orders: mpsc::Receiver<Order>,
    /// Wishes about routes, from the driver.
    pub wishes: mpsc::Receiver<Vec<RouteWish>>,
    /// Latest states of BFD sessions, from the driver.
    pub bfd: mpsc::Receiver<BfdUpdate>,
    /// To logs and readers.
    pub events: mpsc::Sender<Told>,
}

/// Why the room cannot start.
#[derive(Debug, Error)]
pub enum RoomError {
    /// The kernel refused what every room needs.
    #[error("BGP: {0}")]
    Net(#[from] NetError),
    /// Neighbors that are to dial us could not.
    #[error("BGP: {}", .0.join("; "))]
    Listen(Vec<String>),
    /// The runtime of the thread could not be made.
    #[error("BGP: cannot wait for sockets: {0}")]
    Runtime(#[from] io::Error),
}

/// What a planned restart leaves behind, for the marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The shortest Restart Time that was offered, seconds.
    pub restart_time: u16,
    /// Families with routes that neighbors keep.
    pub families: FamilySet,
}

/// The room with everything it owns.
pub struct BgpRoom {
    speaker: Speaker,
    connections: Connections,
    ports: Ports,
    config: Option<Config>,
    /// Addresses whose routes are announced.
    announced: BTreeSet<IpAddr>,
    /// Failures of each BFD session that the speaker was told of.
    failures: BTreeMap<String, u64>,
    ending: Option<Ending>,
    events_dropped: u64,
}

struct Ending {
    until: Instant,
    kept: Option<Kept>,
    /// The speaker has closed every session.
    stopped: bool,
}

impl BgpRoom {
    /// Opens what the first configuration needs. `links` are those that exist; `former` is what may be said of a planned restart.
    ///
    /// # Errors
    /// [`RoomError`]: neighbors that are to dial us could not. A daemon that starts so would look well and announce nothing.
    pub fn new(
        seed: u64,
        config: Option<Config>,
        links: Vec<LinkInfo>,
        former: Option<FormerRun>,
        ports: Ports,
    ) -> Result<Self, RoomError> {
        let now = boot_now();
        // Nothing listens before a configuration says where.
        let listen = config.as_ref().map_or(SocketAddr::from(([127, 0, 0, 1], 0)), |config| config.listen);
        let mut room = Self {
            speaker: Speaker::new(seed, to_bgp(now)),
            connections: Connections::new(listen)?,
            ports,
            config: None,
            announced: BTreeSet::new(),
            failures: BTreeMap::new(),
            ending: None,
            events_dropped: 0,
        };
        links.into_iter().for_each(|link| room.connections.note_link(link));
        if let Some(former) = former {
            room.feed(Input::Restarted(former), now);
        }
        if let Some(config) = config {
            room.configure(config, now);
        }
        match room.connections.troubles() {
            troubles if troubles.is_empty() => Ok(room),
            troubles => Err(RoomError::Listen(troubles)),
        }
    }

    /// Runs until [`Order::Stop`] or [`Order::Restart`] is carried out, on the calling thread. Returns what a restart leaves behind.
    ///
    /// # Errors
    /// [`RoomError::Runtime`] when sockets cannot be waited for.
    pub fn run(self) -> Result<Option<Kept>, RoomError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(self.turns())
    }

    async fn turns(mut self) -> Result<Option<Kept>, RoomError> {
        let sockets = Readiness::of(self.connections.poller())?;
        loop {
            let more = self.turn()?;
            let now = boot_now();
            self.ports.handle.turned(now.as_nanos());
            self.ports.handle.set_troubles(self.connections.troubles());
            if let Some(ending) = self.ending.as_ref().filter(|ending| self.is_over(ending, now)) {
                let kept = ending.kept;
                self.connections.abort();
                return Ok(kept);
            }
            if more {
                // The queues are looked at in the next turn; the runtime learns of their senders meanwhile.
                tokio::task::yield_now().await;
                continue;
            }
            self.arm(now)?;
            let woken = tokio::select! {
                biased;
                ready = sockets.wait() => { ready?; Woken::Sockets }
                Some(order) = self.ports.orders.recv() => Woken::Order(order),
                Some(wishes) = self.ports.wishes.recv() => Woken::Wishes(wishes),
                Some(update) = self.ports.bfd.recv() => Woken::Bfd(update),
                Some(request) = self.ports.handle.requests.recv() => Woken::Request(request),
            };
            self.woken(woken);
        }
    }

    fn is_over(&self, ending: &Ending, now: Instant) -> bool {
        (ending.stopped && self.connections.is_empty()) || ending.until <= now
    }

    /// Lets the poller wake us when the next deadline comes.
    fn arm(&mut self, now: Instant) -> Result<(), NetError> {
        let speaker = self.speaker.poll_timeout().map(to_core);
        let ending = self.ending.as_ref().map(|ending| ending.until);
        let deadlines = [speaker, self.connections.poll_timeout(), ending, Some(now + MAX_WAIT)];
        let next = deadlines.into_iter().flatten().min();
        self.connections.poller().arm_for(next)
    }

    /// One turn; true when work may be left.
    fn turn(&mut self) -> Result<bool, RoomError> {
        let mut more = self.read_queues();
        // What arrived by now is read before anything expires by this time: a hold timer must not end a session whose keepalive waits
        // unread in our own socket.
        let now = boot_now();
        let ready = self.connections.poller().poll()?.to_vec();
        more |= !ready.is_empty();
        for token in ready {
            if let Some(input) = self.connections.ready(token, now) {
                self.speaker.handle_input(input, to_bgp(now));
                self.carry_out(now);
            }
        }
        self.connections.handle_timeout(now);
        while let Some(news) = self.connections.poll_news() {
            self.feed(news, now);
        }
        if self.speaker.poll_timeout().is_some_and(|at| at <= to_bgp(now)) {
            self.speaker.handle_timeout(to_bgp(now));
            self.carry_out(now);
        }
        for _ in 0..self.connections.written() {
            if let Some(written) = self.connections.poll_written() {
                self.feed(written, boot_now());
            }
        }
        Ok(more || self.connections.has_news())
    }

    /// True when a budget was used up.
    fn read_queues(&mut self) -> bool {
        let mut more = false;
        type Look = fn(&mut BgpRoom) -> Option<Woken>;
        let looks: [(Look, usize); 4] = [
            (Self::next_order, BUDGET),
            (Self::next_wishes, WISHES_BUDGET),
            (Self::next_bfd, BUDGET),
            (Self::next_request, BUDGET),
        ];
        for (look, budget) in looks {
            let mut left = budget;
            while left > 0
                && let Some(woken) = look(self)
            {
                left -= 1;
                self.woken(woken);
            }
            more |= left == 0;
        }
        more
    }

    fn next_order(&mut self) -> Option<Woken> {
        self.ports.orders.try_recv().ok().map(Woken::Order)
    }

    fn next_wishes(&mut self) -> Option<Woken> {
        self.ports.wishes.try_recv().ok().map(Woken::Wishes)
    }

    fn next_bfd(&mut self) -> Option<Woken> {
        self.ports.bfd.try_recv().ok().map(Woken::Bfd)
    }

    fn next_request(&mut self) -> Option<Woken> {
        self.ports.handle.requests.try_recv().ok().map(Woken::Request)
    }

    fn woken(&mut self, woken: Woken) {
        let now = boot_now();
        match woken {
            Woken::Sockets => {}
            Woken::Order(order) => self.obey(order, now),
            Woken::Wishes(wishes) => self.wish(wishes, now),
            Woken::Bfd(update) => self.follow(update, now),
            Woken::Request(request) => self.answer(request, now),
        }
    }

    fn obey(&mut self, order: Order, now: Instant) {
        match order {
            Order::Config(Some(config)) => self.configure(*config, now),
            Order::Config(None) => {
                if let Some(mut config) = self.config.take() {
                    config.speaker.neighbors.clear();
                    self.configure(config, now);
                }
            }
            Order::Link(link) => self.connections.note_link(link),
            Order::LinkGone(link) => self.connections.forget_link(link),
            Order::Synced => {
                // Wishes of the same moment stand in the other queue: they come first.
                while let Some(wishes) = self.next_wishes() {
                    self.woken(wishes);
                }
                self.feed(Input::Synced, now);
            }
            Order::Stop { text, within } => {
                self.ending = Some(Ending { until: now + within, kept: None, stopped: false });
                self.feed(Input::Command(Command::Shutdown { drain: Duration::ZERO, text }), now);
            }
            Order::Restart { within } => {
                self.ending = Some(Ending { until: now + within, kept: self.kept(), stopped: false });
                self.feed(Input::Command(Command::Restart), now);
            }
        }
    }

    fn configure(&mut self, config: Config, now: Instant) {
        self.connections.configure(&config.speaker, config.listen, now);
        self.feed(Input::Config(Box::new(config.speaker.clone())), now);
        self.config = Some(config);
    }

    /// What neighbors keep over a planned restart; `None` when none of them was offered to.
    fn kept(&self) -> Option<Kept> {
        let neighbors = &self.config.as_ref()?.speaker.neighbors;
        let restart_time = neighbors.iter().filter_map(|neighbor| neighbor.graceful_restart).min()?;
        let family = |address: &IpAddr| if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        Some(Kept { restart_time, families: self.announced.iter().map(family).collect() })
    }

    fn wish(&mut self, wishes: Vec<RouteWish>, now: Instant) {
        for wish in &wishes {
            match wish.want {
                Want::Announce | Want::Drain => self.announced.insert(wish.address),
                Want::Withdraw => self.announced.remove(&wish.address),
            };
        }
        for input in wishes::inputs(wishes) {
            self.feed(input, now);
        }
    }

    fn follow(&mut self, update: BfdUpdate, now: Instant) {
        let known = self.failures.insert(update.peer.clone(), update.failures);
        let state = match update.state {
            PathState::Up => BfdState::Up,
            PathState::Down => BfdState::Down,
            PathState::AdminDown => BfdState::AdminDown,
        };
        // Only the latest state is told. A path that failed and is back already must not go unnoticed.
        if state == BfdState::Up && known.is_some_and(|known| known < update.failures) {
            self.feed(Input::Bfd { neighbor: update.peer.clone(), state: BfdState::Down }, now);
        }
        self.feed(Input::Bfd { neighbor: update.peer, state }, now);
    }

    fn answer(&mut self, request: BgpRequest, now: Instant) {
        // An asker that went away meanwhile is no error.
        match request {
            BgpRequest::Status(reply) => {
                let troubles = self.connections.troubles();
                let _gone = reply.send(BgpStatus { troubles, speaker: self.speaker.status(to_bgp(now)) });
            }
            BgpRequest::Routes(neighbor, reply) => {
                let _gone = reply.send(self.speaker.routes(&neighbor));
            }
            BgpRequest::Reset(neighbor, reply) => {
                let neighbors = self.config.iter().flat_map(|config| &config.speaker.neighbors);
                let known = neighbors.into_iter().any(|n| n.name == neighbor);
                if known {
                    self.feed(Input::Command(Command::Reset { neighbor }), now);
                }
                let _gone = reply.send(known);
            }
        }
    }

    fn feed(&mut self, input: Input<'_>, now: Instant) {
        self.speaker.handle_input(input, to_bgp(now));
        self.carry_out(now);
    }

    /// Carries out every pending action. What fails is told to the speaker later in this turn, or in the next.
    fn carry_out(&mut self, now: Instant) {
        while let Some(action) = self.speaker.poll_action() {
            match action {
                Action::Connect { conn, remote, transport, external } => {
                    self.connections.connect(conn, remote, &transport, external, now);
                }
                Action::Listen { remote, transport, external } => {
                    self.connections.listen(remote, &transport, external, now);
                }
                Action::Unlisten { remote } => self.connections.unlisten(remote, now),
                Action::Write { conn, bytes } => self.connections.write(conn, bytes),
                Action::WatchAcknowledged { conn } => self.connections.watch_acknowledged(conn, now),
                Action::Rekey { conn, password } => self.connections.rekey(conn, password),
                Action::Close { conn } => self.connections.close(conn, now),
                Action::Report(event) => self.tell(event),
                Action::Stopped => {
                    if let Some(ending) = &mut self.ending {
                        ending.stopped = true;
                    }
                }
            }
        }
    }

    fn tell(&mut self, event: Event) {
        match self.ports.events.try_send(Told { unix_ms: clock::unix_ms(), event }) {
            Ok(()) if self.events_dropped > 0 => {
                tracing::warn!(count = self.events_dropped, "BGP events were dropped: the log or a reader blocks");
                self.events_dropped = 0;
            }
            Ok(()) => {}
            Err(_) => self.events_dropped += 1,
        }
    }
}

/// What ended a wait.
enum Woken {
    Sockets,
    Order(Order),
    Wishes(Vec<RouteWish>),
    Bfd(BfdUpdate),
    Request(BgpRequest),
}

/// The same clock on both sides.
pub(crate) fn to_bgp(at: Instant) -> bascule_bgp::time::Instant {
    bascule_bgp::time::Instant::from_nanos(at.as_nanos())
}

fn to_core(at: bascule_bgp::time::Instant) -> Instant {
    Instant::from_nanos(at.as_nanos())
}
