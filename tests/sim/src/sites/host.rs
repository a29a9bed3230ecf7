//! One site: its nodes, the paths that they share, its elector, and the driver that the daemon has around them.
//!
//! Paths differ between sites and not between nodes of one: a site has one prober of each path, and all of its nodes are told what it sees.

mod owe;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bascule_core::election::lease::etcd::{EtcdConfig, EtcdLease, Request};
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{LeaseElector as _, RequestId, Standing};
use bascule_core::site::SiteId;
use bascule_core::site::join::io::Source;
use bascule_core::site::path::Path;
use bascule_core::site::path::io as path;
use bascule_core::site::policy::score;
use bascule_core::site::summary::ServiceId;
use bascule_core::time::Instant;
use bascule_core::types::Term;
use bascule_core::wire::site::PairKeys;

use super::authority::TTL;
use super::mutant::Mutant;
use super::node::{Daemon, NAMES, NODES, Node, RELAYS, Word, state_config};
use super::relay::{Owe, Relay};
use crate::clock::Clock;

/// Local first.
pub(super) const LOCAL: ServiceId = ServiceId(1);
/// By weight over all sites.
pub(super) const SPREAD: ServiceId = ServiceId(2);
/// At one site.
pub(super) const SINGLE: ServiceId = ServiceId(3);
/// All of them.
pub(super) const SERVICES: [ServiceId; 3] = [LOCAL, SPREAD, SINGLE];

/// The number of a site in its records.
pub(super) fn id(site: usize) -> SiteId {
    SiteId(u8::try_from(site + 1).expect("few sites"))
}

/// The place of a site.
pub(super) fn place(site: SiteId) -> usize {
    usize::from(site.0) - 1
}

/// The VIP of a service at a site, in the prefix of that site.
pub(super) fn vip(site: usize, service: ServiceId) -> core::net::IpAddr {
    let [site, service] = [id(site).0, u8::try_from(service.0).expect("few services")];
    core::net::Ipv4Addr::new(10, site, 0, service).into()
}

/// What a driver owes the world. Nodes are counted from 0.
#[derive(Debug)]
pub(super) enum Out {
    Datagram(usize, u8, Vec<u8>),
    /// By the relay of this node, to other sites.
    Relay(usize, Owe),
    /// To whoever listens to the relay of this node.
    Tell(usize, Word),
    /// To every relay of the site but that of this node.
    Say(usize, Word),
    Ask(RequestId, Request),
    Log(String),
}

/// A site.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) site: usize,
    sites: usize,
    /// Number of this run of the site in the world.
    pub(super) life: u64,
    pub(super) clock: Clock,
    pub(super) paths: BTreeMap<usize, Path>,
    pub(super) nodes: Vec<Node>,
    /// World's time at which its daemons went on after they had stood still.
    pub(super) woke: u64,
    /// The newest version that its relays speak.
    pub(super) newest: u8,
    /// Of processes of its relays that are over: parts of later versions that they left out, and sessions that they closed.
    pub(super) left_out: u64,
    pub(super) closed: u64,
    /// Ready endpoints of ten that it says it has.
    pub(super) ready: u16,
    pub(super) mute: bool,
    /// Its elector for the activePassive service. A site of the simulator has one.
    pub(super) elector: EtcdLease,
    /// What it told the nodes: whose the lease is, and whether the authority answers.
    holder: Option<SiteId>,
    reachable: bool,
    /// Until when it may serve that service, by the world's time, and by which term.
    pub(super) holds: Option<u64>,
    pub(super) term: u64,
    /// VIPs of others that its relays took.
    pub(super) vips: BTreeSet<(usize, core::net::IpAddr)>,
    mutant: Option<Mutant>,
    /// The policy is off: the first table of each service stays.
    pub(super) frozen: bool,
    trace: bool,
}

impl Host {
    /// A site whose nodes are not there yet: [`Self::boot`] starts them.
    pub(super) fn new(
        (site, sites): (usize, usize),
        (clock, life, disks, newest): (Clock, u64, [u64; NODES], u8),
        now: u64,
        mutant: Option<Mutant>,
        trace: bool,
    ) -> Self {
        let at = clock.read(now);
        let path = |other: usize| {
            let (a, b) = (site.min(other), site.max(other));
            let secret = format!("secret of {a} and {b}").into_bytes();
            let config = path::Config::new(PairKeys::new(id(site).0, id(other).0, vec![secret]));
            let run = u32::try_from(life & 0x7fff_ffff).unwrap_or(1);
            (other, Path::new(config, run, life ^ other as u64, at))
        };
        Self {
            site,
            sites,
            life,
            clock,
            paths: (0..sites).filter(|other| *other != site).map(path).collect(),
            nodes: disks.map(Node::new).into(),
            woke: 0,
            newest,
            left_out: 0,
            closed: 0,
            ready: 10,
            mute: false,
            elector: elector(site, life, at),
            holder: None,
            reachable: false,
            holds: None,
            term: 0,
            vips: BTreeSet::new(),
            mutant,
            frozen: false,
            trace,
        }
    }

    /// The daemon of a node starts; what its kernel has in force stays so.
    pub(super) fn boot(&mut self, node: usize, life: u64, now: u64) {
        let at = self.at(now);
        let (persisted, newest, mutant) = (self.nodes[node].persisted, self.newest, self.mutant);
        let config = || (state_config(self.site, self.sites, (life, persisted, newest), mutant), mutant);
        let relay = RELAYS.contains(&node).then(config);
        let mut daemon = Daemon::new((self.site, self.sites), node, life, relay, at);
        daemon.join.handle_authority(self.reachable, at);
        if self.holder.is_some() {
            daemon.join.handle_lease(SINGLE, self.holder, at);
        }
        daemon.serve(self.ready, at);
        let node = &mut self.nodes[node];
        (node.daemon, node.since, node.lost, node.frozen) = (Some(daemon), now, false, None);
    }

    /// The daemon of a node dies.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].steady = false;
        self.nodes[node].frozen = None;
        let Some(daemon) = self.nodes[node].daemon.take() else { return };
        self.nodes[node].ghost = Some((daemon.says, daemon.kept));
        if let Some(relay) = daemon.relay {
            self.retire(&relay);
        }
    }

    /// The daemon of a node goes on after it stood still: what the site's elector said meanwhile waited for it, and what its balancer sees.
    pub(super) fn wake(&mut self, node: usize, now: u64) {
        let (at, reachable, holder) = (self.at(now), self.reachable, self.holder);
        self.nodes[node].woke = now;
        if let Some(daemon) = &mut self.nodes[node].daemon {
            daemon.touched = true;
            daemon.join.handle_authority(reachable, at);
            if holder.is_some() {
                daemon.join.handle_lease(SINGLE, holder, at);
            }
            if !self.mute {
                daemon.serve(self.ready, at);
            }
        }
    }

    /// What is counted outlives the process that counted.
    fn retire(&mut self, relay: &Relay) {
        for other in self.paths.keys() {
            let refused = relay.state.refused(id(*other));
            self.left_out += refused.unknown;
            self.closed += refused.closed;
        }
    }

    pub(super) fn at(&self, now: u64) -> Instant {
        self.clock.read(now)
    }

    /// Nodes whose daemons run and do not stand still, with their numbers.
    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Node, &Daemon)> {
        let awake = self.nodes.iter().enumerate().filter(|(_, node)| node.frozen.is_none());
        awake.filter_map(|(number, node)| Some((number, node, node.daemon.as_ref()?)))
    }

    pub(super) fn daemons(&mut self) -> impl Iterator<Item = &mut Daemon> {
        self.nodes.iter_mut().filter(|node| node.frozen.is_none()).filter_map(|node| node.daemon.as_mut())
    }

    /// The process of a node.
    pub(super) fn life(&self, node: usize) -> Option<u64> {
        self.nodes[node].daemon.as_ref().map(|daemon| daemon.life)
    }

    /// The relay of a node.
    pub(super) fn relay(&self, node: usize) -> Option<&Relay> {
        self.nodes[node].daemon.as_ref()?.relay.as_ref()
    }

    /// The same, to be told something.
    pub(super) fn tell(&mut self, node: usize) -> Option<&mut Relay> {
        let daemon = self.nodes[node].daemon.as_mut()?;
        daemon.touched = true;
        daemon.relay.as_mut()
    }

    /// The node whose relay leads the site, as that relay has it.
    pub(super) fn leader(&self) -> Option<usize> {
        (0..NODES).find(|node| self.relay(*node).is_some_and(|relay| relay.leads))
    }

    /// Tables written, by the node that wrote most of those that have run all the time: one that starts writes its first ones.
    pub(super) fn written(&self) -> u64 {
        self.nodes.iter().filter(|node| node.steady).map(|node| node.written).max().unwrap_or(0)
    }

    /// World's time of the earliest deadline.
    pub(super) fn due(&self) -> Option<u64> {
        let paths = self.paths.values().filter_map(Path::poll_timeout);
        let first = paths.chain(self.running().filter_map(|(.., daemon)| daemon.due));
        let first = first.chain(self.elector.poll_timeout()).min()?;
        Some(self.clock.when(first))
    }

    pub(super) fn expire(&mut self, now: u64) {
        let at = self.at(now);
        self.paths.values_mut().for_each(|p| p.handle_expire(at));
        for daemon in self.daemons().filter(|daemon| daemon.due.is_some_and(|due| due <= at)) {
            daemon.touched = true;
            daemon.join.handle_expire(at);
            if let Some(relay) = &mut daemon.relay {
                relay.handle_expire(at);
            }
        }
        if self.elector.poll_timeout().is_some_and(|due| due <= at) {
            self.elector.handle_timeout(at);
        }
    }

    /// What the balancers of its nodes see, unless its API server is gone.
    pub(super) fn say(&mut self, now: u64) {
        let (at, ready, mute) = (self.at(now), self.ready, self.mute);
        self.daemons().filter(|_| !mute).for_each(|daemon| daemon.serve(ready, at));
    }

    /// Every half second: counters are read, paths are asked, and relays say how old everything is.
    pub(super) fn refresh(&mut self, now: u64) {
        let at = self.at(now);
        for daemon in self.daemons() {
            daemon.count(now, at);
        }
        for other in self.paths.keys().copied().collect::<Vec<_>>() {
            self.know_path(other, at, at);
        }
        let others: Vec<usize> = self.paths.keys().copied().collect();
        let said = self.mutant != Some(Mutant::AgesUnsaid);
        for daemon in self.daemons().filter(|_| said) {
            for fact in daemon.confirm(others.iter().copied(), at) {
                daemon.join.handle_fact(Source::Own, fact, at);
            }
        }
    }

    /// Once in a second: sessions of relays are looked after.
    pub(super) fn look(&mut self, now: u64) {
        let at = self.at(now);
        for daemon in self.daemons() {
            if let Some(relay) = &mut daemon.relay {
                relay.look(at);
                daemon.touched = true;
            }
        }
    }

    fn know_path(&mut self, other: usize, cause: Instant, at: Instant) {
        let Some(status) = self.paths.get(&other).map(|path| self.seen(path.status())) else { return };
        for daemon in self.daemons() {
            daemon.touched = true;
            daemon.join.handle_path(id(other), status, cause, at);
        }
    }

    /// What the data path of a node saw: so many handshakes with each site, and who answers.
    pub(super) fn observe(&mut self, node: usize, sent: &[f64], serves: &[bool], now: u64) {
        if self.mutant != Some(Mutant::ObservedUnsaid) {
            let at = self.at(now);
            if let Some(daemon) = &mut self.nodes[node].daemon {
                daemon.observe(sent, serves, now, at);
            }
        }
    }

    /// Another node of the site said something, or its relay did.
    pub(super) fn hear(&mut self, node: usize, from: usize, word: Word, now: u64) {
        let at = self.at(now);
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        daemon.touched = true;
        match word {
            Word::Beat(beat) => daemon.join.handle_beat(NAMES[from], beat, at),
            Word::Fact(fact) => daemon.join.handle_fact(Source::Relay(NAMES[from]), fact, at),
            Word::Said(counts) => {
                let _unwanted = daemon.join.handle_said(NAMES[from], &counts, at);
            }
        }
    }

    /// Nobody serves where a node heard a relay.
    pub(super) fn refused(&mut self, node: usize, relay: usize, now: u64) {
        let at = self.at(now);
        if self.mutant == Some(Mutant::DeadWordCounts) {
            return;
        }
        if let Some(daemon) = &mut self.nodes[node].daemon {
            daemon.touched = true;
            daemon.join.handle_gone(NAMES[relay], at);
        }
    }

    /// Dead relays go on beating, where that bug is planted.
    pub(super) fn haunt(&mut self, now: u64) {
        if self.mutant != Some(Mutant::DeadWordCounts) {
            return;
        }
        for relay in RELAYS.filter(|relay| self.nodes[*relay].daemon.is_none()).collect::<Vec<_>>() {
            let Some(beat) = self.nodes[relay].ghost.as_ref().map(|(beat, _)| *beat) else { continue };
            (0..NODES).filter(|node| *node != relay).for_each(|node| self.hear(node, relay, Word::Beat(beat), now));
        }
    }

    /// All that a relay tells a node that listens from now on.
    pub(super) fn greeting(&self, relay: usize, now: u64) -> Vec<Word> {
        let Some(daemon) = &self.nodes[relay].daemon else { return Vec::new() };
        if let (Some(Mutant::StaleWord), Some((_, kept))) = (self.mutant, &self.nodes[relay].ghost) {
            let facts = kept.fresh(self.at(now)).into_iter();
            return [Word::Beat(daemon.says)].into_iter().chain(facts.map(Word::Fact)).collect();
        }
        let facts = daemon.kept.facts(self.at(now)).into_iter();
        [Word::Beat(daemon.says)].into_iter().chain(facts.map(Word::Fact)).collect()
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

    fn log(&self, out: &mut Vec<Out>, text: impl FnOnce() -> String) {
        if self.trace {
            out.push(Out::Log(text()));
        }
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
