//! Pools: which are usable, and what their status says.

use std::collections::BTreeMap;

use bascule_core::ipam::{PoolSpec, Usage};
use serde_json::json;

use super::{Target, Write, condition, is_older};
use crate::follow::Told;
use crate::object::pool::{VipPool, overlap};
use crate::object::service::StatusCondition;

/// Type of the condition.
const READY: &str = "Ready";

/// Pools by name.
#[derive(Default)]
pub(super) struct PoolBook {
    pools: BTreeMap<String, VipPool>,
    /// What each is good for, or why for nothing.
    verdicts: BTreeMap<String, Result<PoolSpec, StatusCondition>>,
}

impl PoolBook {
    /// Gives whether what may be given has changed.
    pub(super) fn take(&mut self, told: Told<VipPool>) -> bool {
        match told {
            Told::All(all) => self.pools = all.into_iter().map(|((_, name), pool)| (name, pool)).collect(),
            Told::One((_, name), pool) => {
                let known = self.pools.get(&name).map(|known| &known.metadata.resource_version);
                if known.is_some_and(|known| is_older(&pool.metadata.resource_version, known)) {
                    return false;
                }
                let _before = self.pools.insert(name, pool);
            }
            Told::Gone((_, name)) => drop(self.pools.remove(&name)),
        }
        let before = std::mem::take(&mut self.verdicts);
        self.verdicts = self.judge();
        self.verdicts != before
    }

    /// Of two that overlap the older one is good.
    fn judge(&self) -> BTreeMap<String, Result<PoolSpec, StatusCondition>> {
        let mut by_age: Vec<&VipPool> = self.pools.values().collect();
        by_age.sort_by_key(|pool| (pool.metadata.creation_timestamp.clone(), pool.metadata.name.clone()));
        let mut good: Vec<PoolSpec> = Vec::new();
        let mut verdicts = BTreeMap::new();
        for pool in by_age {
            let verdict = pool.spec().map_err(|why| ready("False", "Invalid", why)).and_then(|spec| {
                match good.iter().find_map(|other| overlap(&spec, other)) {
                    Some(common) => Err(ready("False", "Overlaps", format!("nothing is given from it: {common}"))),
                    None => Ok(spec),
                }
            });
            good.extend(verdict.iter().cloned());
            let _unique = verdicts.insert(pool.metadata.name.clone(), verdict);
        }
        verdicts
    }

    pub(super) fn usable(&self) -> Vec<PoolSpec> {
        self.verdicts.values().flatten().cloned().collect()
    }

    pub(super) fn version(&self, name: &str) -> Option<&str> {
        self.pools.get(name).map(|pool| pool.metadata.resource_version.as_str())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.pools.keys().cloned()
    }

    /// What is to be written; `None`: nothing.
    pub(super) fn write(&self, name: &str, usage: &BTreeMap<&str, Usage>, clock: fn() -> String) -> Option<Write> {
        let (pool, verdict) = (self.pools.get(name)?, self.verdicts.get(name)?);
        let usage = usage.get(name).copied().unwrap_or_default();
        // More than an int64 has no pool that anybody counts.
        let number = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
        let (used, free) = (number(usage.used), number(usage.free));
        let wanted = match verdict {
            Ok(_) => ready("True", "Ready", "addresses are given from it".to_owned()),
            Err(why) => why.clone(),
        };
        let said = pool.status.conditions.contains(&wanted);
        if said && (pool.status.used, pool.status.free) == (used, free) {
            return None;
        }
        let mut status = json!({"used": used, "free": free});
        if !said {
            // The only one: a merge patch replaces the list.
            status["conditions"] = json!([condition(&wanted, pool.metadata.generation, clock)]);
        }
        let patch = json!({"metadata": {"resourceVersion": pool.metadata.resource_version}, "status": status});
        Some(Write { target: Target::Pool(name.to_owned()), patch, event: None })
    }
}

fn ready(status: &str, reason: &str, message: String) -> StatusCondition {
    StatusCondition { r#type: READY.to_owned(), status: status.to_owned(), reason: reason.to_owned(), message }
}
