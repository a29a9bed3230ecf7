//! The conflict probe: once per address and start, before the group takes part, never on take-over.

use super::config::GroupConfig;
use super::harness::{LINK, Rig, START, at, dual_group, group, ip, mac, node};
use super::*;

fn probing(n: u8) -> NodeConfig {
    node(n, vec![GroupConfig { conflict_probe: true, ..group(254) }])
}

fn reply(from: u8) -> Vec<u8> {
    let vip = "10.9.0.100".parse().expect("address");
    Arp { operation: crate::wire::arp::Operation::Reply, target_mac: mac(1), ..Arp::gratuitous_reply(mac(from), vip) }
        .encode(mac(1))
}

#[test]
fn three_probes_200_ms_apart_then_the_election() {
    let mut rig = Rig::new(probing(1));
    let mut seen = Vec::new();
    while rig.role() == Role::Initialize {
        let next = rig.node.poll_timeout().expect("a deadline");
        rig.run_to(next);
        seen.extend(rig.take().into_iter().map(|w| (next.since(at(START)).as_millis(), w)));
    }
    let want =
        [(0, "probe 10.9.0.100"), (200, "probe 10.9.0.100"), (400, "probe 10.9.0.100"), (600, "backup by started")];
    assert_eq!(seen, want.map(|(ms, w)| (ms, w.to_owned())));
    rig.run(400);
    assert_eq!(rig.role(), Role::Active);
    assert!(!rig.take().iter().any(|w| w.starts_with("probe")), "never on take-over");
}

#[test]
fn probes_carry_no_sender_address() {
    let mut rig = Rig::new(node(1, vec![GroupConfig { conflict_probe: true, ..dual_group(254) }]));
    rig.run(1);
    let frames: Vec<&Vec<u8>> = rig
        .owed
        .iter()
        .filter_map(|a| match a {
            Action::SendFrame { bytes, .. } => Some(bytes),
            _ => None,
        })
        .collect();
    assert_eq!(frames.len(), 3, "the VIPs and the link-local");
    let arp = Arp::parse(frames[0]).expect("ARP");
    assert_eq!((arp.sender.is_unspecified(), IpAddr::V4(arp.target)), (true, ip(100)));
    let Some(Ndp::Solicitation { source, .. }) = Ndp::parse(frames[2]) else { panic!("NS") };
    assert!(source.is_unspecified());
}

#[test]
fn a_foreign_holder_blocks_and_is_asked_again_after_5_s() {
    let mut rig = Rig::new(probing(1));
    rig.run(250);
    let _ = rig.take();
    rig.input(Input::Neighbor { link: LINK, frame: &reply(9) });
    rig.run(349);
    assert_eq!(rig.take(), ["probe 10.9.0.100"], "judged when probing ends");
    rig.run(1);
    assert_eq!(rig.take(), ["AddressInUse", "Blocked"]);
    let condition = rig.node.status(rig.now).groups[0].condition.clone();
    assert_eq!(condition.as_deref(), Some("address_in_use: 10.9.0.100 is answered for by 02:00:00:00:00:09"));
    rig.run(4_999);
    assert_eq!((rig.role(), rig.take()), (Role::Initialize, vec![]));
    rig.run(2);
    assert_eq!(rig.take(), ["Blocked", "probe 10.9.0.100"]);
    rig.run(600);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn the_legitimate_owner_answers_too_and_is_no_conflict() {
    let mut rig = Rig::new(probing(1));
    rig.run(50);
    rig.hear(9, 200);
    rig.input(Input::Neighbor { link: LINK, frame: &reply(9) });
    let owed = rig.take();
    assert!(!owed.contains(&"AddressInUse".to_owned()), "{owed:?}");
    rig.run(150);
    assert_eq!(rig.role(), Role::Backup, "an owner that advertises ends the probe");
}

#[test]
fn an_owner_that_answers_before_its_next_advert_is_no_conflict() {
    let mut rig = Rig::new(probing(1));
    rig.run(1);
    rig.input(Input::Neighbor { link: LINK, frame: &reply(9) });
    rig.run(90);
    rig.hear(9, 200);
    rig.run(109);
    let owed = rig.take();
    assert!(!owed.contains(&"AddressInUse".to_owned()), "{owed:?}");
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn an_answer_to_the_last_probe_waits_as_long_as_a_backup_does() {
    let mut rig = Rig::new(probing(1));
    rig.run(599);
    rig.input(Input::Neighbor { link: LINK, frame: &reply(9) });
    let _ = rig.take();
    rig.run(300);
    assert_eq!((rig.role(), rig.take()), (Role::Initialize, vec![]));
    rig.run(1);
    assert_eq!(rig.take(), ["AddressInUse", "Blocked"]);
}

#[test]
fn our_own_probe_and_another_nodes_probe_are_no_conflict() {
    let mut rig = Rig::new(probing(1));
    rig.run(50);
    let _ = rig.take();
    for n in [1, 2] {
        let frame = Arp::probe(mac(n), "10.9.0.100".parse().expect("address")).encode(Mac::BROADCAST);
        rig.input(Input::Neighbor { link: LINK, frame: &frame });
    }
    rig.input(Input::Neighbor { link: LINK, frame: &reply(1) });
    assert_eq!(rig.take(), Vec::<String>::new());
}

#[test]
fn a_link_that_flaps_does_not_probe_again() {
    let mut rig = Rig::new(probing(1));
    rig.run(700);
    let _ = rig.take();
    rig.input(Input::Link(LinkInfo { up: false, ..super::harness::link(1) }));
    rig.input(Input::Link(super::harness::link(1)));
    rig.run(1);
    assert_eq!(rig.role(), Role::Backup);
    assert!(!rig.take().iter().any(|w| w.starts_with("probe")));
}
