//! From the intent of a cluster to what this node owns and forwards.
//!
//! Every node makes the same of the same intent but for its own part: its priorities, and what it announces where every node does. Ownership
//! ([`Plan::groups`], [`Plan::anycast`]) and forwarding ([`Plan::nodes`], [`Plan::services`]) are apart, so that whoever carries them
//! out may compare each with what it has. What cannot be had is a condition of the service that asks for it ([`Plan::told`]), never a
//! fault of the node.

mod limits;
mod nodes;
#[cfg(test)]
mod tests;

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::translate::{HealthPort, NotOurs, Policy, Wishes, translate};
use super::{NodeSpec, ServiceKey, ServiceSpec};
use crate::intent::{Intent, ServiceIntent};
use crate::node::config::{Announce, AnycastConfig, GroupConfig, ShardRouter};
use crate::shard::eligible::NodePolicy;
use crate::shard::place::{Placement, place};
use crate::shard::rebalance::{Move, rebalance};
use crate::shard::{ShardId, identity, shard_of};
use crate::types::Family;

use limits::Used;
pub use limits::{Limit, Limits};
use nodes::{Crew, muster};
pub use nodes::{NodeStanding, NodeTrouble};

/// What is the same for all services, and what of the node is not the cluster's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanPolicy {
    /// How services become wishes; `everywhere` goes with `announce: bgp`.
    pub translate: Policy,
    /// Which nodes may own.
    pub nodes: NodePolicy,
    /// Id of the cluster, the same on all its nodes.
    pub cluster: String,
    /// How many shards, 1..=255, the same on all nodes.
    pub shards: u8,
    /// By ARP and NDP or by routes of the owner; `Bgp`: by routes of every node.
    pub announce: Announce,
    /// Link of the shards; `None`: that of this node's address.
    pub interface: Option<String>,
    /// Addresses that the configuration file gives away already.
    pub taken: BTreeSet<IpAddr>,
    /// Services of the file.
    pub file_services: Vec<ServiceKey>,
    /// Nodes of the file: they are known beside those of the cluster, and win over them.
    pub file_nodes: Vec<NodeSpec>,
    /// What there is room for.
    pub limits: Limits,
}

/// Why a service, or a part of it, is not served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Refused {
    /// It is somebody else's.
    NotOurs(NotOurs),
    /// It has no address yet: whoever gives them has not, or cannot.
    Pending,
    /// No host can be reached by this address.
    BadAddress {
        /// The address.
        vip: IpAddr,
    },
    /// The address belongs to a node, or to the configuration file.
    Taken {
        /// The address.
        vip: IpAddr,
        /// Whose it is.
        by: String,
    },
    /// Another service has this port of the address.
    PortTaken {
        /// The port.
        key: ServiceKey,
        /// Namespace and name of the other.
        by: String,
    },
    /// There is no room.
    NoRoom(Limit),
}

impl Refused {
    /// The reason in one word, a label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotOurs(_) => "not_ours",
            Self::Pending => "pending",
            Self::BadAddress { .. } => "bad_address",
            Self::Taken { .. } => "address_taken",
            Self::PortTaken { .. } => "port_taken",
            Self::NoRoom(_) => "no_room",
        }
    }

    /// Every reason.
    pub const REASONS: [&'static str; 6] =
        ["not_ours", "pending", "bad_address", "address_taken", "port_taken", "no_room"];
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs(why) => write!(f, "{why}"),
            Self::Pending => f.write_str("it has no address yet"),
            Self::BadAddress { vip } => write!(f, "{vip} is no address of one host"),
            Self::Taken { vip, by } => write!(f, "{vip} is an address of {by}"),
            Self::PortTaken { key, by } => write!(f, "{key} is served for {by}"),
            Self::NoRoom(limit) => write!(f, "no room: {limit}"),
        }
    }
}

/// A service as it stands on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStanding {
    /// Namespace and name.
    pub name: String,
    /// Its VIPs that are served.
    pub vips: Vec<IpAddr>,
    /// What is not served of it, and why.
    pub refused: Vec<Refused>,
}

/// What this node owns and forwards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// One for each shard where one node owns; none when this node takes no part.
    pub groups: Vec<GroupConfig>,
    /// One for each shard with VIPs of this node where every node announces.
    pub anycast: Vec<AnycastConfig>,
    /// Nodes that forward, those of the file first.
    pub nodes: Vec<NodeSpec>,
    /// Services, without those of the file.
    pub services: Vec<ServiceSpec>,
    /// `healthCheckNodePort` by namespace and name.
    pub health: BTreeMap<String, HealthPort>,
    /// Every service of the intent, by namespace and name.
    pub told: Vec<ServiceStanding>,
    /// Every node of the intent, by name.
    pub standings: Vec<NodeStanding>,
    /// VIPs of every shard, whoever owns it.
    pub shards: Vec<BTreeSet<IpAddr>>,
    placement: Placement,
    may: BTreeSet<String>,
}

impl Plan {
    /// Rank of a node in a shard, from 0; `None`: it takes no part.
    pub fn rank(&self, shard: ShardId, node: &str) -> Option<usize> {
        self.placement.ranks(shard).iter().position(|ranked| ranked == node)
    }

    /// The first node of a shard's list, whether it may own now or not.
    pub fn first(&self, shard: ShardId) -> Option<&str> {
        self.placement.ranks(shard).first().map(String::as_str)
    }

    /// The best node of a shard of those that may own now.
    pub fn best(&self, shard: ShardId) -> Option<&str> {
        self.placement.owner(shard, |node| self.may.contains(node))
    }

    /// What has to move so that every shard is at the best node that may own.
    pub fn rebalance(&self, owners: &BTreeMap<ShardId, String>) -> Vec<Move> {
        rebalance(&self.placement, owners, |node| self.may.contains(node))
    }
}

/// The name of a shard's group.
pub fn shard_name(shard: ShardId) -> String {
    format!("shard-{}", shard.0)
}

/// Makes plans, and remembers what services came to: only those that changed are translated anew.
#[derive(Debug)]
pub struct Planner {
    policy: PlanPolicy,
    done: BTreeMap<String, (Arc<ServiceIntent>, Result<Wishes, NotOurs>)>,
}

impl Planner {
    /// A planner that remembers nothing.
    pub fn new(policy: PlanPolicy) -> Self {
        Self { policy, done: BTreeMap::new() }
    }

    /// Another policy; true when it is one.
    pub fn set_policy(&mut self, policy: PlanPolicy) -> bool {
        if policy == self.policy {
            return false;
        }
        if policy.translate != self.policy.translate {
            self.done.clear();
        }
        self.policy = policy;
        true
    }

    /// The policy in force.
    pub const fn policy(&self) -> &PlanPolicy {
        &self.policy
    }

    /// What becomes of an intent on this node.
    pub fn plan(&mut self, intent: &Intent) -> Plan {
        self.translate_changed(intent);
        let crew = muster(intent, &self.policy);
        let mut plan = Plan {
            nodes: crew.nodes.clone(),
            standings: crew.standings.clone(),
            shards: vec![BTreeSet::new(); usize::from(self.policy.shards)],
            placement: place(crew.listed.iter().map(String::as_str), self.policy.shards),
            may: crew.may.clone(),
            ..Plan::default()
        };
        let mut used = Used::new(&self.policy);
        // VIPs that this node may announce, as far as all of their services agree.
        let mut announced: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for (name, (_, wishes)) in &self.done {
            let told = match wishes {
                Err(why) => {
                    ServiceStanding { name: name.clone(), vips: vec![], refused: vec![Refused::NotOurs(why.clone())] }
                }
                Ok(wishes) => self.take(name, wishes, &crew, &mut used, &mut plan),
            };
            if let Ok(wishes) = wishes {
                for vip in &told.vips {
                    let may = announced.entry(*vip).or_insert(true);
                    *may &= wishes.may_own.contains(vip);
                }
                if let (Some(health), false) = (wishes.health, told.vips.is_empty()) {
                    let _none = plan.health.insert(name.clone(), health);
                }
            }
            plan.told.push(told);
        }
        for vip in announced.keys() {
            if let Some(of) = shard_of(*vip, self.policy.shards).and_then(|s| plan.shards.get_mut(usize::from(s.0))) {
                let _new = of.insert(*vip);
            }
        }
        self.own(&crew, &announced, &mut plan);
        plan
    }

    fn translate_changed(&mut self, intent: &Intent) {
        let mut old = core::mem::take(&mut self.done);
        for service in &intent.services {
            let name = format!("{}/{}", service.service.namespace, service.service.name);
            let kept = old.remove(&name).filter(|(before, _)| before == service);
            let done = kept.unwrap_or_else(|| {
                (Arc::clone(service), translate(&service.service, &service.slices, &self.policy.translate))
            });
            let _none = self.done.insert(name, done);
        }
    }

    /// Takes in a service that is ours, as far as there is nothing against it.
    fn take(&self, name: &str, wishes: &Wishes, crew: &Crew, used: &mut Used, plan: &mut Plan) -> ServiceStanding {
        let mut told = ServiceStanding { name: name.to_owned(), vips: Vec::new(), refused: Vec::new() };
        // A service may have an address and no port only for a moment; then nothing is announced of it.
        let vips: BTreeSet<IpAddr> = wishes.services.iter().map(|spec| spec.vip).collect();
        if vips.is_empty() {
            told.refused.push(Refused::Pending);
        }
        for vip in vips {
            if let Some(why) = self.against(vip, crew) {
                told.refused.push(why);
                continue;
            }
            let mut served = false;
            for spec in wishes.services.iter().filter(|spec| spec.vip == vip) {
                match used.take(name, spec) {
                    Ok(()) => {
                        served = true;
                        plan.services.push(spec.clone());
                    }
                    Err(why) => told.refused.push(why),
                }
            }
            if served {
                told.vips.push(vip);
            }
        }
        told
    }

    fn against(&self, vip: IpAddr, crew: &Crew) -> Option<Refused> {
        let nowhere = match vip {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if nowhere || vip.is_unspecified() || vip.is_loopback() || vip.is_multicast() {
            return Some(Refused::BadAddress { vip });
        }
        if self.policy.taken.contains(&vip) {
            return Some(Refused::Taken { vip, by: "a VIP of the configuration file".to_owned() });
        }
        let node = crew.addresses.get(&vip)?;
        Some(Refused::Taken { vip, by: format!("node {node}") })
    }

    /// What this node may own of the VIPs.
    fn own(&self, crew: &Crew, announced: &BTreeMap<IpAddr, bool>, plan: &mut Plan) {
        let policy = &self.policy;
        let this = policy.translate.node.as_str();
        let Some(address) = crew.this.filter(|_| crew.listed.contains(this)) else { return };
        let reasons: Vec<String> = plan
            .standings
            .iter()
            .filter(|s| s.name == this)
            .flat_map(|s| &s.reasons)
            .map(ToString::to_string)
            .collect();
        let barred = (!reasons.is_empty()).then(|| reasons.join("; "));
        for shard in plan.placement.shards() {
            let vips = plan.shards.get(usize::from(shard.0)).into_iter().flatten().copied();
            if policy.announce == Announce::Bgp {
                let may = |vip: &IpAddr| barred.is_none() && announced.get(vip) == Some(&true);
                let addresses: Vec<IpAddr> = vips.filter(may).collect();
                if !addresses.is_empty() {
                    plan.anycast.push(AnycastConfig { name: shard_name(shard), addresses, gates: Vec::new() });
                }
                continue;
            }
            let Some(priority) = plan.placement.priority(shard, this, false) else { continue };
            let wire = identity(&policy.cluster, shard);
            let identity = if crew.family == Family::V4 { IpAddr::V4(wire.v4) } else { IpAddr::V6(wire.v6) };
            plan.groups.push(GroupConfig {
                priority,
                interface: policy.interface.clone(),
                announce: policy.announce,
                // A foreign host on one VIP must not keep the others of the shard off the network; its claims are seen and counted.
                conflict_probe: false,
                shard: Some(ShardRouter { identity, node: address }),
                barred: barred.clone(),
                ..GroupConfig::new(&shard_name(shard), wire.vrid, vips.collect())
            });
        }
    }
}
