use std::net::{IpAddr, SocketAddr};

use bascule_core::balance::io::Config;
use bascule_core::health::{ProbeKind, Trust};

use super::super::tests::folder;
use super::super::{Forwarding, Hook, Loaded, parse};
use super::*;

const FORWARDING: &str = "forwarding:\n  keyFile: forward.key\n  nodes:\n    - { name: n1, id: 1, addresses: [10.0.0.11, '2001:db8::11'] }\n    - { name: n2, id: 2, addresses: [10.0.0.12, '2001:db8::12'] }\n";
const VIPS: &str = "vips:\n  - { name: web, addresses: [10.9.0.100, '2001:db8:9::100'], vrid: 51, priority: 200 }\n";

/// A file in which a field of this section may stand in the place of `@`, for the tests of the table.
pub(in crate::config) fn carrier(section: &str, key: &str) -> String {
    let without = |fields: &[(&str, &str)]| -> String {
        fields.iter().filter(|(own, _)| *own != key).map(|(own, value)| format!("{own}: {value}, ")).collect()
    };
    let place = |of: &str| if section == of { "@" } else { "" };
    let node = match section {
        "forwarding.nodes[]" => without(&[("name", "n1"), ("id", "9"), ("addresses", "[10.0.0.11]")]),
        _ => "name: n1, id: 9, addresses: [10.0.0.11], ".to_owned(),
    };
    let udp = matches!(key, "quic" | "stateful") && section == "services[]";
    let service: String = without(&[("name", "web"), ("vip", "10.9.0.100"), ("port", "80")]);
    let service = if section == "services[]" { service } else { "name: web, vip: 10.9.0.100, port: 80, ".to_owned() };
    let protocol = if udp { "protocol: udp, " } else { "" };
    let check = match section {
        "services[].check" if matches!(key, "tcp" | "http" | "https" | "grpc") => "check: { @ }, ".to_owned(),
        "services[].check" if key == "timeout" => "check: { tcp: {}, interval: 1h, @ }, ".to_owned(),
        "services[].check" => "check: { tcp: {}, @ }, ".to_owned(),
        "services[].check.https" => "check: { https: { caFile: ca.pem, @ } }, ".to_owned(),
        inner if inner.starts_with("services[].check.") => {
            let kind = inner.rsplit('.').next().unwrap_or_default();
            format!("check: {{ {kind}: {{ @ }} }}, ")
        }
        _ => String::new(),
    };
    let endpoint = place("services[].endpoints[]");
    format!(
        "{VIPS}forwarding: {{ keyFile: forward.key, nodes: [{{ {node}{} }}], {} }}\nservices:\n  - {{ {service}{protocol}{check}endpoints: [{{ address: 10.1.0.1, {endpoint} }}], {} }}\n",
        place("forwarding.nodes[]"),
        place("forwarding"),
        place("services[]"),
    )
}

fn load(text: &str) -> Loaded {
    let dir = folder();
    match parse(text, "bascule.yaml", dir.path(), "n1") {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

fn forwarding(text: &str) -> Forwarding {
    load(text).forwarding.expect("a forwarding section")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_node_may_carry_endpoints_only() {
    let loaded = load(FORWARDING);
    assert!(loaded.node.groups.is_empty() && loaded.warnings.is_empty());
    let f = loaded.forwarding.as_ref().expect("forwarding");
    assert_eq!((f.config.node.as_deref(), f.config.nodes.len(), f.config.services.len()), (Some("n1"), 2, 0));
    let [n1, _] = &f.config.nodes[..] else { panic!("two nodes") };
    assert_eq!((n1.name.as_str(), n1.id, n1.site, n1.draining), ("n1", 1, 1, false));
    assert_eq!(n1.addresses, [ip("10.0.0.11"), ip("2001:db8::11")]);
    assert_eq!((f.port, f.hook, f.mtu, f.interfaces.len()), (7846, Hook::Auto, None, 0));
    assert_eq!((f.udp_idle, f.orphan_rate, f.icmp_rate), (Duration::from_secs(60), 1000, 1000));
    assert_eq!((f.remote_rate, f.flows, &f.cluster_ranges), (20_000, 524_288, &None));
    assert_eq!((f.keys.send, f.keys.tags[1]), (0, None));
    assert!(loaded.secret_files().iter().any(|p| p.ends_with("forward.key")), "watched");
    assert_eq!(load(VIPS).forwarding, None);
}

#[test]
fn the_map_of_flows_and_the_networks_inside_are_configured() {
    let section =
        FORWARDING.replace("keyFile:", "flows: 4096\n  clusterRanges: [10.244.0.0/16, '2001:db8::/32']\n  keyFile:");
    assert_ne!(section, FORWARDING);
    let f = forwarding(&section);
    let nets = ["10.244.0.0/16", "2001:db8::/32"].map(|net| net.parse().expect("a network"));
    assert_eq!((f.flows, f.cluster_ranges.as_deref()), (4096, Some(&nets[..])));
    let none = forwarding(&FORWARDING.replace("keyFile:", "clusterRanges: []\n  keyFile:"));
    assert_eq!(none.cluster_ranges, Some(Vec::new()), "an empty list is not a missing one");
}

#[test]
fn five_fields_make_a_service() {
    let text = format!(
        "{VIPS}{FORWARDING}services:\n  - name: web\n    vip: 10.9.0.100\n    port: 80\n    endpoints:\n      - {{ address: 10.0.0.11, node: n1, port: 8080 }}\n      - {{ address: 10.1.0.2, node: n2 }}\n      - address: 10.7.0.1\n"
    );
    let Config { services, .. } = forwarding(&text).config;
    let [web] = &services[..] else { panic!("one service") };
    let endpoint = |name: &str, address: &str, port, node: Option<&str>| EndpointSpec {
        name: name.into(),
        address: ip(address),
        port,
        node: node.map(Into::into),
        weight: 1,
        draining: false,
        check: None,
    };
    let expected = ServiceSpec {
        name: "web".into(),
        number: number_of("web"),
        vip: ip("10.9.0.100"),
        port: 80,
        protocol: Protocol::Tcp,
        delivery: Delivery::Direct,
        returns: Return::Direct,
        affinity: Affinity::None,
        sources: Vec::new(),
        drain: DRAIN,
        ask: false,
        quic: false,
        when_all_fail: WhenAllFail::Keep,
        when_unplaced: WhenUnplaced::Direct,
        draining: false,
        elsewhere: false,
        endpoints: Arc::new(vec![
            endpoint("10-0-0-11-8080", "10.0.0.11", 8080, Some("n1")),
            endpoint("10-1-0-2-80", "10.1.0.2", 80, Some("n2")),
            endpoint("10-7-0-1-80", "10.7.0.1", 80, None),
        ]),
    };
    assert_eq!(**web, expected);
}

#[test]
fn protocols_differ_in_drain_time_and_asking() {
    let one = |extra: &str| {
        let text = format!(
            "{VIPS}{FORWARDING}services: [{{ name: a, vip: 10.9.0.100, port: 53, endpoints: [{{ address: 10.1.0.1 }}], {extra} }}]\n"
        );
        forwarding(&text).config.services.remove(0)
    };
    let facts = |s: &ServiceSpec| (s.protocol, s.drain.as_secs(), s.ask, s.quic);
    assert_eq!(facts(&one("")), (Protocol::Tcp, 3600, false, false));
    assert_eq!(facts(&one("protocol: udp")), (Protocol::Udp, 300, true, false));
    assert_eq!(facts(&one("protocol: udp, stateful: false, drainTime: 1m")), (Protocol::Udp, 60, false, false));
    assert_eq!(facts(&one("protocol: udp, quic: true")), (Protocol::Udp, 300, false, true));
    assert_eq!(facts(&one("protocol: sctp, delivery: delegate")), (Protocol::Sctp, 3600, false, false));
}

#[test]
fn a_check_becomes_one_of_each_endpoint() {
    let probes = |check: &str| -> Vec<ProbeKind> {
        let text = format!(
            "{VIPS}{FORWARDING}services: [{{ name: a, vip: '2001:db8:9::100', port: 443, check: {{ {check}, interval: 200ms }}, endpoints: [{{ address: '2001:db8::21' }}, {{ address: '2001:db8::22', port: 8443 }}] }}]\n"
        );
        let service = forwarding(&text).config.services.remove(0);
        let of = |e: EndpointSpec| {
            let check = e.check.expect("a check");
            assert_eq!(
                (check.interval, check.timeout, check.name.as_str()),
                (Duration::from_millis(200), Duration::from_millis(200), e.name.as_str())
            );
            check.probe
        };
        service.endpoints.iter().cloned().map(of).collect()
    };
    let (a, b): (SocketAddr, SocketAddr) =
        ("[2001:db8::21]:443".parse().unwrap(), "[2001:db8::22]:8443".parse().unwrap());
    assert_eq!(probes("tcp: {}"), [ProbeKind::Tcp(a), ProbeKind::Tcp(b)]);
    assert_eq!(probes("tcp: { port: 22 }")[1], ProbeKind::Tcp("[2001:db8::22]:22".parse().unwrap()));
    let url = |of: &str| format!("{of}://[2001:db8::21]:443/healthz?a=1");
    assert_eq!(
        probes("http: { path: '/healthz?a=1', expect: 204 }")[0],
        ProbeKind::Http { url: url("http"), expect: (204, 204) }
    );
    assert_eq!(
        probes("https: { path: '/healthz?a=1', insecureSkipVerify: true }")[0],
        ProbeKind::Https { url: url("https"), expect: (200, 399), trust: Trust::Anybody, client: None }
    );
    let ProbeKind::Https { trust: Trust::Authorities { pem, name }, .. } =
        probes("https: { caFile: ca.pem, serverName: web.example }").remove(0)
    else {
        panic!("https by authority")
    };
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(name.as_deref(), Some("web.example"));
    assert_eq!(probes("grpc: {}")[1], ProbeKind::Grpc { address: b, service: String::new() });
    assert_eq!(
        probes("grpc: { service: shop.v1.Cart }")[0],
        ProbeKind::Grpc { address: a, service: "shop.v1.Cart".into() }
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let text = format!(
        "{FORWARDING}services:\n  - {{ name: a, vip: 10.9.0.7, port: 80, endpoints: [{{ address: 10.1.0.1, weight: 0 }}] }}\n  - {{ name: b, vip: 10.9.0.7, port: 81, delivery: none, sources: [10.0.0.0/8] }}\n  - {{ name: c, vip: 10.9.0.7, port: 443, protocol: udp, quic: true, stateful: true, endpoints: [{{ address: 10.1.0.1 }}] }}\n"
    );
    assert_eq!(
        load(&text).warnings,
        [
            "services[0].vip: 10.9.0.7 is no address of vips, so somebody else must announce it",
            "services[0].endpoints: every weight is 0, so that no connection is taken",
            "services[1].sources: has no effect with delivery: none",
            "services[1].vip: 10.9.0.7 is no address of vips, so somebody else must announce it",
            "services[2].stateful: has no effect with quic",
            "services[2].vip: 10.9.0.7 is no address of vips, so somebody else must announce it",
        ]
    );
}

/// Values behind an alias are those of the anchor, numbers included.
#[test]
fn a_check_may_be_shared_by_an_anchor() {
    let one = |name: &str, port: u16, check: &str| {
        format!(
            "  - {{ name: {name}, vip: 10.9.0.100, port: {port}, check: {check}, endpoints: [{{ address: 10.1.0.1, port: 80 }}] }}\n"
        )
    };
    let text = format!(
        "{VIPS}{FORWARDING}services:\n{}{}",
        one("a", 80, "&c { http: { expect: 204 }, interval: 2s }"),
        one("b", 81, "*c")
    );
    let services = forwarding(&text).config.services;
    assert!(matches!(
        services[0].endpoints[0].check.as_ref().unwrap().probe,
        ProbeKind::Http { expect: (204, 204), .. }
    ));
    assert_eq!(services[0].endpoints, services[1].endpoints);
}

/// The size that the issue names: 1,000 services of 20 endpoints.
#[test]
fn a_thousand_services_fit_a_file() {
    use std::fmt::Write as _;
    let mut text = format!("{VIPS}{FORWARDING}services:\n");
    for s in 0..1000 {
        let _infallible = writeln!(text, "  - name: s{s}\n    vip: 10.9.0.100\n    port: {}\n    endpoints:", 1000 + s);
        for e in 0..20 {
            let node = if e % 2 == 0 { "n1" } else { "n2" };
            let _infallible = writeln!(text, "      - {{ address: 10.1.{}.{e}, node: {node}, port: 8080 }}", s % 250);
        }
    }
    assert!(u64::try_from(text.len()).unwrap() < super::super::FILE_MAX);
    let services = forwarding(&text).config.services;
    assert_eq!(services.iter().map(|s| s.endpoints.len()).sum::<usize>(), 20_000);
}

#[test]
fn an_authority_is_watched() {
    let text = format!(
        "{VIPS}{FORWARDING}gates: [{{ name: g, https: {{ url: 'https://h/', caFile: ca.pem }} }}]\nservices: [{{ name: a, vip: 10.9.0.100, port: 443, check: {{ https: {{ caFile: ca.pem }} }}, endpoints: [{{ address: 10.1.0.1 }}] }}]\n"
    );
    let watched = load(&text).secret_files();
    assert_eq!(watched.iter().filter(|p| p.ends_with("ca.pem")).count(), 2);
}

#[test]
fn gates_ask_as_checks_do() {
    let text = format!(
        "{VIPS}gates:\n  - {{ name: a, https: {{ url: 'https://h:6443/livez', insecureSkipVerify: true }} }}\n  - {{ name: b, https: {{ url: 'https://h/', caFile: ca.pem, serverName: kubernetes }} }}\n  - {{ name: c, grpc: {{ address: '127.0.0.1:1' }} }}\n"
    );
    let probes: Vec<ProbeKind> = load(&text).node.gates.into_iter().map(|g| g.probe).collect();
    assert_eq!(
        probes[0],
        ProbeKind::Https {
            url: "https://h:6443/livez".into(),
            expect: (200, 399),
            trust: Trust::Anybody,
            client: None
        }
    );
    let ProbeKind::Https { trust: Trust::Authorities { name, .. }, .. } = &probes[1] else { panic!("{probes:?}") };
    assert_eq!(name.as_deref(), Some("kubernetes"));
    assert_eq!(probes[2], ProbeKind::Grpc { address: "127.0.0.1:1".parse().unwrap(), service: String::new() });
}
