//! BFD (RFC 5880, 5881, 5883): all sessions of a node as one sans-IO machine.
//!
//! Decides which session a packet belongs to, from where and to where each session sends, and what its state means for others. The
//! protocol itself is [`session::Session`]'s.
//!
//! Contract: feed [`Bfd::handle_input`], one input at a time, with a `now` that never goes back; after every call take
//! [`Bfd::poll_action`] until `None` and carry out each action in order; call [`Bfd::handle_timeout`] at or after
//! [`Bfd::poll_timeout`].
//! - The `now` of a packet is taken after it was read, as for the node.
//! - The `now` of an expiry is taken before the look at the sockets that found them empty: a peer must not be declared gone over one
//!   of its packets that had arrived and was not read. It may lie a little before the `now` of a packet read in that look.

pub mod config;
mod entry;
pub mod io;
pub mod session;
pub mod status;
#[cfg(test)]
mod tests;
pub mod timing;

use core::hash::Hasher;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use siphasher::sip::SipHasher13;

use config::PeerConfig;
use entry::Entry;
use io::{Action, Input};
use status::{BfdStatus, DiscardCount};

use crate::node::io::LinkInfo;
use crate::time::Instant;
use crate::types::{Family, LinkId};
use crate::wire::bfd::{Control, Discard, HOP_LIMIT, SOURCE_PORTS};

/// A peer that was told AdminDown is given at most this long to confirm it: one detection time at the default intervals, and short
/// enough for a stop. After it the peer notices by itself.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Second half of the key that discriminators come from. A driver may give the node the same seed: what goes over the wire here must
/// not tell the nonces there, whose second half is a small number.
const KEY: u64 = 0x6266_6400_0000_0000;

/// All sessions.
#[derive(Debug)]
pub struct Bfd {
    seed: u64,
    drawn: u64,
    links: Vec<LinkInfo>,
    entries: Vec<Entry>,
    /// Sessions that are no longer wanted and say so to their peers, until the given time.
    leaving: Vec<(Entry, Instant)>,
    sent: u64,
    received: u64,
    discards: [u64; Discard::NAMES.len()],
    stopping: bool,
    stopped: bool,
    actions: VecDeque<Action>,
}

impl Bfd {
    /// A machine without sessions. `seed` must be random in production: discriminators come from it.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            drawn: 0,
            links: Vec::new(),
            entries: Vec::new(),
            leaving: Vec::new(),
            sent: 0,
            received: 0,
            discards: [0; Discard::NAMES.len()],
            stopping: false,
            stopped: false,
            actions: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Config(peers) => self.configure(peers, now),
            Input::Link(link) => {
                match self.links.iter_mut().find(|l| l.id == link.id) {
                    Some(known) if *known == link => return,
                    Some(known) => *known = link,
                    None => self.links.push(link),
                }
                self.find_paths(now);
            }
            Input::LinkGone(id) => {
                self.links.retain(|l| l.id != id);
                self.find_paths(now);
            }
            Input::Packet { link, src, dst, ttl, multihop, payload } => {
                match self.handle_packet(Arrival { link, src, dst, ttl, multihop }, payload, now) {
                    Ok(()) => self.received += 1,
                    Err(why) => self.discards[why.index()] += 1,
                }
            }
            Input::PortTaken { peer } => {
                let port = self.free_port();
                if let Some(entry) = self.entry_mut(&peer) {
                    entry.source_port = port;
                    entry.session.repeat(now);
                }
            }
            Input::SendFailed { peer, error } => {
                if let Some(entry) = self.entry_mut(&peer) {
                    entry.send_error = Some(error);
                }
            }
            Input::Stop => {
                self.stopping = true;
                self.configure(Vec::new(), now);
            }
        }
        self.collect(now);
    }

    /// A deadline passed; see the contract above for what the driver does first.
    pub fn handle_timeout(&mut self, now: Instant) {
        for entry in self.entries.iter_mut().chain(self.leaving.iter_mut().map(|(e, _)| e)) {
            if entry.session.poll_timeout().is_some_and(|at| at <= now) {
                entry.session.handle_timeout(now);
            }
        }
        self.collect(now);
    }

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Next time [`Self::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let leaving = self.leaving.iter().flat_map(|(e, until)| [e.session.poll_timeout(), Some(*until)]);
        self.entries.iter().map(|e| e.session.poll_timeout()).chain(leaving).flatten().min()
    }

    /// The listeners that the sessions need: family, and whether of multihop sessions. The driver keeps these open.
    pub fn listeners(&self) -> Vec<(Family, bool)> {
        let mut wanted = Vec::new();
        for entry in self.all() {
            let listener = (Family::of(&entry.config.remote), entry.config.multihop.is_some());
            if !wanted.contains(&listener) {
                wanted.push(listener);
            }
        }
        wanted
    }

    /// A snapshot for people and metrics.
    pub fn status(&self, now: Instant) -> BfdStatus {
        let counts = Discard::NAMES.into_iter().zip(self.discards);
        BfdStatus {
            peers: self.entries.iter().map(|e| e.status(now)).collect(),
            errors: Vec::new(),
            sent: self.sent,
            received: self.received,
            discards: counts.map(|(reason, count)| DiscardCount { reason, count }).collect(),
        }
    }

    fn configure(&mut self, peers: Vec<PeerConfig>, now: Instant) {
        let peers = if self.stopping { Vec::new() } else { peers };
        let mut before = std::mem::take(&mut self.entries);
        for peer in peers {
            let known = before.iter().position(|e| e.config.same_session(&peer));
            match known.map(|i| before.remove(i)) {
                Some(mut entry) => {
                    entry.set_config(peer, now);
                    self.entries.push(entry);
                }
                None => self.add(peer, now),
            }
        }
        for mut entry in before {
            let farewell = entry.session.detection_of_peer().min(FAREWELL_MAX);
            let heard = entry.session.remote().is_some();
            entry.session.admin_down(now);
            // Nobody is there to be told.
            self.leaving.push((entry, if heard { now + farewell } else { now }));
        }
    }

    fn add(&mut self, peer: PeerConfig, now: Instant) {
        // Its farewell would be taken for news of the session that comes now.
        while let Some(i) = self.leaving.iter().position(|(e, _)| e.config.collides(&peer)) {
            let (mut entry, _) = self.leaving.remove(i);
            self.sent += entry.collect(&mut self.actions, now);
            self.actions.push_back(Action::ClosePort(entry.source_port));
        }
        let (discr, port, seed) = (self.free_discriminator(), self.free_port(), self.draw());
        let mut entry = Entry::new(peer, discr, port, seed, now);
        entry.find_path(&self.links, now);
        self.entries.push(entry);
    }

    fn find_paths(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.find_path(&self.links, now);
        }
    }

    fn handle_packet(&mut self, arrival: Arrival, payload: &[u8], now: Instant) -> Result<(), Discard> {
        // Before anything is read of a packet that crossed a router (RFC 5881 section 5).
        if !arrival.multihop && arrival.ttl != HOP_LIMIT {
            return Err(Discard::Ttl { ttl: arrival.ttl, min: HOP_LIMIT });
        }
        let packet = Control::parse(payload)?;
        let all = || self.entries.iter().chain(self.leaving.iter().map(|(e, _)| e));
        let found = if packet.your_discr == 0 {
            all().position(|e| e.fits(&arrival))
        } else {
            // From here on the discriminator alone decides (RFC 5880 section 6.3), on the port of its kind.
            let discr = packet.your_discr;
            all().position(|e| e.session.local_discr() == discr && e.config.multihop.is_some() == arrival.multihop)
        };
        let index = found.ok_or(Discard::NoSession)?;
        let count = self.entries.len();
        let entry = match self.entries.get_mut(index) {
            Some(entry) => entry,
            None => &mut self.leaving[index - count].0,
        };
        if let Some(min) = entry.config.multihop.filter(|min| arrival.ttl < *min) {
            entry.low_ttl = Some(arrival.ttl);
            return Err(Discard::Ttl { ttl: arrival.ttl, min });
        }
        entry.session.handle_packet(&packet, now)?;
        entry.low_ttl = None;
        entry.received += 1;
        Ok(())
    }

    /// Gathers what the sessions owe and lets go of those that have said farewell.
    fn collect(&mut self, now: Instant) {
        for entry in self.entries.iter_mut().chain(self.leaving.iter_mut().map(|(e, _)| e)) {
            self.sent += entry.collect(&mut self.actions, now);
        }
        let actions = &mut self.actions;
        self.leaving.retain(|(entry, until)| {
            // The peer's Final ended the sequence: it knows.
            let keep = now < *until && entry.session.polling();
            if !keep {
                actions.push_back(Action::ClosePort(entry.source_port));
            }
            keep
        });
        if self.stopping && !self.stopped && self.leaving.is_empty() {
            self.stopped = true;
            self.actions.push_back(Action::Stopped);
        }
    }

    fn entry_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().chain(self.leaving.iter_mut().map(|(e, _)| e)).find(|e| e.config.name == name)
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().chain(self.leaving.iter().map(|(e, _)| e))
    }

    fn free_discriminator(&mut self) -> u32 {
        loop {
            let [a, b, c, d, ..] = self.draw().to_le_bytes();
            let discr = u32::from_le_bytes([a, b, c, d]);
            if discr != 0 && self.all().all(|e| e.session.local_discr() != discr) {
                return discr;
            }
        }
    }

    /// A source port that no session uses; when all are in use, any (RFC 5881 section 4 permits sharing).
    fn free_port(&mut self) -> u16 {
        let span = u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
        let mut port = *SOURCE_PORTS.start();
        for _ in 0..span {
            port = SOURCE_PORTS.start() + u16::try_from(self.draw() % span).expect("below 16384");
            if self.all().all(|e| e.source_port != port) {
                break;
            }
        }
        port
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let mut hasher = SipHasher13::new_with_keys(self.seed, KEY);
        hasher.write_u64(self.drawn);
        hasher.finish()
    }
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    link: LinkId,
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    multihop: bool,
}
