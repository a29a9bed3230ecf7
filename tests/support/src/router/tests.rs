//! The harness proves itself: routers against each other, asked from both sides.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::topology::{Routed, host};
use super::{BfdState, BfdTimers, Config, ExaBgp, Family, Frr, GracefulRestart, Hops, Kind, Neighbor, Router, State};
use super::{Change, RouteWatch};
use crate::{Lab, Result, Stamp};

const PATIENCE: Duration = Duration::from_secs(30);
/// AS of the router on the node, and of the one in the middle.
const NODE: u32 = 65010;
const ROUTER: u32 = 4_200_000_001;

/// The router of one kind on node 1, of another on router 1.
struct Pair {
    node: Box<dyn Router>,
    router: Box<dyn Router>,
    net: Routed,
    lab: Lab,
}

fn pair(name: &str, kinds: [Kind; 2], family: Family, shape: &dyn Fn(bool, &mut Config)) -> Result<Pair> {
    let lab = Lab::new(name)?;
    let net = Routed::build(&lab, 1, 1)?;
    let link = net.link(0, 0);
    let (near, far) = (link.node_address(family), link.router_address(family));
    let mut node = Config::new(NODE, "10.0.0.1".parse().unwrap()).neighbor(Neighbor::new(near, far, ROUTER));
    node = node.network(vip(family));
    let mut router = Config::new(ROUTER, "10.0.0.9".parse().unwrap()).neighbor(Neighbor::new(far, near, NODE));
    shape(true, &mut node);
    shape(false, &mut router);
    let (router, node) = (kinds[1].start(&lab, &net.routers[0], &router)?, kinds[0].start(&lab, &net.nodes[0], &node)?);
    Ok(Pair { node, router, net, lab })
}

fn vip(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => "192.0.2.1/32".parse().unwrap(),
        Family::Ipv6 => "2001:db8::1/128".parse().unwrap(),
    }
}

impl Pair {
    fn addresses(&self, family: Family) -> (IpAddr, IpAddr) {
        let link = self.net.link(0, 0);
        (link.node_address(family), link.router_address(family))
    }

    /// Both see the session, the router has the node's route with its attributes, and loses it when the node ends.
    fn exchange(mut self, family: Family) -> Result<()> {
        let (near, far) = self.addresses(family);
        let seen = self.router.wait_established(near, PATIENCE)?;
        let offered = &seen.capabilities;
        assert_eq!(offered.families, [family], "{:?}", self.router.kind());
        assert_eq!((offered.four_octet_as, offered.route_refresh), (Some(true), Some(true)));
        let seen = self.node.wait_established(far, PATIENCE)?;
        assert_eq!(seen.hold_time, Some(9), "{:?}", self.node.kind());
        let route = self.router.wait_route(vip(family), PATIENCE, "to come", &|r| r.is_some())?.expect("waited for");
        assert_eq!((route.next_hops.as_slice(), route.as_path.as_slice()), (&[near][..], &[NODE][..]));
        self.node.processes()[0].sigterm()?;
        self.router.wait_route(vip(family), PATIENCE, "to go", &|r| r.is_none())?;
        let seen = self.router.wait_session(near, PATIENCE, "to end", &|s| s.state != State::Established)?;
        assert_eq!((seen.hold_time, seen.received), (None, None));
        drop(self.lab);
        Ok(())
    }
}

#[test]
fn frr_and_bird_exchange_ipv4_and_ipv6() {
    let plain = |_: bool, _: &mut Config| {};
    for family in [Family::Ipv4, Family::Ipv6] {
        pair("frr-bird", [Kind::Frr, Kind::Bird], family, &plain).unwrap().exchange(family).unwrap();
        pair("bird-frr", [Kind::Bird, Kind::Frr], family, &plain).unwrap().exchange(family).unwrap();
    }
}

#[test]
fn gobgp_exchanges_with_frr_and_openbgpd() {
    let plain = |_: bool, _: &mut Config| {};
    pair("gobgp-frr", [Kind::GoBgp, Kind::Frr], Family::Ipv4, &plain).unwrap().exchange(Family::Ipv4).unwrap();
    pair("obgpd-gobgp", [Kind::OpenBgpd, Kind::GoBgp], Family::Ipv6, &plain).unwrap().exchange(Family::Ipv6).unwrap();
}

#[test]
fn exabgp_and_openbgpd_exchange() {
    let plain = |_: bool, _: &mut Config| {};
    pair("exa-obgpd", [Kind::ExaBgp, Kind::OpenBgpd], Family::Ipv4, &plain).unwrap().exchange(Family::Ipv4).unwrap();
    // ExaBGP does not dial here, as it will not towards a speaker that does.
    let passive = |node: bool, config: &mut Config| config.neighbors[0].passive = !node;
    pair("bird-exa", [Kind::Bird, Kind::ExaBgp], Family::Ipv6, &passive).unwrap().exchange(Family::Ipv6).unwrap();
}

#[test]
fn a_password_is_needed_on_both_sides() {
    let both = |_: bool, config: &mut Config| config.neighbors[0].password = Some("sesame".into());
    pair("md5", [Kind::OpenBgpd, Kind::Frr], Family::Ipv4, &both).unwrap().exchange(Family::Ipv4).unwrap();
    pair("md5", [Kind::GoBgp, Kind::Bird], Family::Ipv6, &both).unwrap().exchange(Family::Ipv6).unwrap();
    let one = |node: bool, config: &mut Config| {
        config.neighbors[0].password = Some(if node { "sesame" } else { "open" }.into());
    };
    let pair = pair("md5-wrong", [Kind::Bird, Kind::Frr], Family::Ipv4, &one).unwrap();
    let (near, far) = pair.addresses(Family::Ipv4);
    // Three dials of each side.
    let waited = pair.router.wait_established(near, Duration::from_secs(4));
    assert!(waited.is_err(), "{waited:?}");
    assert_ne!(pair.node.session(far).unwrap().state, State::Established);
}

#[test]
fn ttl_security_and_multihop() {
    let gtsm = |_: bool, config: &mut Config| config.neighbors[0].hops = Hops::Gtsm;
    pair("gtsm", [Kind::GoBgp, Kind::Frr], Family::Ipv4, &gtsm).unwrap().exchange(Family::Ipv4).unwrap();
    pair("gtsm", [Kind::OpenBgpd, Kind::Bird], Family::Ipv6, &gtsm).unwrap().exchange(Family::Ipv6).unwrap();
    let far = |_: bool, config: &mut Config| config.neighbors[0].hops = Hops::Multihop(3);
    pair("multihop", [Kind::ExaBgp, Kind::Frr], Family::Ipv4, &far).unwrap().exchange(Family::Ipv4).unwrap();
    pair("multihop", [Kind::Bird, Kind::GoBgp], Family::Ipv6, &far).unwrap().exchange(Family::Ipv6).unwrap();
}

#[test]
fn bfd_is_negotiated_and_a_cut_ends_the_session() {
    let timers = |node: bool, config: &mut Config| {
        let (transmit, receive, multiplier) = if node { (60, 50, 4) } else { (50, 100, 3) };
        let ms = Duration::from_millis;
        config.neighbors[0].bfd = Some(BfdTimers { transmit: ms(transmit), receive: ms(receive), multiplier });
    };
    let pair = pair("bfd", [Kind::Bird, Kind::Frr], Family::Ipv4, &timers).unwrap();
    let (near, far) = pair.addresses(Family::Ipv4);
    pair.router.wait_established(near, PATIENCE).unwrap();
    // RFC 5880 6.8.4 and 6.8.7: BIRD sends every 100 ms, FRR every 50; detection is the sender's multiplier times that.
    let negotiated = |router: &dyn Router, peer, transmit: u128, detection: u128| {
        let wanted = |s: &super::BfdSession| {
            s.state == BfdState::Up && s.transmit.as_millis() == transmit && s.detection.as_millis() == detection
        };
        router.wait_bfd(peer, PATIENCE, &wanted).unwrap();
    };
    negotiated(pair.router.as_ref(), near, 50, 400);
    negotiated(pair.node.as_ref(), far, 100, 150);
    let cut = pair.net.cut(0, &[0]).unwrap();
    pair.router.wait_bfd(near, PATIENCE, &|s| s.state != BfdState::Up).unwrap();
    // Long before the hold time of 9 s: vtysh itself takes its time here.
    pair.router.wait_route(vip(Family::Ipv4), Duration::from_secs(3), "to go", &|r| r.is_none()).unwrap();
    assert!(cut.dropped().unwrap() > 0);
    drop(cut);
    pair.router.wait_established(near, PATIENCE).unwrap();
}

#[test]
fn graceful_restart_is_offered_and_helped() {
    let on = |_: bool, config: &mut Config| config.graceful_restart = GracefulRestart::On(20);
    let mut pair = pair("gr", [Kind::Bird, Kind::Frr], Family::Ipv4, &on).unwrap();
    let near = pair.addresses(Family::Ipv4).0;
    let seen = pair.router.wait_established(near, PATIENCE).unwrap();
    let offered = seen.capabilities.graceful_restart.unwrap();
    assert_eq!((offered.restart_time, offered.families.len()), (20, 1));
    pair.router.wait_route(vip(Family::Ipv4), PATIENCE, "to come", &|r| r.is_some()).unwrap();
    // End-of-RIB must have come before a restart counts as one of a neighbour that was in order.
    pair.node.processes()[0].sigkill().unwrap();
    let stale = |r: Option<&super::Route>| r.is_some_and(|r| r.stale);
    pair.router.wait_route(vip(Family::Ipv4), PATIENCE, "to be stale", &stale).unwrap();
}

#[test]
fn every_attribute_is_seen_and_graceful_shutdown_is_obeyed() {
    for kind in Kind::ALL {
        let lab = Lab::new("attributes").unwrap();
        let net = Routed::build(&lab, 1, 1).unwrap();
        let (near, far) = (net.link(0, 0).node_address(Family::Ipv4), net.link(0, 0).router_address(Family::Ipv4));
        let mut neighbor = Neighbor::new(far, near, NODE);
        neighbor.graceful_shutdown = kind != Kind::ExaBgp;
        neighbor.passive = true;
        let config = Config::new(ROUTER, "10.0.0.9".parse().unwrap()).neighbor(neighbor);
        let router = kind.start(&lab, &net.routers[0], &config).unwrap();
        let config = Config::new(NODE, "10.0.0.1".parse().unwrap()).neighbor(Neighbor::new(near, far, ROUTER));
        let node = ExaBgp::start(&lab, &net.nodes[0], &config).unwrap();
        router.wait_established(near, PATIENCE).unwrap();
        let tagged = "next-hop self med 5 community [65010:7 65010:8] large-community [65010:1:2]";
        node.command(&format!("announce route {} {tagged}", vip(Family::Ipv4))).unwrap();
        let route = router.wait_route(vip(Family::Ipv4), PATIENCE, "to come", &|r| r.is_some()).unwrap().unwrap();
        assert_eq!((route.next_hops.as_slice(), route.as_path.as_slice()), (&[near][..], &[NODE][..]), "{kind:?}");
        assert_eq!(route.communities, [(65010, 7), (65010, 8)], "{kind:?}");
        assert_eq!((route.large.as_slice(), route.med), (&[(65010, 1, 2)][..], Some(5)), "{kind:?}");
        let shut = "next-hop self community [65535:0]";
        node.command(&format!("announce route {} {shut}", vip(Family::Ipv4))).unwrap();
        let local_pref = match kind {
            Kind::Frr | Kind::Bird | Kind::OpenBgpd => Some(0),
            Kind::GoBgp => Some(1),
            Kind::ExaBgp => None,
        };
        let obeyed = |r: Option<&super::Route>| {
            r.is_some_and(|r| r.communities == [(65535, 0)] && r.large.is_empty() && r.local_pref == local_pref)
        };
        router.wait_route(vip(Family::Ipv4), PATIENCE, "to be the last choice", &obeyed).unwrap();
        node.command(&format!("withdraw route {} next-hop self", vip(Family::Ipv4))).unwrap();
        router.wait_route(vip(Family::Ipv4), PATIENCE, "to go", &|r| r.is_none()).unwrap();
    }
}

#[test]
fn too_many_prefixes_end_the_session() {
    let limit = |node: bool, config: &mut Config| {
        if node {
            config.networks.extend((2..6).map(|last| host(IpAddr::from([192, 0, 2, last]))));
        } else {
            config.neighbors[0].max_prefix = Some(3);
        }
    };
    for kind in [Kind::Frr, Kind::Bird, Kind::GoBgp, Kind::OpenBgpd] {
        let pair = pair("limit", [Kind::ExaBgp, kind], Family::Ipv4, &limit).unwrap();
        let (near, far) = pair.addresses(Family::Ipv4);
        let over = |s: &super::Session| s.state != State::Established && s.last_error.is_some();
        pair.router.wait_session(near, PATIENCE, "to end", &over).unwrap();
        // Cease (6), Maximum Number of Prefixes Reached (1), as RFC 4486 3 has it, reached the other side.
        let told = |s: &super::Session| s.last_error.as_deref().is_some_and(|e| e.contains("(6,1)"));
        pair.node.wait_session(far, PATIENCE, "to be told", &told).unwrap();
    }
}

#[test]
fn routes_are_asked_for_again() {
    for kind in [Kind::Frr, Kind::Bird, Kind::OpenBgpd, Kind::ExaBgp] {
        let lab = Lab::new("refresh").unwrap();
        let net = Routed::build(&lab, 1, 1).unwrap();
        let (near, far) = (net.link(0, 0).node_address(Family::Ipv4), net.link(0, 0).router_address(Family::Ipv4));
        let mut neighbor = Neighbor::new(far, near, NODE);
        neighbor.passive = true;
        let config = Config::new(ROUTER, "10.0.0.9".parse().unwrap()).neighbor(neighbor);
        let router = kind.start(&lab, &net.routers[0], &config).unwrap();
        let config = Config::new(NODE, "10.0.0.1".parse().unwrap()).neighbor(Neighbor::new(near, far, ROUTER));
        let node = Frr::start(&lab, &net.nodes[0], &config).unwrap();
        router.wait_established(near, PATIENCE).unwrap();
        node.wait_established(far, PATIENCE).unwrap();
        let received = || {
            let text = node.vtysh(&format!("show bgp neighbors {far} json")).ok()?;
            super::json("", &text).ok()?[far.to_string()]["messageStats"]["routeRefreshRecv"].as_u64()
        };
        let before = received().unwrap();
        router.refresh(near).unwrap();
        let asked = || received().filter(|now| *now > before);
        crate::wait_for(PATIENCE, &format!("{kind:?}'s ROUTE-REFRESH"), asked).unwrap();
    }
}

#[test]
fn two_nodes_share_a_route_in_the_kernel() {
    for kind in [Kind::Frr, Kind::Bird] {
        let lab = Lab::new("ecmp").unwrap();
        let net = Routed::build(&lab, 2, 1).unwrap();
        let mut config = Config::new(ROUTER, "10.0.0.9".parse().unwrap());
        let mut nodes = Vec::new();
        for (number, node) in (1u32..).zip(&net.nodes) {
            let link = net.link(usize::try_from(number - 1).unwrap(), 0);
            for family in [Family::Ipv4, Family::Ipv6] {
                let (near, far) = (link.node_address(family), link.router_address(family));
                config = config.neighbor(Neighbor::new(far, near, NODE + number));
                let id = std::net::Ipv4Addr::from(number);
                if family == Family::Ipv4 {
                    let speaker = Config::new(NODE + number, id)
                        .neighbor(Neighbor::new(near, far, ROUTER))
                        .neighbor(Neighbor::new(
                            link.node_address(Family::Ipv6),
                            link.router_address(Family::Ipv6),
                            ROUTER,
                        ))
                        .network(vip(Family::Ipv4))
                        .network(vip(Family::Ipv6));
                    nodes.push(Kind::Bird.start(&lab, node, &speaker).unwrap());
                }
            }
        }
        let router = kind.start(&lab, &net.routers[0], &config).unwrap();
        for family in [Family::Ipv4, Family::Ipv6] {
            let both = |r: Option<&super::Route>| r.is_some_and(|r| r.next_hops.len() == 2);
            router.wait_route(vip(family), PATIENCE, "to have two next hops", &both).unwrap();
            let in_kernel = || {
                let version = if family == Family::Ipv4 { "-4" } else { "-6" };
                let text = net.routers[0].tool("ip", &[version, "route", "show", &vip(family).to_string()]).unwrap();
                (text.matches("via").count() == 2).then_some(())
            };
            crate::wait_for(PATIENCE, &format!("{kind:?}: two next hops in the kernel"), in_kernel).unwrap();
        }
    }
}

#[test]
fn the_kernels_routes_are_watched() {
    let lab = Lab::new("watch").unwrap();
    let net = Routed::build(&lab, 1, 1).unwrap();
    let watch = RouteWatch::start(&net.routers[0]).unwrap();
    for prefix in [vip(Family::Ipv4), vip(Family::Ipv6)] {
        let (family, via) = (Family::of(prefix.addr()), net.link(0, 0));
        let (version, via) = (if family == Family::Ipv4 { 4 } else { 6 }, via.node_address(family));
        let before = Stamp::now();
        net.routers[0].route(version, &format!("{prefix} via {via}")).unwrap();
        let set = watch.wait(prefix, Change::Set, before, PATIENCE).unwrap();
        assert!(watch.events(before).iter().all(|e| e.change == Change::Set));
        net.routers[0].tool("ip", &["route", "del", &prefix.to_string()]).unwrap();
        watch.wait(prefix, Change::Gone, set.at, PATIENCE).unwrap();
    }
    assert!(!watch.overrun());
}
