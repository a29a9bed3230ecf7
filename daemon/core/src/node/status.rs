//! A snapshot of a node for `/state`, `bascule status` and gauges.

use core::net::IpAddr;

use serde::Serialize;

use super::config::{Announce, FencePolicy};
use crate::announce::route::Want;
use crate::election::lease::{Condition, Standing};
use crate::types::{Family, Role, Term};

/// The node.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Policy in force.
    pub fence_policy: FencePolicy,
    /// The fence is armed.
    pub fence_ready: bool,
    /// Why it is not.
    pub fence_error: Option<String>,
    /// Out of the election by `bascule drain` or a stop.
    pub drained: bool,
    /// True when every group takes part or is deliberately out, and the fence is as the policy demands.
    pub ready: bool,
    /// Groups in the order of the configuration.
    pub groups: Vec<GroupStatus>,
    /// VIPs that every eligible node announces, in the order of the configuration.
    pub anycast: Vec<AnycastStatus>,
    /// Gates in the order of the configuration.
    pub gates: Vec<GateStatus>,
}

/// One group.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Name.
    pub name: String,
    /// Every address, the link-local of the IPv6 router included.
    pub addresses: Vec<IpAddr>,
    /// Families with an address.
    pub families: Vec<Family>,
    /// Link name, when found.
    pub interface: Option<String>,
    /// VRID; 0 where a lease elects.
    pub vrid: u8,
    /// The lease that elects; absent: VRRP does.
    pub lease: Option<LeaseStatus>,
    /// Role.
    pub role: Role,
    /// Last claim.
    pub term: Term,
    /// The owner's address: our own while Active, the last Active heard otherwise.
    pub owner: Option<IpAddr>,
    /// The owner's priority.
    pub owner_priority: Option<u8>,
    /// Seconds in this role.
    pub since_seconds: f64,
    /// While Active and fenced: seconds until the fence closes unless an advert leaves before.
    pub fence_margin_seconds: Option<f64>,
    /// Priority in force, in the sick band when a gate is closed.
    pub priority: u8,
    /// All gates open.
    pub healthy: bool,
    /// Serving stragglers after a planned move.
    pub draining: bool,
    /// Why it does not take part.
    pub condition: Option<String>,
    /// The configuration says that this node must not own now: no fault.
    pub barred: bool,
    /// How the network learns where the addresses are.
    pub announce: Announce,
    /// What is wanted of its host routes.
    pub route: Want,
    /// Adverts sent and heard since start.
    pub adverts_sent: u64,
    /// Adverts heard from others since start.
    pub adverts_heard: u64,
}

/// The lease of a group.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// Kind of store: `kubernetes`.
    pub store: &'static str,
    /// Namespace and name of the Lease.
    pub name: String,
    /// Who is named in it; absent: nobody, or it was not read yet.
    pub holder: Option<String>,
    /// What this node may do.
    pub standing: Standing,
    /// How the store answers.
    pub store_condition: Condition,
    /// The store's words, when it does not do what it should.
    pub detail: Option<String>,
    /// While this node owns: seconds until the fence closes without a further renewal.
    pub seconds_left: Option<f64>,
    /// Claims of all nodes, as this node's last claim counted them.
    pub transitions: u64,
    /// Renewals of this node's claims since start.
    pub renewals: u64,
    /// Claims of this node that ended since start because no proof came in time.
    pub expired: u64,
    /// Claims of this node that ended since start because the lease named somebody else, or was gone.
    pub lost: u64,
    /// Another node owns at the latest so many seconds after the last renewal of one that died, while the store answers.
    pub takeover_bound_seconds: f64,
}

/// One VIP that every eligible node announces.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnycastStatus {
    /// Name.
    pub name: String,
    /// Every address.
    pub addresses: Vec<IpAddr>,
    /// All gates open.
    pub healthy: bool,
    /// Every address is on the loopback link.
    pub installed: bool,
    /// What is wanted of its host routes.
    pub route: Want,
    /// Seconds since that changed.
    pub since_seconds: f64,
    /// Why the addresses are not there.
    pub condition: Option<String>,
}

/// One gate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// Name.
    pub name: String,
    /// Open.
    pub up: bool,
    /// Last probe in words.
    pub detail: String,
}
