//! One group with both families: two virtual routers on the wire, one role.

use super::config::GroupConfig;
use super::harness::{LINK, Lan, Rig, dual_group, ip, ip6, keyed, link, node};
use super::*;

fn derived() -> IpAddr {
    ip6("fe80::200:5eff:fe00:233")
}

#[test]
fn both_families_advertise_and_both_are_announced() {
    let mut rig = Rig::new(node(1, vec![dual_group(254)]));
    rig.run(301);
    let claim = rig.take();
    assert_eq!(
        claim,
        [
            "fence active",
            "advert 254 10.9.0.1",
            "advert 254 fe80::1",
            "install 10.9.0.100,fe80::200:5eff:fe00:233,2001:db8::100",
            "active by active_down"
        ]
    );
    rig.installed(0);
    let frames: Vec<String> = rig.take().into_iter().filter(|w| w.starts_with("first")).collect();
    assert_eq!(
        frames,
        ["first 10.9.0.100", "first 10.9.0.100", "first fe80::200:5eff:fe00:233", "first 2001:db8::100"]
    );
}

#[test]
fn first_address_of_the_ipv6_router_is_link_local() {
    let mut rig = Rig::new(node(1, vec![dual_group(254)]));
    rig.run(301);
    let sent = rig.owed.iter().find_map(|a| match a {
        Action::SendVrrp { src, dst, payload, .. } if src.is_ipv6() => Advert::parse(payload, *src, *dst).ok(),
        _ => None,
    });
    assert_eq!(sent.expect("an IPv6 advert").addresses, [derived(), ip6("2001:db8::100")]);
    let configured = GroupConfig { link_local: Some("fe80::100".parse().expect("address")), ..dual_group(254) };
    assert_eq!(configured.advertised(Family::V6), [ip6("fe80::100"), ip6("2001:db8::100")]);
}

#[test]
fn one_families_adverts_are_enough_to_stay_backup() {
    for (src, addresses) in [(ip(9), vec![ip(100)]), (ip6("fe80::9"), vec![derived(), ip6("2001:db8::100")])] {
        let mut rig = Rig::new(node(1, vec![dual_group(110)]));
        for _ in 0..50 {
            rig.hear_from(src, 254, addresses.clone());
            rig.run(100);
        }
        assert_eq!(rig.role(), Role::Backup, "{src}");
        assert_eq!(rig.node.status(rig.now).groups[0].owner, Some(src), "the only name it has");
    }
}

#[test]
fn one_owner_is_shown_and_counted_as_one() {
    for v6_first in [false, true] {
        let mut wanted = dual_group(254);
        if v6_first {
            wanted.addresses.reverse();
        }
        let lower = GroupConfig { priority: 206, ..wanted.clone() };
        let mut lan = Lan::new(vec![node(1, vec![wanted]), node(2, vec![lower])]);
        lan.run(1_000);
        assert_eq!(lan.roles(), [Role::Active, Role::Backup]);
        let name = if v6_first { ip6("fe80::1") } else { ip(1) };
        for _ in 0..300 {
            lan.run(10);
            let owners: Vec<_> = lan.rigs.iter().map(|r| r.node.status(r.now).groups[0].owner).collect();
            assert_eq!(owners, [Some(name), Some(name)]);
        }
        let backup = &lan.rigs[1].node.groups[0];
        assert!(!backup.owner_changed(lan.now + Duration::from_secs(2)), "the same owner for 3 s");
    }
}

#[test]
fn move_asked_of_a_third_node_is_not_confirmed_early() {
    let configs = (1u8..=3).zip([254, 206, 158]).map(|(n, p)| keyed(n, vec![dual_group(p)])).collect();
    let mut lan = Lan::new(configs);
    lan.run(5_000);
    let start = lan.now;
    lan.command(1, 5, Command::Move { vip: "api".into(), to: "n3".into() });
    lan.run(1_500);
    assert_eq!(lan.roles(), [Role::Backup, Role::Backup, Role::Active]);
    assert!(lan.when(1, start, "done 5 ok") >= lan.when(2, start, "active by handover"));
}

#[test]
fn release_leaves_in_both_families() {
    let mut rig = Rig::active(node(1, vec![dual_group(254)]));
    rig.command(1, Command::Drain);
    let words: Vec<String> =
        rig.take().into_iter().filter(|w| w.starts_with("advert") || w.starts_with("fence")).collect();
    assert_eq!(words, ["fence leaving", "advert 0 10.9.0.1", "advert 0 fe80::1", "fence leaving"]);
}

#[test]
fn a_link_without_a_link_local_address_blocks_the_group() {
    let mut rig = Rig::new(node(1, vec![dual_group(254)]));
    let mut bare = link(1);
    bare.addresses.retain(|n| n.addr().is_ipv4());
    rig.input(Input::Link(bare));
    let condition = rig.node.status(rig.now).groups[0].condition.clone();
    assert_eq!(condition.as_deref(), Some("interface eth0 has no IPv6 link-local address of its own"));
    rig.input(Input::Link(link(1)));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn one_way_loss_ends_with_one_stable_owner() {
    let mut lan = Lan::new(vec![node(1, vec![dual_group(254)]), node(2, vec![dual_group(206)])]);
    lan.run(1_000);
    lan.deaf = vec![1];
    lan.run(5_000);
    assert_eq!(lan.roles(), [Role::Backup, Role::Active]);
    assert_eq!(lan.did(0, super::harness::at(0), &["OneWay"]).len(), 1);
}

#[test]
fn rival_in_ipv6_is_seen_by_its_advertisement() {
    let mut rig = Rig::active(node(1, vec![dual_group(254)]));
    rig.run(500);
    let _ = rig.take();
    let frame =
        crate::wire::ndp::unsolicited_advertisement(super::harness::mac(9), "2001:db8::100".parse().expect("address"));
    rig.input(Input::Neighbor { link: LINK, frame: &frame });
    assert_eq!(rig.take(), ["Rival", "defend 2001:db8::100"]);
}
