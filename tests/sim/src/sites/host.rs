//! One site: its machines, and the driver that the daemon will have around them.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bascule_core::election::lease::etcd::{EtcdConfig, EtcdLease, Request};
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{Condition, LeaseElector as _, Output, RequestId, Standing};
use bascule_core::site::SiteId;
use bascule_core::site::path::Path;
use bascule_core::site::path::io as path;
use bascule_core::site::policy::Policy;
use bascule_core::site::policy::facts::Observed;
use bascule_core::site::policy::io::{self as policy, Failback, Mode, ServicePolicy};
use bascule_core::site::policy::score;
use bascule_core::site::state::State;
use bascule_core::site::state::io::{self as state, Pass, PeerConfig};
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::state::version::Speaks;
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_core::time::Instant;
use bascule_core::types::Term;
use bascule_core::wire::site::PairKeys;

use super::authority::TTL;
use super::link::SEC;
use super::mutant::Mutant;
use crate::clock::Clock;

/// Local first.
pub(super) const LOCAL: ServiceId = ServiceId(1);
/// By weight over all sites.
pub(super) const SPREAD: ServiceId = ServiceId(2);
/// At one site.
pub(super) const SINGLE: ServiceId = ServiceId(3);
/// All of them.
pub(super) const SERVICES: [ServiceId; 3] = [LOCAL, SPREAD, SINGLE];
/// Demand of each service at each site, of a capacity of 1,000.
const DEMAND: u32 = 300;

/// The number of a site in its records.
pub(super) fn id(site: usize) -> SiteId {
    SiteId(u8::try_from(site + 1).expect("few sites"))
}

/// The place of a site.
pub(super) fn place(site: SiteId) -> usize {
    usize::from(site.0) - 1
}

/// What a driver owes the world.
#[derive(Debug)]
pub(super) enum Out {
    Datagram(usize, u8, Vec<u8>),
    Stream(usize, Vec<u8>),
    Dial(usize),
    Close(usize),
    Ask(RequestId, Request),
    Log(String),
}

/// A site.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) site: usize,
    pub(super) clock: Clock,
    pub(super) paths: BTreeMap<usize, Path>,
    pub(super) policy: Policy,
    pub(super) state: State,
    /// The newest version that its relay speaks.
    pub(super) newest: u8,
    /// Of relays before this one: parts of later versions that they left out, and sessions that they closed.
    pub(super) left_out: u64,
    pub(super) closed: u64,
    /// In force: share of the slots of each service that each site has, counted once a table and not once a look.
    shares: BTreeMap<ServiceId, Vec<f64>>,
    sites: usize,
    /// Tables written.
    pub(super) written: u64,
    pub(super) persisted: u64,
    /// Ready endpoints of ten that it says it has.
    pub(super) ready: u16,
    pub(super) mute: bool,
    /// Its elector for the activePassive service. A site of the simulator is one node.
    pub(super) elector: EtcdLease,
    /// Whom it told the policy of.
    holder: Option<SiteId>,
    /// Until when it may serve that service, by the world's time, and by which term.
    pub(super) holds: Option<u64>,
    pub(super) term: u64,
    pub(super) announced: bool,
    /// VIPs of others that came to the policy.
    pub(super) vips: BTreeSet<(usize, core::net::IpAddr)>,
    mutant: Option<Mutant>,
    /// The policy is off: the first table of each service stays.
    pub(super) frozen: bool,
    /// When a service at a site came to stand otherwise, by this site's clock.
    pub(super) stood: Vec<(ServiceId, SiteId, Instant)>,
}

pub(super) fn vip(site: usize) -> core::net::IpAddr {
    core::net::Ipv4Addr::new(10, u8::try_from(site + 1).expect("few sites"), 0, 1).into()
}

impl Host {
    pub(super) fn new(
        site: usize,
        sites: usize,
        (clock, instance, persisted, newest): (Clock, u64, u64, u8),
        now: u64,
        mutant: Option<Mutant>,
    ) -> Self {
        let at = clock.read(now);
        let others: Vec<usize> = (0..sites).filter(|s| *s != site).collect();
        let path = |other: &usize| {
            let (a, b) = (site.min(*other), site.max(*other));
            let secret = format!("secret of {a} and {b}").into_bytes();
            let config = path::Config::new(PairKeys::new(id(site).0, id(*other).0, vec![secret]));
            let run = u32::try_from(instance & 0x7fff_ffff).unwrap_or(1);
            (*other, Path::new(config, run, instance ^ *other as u64, at))
        };
        let weights = (0..sites).map(|s| (id(s), 100)).collect();
        let order: Vec<SiteId> = (0..sites).map(id).collect();
        let service = |mode| ServicePolicy { mode, ..ServicePolicy::default() };
        let services = BTreeMap::from([
            (LOCAL, service(Mode::LocalFirst)),
            (SPREAD, service(Mode::Weighted(weights))),
            (SINGLE, service(Mode::ActivePassive { order, failback: Failback::Manual })),
        ]);
        let regions = (0..sites).map(|s| (id(s), "one".to_owned())).collect();
        let config = policy::Config { here: id(site), sites: regions, services, spill: true };
        let config_state = state_config(site, sites, (instance, persisted, newest), mutant);
        let mut host = Self {
            site,
            clock,
            paths: others.iter().map(path).collect(),
            policy: Policy::new(config, at),
            state: State::new(config_state, at),
            newest,
            left_out: 0,
            closed: 0,
            shares: BTreeMap::new(),
            sites,
            written: 0,
            persisted,
            ready: 10,
            mute: false,
            elector: elector(site, instance, at),
            holder: None,
            holds: None,
            term: 0,
            announced: true,
            vips: BTreeSet::new(),
            mutant,
            frozen: false,
            stood: Vec::new(),
        };
        host.say(now);
        host
    }

    /// Its relay is another one from now on, which speaks up to this version: all sessions are new, and nothing else is.
    pub(super) fn upgrade(&mut self, instance: u64, newest: u8, now: u64) {
        for other in self.paths.keys() {
            let refused = self.state.refused(id(*other));
            self.left_out += refused.unknown;
            self.closed += refused.closed;
        }
        let config = state_config(self.site, self.sites, (instance, self.persisted, newest), self.mutant);
        self.state = State::new(config, self.at(now));
        self.newest = newest;
        for other in self.paths.keys() {
            self.policy.handle_session(id(*other), false);
        }
        self.say(now);
    }

    pub(super) fn at(&self, now: u64) -> Instant {
        self.clock.read(now)
    }

    /// World's time of the earliest deadline.
    pub(super) fn due(&self) -> Option<u64> {
        let paths = self.paths.values().filter_map(Path::poll_timeout);
        let first = paths.chain(self.policy.poll_timeout()).chain(self.state.poll_timeout());
        let first = first.chain(self.elector.poll_timeout()).min()?;
        Some(self.clock.when(first))
    }

    pub(super) fn expire(&mut self, now: u64) {
        let at = self.at(now);
        self.paths.values_mut().for_each(|p| p.handle_expire(at));
        self.policy.handle_expire(at);
        self.state.handle_expire(at);
        if self.elector.poll_timeout().is_some_and(|due| due <= at) {
            self.elector.handle_timeout(at);
        }
    }

    /// What it says of itself, to its own policy and to all.
    pub(super) fn say(&mut self, now: u64) {
        let at = self.at(now);
        if self.mute {
            return;
        }
        let capacity = u32::from(self.ready) * 100;
        let summary = Summary { ready: self.ready, expected: 10, draining: false, capacity, demand: DEMAND };
        for service in SERVICES {
            self.policy.handle_summary(id(self.site), service, summary, Duration::ZERO, at);
            self.state.handle_local(Key::Service(service), Some(Body::Service(summary)), at);
        }
        let claim = Some(Body::Vip { service: LOCAL, term: 0 });
        self.state.handle_local(Key::Vip(vip(self.site)), claim, at);
        // The first site claims a VIP of the second as well.
        if self.site == 0 {
            self.state.handle_local(Key::Vip(vip(1)), claim, at);
        }
    }

    /// Every half second: soft facts, and ages as they are now.
    pub(super) fn refresh(&mut self, now: u64) {
        let at = self.at(now);
        for (other, path) in &self.paths {
            let status = self.seen(path.status());
            self.policy.handle_path(id(*other), status, at, at);
        }
        for other in self.paths.keys() {
            let records: Vec<_> = self.state.records(id(*other), at).collect();
            for (key, body, age) in records {
                if let (Key::Service(service), Body::Service(summary)) = (key, body)
                    && !(summary.ready == 0 && self.mutant == Some(Mutant::ZeroUnsaid))
                {
                    self.policy.handle_summary(id(*other), service, summary, age, at);
                }
            }
        }
    }

    /// What the data path saw.
    pub(super) fn observe(&mut self, other: usize, service: ServiceId, observed: Observed, now: u64) {
        if self.mutant != Some(Mutant::ObservedUnsaid) {
            let at = self.at(now);
            self.policy.handle_observed(id(other), service, observed, at);
        }
    }

    /// How much the way to a site counts, as the policy is told; `None`: it has none to it.
    pub(super) fn weighs(&self, other: usize) -> Option<f64> {
        self.paths.get(&other).map(|path| score::path(&self.seen(path.status())))
    }

    fn seen(&self, mut status: path::Status) -> path::Status {
        let ignored = match status.carriage {
            path::Carriage::Down(path::Silence::Out) => {
                matches!(self.mutant, Some(Mutant::OutIgnored | Mutant::DownUnsaid))
            }
            path::Carriage::Down(path::Silence::In) => self.mutant == Some(Mutant::DownUnsaid),
            path::Carriage::Up | path::Carriage::Unknown => false,
        };
        let back = self.mutant == Some(Mutant::ReturnsAtOnce) && status.flows_up > 0;
        if ignored || back {
            status.carriage = path::Carriage::Up;
        }
        if self.mutant == Some(Mutant::SlownessUnsaid) {
            status.rtt_factor = status.rtt_factor.min(2.0);
        }
        status
    }

    /// Share of a service's slots that go to a site.
    pub(super) fn share(&self, service: ServiceId, site: usize) -> f64 {
        self.shares.get(&service).map_or(0.0, |shares| shares[site])
    }

    fn count(&self, slots: &[SiteId]) -> Vec<f64> {
        let of = |site| slots.iter().filter(|slot| **slot == id(site)).count() as f64;
        (0..self.sites).map(|site| of(site) / slots.len().max(1) as f64).collect()
    }

    /// Carries out all actions that stay inside; gives the others.
    pub(super) fn drain(&mut self, now: u64) -> Vec<Out> {
        let (at, mut out) = (self.at(now), Vec::new());
        loop {
            let before = out.len();
            let others: Vec<usize> = self.paths.keys().copied().collect();
            let mut idle = true;
            for other in others {
                while let Some(action) = self.paths.get_mut(&other).and_then(Path::poll_action) {
                    idle = false;
                    match action {
                        path::Action::Send { flow, payload } => out.push(Out::Datagram(other, flow, payload)),
                        path::Action::Report(event) => {
                            let back = match event {
                                path::Event::Down { silent, .. } => Duration::from_secs_f64(silent),
                                _ => Duration::ZERO,
                            };
                            let nanos = u64::try_from(back.as_nanos()).unwrap_or(0);
                            let cause = Instant::from_nanos(at.as_nanos().saturating_sub(nanos));
                            let status = self.paths.get(&other).map(Path::status);
                            if let Some(status) = status.map(|s| self.seen(s)) {
                                self.policy.handle_path(id(other), status, cause, at);
                            }
                            out.push(Out::Log(format!("path to {other}: {event:?}")));
                        }
                    }
                }
            }
            while let Some(action) = self.state.poll_action() {
                idle = false;
                self.record(action, at, &mut out);
            }
            while let Some(action) = self.policy.poll_action() {
                idle = false;
                self.decided(action, at, &mut out);
            }
            while let Some(output) = self.elector.poll_output() {
                idle = false;
                self.elected(output, at, &mut out);
            }
            let holder = self.elector.holder().and_then(|name| name.parse().ok()).map(SiteId);
            if self.elector.is_certain() && holder != self.holder {
                idle = false;
                self.holder = holder;
                self.policy.handle_lease(SINGLE, holder, at);
            }
            if idle && out.len() == before {
                return out;
            }
        }
    }

    fn record(&mut self, action: state::Action, at: Instant, out: &mut Vec<Out>) {
        match action {
            state::Action::Dial(site) => out.push(Out::Dial(place(site))),
            state::Action::Send(site, bytes) => out.push(Out::Stream(place(site), bytes)),
            state::Action::Close(site, reason) => {
                out.push(Out::Close(place(site)));
                out.push(Out::Log(format!("session with {site} closed: {reason:?}")));
            }
            state::Action::Persist(incarnation) => self.persisted = incarnation,
            state::Action::Record { origin, key: Key::Service(service), body, age } => {
                let summary = match body {
                    Some(Body::Service(summary)) => summary,
                    _ => Summary::default(),
                };
                if summary.ready > 0 || self.mutant != Some(Mutant::ZeroUnsaid) {
                    self.policy.handle_summary(origin, service, summary, age, at);
                }
            }
            state::Action::Record { origin, key: Key::Vip(ip), body: Some(_), .. } => {
                let _new = self.vips.insert((place(origin), ip));
            }
            state::Action::Record { .. } => {}
            state::Action::Ask { from, service, amount } => self.policy.handle_ask(from, service, amount, at),
            state::Action::Lend { from, service, amount } => self.policy.handle_loan(from, service, amount, at),
            state::Action::Report(report) => {
                if let state::Report::Session { site, up } = report {
                    self.policy.handle_session(site, up);
                    if !up && self.mutant == Some(Mutant::SessionDownIsSiteDown) {
                        for service in SERVICES {
                            self.policy.handle_summary(site, service, Summary::default(), Duration::ZERO, at);
                        }
                    }
                }
                out.push(Out::Log(format!("{report:?}")));
            }
        }
    }

    fn decided(&mut self, action: policy::Action, at: Instant, out: &mut Vec<Out>) {
        match action {
            policy::Action::Table(table) => {
                self.written += 1;
                out.push(Out::Log(format!("{:?} {:?}", table.service, table.shares)));
                let off = self.frozen && self.shares.contains_key(&table.service);
                if !off && (self.mutant != Some(Mutant::TableLost) || !self.written.is_multiple_of(3)) {
                    let _old = self.shares.insert(table.service, self.count(&table.slots));
                    self.policy.handle_applied(table.service, table.generation, at);
                }
            }
            policy::Action::Ask { to, service, excess } => self.state.handle_credit(to, service, excess, false),
            policy::Action::Lend { to, service, amount } => self.state.handle_credit(to, service, amount, true),
            policy::Action::Claim(_) => {
                out.push(Out::Log("wants the lease".to_owned()));
                self.elector.handle_standing(Standing::Fit, at);
                if self.mutant == Some(Mutant::NoAuthority) {
                    self.holds = Some(u64::MAX);
                }
            }
            policy::Action::Release(_, reason) => {
                out.push(Out::Log(format!("does not want the lease: {}", reason.as_str())));
                self.elector.handle_standing(Standing::Barred, at);
                if self.mutant == Some(Mutant::NoAuthority) {
                    self.holds = None;
                }
            }
            policy::Action::Announce { service, announce } => {
                if service == SINGLE {
                    self.announced = announce;
                }
            }
            policy::Action::Report(report) => {
                if let policy::Report::Standing { service, site, .. } = report {
                    self.stood.push((service, site, at));
                }
                out.push(Out::Log(format!("{report:?}")));
            }
            policy::Action::Timeline(line) => {
                if line.cause > line.detected || line.detected > line.decided || Some(line.decided) > line.applied {
                    out.push(Out::Log(format!("TIMELINE {line:?}")));
                }
            }
        }
    }

    /// What the elector owes, as the daemon carries it out: the deadline is the kernel's, who stands still or not.
    fn elected(&mut self, output: Output<Request>, at: Instant, out: &mut Vec<Out>) {
        if !matches!(output, Output::Send { .. }) {
            out.push(Out::Log(format!("elector: {output:?}")));
        }
        let until = |deadline: Instant| {
            let outlives = if self.mutant == Some(Mutant::LeaseOutlived) { 2 * SEC } else { 0 };
            Some(self.clock.when(deadline) + outlives)
        };
        match output {
            _ if self.mutant == Some(Mutant::NoAuthority) => {}
            Output::Send { id, request, .. } => out.push(Out::Ask(id, request)),
            Output::Claim { epoch, deadline, .. } => (self.holds, self.term) = (until(deadline), epoch),
            Output::Extend { deadline, .. } => self.holds = until(deadline),
            Output::Close { term, .. } => {
                if self.mutant != Some(Mutant::LeaseOutlived) {
                    self.holds = None;
                }
                self.elector.handle_closed(term, at);
            }
            Output::Condition(condition) => self.policy.handle_authority(condition == Condition::Reachable, at),
            Output::Stalled(_) => {}
        }
    }
}

/// What its relay is told: process, incarnation on the disk and the newest version that it speaks.
fn state_config(
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

/// The elector of a site, which takes part and wants nothing yet. Its name in the key is its number.
fn elector(site: usize, instance: u64, now: Instant) -> EtcdLease {
    let timing = Timing::etcd(Duration::from_nanos(TTL)).expect("whole seconds");
    let identity = id(site).0.to_string();
    let config = EtcdConfig { identity, joint: true, members: 3, timing, seed: Some(instance), term: Term(0) };
    let mut elector = EtcdLease::new(config);
    elector.handle_standing(Standing::Barred, now);
    elector.handle_start(now);
    elector
}
