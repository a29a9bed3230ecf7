//! The world: sites, links, streams, a lease, and time.

use std::collections::{BTreeMap, BinaryHeap};

use bascule_core::site::policy::facts::Observed;

use super::check::{Checker, Truth, Violation};
use super::host::{Host, LOCAL, Out, SINGLE, SPREAD, id};
use super::lease::{Lease, TTL};
use super::link::{Direction, Loss, MS, SEC, symmetric};
use super::mutant::Mutant;
use super::scene::{Class, Fault, Scene};
use crate::clock::Clock;
use crate::rng::Rng;

/// The world's own rhythm: local words, what the data path sees, leases.
const TICK: u64 = 100 * MS;
/// A stream over a cut link breaks after so long (TCP_USER_TIMEOUT as the driver will set it).
const PATIENCE: u64 = 15 * SEC;
/// New connections a second to a service at each site.
const CONNECTIONS: f64 = 50.0;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Datagram { to: usize, from: usize, flow: u8, bytes: Vec<u8> },
    Stream { conn: u64, to: usize, from: usize, bytes: Vec<u8> },
    Connected { a: usize, b: usize },
    Refused { from: usize, to: usize },
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
    queue: BinaryHeap<std::cmp::Reverse<(u64, u64, Event)>>,
    order: u64,
    /// Sessions: their number, since when, and when the last message of each direction arrives.
    streams: BTreeMap<(usize, usize), (u64, u64, [u64; 2])>,
    /// What waits for a cut link, in order.
    held: Vec<(usize, usize, Vec<u8>)>,
    relays: bool,
    witness: Vec<bool>,
    lease: Lease,
    truth: Truth,
    said: Vec<u64>,
    noise: bool,
    rng: Rng,
    checker: Checker,
    fails: BTreeMap<(usize, usize), Observed>,
    disks: Vec<u64>,
    starts: u64,
    deltas: u64,
    now: u64,
}

impl World {
    /// A world before its first event.
    pub fn new(scene: Scene, mutant: Option<Mutant>, trace: bool) -> Self {
        let (n, mut rng) = (scene.sites, Rng::new(scene.seed));
        let delay = symmetric(n, || rng.between(1, 20) * MS);
        let seed = |rng: &mut Rng| Direction::new(rng.next());
        let links = (0..n).map(|_| (0..n).map(|_| seed(&mut rng)).collect()).collect();
        let mut world = Self {
            mutant,
            trace,
            hosts: (0..n).map(|_| None).collect(),
            links,
            delay,
            slower: 1,
            queue: BinaryHeap::new(),
            order: 0,
            streams: BTreeMap::new(),
            held: Vec::new(),
            relays: true,
            witness: vec![true; n],
            lease: Lease::default(),
            truth: Truth {
                alive: vec![false; n],
                cut: vec![vec![false; n]; n],
                ready: vec![true; n],
                hole: vec![false; n],
                changed: 0,
            },
            said: vec![0; n],
            noise: false,
            rng,
            checker: Checker::default(),
            fails: BTreeMap::new(),
            disks: vec![0; n],
            starts: 0,
            deltas: 0,
            now: 0,
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
        let host = Host::new(site, self.scene.sites, (clock, instance, self.disks[site]), self.now, self.mutant);
        self.hosts[site] = Some(host);
        self.truth.alive[site] = true;
        self.said[site] = self.now;
    }

    /// Runs to the end or to the first violation.
    pub fn run(mut self) -> Outcome {
        let (mut events, mut tick, mut next_fault, mut violation) = (0, 0, 0, None);
        while self.now < self.scene.end && violation.is_none() {
            let fault = self.scene.faults.get(next_fault).map(|(at, _)| *at);
            let timers = self.hosts.iter().flatten().filter_map(Host::due).min();
            let arrival = self.queue.peek().map(|r| r.0.0);
            let next = [fault, timers, arrival, Some(tick)].into_iter().flatten().min().unwrap_or(self.scene.end);
            self.now = self.now.max(next);
            events += 1;
            while let Some((_, fault)) = self.scene.faults.get(next_fault).filter(|(at, _)| *at <= self.now).copied() {
                self.strike(fault);
                next_fault += 1;
            }
            while self.queue.peek().is_some_and(|r| r.0.0 <= self.now) {
                let Some(std::cmp::Reverse((_, _, event))) = self.queue.pop() else { break };
                self.deliver(event);
            }
            let now = self.now;
            self.hosts.iter_mut().flatten().for_each(|h| h.expire(now));
            if self.now >= tick {
                self.tick(tick);
                tick += TICK;
            }
            self.drain();
            violation = self.look(tick == self.now + TICK).err();
        }
        let violation = violation.or_else(|| self.checker.end(&self.scene, &self.hosts).err());
        let written: u64 = self.hosts.iter().flatten().map(|h| h.written).sum();
        let tables = written.saturating_sub(self.checker.tables.unwrap_or(written));
        Outcome { violation, events, longest: self.checker.longest, tables }
    }

    fn look(&mut self, ticked: bool) -> Result<(), Violation> {
        let moves = self.lease.moves;
        self.checker.look(&self.scene, &self.truth, &self.hosts, moves, self.now)?;
        if ticked {
            let sessions = self.streams.iter().map(|(pair, (_, since, _))| (*pair, *since)).collect();
            self.checker.records(&self.hosts, &sessions, &self.said, self.now)?;
        }
        Ok(())
    }

    fn strike(&mut self, fault: Fault) {
        self.log(usize::MAX, &format!("{fault:?}"));
        let now = self.now;
        match fault {
            Fault::Loss(from, to, loss) => {
                self.links[from][to].set(loss, now);
                let cut = loss == Loss::All;
                if self.truth.cut[from][to] != cut {
                    self.truth.cut[from][to] = cut;
                    self.truth.changed = now;
                    // What waited in the stream goes on, or will break.
                    for ((a, b), stream) in &mut self.streams {
                        if (*a, *b) == (from.min(to), from.max(to)) {
                            stream.1 = now;
                        }
                    }
                    for (from, to, bytes) in std::mem::take(&mut self.held) {
                        self.stream(from, to, bytes);
                    }
                }
            }
            Fault::Slower(times) => self.slower = times,
            Fault::Kill(site) => {
                if let Some(host) = self.hosts[site].take() {
                    self.disks[site] = host.persisted;
                }
                self.truth.alive[site] = false;
                self.truth.changed = now;
                let gone: Vec<_> = self.streams.keys().filter(|(a, b)| *a == site || *b == site).copied().collect();
                for (a, b) in gone {
                    let _gone = self.streams.remove(&(a, b));
                    let other = if a == site { b } else { a };
                    // A dead process's kernel says so, where the link lets it.
                    let wait = if self.truth.cut[site][other] { PATIENCE } else { self.delay[site][other] };
                    self.put(now + wait, Event::Refused { from: other, to: site });
                }
            }
            Fault::Start(site, wiped) => {
                if wiped {
                    self.disks[site] = 0;
                }
                self.start(site);
                self.truth.changed = now;
            }
            Fault::Witness(site, there) => match site {
                Some(site) => self.witness[site] = there,
                None => self.witness.iter_mut().for_each(|w| *w = there),
            },
            Fault::Relays(there) => {
                self.relays = there;
                if !there {
                    for (a, b) in self.streams.keys().copied().collect::<Vec<_>>() {
                        self.disconnect(a, b);
                    }
                }
            }
            Fault::Ready(site, ready) => {
                self.truth.ready[site] = ready;
                self.truth.changed = now;
                self.said[site] = now;
                if let Some(host) = &mut self.hosts[site] {
                    host.ready = if ready { 10 } else { 0 };
                    host.say(now);
                }
            }
            Fault::BlackHole(site, hole) => {
                self.truth.hole[site] = hole;
                self.truth.changed = now;
            }
            Fault::Mute(site, mute) => {
                if let Some(host) = &mut self.hosts[site] {
                    host.mute = mute;
                }
            }
            Fault::Noise(noise) => self.noise = noise,
        }
    }

    fn deliver(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Datagram { to, from, flow, bytes } => {
                if let Some(host) = &mut self.hosts[to] {
                    let at = host.at(now);
                    if let Some(path) = host.paths.get_mut(&from) {
                        path.handle_packet(flow, &bytes, at);
                    }
                }
            }
            Event::Stream { conn, to, from, bytes } => {
                let pair = (to.min(from), to.max(from));
                if self.streams.get(&pair).is_some_and(|s| s.0 == conn)
                    && let Some(host) = &mut self.hosts[to]
                {
                    let at = host.at(now);
                    host.state.handle_bytes(id(from), &bytes, at);
                }
            }
            Event::Connected { a, b } => {
                let whole = self.relays && self.hosts[a].is_some() && self.hosts[b].is_some();
                if !whole || self.truth.cut[a][b] || self.truth.cut[b][a] {
                    self.refuse(a, b);
                    self.refuse(b, a);
                    return;
                }
                if self.streams.contains_key(&(a, b)) {
                    return;
                }
                self.order += 1;
                let _new = self.streams.insert((a, b), (self.order, now, [now; 2]));
                for (site, other) in [(a, b), (b, a)] {
                    if let Some(host) = &mut self.hosts[site] {
                        let at = host.at(now);
                        host.state.handle_connected(id(other), at);
                    }
                }
            }
            Event::Refused { from, to } => self.refuse(from, to),
        }
    }

    fn refuse(&mut self, from: usize, to: usize) {
        if self.streams.contains_key(&(from.min(to), from.max(to))) {
            return;
        }
        let now = self.now;
        if let Some(host) = &mut self.hosts[from] {
            let at = host.at(now);
            host.state.handle_disconnected(id(to), at);
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        self.held.retain(|(from, to, _)| (from.min(to), from.max(to)) != (&a.min(b), &a.max(b)));
        if self.streams.remove(&(a.min(b), a.max(b))).is_some() {
            self.refuse(a, b);
            self.refuse(b, a);
        }
    }

    /// The site reaches a member that has a majority. Members are sites 0 and 1 and the witness.
    fn majority(&self, site: usize) -> bool {
        let way = |from: usize, to: usize| {
            let open = from == to || !(self.truth.cut[from][to] || self.truth.cut[to][from]);
            open && self.truth.alive[from] && self.truth.alive[to]
        };
        let witness = |of: usize| self.witness[of] && self.truth.alive[of];
        let (both, first, second) = (way(0, 1), witness(0), witness(1));
        (way(site, 0) && (both || first)) || (way(site, 1) && (both || second)) || (witness(site) && (first || second))
    }

    fn tick(&mut self, tick: u64) {
        let now = self.now;
        // Streams over cut links break.
        let dead: Vec<_> = self
            .streams
            .iter()
            .filter(|((a, b), (_, since, _))| {
                (self.truth.cut[*a][*b] || self.truth.cut[*b][*a]) && now - since >= PATIENCE
            })
            .map(|(pair, _)| *pair)
            .collect();
        dead.into_iter().for_each(|(a, b)| self.disconnect(a, b));
        if tick.is_multiple_of(500 * MS) {
            for host in self.hosts.iter_mut().flatten() {
                host.say(now);
                host.refresh(now);
            }
        }
        if tick.is_multiple_of(SEC) {
            self.observe();
            self.others();
        }
        self.leases();
    }

    /// Ten seconds of handshakes, in the proportions of the tables in force.
    fn observe(&mut self) {
        let sites = self.scene.sites;
        for site in 0..sites {
            for other in 0..sites {
                let serves = self.truth.serves(site, other);
                let Some(host) = &mut self.hosts[site] else { continue };
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most fifty")]
                let new = (host.share(SPREAD, other) * CONNECTIONS) as u32;
                let seen = self.fails.entry((site, other)).or_default();
                let decay = |n: u32| n - n.div_ceil(10);
                seen.handshakes = decay(seen.handshakes) + new;
                seen.failed = decay(seen.failed) + if serves { 0 } else { new };
                host.observe(other, SPREAD, *seen, self.now);
                host.observe(other, LOCAL, *seen, self.now);
            }
        }
    }

    /// Who has a session with others asks them for what it does not reach.
    fn others(&mut self) {
        for site in 0..self.scene.sites {
            for lost in (0..self.scene.sites).filter(|o| *o != site) {
                let helpers = (0..self.scene.sites).filter(|h| *h != site && *h != lost);
                let answers: Vec<bool> = helpers
                    .filter(|h| self.streams.contains_key(&(site.min(*h), site.max(*h))))
                    .filter_map(|h| {
                        let path = self.hosts[h].as_ref()?.paths.get(&lost)?;
                        Some(path.status().carriage == bascule_core::site::path::io::Carriage::Up)
                    })
                    .collect();
                let reach = (!answers.is_empty()).then(|| answers.contains(&true));
                if let Some(host) = &mut self.hosts[site] {
                    host.policy.handle_others(id(lost), reach);
                }
            }
        }
    }

    fn leases(&mut self) {
        let now = self.now;
        for site in 0..self.scene.sites {
            let majority = self.majority(site);
            let holder = self.lease.holder(now);
            let renewed =
                majority && holder == Some(site) && self.hosts[site].as_ref().is_some_and(|h| h.holds.is_some());
            if renewed {
                let _held = self.lease.ask(site, now);
            }
            let outlived = self.mutant == Some(Mutant::LeaseOutlived);
            let Some(host) = &mut self.hosts[site] else { continue };
            let at = host.at(now);
            if renewed {
                host.holds = Some(now + TTL);
            } else if host.holds.is_some_and(|until| now >= until) {
                if outlived {
                    host.holds = Some(now + TTL);
                } else {
                    host.holds = None;
                    host.policy.handle_lease(SINGLE, None, at);
                }
            }
            host.policy.handle_authority(majority, at);
            if majority && host.holds.is_none() {
                host.policy.handle_lease(SINGLE, holder.map(id), at);
            }
        }
    }

    fn drain(&mut self) {
        for site in 0..self.scene.sites {
            let now = self.now;
            let Some(out) = self.hosts[site].as_mut().map(|h| h.drain(now)) else { continue };
            for out in out {
                self.owe(site, out);
            }
        }
    }

    fn owe(&mut self, site: usize, out: Out) {
        let now = self.now;
        match out {
            Out::Log(text) => self.log(site, &text),
            Out::Datagram(to, flow, bytes) => {
                if self.links[site][to].loses(now) {
                    return;
                }
                let wait = self.delay[site][to] * self.slower + self.rng.below(MS);
                if self.noise && self.rng.chance(300) {
                    let mut forged = bytes.clone();
                    let (index, late) = (self.rng.index(forged.len()), self.rng.below(3 * SEC));
                    self.put(now + wait + late, Event::Datagram { to, from: site, flow, bytes: bytes.clone() });
                    forged[index] ^= 1 << self.rng.below(8);
                    self.put(now + wait, Event::Datagram { to, from: site, flow, bytes: forged });
                }
                self.put(now + wait, Event::Datagram { to, from: site, flow, bytes });
            }
            Out::Stream(to, bytes) => self.stream(site, to, bytes),
            Out::Dial(to) => {
                let wait = self.delay[site][to] * self.slower * 3;
                let (a, b) = (site.min(to), site.max(to));
                self.put(now + wait, Event::Connected { a, b });
            }
            Out::Close(to) => {
                if self.streams.remove(&(site.min(to), site.max(to))).is_some() {
                    let wait = self.delay[site][to];
                    self.put(now + wait, Event::Refused { from: to, to: site });
                }
            }
            Out::Claim => {
                if self.majority(site) && self.lease.ask(site, now) {
                    let Some(host) = &mut self.hosts[site] else { return };
                    host.holds = Some(now + TTL);
                    let at = host.at(now);
                    host.policy.handle_lease(SINGLE, Some(id(site)), at);
                }
            }
            Out::Release => {
                if self.majority(site) {
                    self.lease.give(site, now);
                }
                if let Some(host) = &mut self.hosts[site] {
                    host.holds = None;
                    let at = host.at(now);
                    host.policy.handle_lease(SINGLE, None, at);
                }
            }
        }
    }

    fn stream(&mut self, site: usize, to: usize, mut bytes: Vec<u8>) {
        use bascule_core::site::state::message::{Cursor, Message};
        let message = Message::parse(&bytes).ok();
        match (self.mutant, message) {
            (Some(Mutant::DeltaLost), Some(Message::Delta { .. })) => {
                self.deltas += 1;
                if self.deltas.is_multiple_of(3) {
                    return;
                }
            }
            (Some(Mutant::ReadUnsaid), Some(Message::Hello { own, .. })) => {
                bytes = Message::Hello { own, read: Cursor::default() }.encode();
            }
            _ => {}
        }
        let (a, b) = (site.min(to), site.max(to));
        let cut = self.truth.cut[a][b] || self.truth.cut[b][a];
        // A lost segment is sent again: the stream stalls, in order.
        let stall = if self.links[site][to].loses(self.now) { 200 * MS } else { 0 };
        let wait = self.delay[a][b] * self.slower + stall;
        let Some((conn, _, last)) = self.streams.get_mut(&(a, b)) else { return };
        if cut {
            // Sent again until it arrives or the session breaks.
            return self.held.push((site, to, bytes));
        }
        let way = &mut last[usize::from(site == b)];
        *way = (self.now + wait).max(*way + 1);
        let (conn, at) = (*conn, *way);
        self.put(at, Event::Stream { conn, to, from: site, bytes });
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
