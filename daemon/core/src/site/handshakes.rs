//! What becomes of handshakes of each site's clients with each site: from places in which SYNs are noted to evidence that sites are judged by
//! (ADR 0037). [`Places`] says of a noted SYN whether it was answered, [`Handshakes`] what that says of a site beside the others.
//!
//! Nothing here asks a site, or trusts it: a SYN that a client does not go on from has failed, wherever it was lost.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::SiteId;
use super::policy::facts::{HANDSHAKES, Observed};
use super::summary::ServiceId;
use crate::time::Instant;

/// How often places are looked at.
pub const LOOK: Duration = Duration::from_millis(250);
/// A SYN that was not answered for so long has failed: its client sends it again now (RFC 6298 section 2.1). One that is answered to the second SYN
/// has failed as well: somebody waited a second for it.
pub const ANSWER: Duration = Duration::from_secs(1);
/// A client that goes on before a SYN has been seen for so long says that its way was well a moment ago. One that takes longer says nothing of now:
/// who may wait could speak for a path that is cut. One look of [`super::evidence::LOOK`] and what makes it late.
pub const PROMPT: Duration = Duration::from_millis(150);
/// A SYN that was not answered for so long is taken for lost where that is asked for at once: most clients' round trips are shorter, and longer ones
/// mean that probes measure.
pub const LATE: Duration = Duration::from_millis(300);
/// Handshakes count for so long (sites.md 4.5).
const WINDOW: Duration = Duration::from_secs(10);
/// A site is held against another one of which so many are known over the same time. Fewer say nothing: one failure would be 6 % and more.
const COMPARED: u32 = 16;
/// So many deviations are no chance, as for demand: 4 are exceeded by three of 100,000 looks.
const CHANCE: f64 = 4.0;

/// Handshakes since the counter began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Totals {
    /// The client went on.
    pub answered: u64,
    /// It did not, for [`ANSWER`].
    pub failed: u64,
    /// Of those answered: within [`PROMPT`].
    pub prompt: u64,
    /// It did not for [`LATE`], whatever it did then.
    pub late: u64,
}

impl Totals {
    /// One more.
    pub const fn count(&mut self, seen: Seen) {
        match seen {
            Seen::Prompt => {
                self.answered += 1;
                self.prompt += 1;
            }
            Seen::Answered => self.answered += 1,
            Seen::Late => self.late += 1,
            Seen::Failed { late } => {
                self.failed += 1;
                self.late += late as u64;
            }
        }
    }
}

/// What a look at a place has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The client went on, within [`PROMPT`] of the look that first saw its SYN.
    Prompt,
    /// It went on.
    Answered,
    /// It has not for [`LATE`], and may yet.
    Late,
    /// It did not for [`ANSWER`].
    Failed {
        /// Nobody looked in time to say that it was late.
        late: bool,
    },
}

impl Seen {
    /// Nothing more will come of it: the place is to be emptied.
    pub const fn ends(self) -> bool {
        !matches!(self, Self::Late)
    }
}

/// A SYN that stands at a place.
#[derive(Clone, Copy, Debug)]
struct Standing {
    which: u64,
    since: Instant,
    late: bool,
}

/// The places in which SYNs are noted, and since when the one that stands there does.
#[derive(Clone, Debug)]
pub struct Places(Vec<Option<Standing>>);

impl Places {
    /// So many, in which nothing has been seen.
    pub fn new(count: usize) -> Self {
        Self(vec![None; count])
    }

    /// What stands at a place is `noted` (`None`: nothing), and was answered or not: what does that say? `noted` tells one SYN from the next.
    pub fn look(&mut self, place: usize, noted: Option<(u64, bool)>, now: Instant) -> Option<Seen> {
        let standing = self.0.get_mut(place)?;
        let Some((which, answered)) = noted else {
            *standing = None;
            return None;
        };
        let known = standing.filter(|known| known.which == which);
        let mut one = known.unwrap_or(Standing { which, since: now, late: false });
        let age = now.since(one.since);
        let seen = match answered {
            true if age <= PROMPT => Some(Seen::Prompt),
            true => Some(Seen::Answered),
            false if age >= ANSWER => Some(Seen::Failed { late: !one.late }),
            false if age >= LATE && !one.late => Some(Seen::Late),
            false => None,
        };
        one.late |= seen == Some(Seen::Late);
        *standing = (!seen.is_some_and(Seen::ends)).then_some(one);
        seen
    }
}

/// What was learned between two readings.
#[derive(Clone, Debug)]
struct Slice {
    at: Instant,
    /// Handshakes and failures, by site.
    sites: BTreeMap<SiteId, Sum>,
}

/// Handshakes, and those that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum {
    handshakes: u32,
    failed: u32,
}

impl Sum {
    const fn add(&mut self, more: Self) {
        self.handshakes = self.handshakes.saturating_add(more.handshakes);
        self.failed = self.failed.saturating_add(more.failed);
    }

    const fn take(&mut self, less: Self) {
        self.handshakes = self.handshakes.saturating_sub(less.handshakes);
        self.failed = self.failed.saturating_sub(less.failed);
    }

    /// Of as many handshakes as `one` has, how many would fail if they fared as these did, and by chance more. With one failure and one success
    /// more than were seen: of a site without a failure it is not known that it never fails.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count, rounded up")]
    fn usual(self, one: Self) -> u32 {
        let (own, theirs) = (f64::from(one.handshakes), f64::from(self.handshakes));
        let part = (f64::from(self.failed) + 1.0) / (theirs + 2.0);
        let chance = CHANCE * (part * (1.0 - part) * (1.0 / own + 1.0 / theirs)).sqrt();
        (own * (f64::from(self.failed) / theirs + chance)).ceil() as u32
    }
}

/// What is known of a service.
#[derive(Clone, Debug, Default)]
struct Service {
    read: BTreeMap<SiteId, Totals>,
    /// The oldest first.
    slices: VecDeque<Slice>,
    /// Of all slices.
    sums: BTreeMap<SiteId, Sum>,
}

/// Evidence of the last ten seconds.
#[derive(Clone, Debug, Default)]
pub struct Handshakes(BTreeMap<ServiceId, Service>);

impl Handshakes {
    /// Only these services are of interest.
    pub fn retain(&mut self, wanted: impl Fn(&ServiceId) -> bool) {
        self.0.retain(|id, _| wanted(id));
    }

    /// Counters of a service were read. One that is less than it was has begun anew.
    pub fn handle_totals(&mut self, id: ServiceId, totals: &[(SiteId, Totals)], now: Instant) {
        let service = self.0.entry(id).or_default();
        let mut sites = BTreeMap::new();
        for (site, total) in totals {
            let before = service.read.insert(*site, *total).unwrap_or_default();
            let less =
                |now: u64, before: u64| u32::try_from(now.checked_sub(before).unwrap_or(now)).unwrap_or(u32::MAX);
            let failed = less(total.failed, before.failed);
            let handshakes = less(total.answered, before.answered).saturating_add(failed);
            if handshakes > 0 {
                let sum = Sum { handshakes, failed };
                service.sums.entry(*site).or_default().add(sum);
                let _none = sites.insert(*site, sum);
            }
        }
        if !sites.is_empty() {
            service.slices.push_back(Slice { at: now, sites });
        }
    }

    /// Forgets what is too old. The evidence of every service and site of which anything is known, and once more when nothing is any longer.
    pub fn observe(&mut self, now: Instant) -> Vec<(ServiceId, SiteId, Observed)> {
        let mut all = Vec::new();
        for (id, service) in self.0.iter_mut().filter(|(_, service)| !service.slices.is_empty()) {
            while let Some(old) = service.slices.pop_front_if(|slice| now.since(slice.at) >= WINDOW) {
                for (site, sum) in old.sites {
                    service.sums.entry(site).or_default().take(sum);
                }
            }
            all.extend(service.sums.iter().map(|(site, sum)| (*id, *site, service.observed(*site, *sum))));
        }
        all
    }

    /// Counters as they were read last.
    pub fn totals(&self, id: ServiceId, site: SiteId) -> Totals {
        self.0.get(&id).and_then(|service| service.read.get(&site)).copied().unwrap_or_default()
    }
}

impl Service {
    /// The worst that can be said of a site over a time that ends now and has [`HANDSHAKES`] in it, the longest of equals. A black hole is known by
    /// the shortest, a small part of failures by the longest. Where there are too few, or none failed, `all` of them.
    fn observed(&self, site: SiteId, all: Sum) -> Observed {
        let Sum { handshakes, failed } = all;
        let all = Observed { handshakes, failed, usual: 0, compared: false };
        if failed == 0 || handshakes < HANDSHAKES {
            return all;
        }
        let mut sums: BTreeMap<SiteId, Sum> = BTreeMap::new();
        let mut worst: Option<Observed> = None;
        for slice in self.slices.iter().rev() {
            for (of, sum) in &slice.sites {
                sums.entry(*of).or_default().add(*sum);
            }
            let own = sums.get(&site).copied().unwrap_or_default();
            if own.handshakes < HANDSHAKES {
                continue;
            }
            let others = sums.iter().filter(|(of, sum)| **of != site && sum.handshakes >= COMPARED);
            let usual = others.map(|(_, sum)| sum.usual(own)).min();
            let Sum { handshakes, failed } = own;
            let next = Observed { handshakes, failed, usual: usual.unwrap_or(0), compared: usual.is_some() };
            if worst.is_none_or(|worst| next.failure() >= worst.failure()) {
                worst = Some(next);
            }
        }
        worst.unwrap_or(all)
    }
}

#[cfg(test)]
mod tests;
