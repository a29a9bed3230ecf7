//! How the VIPs of Services are announced and which sites serve them, as objects of the cluster say. Where there are none the configuration
//! file alone says it.
//!
//! Of an object whose present words make no sense those hold that it said before; what is wrong with it goes along ([`Rules::wrong`]), so
//! that every node tells it, with or without an API server.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ipam::{Block, Labels, Selector};
use crate::service::translate::KubeService;

/// Most shards of one L2Announcement. Each has a VRID of its own, and there are 255 of them (RFC 9568 section 5.2.3).
pub const RULE_SHARDS_MAX: u8 = 32;
/// Shards of an L2Announcement that does not say how many.
pub const RULE_SHARDS: u8 = 4;
/// The largest weight of a site, as in the configuration file.
pub const WEIGHT_MAX: u32 = 1000;
/// The largest capacity of a site, as in the configuration file.
pub const CAPACITY_MAX: u32 = 1_000_000_000;
/// Why no SiteTrafficPolicy asks for one site at a time. The fence of ADR 0034 silences an endpoint's address wholly, so the address must be no
/// other service's, for as long as the lease may be here. Nobody can promise that of pods: the next Service may select them.
pub const NO_PASSIVE: &str = "activePassive is for services of the configuration file: pods come and go, and other Services may have them too, which would fall silent with them";

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// Blocks of the pools, by the names of those.
    pub pools: BTreeMap<String, Vec<Block>>,
    /// L2Announcements by name.
    pub l2: BTreeMap<String, L2Rule>,
    /// BgpPeers by name.
    pub peers: BTreeMap<String, PeerRule>,
    /// BgpAnnouncements by name.
    pub bgp: BTreeMap<String, BgpRule>,
    /// Sites by name: each as one JSON object, its `spec`. Read by who reads the file.
    pub sites: BTreeMap<String, String>,
    /// SiteTrafficPolicies by name.
    pub traffic: BTreeMap<String, TrafficRule>,
    /// Objects whose present words make no sense.
    pub wrong: Vec<Wrong>,
}

impl Rules {
    /// There are no such objects.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An object whose present words make no sense.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Wrong {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Which field, and what is wrong with it.
    pub why: String,
    /// It said something else before, which holds.
    pub kept: bool,
}

/// Which VIPs are meant.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Choice {
    /// Addresses of these pools, whoever gave them; empty: all.
    pub pools: BTreeSet<String>,
    /// Of Services in these namespaces; empty: all.
    pub namespaces: BTreeSet<String>,
    /// Of Services with these labels.
    pub services: Selector,
}

impl Choice {
    /// Is this VIP of this Service meant?
    pub fn takes(&self, vip: IpAddr, service: &KubeService, pools: &BTreeMap<String, Vec<Block>>) -> bool {
        let inside = |name: &String| pools.get(name).is_some_and(|blocks| blocks.iter().any(|b| b.contains(vip)));
        (self.pools.is_empty() || self.pools.iter().any(inside))
            && (self.namespaces.is_empty() || self.namespaces.contains(&service.namespace))
            && self.services.matches(&service.labels)
    }
}

/// An L2Announcement: which VIPs are answered for by ARP and NDP, by which nodes and on which link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L2Rule {
    /// `metadata.creationTimestamp`, which sorts as text: of two that want the same number the older has it.
    pub created: String,
    /// Which VIPs.
    pub choice: Choice,
    /// Labels of the nodes that may own them, besides what the configuration file asks of every node.
    pub nodes: Selector,
    /// The link: the first of these that a node has; empty: that of the configuration file.
    pub interfaces: Vec<String>,
    /// Over how many shards its VIPs are spread where nodes or link are its own, 1..=[`RULE_SHARDS_MAX`].
    pub shards: u8,
}

impl L2Rule {
    /// Its VIPs cannot be in the shards of the others: it has nodes or a link of its own.
    pub fn is_apart(&self) -> bool {
        !self.interfaces.is_empty() || self.nodes != Selector::default()
    }

    /// May a node with these labels own?
    pub fn includes(&self, labels: &Labels) -> bool {
        self.nodes.matches(labels)
    }
}

/// A BgpPeer: a router, of these nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRule {
    /// Labels of the nodes that have the session.
    pub nodes: Selector,
    /// The words of a neighbor in the configuration file, as one JSON object; its name is that of the object. Read by who reads the file.
    pub words: String,
}

/// A BgpAnnouncement: which VIPs which routers are told of, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRule {
    /// Which VIPs.
    pub choice: Choice,
    /// Labels of the nodes that tell.
    pub nodes: Selector,
    /// Names of the neighbors that are told, of the configuration file and of BgpPeers; empty: all.
    pub peers: BTreeSet<String>,
    /// The words of `export` of a neighbor in the configuration file, as one JSON object.
    pub words: String,
}

/// A SiteTrafficPolicy: which Services are of several sites, and how their new connections are spread over them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRule {
    /// Which VIPs.
    pub choice: Choice,
    /// Of Services with these names; empty: all.
    pub names: BTreeSet<String>,
    /// By weight, wherever the client is; else here while here can.
    pub weighted: bool,
    /// What is said of each site, by its name.
    pub sites: BTreeMap<String, SitePart>,
    /// The number by which all sites know the one port of the one VIP that is selected; `None`: that which is made of its name.
    pub number: Option<u16>,
}

impl TrafficRule {
    /// Is this VIP of this Service meant?
    pub fn takes(&self, vip: IpAddr, service: &KubeService, pools: &BTreeMap<String, Vec<Block>>) -> bool {
        (self.names.is_empty() || self.names.contains(&service.name)) && self.choice.takes(vip, service, pools)
    }
}

/// What a SiteTrafficPolicy says of one site.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SitePart {
    /// Share of new connections, relative to the other sites, where they are weighted.
    pub weight: Option<u32>,
    /// New connections a second that the site carries with all endpoints ready.
    pub capacity: Option<u32>,
    /// The same, of each endpoint; instead of `capacity`.
    pub capacity_per_endpoint: Option<u32>,
    /// The site takes no new connections.
    pub draining: bool,
}
