//! A new configuration is applied as a difference.

use super::config::GroupConfig;
use super::harness::{Rig, centis, group, ip, node};
use super::health::{gate, gated};
use super::*;

fn web() -> GroupConfig {
    GroupConfig { name: "web".into(), vrid: 52, addresses: vec![ip(101)], ..group(254) }
}

#[test]
fn an_unchanged_group_produces_no_action_at_all() {
    let config = gated(node(1, vec![group(254), web()]));
    let mut rig = Rig::active(config.clone());
    let before = (rig.node.poll_timeout(), rig.node.status(rig.now));
    rig.reload(config);
    assert_eq!(rig.take(), ["ConfigApplied"]);
    assert_eq!((rig.node.poll_timeout(), rig.node.status(rig.now)), before);
}

#[test]
fn a_changed_neighbour_is_not_noticed() {
    let mut rig = Rig::active(node(1, vec![group(254), web()]));
    rig.reload(node(1, vec![group(254), GroupConfig { priority: 110, ..web() }]));
    assert_eq!(rig.take(), ["ConfigApplied", "advert 110 10.9.0.1"]);
    let applied = node(1, vec![group(254)]);
    rig.reload(applied);
    let report = rig.owed.iter().find_map(|a| match a {
        Action::Report(Event::ConfigApplied { added, changed, removed, unchanged }) => {
            Some((added.len(), changed.len(), removed.clone(), *unchanged))
        }
        _ => None,
    });
    assert_eq!(report, Some((0, 0, vec!["web".to_owned()], 1)));
}

#[test]
fn addresses_change_in_place_without_losing_ownership() {
    let mut rig = Rig::active(node(1, vec![GroupConfig { addresses: vec![ip(100), ip(101)], ..group(254) }]));
    rig.reload(node(1, vec![GroupConfig { addresses: vec![ip(100), ip(102)], ..group(254) }]));
    let now = rig.now;
    rig.run_to(now);
    assert_eq!(
        rig.take(),
        [
            "ConfigApplied",
            // What goes is guarded until it is gone.
            "register 0 10.9.0.100,10.9.0.102,10.9.0.101",
            "fence active",
            "remove 10.9.0.101",
            // What stays is neither installed nor announced again.
            "install 10.9.0.102",
            "first 10.9.0.102",
            "first 10.9.0.102"
        ]
    );
    assert_eq!(rig.role(), Role::Active);
    rig.input(Input::Removed(Slot(0)));
    assert_eq!(rig.take(), ["register 0 10.9.0.100,10.9.0.102", "fence active"]);
    // What is advertised follows.
    rig.run(100);
    let sent = rig.owed.iter().find_map(|a| match a {
        Action::SendVrrp { src, dst, payload, .. } => Advert::parse(payload, *src, *dst).ok(),
        _ => None,
    });
    assert_eq!(sent.expect("an advert").addresses, [ip(100), ip(102)]);
}

#[test]
fn priority_and_interval_change_in_place_and_are_told_at_once() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    let term = rig.node.groups[0].term;
    rig.reload(node(1, vec![GroupConfig { priority: 110, ..group(254) }]));
    assert_eq!(rig.take(), ["ConfigApplied", "advert 110 10.9.0.1"]);
    rig.reload(node(1, vec![GroupConfig { priority: 110, interval: centis(100), ..group(254) }]));
    assert_eq!(rig.take(), ["ConfigApplied", "advert 110 10.9.0.1"]);
    rig.run(5_000);
    assert_eq!((rig.role(), rig.node.groups[0].term), (Role::Active, term), "one claim all along");
}

#[test]
fn preempt_and_announce_change_in_place_and_silently() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    let l2 = crate::announce::l2::AnnounceConfig { burst: 5, ..Default::default() };
    rig.reload(node(1, vec![GroupConfig { preempt: true, strict_rfc: true, l2, ..group(254) }]));
    assert_eq!(rig.take(), ["ConfigApplied"]);
}

#[test]
fn gates_change_in_place_and_unchanged_gates_keep_their_state() {
    let mut rig = Rig::new(gated(node(1, vec![group(254)])));
    rig.input(Input::Probed { gate: "local".into(), ok: true, detail: "ok".into() });
    rig.run(400);
    assert_eq!(rig.role(), Role::Active);
    let _ = rig.take();
    let mut more = gated(node(1, vec![group(254)]));
    more.gates.insert(0, gate("disk"));
    rig.reload(more.clone());
    assert_eq!(rig.take(), ["ConfigApplied"], "an unused gate changes no group");
    let status = rig.node.status(rig.now);
    assert_eq!(
        status.gates.iter().map(|g| (g.name.as_str(), g.up)).collect::<Vec<_>>(),
        [("disk", false), ("local", true)]
    );
    more.groups[0].gates = vec!["local".into(), "disk".into()];
    rig.reload(more);
    assert_eq!(rig.take(), ["ConfigApplied", "Health", "advert 99 10.9.0.1"], "unknown is not healthy");
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn another_vrid_is_left_with_a_release_and_begun_anew() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.reload(node(1, vec![GroupConfig { vrid: 60, ..group(254) }]));
    let owed = rig.take();
    let order: Vec<&str> = owed.iter().map(String::as_str).collect();
    let position = |w: &str| order.iter().position(|x| *x == w).unwrap_or_else(|| panic!("{w} in {order:?}"));
    let steps = [
        "fence leaving",
        "advert 0 10.9.0.1",
        "fence backup",
        "remove 10.9.0.100",
        "ConfigApplied",
        "register 1 10.9.0.100",
        "backup by started",
    ];
    assert!(steps.windows(2).all(|w| position(w[0]) < position(w[1])), "{order:?}");
    rig.input(Input::Removed(Slot(0)));
    assert_eq!(rig.take(), ["unregister 0"], "the old slot is forgotten when its addresses are gone");
    rig.run(400);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_removed_group_is_released_drained_and_forgotten() {
    let mut rig = Rig::active(node(1, vec![group(254), web()]));
    rig.reload(node(1, vec![web()]));
    assert_eq!(rig.node.status(rig.now).groups.len(), 1);
    let owed = rig.take();
    assert!(owed.contains(&"advert 0 10.9.0.1".to_owned()), "{owed:?}");
    rig.run(1_001);
    let ends: Vec<String> =
        rig.take().into_iter().filter(|w| !w.starts_with("advert") && !w.starts_with("burst")).collect();
    assert_eq!(ends, ["fence backup", "remove 10.9.0.100"]);
    rig.input(Input::Removed(Slot(0)));
    assert_eq!(rig.take(), ["unregister 0"], "guarded until the address is gone");
    // Its slot is free again.
    rig.reload(node(1, vec![web(), group(254)]));
    assert!(rig.take().contains(&"register 0 10.9.0.100".to_owned()));
}

#[test]
fn an_address_that_moves_to_another_group_is_let_go_first() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.reload(node(1, vec![GroupConfig { name: "new".into(), vrid: 60, ..group(254) }]));
    let owed = rig.take();
    let position = |w: &str| owed.iter().position(|x| x == w).unwrap_or_else(|| panic!("{w} in {owed:?}"));
    assert!(position("fence backup") < position("register 1 10.9.0.100"));
    assert!(position("remove 10.9.0.100") < position("register 1 10.9.0.100"), "guarded without a gap by the new slot");
    rig.input(Input::Removed(Slot(0)));
    assert_eq!(rig.take(), ["unregister 0"]);
}

#[test]
fn a_reload_while_stopping_does_not_bring_anything_back() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.command(1, Command::Stop);
    rig.reload(node(1, vec![group(254), web()]));
    rig.run(3_000);
    let owed = rig.take();
    assert_eq!(owed.iter().filter(|w| *w == "stopped").count(), 1, "{owed:?}");
    assert!(!owed.iter().any(|w| w.starts_with("backup") || w.starts_with("active")), "{owed:?}");
}

#[test]
fn a_shorter_interval_is_a_fresh_claim_that_ends_with_it() {
    let slow = |cs| GroupConfig { interval: centis(cs), ..group(254) };
    let mut rig = Rig::active(node(1, vec![slow(50)]));
    rig.reload(node(1, vec![slow(1)]));
    let ctl = rig.owed.iter().find_map(|a| match a {
        Action::Fence(FenceWrite::Ctl(_, ctl)) => Some(*ctl),
        _ => None,
    });
    let ctl = ctl.expect("the claim is written anew");
    assert!(ctl.deadline <= rig.now + crate::fence::window(centis(1)), "Backups wait 30 ms from now on: {ctl:?}");
    let words = rig.take();
    let position = |w: &str| words.iter().position(|x| x.starts_with(w)).unwrap_or_else(|| panic!("{w} in {words:?}"));
    assert!(position("fence active") < position("advert 254"), "{words:?}");
    assert_eq!(rig.role(), Role::Active);
}
