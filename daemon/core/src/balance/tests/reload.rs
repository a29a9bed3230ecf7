//! Configurations as differences.

use core::time::Duration;
use std::sync::Arc;

use super::super::io::Action;
use super::world::{World, config, endpoint, key, node, one_each, service};
use crate::service::{Affinity, ServiceKey, ServiceSpec};

#[test]
fn the_same_again_does_nothing() {
    let mut world = World::with(one_each(4));
    world.taken();
    world.config(one_each(4));
    world.run_s(1);
    assert!(world.taken().is_empty());
}

#[test]
fn an_unchanged_service_is_never_written() {
    let other = |endpoints| ServiceSpec { port: 81, name: "other".into(), ..service(endpoints) };
    let both = |last: u8| {
        let web = service(vec![endpoint(1, Some(1)), endpoint(2, Some(2))]);
        config(2, vec![web, other(vec![endpoint(3, Some(1)), endpoint(last, Some(2))])])
    };
    let mut world = World::with(both(4));
    let slot = world.keys[&key()];
    let before = world.slot(&key()).clone();
    world.taken();
    world.config(both(5));
    world.run_s(1);
    for action in world.taken() {
        assert!(
            !matches!(&action, Action::PutService { slot: s, .. } | Action::SwapNodes { slot: s, .. } | Action::SwapEndpoints { slot: s, .. } if *s == slot),
            "{action:?}"
        );
    }
    assert_eq!((world.slot(&key()).nodes, world.slot(&key()).endpoints), (before.nodes, before.endpoints));
}

#[test]
fn what_is_no_matter_of_tables_moves_no_row() {
    let mut world = World::with(one_each(4));
    world.taken();
    let mut changed = one_each(4);
    let spec = Arc::make_mut(&mut changed.services[0]);
    spec.affinity = Affinity::ClientIp;
    spec.name = "shop".into();
    spec.drain = Duration::from_secs(60);
    world.config(changed);
    world.run_s(1);
    let actions = world.taken();
    assert!(
        matches!(&actions[0], Action::PutService { entry, .. } if entry.affinity == Affinity::ClientIp),
        "{actions:?}"
    );
    assert_eq!(actions.len(), 1, "{actions:?}");
    assert_eq!(world.slot(&key()).entry.drain_minutes, 2);
}

#[test]
fn sources_come_before_the_flag_and_go_after_it() {
    let mut world = World::with(one_each(1));
    world.taken();
    let with = |ranges: &[&str]| {
        let mut c = one_each(1);
        Arc::make_mut(&mut c.services[0]).sources = ranges.iter().map(|r| r.parse().expect("a range")).collect();
        c
    };
    let steps: [(&[&str], &[&str], usize); 3] = [
        (&["10.0.0.0/8", "192.0.2.0/24"], &["PutSources", "PutService"], 2),
        (&["10.0.0.0/8", "198.51.100.0/24"], &["PutSources"], 2),
        (&[], &["PutService", "PutSources"], 0),
    ];
    for (ranges, expected, left) in steps {
        world.config(with(ranges));
        world.run_s(1);
        let names: Vec<String> =
            world.taken().iter().map(|a| format!("{a:?}").split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(names, expected);
        assert_eq!(world.slot(&key()).sources.len(), left);
        assert_eq!(world.slot(&key()).entry.sources, left > 0);
    }
}

#[test]
fn another_port_is_another_service() {
    let mut world = World::with(one_each(2));
    let mut moved = one_each(2);
    Arc::make_mut(&mut moved.services[0]).port = 8080;
    world.config(moved);
    world.run_s(2);
    assert_eq!(world.keys.keys().collect::<Vec<_>>(), [&ServiceKey { port: 8080, ..key() }]);
    assert_eq!(world.services.len(), 1);
    assert_eq!(world.addresses.len(), 1);
}

#[test]
fn nodes_that_change_or_go_are_told() {
    let mut world = World::with(one_each(3));
    world.taken();
    let mut next = one_each(3);
    next.nodes[1].addresses.push([10, 0, 1, 2].into());
    let _n3 = next.nodes.pop();
    let _e3 = Arc::make_mut(&mut Arc::make_mut(&mut next.services[0]).endpoints).pop();
    world.config(next.clone());
    world.run_s(1);
    assert_eq!(world.nodes.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(world.nodes[&2].spec.addresses.len(), 2);
    assert!(world.node_rows(&key()).iter().all(|r| r.holders().all(|h| h != 3)), "its id may be another node's next");
    next.nodes.push(node(3));
    world.config(next);
    world.run_s(1);
    assert_eq!(world.homes(&key()).len(), 2, "a node without endpoints");
}

#[test]
fn a_table_grows_with_its_service_and_never_shrinks() {
    let with =
        |count: u8| config(3, vec![service((1..=count).map(|i| endpoint(i, Some(u16::from(i % 3) + 1))).collect())]);
    let mut world = World::with(with(2));
    let small = world.node_rows(&key()).to_vec();
    world.run_s(5);
    world.config(with(12));
    world.run_s(1);
    let grown = world.node_rows(&key()).to_vec();
    assert_eq!((small.len(), grown.len()), (61, 509));
    for hash in (0..=u32::MAX).step_by(9_999_991) {
        let meet = |rows: &[super::super::rows::Row]| {
            rows[usize::try_from((u64::from(hash) * rows.len() as u64) >> 32).unwrap()]
        };
        let home = meet(&small).home;
        assert!(meet(&grown).holders().any(|h| h == home));
    }
    world.config(with(2));
    world.run_s(1);
    assert_eq!(world.node_rows(&key()).len(), 509);
}
