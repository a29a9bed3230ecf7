//! Host routes of groups: announced by the owner only, withdrawn with the right to own.

use super::config::{Announce, GroupConfig};
use super::harness::{LINK, Lan, Rig, group, ip, keyed, link, node};
use super::health::gated;
use super::*;
use crate::announce::route::Want;

fn routed(priority: u8) -> GroupConfig {
    GroupConfig { announce: Announce::Bgp, ..group(priority) }
}

/// Routes are drained for 3 s.
fn slow(config: NodeConfig) -> NodeConfig {
    NodeConfig { route_drain: Duration::from_secs(3), ..config }
}

/// What was told about routes since the last look.
fn routes(rig: &mut Rig) -> Vec<String> {
    let told = |w: &String| ["announce ", "drain ", "withdraw "].iter().any(|p| w.starts_with(p));
    rig.take().into_iter().filter(told).collect()
}

#[test]
fn a_claim_is_announced_when_its_addresses_are_there_and_without_arp() {
    let mut rig = Rig::new(node(1, vec![GroupConfig { conflict_probe: true, ..routed(254) }]));
    while rig.role() != Role::Active {
        let next = rig.node.poll_timeout().expect("a deadline");
        rig.run_to(next);
    }
    let claim = rig.take();
    assert!(!claim.iter().any(|w| w.starts_with("announce") || w.starts_with("probe")), "{claim:?}");
    rig.installed(0);
    assert_eq!(rig.take(), ["Takeover", "announce 10.9.0.100 api", "Routes"]);
    let since = rig.node.status(rig.now).groups[0].route;
    assert_eq!(since, Want::Announce);
    rig.run(70_000);
    let frames: Vec<String> =
        rig.take().into_iter().filter(|w| w.starts_with("first") || w.starts_with("refresh")).collect();
    assert!(frames.is_empty(), "BGP alone sends no gratuitous ARP: {frames:?}");
    // A rival's claim is noted and not answered: frames are not how this address is found.
    let arp = crate::wire::arp::Arp::announcement(super::harness::mac(9), [10, 9, 0, 100].into());
    rig.input(Input::Neighbor { link: LINK, frame: &arp.encode(crate::types::Mac::BROADCAST) });
    assert_eq!(rig.take(), ["Rival"]);
}

#[test]
fn both_ways_announce_in_one_step() {
    let mut rig = Rig::active(node(1, vec![GroupConfig { announce: Announce::Both, ..group(254) }]));
    assert_eq!(rig.node.status(rig.now).groups[0].route, Want::Announce);
    rig.input(Input::Link(LinkInfo { up: false, ..link(1) }));
    assert_eq!(routes(&mut rig), ["withdraw 10.9.0.100 api"]);
}

#[test]
fn what_ends_the_right_to_own_withdraws_first_in_its_step() {
    type Act = fn(&mut Rig);
    let unplanned: [(&str, Act); 2] = [
        ("a link that goes down", |rig| rig.input(Input::Link(LinkInfo { up: false, ..link(1) }))),
        ("a fence that is gone", |rig| rig.input(Input::Fence(FenceState::Unavailable("lost".into())))),
    ];
    for (what, act) in unplanned {
        let mut rig = Rig::active(slow(node(1, vec![routed(254)])));
        act(&mut rig);
        let owed = rig.take();
        let position = |w: &str| owed.iter().position(|x| x == w).unwrap_or_else(|| panic!("{what}: {w} in {owed:?}"));
        assert!(position("withdraw 10.9.0.100 api") < position("remove 10.9.0.100"), "{what}: {owed:?}");
    }
    // A closed fence: the kernel said no to every advert.
    let mut rig = Rig::active(node(1, vec![routed(254)]));
    let began = rig.now;
    while rig.role() == Role::Active {
        rig.input(Input::SendFailed { slot: Slot(0), error: "closed".into() });
        let next = rig.node.poll_timeout().expect("a deadline");
        rig.run_to(next);
        assert!(rig.now.since(began) < Duration::from_secs(2), "the fence never closed");
    }
    assert_eq!(routes(&mut rig), ["withdraw 10.9.0.100 api"]);
}

#[test]
fn a_planned_move_announces_at_the_successor_before_the_predecessor_withdraws() {
    let config = |n, priority| slow(keyed(n, vec![routed(priority)]));
    let mut lan = Lan::new(vec![config(1, 254), config(2, 206)]);
    lan.run(1_000);
    assert_eq!(lan.roles(), [Role::Active, Role::Backup]);
    let begun = lan.now;
    lan.command(0, 7, Command::Move { vip: "api".into(), to: "n2".into() });
    lan.run(5_000);
    assert_eq!(lan.roles(), [Role::Backup, Role::Active]);
    let announced = lan.when(1, begun, "announce 10.9.0.100");
    let drained = lan.when(0, begun, "drain 10.9.0.100");
    let withdrawn = lan.when(0, begun, "withdraw 10.9.0.100");
    assert_eq!(withdrawn, drained + Duration::from_secs(1), "the group's own drain time: the node is not drained");
    assert!(announced + Duration::from_millis(900) < withdrawn, "{announced:?} {withdrawn:?}");
    // And it serves what routers sent until the withdrawal reached them.
    assert_eq!(lan.when(0, begun, "remove 10.9.0.100"), withdrawn + Duration::from_millis(500));
    assert_eq!(lan.did(1, begun, &["withdraw", "drain"]), []);
}

#[test]
fn a_drained_owner_asks_routers_away_at_once_and_holds_out_for_the_drain_time() {
    let config = |n, priority| slow(keyed(n, vec![routed(priority)]));
    let mut lan = Lan::new(vec![config(1, 254), config(2, 206)]);
    lan.run(1_000);
    let begun = lan.now;
    lan.command(0, 7, Command::Drain);
    lan.run(5_000);
    assert_eq!(lan.roles(), [Role::Initialize, Role::Active]);
    assert_eq!(lan.when(0, begun, "drain 10.9.0.100"), begun, "before the hand-over");
    let announced = lan.when(1, begun, "announce 10.9.0.100");
    let withdrawn = lan.when(0, begun, "withdraw 10.9.0.100");
    assert!(announced < begun + Duration::from_millis(500), "{announced:?}");
    assert!(withdrawn >= announced + Duration::from_millis(2_900), "{withdrawn:?}");
    assert_eq!(lan.did(0, begun, &["drain", "withdraw", "announce"]).len(), 2, "each once");
}

#[test]
fn a_stop_ends_after_the_withdrawal_and_its_linger() {
    let mut rig = Rig::active(slow(node(1, vec![routed(254)])));
    rig.command(1, Command::Stop);
    assert_eq!(routes(&mut rig), ["drain 10.9.0.100 api"]);
    rig.run(2_999);
    assert_eq!(routes(&mut rig), Vec::<String>::new());
    rig.run(1);
    assert_eq!(rig.take(), ["withdraw 10.9.0.100 api", "Routes"]);
    rig.run(499);
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.run(1);
    assert_eq!(rig.take(), ["fence backup", "remove 10.9.0.100", "stopped"]);
}

#[test]
fn a_claim_again_within_the_farewell_announces_again_and_the_old_times_are_void() {
    let mut rig = Rig::active(slow(node(1, vec![routed(254)])));
    rig.command(1, Command::Drain);
    rig.run(500);
    assert_eq!(routes(&mut rig), ["drain 10.9.0.100 api"]);
    rig.command(2, Command::Undrain);
    rig.run(400);
    assert_eq!(rig.role(), Role::Active);
    rig.installed(0);
    assert_eq!(routes(&mut rig), ["announce 10.9.0.100 api"], "never withdrawn in between");
    rig.run(5_000);
    assert_eq!(routes(&mut rig), Vec::<String>::new());
    // The next way out has no farewell, whatever was left of the last.
    rig.input(Input::Link(LinkInfo { up: false, ..link(1) }));
    assert_eq!(routes(&mut rig), ["withdraw 10.9.0.100 api"]);
}

#[test]
fn a_reload_tells_only_what_changed() {
    let web = GroupConfig { name: "web".into(), vrid: 52, addresses: vec![ip(101)], ..routed(254) };
    let mut rig = Rig::active(node(1, vec![routed(254), web.clone()]));
    rig.reload(node(1, vec![routed(254), GroupConfig { priority: 110, ..web.clone() }]));
    assert_eq!(routes(&mut rig), Vec::<String>::new());
    // One address more of one VIP.
    let more = GroupConfig { addresses: vec![ip(101), ip(102)], ..web.clone() };
    rig.reload(node(1, vec![routed(254), more]));
    assert_eq!(routes(&mut rig), ["announce 10.9.0.102 web"]);
    rig.reload(node(1, vec![routed(254), web.clone()]));
    assert_eq!(routes(&mut rig), ["withdraw 10.9.0.102 web"]);
    // Another way to announce, in place.
    rig.reload(node(1, vec![group(254), web]));
    let owed = rig.take();
    assert!(owed.contains(&"withdraw 10.9.0.100 api".to_owned()), "{owed:?}");
    assert!(owed.contains(&"first 10.9.0.100".to_owned()), "ARP begins: {owed:?}");
    assert_eq!(rig.role(), Role::Active);
    // A VIP that is gone is asked away, then withdrawn.
    rig.reload(node(1, vec![group(254)]));
    assert_eq!(routes(&mut rig), ["drain 10.9.0.101 web"]);
    rig.run(1_000);
    assert_eq!(routes(&mut rig), ["withdraw 10.9.0.101 web"]);
}

#[test]
fn a_sick_owner_that_keeps_its_address_keeps_its_route() {
    let mut config = gated(node(1, vec![routed(254)]));
    config.gates[0].fall = 1;
    let mut rig = Rig::new(config);
    rig.input(Input::Probed { gate: "local".into(), ok: true, detail: "ok".into() });
    rig.run(400);
    rig.input(Input::Installed(Slot(0)));
    assert_eq!(routes(&mut rig), ["announce 10.9.0.100 api"]);
    rig.run(2_000);
    rig.input(Input::Probed { gate: "local".into(), ok: false, detail: "refused".into() });
    assert_eq!(routes(&mut rig), Vec::<String>::new(), "whenAllFail: keep");
}

#[test]
fn layer_two_alone_has_no_routes() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.command(1, Command::Stop);
    rig.run(5_000);
    assert_eq!(routes(&mut rig), Vec::<String>::new());
}
