//! Which nodes take part, and why not: in the data plane, and in the ownership of shards.

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::PlanPolicy;
use crate::intent::Intent;
use crate::service::{MAX_NODE_ID, NodeSpec};
use crate::shard::eligible::{Ineligible, reasons};
use crate::types::Family;

/// Site of the nodes of one cluster, that of the nodes of a configuration file.
const SITE: u8 = 1;

/// What keeps a node from taking part, or from owning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeTrouble {
    /// It has no id that makes sense ([`crate::intent::NODE_ID_ANNOTATION`]).
    NoId,
    /// It has the id of another node.
    SameId {
        /// Name of the other.
        node: String,
    },
    /// It has no address.
    NoAddress,
    /// It has no address of the family that the nodes have in common.
    OtherFamily {
        /// The family.
        family: Family,
    },
    /// It may not own; it forwards all the same.
    Ineligible(Ineligible),
}

impl NodeTrouble {
    /// The node is not in the list of those that may own; with anything else it stays in it and gives up what it has.
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::NoId | Self::SameId { .. } | Self::NoAddress | Self::OtherFamily { .. } => true,
            Self::Ineligible(why) => why.is_lasting(),
        }
    }
}

impl fmt::Display for NodeTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoId => write!(f, "annotation {} is missing or no id", crate::intent::NODE_ID_ANNOTATION),
            Self::SameId { node } => write!(f, "annotation {} is that of {node}", crate::intent::NODE_ID_ANNOTATION),
            Self::NoAddress => f.write_str("it has no InternalIP"),
            Self::OtherFamily { family: Family::V4 } => f.write_str("it has no IPv4 InternalIP, and the others do"),
            Self::OtherFamily { family: Family::V6 } => f.write_str("it has no IPv6 InternalIP, and the others do"),
            Self::Ineligible(why) => write!(f, "{why}"),
        }
    }
}

/// How a node stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStanding {
    /// Its name.
    pub name: String,
    /// It forwards.
    pub forwards: bool,
    /// It may own now.
    pub may_own: bool,
    /// Why not.
    pub reasons: Vec<NodeTrouble>,
}

/// Those who take part.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) nodes: Vec<NodeSpec>,
    pub(super) standings: Vec<NodeStanding>,
    /// Names in the list of owners.
    pub(super) listed: BTreeSet<String>,
    /// Those of them that may own now.
    pub(super) may: BTreeSet<String>,
    /// The family that the nodes have in common: of encapsulation and of elections.
    pub(super) family: Family,
    /// This node's address of that family.
    pub(super) this: Option<IpAddr>,
    /// Whose each address is.
    pub(super) addresses: BTreeMap<IpAddr, String>,
}

/// IPv4 unless a node has none and all have IPv6.
fn common_family<'a>(nodes: impl Iterator<Item = &'a [IpAddr]> + Clone) -> Family {
    let all = |v4: bool| nodes.clone().all(|addresses| addresses.iter().any(|a| a.is_ipv4() == v4));
    if !all(true) && all(false) { Family::V6 } else { Family::V4 }
}

/// Nodes of other sites that packets go to and come from.
fn foreign(policy: &PlanPolicy) -> impl Iterator<Item = &NodeSpec> + Clone {
    policy.sites.iter().flat_map(|sites| &sites.others)
}

pub(super) fn muster(intent: &Intent, policy: &PlanPolicy) -> Crew {
    let usable = intent.nodes.values().filter(|node| node.id.is_some() && !node.addresses.is_empty());
    // Those of other sites, too: packets go to them as to the others.
    let of_file = policy.file_nodes.iter().chain(foreign(policy)).map(|node| node.addresses.as_slice());
    let family = common_family(usable.map(|node| node.addresses.as_slice()).chain(of_file));
    let mut crew = Crew {
        nodes: policy.file_nodes.clone(),
        standings: Vec::new(),
        listed: BTreeSet::new(),
        may: BTreeSet::new(),
        family,
        this: None,
        addresses: BTreeMap::new(),
    };
    let mut ids: BTreeMap<u16, String> = policy.file_nodes.iter().map(|node| (node.id, node.name.clone())).collect();
    ids.extend(foreign(policy).map(|node| (node.id, node.name.clone())));
    for (name, node) in &intent.nodes {
        crew.addresses.extend(node.addresses.iter().map(|address| (*address, name.clone())));
        let mut troubles = Vec::new();
        let id = node.id.filter(|id| (1..=MAX_NODE_ID).contains(id));
        let same = id.and_then(|id| ids.get(&id)).filter(|other| *other != name);
        // What is not of the common family follows: encapsulation goes to the first and is accepted from all.
        let mut addresses = node.addresses.clone();
        addresses.sort_by_key(|address| Family::of(address) != family);
        let first = addresses.first().copied();
        match (id, same, first) {
            (None, _, _) => troubles.push(NodeTrouble::NoId),
            (_, Some(other), _) => troubles.push(NodeTrouble::SameId { node: other.clone() }),
            (_, _, None) => troubles.push(NodeTrouble::NoAddress),
            (_, _, Some(first)) if Family::of(&first) != family => troubles.push(NodeTrouble::OtherFamily { family }),
            _ => {}
        }
        let forwards = troubles.is_empty();
        troubles.extend(reasons(&node.facts, &policy.nodes).into_iter().map(NodeTrouble::Ineligible));
        if let (true, Some(id)) = (forwards, id) {
            let known = crew.nodes.iter().any(|spec| spec.name == *name);
            if !known {
                crew.nodes.push(NodeSpec { name: name.clone(), id, addresses, site: SITE, draining: false });
                let _none = ids.insert(id, name.clone());
            }
            if *name == policy.translate.node {
                crew.this = first;
            }
        }
        if !troubles.iter().any(NodeTrouble::is_lasting) {
            let _new = crew.listed.insert(name.clone());
        }
        if troubles.is_empty() {
            let _new = crew.may.insert(name.clone());
        }
        crew.standings.push(NodeStanding {
            name: name.clone(),
            forwards,
            may_own: troubles.is_empty(),
            reasons: troubles,
        });
    }
    crew
}
