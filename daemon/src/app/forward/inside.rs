//! Which networks lie inside: hosts there reach endpoints directly, so what an endpoint sends to them is its own word, and no reply of a
//! service unless a known flow says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_core::node::io::LinkInfo;
use bascule_core::service::ServiceSpec;
use bascule_core::types::LinkId;
use ipnet::IpNet;

use super::by_place::ByPlace;
use crate::config::Forwarding;

/// What is inside where nothing is configured: RFC 1918, RFC 6598, RFC 3927; RFC 4193, RFC 4291 section 2.5.6. Pods have such addresses
/// nearly everywhere. Taking a client for an insider costs only the last resort for a flow that was forgotten; taking a pod for a client
/// would break every connection that it opens to an endpoint directly.
const USUAL: [&str; 7] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10"];

/// The networks inside: those of the configuration, else the usual ones and those of this node's links; always the addresses of nodes and
/// endpoints.
///
/// Links change with every VIP that is taken or let go of, and there may be a hundred thousand endpoints: what the configuration alone
/// decides is kept.
#[derive(Debug, Default)]
pub(super) struct Inside {
    /// What the configuration says.
    ranges: Option<Vec<IpNet>>,
    /// The same, or the usual ones where it says nothing; none within another.
    networks: Vec<IpNet>,
    /// Addresses of the endpoints of each service that lie in none of these.
    outside: ByPlace<ServiceSpec, Vec<IpAddr>>,
    /// All that the configuration decides, none within another.
    fixed: Vec<IpNet>,
}

impl Inside {
    pub(super) fn configure(&mut self, config: &Forwarding) {
        if self.networks.is_empty() || self.ranges != config.cluster_ranges {
            let networks = match &config.cluster_ranges {
                Some(ranges) => ranges.clone(),
                None => USUAL.iter().filter_map(|text| text.parse().ok()).collect(),
            };
            let networks = IpNet::aggregate(&networks);
            *self = Self { ranges: config.cluster_ranges.clone(), networks, ..Self::default() };
        }
        let Self { networks, outside, .. } = self;
        // What lies within another one would only fill the map: an endpoint is mostly in a range of pods.
        let outer = |address: &IpAddr| !networks.iter().any(|net| net.contains(address));
        outside.renew(config.config.services.iter(), |service| {
            service.endpoints.iter().map(|endpoint| endpoint.address).filter(outer).collect()
        });
        let nodes = config.config.nodes.iter().flat_map(|node| node.addresses.iter().copied()).filter(outer);
        let endpoints = outside.iter().flat_map(|(_, addresses)| addresses.iter().copied());
        let rest: BTreeSet<IpNet> = nodes.chain(endpoints).map(IpNet::from).collect();
        let all: Vec<IpNet> = networks.iter().copied().chain(rest).collect();
        self.fixed = IpNet::aggregate(&all);
    }

    /// With those of the links where they count.
    pub(super) fn ranges(&self, links: &BTreeMap<LinkId, LinkInfo>) -> BTreeSet<IpNet> {
        let links =
            links.values().filter(|_| self.ranges.is_none()).flat_map(|link| link.addresses.iter().map(IpNet::trunc));
        let all: Vec<IpNet> = self.fixed.iter().copied().chain(links).collect();
        IpNet::aggregate(&all).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use bascule_core::types::Mac;

    use super::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn of(cluster_ranges: &str, links: &[&str]) -> BTreeSet<IpNet> {
        let text = format!(
            "forwarding: {{ {cluster_ranges} keyFile: forward.key, nodes: [{{ name: n1, id: 1, addresses: [198.51.100.1] }}] }}\n\
             services: [{{ name: a, vip: 203.0.113.7, port: 80, endpoints: [{{ address: 10.1.0.1 }}, {{ address: 192.0.2.9 }}] }}]\n"
        );
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("forward.key");
        std::fs::write(&key, format!("0:{}\nflow:{}\n", "aa".repeat(16), "bb".repeat(16))).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let loaded = crate::config::parse(&text, "bascule.yaml", dir.path(), "n1").unwrap();
        let link = |(n, net): (usize, &&str)| {
            let id = LinkId(u32::try_from(n).unwrap());
            let addresses = vec![net.parse().unwrap()];
            (id, LinkInfo { id, name: format!("l{n}"), mac: Mac([0; 6]), up: true, addresses })
        };
        let mut inside = Inside::default();
        inside.configure(&loaded.forwarding.unwrap());
        inside.ranges(&links.iter().enumerate().map(link).collect())
    }

    #[test]
    fn private_ranges_links_nodes_and_endpoints_are_inside_by_default() {
        let found = of("", &["198.51.100.1/24", "10.9.0.1/24"]);
        let mut wanted = nets(&USUAL);
        wanted.extend(nets(&["198.51.100.0/24", "192.0.2.9/32"]));
        assert_eq!(found, wanted, "10.9.0.0/24 and 10.1.0.1 lie in 10.0.0.0/8, the node in its link's network");
    }

    #[test]
    fn what_is_configured_stands_for_the_usual_ranges_and_not_for_nodes_and_endpoints() {
        let found = of("clusterRanges: [10.0.0.0/8],", &["198.51.100.1/24"]);
        assert_eq!(found, nets(&["10.0.0.0/8", "198.51.100.1/32", "192.0.2.9/32"]));
        let found = of("clusterRanges: [],", &["198.51.100.1/24"]);
        assert_eq!(found, nets(&["10.1.0.1/32", "198.51.100.1/32", "192.0.2.9/32"]));
    }
}
