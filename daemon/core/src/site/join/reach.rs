//! Which sites are reached from here, for others to know; and what others say of a site that is not ("others reach it", sites.md 4.5).
//!
//! A word counts like all that a site says: from the relay whose word counts for it ([`super::words`]), while there is a session with it, and for
//! three of its beats. Whether a site is dead or only the way to it broken moves nothing by itself, since nothing is sent there either way; it is what
//! people must know first (ADR 0044).

use core::time::Duration;
use std::collections::BTreeMap;

use super::Join;
use super::io::{Action, Away, Report};
use crate::site::SiteId;
use crate::site::path::io::Carriage;
use crate::site::state::BEAT;
use crate::time::Instant;

/// By who says it, and of which site: it is reached, and when that was said.
pub(super) type Reached = BTreeMap<(SiteId, SiteId), (bool, Instant)>;

/// A word holds for so long unless it is said again: three beats of a session.
const HOLD: Duration = BEAT.saturating_mul(3);
/// Others must reach a site for so long before that is reported: longer than a session outlives its other end (15 s, `bascule_mesh::state`), for
/// until then a site that has died is reached by its sessions.
const SETTLE: Duration = Duration::from_secs(20);

/// All that is known of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Paths from here that carry, or do not. One that was never heard is not known.
    paths: BTreeMap<SiteId, bool>,
    /// What others were told last.
    told: BTreeMap<SiteId, bool>,
    /// What the policy was told last: some other site reaches it, or none of those that say something.
    others: BTreeMap<SiteId, bool>,
    tales: BTreeMap<SiteId, Tale>,
    /// Something changed since all of it was last worked out.
    pub(super) is_news: bool,
    /// When a word ends, or a report is ripe, at the earliest.
    due: Option<Instant>,
}

/// What was reported of a site, and since when something else is so that is not believed yet.
#[derive(Clone, Copy, Debug, Default)]
struct Tale {
    said: Kind,
    since: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Kind {
    #[default]
    Nothing,
    Asymmetric,
    Dead,
}

impl Reach {
    pub(super) fn know_path(&mut self, site: SiteId, carriage: Carriage) {
        let same = match carriage {
            Carriage::Unknown => self.paths.remove(&site).is_none(),
            Carriage::Up => self.paths.insert(site, true) == Some(true),
            Carriage::Down(_) => self.paths.insert(site, false) == Some(false),
        };
        self.is_news |= !same;
    }

    /// Other sites.
    pub(super) fn fit(&mut self, sites: &BTreeMap<SiteId, String>) {
        self.paths.retain(|site, _| sites.contains_key(site));
        self.others.retain(|site, _| sites.contains_key(site));
        self.tales.retain(|site, _| sites.contains_key(site));
        self.is_news = true;
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

impl Join {
    /// Other sites that say whether they reach a site, and whether they do; only those whose word counts now.
    pub fn others(&self, of: SiteId) -> impl Iterator<Item = (SiteId, bool)> {
        let here = self.config.policy.here;
        let sites = self.config.policy.sites.keys().copied().filter(move |site| *site != here && *site != of);
        sites.filter_map(move |site| {
            let relay = self.speaks.get(&site).filter(|_| self.session(site))?;
            let (reached, _) = self.words.get(relay)?.reach.get(&(site, of))?;
            Some((site, *reached))
        })
    }

    /// Works out what follows, when something changed or a word has ended.
    pub(super) fn settle_reach(&mut self, now: Instant) {
        if self.reach.due.is_some_and(|due| due <= now) {
            let holds = |(_, at): &mut (bool, Instant)| now.since(*at) < HOLD;
            self.words.values_mut().for_each(|word| word.reach.retain(|_, said| holds(said)));
            self.reach.is_news = true;
        }
        if !core::mem::take(&mut self.reach.is_news) {
            return;
        }
        self.tell_reach();
        let here = self.config.policy.here;
        let sites: Vec<SiteId> = self.config.policy.sites.keys().copied().filter(|site| *site != here).collect();
        for site in sites {
            let said: Vec<(SiteId, bool)> = self.others(site).collect();
            let reached = (!said.is_empty()).then(|| said.iter().any(|(_, reached)| *reached));
            let before = match reached {
                Some(reached) => self.reach.others.insert(site, reached),
                None => self.reach.others.remove(&site),
            };
            if before != reached {
                self.policy.handle_others(site, reached);
            }
            self.report_away(site, &said, reached, now);
        }
        let words = self.words.values().flat_map(|word| word.reach.values()).map(|(_, at)| *at + HOLD);
        let ripe = self.reach.tales.values().filter(|tale| tale.said != Kind::Asymmetric);
        self.reach.due = words.chain(ripe.filter_map(|tale| Some(tale.since? + SETTLE))).min();
    }

    /// What this site reaches is the relay's to say: by a path that carries, or by a session.
    fn tell_reach(&mut self) {
        let here = self.config.policy.here;
        if self.config.relay.is_none() {
            return;
        }
        let reached = |site: SiteId| match (self.reach.paths.get(&site).copied(), self.session(site)) {
            (_, true) => Some(true),
            (path, false) => path,
        };
        let sites = self.config.policy.sites.keys().copied().filter(|site| *site != here);
        let reach: BTreeMap<SiteId, bool> = sites.filter_map(|site| Some((site, reached(site)?))).collect();
        if reach != self.reach.told {
            self.reach.told.clone_from(&reach);
            self.actions.push_back(Action::Reach(reach));
        }
    }

    /// One report for each change, of a site to which no path carries from here.
    fn report_away(&mut self, site: SiteId, said: &[(SiteId, bool)], reached: Option<bool>, now: Instant) {
        let down = self.reach.paths.get(&site) == Some(&false);
        let kind = match (down, reached, self.session(site)) {
            (true, Some(true), _) => Kind::Asymmetric,
            (true, Some(false), false) => Kind::Dead,
            (true, Some(false), true) | (true, None, _) | (false, ..) => Kind::Nothing,
        };
        let tale = self.reach.tales.entry(site).or_default();
        tale.since = (kind == Kind::Asymmetric).then(|| tale.since.unwrap_or(now));
        if kind == tale.said || tale.since.is_some_and(|since| now.since(since) < SETTLE) {
            return;
        }
        tale.said = kind;
        let by = said.iter().filter(|(_, reached)| *reached || kind == Kind::Dead).map(|(site, _)| *site).collect();
        let away = match kind {
            Kind::Asymmetric => Away::Asymmetric(by),
            Kind::Dead => Away::Dead(by),
            Kind::Nothing => Away::Over,
        };
        self.actions.push_back(Action::Report(Report::Away { site, away }));
    }
}
