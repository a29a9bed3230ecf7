//! From standings to shares, and from shares to a table.

use core::hash::Hasher as _;
use std::collections::BTreeMap;

use siphasher::sip::SipHasher13;

use super::io::{Action, Mode, Report, Table};
use super::spill::{FULL, Lender, place};
use super::{LEARN, Policy, SLOT, table};
use crate::site::SiteId;
use crate::site::summary::{ServiceId, Summary};
use crate::site::timeline::{Rule, Timeline, moved};
use crate::time::Instant;

/// Of all new flows, so much changes its site in a second at most unless facts leave no choice (sites.md 4.8).
const MOVE: f64 = 0.1;
/// Changes below it wait: three slots of a table.
const SMALL: f64 = 0.003;
/// Usable capacity below this part of the demand: soft scores are ignored (Envoy's panic threshold).
const PANIC: f64 = 0.5;
/// At most this part of the sites is left out for soft reasons (Google's rule for automatic drains).
const SOFT: usize = 2;
/// What tells the tables of two services apart. Digits of pi.
const SEED: u64 = 0x082e_fa98_ec4e_6c89;

/// One site as the mode sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) site: SiteId,
    /// The part of its share that it takes.
    pub(super) factor: f64,
    pub(super) summary: Summary,
    pub(super) hard: bool,
    pub(super) fallback: bool,
    pub(super) score: f64,
}

impl Policy {
    pub(super) fn decide_all(&mut self, now: Instant) {
        for id in self.services.keys().copied().collect::<Vec<_>>() {
            self.decide(id, now);
        }
    }

    pub(super) fn candidates(&self, id: ServiceId, now: Instant) -> Vec<Candidate> {
        let Some(service) = self.services.get(&id) else { return Vec::new() };
        let candidate = |(site, member): (&SiteId, &super::Member)| {
            let (standing, (summary, ..)) = (member.standing.as_ref()?, member.summary?);
            let verdict = standing.verdict();
            let fallback = !verdict.usable() && !verdict.hard();
            let (factor, score) = (standing.factor(now), standing.score());
            Some(Candidate { site: *site, factor, summary, hard: verdict.hard(), fallback, score })
        };
        service.members.iter().filter_map(candidate).collect()
    }

    pub(super) fn decide(&mut self, id: ServiceId, now: Instant) {
        if self.waits_for_own(id, now) {
            return;
        }
        let Some(policy) = self.config.services.get(&id) else { return };
        let mut all = self.candidates(id, now);
        let panic = soften(&mut all);
        let want = match &policy.mode {
            Mode::LocalFirst => self.local_first(id, &all, now),
            Mode::Weighted(weights) => weighted(&all, weights),
            Mode::ActivePassive { order, failback } => {
                let (order, failback) = (order.clone(), *failback);
                self.active_passive(id, &all, &order, failback, now)
            }
        };
        let first = matches!(policy_mode(self, id), Some(Mode::LocalFirst)).then_some(self.config.here);
        // Two sites at once are what activePassive is there to prevent.
        let single = matches!(policy_mode(self, id), Some(Mode::ActivePassive { .. }));
        let Some(service) = self.services.get_mut(&id) else { return };
        if panic != service.panic {
            service.panic = panic;
            service.pending = Some((Rule::Panic, now, now));
            self.actions.push_back(Action::Report(Report::Panic { service: id, on: panic }));
        }
        let lost: f64 = service.shares.iter().filter(|(s, _)| takes_nothing(&all, **s)).map(|(_, share)| share).sum();
        let spilling = service.excess > 0.0;
        let step = if single || lost > 0.0 || spilling || panic || service.shares.is_empty() {
            f64::INFINITY
        } else {
            MOVE * SLOT.as_secs_f64()
        };
        let next = toward(&service.shares, &want, step);
        let change = moved(&service.shares, &next);
        let gone = service.shares.keys().any(|s| !next.contains_key(s));
        let nobody = next.is_empty() && service.shares.is_empty();
        let noted = service.pending;
        // What is noted is the cause of all that it moves, and of nothing that comes later.
        service.pending = noted.filter(|_| moved(&next, &want) >= SMALL);
        if !nobody && (next.is_empty() != service.shares.is_empty() || change >= SMALL || (gone && change > 0.0)) {
            let (why, cause, detected) = noted.unwrap_or((self.config_rule(id), now, now));
            self.publish(id, next, why, cause, detected, first, now);
        }
    }

    /// Nothing is decided of a service yet, and this site has not said what it serves: what others say may be here first, and all of the service would
    /// go to them and come back a little in each slot. Rows stay what they were.
    fn waits_for_own(&mut self, id: ServiceId, now: Instant) -> bool {
        let Some(service) = self.services.get_mut(&id).filter(|service| service.generation == 0) else { return false };
        let known = service.members.get(&self.config.here).is_some_and(|own| own.summary.is_some());
        let since = *service.undecided.get_or_insert(now);
        !known && now.since(since) < LEARN
    }

    /// Why a table changes when nothing else was noted: numbers moved.
    fn config_rule(&self, id: ServiceId) -> Rule {
        let here = self.config.here;
        let own = self.services.get(&id).and_then(|s| s.members.get(&here)).and_then(|m| m.summary);
        let (demand, capacity) = own.map_or((0, 0), |(s, ..)| (s.demand, s.capacity));
        Rule::Spill { demand, capacity, lent: 0 }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record, from one caller")]
    fn publish(
        &mut self,
        id: ServiceId,
        shares: BTreeMap<SiteId, f64>,
        mut why: Rule,
        cause: Instant,
        detected: Instant,
        first: Option<SiteId>,
        now: Instant,
    ) {
        let Some(service) = self.services.get_mut(&id) else { return };
        if service.generation == 0 {
            why = Rule::First;
        }
        if let Rule::Spill { lent, .. } = &mut why {
            *lent = self.config.sites.keys().map(|s| units(service.credits.lent(*s, now))).sum();
        }
        service.generation += 1;
        let before = core::mem::replace(&mut service.shares, shares.clone());
        let (generation, moved) = (service.generation, moved(&before, &shares));
        service.history.push(Timeline {
            service: id,
            generation,
            why,
            cause: cause.min(detected),
            detected,
            decided: now,
            applied: None,
            moved,
            before,
            after: shares.clone(),
        });
        let slots = table::slots(seed(id), &table::quotas(&shares), first);
        self.actions.push_back(Action::Table(Table { service: id, generation, shares, slots }));
    }

    fn local_first(&mut self, id: ServiceId, all: &[Candidate], now: Instant) -> BTreeMap<SiteId, f64> {
        let here = self.config.here;
        let own = all.iter().find(|c| c.site == here).copied();
        // Nothing measured yet: every flow counts as one, and shares are all that matters.
        let known = own.filter(|c| c.summary.demand > 0).map(|c| f64::from(c.summary.demand));
        let demand = known.unwrap_or(1.0);
        let healthy = demand * own.map_or(0.0, |c| c.factor);
        let limit = match own {
            Some(own) if own.summary.capacity > 0 && known.is_some() => FULL * f64::from(own.summary.capacity),
            _ => f64::INFINITY,
        };
        let kept = healthy.min(limit);
        let Some(service) = self.services.get_mut(&id) else { return BTreeMap::new() };
        service.excess = if known.is_some() { demand - kept } else { 0.0 };
        if !self.config.spill {
            service.excess = 0.0;
        }
        let remote: Vec<&Candidate> = all.iter().filter(|c| c.site != here && c.factor > 0.0).collect();
        let region = self.config.sites.get(&here);
        let lender = |c: &&Candidate, room: f64| Lender {
            site: c.site,
            near: self.config.sites.get(&c.site) == region,
            rtt: self.sites.get(&c.site).and_then(|s| s.path).and_then(|p| p.rtt).unwrap_or(0.0),
            room,
        };
        let lent: Vec<Lender> = remote
            .iter()
            .map(|c| lender(c, if self.config.spill { service.credits.lent(c.site, now) * c.factor } else { 0.0 }))
            .collect();
        let mut placed = place(demand - kept, &lent);
        // What is not healthy here must go, lent or not; what only exceeds stays when nobody has room.
        let left = demand - kept - placed.values().sum::<f64>();
        let forced = (demand - healthy).min(left);
        let mut kept = kept + (left - forced);
        if forced > 0.0 {
            let room = |c: &&Candidate| f64::from(c.summary.capacity.saturating_sub(c.summary.demand)) * FULL;
            let mut more = place(forced, &remote.iter().map(|c| lender(c, room(c) * c.factor)).collect::<Vec<_>>());
            let rest = forced - more.values().sum::<f64>();
            // No room anywhere, as far as is known: by capacity, the own site as far as it stands.
            let weight = |c: &Candidate| f64::from(c.summary.capacity.max(u32::from(c.summary.ready))) * c.factor;
            let total: f64 = all.iter().map(weight).sum();
            if rest > 0.0 && total > 0.0 {
                for c in all {
                    *more.entry(c.site).or_insert(0.0) += rest * weight(c) / total;
                }
            }
            for (site, amount) in more {
                *placed.entry(site).or_insert(0.0) += amount;
            }
        }
        kept += placed.remove(&here).unwrap_or(0.0);
        if kept > 0.0 {
            let _own = placed.insert(here, kept);
        }
        normal(placed)
    }

    /// Every second: who needs room says so, who has room lends it.
    pub(super) fn credit(&mut self, now: Instant) {
        if !self.config.spill {
            return;
        }
        for id in self.services.keys().copied().collect::<Vec<_>>() {
            let all = self.candidates(id, now);
            let own = all.iter().find(|c| c.site == self.config.here).copied();
            let Some(service) = self.services.get_mut(&id) else { continue };
            if service.excess > 0.0 {
                let excess = units(service.excess.ceil());
                let to = all.iter().filter(|c| c.site != self.config.here && c.factor > 0.0);
                self.actions.extend(to.map(|c| Action::Ask { to: c.site, service: id, excess }));
            }
            service.lending = 0.0;
            let Some(own) = own.filter(|c| c.factor > 0.0) else { continue };
            let free = FULL * f64::from(own.summary.capacity) * own.factor - f64::from(own.summary.demand);
            let loans = service.credits.loans(free, now);
            // The sum of nothing is -0, and would be shown so.
            service.lending = loans.iter().fold(0.0, |all, (_, amount)| all + amount);
            self.actions.extend(loans.into_iter().map(|(to, amount)| Action::Lend {
                to,
                service: id,
                amount: units(amount),
            }));
        }
    }
}

fn policy_mode(policy: &Policy, id: ServiceId) -> Option<&Mode> {
    policy.config.services.get(&id).map(|p| &p.mode)
}

/// Where the tables of a service begin.
fn seed(id: ServiceId) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(SEED, 0);
    hasher.write_u32(id.0);
    hasher.finish()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u32")]
pub(super) fn units(amount: f64) -> u32 {
    amount.clamp(0.0, f64::from(u32::MAX)) as u32
}

fn takes_nothing(all: &[Candidate], site: SiteId) -> bool {
    !all.iter().any(|c| c.site == site && c.factor > 0.0)
}

/// The rules that keep soft judgements from making a black hole; true in panic.
fn soften(all: &mut [Candidate]) -> bool {
    // No more than half of the sites is left out for soft reasons, the worst first.
    let mut soft: Vec<usize> =
        (0..all.len()).filter(|i| all[*i].factor <= 0.0 && !all[*i].hard && !all[*i].fallback).collect();
    soft.sort_by(|a, b| all[*a].score.total_cmp(&all[*b].score));
    for i in soft.into_iter().skip(all.len() / SOFT) {
        all[i].factor = all[i].score.max(1.0) / 100.0;
    }
    let sum = |list: &[Candidate], of: &dyn Fn(&Candidate) -> f64| list.iter().map(of).sum::<f64>();
    let demand = sum(all, &|c| f64::from(c.summary.demand));
    let usable = sum(all, &|c| if c.factor > 0.0 { f64::from(c.summary.capacity) } else { 0.0 });
    let anybody = all.iter().any(|c| c.factor > 0.0);
    let possible = all.iter().any(|c| !c.hard && c.factor < 1.0);
    let panic = possible && (!anybody || (demand > 0.0 && usable > 0.0 && usable < PANIC * demand));
    if panic {
        all.iter_mut().filter(|c| !c.hard).for_each(|c| c.factor = c.summary.availability().max(0.01));
    }
    panic
}

fn weighted(all: &[Candidate], weights: &BTreeMap<SiteId, u32>) -> BTreeMap<SiteId, f64> {
    let share = |c: &Candidate| (c.site, f64::from(weights.get(&c.site).copied().unwrap_or(0)) * c.factor);
    let by_weight: BTreeMap<SiteId, f64> = all.iter().map(share).filter(|(_, s)| *s > 0.0).collect();
    if by_weight.is_empty() {
        // Everybody with a weight is out: those without one are better than nobody.
        return normal(all.iter().map(|c| (c.site, c.factor)).filter(|(_, s)| *s > 0.0).collect());
    }
    normal(by_weight)
}

pub(super) fn normal(shares: BTreeMap<SiteId, f64>) -> BTreeMap<SiteId, f64> {
    let total: f64 = shares.values().sum();
    shares.into_iter().filter(|(_, s)| *s > 0.0).map(|(site, s)| (site, s / total)).collect()
}

/// As far from `from` to `to` as `step` allows.
fn toward(from: &BTreeMap<SiteId, f64>, to: &BTreeMap<SiteId, f64>, step: f64) -> BTreeMap<SiteId, f64> {
    let far = moved(from, to);
    if far <= step || from.is_empty() || to.is_empty() {
        return to.clone();
    }
    let part = step / far;
    let sites = from.keys().chain(to.keys());
    let get = |m: &BTreeMap<SiteId, f64>, s: &SiteId| m.get(s).copied().unwrap_or(0.0);
    normal(sites.map(|s| (*s, get(from, s) + (get(to, s) - get(from, s)) * part)).collect())
}
