//! Nodes that come to a running cluster, and nodes of which nothing is heard.

use core::time::Duration;

use super::super::io::Config;
use super::super::rows::Row;
use super::super::{Health, SETTLE};
use super::world::{World, checked, config, key, one_each, service};

fn seen_by(node: &str, config: Config) -> Config {
    Config { node: Some(node.into()), ..config }
}

/// `one_each(3)` where nothing was ever heard of n3, long after its start.
fn without_the_third() -> World {
    let mut world = World::new(super::super::Limits { rows: 1 << 16, services: 64, endpoints: 256 });
    world.node("n3", false);
    world.config(one_each(3));
    world.run_s(13 * 60);
    world
}

#[test]
fn a_node_that_boots_finds_the_flows_that_others_took_meanwhile() {
    let mut elder = without_the_third();
    let before = elder.node_rows(&key()).to_vec();
    assert!(before.iter().all(|row| row.home != 3));
    elder.node("n3", true);
    elder.run_s(1);
    let fresh = World::with(seen_by("n3", one_each(3)));
    let (old, new) = (elder.node_rows(&key()), fresh.node_rows(&key()));
    let moved = before.iter().zip(old).filter(|(was, is)| was.home != is.home).count();
    assert!(moved > 15, "{moved} of {} rows moved", old.len());
    for ((was, elder), fresh) in before.iter().zip(old).zip(new) {
        assert_eq!(elder.home, fresh.home, "one home");
        assert!(fresh.holders().any(|id| id == was.home), "whoever served before is asked: {was:?} {fresh:?}");
        assert_eq!((elder.previous, elder.older), (fresh.previous, fresh.older), "both remember the same");
    }
}

#[test]
fn endpoints_whose_checks_are_late_served_the_others_all_the_same() {
    let mut elder = without_the_third();
    let before = elder.node_rows(&key()).to_vec();
    elder.node("n3", true);
    elder.run_s(1);
    let endpoints = (1..=3).map(|i| checked(i, Some(u16::from(i)))).collect();
    let mut fresh = World::with(seen_by("n3", config(3, vec![service(endpoints)])));
    // Its own endpoint answers first; tables are made before the others do.
    fresh.health(key(), "e3", Health::Ready);
    fresh.run_s(2);
    assert_eq!(fresh.homes(&key()).len(), 1);
    ["e1", "e2"].iter().for_each(|e| fresh.health(key(), e, Health::Ready));
    fresh.run_s(1);
    for ((was, elder), fresh) in before.iter().zip(elder.node_rows(&key())).zip(fresh.node_rows(&key())) {
        assert_eq!(elder.home, fresh.home, "one home");
        assert!(fresh.holders().any(|id| id == was.home), "whoever served before is asked: {was:?} {fresh:?}");
    }
}

#[test]
fn what_was_supposed_is_forgotten_after_the_drain_time() {
    let mut fresh = World::with(seen_by("n3", one_each(3)));
    assert!(fresh.node_rows(&key()).iter().any(|row| row.previous != 0));
    fresh.run_s(13 * 60);
    assert!(fresh.node_rows(&key()).iter().all(|row| row.previous == 0));
}

#[test]
fn a_service_that_is_new_has_no_history() {
    let mut world = World::with(config(3, Vec::new()));
    world.config(one_each(3));
    world.run_s(1);
    assert!(world.node_rows(&key()).iter().all(|row| row.home != 0 && row.previous == 0));
}

#[test]
fn a_node_alone_supposes_nothing() {
    let world = World::with(one_each(1));
    assert!(world.node_rows(&key()).iter().all(|row| *row == Row { home: 1, previous: 0, older: 0, stamp: row.stamp }));
}

/// Three nodes with a checked endpoint each, all of them ready.
fn all_checked() -> World {
    let endpoints = (1..=3).map(|i| checked(i, Some(u16::from(i)))).collect();
    let mut world = World::with(config(3, vec![service(endpoints)]));
    (1..=3).for_each(|i| world.health(key(), &format!("e{i}"), Health::Ready));
    world.run_s(1);
    world
}

#[test]
fn a_node_whose_daemon_is_gone_takes_no_new_flows_and_keeps_its_own() {
    let mut world = all_checked();
    let before = world.node_rows(&key()).to_vec();
    world.node("n2", false);
    world.run(Duration::from_millis(20));
    assert!(!world.nodes[&2].dead, "its endpoint passes its check: its programs forward");
    for (was, is) in before.iter().zip(world.node_rows(&key())) {
        assert!(is.home != 2, "{is:?}");
        assert!(is.holders().any(|id| id == was.home), "{was:?} {is:?}");
    }
    // Its daemon is back: nothing was lost in between.
    world.node("n2", true);
    world.run_s(1);
    assert!(!world.nodes[&2].dead && world.homes(&key()).contains_key(&2));
}

#[test]
fn a_node_is_dead_once_its_endpoints_fail_too() {
    let mut world = all_checked();
    world.node("n2", false);
    world.run_s(1);
    world.health(key(), "e2", Health::Unready);
    assert!(world.nodes[&2].dead, "told at once");
    world.node("n2", true);
    world.run(2 * SETTLE);
    assert!(!world.nodes[&2].dead);
    // The other order: checks first.
    world.health(key(), "e3", Health::Unready);
    assert!(!world.nodes[&3].dead, "its daemon is heard");
    world.node("n3", false);
    assert!(world.nodes[&3].dead);
}

#[test]
fn an_endpoint_without_a_check_vouches_for_nobody() {
    let mut world = World::with(one_each(3));
    world.node("n2", false);
    assert!(world.nodes[&2].dead);
}

#[test]
fn an_endpoint_that_leaves_the_file_vouches_no_more() {
    let mut world = all_checked();
    world.node("n2", false);
    world.run_s(1);
    assert!(!world.nodes[&2].dead);
    world.config(config(3, vec![service(vec![checked(1, Some(1)), checked(3, Some(3))])]));
    assert!(world.nodes[&2].dead);
}
