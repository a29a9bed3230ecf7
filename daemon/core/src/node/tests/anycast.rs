//! VIPs that every eligible node announces: what is held, what is told, and when.

use super::config::{Announce, AnycastConfig, GroupConfig};
use super::harness::{LINK, Rig, group, ip, ip6, link, node};
use super::health::gate;
use super::*;
use crate::announce::route::Want;

const LO: LinkId = LinkId(1);

fn lo() -> LinkInfo {
    let own = ipnet::IpNet::new(IpAddr::from([127, 0, 0, 1]), 8).expect("prefix");
    LinkInfo { id: LO, name: "lo".into(), mac: crate::types::Mac::ZERO, up: true, addresses: vec![own] }
}

fn dns() -> AnycastConfig {
    AnycastConfig { name: "dns".into(), addresses: vec![ip(53)], gates: vec![] }
}

fn config(anycast: Vec<AnycastConfig>) -> NodeConfig {
    NodeConfig { anycast, route_drain: Duration::from_secs(3), ..node(1, vec![]) }
}

/// A node with its loopback, nothing answered yet.
fn start(config: NodeConfig) -> Rig {
    let mut rig = Rig::bare(&config, 1);
    rig.input(Input::Fence(FenceState::Ready));
    rig.input(Input::Link(link(1)));
    rig.input(Input::Link(lo()));
    rig.input(Input::Config(Box::new(config)));
    rig
}

/// The same with its addresses in place, and what that owed forgotten.
fn serving(config: NodeConfig) -> Rig {
    let count = config.anycast.len();
    let mut rig = start(config);
    for id in 1..=u64::try_from(count).expect("few") {
        rig.input(Input::Held { id, result: Ok(()) });
    }
    let _ = rig.take();
    rig
}

fn probed(rig: &mut Rig, ok: bool) {
    rig.input(Input::Probed { gate: "local".into(), ok, detail: "seen".into() });
}

#[test]
fn announced_when_the_addresses_stand_and_not_before() {
    let both = AnycastConfig { addresses: vec![ip(53), ip6("2001:db8::53")], ..dns() };
    let mut rig = start(config(vec![both]));
    assert_eq!(rig.take(), ["Fence", "ConfigApplied", "hold 10.9.0.53,2001:db8::53"]);
    assert!(!rig.node.status(rig.now).ready);
    rig.input(Input::Held { id: 1, result: Ok(()) });
    assert_eq!(rig.take(), ["announce 10.9.0.53 dns, announce 2001:db8::53 dns", "Routes"]);
    let status = rig.node.status(rig.now);
    assert!(status.ready && status.anycast[0].installed && status.anycast[0].route == Want::Announce);
    rig.run(60_000);
    assert_eq!(rig.take(), Vec::<String>::new(), "nothing to renew: the lifetime has no end");
}

#[test]
fn a_gate_that_falls_withdraws_in_its_step_and_one_that_rises_announces() {
    let gated = AnycastConfig { gates: vec!["local".into()], ..dns() };
    let mut gates = vec![gate("local")];
    gates[0].fall = 1;
    gates[0].rise = 1;
    let mut rig = serving(NodeConfig { gates, ..config(vec![gated]) });
    assert_eq!(rig.node.status(rig.now).anycast[0].route, Want::Withdraw, "unknown is not healthy");
    assert!(rig.node.status(rig.now).ready, "a closed gate is no fault of the node");
    probed(&mut rig, true);
    assert_eq!(rig.take(), ["Gate", "announce 10.9.0.53 dns", "Routes"]);
    probed(&mut rig, false);
    assert_eq!(
        rig.take(),
        ["Gate", "withdraw 10.9.0.53 dns", "Routes"],
        "and the address stays for what is on its way"
    );
    probed(&mut rig, true);
    assert_eq!(rig.take(), ["Gate", "announce 10.9.0.53 dns", "Routes"]);
}

#[test]
fn a_drain_asks_away_withdraws_lingers_and_releases() {
    for (command, ends) in [(Command::Drain, false), (Command::Stop, true)] {
        let mut rig = serving(config(vec![dns()]));
        rig.command(1, command);
        let owed: Vec<String> = rig.take().into_iter().filter(|w| w != "Drain" && !w.starts_with("done")).collect();
        assert_eq!(owed, ["drain 10.9.0.53 dns", "Routes"]);
        rig.run(2_999);
        assert_eq!(rig.take(), Vec::<String>::new());
        rig.run(1);
        assert_eq!(rig.take(), ["withdraw 10.9.0.53 dns", "Routes"]);
        rig.run(499);
        assert_eq!(rig.take(), Vec::<String>::new());
        rig.run(1);
        assert_eq!(rig.take(), if ends { vec!["release 10.9.0.53", "stopped"] } else { vec!["release 10.9.0.53"] });
        assert!(ends || rig.node.status(rig.now).ready, "drained is deliberate");
    }
}

#[test]
fn an_undrained_node_takes_part_again_at_every_stage() {
    for after in [0, 1_000, 3_200, 4_000] {
        let mut rig = serving(config(vec![dns()]));
        rig.command(1, Command::Drain);
        rig.run(after);
        let released = rig.take().iter().any(|w| w.starts_with("release"));
        rig.command(2, Command::Undrain);
        if released {
            rig.input(Input::Released { id: 1, result: Ok(()) });
            rig.input(Input::Held { id: 1, result: Ok(()) });
        }
        let owed = rig.take();
        assert_eq!(owed.iter().any(|w| w.starts_with("hold")), released, "{after}: {owed:?}");
        assert!(owed.contains(&"announce 10.9.0.53 dns".to_owned()), "{after}: {owed:?}");
        rig.run(10_000);
        assert_eq!(rig.take(), Vec::<String>::new(), "{after}: the old drain is void");
    }
}

#[test]
fn a_drain_of_what_is_not_announced_waits_for_nothing() {
    let mut sick = serving(NodeConfig {
        gates: vec![gate("local")],
        ..config(vec![AnycastConfig { gates: vec!["local".into()], ..dns() }])
    });
    sick.command(1, Command::Stop);
    assert_eq!(sick.take(), ["done 1 ok", "release 10.9.0.53", "stopped"]);
    // A gate that falls in the middle ends the announcement, not the drain.
    let mut gates = vec![gate("local")];
    gates[0].fall = 1;
    let mut rig = serving(NodeConfig { gates, ..config(vec![AnycastConfig { gates: vec!["local".into()], ..dns() }]) });
    probed(&mut rig, true);
    rig.command(1, Command::Drain);
    let _ = rig.take();
    probed(&mut rig, false);
    assert_eq!(rig.take(), ["Gate", "withdraw 10.9.0.53 dns", "Routes"]);
    rig.run(3_500);
    assert!(rig.take().contains(&"release 10.9.0.53".to_owned()));
}

#[test]
fn no_drain_time_still_lingers() {
    let mut rig = serving(NodeConfig { route_drain: Duration::ZERO, ..config(vec![dns()]) });
    rig.command(1, Command::Stop);
    assert_eq!(rig.take(), ["done 1 ok", "withdraw 10.9.0.53 dns", "Routes"]);
    rig.run(500);
    assert_eq!(rig.take(), ["release 10.9.0.53", "stopped"]);
}

#[test]
fn a_planned_restart_leaves_everything_as_it_is() {
    let routed = GroupConfig { announce: Announce::Bgp, drain_time: Duration::ZERO, ..group(254) };
    let both = NodeConfig { groups: vec![routed], ..config(vec![dns()]) };
    let mut rig = serving(both);
    rig.run(400);
    rig.input(Input::Installed(Slot(0)));
    assert_eq!(rig.role(), Role::Active);
    let _ = rig.take();
    rig.command(1, Command::Restart);
    rig.run(5_000);
    let owed = rig.take();
    assert!(!owed.iter().any(|w| w.contains("10.9.0.53")), "{owed:?}");
    assert!(owed.contains(&"withdraw 10.9.0.100 api".to_owned()), "an owner gives its groups away: {owed:?}");
    assert_eq!(owed.iter().filter(|w| *w == "stopped").count(), 1, "{owed:?}");
}

#[test]
fn a_lost_address_is_put_back_and_its_route_stays() {
    let mut rig = serving(config(vec![dns()]));
    rig.input(Input::AddressLost { link: LO, address: ip(53) });
    assert_eq!(rig.take(), ["hold 10.9.0.53", "AddressRestored"]);
    rig.input(Input::Held { id: 1, result: Ok(()) });
    assert_eq!(rig.take(), Vec::<String>::new());
    // On another link it is not ours to mind.
    rig.input(Input::AddressLost { link: LINK, address: ip(53) });
    assert_eq!(rig.take(), Vec::<String>::new());
    // What cannot be put back is withdrawn, and tried again.
    rig.input(Input::AddressLost { link: LO, address: ip(53) });
    let _ = rig.take();
    rig.input(Input::Held { id: 1, result: Err("no buffer space".into()) });
    assert_eq!(rig.take(), ["withdraw 10.9.0.53 dns", "Routes", "InstallFailed", "Blocked"]);
}

#[test]
fn what_the_kernel_refuses_is_asked_again() {
    let mut rig = start(config(vec![dns()]));
    let _ = rig.take();
    rig.input(Input::Held { id: 1, result: Err("no".into()) });
    assert_eq!(rig.take(), ["InstallFailed", "Blocked"]);
    let status = rig.node.status(rig.now);
    assert_eq!(status.anycast[0].condition.as_deref(), Some("addresses cannot be installed: no"));
    assert!(!status.ready);
    rig.run(4_999);
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.run(1);
    assert_eq!(rig.take(), ["hold 10.9.0.53"]);
    rig.input(Input::Held { id: 1, result: Ok(()) });
    assert_eq!(rig.take(), ["Blocked", "announce 10.9.0.53 dns", "Routes"]);
    // A refused release would stay for good.
    rig.reload(config(vec![]));
    rig.run(3_500);
    let _ = rig.take();
    rig.input(Input::Released { id: 1, result: Err("busy".into()) });
    rig.run(5_000);
    assert_eq!(rig.take(), ["InstallFailed", "release 10.9.0.53"]);
    rig.input(Input::Released { id: 1, result: Ok(()) });
    rig.run(60_000);
    assert_eq!(rig.take(), Vec::<String>::new());
}

#[test]
fn a_loopback_that_is_down_is_a_condition_and_no_route() {
    let mut rig = serving(config(vec![dns()]));
    rig.input(Input::Link(LinkInfo { up: false, ..lo() }));
    assert_eq!(rig.take(), ["withdraw 10.9.0.53 dns", "Routes", "Blocked"]);
    assert_eq!(rig.node.status(rig.now).anycast[0].condition.as_deref(), Some("interface lo is down"));
    rig.input(Input::Link(lo()));
    assert_eq!(rig.take(), ["Blocked", "announce 10.9.0.53 dns", "Routes"]);
    // The links of groups do not concern it.
    rig.input(Input::Link(LinkInfo { up: false, ..link(1) }));
    rig.input(Input::Fence(FenceState::Unavailable("none".into())));
    assert_eq!(rig.take(), ["Fence"]);
}

#[test]
fn an_unchanged_vip_never_notices_a_reload() {
    let web = AnycastConfig { name: "web".into(), addresses: vec![ip(80)], gates: vec![] };
    let mut rig = serving(config(vec![dns(), web.clone()]));
    let before = rig.node.status(rig.now);
    rig.reload(config(vec![dns(), web.clone()]));
    assert_eq!((rig.take(), rig.node.status(rig.now)), (vec!["ConfigApplied".to_owned()], before));
    rig.reload(config(vec![
        web.clone(),
        AnycastConfig { name: "new".into(), addresses: vec![ip(99)], gates: vec![] },
        dns(),
    ]));
    assert_eq!(rig.take(), ["ConfigApplied", "hold 10.9.0.99"]);
    let order: Vec<String> = rig.node.status(rig.now).anycast.into_iter().map(|a| a.name).collect();
    assert_eq!(order, ["web", "new", "dns"]);
    rig.reload(config(vec![web]));
    assert_eq!(rig.take(), ["ConfigApplied", "drain 10.9.0.53 dns", "Routes", "release 10.9.0.99"]);
    rig.run(3_500);
    assert_eq!(rig.take(), ["withdraw 10.9.0.53 dns", "Routes", "release 10.9.0.53"]);
}

#[test]
fn a_renamed_vip_is_told_by_its_new_name_and_nothing_moves() {
    let mut rig = serving(config(vec![dns()]));
    rig.reload(config(vec![AnycastConfig { name: "resolver".into(), ..dns() }]));
    assert_eq!(rig.take(), ["ConfigApplied", "announce 10.9.0.53 resolver", "Routes"]);
    rig.run(10_000);
    assert_eq!(rig.take(), Vec::<String>::new());
}

#[test]
fn addresses_come_and_go_one_by_one() {
    let with = |last: &[u8]| AnycastConfig { addresses: last.iter().map(|l| ip(*l)).collect(), ..dns() };
    let mut rig = serving(config(vec![with(&[53, 54])]));
    rig.reload(config(vec![with(&[53, 55])]));
    assert_eq!(rig.take(), ["ConfigApplied", "drain 10.9.0.54 dns", "Routes", "hold 10.9.0.53,10.9.0.55"]);
    rig.input(Input::Held { id: 1, result: Ok(()) });
    assert_eq!(rig.take(), ["announce 10.9.0.55 dns", "Routes"]);
    rig.run(3_000);
    assert_eq!(rig.take(), ["withdraw 10.9.0.54 dns", "Routes"]);
    rig.run(500);
    assert_eq!(rig.take(), ["release 10.9.0.54"]);
    // One that comes back while it is on its way out is kept.
    rig.reload(config(vec![with(&[53])]));
    assert_eq!(rig.take(), ["ConfigApplied", "drain 10.9.0.55 dns", "Routes"]);
    rig.reload(config(vec![with(&[53, 55])]));
    rig.input(Input::Held { id: 1, result: Ok(()) });
    let owed = rig.take();
    assert!(owed.contains(&"announce 10.9.0.55 dns".to_owned()), "{owed:?}");
    rig.run(10_000);
    assert_eq!(rig.take(), Vec::<String>::new(), "not withdrawn, not released");
}

#[test]
fn there_is_nothing_to_move() {
    let mut rig = serving(NodeConfig {
        keys: crate::wire::peer::Keys::new(vec![b"0123456789abcdef".to_vec()]),
        ..config(vec![dns()])
    });
    for vip in ["dns", "10.9.0.53"] {
        rig.command(1, Command::Move { vip: vip.into(), to: "n2".into() });
        let said = rig.owed.iter().find_map(|a| match a {
            Action::CommandDone { result: Err(why), .. } => Some(why.clone()),
            _ => None,
        });
        assert!(said.is_some_and(|w| w.contains("scope: all")), "{vip}");
        rig.owed.clear();
    }
}
