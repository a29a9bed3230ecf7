//! May something of this site be taken out of use? Not when what is left would not suffice.

use std::collections::BTreeMap;

use super::Policy;
use super::io::{DrainError, Takes, Unit};
use crate::site::summary::{ServiceId, Summary};
use crate::time::Instant;

/// What is left must carry so many per cent of the demand (sites.md 4.10).
const SUFFICIENT: u64 = 110;
/// Where the demand is not known: this part of all that there shall be, the least that does not count as an emergency (`PANIC`).
const HALF: u64 = 2;

/// A service at all sites, before and after.
#[derive(Default)]
struct Sum {
    demand: u64,
    /// Of capacity and of endpoints: what there shall be, and what is left.
    capacity: (u64, u64),
    endpoints: (u64, u64),
    /// Everybody who serves has said what they can carry.
    known: bool,
}

impl Sum {
    fn add(&mut self, summary: &Summary, usable: bool, taken: u64) {
        let (ready, expected) = (u64::from(summary.ready), u64::from(summary.expected.max(summary.ready)));
        let left = if usable { ready.saturating_sub(taken) } else { 0 };
        let part = |of: u64, whole: u64| (whole * of).checked_div(ready).unwrap_or_default();
        let capacity = u64::from(summary.capacity);
        self.demand += u64::from(summary.demand);
        self.known &= capacity > 0 || ready == 0;
        self.endpoints.0 += expected;
        self.endpoints.1 += left;
        self.capacity.0 += part(expected, capacity);
        self.capacity.1 += part(left, capacity);
    }
}

impl Policy {
    /// Would what is left carry each service when this much of it is taken from this site? What does not serve now is missed by nobody.
    ///
    /// # Errors
    /// [`DrainError`] with the numbers of the first service that would suffer.
    pub fn spares(&self, takes: &BTreeMap<ServiceId, Takes>, now: Instant) -> Result<(), DrainError> {
        takes.iter().try_for_each(|(service, takes)| self.spares_of(*service, *takes, now))
    }

    fn spares_of(&self, service: ServiceId, takes: Takes, now: Instant) -> Result<(), DrainError> {
        let mut sum = Sum { known: true, ..Sum::default() };
        let mut missed = false;
        for candidate in self.candidates(service, now) {
            let summary = &candidate.summary;
            let usable = !candidate.hard && summary.serves();
            let taken = match takes {
                _ if candidate.site != self.config.here => 0,
                Takes::All => summary.ready.into(),
                Takes::Endpoints(count) => u64::from(count),
            };
            missed |= usable && taken > 0;
            sum.add(summary, usable, taken);
        }
        if !missed {
            return Ok(());
        }
        if sum.endpoints.1 == 0 {
            return Err(DrainError::Last { service });
        }
        let demand = sum.demand;
        if demand > 0 && sum.known {
            let (needed, left) = ((demand * SUFFICIENT).div_ceil(100), sum.capacity.1);
            return if left < needed { Err(DrainError::Capacity { service, left, demand, needed }) } else { Ok(()) };
        }
        let ((all, left), unit) =
            if sum.known { (sum.capacity, Unit::Capacity) } else { (sum.endpoints, Unit::Endpoints) };
        let needed = all.div_ceil(HALF);
        if left < needed { Err(DrainError::Half { service, left, all, needed, unit }) } else { Ok(()) }
    }
}
