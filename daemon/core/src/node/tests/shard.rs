//! Groups whose virtual router is not made of their addresses.

use super::config::{GroupConfig, ShardRouter};
use super::harness::{Rig, group, ip, ip6, node};
use super::*;

const IDENTITY: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(169, 254, 7, 9));

/// Node 1's part in a shard of these VIPs.
fn shard(addresses: Vec<IpAddr>) -> GroupConfig {
    GroupConfig { addresses, shard: Some(ShardRouter { identity: IDENTITY, node: ip(1) }), ..group(254) }
}

fn advert(rig: &Rig) -> Advert {
    let sent = rig.owed.iter().rev().find_map(|a| match a {
        Action::SendVrrp { src, dst, payload, .. } => Advert::parse(payload, *src, *dst).ok(),
        _ => None,
    });
    sent.expect("an advert")
}

/// An advert of another node for the same virtual router.
fn heard(rig: &mut Rig, from: u8, addresses: Vec<IpAddr>, priority: u8) {
    let advert = Advert { vrid: 51, priority, interval: Centis::new(10).expect("in range"), addresses };
    let dst = IpAddr::V4(crate::wire::vrrp::GROUP_V4);
    let payload = advert.encode(ip(from), dst);
    rig.input(Input::Vrrp { link: super::harness::LINK, src: ip(from), dst, ttl: 255, payload: &payload });
}

/// The kernel walks along all addresses of a link for each renewal, and shards have thousands.
#[test]
fn addresses_of_shards_live_longer_and_are_renewed_less_often() {
    let other = GroupConfig { name: "web".into(), vrid: 52, addresses: vec![ip(101)], ..group(254) };
    let mut rig = Rig::active(node(1, vec![shard(vec![ip(100)]), other]));
    let renewals = |rig: &mut Rig, ms: u64| -> Vec<String> {
        rig.run(ms);
        rig.take().into_iter().filter(|what| what.starts_with("renew")).collect()
    };
    let mut all = renewals(&mut rig, 26_000);
    all.sort();
    let often = ["renew 1 for 10s"; 6];
    assert_eq!(all, [&often[..], &["renew 1 for 30s"; 2]].concat(), "every 4 s, and every 12 s");
    rig.reload(node(1, vec![shard(vec![ip(100), ip(102)])]));
    let lives = |a: &Action| match a {
        Action::Install { lifetime, .. } => Some(*lifetime),
        _ => None,
    };
    assert_eq!(rig.owed.iter().filter_map(lives).collect::<Vec<_>>(), [SHARD_LIFETIME]);
}

#[test]
fn an_empty_shard_is_elected_and_vips_come_and_go_in_it() {
    let mut rig = Rig::active(node(1, vec![shard(vec![])]));
    rig.run(100);
    assert_eq!(advert(&rig).addresses, [IDENTITY]);
    let _ = rig.take();
    rig.reload(node(1, vec![shard(vec![ip(100), ip6("2001:db8::7")])]));
    let now = rig.now;
    rig.run_to(now);
    assert_eq!(
        rig.take(),
        [
            "ConfigApplied",
            "register 0 10.9.0.100,2001:db8::7",
            "fence active",
            "install 10.9.0.100,2001:db8::7",
            "first 10.9.0.100",
            "first 10.9.0.100",
            "first 2001:db8::7"
        ]
    );
    rig.run(100);
    assert_eq!(advert(&rig).addresses, [IDENTITY], "whatever it owns");
    let _ = rig.take();
    rig.reload(node(1, vec![shard(vec![ip6("2001:db8::7")])]));
    assert_eq!(
        rig.take(),
        ["ConfigApplied", "register 0 2001:db8::7,10.9.0.100", "fence active", "remove 10.9.0.100"],
        "what stays is not touched"
    );
    assert_eq!(rig.role(), Role::Active);
    let status = rig.node.status(rig.now);
    assert_eq!(status.groups[0].families, [Family::V4]);
    assert_eq!(status.groups[0].addresses, [ip6("2001:db8::7")]);
}

#[test]
fn a_peer_with_other_vips_is_the_same_router_and_one_with_another_identity_is_not() {
    let mut rig = Rig::new(node(1, vec![shard(vec![ip(100)])]));
    heard(&mut rig, 2, vec![IDENTITY], 206);
    rig.run(250);
    heard(&mut rig, 2, vec![IDENTITY], 206);
    rig.run(250);
    assert_eq!((rig.role(), rig.node.status(rig.now).groups[0].owner), (Role::Backup, Some(ip(2))));
    let mut foreign = Rig::new(node(1, vec![shard(vec![ip(100)])]));
    heard(&mut foreign, 2, vec![ip(100)], 206);
    let condition = foreign.node.status(foreign.now).groups[0].condition.clone();
    assert!(condition.is_some_and(|c| c.starts_with("vrid_in_use")));
}

#[test]
fn a_barred_node_gives_up_and_is_no_fault_and_comes_back_as_a_backup() {
    let barred = GroupConfig { barred: Some("drained".into()), ..shard(vec![ip(100)]) };
    let mut rig = Rig::active(node(1, vec![shard(vec![ip(100)])]));
    rig.reload(node(1, vec![barred]));
    let owed = rig.take();
    assert!(owed.contains(&"advert 0 10.9.0.1".to_owned()), "released: {owed:?}");
    assert!(!owed.contains(&"Blocked".to_owned()), "who bars says so: {owed:?}");
    let status = rig.node.status(rig.now);
    assert_eq!(status.groups[0].condition.as_deref(), Some("drained"));
    assert!(status.ready && status.groups[0].barred);
    rig.run(3_000);
    assert_eq!(rig.role(), Role::Initialize);
    let _ = rig.take();
    rig.reload(node(1, vec![shard(vec![ip(100)])]));
    heard(&mut rig, 2, vec![IDENTITY], 206);
    rig.run(250);
    assert_eq!(rig.role(), Role::Backup, "nobody takes back");
}

#[test]
fn the_link_of_a_shard_is_that_of_the_nodes_address() {
    let elsewhere = |mut group: GroupConfig, last| {
        group.shard = Some(ShardRouter { identity: IDENTITY, node: ip(last) });
        group
    };
    let mut rig = Rig::new(node(1, vec![elsewhere(shard(vec![[192, 0, 2, 7].into()]), 1)]));
    rig.run(400);
    assert_eq!(rig.role(), Role::Active, "a VIP of no network of the link");
    let mut none = Rig::new(node(1, vec![elsewhere(shard(vec![ip(100)]), 77)]));
    none.run(3_000);
    let condition = none.node.status(none.now).groups[0].condition.clone();
    assert_eq!(condition.as_deref(), Some("no interface has this node's address 10.9.0.77"));
}

#[test]
fn shards_of_one_interval_soon_send_together_and_no_later_than_before() {
    let router = |n: u8| {
        let identity = IpAddr::from([169, 254, 7, n]);
        let shard = Some(ShardRouter { identity, node: ip(1) });
        GroupConfig { addresses: vec![], shard, name: format!("shard-{n}"), vrid: n, ..group(254 - 40 * n) }
    };
    // Skews differ by the priorities, so that each becomes Active at a time of its own; one has another interval.
    let slower = GroupConfig { interval: Centis::new(30).expect("in range"), ..router(4) };
    let mut rig = Rig::new(node(1, vec![router(1), router(2), router(3), slower]));
    let mut sent: Vec<(u8, Instant)> = Vec::new();
    let end = rig.now + Duration::from_millis(6_000);
    while let Some(next) = rig.node.poll_timeout().filter(|next| *next <= end) {
        rig.run_to(next);
        for action in core::mem::take(&mut rig.owed) {
            if let Action::SendVrrp { src, dst, payload, .. } = action {
                sent.push((Advert::parse(&payload, src, dst).expect("own advert").vrid, next));
            }
        }
    }
    let times = |vrid: u8| sent.iter().filter(|(of, _)| *of == vrid).map(|(_, at)| *at).collect::<Vec<_>>();
    for (vrid, interval) in [(1, 100), (2, 100), (3, 100), (4, 300)] {
        let gaps: Vec<u128> = times(vrid).windows(2).map(|pair| pair[1].since(pair[0]).as_millis()).collect();
        assert!(gaps.len() > 10 && gaps.iter().all(|gap| *gap <= interval), "{vrid}: {gaps:?}");
        let early = gaps.iter().filter(|gap| **gap < interval).count();
        assert!(early <= 2, "{vrid} hurries once for each that it meets: {gaps:?}");
    }
    let last = |vrid: u8| times(vrid).split_off(times(vrid).len() - 8);
    assert_eq!((last(1), last(1)), (last(2), last(3)));
    let first = |vrid: u8| times(vrid)[0];
    assert!(first(1) != first(2) && first(2) != first(3), "they did not begin so");
}
