//! The configuration file and the cluster's intent together: what both come to goes to the rooms, as far as it differs from what they have.
//!
//! A slice that changed makes other tables and touches no ownership; a node that is drained changes ownership and touches no table.

mod policy;
mod sites;
mod source;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use bascule_core::bfd::config::PeerConfig;
use bascule_core::service::NodeSpec;
use bascule_core::service::plan::{Plan, Planner, Refused};
use bascule_core::service::translate::HealthPort;
use tokio::sync::{Mutex, MutexGuard, oneshot, watch};
use tracing::{info, warn};

use super::forward::Frames;
use super::tasks::Rooms;
use crate::config::{Bgp, Loaded};
use crate::handle::intent::{InForce, IntentHandle};
use crate::intent::{Ports, Seen};
use sites::Known;

#[cfg(test)]
pub(super) use policy::of as policy_of;
pub(super) use source::{Sources, begin};

/// The file in force, the intent in force, and what they come to.
pub(super) struct Merged {
    file: Loaded,
    seen: Option<Seen>,
    planner: Option<Planner>,
    plan: Arc<Plan>,
    /// Routers and what they are told: the file's, and what the cluster adds. With the BFD sessions that this brings, and those with nodes.
    bgp: Option<Bgp>,
    bfd: Vec<PeerConfig>,
    /// Sites, the file's and the cluster's; and whether the last plan brought others.
    known: Known,
    other_sites: bool,
    /// There are too many nodes for a session with each.
    crowded: bool,
    /// The first intent is still waited for: the data plane is not told of a cluster without Services, or it would take away what a
    /// former run left.
    waiting: bool,
    plans: u64,
    /// What the fence was told of.
    frames: Frames,
    handle: IntentHandle,
    health: watch::Sender<BTreeMap<String, HealthPort>>,
}

impl Merged {
    /// Before anything is started.
    pub(super) fn new(file: Loaded, seen: Option<Seen>, handle: IntentHandle) -> Self {
        let (waiting, health) = (seen.is_none(), watch::Sender::default());
        let mut merged = Self {
            file,
            seen,
            planner: None,
            plan: Arc::default(),
            bgp: None,
            bfd: Vec::new(),
            known: Known::default(),
            other_sites: false,
            crowded: false,
            waiting,
            plans: 0,
            frames: Frames::default(),
            handle,
            health,
        };
        let _before = merged.plan();
        merged
    }

    /// Makes the plan of what is known now. Gives the one before.
    fn plan(&mut self) -> Arc<Plan> {
        let before = Arc::clone(&self.plan);
        let nothing = BTreeMap::new();
        let objects = self.seen.as_ref().map_or(&nothing, |seen| &seen.intent.rules.sites);
        self.other_sites = self.known.take(&self.file, objects);
        let policy = policy::of(&self.file, self.known.of_plan());
        self.planner = match (self.planner.take(), policy) {
            (_, None) => None,
            (None, Some(policy)) => Some(Planner::new(policy)),
            (Some(mut planner), Some(policy)) => {
                let _other = planner.set_policy(policy);
                Some(planner)
            }
        };
        let begin = Instant::now();
        let mut plan = match (&mut self.planner, &self.seen) {
            (Some(planner), Some(seen)) => planner.plan(&seen.intent),
            (Some(_) | None, _) => Plan::default(),
        };
        let joined = self.file.bgp.as_ref().map(|bgp| bgp.with_cluster(&plan.routes, &self.file.bfd));
        let (bgp, bfd, refused) = match joined {
            Some((bgp, bfd, refused)) => (Some(bgp), bfd, refused),
            None => (None, Vec::new(), Vec::new()),
        };
        (self.bgp, self.bfd) = (bgp, bfd);
        self.watch_nodes(&plan);
        if self.planner.is_some() && self.seen.is_some() {
            self.known.names().for_each(|name| plan.hold("Site", name));
            for (kind, name, why) in refused.into_iter().chain(self.known.refused().cloned()) {
                plan.refuse(kind, &name, why);
            }
        }
        self.plan = Arc::new(plan);
        self.plans += u64::from(self.planner.is_some() && self.seen.is_some());
        self.handle.set(self.planner.as_ref().map(|_| self.in_force(begin.elapsed())));
        tell(&before, &self.plan, &self.file.node.node);
        let changed = |health: &mut BTreeMap<String, HealthPort>| {
            let other = *health != self.plan.health;
            health.clone_from(&self.plan.health);
            other
        };
        let _changed = self.health.send_if_modified(changed);
        before
    }

    /// Adds a BFD session with every other node, where the file wants them.
    fn watch_nodes(&mut self, plan: &Plan) {
        let services = self.file.kubernetes.as_ref().and_then(|kubernetes| kubernetes.services.as_ref());
        let Some(bfd) = services.and_then(|services| services.bfd.as_ref()) else { return };
        let there: Vec<PeerConfig> = self.file.bfd.iter().chain(&self.bfd).cloned().collect();
        // Nodes of the file, and of other sites, have the sessions that the file gives them.
        let of_file = |node: &&NodeSpec| {
            let nodes = self.file.forwarding.iter().flat_map(|forwarding| &forwarding.config.nodes);
            let this = node.name == self.file.node.node;
            this || !nodes.into_iter().any(|of_file| of_file.name == node.name)
        };
        let sessions = bfd.sessions(&self.file.node.node, plan.nodes.iter().filter(of_file), &there);
        if std::mem::replace(&mut self.crowded, sessions.is_none()) != sessions.is_none() {
            match &sessions {
                None => warn!("there are more nodes than BFD sessions: none of them is watched"),
                Some(sessions) => info!(sessions = sessions.len(), "all other nodes are watched by BFD again"),
            }
        }
        self.bfd.extend(sessions.into_iter().flatten());
    }

    fn in_force(&self, took: std::time::Duration) -> InForce {
        let intent = self.seen.as_ref().map(|seen| &seen.intent);
        let nodes = intent.iter().flat_map(|intent| &intent.nodes);
        let names: BTreeMap<IpAddr, String> =
            nodes.flat_map(|(name, node)| node.addresses.iter().map(|a| (*a, name.clone()))).collect();
        InForce {
            node: self.file.node.node.clone(),
            announce: self.planner.as_ref().map(|planner| planner.policy().announce).unwrap_or_default(),
            source: self.seen.as_ref().map(|seen| seen.origin.as_str()),
            at: self.seen.as_ref().map(|seen| seen.at),
            plan: Arc::clone(&self.plan),
            took,
            plans: self.plans,
            names,
        }
    }

    /// What `healthCheckNodePort` answers, as it changes.
    pub(super) fn health(&self) -> watch::Receiver<BTreeMap<String, HealthPort>> {
        self.health.subscribe()
    }

    /// The file with what the cluster adds.
    pub(super) fn effective(&self) -> Loaded {
        let mut all = self.file.clone();
        all.node.groups.extend(self.plan.groups.iter().cloned());
        all.node.anycast.extend(self.plan.anycast.iter().cloned());
        all.bgp.clone_from(&self.bgp);
        all.bfd.extend(self.bfd.iter().cloned());
        all.sites = self.known.with(&self.plan);
        if let Some(forwarding) = &mut all.forwarding {
            if self.planner.is_some() && self.seen.is_some() {
                // The plan's nodes begin with those of the file.
                forwarding.config.nodes.clone_from(&self.plan.nodes);
            } else {
                forwarding.config.nodes.retain(|node| policy::here(&self.file, node));
            }
            if let Some(sites) = &all.sites {
                forwarding.join(sites);
            }
            forwarding.config.services.extend(self.plan.services.iter().cloned());
        }
        all
    }

    /// The data plane may be told: what is known of the cluster is all there is for now.
    fn forwards(&self) -> bool {
        self.planner.is_none() || !self.waiting
    }
}

/// The way of files and intents to the rooms.
#[derive(Clone)]
pub(super) struct Merger {
    merged: Arc<Mutex<Merged>>,
    rooms: Rooms,
}

impl Merger {
    pub(super) fn new(merged: Merged, rooms: Rooms) -> Self {
        Self { merged: Arc::new(Mutex::new(merged)), rooms }
    }

    /// Tells every room everything, once at the start.
    ///
    /// # Errors
    /// When the loop has ended.
    pub(super) async fn begin(&self) -> Result<()> {
        let mut merged = self.merged.lock().await;
        self.tell_all(&mut merged).await
    }

    /// A good file; what can only change with a start has its present value.
    ///
    /// # Errors
    /// When the loop has ended.
    pub(super) async fn file(&self, file: Loaded) -> Result<()> {
        let mut merged = self.merged.lock().await;
        merged.file = file;
        merged.known.forget();
        let _before = merged.plan();
        self.tell_all(&mut merged).await
    }

    /// An intent. Ends when the data plane has taken what came of it, too: who brings many knows by that how fast.
    ///
    /// # Errors
    /// When the loop has ended.
    pub(super) async fn intent(&self, seen: Seen) -> Result<()> {
        let mut merged = self.merged.lock().await;
        let first = std::mem::take(&mut merged.waiting);
        let same = merged.seen.as_ref().is_some_and(|before| before.intent == seen.intent);
        merged.seen = Some(seen);
        if same && !first {
            // Only its age and origin are news.
            merged.handle.set(merged.planner.as_ref().map(|_| merged.in_force(std::time::Duration::ZERO)));
            return Ok(());
        }
        let (routers, sessions) = (merged.bgp.clone(), merged.bfd.clone());
        let before = merged.plan();
        let plan = Arc::clone(&merged.plan);
        let all = merged.effective();
        let other_sites = merged.other_sites;
        self.rooms.neighbors.config(&all);
        let forwards = first || other_sites || (&before.services, &before.nodes) != (&plan.services, &plan.nodes);
        let taken = if forwards { Some(self.tell_forwarding(&mut merged, &all, &before).await?) } else { None };
        if (&before.groups, &before.anycast) != (&plan.groups, &plan.anycast) {
            self.rooms.world.config(all.node.clone()).await?;
        }
        if sessions != merged.bfd {
            self.rooms.sessions.config(&all).await?;
        }
        // Routes and BFD first: a new neighbor must not be told of a VIP that has just gone.
        if routers != merged.bgp {
            self.tell_routers(&all).await?;
        }
        if other_sites || before.spreads != plan.spreads {
            self.rooms.sites.config(all.sites.as_ref());
        }
        drop(merged);
        if let Some(taken) = taken {
            // A room that has ended says so by its conditions.
            let _ended = taken.await;
        }
        Ok(())
    }

    async fn tell_routers(&self, all: &Loaded) -> Result<()> {
        if self.rooms.bgp.config(all).await { Ok(()) } else { Err(anyhow!("the BGP room has ended")) }
    }

    /// No intent came in time.
    ///
    /// # Errors
    /// When the loop has ended.
    pub(super) async fn go_on_without(&self) -> Result<()> {
        let mut merged = self.merged.lock().await;
        if !std::mem::take(&mut merged.waiting) || merged.planner.is_none() {
            return Ok(());
        }
        warn!("no intent of the cluster is kept, and the API server has told none yet: its Services wait");
        self.tell_all(&mut merged).await
    }

    /// Tables before announcements: what is announced is served.
    async fn tell_all(&self, merged: &mut MutexGuard<'_, Merged>) -> Result<()> {
        let all = merged.effective();
        self.rooms.neighbors.config(&all);
        if merged.forwards() {
            self.tell_fence(merged, &all).await?;
            drop(self.rooms.forward.config(&all).await);
        }
        self.rooms.world.config(all.node.clone()).await?;
        self.rooms.sessions.config(&all).await?;
        self.rooms.sites.config(all.sites.as_ref());
        // Routes and BFD first: a new neighbor must not be told of a VIP that has just gone.
        self.tell_routers(&all).await
    }

    async fn tell_fence(&self, merged: &mut Merged, all: &Loaded) -> Result<()> {
        match merged.frames.config(all) {
            Some(opening) => self.rooms.world.forwarded(opening).await,
            None => Ok(()),
        }
    }

    async fn tell_forwarding(
        &self,
        merged: &mut MutexGuard<'_, Merged>,
        all: &Loaded,
        before: &Plan,
    ) -> Result<oneshot::Receiver<()>> {
        self.tell_fence(merged, all).await?;
        let taken = self.rooms.forward.config(all).await;
        if merged.other_sites || before.nodes != merged.plan.nodes {
            self.rooms.sessions.config(all).await?;
        }
        Ok(taken)
    }
}

/// Answers `healthCheckNodePort` until nobody makes plans any more.
pub(super) async fn health(mut wanted: watch::Receiver<BTreeMap<String, HealthPort>>) {
    let mut ports = Ports::default();
    wanted.mark_changed();
    while wanted.changed().await.is_ok() {
        let newest = wanted.borrow_and_update().clone();
        ports.set(&newest).await;
    }
}

/// One line for each change that an operator asks about.
fn tell(before: &Plan, after: &Plan, this: &str) {
    // Both are in the order of names.
    let (mut olds, mut gone) = (before.told.iter().peekable(), Vec::new());
    let silent = |why: &Refused| matches!(why, Refused::NotOurs(_) | Refused::Pending);
    for service in &after.told {
        // Shared: nothing of it is new.
        if olds.next_if(|old| Arc::ptr_eq(old, service)).is_some() {
            continue;
        }
        while let Some(old) = olds.next_if(|old| old.name < service.name) {
            gone.push(old);
        }
        let old = olds.next_if(|old| old.name == service.name);
        if old.is_none_or(|old| old.vips != service.vips) && (old.is_some() || !service.vips.is_empty()) {
            info!(service = service.name, vips = ?service.vips, "VIPs of a Service");
        }
        for why in service.refused.iter().filter(|why| !silent(why)) {
            if old.is_none_or(|old| !old.refused.contains(why)) {
                warn!(service = service.name, reason = why.reason(), "a Service is not served: {why}");
            }
        }
    }
    for object in &after.objects {
        let old = before.objects.iter().find(|old| old.kind == object.kind && old.name == object.name);
        let (kind, name) = (&object.kind, &object.name);
        match (old.and_then(|old| old.refused.as_ref()), &object.refused) {
            (old, Some(why)) if old != Some(why) => {
                warn!(kind, name, "an object of the cluster is refused: {why}")
            }
            (None, None) if old.is_none() => info!(kind, name, "an object of the cluster is in force"),
            (Some(_), None) => info!(kind, name, "an object of the cluster is in force as it is"),
            (Some(_) | None, _) => {}
        }
    }
    for gone in
        before.objects.iter().filter(|old| !after.objects.iter().any(|o| o.kind == old.kind && o.name == old.name))
    {
        info!(kind = gone.kind, name = gone.name, "an object of the cluster is gone");
    }
    for gone in gone.into_iter().chain(olds).filter(|told| !told.vips.is_empty()) {
        info!(service = gone.name, vips = ?gone.vips, "a Service is gone");
    }
    let reasons = |plan: &Plan| -> Option<Vec<String>> {
        let standing = plan.standings.iter().find(|standing| standing.name == this)?;
        Some(standing.reasons.iter().map(ToString::to_string).collect())
    };
    match (reasons(before), reasons(after)) {
        (old, Some(new)) if old.as_ref() != Some(&new) && !new.is_empty() => {
            warn!(node = this, reasons = new.join("; "), "this node owns no VIPs of Services");
        }
        (Some(old), Some(new)) if !old.is_empty() && new.is_empty() => {
            info!(node = this, "this node may own VIPs of Services");
        }
        (Some(_), None) => warn!(node = this, "the cluster has no such node any more: it owns no VIPs of Services"),
        (Some(_) | None, _) => {}
    }
}
