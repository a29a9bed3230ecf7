//! A node of a site: the machine that joins facts ([`Join`]), the relay of the node where it has one, and what its kernel has in force.
//!
//! What `daemon/src/app/sites` does around the machine is done here, with the same words: serving and counters are read, paths are asked once in
//! a slot, each relay says how old everything is that it holds, and is one process of `state` from its start on, whether it leads or not. The
//! feed between the nodes of a site is the world's ([`super::wan`]); what a relay tells who begins to listen is kept as `bascule_mesh::feed` keeps
//! it ([`Kept`]).

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
use bascule_core::site::state as records;
use bascule_core::site::state::State;
use bascule_core::site::state::io::{self as state, Pass, PeerConfig};
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::state::version::Speaks;
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_core::time::Instant;

use super::host::{LOCAL, SERVICES, SINGLE, SPREAD, id, vip};
use super::link::MS;
use super::mutant::Mutant;
use super::relay::Relay;

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
    /// Its host is gone with it: nobody refuses who calls.
    pub(super) lost: bool,
    /// World's time since when its daemon stands still, if it does, and at which it went on.
    pub(super) frozen: Option<u64>,
    pub(super) woke: u64,
    /// What its relay said of itself and of other sites when it died: planted bugs bring it back.
    pub(super) ghost: Option<(Beat, Kept)>,
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
    /// The relay of this node, if it is one.
    pub(super) relay: Option<Relay>,
    /// What that says of itself.
    pub(super) says: Beat,
    /// What it has told the nodes of its site.
    pub(super) kept: Kept,
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
        Self {
            daemon: None,
            persisted,
            shares: BTreeMap::new(),
            written: 0,
            since: 0,
            lost: false,
            frozen: None,
            woke: 0,
            ghost: None,
            steady: true,
            stood: Vec::new(),
        }
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
    /// A daemon that has heard nothing, on node `number` of a site. `relay`: what a relay of it is told.
    pub(super) fn new(
        (site, sites): (usize, usize),
        number: usize,
        life: u64,
        relay: Option<(state::Config, Option<Mutant>)>,
        at: Instant,
    ) -> Self {
        let beats = relay.is_some();
        let relay = relay.map(|(config, mutant)| Relay::new((site, sites), State::new(config, at), mutant, at));
        Self {
            life,
            join: Join::new(config(site, sites, number), at),
            relay,
            says: Beat { waits: true, tells: true, ..Beat::default() },
            kept: Kept::default(),
            beat_at: beats.then_some(at),
            confirm_at: at + records::BEAT,
            due: None,
            touched: true,
            flows: Flows::new(sites),
        }
    }

    /// Deadlines of its machines, as they are now.
    pub(super) fn next(&self, at: Instant) -> Option<Instant> {
        let relay = self.relay.as_ref().and_then(Relay::poll_timeout);
        self.join.poll_timeout(at).into_iter().chain(relay).chain(self.beat_at).min()
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

    /// Its relay says how old what it holds is.
    pub(super) fn confirm(&mut self, others: impl Iterator<Item = usize>, at: Instant) -> Vec<Fact> {
        let Some(relay) = self.relay.as_ref().filter(|_| at >= self.confirm_at) else { return Vec::new() };
        let state = &relay.state;
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

/// What a relay has told, for who listens from now on.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    sessions: BTreeMap<SiteId, bool>,
    said: BTreeMap<(SiteId, ServiceId), (Summary, Duration, Instant)>,
}

impl Kept {
    pub(super) fn keep(&mut self, fact: Fact, at: Instant) {
        match fact {
            Fact::Session { site, up } => drop(self.sessions.insert(site, up)),
            Fact::Summary { site, service, summary, age } => {
                let _before = self.said.insert((site, service), (summary.unwrap_or_default(), age, at));
            }
            Fact::Confirmed { site, age } => {
                let of = self.said.iter_mut().filter(|((of, _), _)| *of == site);
                let older = of.filter(|(_, (_, said, since))| *said + at.since(*since) > age);
                older.for_each(|(_, (_, said, since))| (*said, *since) = (age, at));
            }
            // Worth seconds, or said again every few of them.
            Fact::Ask { .. }
            | Fact::Loan { .. }
            | Fact::Order { .. }
            | Fact::Drained { .. }
            | Fact::Demand { .. }
            | Fact::Reach { .. } => {}
        }
    }

    /// The same as if all of it had just been heard.
    pub(super) fn fresh(&self, at: Instant) -> Vec<Fact> {
        let mut young = self.clone();
        young.said.values_mut().for_each(|(_, age, since)| (*age, *since) = (Duration::ZERO, at));
        young.sessions.values_mut().for_each(|up| *up = true);
        young.facts(at)
    }

    pub(super) fn facts(&self, at: Instant) -> Vec<Fact> {
        let sessions = self.sessions.iter().map(|(site, up)| Fact::Session { site: *site, up: *up });
        let said = self.said.iter().map(|((site, service), (summary, age, since))| {
            let age = *age + at.since(*since);
            Fact::Summary { site: *site, service: *service, summary: Some(*summary), age }
        });
        sessions.chain(said).collect()
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
