//! Two nodes that hear the same things at the same times, each in its own order, end with the same rows.

use core::time::Duration;

use proptest::prelude::*;

use super::super::rows::Row;
use super::super::{Health, Limits};
use super::world::{World, checked, config, key, service};

/// Something that happens to endpoint or node `.0` of 6.
#[derive(Clone, Copy, Debug)]
enum Event {
    Endpoint(u8, Health),
    Node(u8, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let health = prop_oneof![3 => Just(Health::Ready), 2 => Just(Health::Unready), 1 => Just(Health::Draining)];
    prop_oneof![
        3 => (1_u8..=6, health).prop_map(|(e, h)| Event::Endpoint(e, h)),
        1 => (2_u8..=6, any::<bool>()).prop_map(|(n, up)| Event::Node(n, up)),
    ]
}

/// Steps of simultaneous events about different subjects, and the time to the next step in seconds.
fn steps() -> impl Strategy<Value = Vec<(Vec<Event>, u64)>> {
    let subject = |e: &Event| match e {
        Event::Endpoint(i, _) => (0, *i),
        Event::Node(i, _) => (1, *i),
    };
    let together = proptest::collection::vec(event(), 1..6).prop_map(move |mut events| {
        events.sort_by_key(subject);
        events.dedup_by_key(|e| subject(e));
        events
    });
    proptest::collection::vec((together, prop_oneof![Just(0_u64), 1_u64..90, 300_u64..900]), 1..12)
}

/// A world that sees the nodes and endpoints of the file in another order, as another node of the cluster.
fn world(this: u16, turn: usize) -> World {
    let mut endpoints: Vec<_> = (1..=6).map(|i| checked(i, Some(u16::from(i)))).collect();
    endpoints.rotate_left(turn);
    let mut config = config(6, vec![service(endpoints)]);
    config.nodes.rotate_left(turn);
    config.node = Some(format!("n{this}"));
    let mut world = World::new(Limits { rows: 1 << 15, services: 16, endpoints: 64 });
    world.config(config);
    world
}

fn feed(world: &mut World, events: &[Event], turn: usize) {
    let mut events = events.to_vec();
    let len = events.len();
    events.rotate_left(turn % len);
    for event in events {
        match event {
            Event::Endpoint(i, health) => world.health(key(), &format!("e{i}"), health),
            Event::Node(i, up) => world.node(&format!("n{i}"), up),
        }
    }
}

fn rows(world: &World) -> Vec<Row> {
    if world.keys.is_empty() { Vec::new() } else { world.node_rows(&key()).to_vec() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn interleavings_end_in_equal_rows(steps in steps(), turn in 1_usize..6) {
        let (mut a, mut b) = (world(1, 0), world(1, turn));
        for (events, seconds) in steps {
            feed(&mut a, &events, 0);
            feed(&mut b, &events, turn);
            let time = Duration::from_millis(20) + Duration::from_secs(seconds);
            a.run(time);
            b.run(time);
            prop_assert_eq!(rows(&a), rows(&b));
        }
        a.run_s(1800);
        b.run_s(1800);
        prop_assert_eq!(rows(&a), rows(&b));
        prop_assert!(rows(&a).iter().all(|r| r.previous == 0), "all quiet");
    }
}
