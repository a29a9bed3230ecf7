//! What the rest of the process may know of the cluster's intent and of what this node made of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bascule_core::node::config::Announce;
use bascule_core::node::status::NodeStatus;
use bascule_core::service::plan::{NodeStanding, ObjectStanding, Plan, Refused, ServiceStanding, shard_name};
use bascule_core::shard::ShardId;
use bascule_core::shard::rebalance::Move;
use bascule_core::types::Role;
use bascule_k8s::{AllocatorState, ReportState};
use serde::Serialize;
use tokio::sync::watch;

/// A plan in force.
#[derive(Debug, Clone)]
pub struct InForce {
    /// This node.
    pub node: String,
    /// How VIPs are announced.
    pub announce: Announce,
    /// Where the intent was read: `api` or `file`; `None`: there was none yet.
    pub source: Option<&'static str>,
    /// When it was the API server's word.
    pub at: Option<SystemTime>,
    /// What became of it.
    pub plan: Arc<Plan>,
    /// How long the last plan took.
    pub took: Duration,
    /// Plans made since the start.
    pub plans: u64,
    /// Names of nodes by their addresses.
    pub names: BTreeMap<IpAddr, String>,
}

/// The asking side, and that of whoever makes plans.
#[derive(Clone, Default)]
pub struct IntentHandle {
    shared: Arc<Mutex<Option<Arc<InForce>>>>,
    /// Why the API server tells nothing new.
    api: Arc<Mutex<Option<String>>>,
    /// Why it tells nothing of objects about announcements.
    untold: Arc<Mutex<Option<String>>>,
    /// Where this node may allocate.
    allocator: Arc<Mutex<Option<watch::Receiver<AllocatorState>>>>,
    /// What became of this node's reports, where it gives any.
    reports: Arc<Mutex<Option<ReportState>>>,
}

impl IntentHandle {
    /// The plan in force; `None`: Services of a cluster are left alone.
    pub fn get(&self) -> Option<Arc<InForce>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the API server tells nothing new; `None`: it does, or is not asked.
    pub fn api(&self) -> Option<String> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The API server stands otherwise.
    pub fn set_api(&self, trouble: Option<String>) {
        *self.api.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why the API server tells nothing of objects about announcements, where it knows them; `None`: it does, or is not asked.
    pub fn untold(&self) -> Option<String> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It stands otherwise.
    pub fn set_untold(&self, trouble: Option<String>) {
        *self.untold.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// What the allocator of this node does; `None`: it has none.
    pub fn allocator(&self) -> Option<AllocatorState> {
        let state = self.allocator.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(|state| state.borrow().clone())
    }

    /// This node takes part.
    pub fn set_allocator(&self, state: watch::Receiver<AllocatorState>) {
        *self.allocator.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// What became of this node's reports; `None`: it gives none.
    pub fn reports(&self) -> Option<ReportState> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It reported, or tried to.
    pub fn set_reports(&self, state: ReportState) {
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// Another plan is in force.
    pub fn set(&self, plan: Option<InForce>) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = plan.map(Arc::new);
    }
}

/// `/cluster`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    /// Where the intent was read.
    pub source: Option<&'static str>,
    /// Seconds since it was the API server's word.
    pub age_seconds: Option<f64>,
    /// This node may own VIPs.
    pub may_own: bool,
    /// Why not, in words.
    pub reasons: Vec<String>,
    /// `null`: this node never gives addresses.
    pub allocator: Option<AllocatorView>,
    /// `null`: this node never writes a VipStatus.
    pub reports: Option<ReportsView>,
    /// Shards, in their order.
    pub shards: Vec<ShardView>,
    /// Services, by namespace and name.
    pub services: Vec<ServiceStanding>,
    /// Objects about announcements, by kind and name.
    pub objects: Vec<ObjectStanding>,
    /// Nodes, by name.
    pub nodes: Vec<NodeStanding>,
}

/// What the allocator of this node does.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AllocatorView {
    /// It gives addresses and ids now.
    pub leads: bool,
    /// Who does, as the Lease says.
    pub holder: Option<String>,
    /// How the API server answers for the Lease.
    pub lease: &'static str,
    /// Services of ours that lack something; `null` where another one leads.
    pub pending: Option<usize>,
    /// Writes that were carried out since the start: statuses and ids.
    pub writes: u64,
    /// Writes that somebody else's came before.
    pub conflicts: u64,
    /// Writes that did not work for another reason.
    pub failures: u64,
    /// Events that were sent.
    pub events: u64,
    /// The last failure, in the server's words.
    pub detail: Option<String>,
}

impl From<AllocatorState> for AllocatorView {
    fn from(state: AllocatorState) -> Self {
        Self {
            leads: state.leads,
            holder: state.holder,
            lease: state.lease.as_str(),
            pending: state.leads.then_some(state.pending),
            writes: state.writes,
            conflicts: state.conflicts,
            failures: state.failures,
            events: state.events,
            detail: state.detail,
        }
    }
}

/// What became of this node's VipStatus objects.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportsView {
    /// Written since the start.
    pub written: u64,
    /// Writes that did not work.
    pub failed: u64,
    /// Why the last one did not, in the server's words; `null`: it did.
    pub trouble: Option<String>,
}

impl From<ReportState> for ReportsView {
    fn from(ReportState { written, failed, trouble }: ReportState) -> Self {
        Self { written, failed, trouble }
    }
}

/// A shard as this node sees it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardView {
    /// Name of its group.
    pub name: String,
    /// This node's rank, from 1; `None`: it takes no part.
    pub rank: Option<usize>,
    /// Name of the owner, or its address where no node has it; `None`: nobody is heard, or every node announces.
    pub owner: Option<String>,
    /// Its VIPs.
    pub vips: Vec<IpAddr>,
}

impl InForce {
    /// Seconds since it was the API server's word.
    pub fn age(&self) -> Option<f64> {
        let age = self.at.and_then(|at| SystemTime::now().duration_since(at).ok());
        age.map(|age| age.as_secs_f64())
    }

    /// VIPs that are served.
    pub fn vips(&self) -> usize {
        self.plan.shards.values().map(std::collections::BTreeSet::len).sum()
    }

    /// How often each reason holds.
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        let mut count: BTreeMap<&str, u64> = Refused::REASONS.into_iter().map(|reason| (reason, 0)).collect();
        for why in self.plan.told.iter().flat_map(|told| &told.refused) {
            *count.entry(why.reason()).or_default() += 1;
        }
        count
    }

    /// Objects about announcements that hold as they are, and those that do not, by kind.
    pub fn objects(&self) -> BTreeMap<(&str, &'static str), u64> {
        let mut count = BTreeMap::new();
        for object in &self.plan.objects {
            let state = if object.refused.is_some() { "refused" } else { "in_force" };
            *count.entry((object.kind.as_str(), state)).or_default() += 1;
        }
        count
    }

    /// Services that are ours.
    pub fn services(&self) -> usize {
        let foreign = |told: &&ServiceStanding| matches!(told.refused.as_slice(), [Refused::NotOurs(_)]);
        self.plan.told.iter().map(AsRef::as_ref).filter(|told| !foreign(told)).count()
    }

    fn owner(&self, shard: ShardId, status: &NodeStatus) -> Option<String> {
        let group = status.groups.iter().find(|group| group.name == shard_name(shard))?;
        if group.role == Role::Active {
            return Some(self.node.clone());
        }
        let address = group.owner?;
        Some(self.names.get(&address).cloned().unwrap_or_else(|| address.to_string()))
    }

    /// Every shard with its VIPs.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &std::collections::BTreeSet<IpAddr>)> {
        self.plan.shards.iter().map(|(shard, vips)| (*shard, vips))
    }

    /// All of it, with what the node says of owners and what its writers have done.
    pub fn view(&self, status: &NodeStatus, writers: &IntentHandle) -> ClusterView {
        let this = self.plan.standings.iter().find(|standing| standing.name == self.node);
        let reasons = match this {
            Some(standing) => standing.reasons.iter().map(ToString::to_string).collect(),
            None if self.source.is_none() => vec!["nothing is known of the cluster yet".to_owned()],
            None => vec![format!("the cluster has no node {}", self.node)],
        };
        let shard = |(id, vips): (ShardId, &std::collections::BTreeSet<IpAddr>)| ShardView {
            name: shard_name(id),
            rank: self.plan.rank(id, &self.node).map(|rank| rank + 1),
            owner: self.owner(id, status),
            vips: vips.iter().copied().collect(),
        };
        ClusterView {
            source: self.source,
            age_seconds: self.age(),
            may_own: this.is_some_and(|standing| standing.may_own),
            reasons,
            allocator: writers.allocator().map(AllocatorView::from),
            reports: writers.reports().map(ReportsView::from),
            shards: self.shards().map(shard).collect(),
            services: self.plan.told.iter().map(|told| ServiceStanding::clone(told)).collect(),
            objects: self.plan.objects.clone(),
            nodes: self.plan.standings.clone(),
        }
    }

    /// What has to move so that every shard is at the best node that may own. On a link without the nodes' own addresses another node's
    /// name is not known, and only what this node owns moves.
    pub fn rebalance(&self, status: &NodeStatus) -> Vec<Move> {
        let node = |name: &String| *name == self.node || self.names.values().any(|known| known == name);
        let owners = self.shards().filter_map(|(id, _)| Some((id, self.owner(id, status).filter(node)?))).collect();
        self.plan.rebalance(&owners)
    }
}
