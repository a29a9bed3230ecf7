//! Which routers this node has beside those of the configuration file, and which VIPs they are told of.
//!
//! Without BgpAnnouncements every neighbor is told of every VIP, as its `export` says. With the first of them a neighbor is told only of
//! what one of them selects for it; the first by name that does says how.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::{Held, ObjectStanding, PlanPolicy, by_vip, shard_name};
use crate::intent::Intent;
use crate::intent::rules::BgpRule;
use crate::shard::ShardId;

const PEER: &str = "BgpPeer";
const ANNOUNCEMENT: &str = "BgpAnnouncement";

/// What becomes of BgpPeers and BgpAnnouncements on this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    /// Words of the BgpPeers that take this node, by name.
    pub peers: BTreeMap<String, String>,
    /// BgpAnnouncements by name, those of other nodes with no VIP; `None`: there are none, and neighbors' own `export` alone holds.
    pub announcements: Option<Vec<Announcement>>,
    /// VIPs of the cluster.
    pub vips: BTreeSet<IpAddr>,
    /// Names of all shards, which are those of their routes: where there are announcements, whatever else bears them is told to nobody,
    /// however late somebody hears of a VIP.
    pub shards: Vec<String>,
}

/// A BgpAnnouncement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Its name.
    pub name: String,
    /// Neighbors that are told; empty: all.
    pub peers: BTreeSet<String>,
    /// How: words of `export`.
    pub words: String,
    /// What it selects on this node.
    pub vips: BTreeSet<IpAddr>,
}

impl Routes {
    /// What a neighbor is told, by announcements, each VIP in one of them, and nothing else. `None`: its own `export` alone holds.
    pub fn of(&self, neighbor: &str) -> Option<Vec<(&Announcement, BTreeSet<IpAddr>)>> {
        let announcements = self.announcements.as_ref()?;
        let mut rest = self.vips.clone();
        let mut told = Vec::new();
        for announcement in announcements.iter().filter(|a| a.peers.is_empty() || a.peers.contains(neighbor)) {
            let vips: BTreeSet<IpAddr> = announcement.vips.intersection(&rest).copied().collect();
            rest.retain(|vip| !vips.contains(vip));
            if !vips.is_empty() {
                told.push((announcement, vips));
            }
        }
        Some(told)
    }
}

/// Does any BgpAnnouncement select this VIP, for whichever node and neighbor?
pub(super) fn selected(intent: &Intent, vip: IpAddr, services: &[Held<'_>]) -> bool {
    let rules = &intent.rules;
    rules.bgp.is_empty() || rules.bgp.values().any(|rule| takes(rule, intent, vip, services))
}

fn takes(rule: &BgpRule, intent: &Intent, vip: IpAddr, services: &[Held<'_>]) -> bool {
    services.iter().any(|(_, service)| rule.choice.takes(vip, service, &intent.rules.pools))
}

/// What this node's routers are told of VIPs with these Services, sorted by VIP.
pub(super) fn routes(
    intent: &Intent,
    policy: &PlanPolicy,
    held: &[Held<'_>],
    shards: impl Iterator<Item = ShardId>,
) -> (Routes, Vec<ObjectStanding>) {
    let rules = &intent.rules;
    let nowhere = Default::default();
    let labels = intent.nodes.get(&policy.translate.node).map_or(&nowhere, |node| &node.facts.labels);
    let Some(neighbors) = policy.file_neighbors.as_ref().filter(|_| policy.announce.routed()) else {
        let why = "has no effect: the configuration file announces no Services by BGP (`announce`, `bgp`)";
        let all = rules.peers.keys().map(|name| (PEER, name)).chain(rules.bgp.keys().map(|name| (ANNOUNCEMENT, name)));
        return (Routes::default(), all.map(|(kind, name)| ObjectStanding::refused(kind, name, why)).collect());
    };
    let mut standings: Vec<ObjectStanding> = rules.peers.keys().map(|name| ObjectStanding::well(PEER, name)).collect();
    let here = rules.peers.iter().filter(|(_, rule)| rule.nodes.matches(labels));
    let peers: BTreeMap<String, String> = here.map(|(name, rule)| (name.clone(), rule.words.clone())).collect();
    let mut announcements = Vec::new();
    for (name, rule) in &rules.bgp {
        let mine = rule.nodes.matches(labels);
        let taken = by_vip(held).filter(|(vip, services)| mine && takes(rule, intent, *vip, services));
        let vips: BTreeSet<IpAddr> = taken.map(|(vip, _)| vip).collect();
        let unknown = rule.peers.iter().find(|peer| !neighbors.contains(*peer) && !rules.peers.contains_key(*peer));
        let refused = unknown.map(|peer| format!("spec.peers: no neighbor is called {peer}; the others are told"));
        standings.push(ObjectStanding { vips: vips.len(), refused, ..ObjectStanding::well(ANNOUNCEMENT, name) });
        announcements.push(Announcement {
            name: name.clone(),
            peers: rule.peers.clone(),
            words: rule.words.clone(),
            vips,
        });
    }
    let announcements = (!announcements.is_empty()).then_some(announcements);
    let (vips, shards) = (by_vip(held).map(|(vip, _)| vip).collect(), shards.map(shard_name).collect());
    (Routes { peers, announcements, vips, shards }, standings)
}
