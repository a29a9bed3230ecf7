//! What a cluster wants, in plain types: what is left of Services, EndpointSlices and Nodes once the API server's words are read.
//!
//! The reader (`bascule-k8s`) makes it, the daemon keeps the last one on disk and starts from it when the API server is away, and
//! [`crate::service::translate`] and [`crate::shard`] make wishes of it. Nothing here is decided: foreign classes are in it as well.

pub mod rules;

use core::hash::Hasher as _;
use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::service::translate::{KubeService, Slice};
use crate::shard::eligible::NodeFacts;
use rules::Rules;

/// Annotation of a Node: its id in rows and hop lists, 1..=4095, given once by the allocator and kept for the node's life.
pub const NODE_ID_ANNOTATION: &str = "bascule.dev/node-id";

/// A cluster as it was seen at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Services of type LoadBalancer, by namespace and name, each once.
    pub services: Vec<ServiceIntent>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeIntent>,
    /// How VIPs are announced, where the cluster says so.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub rules: Rules,
}

/// A Service with its slices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceIntent {
    /// The Service. Its VIPs are those of `status.loadBalancer.ingress`.
    pub service: KubeService,
    /// Its slices, in the order of their names.
    pub slices: Vec<Slice>,
}

/// A Node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeIntent {
    /// [`NODE_ID_ANNOTATION`]; `None` as long as there is none that makes sense.
    pub id: Option<u16>,
    /// `status.addresses` of type InternalIP, in their order.
    pub addresses: Vec<IpAddr>,
    /// What its eligibility depends on.
    pub facts: NodeFacts,
}

/// The sum by which a kept intent is known to be whole. Finds damage, not malice.
pub fn checksum(text: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x6b65_7074, 0x696e_7465_6e74);
    hasher.write(text);
    hasher.finish()
}
