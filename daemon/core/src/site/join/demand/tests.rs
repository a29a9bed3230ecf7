//! Two sites with nodes and relays, as drivers would run them: what clients bring to the one, and where it goes.

use core::time::Duration;

use super::super::io::{Action, Capacity, Config, Fact, Report, Source};
use super::super::tests::{HERE, THERE, WEB, at, beat, config, serving};
use super::*;
use crate::site::SiteId;
use crate::site::orders::Target;
use crate::site::path::io::Carriage;
use crate::site::policy::io::{DrainError, Mode};
use crate::site::policy::tests::status as path;
use crate::site::state::record::{Body, Key};
use std::collections::BTreeMap;

/// A node: its site, whether it is the relay, and how much clients bring to it.
struct Node {
    site: SiteId,
    join: Join,
    relay: bool,
    dead: bool,
    /// A second.
    load: u64,
    counted: u64,
    tables: usize,
}

/// Nodes r (relay) and n2 of the site HERE with this capacity, and the relay of THERE with 1000.
struct World {
    nodes: Vec<Node>,
    now: u64,
    /// Records of summaries that crossed the WAN.
    records: usize,
    refused: usize,
}

fn local_first(site: SiteId, relay: bool, capacity: Capacity) -> Config {
    let mut config = config(relay.then_some("r"), &["r"]);
    config.policy.here = site;
    config.policy.services.get_mut(&WEB).expect("it is there").mode = Mode::LocalFirst;
    config.services.get_mut(&WEB).expect("it is there").capacity = capacity;
    config
}

impl World {
    fn new(capacity: Capacity) -> Self {
        let node = |site, relay, capacity| {
            let join = Join::new(local_first(site, relay, capacity), at(0));
            Node { site, join, relay, dead: false, load: 0, counted: 1_000, tables: 0 }
        };
        let nodes =
            vec![node(HERE, true, capacity), node(HERE, false, capacity), node(THERE, true, Capacity::Service(1000))];
        let mut new = Self { nodes, now: 0, records: 0, refused: 0 };
        for n in 0..3 {
            let other = if n == 2 { HERE } else { THERE };
            let node = &mut new.nodes[n];
            node.join.handle_serving(WEB, serving(4), at(0));
            node.join.handle_path(other, path(Carriage::Up), at(0), at(0));
            if node.relay {
                node.join.handle_fact(Source::Own, Fact::Session { site: other, up: true }, at(0));
            }
        }
        new.run(20_000);
        new
    }

    fn relay_of(&self, site: SiteId) -> Option<usize> {
        self.nodes.iter().position(|node| node.site == site && node.relay && !node.dead)
    }

    /// Carries out what a node owes.
    fn carry(&mut self, n: usize) {
        let (now, site) = (at(self.now), self.nodes[n].site);
        let (home, away) = (self.relay_of(site), self.relay_of(if site == HERE { THERE } else { HERE }));
        while let Some(action) = self.nodes[n].join.poll_action() {
            match action {
                Action::Table { service, generation: Some(generation), .. } => {
                    self.nodes[n].tables += 1;
                    self.nodes[n].join.handle_applied(service, generation, now);
                }
                Action::Say(counts) => {
                    let name = format!("n{n}");
                    if let Some(relay) = home {
                        self.refused += self.nodes[relay].join.handle_said(&name, &counts, now);
                    }
                }
                Action::Publish(fact) => {
                    for other in self.nodes.iter_mut().filter(|node| node.site == site && !node.relay) {
                        other.join.handle_fact(Source::Relay("r"), fact, now);
                    }
                }
                Action::Credit { service, amount, lend, .. } => {
                    let fact =
                        if lend { Fact::Loan { site, service, amount } } else { Fact::Ask { site, service, amount } };
                    self.far(away, fact);
                }
                Action::Write(Key::Service(service), Some(Body::Service(summary))) if Some(n) == home => {
                    self.records += 1;
                    let age = Duration::ZERO;
                    self.far(away, Fact::Summary { site, service, summary: Some(summary), age });
                }
                _ => {}
            }
        }
    }

    fn far(&mut self, away: Option<usize>, fact: Fact) {
        if let Some(away) = away {
            self.nodes[away].join.handle_fact(Source::Own, fact, at(self.now));
            self.carry(away);
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now += 100;
            let led = self.relay_of(HERE).is_some();
            for node in self.nodes.iter_mut().filter(|node| !node.relay && led) {
                node.join.handle_beat("r", beat(true), at(self.now));
            }
            for n in 0..self.nodes.len() {
                let (now, site) = (at(self.now), self.nodes[n].site);
                if self.nodes[n].dead {
                    continue;
                }
                if self.nodes[n].relay && self.now.is_multiple_of(10_000) {
                    let of = if site == HERE { THERE } else { HERE };
                    let fact = Fact::Confirmed { site: of, age: Duration::ZERO };
                    self.nodes[n].join.handle_fact(Source::Own, fact, now);
                }
                let node = &mut self.nodes[n];
                node.counted += node.load / 10;
                if self.now.is_multiple_of(500) {
                    node.join.handle_counts(&[(WEB, node.counted)], now);
                }
                node.join.handle_expire(now);
                self.carry(n);
            }
        }
    }

    /// Share of THERE at the nodes of HERE.
    fn away(&self) -> [f64; 2] {
        let share = |n: usize| {
            let opinions = self.nodes[n].join.opinions(WEB, at(self.now));
            opinions.iter().find(|o| o.site == THERE).map_or(0.0, |o| o.share)
        };
        [share(0), share(1)]
    }

    fn brought(&self, n: usize) -> Brought {
        self.nodes[n].join.brought(WEB, at(self.now))
    }
}

#[test]
fn what_exceeds_a_site_goes_where_room_is_lent_within_four_seconds_and_returns() {
    let mut world = World::new(Capacity::Service(50));
    assert_eq!(world.away(), [0.0; 2], "nothing is brought");
    (world.nodes[0].load, world.nodes[1].load) = (40, 60);
    world.run(4_000);
    let away = world.away();
    assert!(away.iter().all(|share| (share - 0.525).abs() < 0.05), "100 come, 47.5 fit: {away:?}");
    world.run(20_000);
    let (away, before) = (world.away(), (world.records, world.nodes[0].tables));
    assert!(away.iter().all(|share| (share - 0.525).abs() < 0.01), "{away:?}");
    assert_eq!(away[0], away[1], "every node of the site has the same table");
    world.run(60_000);
    assert_eq!((world.records, world.nodes[0].tables), before, "a steady demand costs nothing");
    let (first, second, there) = (world.brought(0), world.brought(1), world.brought(2));
    assert!((first.node - 40.0).abs() < 1.0 && (second.node - 60.0).abs() < 1.0, "{first:?} {second:?}");
    assert!((first.site - 100.0).abs() < 2.0 && first.site == second.site, "{first:?} {second:?}");
    assert!((first.borrowed - 53.0).abs() < 2.0 && first.borrowed == there.lent, "{first:?} {there:?}");
    assert_eq!(
        world.nodes[2].join.summary(HERE, WEB).map(|s| s.demand),
        world.nodes[0].join.summary(HERE, WEB).map(|s| s.demand)
    );

    (world.nodes[0].load, world.nodes[1].load) = (0, 0);
    world.run(10_000);
    assert_eq!(world.away(), [0.0; 2], "it is over");
    let after = world.brought(0);
    assert_eq!((after.node, after.site, after.borrowed), (0.0, 0.0, 0.0));
    assert_eq!(world.refused, 0);
}

#[test]
fn without_a_capacity_nothing_spills_and_the_demand_is_seen_all_the_same() {
    let mut world = World::new(Capacity::Unknown);
    (world.nodes[0].load, world.nodes[1].load) = (400, 600);
    world.run(20_000);
    assert_eq!(world.away(), [0.0; 2]);
    assert!((world.brought(0).site - 1000.0).abs() < 10.0);
}

#[test]
fn a_node_that_is_silent_counts_no_more_after_three_seconds() {
    let mut world = World::new(Capacity::Service(50));
    (world.nodes[0].load, world.nodes[1].load) = (40, 60);
    world.run(20_000);
    world.nodes[1].dead = true;
    world.run(2_000);
    assert!(world.brought(0).site > 90.0);
    world.run(2_500);
    assert!((world.brought(0).site - 40.0).abs() < 2.0, "{:?}", world.brought(0));
    world.run(10_000);
    assert_eq!(world.away()[0], 0.0, "40 fit");
}

#[test]
fn without_a_relay_loans_end_after_three_seconds_and_the_sum_after_ten() {
    let mut world = World::new(Capacity::Service(50));
    (world.nodes[0].load, world.nodes[1].load) = (40, 60);
    world.run(20_000);
    assert!(world.away()[1] > 0.5);
    world.nodes[0].dead = true;
    world.run(2_000);
    assert!(world.away()[1] > 0.5, "a loan stands for 3 s");
    world.run(3_000);
    assert_eq!((world.away()[1], world.brought(1).borrowed), (0.0, 0.0), "the excess stays at home");
    assert!(world.brought(1).site > 90.0, "over a change of relays");
    world.run(6_500);
    assert_eq!(world.brought(1).site, 0.0, "what was brought ten seconds ago says nothing of now");
    assert!((world.brought(1).node - 60.0).abs() < 1.0);
}

#[test]
fn a_relay_that_begins_to_lead_lowers_no_sum_before_everybody_has_spoken() {
    let mut join = Join::new(
        Config {
            relays: vec!["a".to_owned(), "b".to_owned()],
            relay: Some("b".to_owned()),
            ..local_first(HERE, true, Capacity::Service(50))
        },
        at(0),
    );
    join.handle_serving(WEB, serving(4), at(0));
    for second in 0..10 {
        join.handle_beat("a", beat(true), at(second * 1000));
        join.handle_fact(Source::Relay("a"), Fact::Demand { service: WEB, rate: Rate(100_000) }, at(second * 1000));
    }
    join.handle_fact(Source::Relay("b"), Fact::Demand { service: WEB, rate: Rate(1) }, at(9_000));
    assert_eq!(join.summary(HERE, WEB).map(|s| s.demand), Some(100), "b does not lead");
    let expire = |join: &mut Join, from: u64, until: u64| {
        for ms in (from..until).step_by(100) {
            join.handle_expire(at(ms));
        }
    };
    expire(&mut join, 9_000, 14_500);
    assert!(join.leads());
    assert_eq!(join.summary(HERE, WEB).map(|s| s.demand), Some(100), "nodes may be about to speak");
    expire(&mut join, 14_500, 16_000);
    assert_eq!(join.summary(HERE, WEB).map(|s| s.demand), Some(0), "nobody has");
    let told = |a: &Action| matches!(a, Action::Publish(Fact::Demand { rate: Rate(0), .. }));
    assert!(std::iter::from_fn(|| join.poll_action()).any(|action| told(&action)));
}

#[test]
fn counts_of_services_that_the_site_does_not_spread_are_not_taken() {
    let mut world = World::new(Capacity::Service(50));
    let strange = [Count { service: ServiceId(99), rate: Rate(5_000) }, Count { service: WEB, rate: Rate(5_000) }];
    assert_eq!(world.nodes[0].join.handle_said("n2", &strange, at(world.now)), 1);
    world.run(1_000);
    assert_eq!(world.brought(0).site, 5.0);
}

#[test]
fn a_drain_is_refused_by_the_demand_where_it_is_known() {
    let mut world = World::new(Capacity::Service(2000));
    let drain = |world: &mut World| {
        let now = at(world.now);
        world.nodes[0].join.handle_drain(Target::Service(WEB), Duration::from_secs(60), &BTreeMap::new(), false, now)
    };
    (world.nodes[0].load, world.nodes[1].load) = (400, 600);
    world.run(20_000);
    let short = DrainError::Capacity { service: WEB, left: 1000, demand: 1000, needed: 1100 };
    assert_eq!(drain(&mut world), Err(super::super::drain::Refused::Short(short)), "1000 there for 1000");
    (world.nodes[0].load, world.nodes[1].load) = (400, 400);
    world.run(20_000);
    assert_eq!(drain(&mut world), Ok(()), "1000 there for 800, though two thirds of the capacity are taken");
    let turned = |a: &Action| matches!(a, Action::Report(Report::Order { .. }));
    assert!(std::iter::from_fn(|| world.nodes[0].join.poll_action()).any(|action| turned(&action)));
}
