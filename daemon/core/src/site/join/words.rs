//! What each relay of this site says of other sites, and whose word counts for which: that of the relay that leads, then by name, of those
//! that have a session with the site. What counts is what the policy knows.
//!
//! Each relay has its own sessions and says what it hears, whoever leads (ADR 0043). When the one whose word counts is gone, the next one's is here
//! already: it counts in the same step. The same record comes to two relays at different moments, so that what has become known later is not
//! undone by what another relay has not heard yet.

use core::time::Duration;
use std::collections::BTreeMap;

use super::Join;
use super::io::{Action, Fact, Report, Source};
use super::reach::Reached;
use crate::site::SiteId;
use crate::site::lead::HOLD;
use crate::site::policy::io::Config as Policies;
use crate::site::summary::{ServiceId, Summary};
use crate::time::Instant;

/// What another site said of a service, how old that was, and when it came.
pub(super) type Said = (Summary, Duration, Instant);

/// What is known may look later than news that follow it, where it came by another relay and a faster way: an age does not count the time on the way.
/// Never by as much as a process stood still that a relay of its site has long succeeded, and that writes what it saw before.
const WAY: Duration = HOLD;

/// What one relay says.
#[derive(Clone, Debug)]
pub(super) struct Word {
    /// When it was last heard.
    pub(super) at: Instant,
    pub(super) sessions: BTreeMap<SiteId, bool>,
    pub(super) said: BTreeMap<(SiteId, ServiceId), Said>,
    pub(super) reach: Reached,
}

impl Word {
    fn new(at: Instant) -> Self {
        let (sessions, said, reach) = Default::default();
        Self { at, sessions, said, reach }
    }

    /// It has no sessions any more, as far as is known. What sites said of one another went with them; what they said of themselves ages.
    fn silence(&mut self) {
        self.sessions.clear();
        self.reach.clear();
    }

    fn has(&self, site: SiteId) -> bool {
        self.sessions.get(&site).copied().unwrap_or(false)
    }

    /// What it said of a site was so that long ago; what becomes younger by that.
    fn confirm(&mut self, site: SiteId, age: Duration, now: Instant) -> impl Iterator<Item = (ServiceId, Said)> {
        let of = self.said.range_mut((site, ServiceId(0))..=(site, ServiceId(u32::MAX)));
        of.filter(move |(_, said)| said.1 + now.since(said.2) > age).map(move |((_, service), said)| {
            (said.1, said.2) = (age, now);
            (*service, *said)
        })
    }

    fn of(&self, site: SiteId) -> impl Iterator<Item = (ServiceId, Said)> {
        self.said
            .range((site, ServiceId(0))..=(site, ServiceId(u32::MAX)))
            .map(|((_, service), said)| (*service, *said))
    }

    pub(super) fn facts(&self, now: Instant) -> impl Iterator<Item = Fact> {
        let sessions = self.sessions.iter().map(|(site, up)| Fact::Session { site: *site, up: *up });
        sessions.chain(said_facts(&self.said, now))
    }
}

/// What was said, with the age that it has by now.
pub(super) fn said_facts(said: &BTreeMap<(SiteId, ServiceId), Said>, now: Instant) -> impl Iterator<Item = Fact> {
    said.iter().map(move |((site, service), (summary, age, at))| Fact::Summary {
        site: *site,
        service: *service,
        summary: Some(*summary),
        age: *age + now.since(*at),
    })
}

impl Join {
    /// Session, summary, confirmation or what a site reaches, from a relay that is heard.
    pub(super) fn hear_word(&mut self, source: Source<'_>, fact: Fact, now: Instant) {
        // Who stood still has not looked yet who is gone.
        self.lead.handle_expire(now);
        let relay = match source {
            Source::Own => self.config.relay.clone(),
            Source::Relay(name) if self.lead.is_heard(name) => Some(name.to_owned()),
            Source::Relay(name) => return self.hear_unheard(name, fact, now),
        };
        let Some(relay) = relay else { return };
        let word = self.words.entry(relay.clone()).or_insert_with(|| Word::new(now));
        word.at = now;
        let mut news = Vec::new();
        let (of, direct) = match fact {
            Fact::Session { site, up } => {
                let _before = word.sessions.insert(site, up);
                if !up {
                    word.reach.retain(|(says, _), _| *says != site);
                }
                (site, true)
            }
            Fact::Summary { site, service, summary, age } => {
                // One that is gone is one that serves nowhere.
                let said = (summary.unwrap_or_default(), age, now);
                let _before = word.said.insert((site, service), said);
                news.push((service, said));
                (site, true)
            }
            Fact::Confirmed { site, age } => {
                news.extend(word.confirm(site, age, now));
                (site, false)
            }
            Fact::Reach { site, of, reached } => {
                let Policies { here, sites, .. } = &self.config.policy;
                if [site, of].iter().any(|one| one == here || !sites.contains_key(one)) {
                    return;
                }
                let before = word.reach.insert((site, of), (reached, now));
                self.reach.is_news |= before.is_none_or(|(before, _)| before != reached);
                (site, false)
            }
            Fact::Ask { .. } | Fact::Loan { .. } | Fact::Demand { .. } | Fact::Order { .. } | Fact::Drained { .. } => {
                return;
            }
        };
        if source == Source::Own {
            self.actions.push_back(Action::Publish(fact));
            // A node that stood still for as long as a relay is believed took its sessions for gone, and its connection still stands: nobody
            // greets it anew.
            if let (Fact::Confirmed { site, .. }, Some(word)) = (fact, self.words.get(&relay)) {
                self.actions.push_back(Action::Publish(Fact::Session { site, up: word.has(site) }));
            }
        }
        // A session that comes or goes may make it another relay's turn, with this one's word.
        self.settle_words(now);
        if self.speaks.get(&of) == Some(&relay) {
            news.into_iter().for_each(|(service, said)| self.hold(of, service, said, direct, now));
        }
    }

    /// What a relay says of other sites that is not heard, as far as is known here: this node stood still for longer than a relay is believed, and reads
    /// now what came meanwhile, before the beat that comes after it. It counts when the relay does; were it left out, what it said before would
    /// count then, and be confirmed. It is as old as the time since the relay was heard, or younger: nobody knows how long it waited.
    fn hear_unheard(&mut self, relay: &str, fact: Fact, now: Instant) {
        let Some(word) = self.words.get_mut(relay) else { return };
        let late = now.since(word.at);
        match fact {
            Fact::Summary { site, service, summary, age } => {
                let _before = word.said.insert((site, service), (summary.unwrap_or_default(), age + late, now));
            }
            Fact::Confirmed { site, age } => word.confirm(site, age + late, now).for_each(drop),
            Fact::Session { .. }
            | Fact::Reach { .. }
            | Fact::Ask { .. }
            | Fact::Loan { .. }
            | Fact::Demand { .. }
            | Fact::Order { .. }
            | Fact::Drained { .. } => {}
        }
    }

    /// The word of a relay that does not say what it hears while another one leads, as those of earlier versions.
    pub(super) fn hush(&mut self, relay: &str) {
        if let Some(word) = self.words.get_mut(relay) {
            word.silence();
        }
    }

    /// A session of this relay with this site stands, as far as is known here.
    pub(super) fn has_session(&self, relay: &str, site: SiteId) -> bool {
        self.words.get(relay).is_some_and(|word| word.has(site))
    }

    /// Relays that are heard, the one first whose word comes first.
    fn order(&self) -> Vec<String> {
        let mut order: Vec<String> = self.lead.heard().map(str::to_owned).collect();
        order.sort_unstable_by_key(|relay| (self.leader.as_ref() != Some(relay), relay.clone()));
        order
    }

    /// Whose word counts for which site.
    pub(super) fn settle_words(&mut self, now: Instant) {
        let order = self.order();
        for (_, word) in self.words.iter_mut().filter(|(relay, _)| !order.contains(relay)) {
            word.silence();
        }
        let here = self.config.policy.here;
        let sites: Vec<SiteId> = self.config.policy.sites.keys().filter(|site| **site != here).copied().collect();
        for site in sites {
            let lives = order.iter().find(|relay| self.has_session(relay, site));
            let speaks = lives.or(self.leader.as_ref());
            if self.speaks.get(&site) != speaks {
                self.reach.is_news = true;
                let word = speaks.and_then(|relay| self.words.get(relay));
                let all: Vec<_> = word.into_iter().flat_map(|word| word.of(site)).collect();
                match speaks {
                    Some(relay) => drop(self.speaks.insert(site, relay.clone())),
                    None => drop(self.speaks.remove(&site)),
                }
                all.into_iter().for_each(|(service, said)| self.hold(site, service, said, false, now));
            }
            self.set_session(site, lives.is_some());
        }
    }

    /// Gives the policy what a relay says whose word counts. What is older than what is known changes nothing, unless it is news (`direct`)
    /// of another content, and not older by more than [`WAY`]: who writes decides that.
    fn hold(&mut self, site: SiteId, service: ServiceId, said: Said, direct: bool, now: Instant) {
        let (summary, age, at) = said;
        let later = |known: &Said| (age + now.since(at)).checked_sub(known.1 + now.since(known.2));
        let undone = |known: &Said| later(known).is_some_and(|by| !direct || known.0 == summary || by >= WAY);
        if self.said.get(&(site, service)).is_some_and(undone) {
            return;
        }
        let _before = self.said.insert((site, service), said);
        self.policy.handle_summary(site, service, summary, age + now.since(at), now);
    }

    fn set_session(&mut self, site: SiteId, up: bool) {
        if !up && !self.sessions.contains_key(&site) {
            return;
        }
        if self.sessions.insert(site, up).unwrap_or(false) != up {
            self.reach.is_news = true;
            self.policy.handle_session(site, up);
            self.actions.push_back(Action::Report(Report::Session { site, up }));
        }
    }

    /// Relays of this site that have a session with another one, as far as is known here, and whether theirs is the word that counts.
    pub fn sessions(&self, site: SiteId) -> impl Iterator<Item = (&str, bool)> {
        let of = self.words.iter().filter(move |(_, word)| word.has(site));
        of.map(move |(relay, _)| (relay.as_str(), self.speaks.get(&site) == Some(relay)))
    }
}
