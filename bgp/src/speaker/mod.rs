//! Every session, the routes they announce, and the order of leaving, as one machine.

mod configure;
mod leaving;
mod status;
mod write;

use std::collections::VecDeque;

use crate::config::SpeakerConfig;
use crate::graceful::{EndOfRibGate, FormerRun, Leave};
use crate::io::{Action, Command, Conn, Input, Route};
use crate::rib::{OutQueue, Rib};
use crate::session::{Effect, LocalEnd, Session};
use crate::time::Instant;
use crate::wire::Family;

pub use status::{AdvertisedRoute, HeldBack, NeighborStatus, SpeakerStatus};

/// A BGP speaker.
///
/// Calling contract, for whoever drives it:
/// - `now` never goes back, and every input of a moment is fed before [`Self::handle_timeout`] of that moment: a hold timer that expires
///   with a KEEPALIVE unread in our own socket buffer would end a good session.
/// - After every [`Self::handle_input`] and [`Self::handle_timeout`] take [`Self::poll_action`] until `None`, then ask
///   [`Self::poll_timeout`] for the time of the next call; both are valid until then.
/// - Actions are carried out in order. An input for a connection that the speaker has closed is ignored, so what was on its way
///   needs no care.
/// - The work of a call is bounded: at most one write of 64 kB per connection is encoded, the next after [`Input::Written`].
/// - After [`Action::Stopped`] nothing more is tried; drop it.
#[derive(Debug)]
pub struct Speaker {
    started: Instant,
    config: Option<SpeakerConfig>,
    rib: Rib,
    neighbors: Vec<Neighbor>,
    actions: VecDeque<Action>,
    seed: u64,
    /// Neighbors ever made; each has 2^32 connection numbers of its own.
    serial: u64,
    synced: bool,
    former: Option<FormerRun>,
    leave: Option<Leaving>,
}

/// A session and what it still has to be sent.
#[derive(Debug)]
struct Neighbor {
    session: Session,
    out: Option<Outgoing>,
    /// Not configured any more; dropped when its last actions are taken.
    removed: bool,
}

/// While Established.
#[derive(Debug)]
struct Outgoing {
    conn: Conn,
    queue: OutQueue,
    gate: EndOfRibGate,
}

#[derive(Debug)]
struct Leaving {
    machine: Leave,
    text: String,
    /// Sessions whose acknowledgements are awaited.
    flushing: Vec<Conn>,
    /// The step that was reported last.
    step: &'static str,
    /// Every session is closed.
    done: bool,
}

impl Speaker {
    /// A speaker without neighbors. The seed decides every jitter.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            started: now,
            config: None,
            rib: Rib::new(),
            neighbors: Vec::new(),
            actions: VecDeque::new(),
            seed,
            serial: 0,
            synced: false,
            former: None,
            leave: None,
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Config(config) => self.configure(*config, now),
            Input::Announce(routes) => self.announce(&routes),
            Input::Withdraw(prefixes, since) => {
                for prefix in prefixes {
                    if let Some(prefix) = self.rib.withdraw(prefix) {
                        self.changed(prefix, since);
                    }
                }
            }
            Input::Synced => {
                self.synced = true;
                for out in self.neighbors.iter_mut().filter_map(|neighbor| neighbor.out.as_mut()) {
                    out.gate.handle_synced();
                }
            }
            Input::Restarted(former) => self.former = Some(former),
            Input::Connected { conn, local, on_link, link_local } => {
                let local = LocalEnd { address: local, on_link, link_local };
                self.with_session(conn, |session| session.handle_connected(conn, local, now));
            }
            Input::ConnectFailed { conn, error } => {
                self.with_session(conn, |session| session.handle_connect_failed(conn, &error, now));
            }
            Input::Accepted { conn, remote, local, on_link, link_local } => {
                let local = LocalEnd { address: local, on_link, link_local };
                let remote = remote.to_canonical();
                let mut called = self.neighbors.iter_mut().filter(|n| n.session.config().address == remote);
                // Who leaves opens nothing new.
                let leaving = self.leave.is_some();
                if leaving || !called.any(|neighbor| neighbor.session.handle_accepted(conn, local, now)) {
                    self.actions.push_back(Action::Close { conn });
                }
            }
            Input::Received { conn, bytes } => {
                self.with_session(conn, |session| session.handle_received(conn, bytes, now));
            }
            Input::Written { conn, pending, unacknowledged } => {
                self.with_session(conn, |session| session.handle_written(conn, pending, unacknowledged, now));
            }
            Input::Closed { conn, error } => {
                self.with_session(conn, |session| session.handle_closed(conn, error.as_deref(), now));
            }
            Input::Bfd { neighbor, state } => {
                if let Some(neighbor) = self.neighbor(&neighbor) {
                    neighbor.session.handle_bfd(state, now);
                }
            }
            Input::Command(Command::Reset { neighbor }) => {
                if self.leave.is_none()
                    && let Some(neighbor) = self.neighbor(&neighbor)
                {
                    neighbor.session.reset(now);
                }
            }
            Input::Command(Command::Shutdown { drain, text }) => self.shut_down(drain, text, now),
            Input::Command(Command::Restart) => self.restart(now),
        }
        self.turn(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for neighbor in &mut self.neighbors {
            neighbor.session.handle_timeout(now);
            if let Some(out) = &mut neighbor.out {
                out.gate.handle_timeout(now);
            }
        }
        if let Some(leaving) = &mut self.leave {
            leaving.machine.handle_timeout(now);
        }
        self.turn(now);
    }

    /// Takes the next action.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sessions = self.neighbors.iter().filter_map(|neighbor| neighbor.session.poll_timeout());
        let gates = self.neighbors.iter().filter_map(|neighbor| neighbor.out.as_ref()?.gate.poll_timeout());
        let leave = self.leave.as_ref().and_then(|leaving| leaving.machine.poll_timeout());
        sessions.chain(gates).chain(leave).min()
    }

    fn announce(&mut self, routes: &[Route]) {
        for route in routes {
            if let Some(prefix) = self.rib.announce(route) {
                self.changed(prefix, route.since);
            }
        }
    }

    fn changed(&mut self, prefix: ipnet::IpNet, since: Instant) {
        for out in self.neighbors.iter_mut().filter_map(|neighbor| neighbor.out.as_mut()) {
            out.queue.changed(&self.rib, prefix, since);
        }
    }

    fn neighbor(&mut self, name: &str) -> Option<&mut Neighbor> {
        self.neighbors.iter_mut().find(|neighbor| neighbor.session.config().name == name)
    }

    fn with_session(&mut self, conn: Conn, handle: impl FnOnce(&mut Session)) {
        if let Some(neighbor) = self.neighbors.iter_mut().find(|neighbor| neighbor.session.has(conn)) {
            handle(&mut neighbor.session);
        }
    }

    /// Follows what the sessions say until nothing is left to do at `now`.
    fn turn(&mut self, now: Instant) {
        let was_done = self.leave.as_ref().is_some_and(|leaving| leaving.done);
        loop {
            self.drain_effects(now);
            self.write(now);
            self.drain_effects(now);
            if !self.step_leaving(now) {
                break;
            }
        }
        self.neighbors.retain(|neighbor| !neighbor.removed);
        if !was_done && self.leave.as_ref().is_some_and(|leaving| leaving.done) {
            self.actions.push_back(Action::Stopped);
        }
    }

    fn drain_effects(&mut self, now: Instant) {
        for at in 0..self.neighbors.len() {
            while let Some(effect) = self.neighbors[at].session.poll_effect() {
                self.follow(at, effect, now);
            }
        }
    }

    fn follow(&mut self, at: usize, effect: Effect, now: Instant) {
        match effect {
            Effect::Act(action) => self.actions.push_back(action),
            Effect::Up(conn) => self.established(at, conn, now),
            Effect::Down(conn) => {
                let neighbor = &mut self.neighbors[at];
                if neighbor.out.as_ref().is_some_and(|out| out.conn == conn) {
                    neighbor.out = None;
                }
                self.gone_while_leaving(at, conn, now);
            }
            Effect::Refresh(family) => self.refresh(at, family),
        }
    }

    fn refresh(&mut self, at: usize, family: Family) {
        if let Some(out) = &mut self.neighbors[at].out {
            out.queue.refresh(family);
        }
    }
}

#[cfg(test)]
mod tests;
