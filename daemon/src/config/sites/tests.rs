use bascule_core::service::Protocol;
use bascule_core::site::join::io::Capacity;
use bascule_core::site::policy::io::{Failback, Mode};

use super::super::tests::folder;
use super::super::{Loaded, parse};
use super::*;

const FORWARDING: &str =
    "forwarding: { keyFile: forward.key, nodes: [{ name: n1, id: 1, addresses: [10.0.0.11] }] }\nvips: []\n";
const SITE: &str = "site: { name: dc-a, domain: sites.example, certificates: pki }\n";
const HERE: &str =
    "relays: [{ name: r1, address: '10.0.0.11:7845' }], gateways: [{ name: n1, id: 1, address: 10.0.0.11 }]";
const THERE: &str = "relays: [{ name: r1, address: '10.0.1.11:7845' }], gateways: [{ name: m1, id: 4, address: 10.0.1.11 }], secretFile: peer.key";

fn both() -> String {
    format!("sites:\n  dc-a: {{ id: 1, prefixes: [10.9.0.0/16], {HERE} }}\n  dc-b: {{ id: 2, {THERE} }}\n")
}

fn service(sites: &str) -> String {
    format!(
        "services:\n  - {{ name: web, number: 7, vip: 10.9.0.100, port: 80, endpoints: [{{ address: 10.1.0.1 }}], sites: {{ {sites} }} }}\n"
    )
}

/// A service of one site at a time, with the authority that it needs.
fn passive(more: &str) -> String {
    let service = service(&format!("mode: activePassive, order: [dc-b, dc-a], {more}"));
    service.replace("address: 10.1.0.1", "address: 10.1.0.1, node: n1")
        + "etcd: { endpoints: ['http://10.0.0.11:2379'] }\n"
}

/// A file in which a field of this section may stand in the place of `@`, for the tests of the table.
pub(in crate::config) fn carrier(section: &str, key: &str) -> String {
    let site = SITE.replace("pki }", if section == "site" { "pki, @ }" } else { "pki }" });
    let (mut sites, mut forwarding) = (both(), FORWARDING.to_owned());
    match (section, key) {
        ("sites.NAME", "id") => sites = sites.replace("id: 2, ", "@, ").replace("id: 1, p", "id: 2, p"),
        ("sites.NAME", "prefixes") => sites = sites.replace("peer.key }", "peer.key, @ }"),
        // Ids are one space over all sites.
        ("sites.NAME.gateways[]", "id") => {
            forwarding = forwarding.replace("id: 1,", "id: 7,");
            sites = sites.replace("n1, id: 1,", "n1, id: 7,").replace("m1, id: 4, ", "m1, @, ");
        }
        _ => {}
    }
    let service = match section {
        "services[].sites" if key == "failback" => passive("@"),
        "services[].sites" => service("@"),
        "services[].sites.each.NAME" => service("mode: weighted, each: { dc-a: { @ }, dc-b: { weight: 5 } }"),
        _ => String::new(),
    };
    format!("{forwarding}{site}{sites}{service}").replace("vips: []\n", "")
}

fn load(text: &str) -> Loaded {
    let dir = folder();
    match parse(text, "bascule.yaml", dir.path(), "n1") {
        Ok(loaded) => Loaded { sites: loaded.sites.map(|sites| relative(sites, dir.path())), ..loaded },
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

/// Paths without the folder.
fn relative(mut sites: Sites, dir: &Path) -> Sites {
    let cut = |path: &mut PathBuf| *path = path.strip_prefix(dir).unwrap_or(path).to_owned();
    cut(&mut sites.certificates);
    sites.all.values_mut().filter_map(|site| site.secret_file.as_mut()).for_each(cut);
    sites
}

#[test]
fn sections_become_sites_with_defaults() {
    let text = format!("{FORWARDING}{SITE}{}", both()).replace("vips: []\n", "");
    let loaded = load(&text);
    assert_eq!(loaded.secret_files().len(), 2, "the key file of forwarding and the secret of the pair are watched");
    let sites = loaded.sites.expect("sites");
    assert_eq!((sites.here, sites.domain.as_str(), sites.rank), (SiteId(1), "sites.example", 0));
    assert_eq!((sites.nodes_port, sites.path_port, sites.relay.clone()), (7849, 7847, None));
    assert_eq!((sites.own().name.as_str(), sites.own().region.as_str()), ("dc-a", "dc-a"));
    assert_eq!((sites.own().keys.clone(), sites.quiet_probes), (None, false));
    let there = &sites.all[&SiteId(2)];
    assert_eq!(there.keys, Some(PairKeys::new(1, 2, vec![vec![0xab; 32]])));
    assert_eq!(there.secret_file.as_deref(), Some(Path::new("peer.key")));
    assert_eq!((there.gateways[0].id, there.gateways[0].site), (4, 2));
    assert_eq!(sites.name_of(SiteId(2)), "dc-b");
    let relay = text.replace("certificates: pki", "certificates: pki, relay: r1, listen: '0.0.0.0:1', incarnation: /i");
    let relay = load(&relay).sites.and_then(|s| s.relay).expect("a relay");
    assert_eq!((relay.name.as_str(), relay.listen.to_string().as_str()), ("r1", "0.0.0.0:1"));
    assert_eq!(
        load(&text.replace("pki }", "pki, relay: r1 }")).sites.and_then(|s| s.relay).map(|r| r.listen.port()),
        Some(7845)
    );
}

#[test]
fn a_service_says_how_it_is_spread() {
    let of = |sites: &str| {
        let text = format!("{FORWARDING}{SITE}{}{}", both(), service(sites)).replace("vips: []\n", "");
        let services = load(&text).sites.expect("sites").services;
        services.into_iter().next().expect("a service")
    };
    let (id, plain) = of("");
    assert_eq!((id, plain.policy.mode, plain.capacity), (ServiceId(7), Mode::LocalFirst, Capacity::Unknown));
    assert_eq!((plain.name.as_str(), plain.key.protocol, plain.key.port), ("web", Protocol::Tcp, 80));
    let (_, weighted) = of("mode: weighted, each: { dc-a: { weight: 60 }, dc-b: { weight: 0 } }, capacity: 100");
    assert_eq!(weighted.policy.mode, Mode::Weighted(BTreeMap::from([(SiteId(1), 60), (SiteId(2), 0)])));
    assert_eq!(weighted.capacity, Capacity::Service(100));
    assert_eq!(of("capacityPerEndpoint: 30").1.capacity, Capacity::Endpoint(30));
    for (more, failback) in [("", Failback::Manual), ("failback: auto", Failback::Automatic)] {
        let text = format!("{FORWARDING}{SITE}{}{}", both(), passive(more)).replace("vips: []\n", "");
        let sites = load(&text).sites.expect("sites");
        let order = vec![SiteId(2), SiteId(1)];
        assert_eq!(sites.services[&ServiceId(7)].policy.mode, Mode::ActivePassive { order, failback });
        assert!(sites.services[&ServiceId(7)].is_passive() && sites.authority.is_some());
    }
    assert!(load(&FORWARDING.replace("vips: []\n", "")).sites.is_none(), "one site needs neither section");
}
