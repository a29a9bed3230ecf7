//! Nodes whose daemons fall silent: who is asked, what their answers are worth, and what is not believed.

use core::time::Duration;
use std::collections::BTreeSet;

use super::super::absent::NodeState;
use super::super::io::{Action, DrainTarget, Report};
use super::super::{Health, SETTLE};
use super::world::{World, checked, config, key, service};
use crate::service::EndpointId;

const FAST: Duration = Duration::from_millis(2);

/// Nodes n1 to n4 with `each` endpoints, all of which pass their checks fast: e1, e2, ... on n1, and so on.
fn site(each: u8) -> World {
    let endpoints = (0..4 * each).map(|i| checked(i + 1, Some(u16::from(i / each) + 1))).collect();
    let mut world = World::with(config(4, vec![service(endpoints)]));
    (1..=4 * each).for_each(|i| world.passes(key(), &format!("e{i}"), FAST));
    world.run_s(1);
    let _start = world.taken();
    world
}

fn state(world: &World, node: &str) -> NodeState {
    world.balancer.node_state(node).0
}

fn asked(world: &World) -> BTreeSet<String> {
    world.asked.iter().map(|(_, EndpointId { endpoint, .. })| endpoint.clone()).collect()
}

fn told(world: &mut World) -> Vec<NodeState> {
    let told = |report| match report {
        Report::Node { state, .. } => Some(state),
        _ => None,
    };
    std::mem::take(&mut world.reports).into_iter().filter_map(told).collect()
}

fn swaps(world: &mut World) -> usize {
    world.taken().iter().filter(|action| matches!(action, Action::SwapNodes { .. })).count()
}

#[test]
fn a_node_is_dead_as_soon_as_no_witness_answers_and_not_before() {
    let mut world = site(2);
    world.node("n2", false);
    assert_eq!(asked(&world), BTreeSet::from(["e3".to_owned(), "e4".to_owned()]));
    assert_eq!(world.asked.len(), 4, "a lost packet is no lost node");
    let questions = std::mem::take(&mut world.asked);
    for (inquiry, _) in &questions[..3] {
        world.balancer.handle_witness(*inquiry, false, world.now);
        world.drive();
    }
    world.run(Duration::from_millis(150));
    assert!(!world.nodes[&2].dead && swaps(&mut world) == 0, "nothing changes on half a verdict");
    world.balancer.handle_witness(questions[3].0, false, world.now);
    world.drive();
    assert!(world.nodes[&2].dead, "told at once");
    assert_eq!(told(&mut world), [NodeState::Dead]);
    world.run(Duration::from_millis(20));
    assert_eq!(swaps(&mut world), 1, "one change of the table");
    assert!(world.node_rows(&key()).iter().all(|row| row.home != 2));
}

#[test]
fn one_answer_vouches_and_the_node_takes_no_new_flows() {
    let mut world = site(2);
    world.node("n2", false);
    let questions = std::mem::take(&mut world.asked);
    for (n, (inquiry, _)) in questions.iter().enumerate() {
        world.balancer.handle_witness(*inquiry, n == 1, world.now);
        world.drive();
    }
    world.run(Duration::from_millis(20));
    assert!(!world.nodes[&2].dead && state(&world, "n2") == NodeState::Vouched);
    assert!(world.asked.is_empty(), "late answers ask nobody again");
    assert!(world.node_rows(&key()).iter().all(|row| row.home != 2));
    world.node("n2", true);
    world.run_s(1);
    assert_eq!(told(&mut world), [NodeState::Vouched, NodeState::Up]);
    assert!(world.homes(&key()).contains_key(&2));
    let counts = world.balancer.status().counts;
    assert_eq!((counts.witnesses_answered, counts.witnesses_silent), (1, 3));
}

#[test]
fn a_dead_home_makes_room_in_its_rows_and_no_living_one_is_forgotten() {
    let mut world = site(1);
    for node in ["n1", "n2"] {
        world.balancer.handle_drain(DrainTarget::Node(node.into()), true, world.now);
        world.run_s(1);
    }
    let full = |world: &World| world.node_rows(&key()).iter().filter(|row| row.holders().eq([3, 2, 1])).count();
    assert!(full(&world) > 0, "rows without room for one more");
    world.node("n3", false);
    world.run(Duration::from_millis(100));
    assert!(full(&world) > 0, "not before it is known what n3 is worth");
    world.witnesses(false);
    world.run_s(1);
    assert_eq!(full(&world), 0);
    assert_eq!(world.balancer.status().counts.rows_forgotten, 0);
}

#[test]
fn silent_witnesses_are_asked_once_more_and_an_answer_takes_the_verdict_back() {
    let mut world = site(1);
    world.node("n2", false);
    world.witnesses(false);
    assert!(world.nodes[&2].dead && world.asked.len() == 4);
    world.witnesses(true);
    world.run(2 * SETTLE);
    assert!(!world.nodes[&2].dead);
    assert_eq!(told(&mut world), [NodeState::Dead, NodeState::Vouched]);
}

#[test]
fn answers_to_a_question_that_is_over_count_for_nothing() {
    let mut world = site(1);
    world.node("n2", false);
    let old = std::mem::take(&mut world.asked);
    world.node("n2", true);
    world.node("n2", false);
    for (inquiry, _) in &old {
        world.balancer.handle_witness(*inquiry, false, world.now);
        world.drive();
    }
    assert!(!world.nodes[&2].dead);
    world.witnesses(false);
    assert!(world.nodes[&2].dead);
}

#[test]
fn an_endpoint_that_answers_its_checks_slowly_is_no_witness() {
    let mut world = World::with(config(3, vec![service(vec![checked(1, Some(1)), checked(2, Some(2))])]));
    world.passes(key(), "e1", FAST);
    world.passes(key(), "e2", Duration::from_millis(400));
    world.node("n2", false);
    assert!(world.asked.is_empty());
    assert_eq!(state(&world, "n2"), NodeState::Vouched, "its silence within 200 ms would say nothing");
    world.health(key(), "e2", Health::Unready);
    assert!(world.nodes[&2].dead, "its checks decide");
}

#[test]
fn one_slow_answer_makes_no_endpoint_slow() {
    let mut world = site(1);
    world.passes(key(), "e2", Duration::from_secs(1));
    world.node("n2", false);
    assert_eq!(asked(&world), BTreeSet::from(["e2".to_owned()]));
    world.node("n2", true);
    world.asked.clear();
    (0..8).for_each(|_| world.passes(key(), "e2", Duration::from_millis(300)));
    world.node("n2", false);
    assert!(world.asked.is_empty(), "it has become slow");
}

#[test]
fn witnesses_of_many_addresses_are_asked_before_others_of_one() {
    // Six services of one pod, which is the fastest, and three pods more.
    let mut services = Vec::new();
    for n in 0..6u16 {
        let mut one = service((2..=5).map(|pod| checked(pod, Some(2))).collect());
        (one.name, one.port) = (format!("s{n}"), 80 + n);
        services.push(one);
    }
    let mut world = World::with(config(3, services.clone()));
    for service in &services {
        (2..=5).for_each(|pod| world.passes(service.key(), &format!("e{pod}"), FAST * u32::from(pod == 2) + FAST));
    }
    world.node("n2", false);
    assert_eq!(asked(&world).len(), 4);
}

#[test]
fn endpoints_that_pass_again_on_a_dead_node_may_be_up_before_its_programs() {
    let mut world = site(1);
    world.node("n2", false);
    world.witnesses(false);
    world.witnesses(false);
    world.health(key(), "e2", Health::Unready);
    world.run_s(10);
    world.passes(key(), "e2", FAST);
    assert!(world.nodes[&2].dead, "it boots");
    world.run_s(20);
    assert!(world.nodes[&2].dead && world.asked.is_empty());
    world.node("n2", true);
    world.run(2 * SETTLE);
    assert!(!world.nodes[&2].dead, "now its programs stand");
}

#[test]
fn a_dead_node_whose_endpoints_answer_again_without_its_daemon_comes_back() {
    let mut world = site(1);
    world.node("n2", false);
    world.health(key(), "e2", Health::Unready);
    world.run_s(1);
    world.passes(key(), "e2", FAST);
    world.asked.clear();
    assert_eq!(state(&world, "n2"), NodeState::Dead);
    world.run_s(30);
    assert_eq!(asked(&world), BTreeSet::from(["e2".to_owned()]));
    assert!(world.nodes[&2].dead, "not by a check that may be old");
    world.witnesses(false);
    world.run_s(30);
    world.witnesses(true);
    world.run(2 * SETTLE);
    assert!(!world.nodes[&2].dead);
}

#[test]
fn a_silent_node_and_an_endpoint_that_passes_again_at_the_same_time_mean_the_same_in_either_order() {
    let states = [true, false].map(|silent_first| {
        let mut world = site(1);
        world.health(key(), "e2", Health::Unready);
        world.run_s(1);
        if silent_first {
            world.node("n2", false);
        }
        world.passes(key(), "e2", FAST);
        if !silent_first {
            world.node("n2", false);
        }
        let asked = asked(&world);
        world.witnesses(true);
        (asked, state(&world, "n2"))
    });
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0].1, NodeState::Vouched);
}

#[test]
fn checks_that_have_not_spoken_are_no_verdict() {
    let mut world = World::with(config(3, vec![service(vec![checked(1, Some(1)), checked(2, Some(2))])]));
    world.node("n2", false);
    assert!(world.nodes[&2].dead, "nothing speaks for it");
    world.passes(key(), "e2", FAST);
    world.run(2 * SETTLE);
    assert!(!world.nodes[&2].dead, "and nothing has spoken against it");
}
