//! From a configuration to tables, and nodes that come and go.

use super::super::absent::NodeState;
use super::super::io::{Action, Report};
use super::super::{Limits, SETTLE};
use super::world::{World, checked, config, endpoint, key, one_each, service};
use crate::service::{Delivery, Protocol, ServiceKey};

/// Names of actions in order.
fn names(actions: &[Action]) -> Vec<String> {
    actions.iter().map(|a| format!("{a:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_key_comes_last() {
    let mut world = World::new(Limits::default());
    world.config(one_each(2));
    assert!(world.keys.is_empty());
    world.run(SETTLE);
    let expected = [
        "PutNode",
        "PutNode",
        "PutService",
        "PutEndpoint",
        "WriteRows",
        "SwapEndpoints",
        "WriteRows",
        "SwapNodes",
        "PutAddress",
        "SetAnswering",
        "PutKey",
        "PutReverse",
        "Sweep",
    ];
    assert_eq!(names(&world.taken()), expected);
    let s = world.slot(&key());
    assert_eq!((s.entry.number, s.entry.drain_minutes, s.nodes.rows, s.endpoints.rows), (7, 11, 61, 61));
    let homes = world.homes(&key());
    assert!((homes[&1] == 30 || homes[&1] == 31) && homes[&1] + homes[&2] == 61, "{homes:?}");
    let own = world.endpoint("e1");
    assert!(world.endpoint_rows(&key()).iter().all(|r| r.home == own), "the other endpoint is another node's");
    assert!(world.answering[&world.addresses[&key().vip]]);
    assert_eq!((world.nodes[&1].this, world.nodes[&2].this), (true, false));
    // Then what it took for the past at its start is forgotten, and nothing is left to do.
    world.run_s(13 * 60);
    assert_eq!(world.balancer.poll_timeout(), None);
}

#[test]
fn a_dead_node_is_told_at_once_and_only_its_rows_move() {
    let mut world = World::with(one_each(5));
    let before = world.node_rows(&key()).to_vec();
    world.taken();
    world.node("n3", false);
    let taken = world.taken();
    let [Action::PutNode(n), Action::Report(Report::Node { state: NodeState::Dead, .. })] = taken.as_slice() else {
        panic!("{taken:?}");
    };
    assert!(n.dead && n.spec.id == 3);
    world.run_s(1);
    let after = world.node_rows(&key()).to_vec();
    assert!(after.iter().all(|r| r.home != 3));
    for (b, a) in before.iter().zip(&after).filter(|(b, _)| b.home == 3) {
        assert_eq!((a.previous, a.older), (3, 0), "it may come back: {b:?}");
    }
    let needless = before.iter().zip(&after).filter(|(b, a)| b.home != 3 && b.home != a.home).count();
    assert!(needless <= 12, "{needless} of 127 rows moved between the living");
    world.node("n3", true);
    world.run_s(1);
    let back = world.node_rows(&key());
    assert!(before.iter().zip(back).all(|(b, a)| b.home == a.home), "what left comes back");
    assert!(back.iter().filter(|r| r.home == 3).all(|r| r.previous != 0));
    world.run_s(12 * 60);
    assert!(world.node_rows(&key()).iter().all(|r| r.previous == 0), "nobody is asked after the drain time");
    assert_eq!(world.balancer.poll_timeout(), None);
}

#[test]
fn a_third_change_waits_and_then_comes() {
    let mut world = World::with(one_each(4));
    world.run_s(60);
    // Two forced changes fill the rows that n4's and n3's death moves one after the other; their return is the third.
    for node in ["n4", "n3"] {
        world.node(node, false);
        world.run_s(60);
    }
    let full = world.node_rows(&key()).iter().filter(|r| r.older != 0).count();
    assert!(full > 0, "some rows moved twice");
    let mut nodes = config(5, vec![service((1..=5).map(|i| endpoint(i, Some(u16::from(i)))).collect())]);
    nodes.nodes.iter_mut().for_each(|n| n.site = 1);
    for node in ["n4", "n3"] {
        world.node(node, true);
    }
    world.config(nodes);
    world.run_s(1);
    let status = world.balancer.status();
    let waiting = status.services[0].waiting;
    assert!(waiting > 0, "rows with two live holders keep their home");
    world.run_s(11 * 60);
    assert_eq!(world.balancer.status().services[0].waiting, 0);
    let homes = world.homes(&key());
    assert!(homes.values().all(|n| (24..=27).contains(n)), "{homes:?}");
}

#[test]
fn endpoints_behind_routers_are_everybodys() {
    let mut world = World::with(config(3, vec![service(vec![endpoint(1, None), endpoint(2, None)])]));
    let homes = world.homes(&key());
    assert!(homes.len() == 3 && homes.values().all(|n| (42..=43).contains(n)), "{homes:?}");
    assert!(world.endpoints.values().all(|e| e.remote && e.ready));
    let local = super::world::count(world.endpoint_rows(&key()));
    assert!(local.len() == 2 && local.values().all(|n| (30..=31).contains(n)), "{local:?}");
    world.node("n2", false);
    world.run_s(1);
    assert_eq!(world.homes(&key()).len(), 2);
}

#[test]
fn shares_follow_weights_whatever_lies_behind_routers() {
    let heavy = |number, node, weight| crate::service::EndpointSpec { weight, ..endpoint(number, node) };
    // n1 and n2 have one endpoint each; one lies behind a router and counts twice: each of two nodes carries 1 of its 2.
    let world =
        World::with(config(2, vec![service(vec![heavy(1, Some(1), 1), heavy(2, Some(2), 1), heavy(3, None, 2)])]));
    let homes = world.homes(&key());
    assert!(homes[&1].abs_diff(homes[&2]) <= 3, "{homes:?}");
    let local = super::world::count(world.endpoint_rows(&key()));
    let rows = usize::from(world.slot(&key()).endpoints.rows);
    let own = local[&world.endpoint("e1")];
    assert!(own.abs_diff(rows / 2) <= 2, "half of what comes here is e1's: {own} of {rows}");
}

#[test]
fn announced_services_are_not_steered_and_delegated_ones_have_no_second_level() {
    let mut none = service(vec![endpoint(1, Some(1))]);
    none.delivery = Delivery::None;
    let mut delegated = service(vec![endpoint(1, Some(1)), endpoint(2, Some(2))]);
    delegated.port = 81;
    delegated.delivery = Delivery::Delegate;
    let world = World::with(config(2, vec![none, delegated]));
    let only: Vec<u16> = world.keys.keys().map(|k| k.port).collect();
    assert_eq!(only, [81]);
    let key = ServiceKey { port: 81, ..key() };
    assert_eq!((world.slot(&key).nodes.rows, world.slot(&key).endpoints.rows), (61, 0));
    assert!(world.endpoints.is_empty() && world.reverse.is_empty());
}

#[test]
fn without_a_place_among_the_nodes_nothing_is_steered() {
    let mut off = one_each(2);
    off.node = None;
    let mut world = World::with(off);
    assert!(world.keys.is_empty());
    assert_eq!(world.swept, 1);
    world.config(one_each(2));
    world.run_s(1);
    assert_eq!(world.keys.len(), 1);
}

#[test]
fn an_endpoint_of_two_services_has_no_reverse_entry() {
    let first = service(vec![endpoint(1, Some(1)), endpoint(2, Some(1))]);
    let mut second = service(vec![endpoint(2, Some(1)), endpoint(3, Some(1))]);
    second.port = 81;
    let mut world = World::with(config(1, vec![first.clone(), second.clone()]));
    let last_bytes = |w: &World| -> Vec<(u8, u16)> {
        let of = |a: std::net::IpAddr| a.to_string().rsplit('.').next().unwrap().parse().unwrap();
        w.reverse.iter().map(|(id, key)| (of(id.address), key.port)).collect()
    };
    assert_eq!(last_bytes(&world), [(1, 80), (3, 81)]);
    world.config(config(1, vec![first]));
    world.run_s(2);
    assert_eq!(last_bytes(&world), [(1, 80), (2, 80)]);
}

#[test]
fn a_removed_service_gives_everything_back_after_the_grace() {
    let mut world = World::with(one_each(2));
    world.config(config(2, Vec::new()));
    assert!(world.keys.is_empty() && world.addresses.is_empty() && world.reverse.is_empty());
    assert!(!world.services.is_empty() && !world.endpoints.is_empty(), "packets may still be there");
    world.run_s(1);
    assert!(world.services.is_empty() && world.endpoints.is_empty());
    let status = world.balancer.status();
    assert_eq!((status.slab_used, status.slots_left), (0, (63, 255)));
}

#[test]
fn a_full_slab_keeps_the_old_table_and_is_told_once() {
    let limits = Limits { rows: 250, services: 8, endpoints: 32 };
    let mut world = World::new(limits);
    world.config(one_each(3));
    world.run_s(3);
    assert_eq!(world.balancer.status().slab_used, 127 + 61, "127 of the first level, 61 of the second");
    let before = world.slot(&key()).nodes;
    world.node("n3", false);
    world.reports.clear();
    world.run_s(5);
    assert_eq!(world.reports, [Report::SlabFull { service: key(), rows: 127 }]);
    assert_eq!(world.slot(&key()).nodes, before);
    assert!(world.balancer.status().services[0].starved);
    world.node("n3", true);
    world.run_s(5);
    assert_eq!(world.reports.last(), Some(&Report::Recovered { service: key() }), "nothing is wanted any more");
}

#[test]
fn no_slot_for_a_service_is_told() {
    let mut world = World::new(Limits { rows: 4096, services: 3, endpoints: 8 });
    let with_port = |port| crate::service::ServiceSpec { port, ..service(vec![endpoint(1, Some(1))]) };
    world.config(config(1, vec![with_port(80), with_port(81)]));
    world.run_s(1);
    let address = Report::NoSlot { service: ServiceKey { port: 80, ..key() } };
    assert_eq!(world.reports, [address], "two services took the two slots, the VIP's entry found none");
    assert_eq!(world.keys.len(), 2);
}

#[test]
fn services_of_the_same_port_and_other_protocol_are_two() {
    let mut udp = service(vec![checked(1, Some(1))]);
    udp.protocol = Protocol::Udp;
    let mut world = World::with(config(1, vec![service(vec![endpoint(1, Some(1))]), udp]));
    assert_eq!(world.keys.len(), 1, "the other waits for its check");
    world.run_s(1);
    assert_eq!(world.keys.len(), 2);
    assert!(world.answering.values().all(|a| *a), "one of them has capacity");
}

#[test]
fn the_driver_is_told_which_checks_to_run() {
    let world =
        World::with(config(2, vec![service(vec![checked(1, Some(1)), endpoint(2, Some(2)), checked(3, None)])]));
    let names: Vec<String> =
        world.balancer.checks().map(|(id, check)| format!("{} {}", id.endpoint, check.name)).collect();
    assert_eq!(names, ["e1 e1", "e3 e3"]);
}

/// What `trace` shows is what packets meet: row `hash * rows >> 32`.
#[test]
fn a_trace_names_the_row_of_a_hash() {
    let world = World::with(one_each(3));
    for hash in [0, 0xffff_ffff_ffff_ffff, 0x1234_5678_9abc_def0, 0x8000_0000_0000_0001] {
        let trace = world.balancer.trace(&key(), hash).expect("a service");
        let (index, row) = trace.nodes.expect("a table");
        let expected = usize::try_from(((hash >> 32) * 127) >> 32).unwrap();
        assert_eq!((usize::try_from(index).unwrap(), row), (expected, world.node_rows(&key())[expected]));
        let (index, row) = trace.endpoints.expect("a table");
        let expected = usize::try_from(((hash & 0xffff_ffff) * 61) >> 32).unwrap();
        assert_eq!((usize::try_from(index).unwrap(), row), (expected, world.endpoint_rows(&key())[expected]));
    }
    let other = ServiceKey { port: 1, ..key() };
    assert_eq!(world.balancer.trace(&other, 0), None);
}
