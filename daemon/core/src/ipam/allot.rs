//! One service: what it may keep, and what it gets.

use core::cmp::Reverse;
use core::net::IpAddr;
use std::collections::BTreeSet;

use super::io::{Action, Cross, Families, Reason, Request, ServiceId, Sharing};
use super::{Ipam, Pool};
use crate::types::Family;

impl Ipam {
    /// Brings what a service has to what it wants, and tells it if that changed.
    pub(super) fn settle(&mut self, id: &ServiceId) {
        let Some(entry) = self.services.get(id) else { return };
        let request = entry.request.clone();
        self.drop_what_it_may_not_keep(id, &request);
        let mut reasons = Vec::new();
        let mut fresh = Vec::new();
        for family in [Family::V4, Family::V6].into_iter().filter(|family| request.families.wants(*family)) {
            let held = self.held_of(id, family);
            let wanted = request.requested.iter().copied().find(|address| Family::of(address) == family);
            // An address that was asked for after another one was given: that one stays until it can be had.
            if held.is_some() && wanted.is_none_or(|wanted| held == Some(wanted)) {
                continue;
            }
            match self.choose(&request, family, wanted) {
                Ok(address) => {
                    if let Some(before) = held {
                        self.release(id, before);
                        self.look_at_unsatisfied();
                    } else {
                        fresh.push(address);
                    }
                    self.hold(id, address);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        let one_missing = self.services.get(id).is_some_and(|entry| entry.held.len() < 2);
        if request.families == Families::RequireDual && one_missing {
            // What was given in vain goes back; what it had already stays.
            for address in fresh {
                self.release(id, address);
            }
            reasons.push(Reason::NeedsBoth);
        }
        if request.families == Families::PreferDual && self.services.get(id).is_some_and(|e| !e.held.is_empty()) {
            // It prefers, and does not insist: only an address that it asked for by name is worth a word.
            reasons.retain(|reason| {
                matches!(reason, Reason::NotInPool { .. } | Reason::Taken { .. } | Reason::PortTaken { .. })
            });
        }
        self.tell(id, reasons);
    }

    fn drop_what_it_may_not_keep(&mut self, id: &ServiceId, request: &Request) {
        let held: Vec<IpAddr> = self.services.get(id).map(|e| e.held.iter().copied().collect()).unwrap_or_default();
        for address in held {
            if !request.families.wants(Family::of(&address)) || self.may_hold(request, address).is_err() {
                self.release(id, address);
                self.look_at_unsatisfied();
            }
        }
    }

    fn held_of(&self, id: &ServiceId, family: Family) -> Option<IpAddr> {
        self.services.get(id)?.held.iter().copied().find(|address| Family::of(address) == family)
    }

    fn tell(&mut self, id: &ServiceId, reasons: Vec<Reason>) {
        let Some(entry) = self.services.get_mut(id) else { return };
        let now = (entry.held.clone(), reasons);
        if entry.told.as_ref() != Some(&now) {
            let (addresses, reasons) = now.clone();
            entry.told = Some(now);
            self.actions.push_back(Action::Tell { id: id.clone(), addresses, reasons });
        }
    }

    /// Do the rules of sharing let this service hold the address beside those who do?
    pub(super) fn may_hold(&self, request: &Request, address: IpAddr) -> Result<(), Reason> {
        for by in self.holders.get(&address).into_iter().flatten().filter(|by| **by != request.id) {
            let Some(other) = self.services.get(by) else { continue };
            share(request, &other.request).map_err(|port| match port {
                None => Reason::Taken { address, by: by.clone() },
                Some((protocol, port)) => Reason::PortTaken { address, by: by.clone(), port, protocol },
            })?;
        }
        Ok(())
    }

    fn choose(&self, request: &Request, family: Family, wanted: Option<IpAddr>) -> Result<IpAddr, Reason> {
        let pools = self.pools_for(request, wanted.is_some())?;
        if let Some(address) = wanted {
            if !pools.iter().any(|pool| pool.spec.contains(address)) {
                return Err(Reason::NotInPool { address });
            }
            return self.may_hold(request, address).map(|()| address);
        }
        if let Some(address) = self.shared(request, family, &pools) {
            return Ok(address);
        }
        let names = || pools.iter().map(|pool| pool.spec.name.clone()).collect();
        let first = pools.iter().find_map(|pool| pool.free.first(family));
        first.ok_or_else(|| Reason::Exhausted { family, pools: names() })
    }

    /// Pools that serve it, best first. With both families wanted those come first that have both.
    fn pools_for(&self, request: &Request, by_address: bool) -> Result<Vec<&Pool>, Reason> {
        if let Some(name) = &request.pool {
            let pool = self.pools.get(name).ok_or_else(|| Reason::UnknownPool { pool: name.clone() })?;
            return if pool.spec.serves(request) {
                Ok(vec![pool])
            } else {
                Err(Reason::PoolRefuses { pool: name.clone() })
            };
        }
        let serving: Vec<&Pool> = self.pools.values().filter(|pool| pool.spec.serves(request)).collect();
        if serving.is_empty() {
            return Err(Reason::NoPool);
        }
        let mut pools: Vec<&Pool> =
            serving.iter().copied().filter(|pool| by_address || pool.spec.auto_assign).collect();
        if pools.is_empty() {
            let pools = serving.iter().map(|pool| pool.spec.name.clone()).collect();
            return Err(Reason::NoAutoAssign { pools });
        }
        let dual = matches!(request.families, Families::PreferDual | Families::RequireDual);
        let lacks_one = |pool: &Pool| [Family::V4, Family::V6].into_iter().any(|f| pool.free.first(f).is_none());
        pools.sort_by_key(|pool| (dual && lacks_one(pool), Reverse(pool.spec.priority)));
        Ok(pools)
    }

    /// The lowest address that it may share with those who have the same key.
    fn shared(&self, request: &Request, family: Family, pools: &[&Pool]) -> Option<IpAddr> {
        let wanted = &request.sharing.as_ref()?.key;
        let fits = |address: &IpAddr| {
            Family::of(address) == family
                && pools.iter().any(|pool| pool.spec.contains(*address))
                && self.may_hold(request, *address).is_ok()
        };
        let same_key = |id: &ServiceId| {
            let sharing = self.services.get(id).and_then(|entry| entry.request.sharing.as_ref());
            sharing.is_some_and(|sharing| sharing.key == *wanted)
        };
        let mut taken = self.holders.iter().filter(|(_, by)| by.iter().any(same_key)).map(|(address, _)| *address);
        taken.find(fits)
    }
}

/// May two services have one address? If not: because of this port, or at all.
fn share(a: &Request, b: &Request) -> Result<(), Option<(crate::service::Protocol, u16)>> {
    let (Some(of_a), Some(of_b)) = (&a.sharing, &b.sharing) else { return Err(None) };
    let allows = |sharing: &Sharing, namespace: &String| match &sharing.cross {
        Cross::Own => false,
        Cross::With(namespaces) => namespaces.contains(namespace),
        Cross::Any => true,
    };
    let near = a.id.namespace == b.id.namespace || allows(of_a, &b.id.namespace) && allows(of_b, &a.id.namespace);
    if of_a.key != of_b.key || !near || a.local != b.local {
        return Err(None);
    }
    let common: BTreeSet<_> = a.ports.intersection(&b.ports).collect();
    common.first().map_or(Ok(()), |port| Err(Some(**port)))
}
