//! Orders to take something out of use: refused when what is left would not suffice, over after a deadline, ended by a slow start.

use std::collections::BTreeSet;

use super::decide::Candidate;
use super::io::{Action, Concerned, Drain, DrainError, DrainTarget};
use super::{Policy, Timer};
use crate::site::SiteId;
use crate::site::summary::{ServiceId, Summary};
use crate::time::Instant;

/// What is left must carry so many per cent of the demand (sites.md 4.10).
const SUFFICIENT: u64 = 110;

impl Policy {
    /// Takes something out of use: new flows avoid it at once, those that exist stay until the deadline.
    ///
    /// # Errors
    /// [`DrainError`] when what is left would not suffice and the order does not insist.
    pub fn handle_drain(&mut self, order: Drain, now: Instant) -> Result<(), DrainError> {
        if !order.force {
            self.suffices(&order)?;
        }
        let until = now + order.within;
        let _old = self.drains.insert(order.target.clone(), until);
        let concerned: Concerned = order.takes.keys().copied().collect();
        let _old = self.orders.insert(order.target.clone(), order);
        self.timers.set(Timer::Drain, self.drains.values().min().copied().unwrap_or(until));
        self.concern(&concerned, now);
        Ok(())
    }

    /// Puts it back. What takes part again begins slowly.
    pub fn handle_undrain(&mut self, target: &DrainTarget, now: Instant) {
        let _deadline = self.drains.remove(target);
        if let Some(order) = self.orders.remove(target) {
            self.concern(&order.takes.keys().copied().collect(), now);
        }
    }

    /// Orders in force, with the end of their time.
    pub fn drains(&self) -> impl Iterator<Item = (&DrainTarget, Option<Instant>)> {
        self.orders.keys().map(|target| (target, self.drains.get(target).copied()))
    }

    pub(super) fn drains_over(&mut self, now: Instant) {
        let over: Vec<DrainTarget> = self.drains.iter().filter(|(_, at)| **at <= now).map(|(t, _)| t.clone()).collect();
        for target in over {
            // The order stays in force; only its time for old flows is over.
            let _deadline = self.drains.remove(&target);
            self.actions.push_back(Action::DrainOver(target));
        }
        if let Some(next) = self.drains.values().min() {
            self.timers.set(Timer::Drain, *next);
        }
    }

    /// What orders leave of a summary.
    pub(super) fn take(&self, site: SiteId, id: ServiceId, summary: &mut Summary) {
        for order in self.orders.values() {
            match order.takes.get(&(site, id)) {
                Some(None) => summary.draining = true,
                Some(Some(part)) => summary.capacity = summary.capacity.saturating_sub(*part),
                None => {}
            }
        }
    }

    fn concern(&mut self, concerned: &Concerned, now: Instant) {
        for (site, id) in concerned {
            self.urgent(*site, Some(*id), now, now);
        }
    }

    fn suffices(&self, order: &Drain) -> Result<(), DrainError> {
        let services: BTreeSet<ServiceId> = order.takes.keys().map(|(_, id)| *id).collect();
        for service in services {
            let (mut left, mut demand, mut serving) = (0u64, 0u64, false);
            for candidate in self.candidates(service, self.started) {
                let Candidate { site, summary, hard, .. } = candidate;
                demand += u64::from(summary.demand);
                let usable = !hard && summary.serves();
                match order.takes.get(&(site, service)) {
                    _ if !usable => {}
                    Some(None) => {}
                    Some(Some(part)) => {
                        left += u64::from(summary.capacity.saturating_sub(*part));
                        serving |= summary.capacity > *part;
                    }
                    None => {
                        left += u64::from(summary.capacity);
                        serving = true;
                    }
                }
            }
            if !serving {
                return Err(DrainError::Last { service });
            }
            let needed = demand * SUFFICIENT / 100;
            // Capacity 0 everywhere: nobody has said what it can carry, and only "somebody serves" can be asked for.
            if left > 0 && left < needed {
                return Err(DrainError::Capacity { service, left, demand, needed });
            }
        }
        Ok(())
    }
}
