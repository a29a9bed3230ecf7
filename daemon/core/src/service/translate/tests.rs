use core::time::Duration;

use super::super::{Affinity, Return, WhenUnplaced};
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service() -> KubeService {
    KubeService {
        namespace: "shop".into(),
        name: "web".into(),
        labels: std::collections::BTreeMap::new(),
        class: None,
        vips: vec![ip("192.0.2.1")],
        ports: vec![KubePort { name: "http".into(), port: 80, protocol: Protocol::Tcp }],
        local: false,
        affinity: Affinity::None,
        sources: vec![],
        publish_not_ready: false,
        health_check_node_port: 0,
    }
}

fn policy() -> Policy {
    Policy {
        classes: ["bascule.dev/vip".to_owned()].into(),
        unclassed: true,
        node: "n1".into(),
        everywhere: true,
        delivery: Delivery::Direct,
        returns: Return::Direct,
        when_unplaced: WhenUnplaced::Delegate,
        drain: Duration::from_secs(60),
    }
}

fn endpoint(address: &str, node: &str) -> SliceEndpoint {
    SliceEndpoint { address: ip(address), ready: None, serving: None, terminating: None, node: Some(node.into()) }
}

fn slice(port: u16, endpoints: Vec<SliceEndpoint>) -> Arc<Slice> {
    let family = endpoints.first().map_or(Family::V4, |e| Family::of(&e.address));
    let ports = vec![SlicePort { name: "http".into(), port, protocol: Protocol::Tcp }];
    Arc::new(Slice { family, ports, endpoints })
}

fn done(service: &KubeService, slices: &[Arc<Slice>]) -> Wishes {
    translate(service, slices, &policy()).expect("ours")
}

/// Endpoints of the first service that take new connections, and those that only keep what they have.
fn taking(wishes: &Wishes) -> (Vec<&str>, Vec<&str>) {
    let all = wishes.services[0].endpoints.iter();
    let (keeping, taking): (Vec<&EndpointSpec>, Vec<&EndpointSpec>) = all.partition(|endpoint| endpoint.draining);
    (names(&taking), names(&keeping))
}

fn names<'a>(endpoints: &[&'a EndpointSpec]) -> Vec<&'a str> {
    endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect()
}

#[test]
fn conditions_of_endpoints() {
    let with =
        |ready, serving, terminating| SliceEndpoint { ready, serving, terminating, ..endpoint("10.0.0.1", "n2") };
    let (yes, no) = (Some(true), Some(false));
    // Conditions of one endpoint; takes new connections alone, beside a ready one, and with publishNotReadyAddresses.
    let table = [
        (with(None, None, None), true, true, true),
        (with(yes, yes, no), true, true, true),
        (with(no, no, no), false, false, true),
        (with(no, yes, no), false, false, true),
        (with(no, yes, yes), true, false, true),
        (with(no, no, yes), false, false, true),
        (with(no, None, yes), false, false, true),
        (with(yes, yes, yes), true, true, true),
    ];
    for (one, alone, beside, published) in table {
        let row = format!("{one:?}");
        let takes = |service: &KubeService, endpoints| {
            taking(&done(service, &[slice(8080, endpoints)])).0.contains(&"10.0.0.1:8080")
        };
        assert_eq!(takes(&service(), vec![one.clone()]), alone, "alone: {row}");
        assert_eq!(takes(&service(), vec![one.clone(), endpoint("10.0.0.2", "n2")]), beside, "beside: {row}");
        let publishes = KubeService { publish_not_ready: true, ..service() };
        assert_eq!(takes(&publishes, vec![one]), published, "published: {row}");
    }
    let kept = done(&service(), &[slice(8080, vec![with(no, no, no), endpoint("10.0.0.2", "n2")])]);
    assert_eq!(taking(&kept), (vec!["10.0.0.2:8080"], vec!["10.0.0.1:8080"]), "an unready one keeps its connections");
}

#[test]
fn load_balancer_class() {
    let class = |class: Option<&str>| KubeService { class: class.map(str::to_owned), ..service() };
    assert!(translate(&class(Some("bascule.dev/vip")), &[], &policy()).is_ok());
    let foreign = translate(&class(Some("io.cilium/bgp")), &[], &policy()).expect_err("foreign");
    assert_eq!(foreign.to_string(), "loadBalancerClass io.cilium/bgp is not ours");
    let only_classed = Policy { unclassed: false, ..policy() };
    assert_eq!(translate(&class(None), &[], &only_classed), Err(NotOurs::Unclassed));
}

#[test]
fn external_traffic_policy_and_health_check_node_port() {
    let slices = [slice(8080, vec![endpoint("10.0.0.1", "n1"), endpoint("10.0.0.2", "n2")])];
    let cluster = done(&KubeService { health_check_node_port: 32000, ..service() }, &slices);
    assert_eq!((taking(&cluster).0.len(), cluster.may_own.len(), cluster.health), (2, 1, None));
    let local = KubeService { local: true, health_check_node_port: 32000, ..service() };
    let here = done(&local, &slices);
    assert_eq!(taking(&here).0, ["10.0.0.1:8080"]);
    assert_eq!((here.may_own.len(), here.health), (1, Some(HealthPort { port: 32000, endpoints: 1 })));
    let elsewhere = done(&local, &[slice(8080, vec![endpoint("10.0.0.2", "n2")])]);
    assert_eq!((elsewhere.may_own.len(), elsewhere.health), (0, Some(HealthPort { port: 32000, endpoints: 0 })));
    // The last endpoint here terminates: it serves, and the load balancer in front is told to stop.
    let last = SliceEndpoint {
        ready: Some(false),
        serving: Some(true),
        terminating: Some(true),
        ..endpoint("10.0.0.1", "n1")
    };
    let leaving = done(&local, &[slice(8080, vec![last, endpoint("10.0.0.2", "n2")])]);
    assert_eq!(taking(&leaving).0, ["10.0.0.1:8080"]);
    assert_eq!(leaving.health, Some(HealthPort { port: 32000, endpoints: 0 }));
}

#[test]
fn one_owner_serves_local_services_by_all_endpoints_and_health_by_its_own() {
    let slices = [slice(8080, vec![endpoint("10.0.0.1", "n1"), endpoint("10.0.0.2", "n2")])];
    let local = KubeService { local: true, health_check_node_port: 32000, ..service() };
    let owned = Policy { everywhere: false, ..policy() };
    let wishes = translate(&local, &slices, &owned).expect("ours");
    assert_eq!(taking(&wishes).0, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(wishes.health, Some(HealthPort { port: 32000, endpoints: 1 }));
    let none_here = translate(&local, &[slice(8080, vec![endpoint("10.0.0.2", "n2")])], &owned).expect("ours");
    assert_eq!(none_here.may_own.len(), 1, "whoever owns it serves it");
    assert_eq!(none_here.health, Some(HealthPort { port: 32000, endpoints: 0 }));
}

#[test]
fn named_target_ports_differ_from_slice_to_slice() {
    let wishes = done(
        &service(),
        &[slice(8080, vec![endpoint("10.0.0.1", "n1")]), slice(9090, vec![endpoint("10.0.0.2", "n2")])],
    );
    assert_eq!(taking(&wishes).0, ["10.0.0.1:8080", "10.0.0.2:9090"]);
    let mut other = slice(53, vec![endpoint("10.0.0.3", "n1")]);
    Arc::make_mut(&mut other).ports[0].name = "dns".into();
    assert!(done(&service(), &[other]).services[0].endpoints.is_empty(), "another port's slice");
    // While an endpoint moves between slices both name it.
    let unready = SliceEndpoint { ready: Some(false), ..endpoint("10.0.0.1", "n1") };
    let twice = done(&service(), &[slice(8080, vec![unready]), slice(8080, vec![endpoint("10.0.0.1", "n1")])]);
    assert_eq!(taking(&twice), (vec!["10.0.0.1:8080"], vec![]));
}

#[test]
fn protocols() {
    let port = |protocol| KubePort { name: "http".into(), port: 80, protocol };
    let all = KubeService { ports: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(port).to_vec(), ..service() };
    let mut slice = slice(8080, vec![endpoint("10.0.0.1", "n1")]);
    Arc::make_mut(&mut slice).ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .map(|protocol| SlicePort { name: "http".into(), port: 8080, protocol })
        .to_vec();
    let wishes = done(&all, &[slice]);
    let got: Vec<_> = wishes.services.iter().map(|s| (s.protocol, s.delivery, s.endpoints.len())).collect();
    let want = [
        (Protocol::Tcp, Delivery::Direct, 1),
        (Protocol::Udp, Delivery::Direct, 1),
        (Protocol::Sctp, Delivery::Delegate, 1),
    ];
    assert_eq!(got, want);
    let names: BTreeSet<&String> = wishes.services.iter().map(|s| &s.name).collect();
    assert_eq!(names.len(), 3);
}

#[test]
fn dual_stack() {
    let dual = KubeService { vips: vec![ip("192.0.2.1"), ip("2001:db8::1")], ..service() };
    let wishes =
        done(&dual, &[slice(8080, vec![endpoint("10.0.0.1", "n1")]), slice(8080, vec![endpoint("fd00::1", "n1")])]);
    let got: Vec<_> =
        wishes.services.iter().map(|s| (s.vip, s.endpoints[0].name.as_str(), s.endpoints.len())).collect();
    assert_eq!(got, [(ip("192.0.2.1"), "10.0.0.1:8080", 1), (ip("2001:db8::1"), "[fd00::1]:8080", 1)]);
    assert_eq!(wishes.may_own.len(), 2);
}

#[test]
fn session_affinity() {
    let sticky = KubeService { affinity: Affinity::ClientIp, ..service() };
    assert_eq!(done(&sticky, &[]).services[0].affinity, Affinity::ClientIp);
    assert_eq!(done(&service(), &[]).services[0].affinity, Affinity::None);
}

#[test]
fn load_balancer_source_ranges() {
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let vips = vec![ip("192.0.2.1"), ip("2001:db8::1")];
    let of = |sources: Vec<IpNet>| {
        let wishes = done(&KubeService { sources, vips: vips.clone(), ..service() }, &[]);
        wishes.services.iter().map(|s| s.sources.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(vec![]), [vec![], vec![]]);
    assert_eq!(of(vec![net("10.0.0.0/8"), net("fd00::/8")]), [vec![net("10.0.0.0/8")], vec![net("fd00::/8")]]);
    assert_eq!(of(vec![net("10.0.0.0/8")]), [vec![net("10.0.0.0/8")], vec![net("::/128")]], "IPv6 is not open to all");
    assert_eq!(of(vec![net("fd00::/8")]), [vec![net("0.0.0.0/32")], vec![net("fd00::/8")]]);
}
