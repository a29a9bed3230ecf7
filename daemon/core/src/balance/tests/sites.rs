//! Rows whose home is another site: which they are, that they come back, and that no flow moves by it.

use core::time::Duration;
use std::sync::Arc;

use super::super::io::Config;
use super::super::rows::Row;
use super::super::sites::{SITE_BASE, SiteSpec, site_of};
use super::world::{World, config, endpoint, key, node, service};
use crate::service::NodeSpec;
use crate::site::SiteId;

const OWN: SiteId = SiteId(1);
const NEAR: SiteId = SiteId(2);
const FAR: SiteId = SiteId(3);

/// Nodes 1 to 4 of site 1 with an endpoint each; gateways 21 and 22 of site 2, 31 of site 3.
fn three_sites(this: u16) -> Config {
    let endpoints = (1..=4).map(|i| endpoint(i, Some(u16::from(i)))).collect();
    let mut config = config(4, vec![service(endpoints)]);
    for (id, site) in [(21, NEAR), (22, NEAR), (31, FAR)] {
        config.nodes.push(NodeSpec { site: site.0, ..node(id) });
    }
    config.node = Some(format!("n{this}"));
    config
}

/// The lowest `away` of 100 parts are `to`'s.
fn share(away: usize, to: SiteId) -> Vec<SiteId> {
    (0..100).map(|i| if i < away { to } else { OWN }).collect()
}

fn split(world: &mut World, owners: &[SiteId]) {
    world.balancer.handle_sites(&key(), owners, world.now);
    world.run(Duration::from_millis(20));
}

fn homes(world: &World) -> Vec<u16> {
    world.node_rows(&key()).iter().map(|row| row.home).collect()
}

/// Numbers of the rows that differ.
fn moved(before: &[u16], after: &[u16]) -> Vec<usize> {
    (0..before.len()).filter(|i| before[*i] != after[*i]).collect()
}

#[test]
fn a_fraction_goes_and_comes_back_and_only_its_rows_move() {
    let mut world = World::with(three_sites(1));
    let start = homes(&world);
    split(&mut world, &share(20, NEAR));
    let away = homes(&world);
    let gone = moved(&start, &away);
    assert_eq!(gone, (0..gone.len()).collect::<Vec<_>>(), "the lowest rows, and no other");
    assert!(gone.iter().all(|i| site_of(away[*i]) == Some(NEAR)));
    let fifth = start.len() as f64 / 5.0;
    assert!((gone.len() as f64 - fifth).abs() <= 1.0, "{} of {} rows", gone.len(), start.len());
    split(&mut world, &share(30, NEAR));
    let more = homes(&world);
    assert!(moved(&away, &more).iter().all(|i| *i >= gone.len()), "who had left stays there");
    split(&mut world, &[OWN]);
    assert_eq!(homes(&world), start, "each row is where it was");
    let back = world.node_rows(&key())[0];
    assert_eq!((back.previous, back.older), (SITE_BASE | 2, 0), "the site that had it is asked for its flows");
}

/// A flow is known by those that were home since it began; each of them is still in the row while a change can be undone.
#[test]
fn established_flows_stay_where_they_are() {
    let mut world = World::with(three_sites(1));
    let start = homes(&world);
    split(&mut world, &share(100, NEAR));
    let opened_there = homes(&world);
    split(&mut world, &[]);
    for (i, row) in world.node_rows(&key()).iter().enumerate() {
        let named: Vec<u16> = row.holders().collect();
        assert!(named.contains(&start[i]) && named.contains(&opened_there[i]), "row {i}: {row:?}");
        assert_eq!(row.home, start[i], "new flows come home at once");
    }
}

#[test]
fn a_third_change_within_the_drain_time_waits() {
    let mut world = World::with(three_sites(1));
    let local = homes(&world)[0];
    split(&mut world, &share(100, NEAR));
    split(&mut world, &share(100, FAR));
    let row = world.node_rows(&key())[0];
    assert_eq!((row.home, row.previous, row.older), (SITE_BASE | 3, SITE_BASE | 2, local));
    // Back to whom the row remembers: nothing is lost by it.
    split(&mut world, &share(100, NEAR));
    let row = world.node_rows(&key())[0];
    assert_eq!((row.home, row.previous, row.older), (SITE_BASE | 2, SITE_BASE | 3, local));
    // Another node would push out one of three that live: the home still takes part, so it waits for the drain time of ten minutes.
    let other = (1..=4).find(|id| *id != local).unwrap();
    let mut config = three_sites(1);
    Arc::make_mut(&mut Arc::make_mut(&mut config.services[0]).endpoints)
        .retain(|e| e.node.as_deref() == Some(&format!("n{other}")));
    let owners: Vec<SiteId> = (0..100).map(|i| if i < 50 { OWN } else { NEAR }).collect();
    world.config(config);
    split(&mut world, &owners);
    assert_eq!(world.node_rows(&key())[0], row);
    world.run_s(12 * 60);
    assert_eq!(world.node_rows(&key())[0].home, other);
}

#[test]
fn a_site_that_cannot_be_reached_is_nobodys_home() {
    let mut world = World::with(three_sites(1));
    let start = homes(&world);
    split(&mut world, &share(100, NEAR));
    let cut = SiteSpec { site: NEAR, reachable: false, lost: false, via_ingress: false, mtu: Some(1380) };
    world.balancer.handle_neighbours(&[cut], world.now);
    world.drive();
    world.run(Duration::from_millis(20));
    assert_eq!(homes(&world), start, "what it had is taken by who is here");
    assert!(
        world.node_rows(&key()).iter().all(|row| row.previous == SITE_BASE | 2),
        "and it keeps its place: it may come back"
    );
    assert!(!world.sites[&NEAR].spec.reachable);
    assert_eq!(world.nearest, [NEAR, FAR], "named first, the others behind");
    let shown: Vec<_> = world.balancer.status().sites.iter().map(|s| (s.site, s.gateways, s.usable, s.mtu)).collect();
    assert_eq!(shown, [(NEAR, 2, false, Some(1380)), (FAR, 1, true, None)]);
}

#[test]
fn dead_gateways_are_left_out_and_without_one_a_site_is_cut() {
    let mut world = World::with(three_sites(1));
    assert_eq!((&world.sites[&NEAR].gateways, &world.sites[&FAR].gateways), (&vec![21, 22], &vec![31]));
    assert!(world.node_rows(&key()).iter().all(|row| row.home <= 4), "a gateway is no home");
    world.node("n21", false);
    assert_eq!(world.sites[&NEAR].gateways, [22]);
    split(&mut world, &share(100, NEAR));
    world.node("n22", false);
    world.run(Duration::from_millis(20));
    assert!(homes(&world).iter().all(|id| *id <= 4));
    world.node("n21", true);
    world.run(Duration::from_millis(20));
    assert!(homes(&world).iter().all(|id| *id == SITE_BASE | 2));
    let mut alone = three_sites(1);
    alone.nodes.retain(|n| n.site == OWN.0);
    world.config(alone);
    world.run(Duration::from_millis(20));
    assert!(world.sites[&NEAR].gateways.is_empty() && world.nearest.is_empty());
    assert!(homes(&world).iter().all(|id| *id <= 4), "a site that is no more");
}

#[test]
fn gateways_that_probes_do_not_reach_are_left_out_as_dead_ones_are() {
    let mut world = World::with(three_sites(1));
    split(&mut world, &share(100, NEAR));
    let rows = world.node_rows(&key()).to_vec();
    for (silent, gateways) in [(vec![22], vec![21]), (vec![21], vec![22]), (vec![], vec![21, 22])] {
        world.balancer.handle_silent(NEAR, silent.into_iter().collect(), world.now);
        world.drive();
        world.run(Duration::from_millis(20));
        assert_eq!(world.sites[&NEAR].gateways, gateways);
        assert_eq!(world.node_rows(&key()), rows, "the site is the home all the time");
    }
    world.balancer.handle_silent(NEAR, [22].into(), world.now);
    world.node("n21", false);
    world.run(Duration::from_millis(20));
    assert!(homes(&world).iter().all(|id| *id <= 4), "one is dead, the other silent");
}

#[test]
fn a_service_without_endpoints_here_is_served_elsewhere_and_answers() {
    let mut config = three_sites(1);
    Arc::make_mut(&mut Arc::make_mut(&mut config.services[0]).endpoints).clear();
    let mut world = World::with(config);
    assert!(world.node_rows(&key()).is_empty());
    split(&mut world, &[FAR]);
    assert!(homes(&world).iter().all(|id| *id == SITE_BASE | 3) && !homes(&world).is_empty());
    assert!(world.answering.values().all(|answers| *answers));
}

#[test]
fn a_daemon_that_starts_again_keeps_what_is_away_until_the_policy_speaks() {
    let mut world = World::with(three_sites(1));
    split(&mut world, &share(20, NEAR));
    let rows: Vec<Row> = world.node_rows(&key()).to_vec();
    world.run_s(2);
    let mut world = world.restart(super::super::Limits { rows: 1 << 16, services: 64, endpoints: 256 });
    world.config(three_sites(1));
    world.run(Duration::from_millis(20));
    assert_eq!(world.node_rows(&key()), rows);
    split(&mut world, &[OWN]);
    assert!(homes(&world).iter().all(|id| *id <= 4));
}

#[test]
fn all_nodes_of_a_site_make_the_same_rows() {
    let mut worlds: Vec<World> = (1..=4)
        .map(|this| {
            let mut config = three_sites(this);
            config.nodes.rotate_left(usize::from(this));
            World::with(config)
        })
        .collect();
    for (away, to) in [(10, NEAR), (60, FAR), (40, NEAR), (0, NEAR), (100, FAR)] {
        for world in &mut worlds {
            split(world, &share(away, to));
            world.run_s(200);
        }
        // Each supposes at its start that the others served before it: only that part of the past differs.
        let first = homes(&worlds[0]);
        assert!(worlds.iter().all(|world| homes(world) == first), "{away} to {to}");
    }
}
