//! Which site gets which part of a service's new flows.
//!
//! Contract: feed `handle_*` with a `now` that never goes back; after every call take [`Policy::poll_action`] until `None` and carry out each
//! action in order; call [`Policy::handle_expire`] at or after [`Policy::poll_timeout`]. Facts that leave no choice (a path down, nothing
//! ready, an order) are acted on at once, everything else once in a slot of 500 ms.
//!
//! There is no leader: every node of a site runs this machine on the same records and comes to the same table ([`table`] remembers nothing).
//! Flows that exist are not moved by any of this: rows remember their previous homes.
//!
//! The order of a decision: [`facts`] say what is possible, [`score`] how good it is, [`standing`] what it is worth over time, then the
//! mode of the service makes shares, [`spill`] bounds what leaves, and `MOVE` bounds how fast.

mod active_passive;
mod decide;
mod drain;
pub mod facts;
pub mod io;
pub mod score;
pub mod spill;
pub mod standing;
pub mod table;
#[cfg(test)]
pub(in crate::site) mod tests;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::site::SiteId;
use crate::site::path::io::{Carriage, Status as PathStatus};
use crate::site::summary::{ServiceId, Summary};
use crate::site::timeline::{History, Rule};
use crate::time::{Instant, TimerTable};
use facts::{Facts, Observed, Verdict};
use io::{Action, Config, Mode, Report};
use spill::Credits;
use standing::{Standing, State};

/// How often soft facts are judged: a slot of the path's detector.
pub const SLOT: Duration = Duration::from_millis(500);
/// How often room is asked for and lent.
pub const CREDIT: Duration = Duration::from_secs(1);
/// A better site must have been well for so long before it takes a service back by itself (sites.md 4.8).
pub const FAILBACK: Duration = Duration::from_secs(300);
/// A path that has never been heard is waited for at start (sites.md 4.10: learn before you speak).
pub const LEARN: Duration = Duration::from_secs(10);
/// The first ejection of a site whose word the data path contradicts; the n-th lasts n times as long, up to ten times (Envoy's outlier values).
const EJECT: Duration = Duration::from_secs(30);
const EJECTIONS: u32 = 10;
/// After each such time without an ejection the next one is shorter by [`EJECT`] again (Envoy takes one off at every good look; this is the longest).
const FORGIVE: Duration = Duration::from_secs(300);

/// What is known of a site.
#[derive(Clone, Debug, Default)]
struct Site {
    session: bool,
    path: Option<PathStatus>,
    others_reach: Option<bool>,
}

/// What is known of a service at a site.
#[derive(Clone, Debug, Default)]
struct Member {
    /// The summary, how old it was when it came, and when that was.
    summary: Option<(Summary, Duration, Instant)>,
    observed: Observed,
    /// Until when the data path's word counts although it is old, how many times [`EJECT`] that was, and how often it was needed at all.
    ejected: Option<Instant>,
    ejections: u32,
    mismatches: u64,
    standing: Option<Standing>,
}

/// What is known of a service.
#[derive(Clone, Debug, Default)]
struct Service {
    members: BTreeMap<SiteId, Member>,
    credits: Credits,
    shares: BTreeMap<SiteId, f64>,
    generation: u64,
    /// Since when there is something to decide and nothing has been.
    undecided: Option<Instant>,
    panic: bool,
    announced: bool,
    holder: Option<SiteId>,
    /// Who held it before, and since when nobody does.
    last: Option<SiteId>,
    vacant: Option<Instant>,
    /// This site shall have it.
    wants: bool,
    /// Since when a better site than the holder has been well.
    better: Option<Instant>,
    /// This site drains and has handed it over, and nobody has taken it yet.
    handed: bool,
    /// Since when this site has it again because nobody took it.
    kept: Option<Instant>,
    /// What changed since the last table: the rule, when its cause began, when it was noticed.
    pending: Option<(Rule, Instant, Instant)>,
    excess: f64,
    /// What was lent in the last second.
    lending: f64,
    history: History,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    Slot,
    Credit,
    /// A lease that nobody has may be for this site to ask for.
    Turn,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Policy {
    config: Config,
    sites: BTreeMap<SiteId, Site>,
    services: BTreeMap<ServiceId, Service>,
    isolated: bool,
    /// Since when the authority can be asked.
    authority: Option<Instant>,
    started: Instant,
    timers: TimerTable<Timer>,
    actions: VecDeque<Action>,
}

/// What the machine thinks of a service at a site.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Opinion {
    /// The site.
    pub site: SiteId,
    /// Where it stands.
    pub state: State,
    /// By which facts.
    pub verdict: Verdict,
    /// 0 to 100.
    pub score: f64,
    /// Share of new flows, 0 to 1.
    pub share: f64,
    /// Seconds since the origin wrote its summary.
    pub age: Option<f64>,
    /// Held back for flapping.
    pub suppressed: bool,
    /// What the data path of this node sees of it.
    pub observed: Observed,
    /// Seconds for which it gets nothing because that contradicts what it says of itself; `None`: it does not, or its time is over.
    pub ejected: Option<f64>,
    /// How often that was so.
    pub ejections: u64,
}

impl Policy {
    /// A machine that has heard nothing.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Slot, now + SLOT);
        timers.set(Timer::Credit, now + CREDIT);
        let mut new = Self {
            sites: BTreeMap::new(),
            services: BTreeMap::new(),
            isolated: false,
            authority: Some(now),
            started: now,
            timers,
            actions: VecDeque::new(),
            config,
        };
        new.fit();
        new
    }

    /// Other sites, services, policies.
    pub fn handle_config(&mut self, config: Config, now: Instant) {
        self.config = config;
        self.fit();
        for service in self.services.values_mut() {
            service.pending = Some((Rule::Config, now, now));
        }
        self.decide_all(now);
    }

    /// The STATE session with a site came or went.
    pub fn handle_session(&mut self, site: SiteId, up: bool) {
        if let Some(known) = self.sites.get_mut(&site) {
            known.session = up;
        }
    }

    /// What the path to a site is worth. `cause`: when that began, as the path's event says.
    pub fn handle_path(&mut self, site: SiteId, status: PathStatus, cause: Instant, now: Instant) {
        let Some(known) = self.sites.get_mut(&site) else { return };
        let carried = |s: &PathStatus| !matches!(s.carriage, Carriage::Down(_));
        let urgent = known.path.as_ref().is_none_or(carried) && !carried(&status);
        known.path = Some(status);
        if urgent {
            self.urgent(site, None, cause, now);
        }
    }

    /// What other sites say of a site: some reach it, or none of those that say something. `None`: nobody can say. It names why nothing is sent to
    /// a site that is not reached from here, and moves nothing: the next slot is soon enough.
    pub fn handle_others(&mut self, site: SiteId, reach: Option<bool>) {
        if let Some(known) = self.sites.get_mut(&site) {
            known.others_reach = reach;
        }
    }

    /// A site (this one as well) said something of a service, `age` ago.
    pub fn handle_summary(&mut self, site: SiteId, id: ServiceId, summary: Summary, age: Duration, now: Instant) {
        let Some(service) = self.services.get_mut(&id) else { return };
        let member = service.members.entry(site).or_default();
        let serves = |m: &Member| m.summary.is_some_and(|(s, ..)| s.serves());
        let before = serves(member);
        member.summary = Some((summary, age, now));
        let first = member.standing.is_none();
        if first || before != summary.serves() {
            let cause = Instant::from_nanos(now.as_nanos().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(0)));
            self.urgent(site, Some(id), cause, now);
        }
    }

    /// What the data path saw over the last 10 s of a service at a site.
    pub fn handle_observed(&mut self, site: SiteId, id: ServiceId, observed: Observed, now: Instant) {
        let judged = self.is_judged(id, site, observed);
        let Some(member) = self.services.get_mut(&id).and_then(|s| s.members.get_mut(&site)) else { return };
        let before = member.observed.contradicts();
        member.observed = observed;
        // Whoever gets nothing yet, or still, is seen by what was sent before.
        let out = member.ejected.is_some_and(|until| now < until);
        if !judged || out || before || !observed.contradicts() {
            return;
        }
        let good = member.ejected.map_or(0, |until| now.since(until).as_secs() / FORGIVE.as_secs());
        let forgiven = u32::try_from(good).unwrap_or(u32::MAX);
        member.ejections = (member.ejections.saturating_sub(forgiven) + 1).min(EJECTIONS);
        member.mismatches += 1;
        let lasts = EJECT * member.ejections;
        member.ejected = Some(now + lasts);
        let seconds = lasts.as_secs();
        self.actions.push_back(Action::Report(Report::Mismatch { service: id, site, observed, seconds }));
        self.urgent(site, Some(id), now, now);
    }

    /// Does what was observed count against a site? Not where one site at a time has the service: the lease says which, and nobody else may
    /// serve. Of this site only beside another one: its endpoints are its checks' matter, and what clients do must not send all of them away.
    fn is_judged(&self, id: ServiceId, site: SiteId, observed: Observed) -> bool {
        let single = |policy: &io::ServicePolicy| matches!(policy.mode, Mode::ActivePassive { .. });
        (site != self.config.here || observed.compared) && !self.config.services.get(&id).is_some_and(single)
    }

    /// A site asks for room.
    pub fn handle_ask(&mut self, from: SiteId, id: ServiceId, excess: u32, now: Instant) {
        if let Some(service) = self.services.get_mut(&id) {
            service.credits.ask(from, f64::from(excess), now);
        }
    }

    /// A site lends room.
    pub fn handle_loan(&mut self, from: SiteId, id: ServiceId, amount: u32, now: Instant) {
        if let Some(service) = self.services.get_mut(&id) {
            service.credits.lend(from, f64::from(amount), now);
        }
    }

    /// The driver has a table in the kernel.
    pub fn handle_applied(&mut self, id: ServiceId, generation: u64, now: Instant) {
        let line = self.services.get_mut(&id).and_then(|s| s.history.applied(generation, now));
        self.actions.extend(line.map(Action::Timeline));
    }

    /// Deadlines passed.
    pub fn handle_expire(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Slot => {
                    self.timers.set(Timer::Slot, now + SLOT);
                    self.see_isolation(now);
                    self.slot(now);
                    self.decide_all(now);
                }
                Timer::Turn => self.turn(now),
                Timer::Credit => {
                    self.timers.set(Timer::Credit, now + CREDIT);
                    self.credit(now);
                }
            }
        }
    }

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Next time [`Self::handle_expire`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What is thought of each site for a service.
    pub fn opinions(&self, id: ServiceId, now: Instant) -> Vec<Opinion> {
        let Some(service) = self.services.get(&id) else { return Vec::new() };
        let opinion = |(site, member): (&SiteId, &Member)| {
            let standing = member.standing.as_ref()?;
            Some(Opinion {
                site: *site,
                state: standing.state(),
                verdict: standing.verdict(),
                score: standing.score(),
                share: service.shares.get(site).copied().unwrap_or(0.0),
                age: member.summary.map(|(_, age, at)| (age + now.since(at)).as_secs_f64()),
                suppressed: standing.suppressed(),
                observed: member.observed,
                ejected: member.ejected.filter(|until| now < *until).map(|until| until.since(now).as_secs_f64()),
                ejections: member.mismatches,
            })
        };
        service.members.iter().filter_map(opinion).collect()
    }

    /// Of a service: what this site lends to others, and what others lend to it, in units of capacity.
    pub fn credits(&self, id: ServiceId, now: Instant) -> (f64, f64) {
        let Some(service) = self.services.get(&id) else { return (0.0, 0.0) };
        let lent = self.config.sites.keys().map(|site| service.credits.lent(*site, now));
        (service.lending, lent.fold(0.0, |all, one| all + one))
    }

    /// The latest changes of a service's table, for `bascule why`.
    pub fn history(&self, id: ServiceId) -> Option<&History> {
        self.services.get(&id).map(|s| &s.history)
    }

    /// Hears nobody: every other site's session and path are gone.
    pub const fn isolated(&self) -> bool {
        self.isolated
    }

    fn fit(&mut self) {
        let Config { sites, services, here, .. } = &self.config;
        self.sites.retain(|site, _| sites.contains_key(site));
        for site in sites.keys().filter(|site| *site != here) {
            let _known = self.sites.entry(*site).or_default();
        }
        self.services.retain(|id, _| services.contains_key(id));
        for id in services.keys() {
            let service = self.services.entry(*id).or_insert_with(|| Service { announced: true, ..Service::default() });
            service.members.retain(|site, _| sites.contains_key(site));
        }
    }

    fn facts(&self, id: ServiceId, site: SiteId, now: Instant) -> Option<Facts> {
        let here = site == self.config.here;
        let member = self.services.get(&id)?.members.get(&site)?;
        let known = self.sites.get(&site);
        let summary = member.summary.map(|(s, age, at)| (s, age + now.since(at)));
        // An ejected site gets no flows, so nothing fails there any more: the last word of the data path holds until its time is over.
        let ejected = member.ejected.is_some_and(|until| now < until);
        let observed = if ejected {
            Observed { handshakes: 100, failed: 100, usual: 0, compared: true }
        } else if self.is_judged(id, site, member.observed) {
            member.observed
        } else {
            Observed::default()
        };
        Some(Facts {
            here,
            session: known.is_some_and(|s| s.session),
            carriage: known.and_then(|s| s.path).map_or(Carriage::Unknown, |p| p.carriage),
            others_reach: known.and_then(|s| s.others_reach),
            summary,
            observed,
        })
    }

    fn score(&self, site: SiteId, facts: &Facts) -> f64 {
        let path = self.sites.get(&site).and_then(|s| s.path.as_ref()).map_or(1.0, score::path);
        score::score(facts, path)
    }

    /// Facts that do not wait: of one service, or of all at a site.
    fn urgent(&mut self, site: SiteId, id: Option<ServiceId>, cause: Instant, now: Instant) {
        let ids: Vec<ServiceId> = id.map_or_else(|| self.services.keys().copied().collect(), |id| vec![id]);
        for id in ids {
            let Some(facts) = self.facts(id, site, now) else { continue };
            let (verdict, score) = (facts.verdict(), self.score(site, &facts));
            let Some(service) = self.services.get_mut(&id) else { continue };
            let Some(member) = service.members.get_mut(&site) else { continue };
            match &mut member.standing {
                Some(standing) => {
                    let drained = standing.verdict() == Verdict::Draining && verdict.usable();
                    if drained {
                        let _back = standing.slot(verdict, score, false, now);
                        standing.returned(now);
                    }
                    if standing.hear(verdict, now) || drained {
                        self.actions.push_back(Action::Report(report(id, site, standing)));
                    }
                }
                None => member.standing = Some(Standing::new(verdict, score, now)),
            }
            service.pending = Some((Rule::Facts { site, verdict }, cause, now));
            self.decide(id, now);
        }
    }

    fn slot(&mut self, now: Instant) {
        for id in self.services.keys().copied().collect::<Vec<_>>() {
            let sites: Vec<SiteId> = self.services[&id].members.keys().copied().collect();
            let judged: Vec<_> = sites
                .iter()
                .filter_map(|site| self.facts(id, *site, now).map(|f| (*site, f.verdict(), self.score(*site, &f))))
                .collect();
            let Some(service) = self.services.get_mut(&id) else { continue };
            for (site, verdict, score) in judged {
                let others = service.members.iter().filter(|(s, _)| **s != site);
                let last = !others.filter_map(|(_, m)| m.standing.as_ref()).any(|s| s.state() != State::Down);
                let Some(member) = service.members.get_mut(&site) else { continue };
                let standing = member.standing.get_or_insert_with(|| Standing::new(verdict, score, now));
                let before = standing.verdict();
                if standing.slot(verdict, score, last, now) {
                    self.actions.push_back(Action::Report(report(id, site, standing)));
                    let factor = standing.factor(now);
                    let by_facts = before != verdict;
                    let rule =
                        if by_facts { Rule::Facts { site, verdict } } else { Rule::Score { site, score, factor } };
                    service.pending = Some((rule, now, now));
                }
            }
        }
    }

    fn see_isolation(&mut self, now: Instant) {
        let heard = |s: &Site| s.session || s.path.is_some_and(|p| p.carriage == Carriage::Up);
        let isolated = !self.sites.is_empty() && !self.sites.values().any(heard) && now.since(self.started) >= LEARN;
        if isolated != self.isolated {
            self.isolated = isolated;
            self.actions.push_back(Action::Report(Report::Isolated(isolated)));
        }
        let cut_off = self.is_cut_off();
        for (id, service) in &mut self.services {
            let Some(policy) = self.config.services.get(id) else { continue };
            let announce = match policy.mode {
                Mode::ActivePassive { .. } => !cut_off,
                Mode::LocalFirst | Mode::Weighted(_) => !isolated || policy.isolated == io::Isolated::ServeLocal,
            };
            if announce != service.announced {
                service.announced = announce;
                self.actions.push_back(Action::Announce { service: *id, announce });
            }
        }
    }
}

fn report(service: ServiceId, site: SiteId, standing: &Standing) -> Report {
    Report::Standing {
        service,
        site,
        state: standing.state(),
        verdict: standing.verdict(),
        score: standing.score(),
        suppressed: standing.suppressed(),
    }
}
