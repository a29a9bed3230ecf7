//! Checks: first words, falls, everything unready, and endpoints that change their minds.

use std::sync::Arc;

use super::super::Health::{Draining, Ready, Unready};
use super::super::SETTLE;
use super::super::io::{Action, Report};
use super::world::{World, checked, config, endpoint, key, service};
use crate::service::{ServiceSpec, WhenAllFail};

fn three() -> ServiceSpec {
    service(vec![checked(1, Some(1)), checked(2, Some(2)), checked(3, Some(3))])
}

fn ready(world: &mut World, endpoints: &[&str]) {
    endpoints.iter().for_each(|e| world.health(key(), e, Ready));
}

#[test]
fn the_first_table_waits_for_all_checks_but_not_for_ever() {
    let mut world = World::with(config(3, vec![three()]));
    ready(&mut world, &["e1", "e2"]);
    world.run(SETTLE);
    assert!(world.keys.is_empty(), "e3 has not spoken");
    world.health(key(), "e3", Unready);
    world.run(SETTLE);
    assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [1, 2]);

    let mut world = World::with(config(3, vec![three()]));
    ready(&mut world, &["e1", "e2"]);
    world.run_s(1);
    assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [1, 2], "e3 had 0.8 s to speak");
}

#[test]
fn a_fall_is_urgent_and_a_new_endpoint_is_not() {
    let mut world = World::with(config(3, vec![three()]));
    ready(&mut world, &["e1", "e2", "e3"]);
    world.run(SETTLE);
    let mut four = three();
    Arc::make_mut(&mut four.endpoints).push(checked(4, Some(3)));
    world.config(config(3, vec![four]));
    world.run(SETTLE);
    world.health(key(), "e2", Unready);
    world.run(SETTLE);
    assert!(!world.homes(&key()).contains_key(&2), "while e4 has not spoken");
    world.health(key(), "e4", Ready);
    world.run(SETTLE);
    let homes = world.homes(&key());
    assert!(homes[&3].abs_diff(2 * homes[&1]) <= 4, "n3 has two: {homes:?}");
}

#[test]
fn when_all_fail_the_last_stay() {
    let mut world = World::with(config(3, vec![three()]));
    ready(&mut world, &["e1", "e2", "e3"]);
    world.run_s(1);
    world.health(key(), "e3", Unready);
    world.run_s(1);
    world.taken();
    world.health(key(), "e1", Unready);
    world.health(key(), "e2", Unready);
    world.run_s(1);
    assert_eq!(world.reports, [Report::AllUnready { service: key(), kept: true }]);
    assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(world.endpoints.values().all(|e| e.ready), "the own endpoint still takes connections");
    assert!(world.answering.values().all(|a| *a));
    let actions = world.taken();
    assert!(
        actions.iter().all(|a| matches!(a, Action::Report(_) | Action::FreeRows { .. })),
        "nothing is written: {actions:?}"
    );
    // A node that dies does not count among the last.
    world.node("n2", false);
    world.run_s(1);
    assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [1]);
    world.health(key(), "e3", Ready);
    world.run_s(1);
    assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [3]);
    assert_eq!(world.reports.last(), Some(&Report::Recovered { service: key() }));
    assert!(world.endpoints.values().all(|e| !e.ready), "e1 fails");
}

#[test]
fn refuse_means_refuse() {
    let mut refusing = three();
    refusing.when_all_fail = WhenAllFail::Refuse;
    let mut world = World::with(config(3, vec![refusing]));
    ready(&mut world, &["e1", "e2", "e3"]);
    world.run_s(1);
    for e in ["e1", "e2", "e3"] {
        world.health(key(), e, Unready);
    }
    world.run_s(1);
    assert_eq!(world.reports, [Report::AllUnready { service: key(), kept: false }]);
    assert!(world.endpoints.values().all(|e| !e.ready));
    assert!(world.answering.values().all(|a| !*a));
    assert_eq!(world.homes(&key()).len(), 3, "flows that are there keep their homes");
}

#[test]
fn flapping_is_damped_and_told_but_better_than_nothing() {
    let mut world = World::with(config(3, vec![three()]));
    ready(&mut world, &["e1", "e2", "e3"]);
    world.run_s(1);
    for _ in 0..3 {
        world.health(key(), "e2", Unready);
        world.run_s(1);
        world.health(key(), "e2", Ready);
        world.run_s(1);
    }
    assert_eq!(world.reports, [Report::Flapping { service: key(), endpoint: "e2".into() }]);
    assert!(!world.homes(&key()).contains_key(&2), "held for 5 s");
    for e in ["e1", "e3"] {
        world.health(key(), e, Unready);
    }
    world.run(SETTLE);
    assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [2], "there is nobody else");
    ready(&mut world, &["e1", "e3"]);
    world.run(SETTLE);
    assert!(!world.homes(&key()).contains_key(&2));
    world.run_s(5);
    assert!(world.homes(&key()).contains_key(&2), "its wait is over");
}

#[test]
fn a_draining_endpoint_keeps_its_flows_on_both_levels() {
    let two_here = service(vec![checked(1, Some(1)), checked(2, Some(1)), checked(3, Some(2))]);
    let mut world = World::with(config(2, vec![two_here]));
    ready(&mut world, &["e1", "e2", "e3"]);
    world.run_s(1);
    let (e1, e2) = (world.endpoint("e1"), world.endpoint("e2"));
    let before = world.endpoint_rows(&key()).to_vec();
    world.health(key(), "e2", Draining);
    world.run_s(1);
    let after = world.endpoint_rows(&key());
    assert!(after.iter().all(|r| r.home == e1));
    assert!(before.iter().zip(after).all(|(b, a)| (b.home == e2) == (a.previous == e2)));
    let entry = &world.endpoints[&e2];
    assert!(entry.draining && !entry.ready);
}

#[test]
fn strangers_are_not_heard() {
    let mut world = World::with(config(1, vec![service(vec![endpoint(1, Some(1))])]));
    world.taken();
    world.health(key(), "e9", Unready);
    let other = crate::service::ServiceKey { port: 9, ..key() };
    world.health(other, "e1", Unready);
    world.node("n9", false);
    assert_eq!(world.balancer.poll_timeout(), None);
    assert!(world.taken().is_empty());
}
