//! One service at work: its health, its tables and the slots of its endpoints.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::damping::{Damped, State};
use super::io::{EndpointEntry, EndpointSlot, ServiceEntry, ServiceSlot};
use super::level::{Level, drain_minutes};
use super::maglev;
use crate::service::{Delivery, EndpointSpec, ServiceKey, ServiceSpec};
use crate::site::SiteId;
use crate::time::Instant;

/// Longest time that a change waits for the first words of checks.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Service {
    pub(super) spec: Arc<ServiceSpec>,
    pub(super) key: ServiceKey,
    pub(super) slot: ServiceSlot,
    pub(super) seed: u64,
    /// One for each endpoint of `spec`, in its order.
    pub(super) known: Vec<Known>,
    /// First level: over nodes.
    pub(super) nodes: Level,
    /// Whose site each part of the hash space is; none: the policy has not spoken.
    pub(super) owners: Option<Vec<SiteId>>,
    /// Second level: over the endpoints that this node can reach by itself.
    pub(super) local: Level,
    pub(super) slots: BTreeMap<(IpAddr, u16), Local>,
    /// Tables were built since the start.
    pub(super) built: bool,
    /// Its key leads to its slot.
    pub(super) keyed: bool,
    /// Until then changes that are not urgent wait for checks that have not spoken.
    pub(super) patience: Instant,
    /// An endpoint or node in use is gone.
    pub(super) urgent: bool,
    /// No room for a table: reported, and tried again.
    pub(super) starved: bool,
    /// No endpoint is ready: reported.
    pub(super) all_unready: bool,
    /// Endpoints here that the stack delivers to: reported.
    pub(super) delegated: usize,
    /// No slot for an endpoint: reported.
    pub(super) slotless: bool,
    /// Rows that forgot a holder which packets still asked, and until when that may show.
    pub(super) forgotten: Option<(u64, Instant)>,
    /// When it wants to be looked at, as the agenda has it.
    pub(super) wake: Option<Instant>,
}

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) health: Damped,
    /// It took new connections at the last build.
    pub(super) serving: bool,
}

impl Known {
    pub(super) const fn state(&self) -> State {
        self.health.state
    }
}

/// An endpoint with a slot on this node.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) slot: EndpointSlot,
    /// What the driver was told last; `None`: nothing since the start.
    pub(super) entry: Option<EndpointEntry>,
    /// Name in the configuration; empty when it was found in the maps and nobody knows it.
    pub(super) name: String,
    /// No longer in the configuration since: keeps its flows for the drain time.
    pub(super) gone: Option<Instant>,
}

impl Service {
    pub(super) fn new(spec: Arc<ServiceSpec>, slot: ServiceSlot, now: Instant) -> Self {
        let key = spec.key();
        let mut service = Self {
            key,
            slot,
            seed: maglev::seed(&key),
            known: Vec::new(),
            nodes: Level::default(),
            owners: None,
            local: Level::default(),
            slots: BTreeMap::new(),
            built: false,
            keyed: false,
            patience: now,
            urgent: false,
            starved: false,
            all_unready: false,
            delegated: 0,
            slotless: false,
            forgotten: None,
            wake: None,
            spec,
        };
        service.know(&[], now);
        service
    }

    /// What the driver writes of it.
    pub(super) fn entry(&self) -> ServiceEntry {
        let spec = &self.spec;
        ServiceEntry {
            name: spec.name.clone(),
            key: self.key,
            number: spec.number,
            delivery: spec.delivery,
            returns: spec.returns,
            affinity: spec.affinity,
            sources: !spec.sources.is_empty(),
            ask: spec.ask,
            quic: spec.quic,
            drain_minutes: self.drain(),
        }
    }

    /// Drain time in minutes as rows count it.
    pub(super) fn drain(&self) -> u16 {
        drain_minutes(self.spec.drain)
    }

    /// Takes a new description with the same key. Endpoints are known by their names; one that moved starts anew.
    pub(super) fn set_spec(&mut self, spec: Arc<ServiceSpec>, now: Instant) {
        let before = std::mem::replace(&mut self.spec, spec);
        self.know(&before.endpoints, now);
    }

    /// What is known of the endpoints, which were these before.
    fn know(&mut self, before: &[EndpointSpec], now: Instant) {
        let known = std::mem::replace(&mut self.known, Vec::with_capacity(self.spec.endpoints.len()));
        let before: BTreeMap<&str, (&EndpointSpec, Known)> =
            before.iter().zip(known).map(|(e, known)| (e.name.as_str(), (e, known))).collect();
        for endpoint in self.spec.endpoints.iter() {
            let namesake = before.get(endpoint.name.as_str());
            let same = namesake.filter(|(e, _)| (e.address, e.port) == (endpoint.address, endpoint.port));
            let health = match (&endpoint.check, same) {
                (None, _) => Damped::new(State::Ready),
                (Some(_), Some((_, known))) => known.health,
                (Some(check), None) => {
                    // A tenth of the interval spreads the first probes.
                    let first = check.timeout + check.interval / 10 + Duration::from_millis(200);
                    self.patience = self.patience.max(now + first.min(WAIT_MAX));
                    Damped::new(State::Unknown)
                }
            };
            self.known.push(Known { health, serving: namesake.is_some_and(|(_, known)| known.serving) });
        }
    }

    /// Endpoints, with what is known of them.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&EndpointSpec, &Known)> {
        self.spec.endpoints.iter().zip(&self.known)
    }

    /// What is known of the endpoint of this name.
    pub(super) fn known(&self, endpoint: &str) -> Option<&Known> {
        self.endpoints().find_map(|(e, known)| (e.name == endpoint).then_some(known))
    }

    pub(super) fn known_mut(&mut self, endpoint: &str) -> Option<&mut Known> {
        let mut endpoints = self.spec.endpoints.iter().zip(&mut self.known);
        endpoints.find_map(|(e, known)| (e.name == endpoint).then_some(known))
    }

    /// Those that took new connections at the last build.
    pub(super) fn serving(&self) -> impl Iterator<Item = &EndpointSpec> {
        self.endpoints().filter_map(|(e, known)| known.serving.then_some(e))
    }

    /// Endpoints that this node rewrites to: its own and those behind routers.
    pub(super) fn reachable(&self, node: &str) -> impl Iterator<Item = (&EndpointSpec, &Known)> {
        self.endpoints().filter(move |(e, _)| self.reaches(e, node))
    }

    /// Does this node rewrite to the endpoint?
    pub(super) fn reaches(&self, endpoint: &EndpointSpec, node: &str) -> bool {
        self.spec.delivery == Delivery::Direct && endpoint.node.as_deref().is_none_or(|n| n == node)
    }

    /// When health or patience asks for a look.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.known.iter().filter_map(|known| known.health.poll_timeout()).min()
    }
}
