//! What clients bring to a site: from counters of its nodes to a number that sites reckon with (ADR 0021).
//!
//! A node makes a rate of each counter ([`Meter`]) and says it to the relays of its site; the relay that leads adds them up. A rate stands for
//! [`HOLD`] at a relay, a sum for [`KEEP`] at a node. A sum that moves by no more than noise is the same sum: it costs nothing to say.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::lead;
use super::orders;
use super::summary::ServiceId;
use crate::time::Instant;

/// How often counters are read, and how often a site's sums are made.
pub const READ: Duration = Duration::from_millis(500);
/// A rate, and a sum, that is not zero is said again after so long.
pub const AGAIN: Duration = lead::BEAT;
/// What a node has said counts for so long: as long as a relay is believed after its last beat.
pub const HOLD: Duration = lead::HOLD;
/// The last sum of a relay that leads holds for so long: over a change of relays, which takes 3 s at most. Later it says nothing of now; without a
/// relay nobody lends either (3 s), and the excess stays at home.
pub const KEEP: Duration = orders::KEEP;
/// A rate is made of the last second at least, and of the last eight at most: 100 a second are counted to 10 % in one, to 3.5 % in eight.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(8);
/// So many deviations of a Poisson count are no noise: what was before the last second is forgotten. 4 are exceeded once in two hours.
const SUDDEN: f64 = 4.0;
/// A sum is another one when it differs by this part, and by two deviations of what is counted in [`LONG`]. What the policy leaves for noise.
const PART: f64 = 0.05;
const NOISE: f64 = 2.0;

/// New connections (UDP: datagrams) that clients ask for, in thousandths a second: many nodes may have less than one each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Rate(pub u64);

impl Rate {
    /// The most that is believed of one node: a thousand million a second, which no network card brings.
    pub const MOST: Self = Self(1_000_000_000_000);

    /// In units a second.
    pub fn per_second(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// In whole units a second; what is not zero is at least one, for a summary says 0 where nothing is known.
    pub fn whole(self) -> u32 {
        u32::try_from(self.0.div_ceil(1000)).unwrap_or(u32::MAX)
    }
}

/// What a node counts of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Count {
    /// The service.
    pub service: ServiceId,
    /// How much.
    pub rate: Rate,
}

/// From a counter to a rate: steady where the counter is, and quick where it is not.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// What the counter said, and when.
    seen: VecDeque<(Instant, u64)>,
    rate: Rate,
}

impl Meter {
    /// The counter was read. One that begins anew, or was not read for long, leaves the rate as it was for a second.
    pub fn handle_total(&mut self, total: u64, now: Instant) {
        if self.seen.back().is_some_and(|(at, last)| total < *last || now.since(*at) >= LONG) {
            self.seen.clear();
        }
        if self.seen.back().is_some_and(|(at, _)| *at >= now) {
            return;
        }
        self.seen.push_back((now, total));
        while self.seen.get(1).is_some_and(|(at, _)| now.since(*at) >= LONG) {
            let _old = self.seen.pop_front();
        }
        let Some(last) = self.seen.iter().rposition(|(at, _)| now.since(*at) >= SHORT) else { return };
        let (begin, oldest) = (self.seen[last], self.seen[0]);
        if last > 0 {
            let expected = per_second(oldest, begin) * now.since(begin.0).as_secs_f64();
            let counted = (total - begin.1) as f64;
            if (counted - expected).abs() > SUDDEN * counted.max(expected).max(1.0).sqrt() {
                self.seen.drain(..last);
            }
        }
        self.rate = milli(per_second(self.seen[0], (now, total)));
    }

    /// The rate, of a counter that was read lately.
    pub fn rate(&self, now: Instant) -> Rate {
        match self.seen.back() {
            Some((at, _)) if now.since(*at) < HOLD => self.rate,
            Some(_) | None => Rate(0),
        }
    }
}

fn per_second(from: (Instant, u64), to: (Instant, u64)) -> f64 {
    (to.1 - from.1) as f64 / to.0.since(from.0).as_secs_f64().max(f64::MIN_POSITIVE)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what is believed")]
fn milli(rate: f64) -> Rate {
    Rate((rate * 1000.0).round().clamp(0.0, Rate::MOST.0 as f64) as u64)
}

/// Is `now` another rate than `said`? From and to nothing always is.
fn differs(said: Rate, now: Rate) -> bool {
    let (most, apart) = (said.max(now).per_second(), said.0.abs_diff(now.0) as f64 / 1000.0);
    let noise = NOISE * (most / LONG.as_secs_f64()).sqrt();
    (said.0 == 0) != (now.0 == 0) || apart >= (PART * most).max(noise).max(f64::MIN_POSITIVE)
}

/// What this node counts of a service, and what it said last.
#[derive(Clone, Debug)]
struct Own {
    meter: Meter,
    said: (Rate, Instant),
}

/// What one node knows of what its site's clients bring.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    own: BTreeMap<ServiceId, Own>,
    /// What other nodes say, by service and node.
    heard: BTreeMap<(ServiceId, String), (Rate, Instant)>,
    /// What the site says of it, since when nobody has said it again.
    site: BTreeMap<ServiceId, (Rate, Instant)>,
}

impl Demand {
    /// Only these services are of interest.
    pub fn retain(&mut self, wanted: impl Fn(&ServiceId) -> bool) {
        self.own.retain(|id, _| wanted(id));
        self.heard.retain(|(id, _), _| wanted(id));
        self.site.retain(|id, _| wanted(id));
    }

    /// A counter of this node was read.
    pub fn handle_total(&mut self, id: ServiceId, total: u64, now: Instant) {
        let new = || Own { meter: Meter::default(), said: (Rate(0), now) };
        self.own.entry(id).or_insert_with(new).meter.handle_total(total, now);
    }

    /// What this node has to say now: what is another rate than it said, and what is to be said again. Nothing is said once.
    pub fn say(&mut self, now: Instant) -> Vec<Count> {
        let mut counts = Vec::new();
        for (service, own) in &mut self.own {
            let (rate, (said, at)) = (own.meter.rate(now), own.said);
            if differs(said, rate) || rate.0 > 0 && now.since(at) >= AGAIN {
                own.said = (rate, now);
                counts.push(Count { service: *service, rate });
            }
        }
        counts
    }

    /// Another node said so.
    pub fn hear(&mut self, node: &str, count: Count, now: Instant) {
        let key = (count.service, node.to_owned());
        if count.rate.0 == 0 {
            let _gone = self.heard.remove(&key);
        } else {
            let _before = self.heard.insert(key, (count.rate.min(Rate::MOST), now));
        }
    }

    /// Adds up, on the relay that leads; what is another sum than the site said. `learning`: who has not spoken yet is not missed.
    pub fn reckon(&mut self, learning: bool, now: Instant) -> Vec<(ServiceId, Rate)> {
        self.heard.retain(|_, (_, at)| now.since(*at) < HOLD);
        let mut sums: BTreeMap<ServiceId, Rate> = self.site.keys().map(|id| (*id, Rate(0))).collect();
        let own = self.own.iter().map(|(id, own)| (*id, own.meter.rate(now)));
        for (id, rate) in own.chain(self.heard.iter().map(|((id, _), (rate, _))| (*id, *rate))) {
            let sum = sums.entry(id).or_default();
            sum.0 = sum.0.saturating_add(rate.0);
        }
        let mut news = Vec::new();
        for (id, sum) in sums {
            let said = self.site(id);
            let sum = if learning { sum.max(said) } else { sum };
            if differs(said, sum) {
                news.push((id, sum));
            }
            self.set(id, if differs(said, sum) { sum } else { said }, now);
        }
        news
    }

    /// The site says so now.
    pub fn set(&mut self, id: ServiceId, rate: Rate, now: Instant) {
        if rate.0 == 0 {
            let _gone = self.site.remove(&id);
        } else {
            let _before = self.site.insert(id, (rate, now));
        }
    }

    /// Sums that nobody has said again for [`KEEP`] are forgotten: which.
    pub fn expire(&mut self, now: Instant) -> Vec<ServiceId> {
        self.site.extract_if(.., |_, (_, at)| now.since(*at) >= KEEP).map(|(id, _)| id).collect()
    }

    /// When [`Self::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.site.values().map(|(_, at)| *at + KEEP).min()
    }

    /// What the site says of a service; 0: not known.
    pub fn site(&self, id: ServiceId) -> Rate {
        self.site.get(&id).map(|(rate, _)| *rate).unwrap_or_default()
    }

    /// All that the site says.
    pub fn all(&self) -> impl Iterator<Item = (ServiceId, Rate)> {
        self.site.iter().map(|(id, (rate, _))| (*id, *rate))
    }

    /// What clients bring to this node.
    pub fn node(&self, id: ServiceId, now: Instant) -> Rate {
        self.own.get(&id).map(|own| own.meter.rate(now)).unwrap_or_default()
    }

    /// Is there anything to add up?
    pub fn is_empty(&self) -> bool {
        self.heard.is_empty() && self.site.is_empty()
    }
}

#[cfg(test)]
mod tests;
