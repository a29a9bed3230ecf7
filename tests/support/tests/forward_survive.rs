//! Live flows through everything that may happen to a site: Show 3 of issue 4, small.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bascule_lab::audit::Load;
use bascule_lab::forward::{CLIENTS, ENCAPSULATION, Hook, OTHER, survive};

/// 200 flows, four of them at full speed. A bench does the same with 10,000.
fn load() -> Load {
    let target = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    Load { target, paced: 196, every: Duration::from_millis(500), full_speed: 4, window: 64 }
}

fn all_events(hook: Hook) {
    let survival = survive(hook, load()).expect("the site stands and its flows open");
    let why = || format!("{}\n{}", survival.audit.describe(&survival.dead), survival.counted);
    assert!(survival.audit.broken(&survival.dead).is_empty(), "{}", why());
    assert_eq!(survival.disorder, 0, "{}", why());
    // Nodes told each other nothing but packets of clients, and inside the encapsulation nothing else either.
    assert_eq!((survival.class(OTHER).bytes, survival.untold), (0, Some(0)), "{:?}", survival.traffic);
    assert!(survival.class(ENCAPSULATION).bytes > 0 && survival.class(CLIENTS).bytes > 0, "{:?}", survival.traffic);
    for step in &survival.steps {
        assert!(step.settled, "{}: a flow does not get on\n{}", step.name, why());
        assert_eq!(step.fresh, step.fresh_wanted, "{}: new flows\n{}", step.name, why());
    }
    // The events did something: flows live on every backend of the start, and chains were walked.
    assert!((0..6).all(|server| survival.audit.on(server) > 0), "{}", why());
    let walked = ["next_hop", "socket_hit", "flow_hit"].iter().any(|way| survival.counted.contains(way));
    assert!(walked, "{}", survival.counted);
}

#[test]
fn flows_survive_every_event_by_xdp() {
    all_events(Hook::Xdp);
}

#[test]
fn flows_survive_every_event_by_tc() {
    all_events(Hook::Tc);
}
