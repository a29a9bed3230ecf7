//! Where ARP and NDP announce: every VIP in the common shards, unless L2Announcements say which, by whom and on which link.
//!
//! With the first of them only what one of them selects is announced. The first by name that selects a VIP holds. One that names neither
//! nodes nor links selects and no more; with them its VIPs have shards of their own, since all VIPs of a shard have one owner on one link.

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::nodes::Crew;
use super::{Held, ObjectStanding, PlanPolicy};
use crate::intent::Intent;
use crate::intent::rules::{L2Rule, Rules};
use crate::node::config::Announce;
use crate::shard::number::numbers;
use crate::shard::place::{Placement, place, place_numbered};
use crate::shard::{ShardId, identity, shard_of};

/// Its kind.
const KIND: &str = "L2Announcement";

/// Shards that one announcement has for itself.
struct Apart {
    shards: Vec<ShardId>,
    interfaces: Vec<String>,
}

/// Which shard a VIP is in.
pub(super) struct Layout<'a> {
    rules: &'a Rules,
    common: u8,
    /// Announcements with shards of their own, by name; `None`: refused, and what it selects is announced by nobody.
    apart: BTreeMap<&'a str, Option<Apart>>,
    pub(super) placement: Placement,
    /// How each announcement stands, by name.
    pub(super) standings: Vec<ObjectStanding>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(intent: &'a Intent, policy: &PlanPolicy, crew: &Crew) -> Self {
        let rules = &intent.rules;
        let mut layout = Self {
            rules,
            common: policy.shards,
            apart: BTreeMap::new(),
            placement: place(crew.listed.iter().map(String::as_str), policy.shards),
            standings: Vec::new(),
        };
        if policy.announce == Announce::Bgp {
            let unused = "has no effect: `announce` of the configuration file is bgp";
            layout.standings = rules.l2.keys().map(|name| ObjectStanding::refused(KIND, name, unused)).collect();
            return layout;
        }
        let mut apart: Vec<(&'a String, &'a L2Rule)> = rules.l2.iter().filter(|(_, rule)| rule.is_apart()).collect();
        apart.sort_by_key(|(name, rule)| (&rule.created, *name));
        let wanted: Vec<(&str, u8)> = apart.iter().map(|(name, rule)| (name.as_str(), rule.shards)).collect();
        for ((name, rule), shards) in apart.into_iter().zip(numbers(&wanted, policy.shards)) {
            let nodes: Vec<&str> =
                crew.listed.iter().map(String::as_str).filter(|n| selects(rule, intent, n)).collect();
            let refused = match &shards {
                None => Some(format!("spec.shards: {}, and all but fewer of the 255 VRIDs are taken", rule.shards)),
                Some(shards) => shards.iter().find_map(|shard| clash(policy, *shard)),
            };
            let refused = refused.or_else(|| {
                nodes
                    .is_empty()
                    .then(|| "spec.nodeSelector: takes no node that may be in the list of owners".to_owned())
            });
            let _none = match (shards, refused) {
                (Some(shards), None) => {
                    layout.placement.join(place_numbered(nodes, &shards));
                    layout.apart.insert(name, Some(Apart { shards, interfaces: rule.interfaces.clone() }))
                }
                (_, why) => {
                    layout.standings.push(ObjectStanding::refused(KIND, name, &why.unwrap_or_default()));
                    layout.apart.insert(name, None)
                }
            };
        }
        let refused: Vec<String> = layout.standings.iter().map(|standing| standing.name.clone()).collect();
        let well = rules.l2.keys().filter(|name| !refused.contains(name));
        layout.standings.extend(well.map(|name| ObjectStanding::well(KIND, name)));
        layout.standings.sort_by(|a, b| a.name.cmp(&b.name));
        layout
    }

    /// The shard of a VIP; `None`: nobody announces it.
    pub(super) fn shard(&mut self, policy: &PlanPolicy, vip: IpAddr, services: &[Held<'_>]) -> Option<ShardId> {
        if self.rules.l2.is_empty() || policy.announce == Announce::Bgp {
            return shard_of(vip, self.common);
        }
        let rules = self.rules;
        let takes = |rule: &L2Rule| services.iter().any(|(_, service)| rule.choice.takes(vip, service, &rules.pools));
        let (name, _) = rules.l2.iter().find(|(_, rule)| takes(rule))?;
        if let Some(standing) = self.standings.iter_mut().find(|standing| standing.name == *name) {
            standing.vips += 1;
        }
        match self.apart.get(name.as_str()) {
            None => shard_of(vip, self.common),
            Some(None) => None,
            Some(Some(apart)) => {
                let place = shard_of(vip, u8::try_from(apart.shards.len()).ok()?)?;
                apart.shards.get(usize::from(place.0)).copied()
            }
        }
    }

    /// Links that an announcement names for this shard, in its order; empty: it is not one's own, or names none.
    pub(super) fn interfaces(&self, shard: ShardId) -> &[String] {
        let own = self.apart.values().flatten().find(|apart| apart.shards.contains(&shard));
        own.map_or(&[], |apart| &apart.interfaces)
    }
}

/// Does the announcement take this node?
fn selects(rule: &L2Rule, intent: &Intent, node: &str) -> bool {
    intent.nodes.get(node).is_some_and(|node| rule.includes(&node.facts.labels))
}

/// A VIP of the configuration file has the shard's VRID. The common shards are held against the file when that is read.
fn clash(policy: &PlanPolicy, shard: ShardId) -> Option<String> {
    let vrid = identity(&policy.cluster, shard).vrid;
    let vip = policy.file_vrids.get(&vrid)?;
    Some(format!("metadata.name: gives a shard the VRID {vrid}, which VIP {vip} of the configuration file has"))
}
