//! What happened to traffic and why, as data: one timeline for each change of a table (cause, detected, decided, applied), with the rule that
//! moved the traffic and the numbers it went by. For the log, metrics and `bascule why`.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::SiteId;
use super::policy::facts::Verdict;
use super::summary::ServiceId;
use crate::time::Instant;

/// Timelines that are kept for each service.
const KEPT: usize = 64;

/// The rule that moved traffic.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "rule")]
pub enum Rule {
    /// The first table.
    First,
    /// Facts took a site out, or brought it back.
    Facts {
        /// The site.
        site: SiteId,
        /// Its new verdict.
        verdict: Verdict,
    },
    /// A score changed the part that a site takes.
    Score {
        /// The site.
        site: SiteId,
        /// Its score, 0 to 100.
        score: f64,
        /// The part of its share that it takes, 0 to 1.
        factor: f64,
    },
    /// Demand exceeds what this site can carry, and others lent room.
    Spill {
        /// What clients bring.
        demand: u32,
        /// What this site carries.
        capacity: u32,
        /// What was lent by all.
        lent: u32,
    },
    /// The configuration changed.
    Config,
    /// The lease has another holder.
    Lease {
        /// Now.
        holder: Option<SiteId>,
    },
    /// Too little is usable: soft scores are ignored.
    Panic,
}

/// One change, from its cause to its effect. Times are of this node's clock.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// The service.
    pub service: ServiceId,
    /// Generation of the table.
    pub generation: u64,
    /// The rule that moved most.
    pub why: Rule,
    /// When the cause began, as far as the machine that noticed can tell.
    pub cause: Instant,
    /// When it was noticed.
    pub detected: Instant,
    /// When the table was computed.
    pub decided: Instant,
    /// When the driver had it in the kernel. `None`: not yet, or overtaken by the next table.
    pub applied: Option<Instant>,
    /// Share of all new flows that changed its site, 0 to 1.
    pub moved: f64,
    /// Shares before.
    pub before: BTreeMap<SiteId, f64>,
    /// Shares after.
    pub after: BTreeMap<SiteId, f64>,
}

/// The latest timelines of one service, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<Timeline>);

impl History {
    pub(super) fn push(&mut self, timeline: Timeline) {
        if self.0.len() == KEPT {
            let _oldest = self.0.pop_front();
        }
        self.0.push_back(timeline);
    }

    /// Notes that a table is in force; gives the finished timeline.
    pub(super) fn applied(&mut self, generation: u64, now: Instant) -> Option<Timeline> {
        let line = self.0.iter_mut().find(|t| t.generation == generation && t.applied.is_none())?;
        line.applied = Some(now);
        Some(line.clone())
    }

    /// All that are kept.
    pub fn iter(&self) -> impl Iterator<Item = &Timeline> {
        self.0.iter()
    }
}

/// Share of flows that change their site between two lists of shares.
pub fn moved(before: &BTreeMap<SiteId, f64>, after: &BTreeMap<SiteId, f64>) -> f64 {
    let gained = |(site, share): (&SiteId, &f64)| (share - before.get(site).copied().unwrap_or(0.0)).max(0.0);
    if before.is_empty() { 1.0 } else { after.iter().map(gained).sum() }
}
