//! A daemon over the maps of a former one.

use super::super::io::{Action, ServiceSlot};
use super::super::{Health, Limits};
use super::world::{World, checked, config, endpoint, key, one_each, service};
use crate::service::{ServiceKey, ServiceSpec};

const LIMITS: Limits = Limits { rows: 1 << 16, services: 64, endpoints: 256 };

fn writes(actions: &[Action]) -> usize {
    actions
        .iter()
        .filter(|a| matches!(a, Action::WriteRows { .. } | Action::SwapNodes { .. } | Action::SwapEndpoints { .. }))
        .count()
}

#[test]
fn the_same_configuration_writes_no_table_and_puts_all_the_rest_anew() {
    let mut world = World::with(one_each(4));
    world.node("n4", false);
    world.run_s(30);
    let before = world.pinned();
    let mut world = world.restart(LIMITS);
    world.node("n4", false);
    world.config(one_each(4));
    world.run_s(1);
    let actions = world.taken();
    assert_eq!(writes(&actions), 0, "{actions:?}");
    let again = |f: fn(&Action) -> bool| actions.iter().filter(|a| f(a)).count();
    assert_eq!(again(|a| matches!(a, Action::PutNode(_))), 4);
    assert_eq!(again(|a| matches!(a, Action::PutService { .. })), 1);
    assert_eq!(again(|a| matches!(a, Action::PutKey { .. })), 1);
    assert_eq!(again(|a| matches!(a, Action::PutAddress { .. })), 1);
    assert_eq!(again(|a| matches!(a, Action::SetAnswering { .. })), 1);
    assert_eq!(again(|a| matches!(a, Action::PutEndpoint { .. })), 1);
    assert_eq!(again(|a| matches!(a, Action::PutReverse { .. })), 1);
    assert!(matches!(actions.last(), Some(Action::Sweep)));
    assert_eq!(world.pinned(), before, "slots and tables are where they were");
    world.run_s(1000);
    assert!(world.node_rows(&key()).iter().all(|r| r.previous == 0), "their drain time went on");
}

#[test]
fn history_is_kept_and_goes_on() {
    let mut world = World::with(one_each(4));
    world.node("n4", false);
    world.run_s(30);
    let rows = world.node_rows(&key()).to_vec();
    let mut world = world.restart(LIMITS);
    // Nobody has told the new one that n4 is down: its rows come back, and who held them meanwhile is asked.
    world.config(one_each(4));
    world.run_s(1);
    for (b, a) in rows.iter().zip(world.node_rows(&key())) {
        assert!(b.holders().all(|h| a.holders().any(|x| x == h)), "{b:?} {a:?}");
    }
    assert_eq!(world.homes(&key()).len(), 4);
}

#[test]
fn a_changed_configuration_is_one_change() {
    let world = World::with(one_each(4));
    let before = world.node_rows(&key()).to_vec();
    let mut world = world.restart(LIMITS);
    world.config(one_each(3));
    world.run_s(1);
    assert_eq!(world.homes(&key()).len(), 3);
    let needless = before.iter().zip(world.node_rows(&key())).filter(|(b, a)| b.home != 4 && a.home != b.home).count();
    assert!(needless < 20, "{needless}");
}

#[test]
fn what_is_no_longer_wanted_goes_after_the_grace() {
    let other = ServiceSpec { vip: [10, 9, 0, 101].into(), ..service(vec![endpoint(2, Some(1))]) };
    let both = config(1, vec![service(vec![endpoint(1, Some(1))]), other]);
    let mut world = World::with(both).restart(LIMITS);
    world.config(one_each(1));
    assert_eq!(world.keys.keys().copied().collect::<Vec<_>>(), [key()]);
    world.run_s(2);
    assert_eq!((world.services.len(), world.endpoints.len(), world.addresses.len()), (1, 1, 1));
    assert_eq!(world.balancer.status().slab_used, 2 * 61);
}

#[test]
fn endpoints_nobody_knows_keep_their_flows_for_the_drain_time() {
    let world = World::with(config(1, vec![service(vec![endpoint(1, Some(1)), endpoint(2, Some(1))])]));
    let gone = world.endpoint("e2");
    let mut world = world.restart(LIMITS);
    world.config(one_each(1));
    world.run_s(1);
    assert!(world.endpoints[&gone].draining);
    assert!(world.endpoint_rows(&key()).iter().any(|r| r.previous == gone));
    world.run_s(13 * 60);
    assert_eq!(world.endpoints.len(), 1);
}

#[test]
fn until_checks_speak_the_old_tables_stand() {
    let three = || config(3, vec![service(vec![checked(1, Some(1)), checked(2, Some(2)), checked(3, Some(3))])]);
    let mut world = World::with(three());
    for e in ["e1", "e2", "e3"] {
        world.health(key(), e, Health::Ready);
    }
    world.run_s(1);
    let before = world.pinned();
    let mut world = world.restart(LIMITS);
    world.config(three());
    // Nobody speaks for 10 s: all checks have failed, and the last that served go on.
    world.run_s(10);
    assert_eq!(writes(&world.taken()), 0);
    assert_eq!(world.pinned().services, before.services);
    assert!(world.endpoints.values().all(|e| e.ready));
}

#[test]
fn maps_that_make_no_sense_are_not_believed() {
    let world = World::with(one_each(2));
    let good = world.pinned();
    let spoil: [fn(&mut super::super::Recovered); 5] = [
        |r| r.services[0].nodes.base = 65_500,
        |r| r.services[0].endpoints.base = r.services[0].nodes.base + 1,
        |r| r.services[0].slot = ServiceSlot(0),
        |r| r.services[0].node_rows.truncate(5),
        |r| r.endpoints[0].slot.0 = 999,
    ];
    for (i, spoil) in spoil.into_iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        let mut world = World::new(LIMITS);
        world.balancer.handle_recovered(bad);
        // The maps as the actions leave them are checked by the world; what it never saw put, it must not see removed.
        world.config(one_each(2));
        world.run_s(2);
        let slot = world.slot(&key());
        // What was believed is not written again, so that this world never saw it.
        let written = (slot.nodes.rows, slot.endpoints.rows);
        assert_eq!(written, [(61, 0), (0, 61), (61, 61), (61, 0), (0, 61)][i], "{i}");
        assert_eq!(world.keys.keys().copied().collect::<Vec<ServiceKey>>(), [key()]);
        assert!(!world.endpoints.is_empty());
    }
}
