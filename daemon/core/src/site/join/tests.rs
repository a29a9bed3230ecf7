use super::*;
use crate::balance::SiteSpec;
use crate::service::Protocol;
use crate::site::lead::HOLD;
use crate::site::path::io::{Carriage, Silence};
use crate::site::policy::facts::Verdict;
use crate::site::policy::io::{Config as PolicyConfig, Mode, ServicePolicy};
use crate::site::policy::tests::status as path;
use crate::site::timeline::Rule;

const HERE: SiteId = SiteId(1);
const THERE: SiteId = SiteId(2);
const WEB: ServiceId = ServiceId(7);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn config(relay: Option<&str>, relays: &[&str]) -> Config {
    let weights = BTreeMap::from([(HERE, 50), (THERE, 50)]);
    let policy = ServicePolicy { mode: Mode::Weighted(weights), ..ServicePolicy::default() };
    let key = ServiceKey { vip: [10, 9, 7, 100].into(), port: 80, protocol: Protocol::Tcp };
    Config {
        policy: PolicyConfig {
            here: HERE,
            sites: BTreeMap::from([(HERE, "eu".to_owned()), (THERE, "eu".to_owned())]),
            services: BTreeMap::from([(WEB, policy)]),
            spill: true,
        },
        services: BTreeMap::from([(WEB, Local { name: "web".to_owned(), key, capacity: Capacity::Service(100) })]),
        relays: relays.iter().map(|r| (*r).to_owned()).collect(),
        relay: relay.map(str::to_owned),
    }
}

fn serving(ready: u16) -> Serving {
    Serving { ready, expected: 4, draining: false }
}

fn fact(ready: u16) -> Fact {
    let summary = Some(Summary { ready, expected: 4, draining: false, capacity: 100, demand: 0 });
    Fact::Summary { site: THERE, service: WEB, summary, age: Duration::ZERO }
}

/// A node and what it was told to do.
struct Node {
    join: Join,
    now: u64,
    done: Vec<Action>,
}

impl Node {
    fn new(relay: Option<&str>, relays: &[&str]) -> Self {
        let mut new = Self { join: Join::new(config(relay, relays), at(0)), now: 0, done: Vec::new() };
        new.take();
        new
    }

    fn take(&mut self) {
        while let Some(action) = self.join.poll_action() {
            if let Action::Table { service, generation: Some(generation), .. } = &action {
                self.join.handle_applied(*service, *generation, at(self.now));
            }
            self.done.push(action);
        }
    }

    /// Time passes; relays that are named beat meanwhile.
    fn run(&mut self, ms: u64, beats: &[(&str, bool)]) {
        for _ in 0..ms / 100 {
            self.now += 100;
            for (relay, leads) in beats {
                self.join.handle_beat(relay, *leads, at(self.now));
            }
            self.join.handle_expire(at(self.now));
            self.take();
        }
    }

    fn fact(&mut self, source: Source<'_>, fact: Fact) {
        self.join.handle_fact(source, fact, at(self.now));
        self.take();
    }

    fn share(&self, site: SiteId) -> f64 {
        self.join.opinions(WEB, at(self.now)).iter().find(|o| o.site == site).map_or(0.0, |o| o.share)
    }

    fn verdict(&self, site: SiteId) -> Option<Verdict> {
        self.join.opinions(WEB, at(self.now)).iter().find(|o| o.site == site).map(|o| o.verdict)
    }

    /// Two healthy sites, from the word of relay `a`.
    fn settled(&mut self) {
        self.run(100, &[("a", true)]);
        self.join.handle_serving(WEB, serving(4), at(self.now));
        self.join.handle_path(THERE, path(Carriage::Up), at(self.now), at(self.now));
        self.fact(Source::Relay("a"), Fact::Session { site: THERE, up: true });
        self.fact(Source::Relay("a"), fact(4));
        self.run(90_000, &[("a", true)]);
        self.fact(Source::Relay("a"), Fact::Confirmed { site: THERE, age: Duration::ZERO });
        self.run(1_000, &[("a", true)]);
        assert!((self.share(THERE) - 0.5).abs() < 0.01, "half is there: {}", self.share(THERE));
        self.done.clear();
    }
}

#[test]
fn a_node_that_is_no_relay_follows_the_one_that_leads_and_nobody_else() {
    let mut node = Node::new(None, &["a", "b"]);
    node.settled();
    node.fact(Source::Relay("b"), fact(0));
    assert!(node.share(THERE) > 0.4, "b does not lead");
    node.fact(Source::Own, fact(0));
    assert!(node.share(THERE) > 0.4, "it has no relay");
    node.fact(Source::Relay("a"), fact(0));
    assert_eq!(node.share(THERE), 0.0, "nothing is ready there: at once");
    assert_eq!(node.verdict(THERE), Some(Verdict::NotReady));
    let silent = |a: &Action| !matches!(a, Action::Lead(_) | Action::Publish(_) | Action::Credit { .. });
    assert!(node.done.iter().all(silent), "that is the relay's to do: {:?}", node.done);
}

#[test]
fn with_all_relays_dead_nothing_moves() {
    let mut node = Node::new(None, &["a", "b"]);
    node.settled();
    node.run(60_000, &[]);
    assert_eq!(node.join.leader(), None);
    assert_eq!(node.verdict(THERE), Some(Verdict::Blind));
    assert!((node.share(THERE) - 0.5).abs() < 0.01);
    assert!(!node.done.iter().any(|a| matches!(a, Action::Table { .. })), "{:?}", node.done);
    // What this node sees by itself still counts.
    node.join.handle_serving(WEB, serving(0), at(node.now));
    node.take();
    assert_eq!(node.share(HERE), 0.0);
}

#[test]
fn a_path_that_goes_down_moves_the_share_at_once_and_the_history_says_why() {
    let mut node = Node::new(None, &["a"]);
    node.settled();
    node.now += 50;
    let (cause, now) = (at(node.now - 500), at(node.now));
    node.join.handle_path(THERE, path(Carriage::Down(Silence::In)), cause, now);
    node.take();
    assert_eq!((node.share(THERE), node.share(HERE)), (0.0, 1.0));
    let told = node.join.history(WEB).and_then(|h| h.iter().last()).cloned().expect("a timeline");
    assert_eq!(told.why, Rule::Facts { site: THERE, verdict: Verdict::PathDown });
    assert_eq!((told.cause, told.detected, told.decided, told.applied), (cause, now, now, Some(now)));
    assert!((told.moved - 0.5).abs() < 0.01);
    let Some(Action::Table { slots, .. }) = node.done.iter().rev().find(|a| matches!(a, Action::Table { .. })) else {
        panic!("a table: {:?}", node.done)
    };
    assert!(slots.len() == 1021 && slots.iter().all(|s| *s == HERE));
}

#[test]
fn packets_hear_of_a_path_that_is_down_in_the_same_step_as_the_table() {
    let mut node = Node::new(None, &["a"]);
    node.settled();
    let neighbours = |node: &Node| {
        let of = |a: &Action| if let Action::Neighbours(specs) = a { Some(specs.clone()) } else { None };
        node.done.iter().filter_map(of).collect::<Vec<_>>()
    };
    let there = |reachable, mtu| vec![SiteSpec { site: THERE, reachable, via_ingress: false, mtu }];
    assert_eq!(neighbours(&node).first(), Some(&there(true, None)), "before anything is heard");
    node.done.clear();
    let (cause, now) = (at(node.now - 500), at(node.now));
    node.join.handle_path(THERE, path(Carriage::Down(Silence::Out)), cause, now);
    node.take();
    assert_eq!(neighbours(&node), [there(false, None)]);
    assert!(node.done.iter().any(|a| matches!(a, Action::Table { .. })) && node.share(THERE) == 0.0);
    node.done.clear();
    node.join.handle_path(THERE, PathStatus { mtu: 1380, ..path(Carriage::Up) }, now, now);
    node.join.handle_path(THERE, PathStatus { mtu: 1380, ..path(Carriage::Up) }, now, now);
    node.take();
    assert_eq!(neighbours(&node), [there(true, Some(1380))], "a path that is as it was is no news");
}

#[test]
fn the_relay_that_leads_writes_publishes_and_steps_back() {
    let mut node = Node::new(Some("b"), &["a", "b"]);
    node.run(u64::try_from(HOLD.as_millis()).expect("short"), &[]);
    assert!(node.join.leads() && node.done.contains(&Action::Lead(true)));
    node.fact(Source::Own, fact(4));
    assert!(node.done.contains(&Action::Publish(fact(4))), "{:?}", node.done);
    node.join.handle_serving(WEB, serving(2), at(node.now));
    node.take();
    let half = Summary { ready: 2, expected: 4, draining: false, capacity: 50, demand: 0 };
    assert!(node.done.contains(&Action::Write(Key::Service(WEB), Some(Body::Service(half)))), "{:?}", node.done);
    let facts = node.join.facts(at(node.now + 5_000));
    assert!(matches!(facts[..], [Fact::Summary { age, .. }] if age == Duration::from_secs(5)), "{facts:?}");

    node.done.clear();
    node.join.handle_beat("a", false, at(node.now));
    node.take();
    assert!(!node.join.leads() && node.done.contains(&Action::Lead(false)), "a comes first");
    node.fact(Source::Own, fact(0));
    assert!(!node.done.iter().any(|a| matches!(a, Action::Publish(_))), "its word is worth nothing now");
    node.run(100, &[("a", true)]);
    assert_eq!(node.join.leader(), Some("a"));
    node.run(3_000, &[]);
    assert!(node.join.leads(), "a is gone");
    let again = node.done.iter().filter(|a| matches!(a, Action::Publish(Fact::Summary { .. }))).count();
    assert_eq!(again, 1, "those who listened to another one are told everything: {:?}", node.done);
}

#[test]
fn a_service_that_is_spread_no_more_stays_here() {
    let mut node = Node::new(None, &["a"]);
    node.settled();
    let mut next = config(None, &["a"]);
    next.services.clear();
    next.policy.services.clear();
    node.join.handle_config(next, at(node.now));
    node.take();
    let here = |a: &Action| matches!(a, Action::Table { generation: None, slots, .. } if slots.iter().all(|s| *s == HERE) && !slots.is_empty());
    assert!(node.done.iter().any(here), "{:?}", node.done);
    assert!(node.done.contains(&Action::Write(Key::Service(WEB), None)));
    assert!(node.done.contains(&Action::Write(Key::Vip([10, 9, 7, 100].into()), None)));
    // And back again, with what was known.
    node.done.clear();
    node.join.handle_config(config(None, &["a"]), at(node.now));
    node.join.handle_serving(WEB, serving(4), at(node.now));
    node.run(2_000, &[("a", true)]);
    assert!(node.share(HERE) > 0.0 && node.verdict(THERE) == Some(Verdict::Normal), "{:?}", node.done);
}

#[test]
fn another_capacity_in_the_file_is_another_summary_at_once() {
    let mut node = Node::new(Some("a"), &["a"]);
    node.join.handle_serving(WEB, serving(2), at(node.now));
    node.take();
    let mut next = config(Some("a"), &["a"]);
    next.services.get_mut(&WEB).expect("it is there").capacity = Capacity::Endpoint(30);
    node.done.clear();
    node.join.handle_config(next.clone(), at(node.now));
    node.take();
    let said = Summary { ready: 2, expected: 4, draining: false, capacity: 60, demand: 0 };
    assert_eq!(node.join.summary(HERE, WEB), Some(said));
    assert!(node.done.contains(&Action::Write(Key::Service(WEB), Some(Body::Service(said)))), "{:?}", node.done);
    node.done.clear();
    node.join.handle_config(next, at(node.now));
    node.take();
    assert!(!node.done.iter().any(|a| matches!(a, Action::Write(..))), "nothing new, nothing said: {:?}", node.done);
}

#[test]
fn capacity_follows_what_is_ready() {
    let of = |capacity, ready| summary(serving(ready), capacity).capacity;
    assert_eq!([4, 3, 0].map(|ready| of(Capacity::Service(100), ready)), [100, 75, 0]);
    assert_eq!([4, 1, 0].map(|ready| of(Capacity::Endpoint(30), ready)), [120, 30, 0]);
    assert_eq!(of(Capacity::Unknown, 4), 0);
    assert_eq!(summary(Serving { ready: 2, expected: 0, draining: true }, Capacity::Service(9)).capacity, 9);
}
