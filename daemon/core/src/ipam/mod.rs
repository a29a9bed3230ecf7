//! Which addresses a service gets, and in words why it gets none.
//!
//! Addresses are for good: what a status says is adopted at the start and stays as long as the service is there and wants it, whatever
//! happens to pools, selectors and other services. The machine gives nothing before it has seen everything ([`Ipam::handle_synced`]), and
//! then serves the oldest service first, from the pool of the highest priority, at its lowest free address: a second allocator that sees
//! the same comes to the same. That two do not write at once is for the caller, which runs it under a lease.
//!
//! Contract: feed `handle_*`, then take [`Ipam::poll_action`] until `None`. Time plays no part.

mod allot;
mod free;
mod io;
mod select;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use io::{Action, Block, Cross, Families, PoolSpec, Reason, Request, ServiceId, Sharing};
pub use select::{Expression, Labels, Namespaces, Operator, Selector};

use crate::types::Family;
use free::Free;

/// A pool and what is free of it.
#[derive(Debug)]
struct Pool {
    spec: PoolSpec,
    free: Free,
    /// Addresses of it that some service holds.
    used: u128,
}

/// A service and what it has.
#[derive(Debug)]
struct Entry {
    request: Request,
    held: BTreeSet<IpAddr>,
    /// As last told.
    told: Option<(BTreeSet<IpAddr>, Vec<Reason>)>,
}

/// How full a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Usage {
    /// Addresses of the pool that some service holds.
    pub used: u128,
    /// Addresses that are free.
    pub free: u128,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Ipam {
    pools: BTreeMap<String, Pool>,
    services: BTreeMap<ServiceId, Entry>,
    holders: BTreeMap<IpAddr, BTreeSet<ServiceId>>,
    synced: bool,
    /// To be looked at, oldest first.
    dirty: BTreeSet<(u64, ServiceId)>,
    actions: VecDeque<Action>,
}

impl Ipam {
    /// A machine that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// All pools that there shall be. What services hold stays theirs, in a pool or not.
    pub fn handle_pools(&mut self, pools: Vec<PoolSpec>) {
        let build = |spec: PoolSpec| {
            let mut free = Free::new(&spec);
            self.holders.keys().for_each(|address| free.take(*address));
            let used = self.holders.keys().filter(|address| spec.contains(**address)).count();
            (spec.name.clone(), Pool { spec, free, used: used as u128 })
        };
        self.pools = pools.into_iter().map(build).collect();
        self.look_at_unsatisfied();
    }

    /// A service that wants addresses from us, new or changed.
    pub fn handle_service(&mut self, request: Request) {
        let key = (request.created, request.id.clone());
        match self.services.get_mut(&request.id) {
            Some(entry) if entry.request == request => return,
            Some(entry) => {
                let _old = self.dirty.remove(&(entry.request.created, request.id.clone()));
                entry.request = request;
            }
            None => {
                let id = request.id.clone();
                let _none = self.services.insert(id, Entry { request, held: BTreeSet::new(), told: None });
                if self.synced {
                    self.adopt(&key.1);
                }
            }
        }
        let _new = self.dirty.insert(key);
    }

    /// A service is gone, or wants addresses from somebody else.
    pub fn handle_removed(&mut self, id: &ServiceId) {
        let Some(entry) = self.services.get(id) else { return };
        let key = (entry.request.created, id.clone());
        for address in entry.held.clone() {
            self.release(id, address);
        }
        let _was = self.dirty.remove(&key);
        let _entry = self.services.remove(id);
        self.look_at_unsatisfied();
    }

    /// Everything that is there has been told once: pools and services with their statuses.
    pub fn handle_synced(&mut self) {
        if self.synced {
            return;
        }
        self.synced = true;
        let mut oldest: Vec<_> = self.services.values().map(|e| (e.request.created, e.request.id.clone())).collect();
        oldest.sort();
        for (_, id) in &oldest {
            self.adopt(id);
        }
        self.dirty.extend(oldest);
    }

    /// What is owed.
    pub fn poll_action(&mut self) -> Option<Action> {
        while self.synced && self.actions.is_empty() {
            let (_, id) = self.dirty.pop_first()?;
            self.settle(&id);
        }
        self.actions.pop_front()
    }

    /// What a service holds.
    pub fn held(&self, id: &ServiceId) -> Option<&BTreeSet<IpAddr>> {
        self.services.get(id).map(|entry| &entry.held)
    }

    /// Why a service does not have all that it wants, as last told.
    pub fn reasons(&self, id: &ServiceId) -> &[Reason] {
        self.services.get(id).and_then(|entry| entry.told.as_ref()).map_or(&[], |(_, reasons)| reasons)
    }

    /// How full each pool is.
    pub fn usage(&self) -> BTreeMap<&str, Usage> {
        let usage = |pool: &Pool| Usage { used: pool.used, free: pool.free.count() };
        self.pools.iter().map(|(name, pool)| (name.as_str(), usage(pool))).collect()
    }

    fn look_at_unsatisfied(&mut self) {
        let unsatisfied = |e: &&Entry| e.told.as_ref().is_none_or(|(_, reasons)| !reasons.is_empty());
        let keys = self.services.values().filter(unsatisfied).map(|e| (e.request.created, e.request.id.clone()));
        self.dirty.extend(keys);
    }

    /// Takes over what the status says, where nobody older holds it against the rules.
    fn adopt(&mut self, id: &ServiceId) {
        let Some(entry) = self.services.get(id) else { return };
        let request = entry.request.clone();
        for address in request.status.iter().copied() {
            let first = !entry_has(self.services.get(id), Family::of(&address));
            if first && request.families.wants(Family::of(&address)) && self.may_hold(&request, address).is_ok() {
                self.hold(id, address);
            }
        }
    }

    fn hold(&mut self, id: &ServiceId, address: IpAddr) {
        if let Some(entry) = self.services.get_mut(id) {
            let _new = entry.held.insert(address);
            let holders = self.holders.entry(address).or_default();
            if holders.is_empty() {
                for pool in self.pools.values_mut().filter(|pool| pool.spec.contains(address)) {
                    pool.free.take(address);
                    pool.used += 1;
                }
            }
            let _new = holders.insert(id.clone());
        }
    }

    fn release(&mut self, id: &ServiceId, address: IpAddr) {
        if let Some(entry) = self.services.get_mut(id) {
            let _had = entry.held.remove(&address);
        }
        let Some(holders) = self.holders.get_mut(&address) else { return };
        let _had = holders.remove(id);
        if holders.is_empty() {
            let _empty = self.holders.remove(&address);
            for pool in self.pools.values_mut().filter(|pool| pool.spec.contains(address)) {
                pool.free.give(address);
                pool.used -= 1;
            }
        }
    }
}

fn entry_has(entry: Option<&Entry>, family: Family) -> bool {
    entry.is_some_and(|entry| entry.held.iter().any(|held| Family::of(held) == family))
}
