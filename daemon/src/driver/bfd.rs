//! The driver's part of BFD: sockets, the look before an expiry, and the latest state for those who follow a session.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bascule_core::bfd::Bfd;
use bascule_core::bfd::config::PeerConfig;
use bascule_core::bfd::io::{Action, BfdUpdate, Input};
use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::event::Event;
use bascule_core::time::Instant;
use bascule_core::types::Family;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{error, info, warn};

use super::Driver;
use super::ready::Source;
use crate::net::NetError;
use crate::net::raw::{BfdListener, BfdSender};
use crate::net::rt::{Poller, boot_now};

/// Updates that may wait for the room that follows. When it is full the driver keeps the latest state of each session and offers it
/// again in its next turn: a reader that lags misses states in between, never the last one, and `failures` tells that there were some.
pub const BFD_UPDATE_QUEUE: usize = 256;

/// Packets read from one socket in one look: more than its receive buffer holds, so that a look reads all that had arrived.
const LOOK: usize = 1024;
/// Looks in one turn: after a look that found something comes one that finds nothing, unless packets keep pouring in. Then the timers of
/// the other rooms come first.
const LOOKS: usize = 2;
/// Source ports that are tried before a packet is given up: they are drawn from 16,384.
const PORT_TRIES: usize = 16;
/// Longest datagram of interest: a packet with the longest authentication section there is is shorter.
const BUFFER: usize = 512;
/// A listener that could not be opened is tried again this often.
const RETRY: Duration = Duration::from_secs(2);

/// Sessions and their sockets.
pub(super) struct BfdRoom {
    machine: Bfd,
    listeners: HashMap<(Family, bool), BfdListener>,
    /// Listeners that are wanted and could not be opened, and why.
    closed: BTreeMap<(Family, bool), String>,
    retry: Instant,
    senders: HashMap<u16, BfdSender>,
    /// A session ended: its listener may not be needed any more.
    ended: bool,
    /// Sessions whose last packet could not be sent: logged once for a series.
    failing: BTreeSet<String>,
    updates: Option<mpsc::Sender<BfdUpdate>>,
    /// What did not fit into the queue, the latest of each session.
    unsent: BTreeMap<String, BfdUpdate>,
    pub(super) stopped: bool,
}

impl BfdRoom {
    pub(super) fn new(seed: u64, updates: Option<mpsc::Sender<BfdUpdate>>) -> Self {
        Self {
            machine: Bfd::new(seed),
            listeners: HashMap::new(),
            closed: BTreeMap::new(),
            retry: Instant::ZERO,
            senders: HashMap::new(),
            ended: false,
            failing: BTreeSet::new(),
            updates,
            unsent: BTreeMap::new(),
            stopped: false,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    pub(super) fn status(&self, now: Instant) -> BfdStatus {
        let errors = self.closed.values().cloned().collect();
        BfdStatus { errors, ..self.machine.status(now) }
    }

    /// Keeps the listeners that the sessions need, and no other: the ports belong to other programs where no session is configured.
    fn sync_listeners(&mut self, poller: &Poller, now: Instant) {
        let wanted = self.machine.listeners();
        self.listeners.retain(|key, _| wanted.contains(key));
        self.closed.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if self.listeners.contains_key(&key) {
                continue;
            }
            let (family, multihop) = key;
            let opened = BfdListener::open(family, multihop).and_then(|listener| {
                poller.add(&listener, Source::Bfd.token())?;
                Ok(listener)
            });
            match opened {
                Ok(listener) => {
                    if self.closed.remove(&key).is_some() {
                        info!(?family, multihop, "the BFD socket is open now");
                    }
                    self.listeners.insert(key, listener);
                }
                Err(why) => {
                    self.retry = now + RETRY;
                    let kind = if multihop { "multihop" } else { "single-hop" };
                    let why = format!("BFD hears no {kind} {family:?} packets: {why}");
                    if self.closed.insert(key, why.clone()).is_none() {
                        error!("{why}");
                    }
                }
            }
        }
    }

    /// Offers the followers what is new.
    fn flush(&mut self) {
        let Some(updates) = &self.updates else { return };
        while let Some((_, update)) = self.unsent.pop_first() {
            match updates.try_send(update) {
                Ok(()) => {}
                Err(TrySendError::Full(update)) => {
                    self.unsent.insert(update.peer.clone(), update);
                    return;
                }
                // The room has ended.
                Err(TrySendError::Closed(_)) => self.unsent.clear(),
            }
        }
    }

    fn send(&mut self, port: u16, multihop: bool, send: &Packet<'_>) -> Result<(), NetError> {
        let family = Family::of(&send.dst);
        let sender = match self.senders.entry(port) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => slot.insert(BfdSender::open(family, multihop, port)?),
        };
        sender.send(send.link, send.src, send.dst, send.payload)
    }
}

struct Packet<'a> {
    link: Option<bascule_core::types::LinkId>,
    src: Option<std::net::IpAddr>,
    dst: std::net::IpAddr,
    payload: &'a [u8],
}

impl Driver {
    /// Every session that there shall be.
    pub(super) fn configure_bfd(&mut self, peers: Vec<PeerConfig>) {
        self.feed_bfd(Input::Config(peers));
        self.bfd.sync_listeners(&self.poller, boot_now());
    }

    /// Feeds one input, with a time taken after it was read, and carries out what follows.
    pub(super) fn feed_bfd(&mut self, input: Input<'_>) {
        self.bfd.machine.handle_input(input, boot_now());
        self.carry_out_bfd();
    }

    /// Reads what has arrived where something has, or a timer is due. True when a flood left work behind.
    pub(super) fn turn_bfd(&mut self, ready: bool) -> bool {
        let now = boot_now();
        let due = self.bfd.poll_timeout().is_some_and(|at| at <= now);
        let flooded = (ready || due) && self.look_and_expire_bfd();
        let retry = !self.bfd.closed.is_empty() && self.bfd.retry <= now;
        if std::mem::take(&mut self.bfd.ended) || retry {
            self.bfd.sync_listeners(&self.poller, now);
        }
        self.bfd.flush();
        flooded
    }

    /// Reads, then lets timers expire with the time of the last look that found nothing: no peer is declared gone over a packet of its that
    /// had arrived by then.
    fn look_and_expire_bfd(&mut self) -> bool {
        let (mut looks, mut flooded) = (0, false);
        let now = loop {
            let before = boot_now();
            let read = self.look();
            looks += 1;
            flooded |= read >= LOOK;
            // In a flood too, all that had arrived by `before` was read: a look takes more than the buffer holds.
            if read == 0 || looks == LOOKS {
                break before;
            }
        };
        if self.bfd.poll_timeout().is_some_and(|at| at <= now) {
            self.bfd.machine.handle_timeout(now);
            self.carry_out_bfd();
        }
        flooded
    }

    /// One look at every listener; how many packets the fullest one gave.
    fn look(&mut self) -> usize {
        let mut buffer = [0u8; BUFFER];
        let keys: Vec<_> = self.bfd.listeners.keys().copied().collect();
        let mut most = 0;
        for key in keys {
            let mut read = 0;
            while read < LOOK {
                let Some(listener) = self.bfd.listeners.get(&key) else { break };
                let multihop = listener.multihop();
                match listener.recv(&mut buffer) {
                    Ok(Some(d)) => {
                        read += 1;
                        let payload = &buffer[d.payload.clone()];
                        let (link, src, dst, ttl) = (d.link, d.src, d.dst, d.ttl);
                        self.feed_bfd(Input::Packet { link, src, dst, ttl, multihop, payload });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!(%error, "reading BFD packets failed");
                        break;
                    }
                }
            }
            most = most.max(read);
        }
        most
    }

    fn carry_out_bfd(&mut self) {
        let mut tries = PORT_TRIES;
        while let Some(action) = self.bfd.machine.poll_action() {
            match action {
                Action::Send { peer, link, src, dst, multihop, source_port, payload } => {
                    let packet = Packet { link, src, dst, payload: &payload };
                    match self.bfd.send(source_port, multihop, &packet) {
                        Ok(()) => {
                            if self.bfd.failing.remove(&peer) {
                                info!(%peer, "BFD packets leave again");
                            }
                        }
                        Err(error) if error.port_taken() && tries > 0 => {
                            tries -= 1;
                            self.bfd.machine.handle_input(Input::PortTaken { peer }, boot_now());
                        }
                        Err(error) => {
                            let error = error.to_string();
                            if self.bfd.failing.insert(peer.clone()) {
                                warn!(%peer, error, "BFD packets are not sent");
                            }
                            self.bfd.machine.handle_input(Input::SendFailed { peer, error }, boot_now());
                        }
                    }
                }
                Action::ClosePort(port) => {
                    self.bfd.senders.remove(&port);
                    self.bfd.ended = true;
                }
                Action::Report(event) => self.tell(Event::Bfd(event)),
                Action::Update(update) if self.bfd.updates.is_some() => {
                    self.bfd.unsent.insert(update.peer.clone(), update);
                }
                Action::Update(_) => {}
                Action::Stopped => self.bfd.stopped = true,
            }
        }
    }
}
