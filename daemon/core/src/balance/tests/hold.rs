//! Services for which nothing here may answer.

use core::time::Duration;

use super::super::Health;
use super::super::room::Limits;
use super::world::{World, checked, config, endpoint, key, service};
use crate::site::SiteId;

fn hold(world: &mut World, on: bool) {
    world.balancer.handle_hold(key(), on, world.now);
    world.run(Duration::from_millis(20));
}

/// Two endpoints here, one at another node.
fn world() -> World {
    World::with(config(2, vec![service(vec![endpoint(1, Some(1)), endpoint(2, Some(1)), endpoint(3, Some(2))])]))
}

#[test]
fn a_held_service_has_no_endpoint_here_and_is_served_again_as_before() {
    let mut world = world();
    let (rows, homes) = (world.endpoint_rows(&key()).to_vec(), world.homes(&key()));
    assert!(!rows.is_empty() && world.reverse.len() == 2);
    hold(&mut world, true);
    assert!(world.balancer.is_held(&key()));
    assert_eq!((world.slot(&key()).endpoints.rows, world.reverse.len()), (0, 0));
    assert_eq!(world.homes(&key()), homes, "who is home is another question");
    assert_eq!(world.balancer.serving(&key()).map(|s| s.ready), Some(3), "and so is what is ready");
    assert!(!world.answering.values().any(|answers| *answers), "nobody is served by it");
    hold(&mut world, false);
    let again: Vec<u16> = world.endpoint_rows(&key()).iter().map(|row| row.home).collect();
    assert_eq!(again, rows.iter().map(|row| row.home).collect::<Vec<_>>());
    assert_eq!((world.reverse.len(), world.balancer.is_held(&key())), (2, false));
}

#[test]
fn it_holds_over_configurations_and_before_there_is_such_a_service() {
    let mut world = World::with(config(2, Vec::new()));
    hold(&mut world, true);
    assert!(world.balancer.is_held(&key()), "what is not there does not answer");
    world.config(config(2, vec![service(vec![endpoint(1, Some(1))])]));
    world.run(Duration::from_millis(20));
    assert_eq!((world.slot(&key()).endpoints.rows, world.reverse.len()), (0, 0));
    world.config(config(2, vec![service(vec![endpoint(1, Some(1)), endpoint(2, Some(1))])]));
    world.run(Duration::from_millis(20));
    assert_eq!((world.slot(&key()).endpoints.rows, world.reverse.len()), (0, 0));
    let there = vec![SiteId(2); 8];
    world.balancer.handle_sites(&key(), &there, world.now);
    world.run(Duration::from_millis(20));
    assert_eq!(world.slot(&key()).endpoints.rows, 0);
}

#[test]
fn what_a_former_run_left_is_closed_before_any_check_has_spoken() {
    let spec = || config(2, vec![service(vec![checked(1, Some(1)), checked(2, Some(2))])]);
    let mut world = World::with(spec());
    world.health(key(), "e1", Health::Ready);
    world.health(key(), "e2", Health::Ready);
    world.run(Duration::from_millis(20));
    assert!(world.slot(&key()).endpoints.rows > 0);
    let mut world = world.restart(Limits { rows: 1 << 16, services: 64, endpoints: 256 });
    world.balancer.handle_hold(key(), true, world.now);
    world.config(spec());
    world.run(Duration::from_millis(20));
    assert_eq!(world.slot(&key()).endpoints.rows, 0);
    assert!(!world.balancer.is_held(&key()), "reverse entries go with the look that waits for checks");
    world.health(key(), "e1", Health::Ready);
    world.health(key(), "e2", Health::Ready);
    world.run(Duration::from_millis(20));
    assert!(world.balancer.is_held(&key()));
}
