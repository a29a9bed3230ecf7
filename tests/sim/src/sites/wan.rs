//! The world: sites, links, streams, a lease, and time.

mod call;
mod feed;
mod freeze;
mod mail;
mod net;
mod pause;
mod strike;
mod tick;
mod version;
pub(super) mod wire;

use std::collections::{BTreeMap, BinaryHeap};

use super::authority::Authority;
use super::check::{Checker, Truth};
use super::host::Host;
use super::link::{Buffer, Direction, MS, SEC, symmetric};
use super::mutant::Mutant;
use super::node::NODES;
use super::relay::Frame;
use super::scene::{Class, START, Scene, THIS};
use super::words::Seen;
use crate::clock::Clock;
use crate::rng::Rng;
use crate::violation::Violation;

/// The world's own rhythm: local words, leases.
const TICK: u64 = 100 * MS;
/// What the data path sees is read so often: `handshakes::LOOK`.
const LOOK: u64 = 250 * MS;
/// New connections a second to a service at each node.
const CONNECTIONS: f64 = 50.0;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Datagram {
        to: usize,
        from: usize,
        flow: u8,
        bytes: Vec<u8>,
    },
    /// To one end of a connection of relays.
    Frame {
        conn: u64,
        end: usize,
        frame: Frame,
    },
    /// The call of a relay, at who is called.
    Knock {
        call: u64,
    },
    /// What came of it, at who calls; `None`: nobody greeted.
    Greeted {
        call: u64,
        conn: Option<u64>,
    },
    /// Something between a site and the authority.
    Mail {
        site: usize,
        number: u64,
    },
    /// Something between two nodes of a site.
    Word {
        site: usize,
        number: u64,
    },
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Events handled.
    pub events: u64,
    /// Longest time after a fault during which new flows went where they were not served, in nanoseconds.
    pub longest: u64,
    /// Tables written by all sites after the first fault.
    pub tables: u64,
    /// The oldest that a node knew of a site while relays of both had a session, in nanoseconds.
    pub oldest: u64,
    /// Most sessions that two sites had at once.
    pub sessions: usize,
}

/// The world.
#[derive(Debug)]
pub struct World {
    scene: Scene,
    mutant: Option<Mutant>,
    trace: bool,
    hosts: Vec<Option<Host>>,
    links: Vec<Vec<Direction>>,
    delay: Vec<Vec<u64>>,
    slower: u64,
    buffers: BTreeMap<(usize, usize), Buffer>,
    queue: BinaryHeap<std::cmp::Reverse<(u64, u64, Event)>>,
    order: u64,
    /// Connections of relays, and calls for more.
    wires: BTreeMap<u64, wire::Wire>,
    calls: BTreeMap<u64, call::Call>,
    /// What waits for a cut link, in order: connection, sending end, what.
    held: Vec<(u64, usize, Frame)>,
    feed: feed::Feed,
    witness: Vec<bool>,
    authority: Authority,
    /// What is on its way between sites and the authority.
    mail: BTreeMap<u64, (u64, mail::Letter)>,
    /// Which sites watch the key.
    watching: Vec<bool>,
    truth: Truth,
    said: Vec<u64>,
    /// When a node of a site last died, stood still, or came back.
    stirred: Vec<u64>,
    /// How many ready endpoints each site has had.
    news: Vec<Vec<u16>>,
    noise: bool,
    /// Daemons that do not run, and what waits in their sockets: of whole sites, and of single nodes.
    paused: Vec<bool>,
    waiting: Vec<Vec<Event>>,
    frozen: BTreeMap<wire::At, Vec<Event>>,
    rng: Rng,
    checker: Checker,
    /// Incarnations on the disks of sites that are off.
    disks: Vec<[u64; NODES]>,
    starts: u64,
    deltas: u64,
    /// A message of a later version than its reader speaks was sent.
    foreign: Option<String>,
    now: u64,
    /// Which sites something happened to since their actions were last taken: the others owe nothing, and their deadlines stand.
    touched: Vec<bool>,
    drained: Vec<bool>,
    /// World's time of each site's earliest deadline.
    due: Vec<Option<u64>>,
}

impl World {
    /// A world before its first event.
    pub fn new(scene: Scene, mutant: Option<Mutant>, trace: bool) -> Self {
        let (n, mut rng) = (scene.sites, Rng::new(scene.seed));
        let mut delay = symmetric(n, || rng.between(1, 20) * MS);
        if scene.class == Class::F12 {
            // 20 ms there and back: what packets wander by is then nothing beside what is measured.
            delay.iter_mut().flatten().for_each(|delay| *delay = 10 * MS);
        }
        let seed = |rng: &mut Rng| Direction::new(rng.next());
        let links = (0..n).map(|_| (0..n).map(|_| seed(&mut rng)).collect()).collect();
        let mut world = Self {
            mutant,
            trace,
            hosts: (0..n).map(|_| None).collect(),
            links,
            delay,
            slower: 1,
            buffers: BTreeMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
            wires: BTreeMap::new(),
            calls: BTreeMap::new(),
            held: Vec::new(),
            feed: feed::Feed::new(scene.seed),
            witness: vec![true; n],
            authority: Authority::new(scene.seed.is_multiple_of(2)),
            mail: BTreeMap::new(),
            watching: vec![false; n],
            truth: Truth {
                alive: vec![false; n],
                cut: vec![vec![false; n]; n],
                ready: vec![true; n],
                hole: vec![false; n],
                able: vec![false; n],
                changed: 0,
            },
            said: vec![0; n],
            stirred: vec![0; n],
            news: vec![Vec::new(); n],
            noise: false,
            paused: vec![false; n],
            waiting: (0..n).map(|_| Vec::new()).collect(),
            frozen: BTreeMap::new(),
            rng,
            checker: Checker::default(),
            disks: vec![[0; NODES]; n],
            starts: 0,
            deltas: 0,
            foreign: None,
            now: 0,
            touched: vec![true; n],
            drained: vec![true; n],
            due: vec![None; n],
            scene,
        };
        (0..n).for_each(|site| world.start(site));
        world
    }

    fn start(&mut self, site: usize) {
        let differs = self.scene.class == Class::F23;
        let ppm = i64::try_from(self.rng.below(401)).unwrap_or(0) - 200;
        let offset = if differs { self.rng.below(1 << 50) } else { SEC };
        let clock = Clock { offset: offset + SEC, ppm: if differs { ppm } else { 0 } };
        self.starts += 1;
        let instance = self.starts << 8 | site as u64;
        let newest = if self.scene.class == Class::F32 { THIS - 1 } else { THIS };
        let about = (clock, instance, self.disks[site], newest);
        let mut host = Host::new((site, self.scene.sites), about, self.now, self.mutant, self.trace);
        host.frozen = self.scene.policy_off && self.now >= START;
        self.hosts[site] = Some(host);
        self.watching[site] = false;
        self.truth.alive[site] = true;
        self.said[site] = self.now;
        if self.news[site].last() != Some(&10) {
            self.news[site].push(10);
        }
        (0..NODES).for_each(|node| self.rise(site, node));
    }

    /// Runs to the end or to the first violation.
    pub fn run(mut self) -> Outcome {
        let (mut events, mut tick, mut read, mut next_fault, mut violation) = (0, 0, LOOK, 0, None);
        while self.now < self.scene.end && violation.is_none() {
            let fault = self.scene.faults.get(next_fault).map(|(at, _)| *at);
            let timers = self.due.iter().flatten().copied().min();
            let arrival = self.queue.peek().map(|r| r.0.0);
            let next =
                [fault, timers, arrival, Some(tick), Some(read)].into_iter().flatten().min().unwrap_or(self.scene.end);
            self.now = self.now.max(next);
            events += 1;
            while let Some((_, fault)) = self.scene.faults.get(next_fault).filter(|(at, _)| *at <= self.now).copied() {
                self.strike(fault);
                self.touched.fill(true);
                next_fault += 1;
            }
            while self.queue.peek().is_some_and(|r| r.0.0 <= self.now) {
                let Some(std::cmp::Reverse((_, _, event))) = self.queue.pop() else { break };
                self.deliver(event);
            }
            self.expire();
            if self.now >= read {
                self.observe();
                self.touched.fill(true);
                read += LOOK;
            }
            if self.now >= tick {
                self.tick(tick);
                self.touched.fill(true);
                tick += TICK;
            }
            self.drain();
            violation = self.look(tick == self.now + TICK).err();
        }
        let violation = violation.or_else(|| self.checker.end(&self.scene, &self.hosts).err());
        let written: u64 = self.hosts.iter().flatten().map(Host::written).sum();
        let tables = written.saturating_sub(self.checker.tables.unwrap_or(written));
        let Checker { longest, words, .. } = &self.checker;
        Outcome { violation, events, longest: *longest, tables, oldest: words.oldest, sessions: words.most }
    }

    fn expire(&mut self) {
        let now = self.now;
        for (site, host) in self.hosts.iter_mut().enumerate() {
            if let Some(host) = host
                && !self.paused[site]
                && (self.touched[site] || self.due[site].is_some_and(|due| due <= now))
            {
                host.expire(now);
                self.touched[site] = true;
            }
        }
    }

    fn look(&mut self, ticked: bool) -> Result<(), Violation> {
        let moves = self.authority.moves;
        if self.scene.vacant.is_some() {
            let able: Vec<usize> =
                self.running().filter(|site| self.truth.ready[*site] && self.majority(*site)).collect();
            self.truth.able = (0..self.scene.sites).map(|site| able.contains(&site)).collect();
        }
        for (site, host) in self.hosts.iter().enumerate().filter(|(site, _)| self.drained[*site]) {
            if let Some(host) = host {
                self.checker.words.heard(site, host, &self.news, self.now)?;
            }
        }
        if let Some(text) = self.foreign.take() {
            return Err(Violation { rule: "an older relay hears what it knows", at: self.now, text });
        }
        self.checker.look(&self.scene, &self.truth, &self.hosts, moves, self.now)?;
        if ticked {
            let all = self.standing();
            let (hosts, standing, now) = (&self.hosts[..], &all[..], self.now);
            let (said, stirred, cut, paused) = (&self.said, &self.stirred, &self.truth.cut, &self.paused);
            self.checker.words.look(&Seen { hosts, standing, cut, paused, said, stirred, now })?;
            self.checker.deaths(&self.scene, &self.truth, &self.paused, &self.hosts, self.now)?;
        }
        Ok(())
    }

    fn put(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.push(std::cmp::Reverse((at, self.order, event)));
    }

    fn log(&self, site: usize, text: &str) {
        if self.trace {
            let who = if site == usize::MAX { "world".to_owned() } else { format!("site {site}") };
            println!("{:>10.3} s  {who:7} {text}", self.now as f64 / 1e9);
        }
    }
}
