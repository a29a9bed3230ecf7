//! Taking endpoints, nodes and services out of use, and endpoints that are replaced.

use std::sync::Arc;

use super::super::io::{DrainTarget, Report};
use super::super::sites::SITE_BASE;
use super::world::{World, config, endpoint, key, node, one_each, service};
use crate::service::{EndpointId, EndpointSpec, NodeSpec};
use crate::site::SiteId;

/// Every home of `before` is still asked: by id where `renamed` says nothing.
fn nobody_is_lost(before: &[super::super::rows::Row], after: &[super::super::rows::Row]) {
    for (b, a) in before.iter().zip(after) {
        assert!(a.holders().any(|h| h == b.home), "{b:?} became {a:?}");
    }
}

#[test]
fn a_node_is_drained_by_configuration_and_by_hand() {
    for by_hand in [false, true] {
        let mut world = World::with(one_each(3));
        let before = world.node_rows(&key()).to_vec();
        if by_hand {
            world.balancer.handle_drain(DrainTarget::Node("n1".into()), true, world.now);
        } else {
            let mut drained = one_each(3);
            drained.nodes[0].draining = true;
            world.config(drained);
        }
        world.run_s(1);
        assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [2, 3]);
        nobody_is_lost(&before, world.node_rows(&key()));
        assert!(world.endpoints.values().all(|e| e.ready), "nodes that have not heard of it yet go on sending");
        let own = world.endpoint("e1");
        assert!(world.endpoint_rows(&key()).iter().all(|r| r.home == own), "and is still found");
    }
}

#[test]
fn the_only_node_goes_on_while_it_drains() {
    let mut world = World::with(one_each(1));
    world.balancer.handle_drain(DrainTarget::Node("n1".into()), true, world.now);
    world.run_s(1);
    assert!(world.endpoints.values().all(|e| e.ready), "there is nobody else");
}

#[test]
fn a_drained_service_moves_nothing_and_takes_nothing() {
    let mut world = World::with(one_each(3));
    let before = world.slot(&key()).clone();
    world.balancer.handle_drain(DrainTarget::Service(key()), true, world.now);
    world.run_s(1);
    assert_eq!((world.slot(&key()).nodes, world.slot(&key()).endpoints), (before.nodes, before.endpoints));
    assert!(world.endpoints.values().all(|e| e.draining && !e.ready));
    assert!(world.answering.values().all(|a| !*a));
    world.balancer.handle_drain(DrainTarget::Service(key()), false, world.now);
    world.run_s(1);
    assert!(world.endpoints.values().all(|e| e.ready && !e.draining));
    assert!(world.answering.values().all(|a| *a));
}

/// Other sites hear of it by its summary, one node after the other: what they send until then is served, and so is what this site's own table has not
/// yet given away.
#[test]
fn a_drained_service_of_several_sites_says_so_and_takes_what_still_comes() {
    let drained = |on| {
        let mut config = one_each(3);
        let spec = Arc::make_mut(&mut config.services[0]);
        (spec.draining, spec.elsewhere) = (on, true);
        config.nodes.push(NodeSpec { site: 2, ..node(21) });
        config
    };
    let mut world = World::with(drained(false));
    let homes = world.homes(&key());
    world.config(drained(true));
    world.run_s(1);
    let said = |world: &World| world.balancer.serving(&key()).map(|serving| (serving.ready, serving.draining));
    assert_eq!(said(&world), Some((3, true)), "the summary of this site says that it drains");
    let takes = |world: &World| {
        world.endpoints.values().all(|e| e.ready && !e.draining) && world.answering.values().all(|answers| *answers)
    };
    assert!(takes(&world), "no table has changed yet");
    assert_eq!(world.homes(&key()), homes);
    // The policy has heard: new connections go there, and others may not have heard.
    world.balancer.handle_sites(&key(), &[SiteId(2)], world.now);
    world.run_s(1);
    assert_eq!(world.homes(&key()).keys().copied().collect::<Vec<_>>(), [SITE_BASE | 2]);
    assert!(takes(&world));
    // Nobody else is there: as little a black hole as a drained node that is the only one.
    world.balancer.handle_sites(&key(), &[], world.now);
    world.run_s(1);
    assert_eq!(world.homes(&key()), homes);
    assert!(takes(&world));
    world.config(drained(false));
    world.run_s(1);
    assert_eq!(said(&world), Some((3, false)));
}

#[test]
fn an_endpoint_is_drained_by_hand_and_comes_back() {
    let mut world = World::with(config(1, vec![service((1..=3).map(|i| endpoint(i, Some(1))).collect())]));
    let before = world.endpoint_rows(&key()).to_vec();
    let target = DrainTarget::Endpoint(EndpointId { service: key(), endpoint: "e2".into() });
    world.balancer.handle_drain(target.clone(), true, world.now);
    world.run_s(1);
    let e2 = world.endpoint("e2");
    assert!(world.endpoint_rows(&key()).iter().all(|r| r.home != e2));
    nobody_is_lost(&before, world.endpoint_rows(&key()));
    world.balancer.handle_drain(target, false, world.now);
    world.run_s(1);
    assert!(before.iter().zip(world.endpoint_rows(&key())).all(|(b, a)| b.home == a.home));
}

/// One of six is replaced twice within the drain time: every flow that was opened before, between and after is still found.
#[test]
fn an_endpoint_replaced_twice_within_the_drain_time_loses_nobody() {
    let with = |last: u8| {
        let mut endpoints: Vec<_> = (1..=5).map(|i| endpoint(i, Some(1))).collect();
        // The same name with another address, as a pod that was restarted.
        endpoints.push(crate::service::EndpointSpec { name: "e6".into(), ..endpoint(last, Some(1)) });
        config(1, vec![service(endpoints)])
    };
    let mut world = World::with(with(6));
    let mut homes = vec![world.endpoint_rows(&key()).to_vec()];
    for last in [7, 8] {
        world.run_s(120);
        world.config(with(last));
        world.run_s(1);
        homes.push(world.endpoint_rows(&key()).to_vec());
    }
    let last = world.endpoint_rows(&key()).to_vec();
    for generation in &homes {
        nobody_is_lost(generation, &last);
    }
    assert_eq!(world.endpoints.len(), 8);
    assert_eq!(world.endpoints.values().filter(|e| e.ready).count(), 6);
    let moved = homes[0].iter().zip(&last).filter(|(b, a)| b.home != a.home).count();
    let of_first = homes[0].iter().filter(|r| world.endpoints[&r.home].draining).count();
    assert_eq!(moved, of_first, "only its own rows moved");
    // Those that are gone for longer than the drain time give their slots back.
    world.run_s(14 * 60);
    assert_eq!(world.endpoints.len(), 6);
    assert!(world.endpoint_rows(&key()).iter().all(|r| r.previous == 0));
}

/// The same on the first level: a node is replaced twice.
#[test]
fn a_node_replaced_twice_within_the_drain_time_loses_nobody_of_the_living() {
    let mut world = World::with(one_each(6));
    let mut generations = vec![world.node_rows(&key()).to_vec()];
    for instead in [7, 8] {
        world.run_s(120);
        let mut next = one_each(8);
        let spec = Arc::make_mut(&mut next.services[0]);
        let stays = |e: &EndpointSpec| e.name == format!("e{instead}") || (1..=5).any(|i| e.name == format!("e{i}"));
        Arc::make_mut(&mut spec.endpoints).retain(stays);
        world.config(next);
        world.run_s(1);
        generations.push(world.node_rows(&key()).to_vec());
    }
    let last = world.node_rows(&key());
    assert!(last.iter().any(|r| r.home == 8) && last.iter().all(|r| r.home != 6 && r.home != 7));
    for generation in &generations {
        nobody_is_lost(generation, last);
    }
}

#[test]
fn when_every_endpoint_is_gone_the_table_outlives_them_by_the_drain_time() {
    let mut world = World::with(one_each(1));
    world.config(config(1, vec![service(Vec::new())]));
    world.run_s(60);
    assert_eq!(world.slot(&key()).endpoints.rows, 61);
    assert!(world.endpoints.values().all(|e| e.draining && !e.ready));
    world.run_s(11 * 60);
    assert_eq!(world.slot(&key()).endpoints.rows, 0);
    assert!(world.endpoints.is_empty());
    world.config(one_each(1));
    world.run_s(1);
    assert_eq!(world.slot(&key()).endpoints.rows, 61);
}

/// A third replacement within the drain time must forget somebody: it is counted, said once, and shown until the drain time is over.
#[test]
fn a_third_forced_replacement_is_counted_and_told() {
    let mut world = World::with(one_each(6));
    // A node that starts takes it that others served before it: until the drain time is over that is a home, too.
    world.run_s(20 * 60);
    let forgotten = |world: &World| world.balancer.status().services[0].forgotten;
    let mut counts = Vec::new();
    for instead in [7, 8, 9] {
        world.run_s(120);
        let mut next = one_each(9);
        Arc::make_mut(&mut Arc::make_mut(&mut next.services[0]).endpoints)
            .retain(|e| e.name == format!("e{instead}") || (1..=5).any(|i| e.name == format!("e{i}")));
        world.config(next);
        world.run_s(1);
        counts.push(world.balancer.status().counts.rows_forgotten);
    }
    let own = world.node_rows(&key()).iter().filter(|r| r.home == 9 && r.previous == 8 && r.older == 7).count();
    assert_eq!(counts[..2], [0, 0], "two homes are remembered");
    assert!(counts[2] > 0 && counts[2] >= u64::try_from(own).unwrap(), "{counts:?}, {own} rows lost node 6");
    assert_eq!(forgotten(&world), counts[2]);
    let told =
        world.reports.iter().filter(|r| matches!(r, Report::Forgotten { rows, .. } if *rows == counts[2])).count();
    assert_eq!(told, 1, "{:?}", world.reports);
    world.run_s(14 * 60);
    assert_eq!(forgotten(&world), 0, "whoever was there has ended or is lost");
    assert_eq!(world.balancer.status().counts.rows_forgotten, counts[2]);
}
