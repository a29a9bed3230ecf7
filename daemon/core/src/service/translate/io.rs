//! Services and EndpointSlices as far as they matter, and what becomes of them.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::{Affinity, Delivery, Protocol, Return, ServiceSpec, WhenUnplaced};
use crate::types::Family;

/// One of `spec.ports`. `targetPort` is missing: slices carry the number that it stands for, pod by pod when it is a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubePort {
    /// Name; empty when there is only one port.
    pub name: String,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// A Service of type LoadBalancer. `allocateLoadBalancerNodePorts` is missing: no node port is ever used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeService {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels, for the selectors of announcements.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `loadBalancerClass`.
    pub class: Option<String>,
    /// Addresses that it was given.
    pub vips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<KubePort>,
    /// `externalTrafficPolicy` is Local.
    pub local: bool,
    /// `sessionAffinity`. Its timeout is missing: the choice is a hash and not a table that could forget.
    pub affinity: Affinity,
    /// `loadBalancerSourceRanges`.
    pub sources: Vec<IpNet>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `healthCheckNodePort`; 0 means none.
    pub health_check_node_port: u16,
}

/// One of a slice's ports. Those without a number ("all ports") are left out by the reader, as kube-proxy does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlicePort {
    /// Name, that of the Service's port.
    pub name: String,
    /// Port on the pods of this slice.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// One of a slice's endpoints. Absent conditions are `None` and mean what discovery.k8s.io/v1 says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// The first of `addresses`; the others are the same endpoint by API.
    pub address: IpAddr,
    /// `conditions.ready`; absent: true.
    pub ready: Option<bool>,
    /// `conditions.serving`; absent: as `ready`.
    pub serving: Option<bool>,
    /// `conditions.terminating`; absent: false.
    pub terminating: Option<bool>,
    /// `nodeName`. Shared: nodes are few and endpoints many.
    #[serde(serialize_with = "write_name", deserialize_with = "read_name")]
    pub node: Option<Arc<str>>,
}

#[expect(clippy::ref_option, reason = "what serde hands over")]
fn write_name<S: Serializer>(name: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_deref().serialize(serializer)
}

fn read_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Into::into))
}

/// An EndpointSlice of the service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// `addressType`; slices of names are left out by the reader.
    pub family: Family,
    /// Ports.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// What is the same for all services.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Classes that are ours.
    pub classes: BTreeSet<String>,
    /// Services without a class are ours.
    pub unclassed: bool,
    /// Name of this node.
    pub node: String,
    /// VIPs are announced by every node at once and not by one owner. Then `externalTrafficPolicy: Local` means this node's own endpoints;
    /// else all of them serve it, for the table keeps the client's address on the way to any node (ADR 0016).
    pub everywhere: bool,
    /// Who rewrites.
    pub delivery: Delivery,
    /// The way of replies.
    pub returns: Return,
    /// Who delivers to an endpoint whose network namespace is not found.
    pub when_unplaced: WhenUnplaced,
    /// How long a previous home is asked for flows after a change.
    pub drain: Duration,
}

/// Why a service is left alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NotOurs {
    /// It has a class of somebody else.
    ForeignClass {
        /// The class.
        class: String,
    },
    /// It has no class, and those are somebody else's.
    Unclassed,
}

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignClass { class } => write!(f, "loadBalancerClass {class} is not ours"),
            Self::Unclassed => f.write_str("services without a loadBalancerClass are not ours"),
        }
    }
}

/// What `healthCheckNodePort` answers on this node: 200 while there are endpoints, else 503.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct HealthPort {
    /// The port.
    pub port: u16,
    /// Ready endpoints on this node.
    pub endpoints: usize,
}

/// What becomes of a service on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// One for each VIP and port.
    pub services: Vec<Arc<ServiceSpec>>,
    /// VIPs that this node may own or announce: where every node announces, with `externalTrafficPolicy: Local`, only those with an
    /// endpoint here that takes new connections on every port.
    pub may_own: BTreeSet<IpAddr>,
    /// With `externalTrafficPolicy: Local`.
    pub health: Option<HealthPort>,
}
