//! What is refused, what is somebody else's, and what a foreign router on our VRID does.

use super::config::GroupConfig;
use super::harness::{LINK, Rig, centis, group, ip, node};
use super::*;

fn advert(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    Advert { vrid: 51, priority: 254, interval: centis(10), addresses: vec![ip(100)] }.encode(src, dst)
}

fn all_routers() -> IpAddr {
    IpAddr::V4(crate::wire::vrrp::GROUP_V4)
}

fn heard(rig: &Rig) -> u64 {
    rig.node.status(rig.now).groups[0].adverts_heard
}

#[test]
fn s7_1_what_fails_a_check_is_refused_counted_and_logged_once() {
    let mut rig = Rig::new(node(1, vec![group(200)]));
    let good = advert(ip(9), all_routers());
    let broken = |i: usize, v: u8| {
        let mut bytes = good.clone();
        bytes[i] = v;
        bytes
    };
    let cases: [(&str, u8, Vec<u8>); 6] = [
        ("TTL 254, not 255", 254, good.clone()),
        ("VRRP version 2, not 3", 255, broken(0, 0x21)),
        ("VRRP type 2, not 1 (ADVERTISEMENT)", 255, broken(0, 0x32)),
        ("VRID 0", 255, broken(1, 0)),
        ("advert of 7 bytes is shorter than the 8 it announces", 255, good[..7].to_vec()),
        ("checksum", 255, broken(6, good[6] ^ 1)),
    ];
    let before = rig.node.poll_timeout();
    let mut logged = 0;
    for (want, ttl, payload) in cases {
        rig.owed.clear();
        rig.input(Input::Vrrp { link: LINK, src: ip(9), dst: all_routers(), ttl, payload: &payload });
        let [Action::Report(Event::Refused { channel, source, error, first })] = &rig.owed[..] else {
            panic!("{want}: {:?}", rig.owed)
        };
        assert!(error.contains(want), "{error}");
        assert_eq!((*channel, *source), ("vrrp", ip(9)));
        logged += u32::from(*first);
    }
    assert_eq!((logged, heard(&rig), rig.node.poll_timeout()), (1, 0, before));
}

#[test]
fn s7_1_other_vrids_other_links_and_our_own_packets_are_not_heard() {
    let mut rig = Rig::new(node(1, vec![group(200)]));
    let other = Advert { vrid: 52, priority: 254, interval: centis(10), addresses: vec![ip(100)] };
    let other = other.encode(ip(9), all_routers());
    rig.input(Input::Vrrp { link: LINK, src: ip(9), dst: all_routers(), ttl: 255, payload: &other });
    let ours = advert(ip(1), all_routers());
    rig.input(Input::Vrrp { link: LINK, src: ip(1), dst: all_routers(), ttl: 255, payload: &ours });
    let good = advert(ip(9), all_routers());
    rig.input(Input::Vrrp { link: LinkId(3), src: ip(9), dst: all_routers(), ttl: 255, payload: &good });
    assert_eq!((heard(&rig), rig.take()), (0, vec![]));
    rig.input(Input::Vrrp { link: LINK, src: ip(9), dst: all_routers(), ttl: 255, payload: &good });
    assert_eq!(heard(&rig), 1);
}

#[test]
fn unicast_hears_and_tells_the_listed_peers_only() {
    let unicast = GroupConfig { unicast_peers: vec![ip(2), ip(3)], ..group(200) };
    let mut rig = Rig::new(node(1, vec![unicast]));
    rig.hear(9, 254);
    assert_eq!(heard(&rig), 0);
    rig.hear(2, 110);
    assert_eq!(heard(&rig), 1);
    rig.run(400);
    let sent: Vec<IpAddr> = rig
        .owed
        .iter()
        .filter_map(|a| match a {
            Action::SendVrrp { dst, .. } => Some(*dst),
            _ => None,
        })
        .collect();
    assert_eq!(sent[..2], [ip(2), ip(3)]);
}

#[test]
fn vrid_in_use_means_no_claim_while_it_is_heard() {
    let mut rig = Rig::new(node(1, vec![group(254)]));
    for _ in 0..50 {
        rig.hear_from(ip(9), 100, vec![ip(77)]);
        rig.run(100);
    }
    let owed = rig.take();
    assert_eq!(owed, ["VridInUse"], "said once");
    let condition = rig.node.status(rig.now).groups[0].condition.clone();
    assert_eq!(condition.as_deref(), Some("vrid_in_use: 10.9.0.9 advertises VRID 51 with other addresses"));
    rig.run(1_000);
    let owed = rig.take();
    assert_eq!(owed[0], "fence active", "three of its intervals and the skew later: {owed:?}");
    assert!(owed.contains(&"VridInUse".to_owned()), "said when it is over: {owed:?}");
    assert_eq!(rig.node.status(rig.now).groups[0].condition, None);
}

#[test]
fn a_foreign_routers_release_is_not_our_owners() {
    let mut rig = Rig::new(node(1, vec![group(206)]));
    rig.hear(2, 254);
    let before = rig.node.poll_timeout();
    rig.hear_from(ip(9), 0, vec![ip(77)]);
    assert_eq!(rig.node.poll_timeout(), before);
    assert_eq!(rig.node.status(rig.now).groups[0].owner, Some(ip(2)));
}

#[test]
fn an_active_is_not_deposed_by_a_foreign_router() {
    let mut rig = Rig::active(node(1, vec![group(110)]));
    rig.hear_from(ip(9), 254, vec![ip(77)]);
    assert_eq!((rig.role(), rig.take()), (Role::Active, vec!["VridInUse".to_owned()]));
}

#[test]
fn address_order_does_not_matter() {
    let two = GroupConfig { addresses: vec![ip(100), ip(101)], ..group(110) };
    let mut rig = Rig::new(node(1, vec![two]));
    rig.hear_from(ip(9), 254, vec![ip(101), ip(100)]);
    assert_eq!(rig.take(), Vec::<String>::new());
    assert_eq!(rig.node.status(rig.now).groups[0].owner, Some(ip(9)));
}
