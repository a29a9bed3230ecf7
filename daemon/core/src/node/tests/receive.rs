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

/// Active, announced, then outranked by n9.
fn displaced() -> Rig {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    rig.hear(9, 254);
    assert_eq!(rig.role(), Role::Backup);
    let _ = rig.take();
    rig
}

fn probes(rig: &mut Rig) -> usize {
    rig.take().iter().filter(|w| w.starts_with("probe")).count()
}

#[test]
fn who_gave_way_asks_until_the_winner_announces() {
    let mut rig = displaced();
    let mut asked = Vec::new();
    for _ in 0..100 {
        rig.hear(9, 254);
        rig.run(100);
        asked.push(probes(&mut rig));
    }
    let when: Vec<usize> = (0..100).filter(|i| asked[*i] > 0).collect();
    assert_eq!(when, [0, 2, 6, 14, 30, 62], "100 ms, doubled each time, six in all");
    let mut rig = displaced();
    let winner = crate::wire::arp::Arp::announcement(super::harness::mac(9), [10, 9, 0, 100].into());
    rig.input(Input::Neighbor { link: LINK, frame: &winner.encode(crate::types::Mac::BROADCAST) });
    rig.hear(9, 254);
    rig.run(250);
    assert_eq!(probes(&mut rig), 0, "it has");
}

#[test]
fn who_never_announced_has_nothing_to_take_back() {
    let mut rig = Rig::new(node(1, vec![group(200)]));
    while rig.role() != Role::Active {
        let next = rig.node.poll_timeout().expect("a deadline");
        rig.run_to(next);
    }
    rig.hear(9, 254);
    let _ = rig.take();
    rig.run(150);
    assert_eq!((rig.role(), probes(&mut rig)), (Role::Backup, 0));
}

#[test]
fn an_owner_that_is_probed_announces_itself_once_a_second() {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    rig.run(1_000);
    let _ = rig.take();
    let probe = crate::wire::arp::Arp::probe(super::harness::mac(9), [10, 9, 0, 100].into());
    let frame = probe.encode(crate::types::Mac::BROADCAST);
    rig.input(Input::Neighbor { link: LINK, frame: &frame });
    assert_eq!(rig.take(), ["defend 10.9.0.100", "defend 10.9.0.100"], "both ARP forms, and no rival");
    rig.input(Input::Neighbor { link: LINK, frame: &frame });
    rig.run(900);
    assert!(!rig.take().iter().any(|w| w.starts_with("defend") || w.starts_with("refresh")));
    let mut backup = Rig::new(node(1, vec![group(200)]));
    backup.input(Input::Neighbor { link: LINK, frame: &frame });
    assert_eq!(backup.take(), Vec::<String>::new());
}
