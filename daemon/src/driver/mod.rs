//! The one event loop: a thin driver of [`Node`] on one real-time thread.
//!
//! Each turn reads the sockets that have something in the order of their urgency (adverts and BFD to the last one, the rest within a budget),
//! lets timers that are due expire with the time of the last look that found no advert, and waits for the next deadline. It decides nothing; whatever may block (netlink,
//! probes, logs) is asked of tasks over bounded queues.

mod bfd;
mod effects;
pub mod electors;
mod ready;
mod routes;
mod send;
pub mod world;

use std::collections::HashMap;
use std::time::Duration;

use bascule_core::bfd::io::{BfdUpdate, Input as BfdInput};
use bascule_core::node::Node;
use bascule_core::node::io::{FenceState, Input};
use bascule_core::time::Instant;
use bascule_core::types::{Family, LinkId, Mac};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use crate::dataplane::{Fence, Opening};
use crate::handle::{NodePort, Request};
use crate::metrics::Metrics;
use crate::net::NetError;
use crate::net::raw::{NeighborSocket, PeerSocket, VrrpSocket};
use crate::net::rt::{EventFd, Poller, boot_now};
pub use bfd::BFD_UPDATE_QUEUE;
use bfd::BfdRoom;
use electors::{Ordered, Orders};
use ready::{Ready, Source};
use routes::Unsent;
use send::Refused;
use world::{Routes, Told, Work, World};

/// Longest wait of one turn: `/live` and the watchdog judge the loop by its last turn.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// Adverts read in one turn at most: far more than a socket buffer holds, so that only a flood can reach it. Then timers come first,
/// or a flood would keep us from advertising.
const ADVERT_BUDGET: usize = 4096;
/// Other packets and requests per turn.
const BUDGET: usize = 64;
/// Longest datagram or frame of interest: an advert of 255 IPv6 addresses is 4,088 bytes.
const BUFFER: usize = 9216;

/// The driver's ends of the queues, and what it shares.
pub struct Ports {
    /// Requests and events of the admin side.
    pub node: NodePort,
    /// From the tasks.
    pub world: mpsc::Receiver<World>,
    /// To the tasks.
    pub work: mpsc::Sender<Work>,
    /// To the lease electors; a queue of [`electors::ELECTOR_QUEUE`].
    pub electors: mpsc::Sender<Ordered>,
    /// To logs and readers.
    pub events: mpsc::Sender<Told>,
    /// To the BGP room, where there is one.
    pub routes: Option<mpsc::Sender<Routes>>,
    /// To the room that follows BFD sessions, where there is one; a queue of [`BFD_UPDATE_QUEUE`].
    pub bfd: Option<mpsc::Sender<BfdUpdate>>,
    /// Wakes the loop.
    pub wake: EventFd,
    /// Registry of the process.
    pub metrics: Metrics,
}

/// The event loop with everything it owns.
pub struct Driver {
    node: Node,
    /// Loaded programs, or nothing under `fence: off` and after a failure.
    fence: Option<Fence>,
    fence_error: Option<String>,
    /// It could not be put on a link or written: it does not become whole by itself.
    fence_broken: bool,
    vrrp: Vec<VrrpSocket>,
    peers: Vec<PeerSocket>,
    peer_port: u16,
    neighbors: HashMap<LinkId, NeighborSocket>,
    /// Links with a hardware address.
    macs: HashMap<LinkId, Mac>,
    /// Links that the fence stands on, and the MAC that it knows of each: all with an own address, so that a second NIC never answers.
    fenced: HashMap<LinkId, Mac>,
    refused: Refused,
    bound: Vec<LinkId>,
    /// Links whose groups every socket has joined.
    joined: Vec<LinkId>,
    bfd: BfdRoom,
    poller: Poller,
    ports: Ports,
    routes: Unsent,
    electors: Orders,
    replies: HashMap<u64, oneshot::Sender<Result<String, String>>>,
    next_command: u64,
    events_dropped: u64,
    stopped: bool,
}

impl Driver {
    /// Opens the sockets. `fence` is the loaded fence, or why there is none (`None` when the policy is off).
    ///
    /// # Errors
    /// [`NetError`] when a socket cannot be opened: without adverts there is nothing to drive.
    pub fn new(
        seed: u64,
        fence: Result<Option<Fence>, String>,
        peer_port: u16,
        mut ports: Ports,
    ) -> Result<Self, NetError> {
        let poller = Poller::new()?;
        poller.add(&ports.wake, Source::Wake.token())?;
        let (mut vrrp, mut peers) = (Vec::new(), Vec::new());
        for family in [Family::V4, Family::V6] {
            let socket = VrrpSocket::open(family)?;
            poller.add(&socket, Source::Vrrp(family).token())?;
            vrrp.push(socket);
            let socket = PeerSocket::open(family, peer_port)?;
            poller.add(&socket, Source::Peer.token())?;
            peers.push(socket);
        }
        let (fence, fence_error) = match fence {
            Ok(fence) => (fence, None),
            Err(why) => (None, Some(why)),
        };
        Ok(Self {
            node: Node::new(seed, boot_now()),
            fence,
            fence_error,
            fence_broken: false,
            vrrp,
            peers,
            peer_port,
            neighbors: HashMap::new(),
            macs: HashMap::new(),
            fenced: HashMap::new(),
            refused: Refused::default(),
            bound: Vec::new(),
            joined: Vec::new(),
            bfd: BfdRoom::new(seed, ports.bfd.take()),
            poller,
            routes: Unsent::new(ports.routes.take()),
            electors: Orders::new(ports.electors.clone()),
            ports,
            replies: HashMap::new(),
            next_command: 0,
            events_dropped: 0,
            stopped: false,
        })
    }

    /// Turns until the node has given everything away. Returns the fence, for its orderly removal.
    pub fn run(mut self) -> Option<Fence> {
        match (&self.fence, self.fence_error.take()) {
            (Some(_), _) => self.feed(Input::Fence(FenceState::Ready)),
            (None, Some(why)) => self.feed(Input::Fence(FenceState::Unavailable(why))),
            // Switched off: that is no news and no fault.
            (None, None) => {}
        }
        let mut ready = Ready::ALL;
        while !(self.stopped && self.bfd.stopped) {
            let more = self.turn(ready);
            let now = boot_now();
            self.ports.node.turned(now.as_nanos());
            let latest = now + MAX_WAIT;
            let due = [self.node.poll_timeout(), self.bfd.poll_timeout()].into_iter().flatten().min();
            let deadline = if more { now } else { due.map_or(latest, |at| at.min(latest)) };
            ready = match self.poller.wait(Some(deadline)) {
                Ok(tokens) => Ready::of(tokens),
                Err(error) => {
                    // epoll on valid descriptors does not fail; if it does, spinning would starve the machine.
                    error!(%error, "waiting for events failed");
                    std::thread::sleep(Duration::from_millis(1));
                    Ready::ALL
                }
            };
            if ready.has(Source::Wake) {
                self.ports.wake.clear();
            }
        }
        self.fence
    }

    /// One turn; true when a budget was used up and work may be left. What becomes ready meanwhile is read in the next one.
    fn turn(&mut self, ready: Ready) -> bool {
        let (mut more, _) = self.read_adverts(ready);
        more |= self.read_world();
        if ready.has(Source::Neighbor) {
            more |= self.read_neighbors();
        }
        if ready.has(Source::Peer) {
            more |= self.read_peers();
        }
        self.read_requests();
        if self.node.poll_timeout().is_some_and(|due| due <= boot_now()) {
            more |= self.look_and_expire();
        }
        self.electors.send();
        more |= self.routes.send();
        more | self.turn_bfd(ready.has(Source::Bfd))
    }

    /// Timers expire with a time taken before a look that found no advert: none is declared over one that had arrived by then. True when a
    /// flood left work behind.
    fn look_and_expire(&mut self) -> bool {
        let mut more = false;
        let now = loop {
            let before = boot_now();
            let (flooded, read) = self.read_adverts(Ready::ALL);
            more |= flooded;
            if read == 0 {
                break before;
            }
            if flooded {
                break boot_now();
            }
        };
        self.expire(now);
        more
    }

    fn expire(&mut self, now: Instant) {
        if let Some(due) = self.node.poll_timeout().filter(|due| *due <= now) {
            self.ports.metrics.loop_lag(now.since(due));
            self.node.handle_timeout(now);
            self.carry_out();
        }
    }

    /// Feeds one input and carries out what follows from it. Its time is taken after it was read: a packet must not count as older
    /// than it is, or an owner that is alive is taken for dead after a stall between clock and socket.
    fn feed(&mut self, input: Input<'_>) {
        self.node.handle_input(input, boot_now());
        self.carry_out();
    }

    /// Of the sockets that are ready. True when the budget was used up, and how many were read.
    fn read_adverts(&mut self, ready: Ready) -> (bool, usize) {
        let mut buffer = [0u8; BUFFER];
        let mut left = ADVERT_BUDGET;
        for (index, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            while left > 0 && ready.has(Source::Vrrp(family)) {
                match self.vrrp[index].recv(&mut buffer) {
                    Ok(Some(d)) => {
                        left -= 1;
                        let payload = &buffer[d.payload.clone()];
                        self.feed(Input::Vrrp { link: d.link, src: d.src, dst: d.dst, ttl: d.ttl, payload });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!(%error, "reading adverts failed");
                        break;
                    }
                }
            }
        }
        (left == 0, ADVERT_BUDGET - left)
    }

    fn read_neighbors(&mut self) -> bool {
        let mut buffer = [0u8; BUFFER];
        let mut left = BUDGET;
        for link in self.bound.clone() {
            while left > 0 {
                let Some(socket) = self.neighbors.get(&link) else { break };
                match socket.recv(&mut buffer) {
                    Ok(Some(len)) => {
                        left -= 1;
                        self.feed(Input::Neighbor { link, frame: &buffer[..len] });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        // The link went down or away: netlink says which, and the socket is opened anew when it is back.
                        warn!(%error, link = link.0, "reading ARP and NDP failed");
                        self.close_neighbor(link);
                    }
                }
            }
        }
        left == 0
    }

    fn read_peers(&mut self) -> bool {
        let mut buffer = [0u8; BUFFER];
        let mut left = BUDGET;
        for index in 0..self.peers.len() {
            while left > 0 {
                match self.peers[index].recv(&mut buffer) {
                    Ok(Some((link, src, len))) => {
                        left -= 1;
                        self.feed(Input::Peer { link, src, payload: &buffer[..len] });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!(%error, "reading the peer channel failed");
                        break;
                    }
                }
            }
        }
        left == 0
    }

    fn read_world(&mut self) -> bool {
        for _ in 0..BUDGET {
            let Ok(world) = self.ports.world.try_recv() else { return false };
            match world {
                World::Config(config) => {
                    self.feed(Input::Config(config));
                    self.sync_links();
                }
                World::Bfd(peers) => self.configure_bfd(peers),
                World::Forwarded(opening) => self.open_for(&opening),
                World::Link(link) => {
                    self.note_link(&link);
                    self.feed_bfd(BfdInput::Link(link.clone()));
                    self.feed(Input::Link(link));
                    self.sync_links();
                }
                World::LinkGone(id) => {
                    self.macs.remove(&id);
                    self.fenced.remove(&id);
                    self.close_neighbor(id);
                    self.feed_bfd(BfdInput::LinkGone(id));
                    self.feed(Input::LinkGone(id));
                    self.sync_links();
                }
                World::AddressLost { link, address } => self.feed(Input::AddressLost { link, address }),
                World::Installed(slot, Ok(())) => self.feed(Input::Installed(slot)),
                World::Installed(slot, Err(error)) => self.feed(Input::InstallFailed { slot, error }),
                World::Removed(slot) => self.feed(Input::Removed(slot)),
                World::Held(id, result) => self.feed(Input::Held { id, result }),
                World::Released(id, result) => self.feed(Input::Released { id, result }),
                World::Word(elector, word) => self.feed(Input::Word { elector, word }),
                World::FenceGap(gap) => self.fence_gap(gap),
                World::Probed { gate, ok, detail } => self.feed(Input::Probed { gate, ok, detail }),
            }
        }
        true
    }

    fn read_requests(&mut self) {
        for _ in 0..BUDGET {
            let Ok(request) = self.ports.node.requests.try_recv() else { return };
            match request {
                Request::Status(reply) => {
                    self.publish_drops();
                    // An asker that went away meanwhile is no error.
                    let _gone = reply.send(self.node.status(boot_now()));
                }
                Request::Bfd(reply) => {
                    let _gone = reply.send(self.bfd.status(boot_now()));
                }
                Request::Command(command, reply) => {
                    self.next_command += 1;
                    self.replies.insert(self.next_command, reply);
                    self.feed(Input::Command { id: self.next_command, command });
                }
            }
        }
    }

    /// The fence lets in what the data plane serves. Where it cannot, stragglers for a VIP that moved are dropped, and that is said.
    fn open_for(&mut self, opening: &Opening) {
        if let Some(Err(error)) = self.fence.as_mut().map(|fence| fence.forward(opening)) {
            error!(%error, "the fence does not know what the data plane serves");
        }
    }

    /// Keeps the sockets of the links that groups stand on.
    fn sync_links(&mut self) {
        let bound = self.node.bound_links();
        for link in &bound {
            // Joining takes the kernel's rtnl lock, which anybody on the machine may hold for long: once for each link, never again.
            if !self.joined.contains(link) && self.join(*link) {
                self.joined.push(*link);
            }
            self.open_neighbor(*link);
        }
        for gone in self.bound.clone().into_iter().filter(|l| !bound.contains(l)) {
            for socket in &self.vrrp {
                // A link that vanished took its memberships along.
                let _left = socket.leave(gone);
            }
            for socket in &self.peers {
                let _left = socket.leave(gone);
            }
            self.close_neighbor(gone);
            self.joined.retain(|l| *l != gone);
        }
        self.bound = bound;
        // A probe or an advert that was due at this very moment goes out in the same turn.
        self.expire(boot_now());
    }

    /// Joins the groups of a link on every socket; false when one could not, which is tried again with the next news of links.
    fn join(&self, link: LinkId) -> bool {
        let joins = self.vrrp.iter().map(|s| s.join(link)).chain(self.peers.iter().map(|s| s.join(link)));
        let mut all = true;
        for joined in joins {
            if let Err(error) = joined {
                warn!(%error, link = link.0, "joining the VRRP group failed");
                all = false;
            }
        }
        all
    }

    /// Closing a packet socket waits for an RCU grace period, tens of milliseconds on a busy machine: a task does that.
    fn close_neighbor(&mut self, link: LinkId) {
        if let Some(socket) = self.neighbors.remove(&link) {
            if let Err(error) = self.poller.remove(&socket) {
                warn!(%error, link = link.0, "the ARP and NDP socket stays watched until it is closed");
            }
            let _refused = self.ask(Work::Close(socket));
        }
    }

    fn open_neighbor(&mut self, link: LinkId) {
        if self.neighbors.contains_key(&link) {
            return;
        }
        let opened = NeighborSocket::open(link).and_then(|socket| {
            self.poller.add(&socket, Source::Neighbor.token())?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                self.neighbors.insert(link, socket);
            }
            Err(error) => warn!(%error, link = link.0, "opening the ARP and NDP socket failed"),
        }
    }
}
