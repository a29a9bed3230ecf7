//! From the intent of a cluster to what this node owns and forwards.
//!
//! Every node makes the same of the same intent but for its own part: its priorities, and what it announces where every node does. Ownership
//! ([`Plan::groups`], [`Plan::anycast`]) and forwarding ([`Plan::nodes`], [`Plan::services`]) are apart, so that whoever carries them
//! out may compare each with what it has. What cannot be had is a condition of the service that asks for it ([`Plan::told`]), never a
//! fault of the node.

mod change;
#[cfg(test)]
mod change_tests;
mod done;
mod l2;
#[cfg(test)]
mod l2_tests;
mod limits;
mod nodes;
mod objects;
mod routes;
#[cfg(test)]
mod routes_tests;
mod spread;
#[cfg(test)]
mod spread_tests;
#[cfg(test)]
mod tests;

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::translate::{HealthPort, KubeService, NotOurs, Policy};
use super::{NodeSpec, ServiceKey, ServiceSpec};
use crate::intent::Intent;
use crate::node::config::{Announce, AnycastConfig, GroupConfig, ShardRouter};
use crate::shard::eligible::NodePolicy;
use crate::shard::place::Placement;
use crate::shard::rebalance::{Move, rebalance};
use crate::shard::{ShardId, identity};
use crate::site::summary::ServiceId;
use crate::types::Family;

use change::Last;
use done::{Done, Known};
use l2::Layout;
use limits::Used;
pub use limits::{Limit, Limits};
use nodes::{Crew, muster};
pub use nodes::{NodeStanding, NodeTrouble};
pub use objects::ObjectStanding;
pub use routes::{Announcement, Routes};
pub use spread::{PlanSites, Spread};

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
    /// VRIDs of its VIPs, and their names.
    pub file_vrids: BTreeMap<u8, String>,
    /// Names of its BGP neighbors; `None`: it has no BGP.
    pub file_neighbors: Option<BTreeSet<String>>,
    /// Services of the file.
    pub file_services: Vec<ServiceKey>,
    /// Nodes of the file: they are known beside those of the cluster, and win over them.
    pub file_nodes: Vec<NodeSpec>,
    /// This site among others; `None`: it is alone.
    pub sites: Option<PlanSites>,
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
    /// There are announcements, and none of them selects it: nobody answers for it.
    NotAnnounced {
        /// The address.
        vip: IpAddr,
        /// The kind of which there are some.
        kind: &'static str,
    },
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
            Self::NotAnnounced { .. } => "not_announced",
        }
    }

    /// Every reason.
    pub const REASONS: [&'static str; 7] =
        ["not_ours", "pending", "bad_address", "address_taken", "port_taken", "no_room", "not_announced"];
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
            Self::NotAnnounced { vip, kind } => write!(f, "no {kind} that holds selects {vip}"),
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
    pub services: Vec<Arc<ServiceSpec>>,
    /// `healthCheckNodePort` by namespace and name.
    pub health: BTreeMap<String, HealthPort>,
    /// Every service of the intent, in the order of `namespace/name`. Shared with the plan before where nothing changed.
    pub told: Vec<Arc<ServiceStanding>>,
    /// Every node of the intent, by name.
    pub standings: Vec<NodeStanding>,
    /// VIPs of every shard, whoever owns it.
    pub shards: BTreeMap<ShardId, BTreeSet<IpAddr>>,
    /// What routers are told.
    pub routes: Routes,
    /// Services of several sites, without those of the file.
    pub spreads: BTreeMap<ServiceId, Spread>,
    /// Every object about announcements and sites, by kind and name.
    pub objects: Vec<ObjectStanding>,
    placement: Placement,
    may: BTreeSet<String>,
}

impl Plan {
    /// An object is in force, as whoever carries the plan out has found; what is wrong with its present words was said before.
    pub fn hold(&mut self, kind: &str, name: &str) {
        if !self.objects.iter().any(|object| object.kind == kind && object.name == name) {
            self.objects.push(ObjectStanding::well(kind, name));
            objects::sort(&mut self.objects);
        }
    }

    /// An object cannot be had on this node, as whoever carries the plan out has found.
    pub fn refuse(&mut self, kind: &str, name: &str, why: String) {
        match self.objects.iter_mut().find(|object| object.kind == kind && object.name == name) {
            Some(object) => object.refused = Some(why),
            None => {
                self.objects.push(ObjectStanding::refused(kind, name, &why));
                objects::sort(&mut self.objects);
            }
        }
    }

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

/// Each VIP with those that have it; they are sorted by VIPs.
fn by_vip<'a, 's>(held: &'a [Held<'s>]) -> impl Iterator<Item = (IpAddr, &'a [Held<'s>])> {
    held.chunk_by(|a, b| a.0 == b.0).filter_map(|of| Some((of.first()?.0, of)))
}

/// Why no service can have this address.
fn against(vip: IpAddr, policy: &PlanPolicy, crew: &Crew) -> Option<Refused> {
    let nowhere = match vip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if nowhere || vip.is_unspecified() || vip.is_loopback() || vip.is_multicast() {
        return Some(Refused::BadAddress { vip });
    }
    if policy.taken.contains(&vip) {
        return Some(Refused::Taken { vip, by: "a VIP of the configuration file".to_owned() });
    }
    let node = crew.addresses.get(&vip)?;
    Some(Refused::Taken { vip, by: format!("node {node}") })
}

/// The name of a shard's group.
pub fn shard_name(shard: ShardId) -> String {
    format!("shard-{}", shard.0)
}

/// Makes plans, and remembers what services came to: only those that changed are looked at, as far as that can be.
#[derive(Debug)]
pub struct Planner {
    policy: PlanPolicy,
    known: Known,
    /// Where the next plan may begin with the last one.
    last: Option<Last>,
}

/// A VIP, and a service that has it.
type Held<'a> = (IpAddr, &'a KubeService);

impl Planner {
    /// A planner that remembers nothing.
    pub fn new(policy: PlanPolicy) -> Self {
        Self { policy, known: Known::default(), last: None }
    }

    /// Another policy; true when it is one.
    pub fn set_policy(&mut self, policy: PlanPolicy) -> bool {
        if policy == self.policy {
            return false;
        }
        if policy.translate != self.policy.translate {
            self.known.forget();
        }
        self.last = None;
        self.policy = policy;
        true
    }

    /// The policy in force.
    pub const fn policy(&self) -> &PlanPolicy {
        &self.policy
    }

    /// What becomes of an intent on this node.
    pub fn plan(&mut self, intent: &Intent) -> Plan {
        let changes = self.known.take(intent, &self.policy.translate);
        let last = self.last.take();
        if let Some(last) = last.and_then(|last| last.over(intent, &self.policy, &self.known, &changes)) {
            let plan = last.plan.clone();
            self.last = Some(last);
            return plan;
        }
        let (plan, made_of) = self.plan_all(intent);
        self.last = Last::new(intent, &self.policy, made_of, &self.known, &plan);
        plan
    }

    /// The plan; and who takes part, what is used up, and whether nothing was refused for the sake of another service.
    fn plan_all(&self, intent: &Intent) -> (Plan, (Crew, Used, bool)) {
        let crew = muster(intent, &self.policy);
        let mut plan = Plan {
            nodes: crew.nodes.clone(),
            standings: crew.standings.clone(),
            may: crew.may.clone(),
            services: Vec::with_capacity(self.known.len()),
            told: Vec::with_capacity(self.known.len()),
            ..Plan::default()
        };
        let mut used = Used::new(&self.policy, self.known.len());
        // Where every node announces: VIPs that this one may, as far as all of their services agree.
        let mut announced: BTreeMap<IpAddr, bool> = BTreeMap::new();
        let mut held: Vec<Held<'_>> = Vec::with_capacity(self.known.len());
        // Whose the plan's services are, in their order.
        let mut of: Vec<&KubeService> = Vec::with_capacity(self.known.len());
        let mut plain = true;
        for (name, done) in self.known.iter() {
            let told = self.take(name, done, &crew, &mut used, &mut plan, &mut held);
            plain &= Arc::ptr_eq(&told, &done.standing);
            of.resize(plan.services.len(), &done.service.service);
            if let Ok(wishes) = &done.wishes {
                if self.policy.announce == Announce::Bgp {
                    for vip in &told.vips {
                        let may = announced.entry(*vip).or_insert(true);
                        *may &= wishes.may_own.contains(vip);
                    }
                }
                if let (Some(health), false) = (wishes.health, told.vips.is_empty()) {
                    let _none = plan.health.insert(name.to_owned(), health);
                }
            }
            plan.told.push(told);
        }
        let mut layout = Layout::new(intent, &self.policy, &crew);
        let mut shards: BTreeMap<ShardId, Vec<IpAddr>> =
            layout.placement.shards().map(|shard| (shard, Vec::new())).collect();
        let mut nobodys = BTreeSet::new();
        // Services of one VIP stay in their order.
        held.sort_by_key(|(vip, _)| *vip);
        for (vip, services) in by_vip(&held) {
            // Where every node announces there is nothing but routes.
            let routed = self.policy.announce != Announce::Bgp || routes::selected(intent, vip, services);
            match layout.shard(&self.policy, vip, services).filter(|_| routed) {
                Some(shard) => shards.entry(shard).or_default().push(vip),
                None => nobodys.extend([vip]),
            }
        }
        plan.shards = shards.into_iter().map(|(shard, vips)| (shard, vips.into_iter().collect())).collect();
        let kind = if self.policy.announce == Announce::Bgp { "BgpAnnouncement" } else { "L2Announcement" };
        let nobodys_here = |told: &&mut Arc<ServiceStanding>| told.vips.iter().any(|vip| nobodys.contains(vip));
        for told in plan.told.iter_mut().filter(|_| !nobodys.is_empty()).filter(nobodys_here) {
            let told = Arc::make_mut(told);
            let not = |vip: &IpAddr| nobodys.contains(vip).then_some(Refused::NotAnnounced { vip: *vip, kind });
            told.refused.extend(told.vips.iter().filter_map(not));
            told.vips.retain(|vip| !nobodys.contains(vip));
        }
        self.own(&crew, &announced, &layout, &mut plan);
        plan.placement = layout.placement;
        held.retain(|(vip, _)| !nobodys.contains(vip));
        let (routes, standings) = routes::routes(intent, &self.policy, &held, plan.shards.keys().copied());
        layout.standings.extend(standings);
        plan.routes = routes;
        let (spreads, standings) = spread::spread(intent, &self.policy, &crew.nodes, &of, &mut plan.services);
        layout.standings.extend(standings);
        plan.spreads = spreads;
        plan.objects = objects::with_wrong(layout.standings, &intent.rules.wrong);
        (plan, (crew, used, plain && nobodys.is_empty()))
    }

    /// Takes in a service that is ours, as far as there is nothing against it.
    fn take<'a>(
        &self,
        name: &str,
        done: &'a Done,
        crew: &Crew,
        used: &mut Used,
        plan: &mut Plan,
        held: &mut Vec<Held<'a>>,
    ) -> Arc<ServiceStanding> {
        let Ok(wishes) = &done.wishes else { return Arc::clone(&done.standing) };
        let (mut refused, mut lost) = (Vec::new(), Vec::new());
        // Its ports are in the order of its VIPs.
        for ports in wishes.services.chunk_by(|a, b| a.vip == b.vip) {
            let Some(vip) = ports.first().map(|spec| spec.vip) else { continue };
            if let Some(why) = against(vip, &self.policy, crew) {
                refused.push(why);
                lost.push(vip);
                continue;
            }
            let before = plan.services.len();
            for spec in ports {
                match used.take(&done.standing, spec) {
                    Ok(()) => plan.services.push(Arc::clone(spec)),
                    Err(why) => refused.push(why),
                }
            }
            if plan.services.len() == before {
                lost.push(vip);
            } else {
                held.push((vip, &done.service.service));
            }
        }
        // Mostly nothing is against it.
        if refused.is_empty() {
            return Arc::clone(&done.standing);
        }
        let vips = done.standing.vips.iter().copied().filter(|vip| !lost.contains(vip)).collect();
        Arc::new(ServiceStanding { name: name.to_owned(), vips, refused })
    }

    /// What this node may own of the VIPs.
    fn own(&self, crew: &Crew, announced: &BTreeMap<IpAddr, bool>, layout: &Layout<'_>, plan: &mut Plan) {
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
        for shard in layout.placement.shards() {
            let vips = plan.shards.get(&shard).into_iter().flatten().copied();
            if policy.announce == Announce::Bgp {
                let may = |vip: &IpAddr| barred.is_none() && announced.get(vip) == Some(&true);
                let addresses: Vec<IpAddr> = vips.filter(may).collect();
                if !addresses.is_empty() {
                    plan.anycast.push(AnycastConfig { name: shard_name(shard), addresses, gates: Vec::new() });
                }
                continue;
            }
            let Some(priority) = layout.placement.priority(shard, this, false) else { continue };
            let wire = identity(&policy.cluster, shard);
            let identity = if crew.family == Family::V4 { IpAddr::V4(wire.v4) } else { IpAddr::V6(wire.v6) };
            let (interface, further) = match layout.interfaces(shard) {
                [] => (policy.interface.clone(), Vec::new()),
                [first, further @ ..] => (Some(first.clone()), further.to_vec()),
            };
            plan.groups.push(GroupConfig {
                priority,
                interface,
                further_interfaces: further,
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
