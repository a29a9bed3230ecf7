//! What the allocator knows and what is to be written: [`Ipam`] decides who gets what, this compares it with what the objects say.
//!
//! Pure: objects go in as they are told, [`Book::next`] gives the next object that is not as it shall be, and [`Book::done`] takes what
//! became of its write. One write per object is under way; each names the version that it was decided on, so what somebody else wrote
//! meanwhile is never overwritten: the watch brings it, and it is decided anew.

mod nodes;
mod pools;
mod services;

use std::collections::{BTreeMap, BTreeSet};

use bascule_core::ipam::{Ipam, Labels, Reason, ServiceId, Usage};
use serde_json::Value;

use crate::follow::Told;
use crate::object::node::Node;
use crate::object::pool::VipPool;
use crate::object::service::{Service, StatusCondition};
use nodes::NodeBook;
use pools::PoolBook;

/// Which Services are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) classes: BTreeSet<String>,
    pub(super) unclassed: bool,
}

/// An object to be written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Service(ServiceId),
    Pool(String),
    Node(String),
}

/// How it is written: a patch that names the version it was decided on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Write {
    pub(super) target: Target,
    pub(super) patch: Value,
    /// What people are told when it is done.
    pub(super) event: Option<Notice>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    /// The object that it is about: kind, namespace, name and uid.
    pub(super) about: About,
    pub(super) reason: String,
    pub(super) message: String,
}

/// `involvedObject`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Done {
    /// The object as it is now.
    Service(Box<Service>),
    Pool(Box<VipPool>),
    Node(Box<Node>),
    /// An event alone was sent.
    Said,
    /// Somebody else wrote before: it is decided anew on what the watch brings of that, or has brought meanwhile.
    Conflict,
    /// It did not work, and is tried again.
    Again,
    /// The object is gone, or the server will never take this: nothing more until it changes.
    Drop,
}

/// A Service, and what it shall have.
#[derive(Debug)]
struct Entry {
    service: Service,
    /// What makes no sense in what it asks for.
    wrong: Option<String>,
    /// As [`Ipam`] told it last.
    told: Option<(BTreeSet<std::net::IpAddr>, Vec<Reason>)>,
}

/// Everything.
pub(super) struct Book {
    rules: Rules,
    /// Seconds as text, for the times that conditions must have.
    clock: fn() -> String,
    ipam: Ipam,
    services: BTreeMap<ServiceId, Entry>,
    /// Those of ours that lack something.
    lacking: BTreeSet<ServiceId>,
    namespaces: BTreeMap<String, Labels>,
    pools: PoolBook,
    nodes: NodeBook,
    /// To be compared.
    queue: BTreeSet<Target>,
    /// A write is under way, which names this version.
    busy: BTreeMap<Target, String>,
    /// Older than what the server has: nothing can be decided before the watch brings that.
    behind: BTreeSet<Target>,
    /// Lists that are complete: services, namespaces, pools, nodes.
    complete: [bool; 4],
}

impl Book {
    pub(super) fn new(rules: Rules, clock: fn() -> String) -> Self {
        Self {
            rules,
            clock,
            ipam: Ipam::new(),
            services: BTreeMap::new(),
            lacking: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            pools: PoolBook::default(),
            nodes: NodeBook::default(),
            queue: BTreeSet::new(),
            busy: BTreeMap::new(),
            behind: BTreeSet::new(),
            complete: [false; 4],
        }
    }

    /// Nothing is given before everything was told once.
    fn is_complete(&self) -> bool {
        self.complete == [true; 4]
    }

    pub(super) fn services(&mut self, told: Told<Service>) {
        let all = matches!(told, Told::All(_));
        match told {
            Told::All(all) => {
                let now: BTreeSet<ServiceId> = all.iter().map(|(_, service)| super::ask::id(service)).collect();
                let gone: Vec<_> = self.services.keys().filter(|id| !now.contains(id)).cloned().collect();
                gone.iter().for_each(|id| self.forget(id));
                all.into_iter().for_each(|(_, service)| self.service(service));
            }
            Told::One(_, service) => self.service(service),
            Told::Gone((namespace, name)) => self.forget(&ServiceId { namespace, name }),
        }
        self.told(0, all);
    }

    pub(super) fn namespaces(&mut self, told: Told<Labels>) {
        let all = matches!(told, Told::All(_));
        match told {
            Told::All(all) => {
                let all: BTreeMap<String, Labels> = all.into_iter().map(|((_, name), labels)| (name, labels)).collect();
                let before = std::mem::replace(&mut self.namespaces, all);
                let changed = |name: &&String| before.get(*name) != self.namespaces.get(*name);
                let changed: Vec<String> =
                    before.keys().chain(self.namespaces.keys()).filter(changed).cloned().collect();
                changed.iter().for_each(|name| self.ask_again(name));
            }
            Told::One((_, name), labels) => {
                if self.namespaces.get(&name) != Some(&labels) {
                    let _before = self.namespaces.insert(name.clone(), labels);
                    self.ask_again(&name);
                }
            }
            // With its Services.
            Told::Gone((_, name)) => drop(self.namespaces.remove(&name)),
        }
        self.told(1, all);
    }

    pub(super) fn pools(&mut self, told: Told<VipPool>) {
        let all = matches!(told, Told::All(_));
        if self.pools.take(told) {
            self.ipam.handle_pools(self.pools.usable());
        }
        self.queue.extend(self.pools.names().map(Target::Pool));
        self.told(2, all);
    }

    pub(super) fn nodes(&mut self, told: Told<Node>) {
        let all = matches!(told, Told::All(_));
        self.nodes.take(told);
        self.queue.extend(self.nodes.due());
        self.told(3, all);
    }

    fn told(&mut self, kind: usize, all: bool) {
        self.complete[kind] |= all;
        if self.is_complete() {
            self.ipam.handle_synced();
            self.hear();
        }
    }

    /// There is something to compare.
    pub(super) fn is_due(&self) -> bool {
        self.is_complete() && self.queue.iter().any(|target| !self.busy.contains_key(target))
    }

    /// A pool is to be compared.
    pub(super) fn has_pools(&self) -> bool {
        self.queue.iter().any(|target| matches!(target, Target::Pool(_)))
    }

    /// The next object that is not as it shall be. Pools come last: how full they are is the less often written the busier it is.
    pub(super) fn next(&mut self, with_pools: bool) -> Option<Write> {
        if !self.is_complete() {
            return None;
        }
        let free =
            |target: &&Target| !self.busy.contains_key(target) && (with_pools || !matches!(target, Target::Pool(_)));
        // One at a time: of thousands that wait, the first is mostly the one that is written.
        while let Some(target) = self.queue.iter().find(free).cloned() {
            let _was = self.queue.remove(&target);
            let write = match &target {
                Target::Service(id) => self.service_write(id),
                Target::Pool(name) => self.pools.write(name, &self.ipam.usage(), self.clock),
                Target::Node(name) => self.nodes.write(name),
            };
            if let Some(write) = write {
                let version = write.patch["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
                let _none = self.busy.insert(target, version);
                return Some(write);
            }
        }
        None
    }

    /// What became of a write.
    pub(super) fn done(&mut self, target: &Target, done: Done) {
        let named = self.busy.remove(target);
        match done {
            Done::Service(service) => self.service(*service),
            Done::Pool(pool) => {
                let key = pool.metadata.key();
                self.pools(Told::One(key, *pool));
            }
            Done::Node(node) => {
                let key = node.metadata.key();
                self.nodes(Told::One(key, *node));
            }
            Done::Said => {}
            // The same version again would meet the same conflict.
            Done::Conflict if named.as_deref() == self.version(target) => drop(self.behind.insert(target.clone())),
            Done::Conflict | Done::Again => drop(self.queue.insert(target.clone())),
            Done::Drop => self.nodes.give_up(target),
        }
        if self.is_complete() {
            self.hear();
        }
    }

    /// The version of an object as it is known.
    fn version(&self, target: &Target) -> Option<&str> {
        match target {
            Target::Service(id) => self.services.get(id).map(|entry| entry.service.metadata.resource_version.as_str()),
            Target::Pool(name) => self.pools.version(name),
            Target::Node(name) => self.nodes.version(name),
        }
    }

    /// The watch has had its time: what it was waited for is tried again all the same, in case the server meant something else by 409.
    pub(super) fn look_again(&mut self) {
        self.queue.append(&mut self.behind);
    }

    /// How full the pools are.
    pub(super) fn usage(&self) -> BTreeMap<String, Usage> {
        self.ipam.usage().into_iter().map(|(name, usage)| (name.to_owned(), usage)).collect()
    }

    /// Services of ours that lack something.
    pub(super) fn pending(&self) -> usize {
        self.lacking.len()
    }
}

/// Is an object of this version older than the one that is known? A watch may be behind the answer to a write.
fn is_older(version: &str, known: &str) -> bool {
    match (version.parse::<u64>(), known.parse::<u64>()) {
        (Ok(version), Ok(known)) => version < known,
        _ => false,
    }
}

/// The condition as it is written. Equal ones are not written again, so its time is that of the change.
fn condition(wanted: &StatusCondition, generation: i64, clock: fn() -> String) -> Value {
    serde_json::json!({"type": wanted.r#type, "status": wanted.status, "reason": wanted.reason, "message": wanted.message,
        "observedGeneration": generation, "lastTransitionTime": clock()})
}
