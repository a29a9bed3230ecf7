mod active;
mod near;
mod reach;
mod succession;

use super::drain::{Drain, Refused};
use super::io::Report;
use super::*;
use crate::balance::SiteSpec;
use crate::service::Protocol;
use crate::site::lead::{Beat, HOLD};
use crate::site::orders::{Target, Turn};
use crate::site::path::io::{Carriage, Silence};
use crate::site::policy::facts::Verdict;
use crate::site::policy::io::{Config as PolicyConfig, DrainError, Mode, ServicePolicy, Unit};
use crate::site::policy::tests::status as path;
use crate::site::timeline::Rule;

pub(super) const HERE: SiteId = SiteId(1);
pub(super) const THERE: SiteId = SiteId(2);
pub(super) const WEB: ServiceId = ServiceId(7);

pub(super) fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

pub(super) fn config(relay: Option<&str>, relays: &[&str]) -> Config {
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

/// What a relay says that has stood for long.
pub(super) fn beat(leads: bool) -> Beat {
    Beat { leads, tells: true, ..Beat::default() }
}

pub(super) fn serving(ready: u16) -> Serving {
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
        Self::with(config(relay, relays))
    }

    fn with(config: Config) -> Self {
        let mut new = Self { join: Join::new(config, at(0)), now: 0, done: Vec::new() };
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
                self.join.handle_beat(relay, beat(*leads), at(self.now));
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
fn a_node_that_stood_still_hears_of_sessions_again() {
    let (mut relay, mut node) = (Node::new(Some("a"), &["a"]), Node::new(None, &["a"]));
    node.settled();
    relay.run(100, &[]);
    relay.fact(Source::Own, Fact::Session { site: THERE, up: true });
    // Nothing was read for as long as a relay is believed. The connection with it stands: it does not greet anew.
    node.run(HOLD.as_millis().try_into().expect("seconds"), &[]);
    node.run(100, &[("a", true)]);
    assert!(node.join.leader() == Some("a") && !node.join.session(THERE));
    relay.done.clear();
    relay.fact(Source::Own, Fact::Confirmed { site: THERE, age: Duration::ZERO });
    for action in relay.done.drain(..) {
        if let Action::Publish(fact) = action {
            node.fact(Source::Relay("a"), fact);
        }
    }
    assert!(node.join.session(THERE));
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
fn the_relay_that_leads_writes_publishes_and_steps_back() {
    let mut node = Node::new(Some("b"), &["a", "b"]);
    node.run(u64::try_from(HOLD.as_millis()).expect("short"), &[]);
    assert!(node.join.leads() && node.done.contains(&Action::Lead(beat(true))));
    node.fact(Source::Own, fact(4));
    assert!(node.done.contains(&Action::Publish(fact(4))), "{:?}", node.done);
    node.join.handle_serving(WEB, serving(2), at(node.now));
    node.take();
    let half = Summary { ready: 2, expected: 4, draining: false, capacity: 50, demand: 0 };
    assert!(node.done.contains(&Action::Write(Key::Service(WEB), Some(Body::Service(half)))), "{:?}", node.done);
    let facts = node.join.facts(at(node.now + 5_000));
    assert!(matches!(facts[..], [Fact::Summary { age, .. }] if age == Duration::from_secs(5)), "{facts:?}");

    node.done.clear();
    node.join.handle_beat("a", beat(false), at(node.now));
    node.take();
    assert!(!node.join.leads() && node.done.contains(&Action::Lead(beat(false))), "a comes first");
    node.fact(Source::Own, fact(0));
    assert!(node.done.contains(&Action::Publish(fact(0))), "what it hears it says");
    node.fact(Source::Own, Fact::Ask { site: THERE, service: WEB, amount: 5 });
    assert!(!node.done.iter().any(|a| matches!(a, Action::Publish(Fact::Ask { .. }))), "requests are not its any more");
    node.run(100, &[("a", true)]);
    assert_eq!(node.join.leader(), Some("a"));
    node.run(3_000, &[]);
    assert!(node.join.leads(), "a is gone");
    let again = node.done.iter().filter(|a| matches!(a, Action::Publish(Fact::Summary { .. }))).count();
    assert_eq!(again, 2, "nodes of earlier versions have listened to another one: {:?}", node.done);
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
    let of = |capacity, ready| summary(serving(ready), capacity, Rate(0)).capacity;
    assert_eq!([4, 3, 0].map(|ready| of(Capacity::Service(100), ready)), [100, 75, 0]);
    assert_eq!([4, 1, 0].map(|ready| of(Capacity::Endpoint(30), ready)), [120, 30, 0]);
    assert_eq!(of(Capacity::Unknown, 4), 0);
    assert_eq!(summary(Serving { ready: 2, expected: 0, draining: true }, Capacity::Service(9), Rate(0)).capacity, 9);
}

const SERVICE: Target = Target::Service(WEB);

/// Nothing but the target: what a node or an endpoint carries is not asked for.
fn drain(node: &mut Node, target: Target, force: bool) -> Result<(), Refused> {
    let drained = node.join.handle_drain(target, Duration::from_secs(60), &BTreeMap::new(), force, at(node.now));
    node.take();
    drained
}

fn written(node: &Node, key: Key) -> Option<Option<Body>> {
    node.done
        .iter()
        .rev()
        .find_map(|a| if let Action::Write(of, body) = a { (*of == key).then_some(*body) } else { None })
}

fn turns(node: &Node) -> Vec<Turn> {
    let of = |a: &Action| if let Action::Report(Report::Order { turn, .. }) = a { Some(*turn) } else { None };
    node.done.iter().filter_map(of).collect()
}

/// Relay `a` of this site, which leads, with another site that is well.
fn leading() -> Node {
    let mut node = Node::new(Some("a"), &["a"]);
    node.join.handle_serving(WEB, serving(4), at(node.now));
    node.join.handle_path(THERE, path(Carriage::Up), at(node.now), at(node.now));
    node.fact(Source::Own, Fact::Session { site: THERE, up: true });
    node.fact(Source::Own, fact(4));
    node.run(80_000, &[]);
    node.fact(Source::Own, Fact::Confirmed { site: THERE, age: Duration::ZERO });
    node.run(1_000, &[]);
    assert!((node.share(THERE) - 0.5).abs() < 0.01, "{}", node.share(THERE));
    node.done.clear();
    node
}

#[test]
fn a_drained_service_goes_elsewhere_at_once_is_told_to_everybody_and_returns_slowly() {
    let mut node = leading();
    assert_eq!(drain(&mut node, SERVICE, false), Ok(()));
    assert_eq!((node.share(THERE), node.verdict(HERE)), (1.0, Some(Verdict::Draining)));
    let told = node.join.history(WEB).and_then(|h| h.iter().last()).cloned().expect("a timeline");
    assert_eq!(told.why, Rule::Facts { site: HERE, verdict: Verdict::Draining });
    let said = Summary { ready: 4, expected: 4, draining: true, capacity: 100, demand: 0 };
    assert_eq!(written(&node, Key::Service(WEB)), Some(Some(Body::Service(said))));
    assert_eq!(written(&node, Key::Order(WEB.0)), Some(Some(Body::Order { service: Some(WEB), seconds: 60 })));
    let word = |left| Action::Publish(Fact::Order { target: SERVICE, left });
    assert!(node.done.contains(&word(Some(Duration::from_secs(60)))), "{:?}", node.done);

    node.done.clear();
    node.run(61_000, &[]);
    let words = node.done.iter().filter(|a| matches!(a, Action::Publish(Fact::Order { .. }))).count();
    assert!((59..=63).contains(&words), "one a second, and one of the deadline: {words}");
    assert_eq!((turns(&node), node.share(THERE)), (vec![Turn::Over], 1.0), "over, and in force");
    assert_eq!(written(&node, Key::Order(WEB.0)), None, "time that passes is no other record");

    node.done.clear();
    assert_eq!(node.join.handle_undrain(SERVICE, at(node.now)), Ok(()));
    node.take();
    assert!(node.done.contains(&word(None)) && turns(&node) == [Turn::Ended]);
    assert_eq!(written(&node, Key::Order(WEB.0)), Some(None));
    assert_eq!(written(&node, Key::Service(WEB)), Some(Some(Body::Service(Summary { draining: false, ..said }))));
    node.run(1_000, &[]);
    assert!((0.01..0.2).contains(&node.share(HERE)), "a slow start: {}", node.share(HERE));
    node.run(70_000, &[]);
    assert!(node.share(HERE) > 0.45, "{}", node.share(HERE));
    assert_eq!(node.join.handle_undrain(SERVICE, at(node.now)), Err(Refused::None));
}

/// `draining: true` in the file: the same summary, so the same table here, the same record, and the same verdict at other sites.
#[test]
fn a_service_that_drains_by_its_file_moves_as_by_an_order_and_returns_slowly() {
    let mut node = leading();
    let said = |draining| Summary { ready: 4, expected: 4, draining, capacity: 100, demand: 0 };
    node.join.handle_serving(WEB, Serving { draining: true, ..serving(4) }, at(node.now));
    node.take();
    assert_eq!((node.share(THERE), node.verdict(HERE)), (1.0, Some(Verdict::Draining)), "in the same step");
    assert_eq!(written(&node, Key::Service(WEB)), Some(Some(Body::Service(said(true)))));
    assert!(node.join.drains().is_empty(), "nobody has ordered it");
    // An order beside it that is taken back leaves it drained.
    assert_eq!(drain(&mut node, SERVICE, false), Ok(()));
    assert_eq!(node.join.handle_undrain(SERVICE, at(node.now)), Ok(()));
    node.run(1_000, &[]);
    assert_eq!(node.share(THERE), 1.0);
    node.join.handle_serving(WEB, serving(4), at(node.now));
    node.take();
    assert_eq!(written(&node, Key::Service(WEB)), Some(Some(Body::Service(said(false)))));
    node.run(1_000, &[]);
    assert!((0.01..0.2).contains(&node.share(HERE)), "a slow start: {}", node.share(HERE));
}

/// What the other end makes of it: the site that drains by its file is avoided as soon as its summary is there, and not before.
#[test]
fn a_site_that_drains_by_its_file_is_sent_to_until_its_word_is_there() {
    let mut node = Node::new(None, &["a"]);
    node.settled();
    node.run(1_000, &[("a", true)]);
    assert!((node.share(THERE) - 0.5).abs() < 0.01, "nothing has been heard: {}", node.share(THERE));
    let summary = Some(Summary { ready: 4, expected: 4, draining: true, capacity: 100, demand: 0 });
    node.fact(Source::Relay("a"), Fact::Summary { site: THERE, service: WEB, summary, age: Duration::ZERO });
    assert_eq!((node.share(THERE), node.verdict(THERE)), (0.0, Some(Verdict::Draining)));
}

#[test]
fn a_drain_is_refused_with_its_numbers_and_forced_all_the_same() {
    let mut node = leading();
    node.fact(Source::Own, fact(1));
    // Of 100 here and 400 there (100 with one of four ready), 100 would be left.
    let short = DrainError::Half { service: WEB, left: 100, all: 500, needed: 250, unit: Unit::Capacity };
    for target in [SERVICE, Target::Site, Target::Vip([10, 9, 7, 100].into())] {
        assert_eq!(drain(&mut node, target, false), Err(Refused::Short(short)), "{target:?}");
    }
    assert!(node.join.drains().is_empty() && turns(&node).is_empty());
    assert_eq!(drain(&mut node, Target::Service(ServiceId(8)), false), Err(Refused::Nothing));
    assert_eq!(drain(&mut node, Target::Vip([10, 9, 7, 101].into()), true), Err(Refused::Nothing));
    assert_eq!(drain(&mut node, Target::Site, true), Ok(()));
    assert_eq!(written(&node, Key::Order(u32::MAX)), Some(Some(Body::Order { service: None, seconds: 60 })));
    assert_eq!(node.share(THERE), 1.0);
    assert_eq!(drain(&mut node, SERVICE, false), Ok(()), "nothing more is taken by it");
    assert_eq!(node.join.handle_undrain(SERVICE, at(node.now)), Ok(()));
    node.take();
    assert_eq!(node.share(THERE), 1.0, "the other order is in force");
}

#[test]
fn endpoints_are_the_balancers_matter_and_their_numbers_count() {
    let mut node = leading();
    let target = Target::Node(2);
    let parts = BTreeMap::from([(WEB, 2)]);
    node.fact(Source::Own, fact(0));
    let all = BTreeMap::from([(WEB, 4)]);
    let refused = node.join.handle_drain(target, Duration::ZERO, &all, false, at(node.now));
    assert_eq!(refused, Err(Refused::Short(DrainError::Last { service: WEB })));
    assert_eq!(node.join.handle_drain(target, Duration::ZERO, &parts, true, at(node.now)), Ok(()));
    node.take();
    assert!(node.done.contains(&Action::Drain { target, on: true }), "{:?}", node.done);
    assert!(
        !node.done.iter().any(|a| matches!(a, Action::Write(Key::Order(_), _))),
        "other sites see less that is ready"
    );
    assert_eq!(node.join.handle_undrain(target, at(node.now)), Ok(()));
    node.take();
    assert!(node.done.contains(&Action::Drain { target, on: false }));
}

#[test]
fn a_node_obeys_the_relay_that_leads_and_forgets_what_it_does_not_repeat() {
    let mut node = Node::new(None, &["a", "b"]);
    node.settled();
    let refused = drain(&mut node, SERVICE, true);
    assert_eq!(refused, Err(Refused::Elsewhere { leader: Some("a".to_owned()) }));
    let word = |left| Fact::Order { target: SERVICE, left };
    let left = Some(Duration::from_secs(60));
    node.fact(Source::Relay("b"), word(left));
    assert!(node.join.drains().is_empty(), "b does not lead");
    node.fact(Source::Relay("a"), word(left));
    assert_eq!((node.share(THERE), node.join.drains().len()), (1.0, 1));
    // All relays die: it holds. One returns that knows of nothing: it is forgotten, and not before that had time to speak.
    node.run(30_000, &[]);
    assert_eq!((node.join.leader(), node.join.drains().len()), (None, 1));
    node.run(9_000, &[("b", true)]);
    assert_eq!(node.join.drains().len(), 1);
    node.run(2_000, &[("b", true)]);
    assert!(node.join.drains().is_empty() && turns(&node) == [Turn::Given, Turn::Ended]);
    assert!(node.done.iter().all(|a| !matches!(a, Action::Publish(_))), "a node has nobody to tell");
}

#[test]
fn an_order_outlives_the_relay_that_was_given_it_by_the_other_one() {
    let mut b = Node::new(Some("b"), &["a", "b"]);
    b.run(1_000, &[("a", true)]);
    b.fact(Source::Relay("a"), Fact::Order { target: SERVICE, left: Some(Duration::from_secs(60)) });
    // a is gone: b leads and writes it.
    b.run(5_000, &[]);
    assert!(b.join.leads() && b.join.drains().len() == 1);
    b.done.clear();
    b.run(2_000, &[]);
    let told = |a: &&Action| matches!(a, Action::Publish(Fact::Order { target: SERVICE, left: Some(_) }));
    assert_eq!(b.done.iter().filter(told).count(), 2);
    // a is back and knows nothing: b steps back at once and still says it; a takes it while nobody leads.
    let mut a = Node::new(Some("a"), &["a", "b"]);
    b.join.handle_beat("a", beat(false), at(b.now));
    b.take();
    b.done.clear();
    b.run(1_000, &[("a", false)]);
    let Some(Action::Publish(word)) = b.done.iter().find(told) else { panic!("{:?}", b.done) };
    a.fact(Source::Relay("b"), *word);
    a.run(15_000, &[("b", false)]);
    assert!(a.join.leads() && a.join.drains().len() == 1, "{:?}", a.join.drains());
}

#[test]
fn what_other_sites_drain_is_known_by_their_records() {
    let mut node = leading();
    let word = |order| Fact::Drained { site: THERE, number: 9, order, age: Duration::from_secs(10) };
    node.fact(Source::Own, word(Some((None, 60))));
    let shown = Drain { site: THERE, target: Target::Site, until: at(node.now + 50_000) };
    assert_eq!(node.join.drains(), [shown]);
    assert!(node.done.contains(&Action::Publish(word(Some((None, 60))))), "the nodes of the site hear of it");
    assert!((node.share(THERE) - 0.5).abs() < 0.01, "what follows is in its summaries");
    node.fact(Source::Own, word(None));
    assert!(node.join.drains().is_empty());
}
