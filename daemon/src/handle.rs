//! How the rest of the process talks to the driver's thread: bounded requests in, a stream of events out.

pub mod bgp;
pub mod forward;
pub mod intent;
pub mod neighbors;
pub mod sites;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::event::Event;
use bascule_core::node::io::Command;
use bascule_core::node::status::NodeStatus;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Requests that may wait for the driver. More means that it is stuck: the asker waits, and gives up by its own deadline.
const REQUESTS: usize = 64;
/// Events that a slow reader may lag behind before it loses the oldest (it is told how many).
const EVENTS: usize = 1024;
/// Events kept for `bascule events` of a reader that comes late; the oldest is dropped.
const HISTORY: usize = 1024;

/// What happened, in whichever room.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Happening {
    /// In the node.
    Node(Event),
    /// In a BGP session; its names begin with `bgp_`.
    Bgp(bascule_bgp::event::Event),
}

impl From<Event> for Happening {
    fn from(event: Event) -> Self {
        Self::Node(event)
    }
}

impl From<bascule_bgp::event::Event> for Happening {
    fn from(event: bascule_bgp::event::Event) -> Self {
        Self::Bgp(event)
    }
}

/// An event with its place in the stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Counts from 1 without gaps.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970. For people: nothing is decided by it.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Happening,
}

/// What the driver is asked.
#[derive(Debug)]
pub enum Request {
    /// A snapshot.
    Status(oneshot::Sender<NodeStatus>),
    /// A snapshot of the BFD sessions.
    Bfd(oneshot::Sender<BfdStatus>),
    /// Something to do; answered when it is done or has failed.
    Command(Command, oneshot::Sender<Result<String, String>>),
}

/// The driver's thread has ended or does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the event loop does not answer")]
pub struct LoopGone;

/// Longest wait for an answer of the driver. A move is settled within 2 s; a snapshot within a turn.
const ANSWER: Duration = Duration::from_secs(5);

/// The asking side; cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    requests: mpsc::Sender<Request>,
    wake: Arc<dyn Fn() + Send + Sync>,
    shared: Arc<Shared>,
    bgp: bgp::BgpHandle,
    forward: forward::ForwardHandle,
    intent: intent::IntentHandle,
    sites: sites::SitesHandle,
    neighbors: neighbors::NeighborsHandle,
}

/// The driver's side.
pub struct NodePort {
    /// Requests, to be taken with `try_recv` in every turn.
    pub requests: mpsc::Receiver<Request>,
    /// The BGP room's side, for whoever runs it. Dropped, nobody who asks the room waits.
    pub bgp: Option<bgp::BgpPort>,
    /// The forwarding room's side, for whoever runs it. Dropped, nobody who asks the room waits.
    pub forward: Option<forward::ForwardPort>,
    shared: Arc<Shared>,
}

struct Shared {
    live: broadcast::Sender<Record>,
    history: Mutex<VecDeque<Record>>,
    /// `CLOCK_BOOTTIME` nanoseconds of the last turn of the loop.
    turn: AtomicU64,
}

/// Makes both sides. `wake` must make the driver's loop turn at once, from any thread.
pub fn channel(wake: Arc<dyn Fn() + Send + Sync>) -> (NodeHandle, NodePort) {
    let (sender, requests) = mpsc::channel(REQUESTS);
    let live = broadcast::Sender::new(EVENTS);
    let shared = Arc::new(Shared { live, history: Mutex::new(VecDeque::new()), turn: AtomicU64::new(0) });
    let (bgp, bgp_port) = bgp::channel();
    let (forward, forward_port) = forward::channel();
    let (bgp_port, forward_port) = (Some(bgp_port), Some(forward_port));
    let port = NodePort { requests, bgp: bgp_port, forward: forward_port, shared: Arc::clone(&shared) };
    let (intent, sites) = (intent::IntentHandle::default(), sites::SitesHandle::default());
    let neighbors = neighbors::NeighborsHandle::default();
    (NodeHandle { requests: sender, wake, shared, bgp, forward, intent, sites, neighbors }, port)
}

impl NodeHandle {
    /// A snapshot of the node.
    ///
    /// # Errors
    /// [`LoopGone`] when the driver has ended or does not answer within 5 s.
    pub async fn status(&self) -> Result<NodeStatus, LoopGone> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Status(reply), answer).await
    }

    /// A snapshot of the BFD sessions.
    ///
    /// # Errors
    /// [`LoopGone`] when the driver has ended or does not answer within 5 s.
    pub async fn bfd(&self) -> Result<BfdStatus, LoopGone> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Bfd(reply), answer).await
    }

    /// Carries out a command; the inner result is the node's answer in words.
    ///
    /// # Errors
    /// [`LoopGone`] when the driver has ended or does not answer within 5 s.
    pub async fn command(&self, command: Command) -> Result<Result<String, String>, LoopGone> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Command(command, reply), answer).await
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, LoopGone> {
        let exchange = async {
            self.requests.send(request).await.map_err(|_| LoopGone)?;
            (self.wake)();
            answer.await.map_err(|_| LoopGone)
        };
        tokio::time::timeout(ANSWER, exchange).await.map_err(|_| LoopGone)?
    }

    /// The BGP room.
    pub fn bgp(&self) -> &bgp::BgpHandle {
        &self.bgp
    }

    /// The forwarding room.
    pub fn forward(&self) -> &forward::ForwardHandle {
        &self.forward
    }

    /// What was made of the cluster's intent.
    pub fn intent(&self) -> &intent::IntentHandle {
        &self.intent
    }

    /// What this node makes of sites.
    pub fn sites(&self) -> &sites::SitesHandle {
        &self.sites
    }

    /// How the neighbours stand that this node depends on.
    pub fn neighbors(&self) -> &neighbors::NeighborsHandle {
        &self.neighbors
    }

    /// The kept events after sequence number `after`, and those to come; nothing is lost or doubled between the two.
    pub fn events(&self, after: u64) -> (Vec<Record>, broadcast::Receiver<Record>) {
        let history = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.shared.live.subscribe();
        (history.iter().filter(|r| r.seq > after).cloned().collect(), live)
    }

    /// `CLOCK_BOOTTIME` nanoseconds of the loop's last turn; 0 before the first. It turns at least every 100 ms.
    pub fn last_turn(&self) -> u64 {
        self.shared.turn.load(Ordering::Relaxed)
    }
}

impl NodeHandle {
    /// The publishing side, for the task that reports events.
    pub fn publisher(&self) -> Publisher {
        Publisher { shared: Arc::clone(&self.shared) }
    }
}

/// Publishes events to the history and to the readers. There is one per process, or sequence numbers would race.
pub struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    /// Publishes an event: to the history first, then to the readers.
    pub fn publish(&self, event: impl Into<Happening>, unix_ms: u64) {
        let mut history = self.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = history.back().map_or(0, |r| r.seq) + 1;
        let record = Record { seq, unix_ms, event: event.into() };
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(record.clone());
        // No reader is no error.
        let _readers = self.shared.live.send(record);
    }
}

impl NodePort {
    /// Notes that the loop turned.
    pub fn turned(&self, boot_ns: u64) {
        self.shared.turn.store(boot_ns, Ordering::Relaxed);
    }
}
