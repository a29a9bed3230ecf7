//! Two sites of two relays each, that borrow and lend, while the relay that leads stops, is killed, loses its host, and returns.
//!
//! The arithmetic: a loan is said every second and holds for 3 s, so that the youngest one of a relay that dies has 2 s left. The site that
//! lends goes on by the requests of before, which hold as long. What comes between two loans is one more second, the time until nodes know
//! that the relay is gone ([`NOTICE`]) and the time until the next one has sessions ([`CONNECT`]): together they must be less than a second.

use std::collections::BTreeMap;

use super::*;
use crate::site::demand::Count;

/// A connection within a site is refused, or a word there.
const LAN: u64 = 10;
/// One way between sites.
const WAN: u64 = 50;
/// From the death of a process until the last node has called it in vain; each at its own time before.
const NOTICE: u64 = 200;
/// From the word that it leads until a relay has a session: its incarnation on the disk, and five times there and back.
const CONNECT: u64 = 600;
/// Until a relay of another site gives a session up whose other end is silent (`bascule_mesh::state`).
const SILENCE: u64 = 15_000;

struct Host {
    site: SiteId,
    name: &'static str,
    join: Join,
    relay: bool,
    dead: bool,
    load: u64,
    counted: u64,
    tables: usize,
}

enum Mail {
    Beat(usize, usize, Beat),
    Gone(usize, usize),
    Fed(usize, usize, Fact),
    Said(usize, usize, Vec<Count>),
    /// From the other site, by a session.
    Far(usize, Fact),
}

struct World {
    hosts: Vec<Host>,
    now: u64,
    mail: BTreeMap<(u64, u64), Mail>,
    posted: u64,
    session: Option<(usize, usize)>,
    connects: Option<(u64, usize, usize)>,
    /// When a session whose end is silent is given up.
    doubted: Option<u64>,
    said: BTreeMap<SiteId, Fact>,
    /// The least that any living node of HERE borrowed.
    least: f64,
}

fn host(site: SiteId, name: &'static str, relay: bool, load: u64, now: u64) -> Host {
    let mut config = config(relay.then_some(name), &["a", "b"]);
    config.policy.here = site;
    config.policy.services.get_mut(&WEB).expect("it is there").mode = Mode::LocalFirst;
    let capacity = if site == HERE { Capacity::Service(50) } else { Capacity::Service(1000) };
    config.services.get_mut(&WEB).expect("it is there").capacity = capacity;
    let mut join = Join::new(config, at(now));
    join.handle_serving(WEB, serving(4), at(now));
    join.handle_path(other(site), path(Carriage::Up), at(now), at(now));
    Host { site, name, join, relay, dead: false, load, counted: 1_000, tables: 0 }
}

fn other(site: SiteId) -> SiteId {
    if site == HERE { THERE } else { HERE }
}

impl World {
    /// Relays a (0), b (1) and node n (2) HERE, to which clients bring 100 where 50 fit; relays a (3) and b (4) THERE. At rest.
    fn new() -> Self {
        let hosts = vec![
            host(HERE, "a", true, 0, 0),
            host(HERE, "b", true, 40, 0),
            host(HERE, "n", false, 60, 0),
            host(THERE, "a", true, 0, 370),
            host(THERE, "b", true, 0, 370),
        ];
        let (mail, said, least) = (BTreeMap::new(), BTreeMap::new(), f64::INFINITY);
        let (session, connects, doubted) = (None, None, None);
        let mut new = Self { hosts, now: 380, mail, posted: 0, session, connects, doubted, said, least };
        new.run(120_000);
        assert_eq!(new.session, Some((0, 3)));
        (new.least, new.hosts[1].tables, new.hosts[2].tables) = (f64::INFINITY, 0, 0);
        new
    }

    fn post(&mut self, delay: u64, mail: Mail) {
        self.posted += 1;
        self.mail.insert((self.now + delay, self.posted), mail);
    }

    fn others(&self, of: usize) -> Vec<usize> {
        let site = self.hosts[of].site;
        (0..self.hosts.len()).filter(|n| *n != of && self.hosts[*n].site == site && !self.hosts[*n].dead).collect()
    }

    fn end_session(&mut self) {
        if let Some((here, there)) = self.session.take() {
            self.post(WAN, Mail::Far(here, Fact::Session { site: THERE, up: false }));
            self.post(WAN, Mail::Far(there, Fact::Session { site: HERE, up: false }));
        }
    }

    fn has_session(&self, n: usize) -> bool {
        self.session.is_some_and(|(here, there)| here == n || there == n)
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let mail = entry.remove();
            let now = at(self.now);
            let (Mail::Beat(_, to, _)
            | Mail::Gone(_, to)
            | Mail::Fed(_, to, _)
            | Mail::Said(_, to, _)
            | Mail::Far(to, _)) = &mail;
            let to = *to;
            if self.hosts[to].dead {
                continue;
            }
            let name = |from: usize| self.hosts[from].name;
            match mail {
                Mail::Beat(from, _, beat) => {
                    let name = name(from);
                    self.hosts[to].join.handle_beat(name, beat, now);
                }
                Mail::Gone(from, _) => {
                    let name = name(from);
                    self.hosts[to].join.handle_gone(name, now);
                }
                Mail::Fed(from, _, fact) => {
                    let name = name(from);
                    self.hosts[to].join.handle_fact(Source::Relay(name), fact, now);
                }
                Mail::Said(from, _, counts) => {
                    let name = name(from);
                    self.hosts[to].join.handle_said(name, &counts, now);
                }
                Mail::Far(_, fact) => self.hosts[to].join.handle_fact(Source::Own, fact, now),
            }
            self.carry(to);
        }
    }

    /// Carries out what a host owes.
    fn carry(&mut self, n: usize) {
        let (now, site) = (at(self.now), self.hosts[n].site);
        while let Some(action) = self.hosts[n].join.poll_action() {
            match action {
                Action::Table { service, generation: Some(generation), .. } => {
                    self.hosts[n].tables += 1;
                    self.hosts[n].join.handle_applied(service, generation, now);
                }
                Action::Lead(says) => {
                    if !says.leads && self.has_session(n) {
                        self.end_session();
                    }
                    self.others(n).into_iter().for_each(|to| self.post(LAN, Mail::Beat(n, to, says)));
                }
                Action::Publish(fact) => {
                    self.others(n).into_iter().for_each(|to| self.post(LAN, Mail::Fed(n, to, fact)));
                }
                Action::Say(counts) => {
                    let relays: Vec<usize> = self.others(n).into_iter().filter(|to| self.hosts[*to].relay).collect();
                    relays.into_iter().for_each(|to| self.post(LAN, Mail::Said(n, to, counts.clone())));
                }
                Action::Credit { service, amount, lend, .. } if self.has_session(n) => {
                    let fact =
                        if lend { Fact::Loan { site, service, amount } } else { Fact::Ask { site, service, amount } };
                    self.far(n, fact);
                }
                Action::Write(Key::Service(service), Some(Body::Service(summary))) => {
                    let fact = Fact::Summary { site, service, summary: Some(summary), age: Duration::ZERO };
                    self.said.insert(site, fact);
                    if self.has_session(n) {
                        self.far(n, fact);
                    }
                }
                _ => {}
            }
        }
    }

    fn far(&mut self, from: usize, fact: Fact) {
        if let Some((here, there)) = self.session.filter(|_| self.doubted.is_none()) {
            let to = if from == here { there } else { here };
            self.post(WAN, Mail::Far(to, fact));
        }
    }

    fn connect(&mut self) {
        if self.doubted.is_some_and(|at| at <= self.now) {
            self.doubted = None;
            self.end_session();
        }
        if self.session.is_some() {
            return;
        }
        let leads = |site| self.hosts.iter().position(|h| h.site == site && h.relay && !h.dead && h.join.leads());
        let (Some(here), Some(there)) = (leads(HERE), leads(THERE)) else {
            self.connects = None;
            return;
        };
        match self.connects {
            Some((when, a, b)) if (a, b) == (here, there) => {
                if when <= self.now {
                    (self.session, self.connects) = (Some((here, there)), None);
                    for (to, site) in [(here, THERE), (there, HERE)] {
                        self.post(0, Mail::Far(to, Fact::Session { site, up: true }));
                        if let Some(fact) = self.said.get(&site).copied() {
                            self.post(0, Mail::Far(to, fact));
                        }
                    }
                }
            }
            _ => self.connects = Some((self.now + CONNECT, here, there)),
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now += 10;
            self.deliver();
            self.connect();
            for n in 0..self.hosts.len() {
                let now = at(self.now);
                if self.hosts[n].dead {
                    continue;
                }
                let host = &mut self.hosts[n];
                host.join.handle_expire(now);
                if self.now.is_multiple_of(100) {
                    host.counted += host.load / 10;
                }
                if self.now.is_multiple_of(500) {
                    host.join.handle_counts(&[(WEB, host.counted)], now);
                }
                let (says, site) = (host.join.says(), host.site);
                self.carry(n);
                if self.hosts[n].relay && self.now % 1_000 == 170 * n as u64 {
                    self.others(n).into_iter().for_each(|to| self.post(LAN, Mail::Beat(n, to, says)));
                }
                if self.has_session(n) && self.now.is_multiple_of(10_000) {
                    self.hosts[n].join.handle_fact(
                        Source::Own,
                        Fact::Confirmed { site: other(site), age: Duration::ZERO },
                        now,
                    );
                    self.carry(n);
                }
            }
            let living = self.hosts[1..3].iter().filter(|host| !host.dead);
            let borrowed = living.map(|host| host.join.brought(WEB, at(self.now)).borrowed);
            self.least = borrowed.fold(self.least, f64::min);
        }
    }

    /// Its process is gone, and its host refuses who calls.
    fn kill(&mut self, n: usize) {
        self.hosts[n].dead = true;
        if self.has_session(n) {
            self.end_session();
        }
        let others = self.others(n);
        let each = NOTICE / others.len() as u64;
        for (k, to) in others.into_iter().enumerate() {
            self.post(each * (k as u64 + 1), Mail::Gone(n, to));
        }
    }

    /// It stops in order: sessions first.
    fn stop(&mut self, n: usize) {
        self.end_session();
        for to in self.others(n) {
            self.post(LAN, Mail::Beat(n, to, Beat { stops: true, ..Beat::default() }));
        }
        self.hosts[n].dead = true;
    }

    /// Its host is gone with it.
    fn lose(&mut self, n: usize) {
        self.hosts[n].dead = true;
        self.doubted = self.session.map(|_| self.now + SILENCE);
    }

    fn begin_again(&mut self, n: usize) {
        let (site, name) = (self.hosts[n].site, self.hosts[n].name);
        self.hosts[n] = host(site, name, true, 0, self.now);
        self.carry(n);
    }

    fn leader(&self, n: usize) -> Option<&str> {
        self.hosts[n].join.leader()
    }

    fn moved(&self) -> usize {
        self.hosts[1].tables + self.hosts[2].tables
    }
}

#[test]
fn loans_and_tables_outlive_the_death_of_the_relay_that_leads_at_either_end_at_any_time() {
    for (relay, session) in [(0, (1, 3)), (3, (0, 4))] {
        for phase in (0..1_000).step_by(50) {
            for planned in [false, true] {
                let mut world = World::new();
                world.run(phase);
                if planned {
                    world.stop(relay)
                } else {
                    world.kill(relay)
                }
                world.run(30_000);
                assert_eq!(world.session, Some(session), "the next one leads");
                let (here, there) = if relay == 0 { ("b", "a") } else { ("a", "b") };
                assert_eq!((world.leader(2), world.leader(4)), (Some(here), Some(there)));
                assert!(
                    world.least > 50.0,
                    "{} of 53 was left: relay {relay}, at {phase}, planned {planned}",
                    world.least
                );
                assert_eq!(world.moved(), 0, "relay {relay}, at {phase}, planned {planned}");
            }
        }
    }
}

#[test]
fn a_relay_that_comes_back_takes_over_without_a_loan_that_ends() {
    for relay in [0, 3] {
        for phase in (0..1_000).step_by(50) {
            let mut world = World::new();
            world.kill(relay);
            world.run(20_000 + phase);
            world.begin_again(relay);
            world.run(30_000);
            assert_eq!(world.session, Some((0, 3)), "the first by name leads again");
            assert!(world.least > 50.0, "{} of 53 was left: relay {relay}, at {phase}", world.least);
            assert_eq!(world.moved(), 0, "relay {relay}, at {phase}");
        }
    }
}

/// What the others are measured by: where only silence tells, nobody can know it before the loans end.
#[test]
fn a_relay_whose_host_is_gone_with_it_costs_the_loans() {
    let mut world = World::new();
    world.lose(0);
    world.run(2_000);
    assert_eq!((world.leader(1), world.leader(2)), (Some("a"), Some("a")), "silence takes three beats");
    world.run(28_000);
    assert_eq!(world.session, Some((1, 3)));
    assert!(world.least == 0.0 && world.moved() > 0, "{} of 53 was left", world.least);
}

/// Nodes call a relay that is gone in vain at different times, and what its successor says it says once.
#[test]
fn what_the_next_relay_says_before_its_word_counts_here_is_not_lost() {
    for late in [200, 3_000] {
        let mut node = Node::new(None, &["a", "b"]);
        node.settled();
        node.join.handle_beat("b", beat(true), at(node.now));
        node.fact(Source::Relay("b"), Fact::Session { site: THERE, up: true });
        node.fact(Source::Relay("b"), fact(0));
        assert!(node.share(THERE) > 0.4, "a leads, as far as is known here");
        node.run(late, &[("a", true), ("b", true)]);
        node.join.handle_gone("a", at(node.now));
        node.take();
        assert_eq!((node.join.leader(), node.join.session(THERE)), (Some("b"), true), "after {late} ms");
        assert_eq!((node.share(THERE), node.verdict(THERE)), (0.0, Some(Verdict::NotReady)));
        assert_eq!(node.join.age(THERE, at(node.now)), Some(Duration::from_millis(late)), "as old as it is");
    }
}
