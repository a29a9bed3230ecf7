//! Which Services are of several sites, and how their new connections are spread, by SiteTrafficPolicies.
//!
//! The first by name that selects a VIP of a Service holds. All sites must call a port of a VIP by one number: that which is made of the
//! Service's namespace and name, the VIP, port and protocol, where clusters agree on these, or the one that a policy gives. What stands
//! against a Service is said of the policy, and the Service stays as it is without one: of this site.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::super::{Delivery, NodeSpec, Return, ServiceKey, ServiceSpec};
use super::{ObjectStanding, PlanPolicy};
use crate::intent::rules::{SitePart, TrafficRule};
use crate::intent::{Intent, NODE_ID_ANNOTATION};
use crate::service::translate::KubeService;
use crate::site::SiteId;
use crate::site::join::io::Capacity;
use crate::site::policy::io::{Mode, ServicePolicy};
use crate::site::summary::ServiceId;

/// Its kind.
const KIND: &str = "SiteTrafficPolicy";

/// This site among others, as far as Services depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanSites {
    /// Name of this site.
    pub here: String,
    /// All sites by name, this one among them.
    pub all: BTreeMap<String, SiteId>,
    /// VIPs that this site may announce lie in these.
    pub prefixes: Vec<IpNet>,
    /// Ids of this site's gateways, as other sites know them, by the names of the nodes.
    pub gateways: BTreeMap<String, u16>,
    /// Gateways of the others, which are called `SITE/NODE`.
    pub others: Vec<NodeSpec>,
    /// Services of several sites that the file has, and their names.
    pub file_services: BTreeMap<ServiceId, String>,
}

/// A port of a VIP that several sites serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spread {
    /// Its name.
    pub name: String,
    /// What packets show of it.
    pub key: ServiceKey,
    /// How it is spread.
    pub policy: ServicePolicy,
    /// What it can carry here.
    pub capacity: Capacity,
    /// The way of replies.
    pub returns: Return,
}

/// What a policy comes to on this node.
struct Ruling {
    policy: ServicePolicy,
    capacity: Capacity,
    draining: bool,
    /// Nothing is spread.
    void: bool,
    /// The first thing that stands against it, or against a part of it.
    against: Option<String>,
    vips: BTreeSet<IpAddr>,
}

impl PlanSites {
    /// Other sites and this one call a node by two ids: packets for the one would be nobody's. Nothing is spread then.
    fn clash(&self, nodes: &[NodeSpec]) -> Option<String> {
        let other = |node: &&NodeSpec| self.gateways.get(&node.name).is_some_and(|id| *id != node.id);
        let node = nodes.iter().find(other)?;
        let (name, id, here) = (&node.name, node.id, &self.here);
        let known = self.gateways.get(name)?;
        let said = format!("gateway {name} of site {here} has the id {known}, and {id} is that of the node");
        Some(format!("{said} ({NODE_ID_ANNOTATION}): nothing is spread"))
    }
}

/// What of `services`, which are those of `of`, is of several sites; their numbers, and whether they drain, are set to what the policies
/// say.
pub(super) fn spread(
    intent: &Intent,
    policy: &PlanPolicy,
    nodes: &[NodeSpec],
    of: &[&KubeService],
    services: &mut [Arc<ServiceSpec>],
) -> (BTreeMap<ServiceId, Spread>, Vec<ObjectStanding>) {
    let rules = &intent.rules;
    let mut spreads = BTreeMap::new();
    let none = |why: &str| {
        (BTreeMap::new(), rules.traffic.keys().map(|name| ObjectStanding::refused(KIND, name, why)).collect())
    };
    let Some(sites) = &policy.sites else {
        return none("has no effect: this node is of no site (`site` of the configuration file, Site)");
    };
    if let Some(why) = sites.clash(nodes) {
        return none(&why);
    }
    let takes = |rule: &TrafficRule, at: usize, vip: IpAddr| rule.takes(vip, of[at], &rules.pools);
    let holds: Vec<Option<&String>> = (services.iter().enumerate())
        .map(|(at, spec)| rules.traffic.iter().find(|(_, rule)| takes(rule, at, spec.vip)).map(|(name, _)| name))
        .collect();
    let mut rulings: BTreeMap<&String, Ruling> = (rules.traffic.iter())
        .map(|(name, rule)| (name, ruling(rule, sites, holds.iter().filter(|held| **held == Some(name)).count())))
        .collect();
    for ((spec, service), name) in services.iter_mut().zip(of).zip(&holds) {
        let Some(name) = name else { continue };
        let (Some(rule), Some(ruling)) = (rules.traffic.get(*name), rulings.get_mut(name)) else { continue };
        if ruling.void {
            continue;
        }
        let number = rule.number.unwrap_or(spec.number);
        let id = ServiceId(number.into());
        let same = spreads.get(&id).map(|other: &Spread| &other.name).or_else(|| sites.file_services.get(&id));
        if let Some(why) = against(spec, service, policy, sites).or_else(|| {
            same.map(|other| format!("{} has the number of {other}, {number}: give one of them another", spec.name))
        }) {
            let _first = ruling.against.get_or_insert(why);
            continue;
        }
        if (spec.number, spec.draining, spec.elsewhere) != (number, ruling.draining, true) {
            let (draining, elsewhere) = (ruling.draining, true);
            *spec = Arc::new(ServiceSpec { number, draining, elsewhere, ..ServiceSpec::clone(spec) });
        }
        let _new = ruling.vips.insert(spec.vip);
        let (policy, capacity) = (ruling.policy.clone(), ruling.capacity);
        let (name, key, returns) = (spec.name.clone(), spec.key(), spec.returns);
        let _none = spreads.insert(id, Spread { name, key, policy, capacity, returns });
    }
    let standing = |(name, ruling): (&String, Ruling)| ObjectStanding {
        vips: ruling.vips.len(),
        refused: ruling.against,
        ..ObjectStanding::well(KIND, name)
    };
    (spreads, rulings.into_iter().map(standing).collect())
}

/// A policy that selects so many ports of VIPs, by itself.
fn ruling(rule: &TrafficRule, sites: &PlanSites, selected: usize) -> Ruling {
    let own = rule.sites.get(&sites.here);
    let known = |(name, part): (&String, &SitePart)| Some((*sites.all.get(name)?, part.weight.unwrap_or_default()));
    let weights: BTreeMap<SiteId, u32> = rule.sites.iter().filter_map(known).collect();
    let unknown = rule.sites.keys().find(|name| !sites.all.contains_key(*name));
    let none = rule.weighted && weights.values().all(|weight| *weight == 0);
    let (void, against) = match (rule.number, unknown) {
        (Some(_), _) if selected > 1 => {
            let why =
                format!("spec.number: it is that of one port of one VIP, and {selected} are selected: none is spread");
            (true, Some(why))
        }
        _ if none => {
            (true, Some("spec.sites: no site that is known has a weight above 0: nothing is spread".to_owned()))
        }
        (_, Some(name)) => (false, Some(format!("spec.sites.{name}: no site is called so; the others hold"))),
        (_, None) => (false, None),
    };
    let mode = if rule.weighted { Mode::Weighted(weights) } else { Mode::LocalFirst };
    Ruling {
        policy: ServicePolicy { mode, ..ServicePolicy::default() },
        capacity: own.map(capacity).unwrap_or_default(),
        draining: own.is_some_and(|part| part.draining),
        void,
        against,
        vips: BTreeSet::new(),
    }
}

fn capacity(part: &SitePart) -> Capacity {
    match (part.capacity, part.capacity_per_endpoint) {
        (Some(whole), _) => Capacity::Service(whole),
        (None, Some(each)) => Capacity::Endpoint(each),
        (None, None) => Capacity::Unknown,
    }
}

/// Why this one cannot be of several sites.
fn against(spec: &ServiceSpec, service: &KubeService, policy: &PlanPolicy, sites: &PlanSites) -> Option<String> {
    let (name, vip, here) = (&spec.name, spec.vip, &sites.here);
    if spec.delivery == Delivery::None {
        return Some(format!("{name} is announced only (`delivery: none`): nothing here could send it elsewhere"));
    }
    if policy.translate.everywhere && service.local {
        return Some(format!("{name} has externalTrafficPolicy: Local, and every node announces: each is by itself"));
    }
    if !sites.prefixes.iter().any(|net| net.contains(&vip)) {
        return Some(format!("{name}: {vip} is in none of the prefixes of site {here}: other sites would refuse it"));
    }
    None
}
