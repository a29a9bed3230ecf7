//! Applying a new configuration as a difference: an unchanged group never notices.

use super::Node;
use super::SLOTS;
use super::config::{GroupConfig, NodeConfig};
use super::group::{Env, Group};
use super::io::{Action, ElectorId};
use super::route::Changes;
use crate::health::Gate;
use crate::time::Instant;
use crate::types::Slot;

impl Node {
    pub(super) fn configure(&mut self, config: NodeConfig, now: Instant) {
        let policy_changed = self.config.fence != config.fence;
        let groups = config.groups.clone();
        self.config = config;
        self.replace_gates(now);
        let mut report = Changes::default();
        self.retire(&groups, &mut report.removed, now);
        for wanted in groups {
            let name = wanted.name.clone();
            match self.groups.iter().position(|g| g.config.name == name) {
                Some(i) if self.groups[i].config == wanted => report.unchanged += 1,
                Some(i) => {
                    report.changed.push(name);
                    let mut group = self.groups.remove(i);
                    group.update(wanted, &self.env(), now);
                    self.groups.insert(i, group);
                }
                None => {
                    report.added.push(name);
                    self.add(wanted, now);
                }
            }
        }
        let order: Vec<String> = self.config.groups.iter().map(|g| g.name.clone()).collect();
        self.groups.sort_by_key(|g| order.iter().position(|name| *name == g.config.name));
        self.replace_anycast(&mut report, now);
        self.actions.push_back(Action::Report(report.into_event()));
        if policy_changed {
            self.each(now, |g, env, now| {
                g.registered = None;
                g.register(env, now);
                g.apply_vrrp(env, now);
            });
        }
        self.update_health(now);
        self.evaluate(now);
    }

    /// Lets go of groups that are gone or changed beyond an update. A group whose addresses somebody else takes over in the same file
    /// leaves at once; another one is handed over first.
    fn retire(&mut self, wanted: &[GroupConfig], removed: &mut Vec<String>, now: Instant) {
        let mut index = 0;
        while index < self.groups.len() {
            let current = &self.groups[index].config;
            let next = wanted.iter().find(|w| w.name == current.name);
            if next.is_some_and(|w| current.updatable_to(w)) {
                index += 1;
                continue;
            }
            let mut group = self.groups.remove(index);
            removed.push(group.config.name.clone());
            let owned = group.config.owned();
            let contested = wanted.iter().any(|w| w.owned().iter().any(|a| owned.contains(a)));
            if contested {
                group.abandon(&Env { ending: true, ..self.env() }, now);
            } else {
                let env = Env { drained: true, ending: true, ..self.env() };
                group.evaluate(&env, now);
            }
            self.leaving.push(group);
        }
        // What the retired groups owe comes before anything that their successors will do with the same addresses and slots.
        self.collect(now);
    }

    fn add(&mut self, config: GroupConfig, now: Instant) {
        let used = |s: u32| self.groups.iter().chain(&self.leaving).any(|g| g.slot.0 == s);
        let Some(slot) = (0..SLOTS).find(|s| !used(*s)) else { return };
        self.next_elector += 1;
        let elector = ElectorId(self.next_elector);
        let group = Group::new(
            config,
            Slot(slot),
            elector,
            self.seed.rotate_left(slot % 64) ^ now.as_nanos(),
            &self.env(),
            now,
        );
        self.groups.push(group);
    }

    pub(super) fn env(&self) -> Env<'_> {
        Env {
            node: &self.config.node,
            policy: self.config.fence,
            fence: &self.fence,
            keys: &self.config.keys,
            drained: self.drained || self.stopping,
            ending: self.stopping,
            route_drain: self.config.route_drain,
            links: &self.links,
        }
    }

    /// Unchanged gates keep their state and their schedule.
    fn replace_gates(&mut self, now: Instant) {
        let mut old = core::mem::take(&mut self.gates);
        for (index, wanted) in self.config.gates.iter().enumerate() {
            let kept = old.iter().position(|g| g.config() == wanted).map(|i| old.remove(i));
            let index = u32::try_from(index).unwrap_or(0);
            // Any spread will do: the low bits of the seed differ between nodes, the index between gates.
            let [low, high, ..] = self.seed.wrapping_add(u64::from(index) * 0x9e37).to_le_bytes();
            let jitter = f64::from(u16::from_le_bytes([low, high])) / f64::from(u16::MAX);
            self.gates.push(kept.unwrap_or_else(|| Gate::new(wanted.clone(), jitter, now)));
        }
    }
}
