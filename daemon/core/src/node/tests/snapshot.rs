//! The snapshot for people.

use super::harness::{Rig, dual_group, ip, ip6, node};
use super::health::gated;
use super::*;
use crate::node::status::{GateStatus, GroupStatus, NodeStatus};

#[test]
fn snapshot_of_an_owner_and_of_a_backup() {
    let mut rig = Rig::new(gated(node(1, vec![dual_group(254)])));
    rig.input(Input::Probed { gate: "local".into(), ok: true, detail: "connected in 1 ms".into() });
    rig.run(400);
    rig.input(Input::Installed(Slot(0)));
    let term = rig.node.groups[0].term;
    let owner = NodeStatus {
        node: "n1".into(),
        fence_policy: FencePolicy::Required,
        fence_ready: true,
        fence_error: None,
        drained: false,
        ready: true,
        groups: vec![GroupStatus {
            name: "api".into(),
            addresses: vec![ip(100), ip6("fe80::200:5eff:fe00:233"), ip6("2001:db8::100")],
            families: vec![Family::V4, Family::V6],
            interface: Some("eth0".into()),
            vrid: 51,
            lease: None,
            role: Role::Active,
            term,
            owner: Some(ip(1)),
            owner_priority: Some(254),
            since_seconds: 0.038_671_875,
            fence_margin_seconds: Some(0.236_328_125),
            priority: 254,
            healthy: true,
            draining: false,
            condition: None,
            barred: false,
            announce: super::config::Announce::L2,
            route: crate::announce::route::Want::Withdraw,
            adverts_sent: 1,
            adverts_heard: 0,
        }],
        anycast: vec![],
        gates: vec![GateStatus { name: "local".into(), up: true, detail: "connected in 1 ms".into() }],
    };
    assert_eq!(rig.node.status(rig.now), owner);
    rig.hear(9, 255);
    let backup = rig.node.status(rig.now);
    let want = GroupStatus {
        role: Role::Backup,
        owner: Some(ip(9)),
        owner_priority: Some(255),
        since_seconds: 0.0,
        fence_margin_seconds: None,
        adverts_sent: 2,
        adverts_heard: 1,
        ..owner.groups[0].clone()
    };
    assert_eq!(backup.groups, [want]);
    let last = rig.owed.iter().find_map(|a| match a {
        Action::Report(Event::Role { from, to, reason, term, owner, .. })
            if *to == Role::Backup && *from == Role::Active =>
        {
            Some((*reason, *term, *owner))
        }
        _ => None,
    });
    assert_eq!(last, Some((Reason::HigherPriority, term, Some(ip(9)))));
}

#[test]
fn probing_is_shown_and_not_ready() {
    let config = super::config::GroupConfig { conflict_probe: true, ..dual_group(254) };
    let mut rig = Rig::new(node(1, vec![config]));
    rig.run(100);
    let status = rig.node.status(rig.now);
    assert_eq!(status.groups[0].condition.as_deref(), Some("probing for a foreign holder"));
    assert!(!status.ready);
}
