use std::net::SocketAddr;

use bascule_core::service::NodeSpec;
use bascule_core::wire::site::PairKeys;
use bascule_mesh::pki::Identity;

use super::paths::{PORTS, ways};
use super::relay::stranger;
use super::*;
use crate::config::{Relay, Site};

/// A site of `count` gateways, 10.ID.0.1 and on.
fn site(id: u8, count: u8, keys: Option<PairKeys>) -> Site {
    let gateway = |n: u8| NodeSpec {
        name: format!("s{id}n{n}"),
        id: n.into(),
        addresses: vec![[10, id, 0, n].into()],
        site: id,
        draining: false,
    };
    Site {
        name: format!("s{id}"),
        region: "eu".to_owned(),
        relays: vec![("r1".to_owned(), SocketAddr::from(([10, id, 0, 1], 7845)))],
        gateways: (1..=count).map(gateway).collect(),
        prefixes: Vec::new(),
        keys,
        secret_file: None,
    }
}

/// What a node of site `here` has in its file.
fn sites(here: u8, rank: u8, counts: [u8; 2]) -> Sites {
    let all = [1, 2].map(|id: u8| {
        let keys = (id != here).then(|| PairKeys::new(here, id, vec![vec![7; 16]]));
        (SiteId(id), site(id, counts[usize::from(id) - 1], keys))
    });
    Sites {
        here: SiteId(here),
        domain: "sites.example".to_owned(),
        certificates: "pki".into(),
        relay: None,
        nodes_port: 7849,
        path_port: 7847,
        quiet_probes: false,
        rank,
        terms: "terms".into(),
        clock: "clock".into(),
        authority: None,
        all: all.into(),
        services: BTreeMap::new(),
    }
}

fn of(here: u8, rank: u8, counts: [u8; 2]) -> Vec<paths::Way> {
    let sites = sites(here, rank, counts);
    ways(&sites, &sites.all[&SiteId(3 - here)])
}

#[test]
fn both_ends_of_a_flow_number_it_alike_whatever_the_sizes_of_the_sites() {
    for counts in [[1, 1], [2, 2], [3, 1], [1, 3], [2, 3], [8, 5]] {
        for here in 0..counts[0] {
            let ways = of(1, here, counts);
            assert_eq!(ways.len(), usize::from(counts[1] * PORTS), "every node of the other site, over every port");
            assert!(ways.windows(2).all(|pair| pair[0].0 < pair[1].0), "no number twice: {ways:?}");
            for (number, own, other) in ways {
                let there = (0..counts[1]).find(|n| other.ip() == std::net::IpAddr::from([10, 2, 0, n + 1]));
                let back = of(2, there.expect("a node of site 2"), counts);
                assert!(back.contains(&(number, other, own)), "{counts:?}: {number} {own} {other} in {back:?}");
            }
        }
    }
}

#[test]
fn each_gateway_of_the_other_site_has_the_flows_that_go_to_it() {
    let sites = sites(1, 0, [2, 3]);
    let gateways = &paths::gateways(&sites)[&SiteId(2)];
    assert_eq!(gateways.len(), 3);
    assert_eq!(
        gateways.values().fold(0, |all, flows| all ^ flows),
        gateways.values().fold(0, |all, flows| all | flows)
    );
    for (number, _, to) in ways(&sites, &sites.all[&SiteId(2)]) {
        let there = &sites.all[&SiteId(2)].gateways;
        let node = there.iter().find(|node| node.addresses.contains(&to.ip())).expect("a gateway");
        assert!(gateways[&node.id] >> number & 1 == 1, "flow {number} goes to {}: {gateways:?}", node.name);
    }
}

#[test]
fn a_certificate_must_be_of_this_site_and_of_its_relay() {
    let mut sites = sites(1, 0, [1, 1]);
    let identity = |domain: &str, site: u8, relay: &str| Identity::new(domain, SiteId(site), relay).expect("good");
    assert_eq!(stranger(&identity("sites.example", 1, "any"), &sites), None);
    let wrong = |identity: &Identity, sites: &Sites| stranger(identity, sites).expect("wrong");
    assert!(wrong(&identity("other.example", 1, "any"), &sites).contains("other.example"));
    assert!(wrong(&identity("sites.example", 2, "any"), &sites).contains("site 2"));
    let listen = SocketAddr::from(([10, 1, 0, 1], 7845));
    sites.relay = Some(Relay { name: "r1".to_owned(), listen, incarnation: "i".into() });
    assert_eq!(stranger(&identity("sites.example", 1, "r1"), &sites), None);
    assert!(wrong(&identity("sites.example", 1, "r2"), &sites).contains("r2"));
}

#[test]
fn what_needs_a_start_is_told_from_what_does_not() {
    let old = sites(1, 0, [2, 2]);
    let mut live = old.clone();
    live.all.insert(SiteId(2), site(2, 1, None));
    live.rank = 1;
    assert_eq!(fixed(Some(&old)), fixed(Some(&live)), "sites and gateways change live");
    live.path_port = 9000;
    assert_ne!(fixed(Some(&old)), fixed(Some(&live)));
    assert_ne!(fixed(Some(&old)), fixed(None));
}
