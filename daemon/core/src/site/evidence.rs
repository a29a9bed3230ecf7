//! What the handshakes of clients say of paths: from counters of the data path to [`Evidence`] for [`super::path::Path`], and when they are to be
//! read (ADR 0045).
//!
//! Contract: look every [`Speaker::pace`], read the counters of [`Speaker::services`] at least, of all services every `handshakes::LOOK`, and give them with
//! the times before the question and after the answer. What comes out is of this very moment: it is of no use 50 ms later.
//!
//! A handshake speaks for the path to a site where its SYN went there over it and its SYN-ACK came back the same way: of services whose replies
//! return through the node of the request. Only clients that went on promptly count, and those who are late stand against them. What is missing (a
//! look that was late, a counter that began anew) is no evidence, and no evidence means probes.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::SiteId;
use super::handshakes::{LOOK as SELDOM, Totals};
use super::path::io::Evidence;
use super::path::{ENOUGH, SPOKEN};
use super::summary::ServiceId;
use crate::time::Instant;

/// From one look to the next while there is enough to say: a path is told every 100 ms (`path::SPOKEN` is half as long again).
pub const LOOK: Duration = Duration::from_millis(100);
/// Looks go on so often for so long after the last one that had enough: arrivals are no clock.
const LINGER: Duration = Duration::from_secs(1);

/// Counters of a service as they were read last, and when that was asked for.
#[derive(Clone, Debug, Default)]
struct Read {
    asked: Option<Instant>,
    totals: BTreeMap<SiteId, Totals>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Speaker {
    here: SiteId,
    /// Those whose handshakes count.
    services: BTreeMap<ServiceId, Read>,
    /// Services that bring enough, and until when they are looked at often.
    often: BTreeMap<ServiceId, Instant>,
}

impl Speaker {
    /// Nothing is known. Handshakes with site `here` say nothing of paths.
    pub const fn new(here: SiteId) -> Self {
        Self { here, services: BTreeMap::new(), often: BTreeMap::new() }
    }

    /// Handshakes with these services count, and no others.
    pub fn handle_services(&mut self, services: &BTreeSet<ServiceId>) {
        self.services.retain(|id, _| services.contains(id));
        self.often.retain(|id, _| services.contains(id));
        for id in services {
            let _known = self.services.entry(*id).or_default();
        }
    }

    /// Counters were read: asked for at `asked`, known at `now`. What is said of each site of which there is anything to say.
    pub fn handle_totals(
        &mut self,
        read: &[(ServiceId, Vec<(SiteId, Totals)>)],
        asked: Instant,
        now: Instant,
    ) -> Vec<(SiteId, Evidence)> {
        let mut said: BTreeMap<SiteId, Evidence> = BTreeMap::new();
        // Handshakes a second with each site, and the services that brought some.
        let mut rates: BTreeMap<SiteId, f64> = BTreeMap::new();
        let mut brought = Vec::new();
        for (id, totals) in read {
            let Some(known) = self.services.get_mut(id) else { continue };
            // All that is new came within this time. The first look has no beginning.
            let span = known.asked.replace(asked).map(|before| now.since(before)).filter(|span| !span.is_zero());
            for (site, total) in totals.iter().filter(|(site, _)| *site != self.here) {
                let before = known.totals.insert(*site, *total);
                let Some((new, span)) = before.and_then(|before| difference(before, *total)).zip(span) else {
                    continue;
                };
                if new.acknowledged > 0 {
                    *rates.entry(*site).or_default() += f64::from(new.acknowledged) / span.as_secs_f64();
                    brought.push((*id, *site));
                }
                // A late look: what came long ago would look as if it came all the time.
                if span <= SPOKEN {
                    let sum = said.entry(*site).or_default();
                    sum.acknowledged = sum.acknowledged.saturating_add(new.acknowledged);
                    sum.again = sum.again.saturating_add(new.again);
                }
            }
        }
        let enough = f64::from(ENOUGH) / LOOK.as_secs_f64();
        for (id, _) in brought.into_iter().filter(|(_, site)| rates.get(site).is_some_and(|rate| *rate >= enough)) {
            let _before = self.often.insert(id, now + LINGER);
        }
        self.often.retain(|_, until| *until > now);
        said.into_iter().filter(|(_, sum)| *sum != Evidence::default()).collect()
    }

    /// The services to look at before the next look at all of them.
    pub fn services(&self) -> impl Iterator<Item = ServiceId> + '_ {
        self.often.keys().copied()
    }

    /// There is enough to say that looks are frequent.
    pub fn is_speaking(&self) -> bool {
        !self.often.is_empty()
    }

    /// From a look to the next one.
    pub fn pace(&self) -> Duration {
        if self.is_speaking() { LOOK } else { SELDOM }
    }
}

/// What came between two readings; `None` where counters began anew: a service that has another place, or another process that counts.
fn difference(before: Totals, now: Totals) -> Option<Evidence> {
    let less = |now: u64, before: u64| now.checked_sub(before).map(|new| u32::try_from(new).unwrap_or(u32::MAX));
    Some(Evidence { acknowledged: less(now.prompt, before.prompt)?, again: less(now.late, before.late)? })
}

#[cfg(test)]
mod tests;
