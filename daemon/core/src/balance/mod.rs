//! From services, nodes and health to the tables that packets are steered by.
//!
//! Contract: feed `handle_*`, one at a time, with a `now` that never goes back; after every call take [`Balancer::poll_action`] until
//! `None` and carry out each action in order; call [`Balancer::handle_expire`] at or after [`Balancer::poll_timeout`]. Inputs only
//! note what changed: tables are rebuilt at the expiry that follows ([`SETTLE`]), so that what happens together is one change, on every
//! node the same whatever the order of its parts. Only the death of a node is told to the driver at once: packets skip a dead node.
//!
//! A node whose daemon is not heard takes no new flows. It is dead, and out of reach for those it has, only if none of its endpoints answers
//! either, which are asked at once ([`absent`]): the programs of a node forward while its daemon is frozen, gone or being replaced.
//!
//! The same inputs at the same times make the same homes on every node: names, weights and history decide, never ids, slots or the order
//! of a list. A node that starts without tables knows no history. It takes it that the others served without it until now, which is what
//! they remember of its rows; so it finds the flows that they took meanwhile.

pub mod absent;
mod apply;
mod build;
mod choice;
mod damping;
mod hold;
pub mod io;
mod level;
pub mod maglev;
mod recover;
mod room;
pub mod rows;
mod service;
pub mod serving;
pub mod sites;
pub mod slab;
mod slots;
pub mod status;
#[cfg(test)]
mod tests;
mod unplaced;
mod vips;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::service::{EndpointId, NodeSpec, ServiceKey};
use crate::time::Instant;

use choice::Nodes;
use damping::State;
pub use io::{Action, Config, DrainTarget, Health, Recovered};
pub use level::{drain_minutes, minute};
use recover::Found;
pub use room::Limits;
use room::Room;
use service::Service;
pub use sites::SiteSpec;
use sites::Sites;
pub use unplaced::PLACE_PATIENCE;
use vips::Vips;

/// Nothing that a table word or a key named is used again earlier than this after it was unlinked. A packet is in a program for
/// microseconds; a second also covers a vCPU that was taken away in the middle of one.
pub const GRACE: Duration = Duration::from_secs(1);

/// What happens within this time is one change of the tables: several checks of one node that died end within a few milliseconds of
/// each other. Short beside the detection of a failure (300 ms at best).
pub const SETTLE: Duration = Duration::from_millis(10);

/// The machine.
#[derive(Debug)]
pub struct Balancer {
    nodes: Nodes,
    services: BTreeMap<ServiceKey, Service>,
    vips: Vips,
    room: Room,
    found: Found,
    /// Nodes as the driver was told of them.
    told: BTreeMap<u16, io::NodeEntry>,
    sites: Sites,
    /// Services to look at when `settled` is due.
    dirty: BTreeSet<ServiceKey>,
    settled: Option<Instant>,
    /// When each service wants to be looked at.
    agenda: BTreeSet<(Instant, ServiceKey)>,
    configured: bool,
    swept: bool,
    counts: status::Counts,
}

impl Default for Balancer {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Balancer {
    /// A machine that knows nothing. A driver that found pinned maps calls [`Self::handle_recovered`] first.
    pub fn new(limits: Limits) -> Self {
        Self {
            nodes: Nodes::default(),
            services: BTreeMap::new(),
            vips: Vips::default(),
            room: Room::new(limits),
            found: Found::default(),
            told: BTreeMap::new(),
            sites: Sites::default(),
            dirty: BTreeSet::new(),
            settled: None,
            agenda: BTreeSet::new(),
            configured: false,
            swept: false,
            counts: status::Counts::default(),
        }
    }

    /// What pinned maps hold. Only before the first configuration: later it is ignored.
    pub fn handle_recovered(&mut self, found: Recovered) {
        if !self.configured {
            self.found = Found::new(found, &mut self.room);
        }
    }

    /// All that there shall be; applied as a difference.
    pub fn handle_config(&mut self, config: Config, now: Instant) {
        self.apply(config, now);
    }

    /// A check of an endpoint came to a conclusion.
    pub fn handle_endpoint_health(&mut self, endpoint: &EndpointId, health: Health, now: Instant) {
        let Some(service) = self.services.get_mut(&endpoint.service) else { return };
        let Some(known) = service.known_mut(&endpoint.endpoint) else { return };
        if !known.health.hear(health, now) {
            return;
        }
        let (held, serving) = (matches!(known.state(), State::Held(_)), known.serving);
        service.urgent |= health != Health::Ready && serving;
        if held {
            let (service, endpoint) = (endpoint.service, endpoint.endpoint.clone());
            self.room.owe(Action::Report(io::Report::Flapping { service, endpoint }));
        }
        self.mark(endpoint.service, now);
        self.review_absent(now);
    }

    /// How long a check took that an endpoint passed.
    pub fn handle_answer_time(&mut self, endpoint: &EndpointId, took: Duration) {
        let service = self.services.get_mut(&endpoint.service);
        if let Some(known) = service.and_then(|service| service.known_mut(&endpoint.endpoint)) {
            known.health.answered_within(took);
        }
    }

    /// An operator takes something out of use, or puts it back. Kept until the end of the process, over configurations.
    pub fn handle_drain(&mut self, target: DrainTarget, drain: bool, now: Instant) {
        let changed =
            if drain { self.nodes.drained.insert(target.clone()) } else { self.nodes.drained.remove(&target) };
        if !changed {
            return;
        }
        match target {
            DrainTarget::Node(_) => self.mark_all(now),
            DrainTarget::Service(key) | DrainTarget::Endpoint(EndpointId { service: key, .. }) => self.mark(key, now),
        }
    }

    /// A deadline passed.
    pub fn handle_expire(&mut self, now: Instant) {
        let settled = self.settled.take_if(|at| *at <= now).is_some();
        let mut due = if settled { std::mem::take(&mut self.dirty) } else { BTreeSet::new() };
        while let Some((at, key)) = self.agenda.first().copied().filter(|(at, _)| *at <= now) {
            let _there = self.agenda.remove(&(at, key));
            let _new = due.insert(key);
        }
        self.expire_absent(now);
        self.expire_unplaced(now);
        if self.room.expire(now) {
            due.extend(self.services.iter().filter(|(_, s)| s.starved).map(|(key, _)| *key));
        }
        for key in due {
            self.build(key, now);
        }
        self.sweep();
    }

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.room.actions.pop_front()
    }

    /// Next time [`Self::handle_expire`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let agenda = self.agenda.first().map(|(at, _)| *at);
        let nodes = [self.absent_timeout(), self.unplaced_timeout()];
        let own = [self.settled, agenda, self.room.poll_timeout()];
        own.into_iter().chain(nodes).flatten().min()
    }

    fn mark(&mut self, key: ServiceKey, now: Instant) {
        if self.services.contains_key(&key) {
            let _new = self.dirty.insert(key);
            let _at = self.settled.get_or_insert(now + SETTLE);
        }
    }

    fn mark_all(&mut self, now: Instant) {
        self.dirty.extend(self.services.keys());
        if !self.dirty.is_empty() {
            let _at = self.settled.get_or_insert(now + SETTLE);
        }
    }

    /// Tells the driver what is new about nodes.
    fn tell_nodes(&mut self) {
        let entry = |spec: &NodeSpec| io::NodeEntry {
            spec: spec.clone(),
            dead: self.nodes.is_dead(&spec.name),
            this: spec.name == self.nodes.this,
        };
        let wanted: BTreeMap<u16, io::NodeEntry> = self.nodes.by_name.values().map(|n| (n.id, entry(n))).collect();
        for (id, entry) in &wanted {
            if self.told.get(id) != Some(entry) {
                self.room.owe(Action::PutNode(entry.clone()));
            }
        }
        for (id, entry) in std::mem::replace(&mut self.told, wanted) {
            if !self.told.contains_key(&id) {
                self.room.owe(Action::RemoveNode { spec: entry.spec });
            }
        }
        self.sites.tell(&self.nodes, &mut self.room);
    }

    fn sweep(&mut self) {
        if self.configured && !self.swept && self.services.values().all(|s| s.built) {
            self.swept = true;
            self.room.owe(Action::Sweep);
        }
    }
}
