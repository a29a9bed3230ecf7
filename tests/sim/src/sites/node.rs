//! A node of a site: the machine that joins facts ([`Join`]), the relay of the node where it has one, and what its kernel has in force.
//!
//! What `daemon/src/app/sites` does around the machine is done here, with the same words: serving and counters are read, paths are asked once in
//! a slot, the leading relay says how old everything is, and a relay is a new process of `state` each time it begins to lead. The feed between
//! the nodes of a site is the world's ([`super::wan`]).

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bascule_core::balance::serving::Serving;
use bascule_core::service::{Protocol, ServiceKey};
use bascule_core::site::SiteId;
use bascule_core::site::demand::Count;
use bascule_core::site::handshakes::{ANSWER, Totals};
use bascule_core::site::join::Join;
use bascule_core::site::join::io::{Capacity, Config, Fact, Local};
use bascule_core::site::lead::Beat;
use bascule_core::site::policy::io::{Config as PolicyConfig, Failback, Mode, ServicePolicy};
use bascule_core::site::state::io::{self as state, Pass, PeerConfig};
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::state::version::Speaks;
use bascule_core::site::state::{self as records, State};
use bascule_core::site::summary::ServiceId;
use bascule_core::time::Instant;

use super::host::{LOCAL, SERVICES, SINGLE, SPREAD, id, vip};
use super::link::MS;
use super::mutant::Mutant;

/// Nodes of a site: two relays, and one that is none. That one carries the lease of the activePassive service, and is never killed alone.
pub(super) const NODES: usize = 3;
/// Their names; the first of the relays that are heard leads.
pub(super) const NAMES: [&str; NODES] = ["a", "b", "c"];
/// The nodes that are relays.
pub(super) const RELAYS: core::ops::Range<usize> = 0..2;
/// The node whose word for the lease counts.
pub(super) const PLAIN: usize = 2;
/// What clients bring to each node of a service, so many a second: of a capacity of 1,000 of its site.
const BROUGHT: u64 = 100;

/// What a relay says to the nodes of its site, and they to it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Word {
    Beat(Beat),
    Fact(Fact),
    Said(Vec<Count>),
}

/// A node, whether its daemon runs or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) daemon: Option<Daemon>,
    /// The incarnation on its disk.
    pub(super) persisted: u64,
    /// In force in its kernel, which outlives the daemon: share of the slots of each service that each site has, counted once a table and not once
    /// a look.
    pub(super) shares: BTreeMap<ServiceId, Vec<f64>>,
    /// Tables written.
    pub(super) written: u64,
    /// World's time of its daemon's start.
    pub(super) since: u64,
    /// Its daemon has run since the site began.
    pub(super) steady: bool,
    /// When a service at a site came to stand otherwise, by its clock.
    pub(super) stood: Vec<(ServiceId, SiteId, Instant)>,
}

/// The daemon of a node.
#[derive(Debug)]
pub(super) struct Daemon {
    /// Number of this process in the world.
    pub(super) life: u64,
    pub(super) join: Join,
    /// The relay of this node, while it speaks for the site.
    pub(super) state: Option<State>,
    /// What that says of itself.
    pub(super) says: Beat,
    /// Processes of it so far.
    pub(super) processes: u64,
    /// What this site writes, for a relay that begins to speak.
    pub(super) records: BTreeMap<Key, Body>,
    /// The same of what it reaches.
    pub(super) reach: BTreeMap<SiteId, bool>,
    /// When its relay beats next.
    pub(super) beat_at: Option<Instant>,
    pub(super) confirm_at: Instant,
    /// Earliest deadline of its machines.
    pub(super) due: Option<Instant>,
    /// Something was told to its machines since they were last asked.
    pub(super) touched: bool,
    flows: Flows,
}

impl Node {
    pub(super) fn new(persisted: u64) -> Self {
        Self { daemon: None, persisted, shares: BTreeMap::new(), written: 0, since: 0, steady: true, stood: Vec::new() }
    }

    /// Share of a service's slots that go to a site.
    pub(super) fn share(&self, service: ServiceId, site: usize) -> f64 {
        self.shares.get(&service).map_or(0.0, |shares| shares[site])
    }

    /// Its kernel has a table from now on.
    pub(super) fn apply(&mut self, service: ServiceId, slots: &[SiteId], sites: usize) {
        let of = |site| slots.iter().filter(|slot| **slot == id(site)).count() as f64;
        let shares = (0..sites).map(|site| of(site) / slots.len().max(1) as f64).collect();
        let _old = self.shares.insert(service, shares);
    }
}

impl Daemon {
    /// A daemon that has heard nothing, on node `number` of a site.
    pub(super) fn new((site, sites): (usize, usize), number: usize, life: u64, at: Instant) -> Self {
        let relay = RELAYS.contains(&number);
        Self {
            life,
            join: Join::new(config(site, sites, number), at),
            state: None,
            says: Beat::default(),
            processes: 0,
            records: BTreeMap::new(),
            reach: BTreeMap::new(),
            beat_at: relay.then_some(at),
            confirm_at: at + records::BEAT,
            due: None,
            touched: true,
            flows: Flows::new(sites),
        }
    }

    /// Deadlines of its machines, as they are now.
    pub(super) fn next(&self, at: Instant) -> Option<Instant> {
        let state = self.state.as_ref().and_then(State::poll_timeout);
        self.join.poll_timeout(at).into_iter().chain(state).chain(self.beat_at).min()
    }

    /// What its balancer sees.
    pub(super) fn serve(&mut self, ready: u16, at: Instant) {
        self.touched = true;
        for service in SERVICES {
            self.join.handle_serving(service, Serving { ready, expected: 10, draining: false }, at);
        }
    }

    /// Its counters of what clients bring are read.
    pub(super) fn count(&mut self, now: u64, at: Instant) {
        self.touched = true;
        let total = now / (1000 * MS / BROUGHT);
        self.join.handle_counts(&SERVICES.map(|service| (service, total)), at);
    }

    /// The leading relay says how old what it holds is.
    pub(super) fn confirm(&mut self, others: impl Iterator<Item = usize>, at: Instant) -> Vec<Fact> {
        let Some(state) = self.state.as_ref().filter(|_| at >= self.confirm_at && self.join.leads()) else {
            return Vec::new();
        };
        self.confirm_at = at + records::BEAT;
        let oldest = |site: SiteId| state.records(site, at).map(|(.., age)| age).max();
        others.filter_map(|other| Some(Fact::Confirmed { site: id(other), age: oldest(id(other))? })).collect()
    }

    /// Handshakes of its clients with each site since the last look, so many in all, by the tables in force; what becomes of them is told when it
    /// is known.
    pub(super) fn observe(&mut self, sent: &[f64], serves: &[bool], now: u64, at: Instant) {
        let read = self.flows.look(sent, serves, now);
        self.touched = true;
        // A service of which all flows stay at home is told what those of the one by weight see.
        self.join.handle_handshakes(&[(SPREAD, read.clone()), (LOCAL, read)], at);
    }
}

/// Handshakes of one node with each site.
#[derive(Debug)]
struct Flows {
    /// Parts of a handshake that are not one yet.
    parts: Vec<f64>,
    totals: Vec<Totals>,
    /// Those that nobody answers, until they count as failed.
    waiting: VecDeque<(u64, usize, u64)>,
}

impl Flows {
    fn new(sites: usize) -> Self {
        Self { parts: vec![0.0; sites], totals: vec![Totals::default(); sites], waiting: VecDeque::new() }
    }

    fn look(&mut self, sent: &[f64], serves: &[bool], now: u64) -> Vec<(SiteId, Totals)> {
        for (site, (sent, serves)) in sent.iter().zip(serves).enumerate() {
            let whole = (self.parts[site] + sent).floor();
            self.parts[site] += sent - whole;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few handshakes")]
            let count = whole as u64;
            if *serves {
                self.totals[site].answered += count;
            } else if count > 0 {
                self.waiting.push_back((now + u64::try_from(ANSWER.as_nanos()).unwrap_or(u64::MAX), site, count));
            }
        }
        while let Some((_, site, count)) = self.waiting.pop_front_if(|(due, ..)| *due <= now) {
            self.totals[site].failed += count;
        }
        let seen = |(_, totals): &(usize, &Totals)| **totals != Totals::default();
        self.totals.iter().enumerate().filter(seen).map(|(site, totals)| (id(site), *totals)).collect()
    }
}

/// What the machine of a node is told.
fn config(site: usize, sites: usize, number: usize) -> Config {
    let weights = (0..sites).map(|s| (id(s), 100)).collect();
    let order: Vec<SiteId> = (0..sites).map(id).collect();
    let policy = |mode| ServicePolicy { mode, ..ServicePolicy::default() };
    let services = BTreeMap::from([
        (LOCAL, policy(Mode::LocalFirst)),
        (SPREAD, policy(Mode::Weighted(weights))),
        (SINGLE, policy(Mode::ActivePassive { order, failback: Failback::Manual })),
    ]);
    // The first site has a VIP of the second as well.
    let place = |service: ServiceId| if service == SPREAD && site == 0 { vip(1, LOCAL) } else { vip(site, service) };
    let key = |service| ServiceKey { vip: place(service), port: 80, protocol: Protocol::Tcp };
    let local = |service: ServiceId| {
        let name = format!("service {}", service.0);
        (service, Local { name, key: key(service), capacity: Capacity::Endpoint(100) })
    };
    Config {
        policy: PolicyConfig {
            here: id(site),
            sites: (0..sites).map(|s| (id(s), "one".to_owned())).collect(),
            services,
            spill: true,
        },
        services: SERVICES.into_iter().map(local).collect(),
        relays: RELAYS.map(|relay| NAMES[relay].to_owned()).collect(),
        relay: RELAYS.contains(&number).then(|| NAMES[number].to_owned()),
    }
}

/// What a relay is told: its process, the incarnation on its disk and the newest version that it speaks.
pub(super) fn state_config(
    site: usize,
    sites: usize,
    (instance, persisted, newest): (u64, u64, u8),
    mutant: Option<Mutant>,
) -> state::Config {
    let peer = |other: usize| {
        let everything = mutant == Some(Mutant::PrefixesIgnored);
        let prefix = if everything { "0.0.0.0/0".to_owned() } else { format!("10.{}.0.0/16", other + 1) };
        let prefixes = vec![prefix.parse().expect("a prefix")];
        (id(other), PeerConfig { prefixes, export: Pass::All, import: Pass::All })
    };
    state::Config {
        here: id(site),
        instance,
        incarnation: persisted + 1,
        seed: instance,
        speaks: Speaks { oldest: 1, newest },
        build: format!("version {newest}"),
        peers: (0..sites).filter(|other| *other != site).map(peer).collect(),
    }
}

/// What a record of another site says to the machine.
pub(super) fn fact(origin: SiteId, key: Key, body: Option<Body>, age: Duration) -> Option<Fact> {
    match (key, body) {
        (Key::Service(service), body) => {
            let summary = match body {
                Some(Body::Service(summary)) => Some(summary),
                Some(Body::Vip { .. } | Body::Order { .. }) | None => None,
            };
            Some(Fact::Summary { site: origin, service, summary, age })
        }
        (Key::Order(number), body) => {
            let order = match body {
                Some(Body::Order { service, seconds }) => Some((service, seconds)),
                Some(Body::Vip { .. } | Body::Service(_)) | None => None,
            };
            Some(Fact::Drained { site: origin, number, order, age })
        }
        (Key::Vip(_), _) => None,
    }
}
