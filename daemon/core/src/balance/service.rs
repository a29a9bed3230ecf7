//! One service at work: its health, its tables and the slots of its endpoints.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
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
    pub(super) spec: ServiceSpec,
    pub(super) key: ServiceKey,
    pub(super) slot: ServiceSlot,
    pub(super) seed: u64,
    pub(super) health: BTreeMap<String, Damped>,
    /// First level: over nodes.
    pub(super) nodes: Level,
    /// Whose site each part of the hash space is; none: the policy has not spoken.
    pub(super) owners: Option<Vec<SiteId>>,
    /// Second level: over the endpoints that this node can reach by itself.
    pub(super) local: Level,
    pub(super) slots: BTreeMap<(IpAddr, u16), Local>,
    /// Names of the endpoints that took new connections at the last build.
    pub(super) serving: BTreeSet<String>,
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
    pub(super) fn new(spec: ServiceSpec, slot: ServiceSlot, now: Instant) -> Self {
        let key = spec.key();
        let mut service = Self {
            key,
            slot,
            seed: maglev::seed(&key),
            health: BTreeMap::new(),
            nodes: Level::default(),
            owners: None,
            local: Level::default(),
            slots: BTreeMap::new(),
            serving: BTreeSet::new(),
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
            spec: ServiceSpec { endpoints: Arc::default(), ..spec.clone() },
        };
        service.set_spec(spec, now);
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
    pub(super) fn set_spec(&mut self, spec: ServiceSpec, now: Instant) {
        let before = std::mem::take(&mut self.health);
        for endpoint in spec.endpoints.iter() {
            let same =
                |e: &&EndpointSpec| e.name == endpoint.name && (e.address, e.port) == (endpoint.address, endpoint.port);
            let known = self.spec.endpoints.iter().find(same).and_then(|e| before.get(&e.name));
            let damped = match (&endpoint.check, known) {
                (None, _) => Damped::new(State::Ready),
                (Some(_), Some(known)) => *known,
                (Some(check), None) => {
                    // A tenth of the interval spreads the first probes.
                    let first = check.timeout + check.interval / 10 + Duration::from_millis(200);
                    self.patience = self.patience.max(now + first.min(WAIT_MAX));
                    Damped::new(State::Unknown)
                }
            };
            let _none = self.health.insert(endpoint.name.clone(), damped);
        }
        self.spec = spec;
    }

    pub(super) fn state(&self, endpoint: &str) -> State {
        self.health.get(endpoint).map_or(State::Unknown, |d| d.state)
    }

    /// Endpoints that this node rewrites to: its own and those behind routers.
    pub(super) fn reachable(&self, node: &str) -> impl Iterator<Item = &EndpointSpec> {
        let direct = self.spec.delivery == Delivery::Direct;
        self.spec.endpoints.iter().filter(move |e| direct && e.node.as_deref().is_none_or(|n| n == node))
    }

    /// When health or patience asks for a look.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.health.values().filter_map(Damped::poll_timeout).min()
    }
}
