//! The section `kubernetes.services.bfd`: sessions with the other nodes of the cluster, whoever they are.

use std::time::Duration;

use bascule_core::bfd::config::PeerConfig;
use bascule_core::service::NodeSpec;

use super::super::bfd::{PEERS_MAX, least_ttl, minimum_ttl};
use super::super::read::Map;

/// What every session is like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterBfd {
    /// Shortest time between own packets.
    pub transmit: Duration,
    /// Shortest time between packets of the other node.
    pub receive: Duration,
    /// Packets that may be lost.
    pub multiplier: u8,
    /// Multihop sessions: the smallest TTL that packets may have on arrival.
    pub multihop: Option<u8>,
}

impl ClusterBfd {
    /// A session with each of `nodes` but `this`, by its first address, unless `there` has one with any of its addresses. `None`: there
    /// would be more than a node can have, and a part of a mesh would declare nodes dead that nobody watches.
    pub fn sessions<'a>(
        &self,
        this: &str,
        nodes: impl Iterator<Item = &'a NodeSpec> + Clone,
        there: &[PeerConfig],
    ) -> Option<Vec<PeerConfig>> {
        let own: Vec<_> = nodes.clone().filter(|node| node.name == this).flat_map(|node| &node.addresses).collect();
        if own.is_empty() {
            // No other node knows it as one that forwards.
            return Some(Vec::new());
        }
        let watched = |node: &NodeSpec| there.iter().any(|peer| node.addresses.contains(&peer.remote));
        let others = nodes.filter(|node| node.name != this && !watched(node));
        let session = |node: &NodeSpec| {
            let remote = *node.addresses.first()?;
            Some(PeerConfig {
                // What the other side has for this node: beside VIPs and further addresses of the link it is one of many.
                local: own.iter().find(|own| own.is_ipv4() == remote.is_ipv4()).map(|own| **own),
                multihop: self.multihop,
                desired_min_tx: self.transmit,
                required_min_rx: self.receive,
                multiplier: self.multiplier,
                // A name that no session of the file has.
                ..PeerConfig::new(&format!("node/{}", node.name), remote)
            })
        };
        let sessions: Vec<PeerConfig> = others.filter_map(session).collect();
        (sessions.len() + there.len() <= PEERS_MAX).then_some(sessions)
    }
}

/// `Some(None)`: no BFD; `None` when an error was noted.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
pub(super) fn read(services: &Map<'_>) -> Option<Option<ClusterBfd>> {
    if !services.has("bfd") {
        return Some(None);
    }
    let map = services.section("bfd")?;
    let (transmit, receive) = (map.time("transmitInterval"), map.time("receiveInterval"));
    let multiplier = map.whole("multiplier");
    let hops = map.has("multihop").then(|| map.whole("multihop"));
    let minimum = minimum_ttl(&map, map.has("multihop"));
    let hops = hops.map_or(Some(None), |hops| hops.map(|hops| Some(hops.value)))?;
    Some(Some(ClusterBfd {
        transmit: transmit?.value,
        receive: receive?.value,
        multiplier: multiplier?.value,
        multihop: least_ttl(hops, minimum?),
    }))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn node(n: u16) -> NodeSpec {
        let [high, low] = n.to_be_bytes();
        let addresses = vec![IpAddr::from([10, 9, high, low]), IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, n])];
        NodeSpec { name: format!("n{n}"), id: n, addresses, site: 0, draining: false }
    }

    #[test]
    fn every_other_node_has_one_session() {
        let path = std::path::Path::new("/");
        let text = |bfd: &str| {
            format!("node: n1\nkubernetes: {{ cluster: c, services: {{ delivery: none, bfd: {{ {bfd} }} }} }}\n")
        };
        let of = |bfd: &str| {
            let loaded = crate::config::parse(&text(bfd), "f", path, "n1").unwrap();
            loaded.kubernetes.unwrap().services.unwrap().bfd.unwrap()
        };
        let nodes: Vec<NodeSpec> = (1..=4).map(node).collect();
        let bfd = of("transmitInterval: 50ms, multiplier: 5");
        // The file has a session with n3, by its other address.
        let there = [PeerConfig::new("tor", nodes[2].addresses[1])];
        let sessions = bfd.sessions("n1", nodes.iter(), &there).unwrap();
        let seen: Vec<_> = sessions.iter().map(|s| (s.name.as_str(), s.remote, s.local)).collect();
        let (own, two, four) = (nodes[0].addresses[0], nodes[1].addresses[0], nodes[3].addresses[0]);
        assert_eq!(seen, [("node/n2", two, Some(own)), ("node/n4", four, Some(own))]);
        let all = (sessions[0].desired_min_tx, sessions[0].required_min_rx, sessions[0].multiplier);
        assert_eq!(all, (Duration::from_millis(50), Duration::from_millis(300), 5));
        assert_eq!((sessions[0].multihop, of("multihop: 3").multihop), (None, Some(253)));
        assert_eq!(bfd.sessions("n9", nodes.iter(), &[]), Some(vec![]), "this node is not known yet");
        let many: Vec<NodeSpec> = (1..=258).map(node).collect();
        assert_eq!(bfd.sessions("n1", many[..257].iter(), &[]).map(|all| all.len()), Some(256));
        assert_eq!(bfd.sessions("n1", many.iter(), &[]), None);
        for wrong in ["minimumTtl: 3", "multihop: 0", "multiplier: 0", "transmitInterval: 5ms"] {
            assert!(crate::config::parse(&text(wrong), "f", path, "n1").is_err(), "{wrong}");
        }
    }
}
