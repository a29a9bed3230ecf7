//! Gates move ownership, and never to a worse node.

use super::config::{GroupConfig, WhenAllFail};
use super::harness::{Lan, Rig, group, keyed, node};
use super::*;
use crate::health::{GateConfig, ProbeKind};
use crate::types::sick_priority;

pub(super) fn gate(name: &str) -> GateConfig {
    GateConfig {
        name: name.into(),
        probe: ProbeKind::Tcp(([127, 0, 0, 1], 6443).into()),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 2,
    }
}

pub(super) fn gated(config: NodeConfig) -> NodeConfig {
    let groups = config.groups.into_iter().map(|g| GroupConfig { gates: vec!["local".into()], ..g }).collect();
    NodeConfig { gates: vec![gate("local")], groups, ..config }
}

fn probed(rig: &mut Rig, ok: bool, times: usize) {
    for _ in 0..times {
        rig.input(Input::Probed { gate: "local".into(), ok, detail: "tcp".into() });
    }
}

#[test]
fn a_node_does_not_call_itself_healthy_before_it_knows() {
    let mut rig = Rig::new(gated(node(1, vec![group(254)])));
    assert_eq!(rig.node.status(rig.now).groups[0].priority, sick_priority(254));
    rig.run(101);
    assert_eq!(rig.take(), ["probe local"]);
    probed(&mut rig, true, 1);
    assert_eq!(rig.take(), ["Gate", "Health"]);
    assert_eq!(rig.node.status(rig.now).groups[0].priority, 254);
    rig.run(1_000);
    assert!(rig.take().contains(&"probe local".to_owned()), "every interval");
}

#[test]
fn a_sick_active_says_so_at_once_and_keeps_what_nobody_takes() {
    let mut rig = Rig::new(gated(node(1, vec![group(254)])));
    probed(&mut rig, true, 1);
    rig.run(400);
    let _ = rig.take();
    probed(&mut rig, false, 1);
    assert_eq!(rig.take(), Vec::<String>::new(), "fall is 2");
    probed(&mut rig, false, 1);
    assert_eq!(rig.take(), ["Gate", "Health", "advert 99 10.9.0.1"]);
    rig.run(10_000);
    assert_eq!(rig.role(), Role::Active);
}

fn pair(config: fn(u8, Vec<GroupConfig>) -> NodeConfig) -> Lan {
    let mut lan = Lan::new(vec![gated(config(1, vec![group(254)])), gated(config(2, vec![group(206)]))]);
    lan.rigs.iter_mut().for_each(|rig| probed(rig, true, 1));
    lan.run(2_000);
    assert_eq!(lan.roles(), [Role::Active, Role::Backup]);
    lan
}

#[test]
fn a_healthy_backup_takes_from_a_sick_active_within_its_skew() {
    let mut lan = pair(node);
    let start = lan.now;
    probed(&mut lan.rigs[0], false, 2);
    lan.run(1_000);
    assert_eq!(lan.roles(), [Role::Backup, Role::Active]);
    let took = lan.when(1, start, "active by sick_active").since(start);
    assert_eq!(took, Duration::from_nanos(100_000 + 19_531_250), "one flight and the skew of priority 206");
    // Recovery gives nothing back.
    probed(&mut lan.rigs[0], true, 2);
    lan.run(5_000);
    assert_eq!(lan.roles(), [Role::Backup, Role::Active]);
}

#[test]
fn with_peers_a_sick_active_hands_over_without_a_release() {
    let mut lan = pair(keyed);
    let start = lan.now;
    probed(&mut lan.rigs[0], false, 2);
    lan.run(1_000);
    assert_eq!(lan.roles(), [Role::Backup, Role::Active]);
    assert_eq!(lan.did(0, start, &["advert 0"]), []);
    assert_eq!(lan.did(1, start, &["backup", "initialize"]), []);
}

#[test]
fn when_every_node_is_sick_the_holder_keeps_it() {
    let mut lan = pair(keyed);
    let start = lan.now;
    probed(&mut lan.rigs[1], false, 2);
    lan.run(100);
    probed(&mut lan.rigs[0], false, 2);
    lan.run(5_000);
    assert_eq!(lan.roles(), [Role::Active, Role::Backup]);
    assert_eq!(lan.did(1, start, &["active"]), []);
    // The first to recover takes it.
    probed(&mut lan.rigs[1], true, 2);
    lan.run(100);
    assert_eq!(lan.roles(), [Role::Backup, Role::Active]);
}

#[test]
fn release_when_all_fail_leaves_the_election_and_comes_back() {
    let release = GroupConfig { when_all_fail: WhenAllFail::Release, ..group(254) };
    let mut rig = Rig::new(gated(node(1, vec![release])));
    assert_eq!(rig.role(), Role::Initialize);
    probed(&mut rig, true, 1);
    rig.run(301);
    assert_eq!(rig.role(), Role::Active);
    let _ = rig.take();
    probed(&mut rig, false, 2);
    let owed = rig.take();
    assert!(
        owed.contains(&"advert 0 10.9.0.1".to_owned()) && owed.contains(&"initialize by unhealthy".to_owned()),
        "{owed:?}"
    );
    probed(&mut rig, true, 2);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn every_gate_of_the_group_must_be_open() {
    let mut config = gated(node(1, vec![group(254)]));
    config.gates.push(gate("disk"));
    config.groups[0].gates.push("disk".into());
    let mut rig = Rig::new(config);
    probed(&mut rig, true, 1);
    assert!(!rig.node.status(rig.now).groups[0].healthy);
    rig.input(Input::Probed { gate: "disk".into(), ok: true, detail: String::new() });
    assert!(rig.node.status(rig.now).groups[0].healthy);
}
