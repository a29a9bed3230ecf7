//! Endpoints of this node whose network namespace is not found.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use super::super::io::{Action, Config, Report};
use super::super::{Limits, PLACE_PATIENCE};
use super::world::{World, config, count, endpoint, key, service};
use crate::service::{Delivery, EndpointSpec, Return, ServiceSpec, WhenUnplaced};

const LIMITS: Limits = Limits { rows: 1 << 16, services: 64, endpoints: 256 };

/// Two endpoints here, one on the other node.
fn delegating() -> ServiceSpec {
    let endpoints = vec![endpoint(1, Some(1)), endpoint(2, Some(1)), endpoint(3, Some(2))];
    ServiceSpec { when_unplaced: WhenUnplaced::Delegate, ..service(endpoints) }
}

fn only(spec: ServiceSpec) -> Config {
    config(2, vec![spec])
}

fn lost(world: &mut World, numbers: &[u8]) {
    let addresses: BTreeSet<IpAddr> = numbers.iter().map(|n| IpAddr::from([10, 1, 0, *n])).collect();
    world.balancer.handle_unplaced(&addresses, world.now);
    world.drive();
}

/// Slot of the stack: the endpoint with the VIP's own address and port.
fn stack(world: &World) -> Option<u16> {
    let found = world.endpoints.iter().find(|(_, e)| (e.address, e.port) == (key().vip, key().port));
    found.map(|(slot, _)| *slot)
}

fn told(world: &World) -> Vec<usize> {
    let said = |report: &Report| match report {
        Report::Delegated { endpoints, .. } => Some(*endpoints),
        _ => None,
    };
    world.reports.iter().filter_map(said).collect()
}

#[test]
fn what_is_new_goes_to_the_stack_and_what_there_is_stays() {
    let mut world = World::with(only(delegating()));
    let before = world.endpoint_rows(&key()).to_vec();
    let nodes = world.slot(&key()).nodes;
    lost(&mut world, &[1]);
    world.run(PLACE_PATIENCE - Duration::from_millis(1));
    assert_eq!((stack(&world), told(&world)), (None, vec![]), "a route may come later than a slice");
    world.run(Duration::from_millis(20));
    let (to, own, other) = (stack(&world).expect("its slot"), world.endpoint("e1"), world.endpoint("e2"));
    let homes = count(world.endpoint_rows(&key()));
    assert_eq!(homes.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([to, other]));
    assert!(homes[&to].abs_diff(homes[&other]) <= 3, "its share is that of the endpoint: {homes:?}");
    for (b, a) in before.iter().zip(world.endpoint_rows(&key())) {
        assert!(a.holders().any(|h| h == b.home), "{b:?} became {a:?}: its connections are looked for where they are");
    }
    let ready = |slot: u16| world.endpoints[&slot].ready;
    assert!(ready(to) && ready(other) && !ready(own));
    assert!(world.endpoints[&to].remote, "nobody looks for its network namespace");
    assert!(world.reverse.keys().all(|id| id.address != key().vip), "its answers are the VIP's already");
    assert_eq!(world.slot(&key()).nodes, nodes, "the node is worth what it was worth");
    let status = world.balancer.status().services.remove(0);
    assert_eq!((status.delegated, status.delivery), (1, Delivery::Direct));
    assert_eq!(status.endpoints.iter().map(|e| e.delegated).collect::<Vec<_>>(), [true, false, false]);

    // Both: one slot stands for them.
    lost(&mut world, &[1, 2]);
    world.run_s(4);
    assert_eq!(count(world.endpoint_rows(&key())).keys().copied().collect::<Vec<_>>(), [to]);
    // Found again: at once, and what the stack has is still looked for there.
    lost(&mut world, &[]);
    world.run_s(1);
    let after = world.endpoint_rows(&key()).to_vec();
    for (b, a) in before.iter().zip(&after) {
        assert_eq!(a.home, b.home);
        assert!(a.holders().any(|h| h == to));
    }
    assert!(!world.endpoints[&to].ready && world.endpoints[&own].ready);
    assert_eq!(told(&world), [1, 2, 0]);
    // After its drain time the stack is no candidate any more.
    world.run_s(1000);
    assert_eq!(stack(&world), None);
}

#[test]
fn a_place_that_is_missing_for_a_moment_changes_nothing() {
    let mut world = World::with(only(delegating()));
    let _start = world.taken();
    for _ in 0..10 {
        lost(&mut world, &[1]);
        world.run_s(2);
        lost(&mut world, &[]);
        world.run_s(1);
    }
    let tables = |a: &Action| matches!(a, Action::SwapEndpoints { .. } | Action::PutEndpoint { .. });
    assert!(!world.taken().iter().any(tables));
    // An endpoint that leaves may be gone before its slice says so: nothing new goes there anyway.
    let mut spec = delegating();
    let leaves = |e: &EndpointSpec| EndpointSpec { draining: e.name == "e1", ..e.clone() };
    spec.endpoints = std::sync::Arc::new(spec.endpoints.iter().map(leaves).collect());
    world.config(only(spec));
    lost(&mut world, &[1]);
    world.run_s(10);
    assert_eq!((stack(&world), told(&world)), (None, vec![]));
}

#[test]
fn our_programs_deliver_where_nobody_else_may_or_can() {
    let endpoints = || delegating().endpoints;
    let as_usual = ServiceSpec { when_unplaced: WhenUnplaced::Direct, ..delegating() };
    let through = ServiceSpec { returns: Return::ViaIngress, ..delegating() };
    for spec in [as_usual, through] {
        let mut world = World::with(only(spec));
        lost(&mut world, &[1, 2]);
        world.run_s(10);
        assert_eq!((stack(&world), told(&world)), (None, vec![]));
        assert!(world.endpoints.values().all(|e| e.ready));
    }
    // Behind a router there is no namespace to be found.
    let far = endpoints().iter().map(|e| EndpointSpec { node: None, ..e.clone() }).collect();
    let mut world = World::with(only(ServiceSpec { endpoints: std::sync::Arc::new(far), ..delegating() }));
    lost(&mut world, &[1, 2, 3]);
    world.run_s(10);
    assert_eq!(stack(&world), None);
    // No slot is left for the stack.
    let mut world = World::new(Limits { endpoints: 3, ..LIMITS });
    world.config(only(delegating()));
    world.run_s(1);
    lost(&mut world, &[1, 2]);
    world.run_s(10);
    assert_eq!(count(world.endpoint_rows(&key())).len(), 2, "direct, as before");
    assert!(world.endpoints.values().all(|e| e.ready));
    assert!(world.reports.contains(&Report::NoSlot { service: key() }));
}

#[test]
fn a_restart_leaves_to_the_stack_what_it_had() {
    let mut world = World::with(only(delegating()));
    lost(&mut world, &[1]);
    world.run_s(10);
    let before = world.pinned();
    let mut world = world.restart(LIMITS);
    world.config(only(delegating()));
    world.run_s(1);
    assert_eq!(world.pinned(), before, "until the driver has looked");
    lost(&mut world, &[1]);
    world.run_s(10);
    assert_eq!(world.pinned(), before);
    let mut world = world.restart(LIMITS);
    world.config(only(delegating()));
    lost(&mut world, &[]);
    world.run_s(1);
    assert_eq!(count(world.endpoint_rows(&key())).len(), 2);
    assert!(stack(&world).is_some_and(|slot| !world.endpoints[&slot].ready), "it was found meanwhile");
}
