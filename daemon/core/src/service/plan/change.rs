//! The last plan carried over to an intent of which a few services are others.
//!
//! A plan of all services costs as much as there are, and most intents differ from the one before in a handful. Where nothing of the last plan
//! was refused for the sake of another service, and no object but pools, routers and sites says anything about announcements, what a service
//! adds to a plan depends on itself and on who has its VIPs. In every other case, and where that is about to end, all is planned
//! anew: [`super::Planner::plan`] gives the same either way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::done::{Change, Done, Known};
use super::limits::Used;
use super::nodes::Crew;
use super::{Plan, PlanPolicy, shard_name};
use crate::intent::rules::Rules;
use crate::intent::{Intent, NodeIntent};
use crate::node::config::Announce;
use crate::shard::{ShardId, shard_of};

/// The last plan, and what it was made of.
#[derive(Debug)]
pub(super) struct Last {
    nodes: BTreeMap<String, NodeIntent>,
    rules: Rules,
    crew: Crew,
    used: Used,
    /// How many of the plan's services are of each that it tells of.
    ports: Vec<usize>,
    pub(super) plan: Plan,
    /// How often it was carried over since all was planned.
    #[cfg(test)]
    pub(super) carried: usize,
}

impl Last {
    /// `None`: the next one is made of all services. `plain`: nothing was refused for the sake of another service.
    pub(super) fn new(
        intent: &Intent,
        policy: &PlanPolicy,
        (crew, used, plain): (Crew, Used, bool),
        known: &Known,
        plan: &Plan,
    ) -> Option<Self> {
        let rules = &intent.rules;
        let quiet = rules.l2.is_empty() && rules.bgp.is_empty() && rules.traffic.is_empty();
        if !plain || !quiet || policy.announce == Announce::Bgp {
            return None;
        }
        Some(Self {
            nodes: intent.nodes.clone(),
            rules: rules.clone(),
            crew,
            used,
            ports: known.iter().map(|(_, done)| done.specs().len()).collect(),
            plan: plan.clone(),
            #[cfg(test)]
            carried: 0,
        })
    }

    /// Carried over to `intent`, which differs by `changes`. `None`: all is to be planned anew.
    pub(super) fn over(
        mut self,
        intent: &Intent,
        policy: &PlanPolicy,
        known: &Known,
        changes: &[Change],
    ) -> Option<Self> {
        // Of many, all is not more.
        if changes.len() * 4 > known.len() || self.nodes != intent.nodes || self.rules != intent.rules {
            return None;
        }
        let mut vips = BTreeSet::new();
        // All go first: an address may go from one service to another.
        for spec in changes.iter().filter_map(|change| change.before.as_ref()).flat_map(Done::specs) {
            self.used.give_back(spec);
            let _new = vips.insert(spec.vip);
        }
        for done in changes.iter().filter_map(|change| known.get(&change.name)) {
            for spec in done.specs() {
                let free = super::against(spec.vip, policy, &self.crew).is_none();
                if !free || self.used.take(&done.standing, spec).is_err() {
                    return None;
                }
                let _new = vips.insert(spec.vip);
            }
        }
        changes.iter().for_each(|change| self.tell(&change.name, known.get(&change.name)));
        self.place(vips, policy)?;
        #[cfg(test)]
        {
            self.carried += 1;
        }
        Some(self)
    }

    /// What the plan says of one service.
    fn tell(&mut self, name: &str, done: Option<&Done>) {
        let Plan { told, services, health, .. } = &mut self.plan;
        let found = told.binary_search_by(|told| told.name.as_str().cmp(name));
        let (Ok(at) | Err(at)) = found;
        let from: usize = self.ports.iter().take(at).sum();
        let before = if found.is_ok() { self.ports[at] } else { 0 };
        let specs = done.map_or(&[][..], Done::specs);
        drop(services.splice(from..from + before, specs.iter().cloned()));
        match (found, done) {
            (Ok(at), Some(done)) => (self.ports[at], told[at]) = (specs.len(), done.standing.clone()),
            (Ok(at), None) => drop((self.ports.remove(at), told.remove(at))),
            (Err(at), Some(done)) => {
                self.ports.insert(at, specs.len());
                told.insert(at, done.standing.clone());
            }
            (Err(_), None) => {}
        }
        let wishes = done.and_then(|done| done.wishes.as_ref().ok());
        match wishes.and_then(|wishes| wishes.health).filter(|_| !specs.is_empty()) {
            Some(port) => drop(health.insert(name.to_owned(), port)),
            None => drop(health.remove(name)),
        }
    }

    /// Who owns and announces these VIPs.
    fn place(&mut self, vips: BTreeSet<IpAddr>, policy: &PlanPolicy) -> Option<()> {
        let routed = policy.announce.routed() && policy.file_neighbors.is_some();
        let mut touched: BTreeSet<ShardId> = BTreeSet::new();
        for vip in vips {
            let shard = shard_of(vip, policy.shards)?;
            let of = self.plan.shards.get_mut(&shard)?;
            let other = if self.used.holds(vip) { of.insert(vip) } else { of.remove(&vip) };
            if !other {
                continue;
            }
            let _new = touched.insert(shard);
            let routes = &mut self.plan.routes.vips;
            let _other = routed && if of.contains(&vip) { routes.insert(vip) } else { routes.remove(&vip) };
        }
        for shard in touched {
            let name = shard_name(shard);
            // None where this node takes no part.
            if let Some(group) = self.plan.groups.iter_mut().find(|group| group.name == name) {
                group.addresses = self.plan.shards.get(&shard)?.iter().copied().collect();
            }
        }
        Some(())
    }
}
