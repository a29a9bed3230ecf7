//! What one node makes of everything that is known between sites: paths that it probes itself, readiness that its balancer sees, and what
//! other sites say, which the leading relay of its site passes on ([`super::lead`]). The facts go into the [`Policy`]; what that decides
//! becomes the duty of this node alone (its table), or of the leading relay (records, loans).
//!
//! Contract: feed `handle_*` with a `now` that never goes back; after every call take [`Join::poll_action`] until `None` and carry out each
//! action in order; call [`Join::handle_expire`] at or after [`Join::poll_timeout`].
//!
//! Every relay of the site says what it hears of other sites, and for each of them the word of one counts ([`words`]); what that site says of
//! further ones tells a site that is dead from one to which only the way from here is broken ([`reach`]). Where no relay has a
//! session, what was known stays known and ages: sites are kept "blind" (sites.md 4.5), nothing moves. Requests, loans, orders and the sum of
//! what clients bring are the leading relay's. Readiness here needs no relay.

pub mod demand;
pub mod drain;
mod duty;
pub mod handshakes;
pub mod io;
mod reach;
#[cfg(test)]
mod tests;
mod words;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::SiteId;
use super::demand::{Demand, Rate};
use super::handshakes::Handshakes;
use super::lead::{Beat, Gone, Lead};
use super::near::Near;
use super::orders::Orders;
use super::path::io::Status as PathStatus;
use super::policy::{Opinion, Policy};
use super::state::record::{Body, Key};
use super::summary::{ServiceId, Summary};
use super::timeline::History;
use crate::balance::serving::Serving;
use crate::service::ServiceKey;
use crate::time::Instant;
use drain::Theirs;
use io::{Action, Capacity, Config, Fact, Local, Source};
use reach::Reach;
use words::{Said, Word, said_facts};

/// The machine.
#[derive(Clone, Debug)]
pub struct Join {
    config: Config,
    policy: Policy,
    lead: Lead,
    near: Near,
    /// What the relay of this node was told that it is.
    says: Beat,
    leader: Option<String>,
    /// Since when that relay speaks for the site.
    led: Option<Instant>,
    /// What each relay says, and whose word counts for a site.
    words: BTreeMap<String, Word>,
    speaks: BTreeMap<SiteId, String>,
    /// What counts.
    sessions: BTreeMap<SiteId, bool>,
    said: BTreeMap<(SiteId, ServiceId), Said>,
    /// Which sites are reached from here and from others.
    reach: Reach,
    /// What the balancer here sees, and what this site says of it.
    own: BTreeMap<ServiceId, (Serving, Summary)>,
    /// The last table of each service, for another balancer or another key.
    tables: BTreeMap<ServiceId, (ServiceKey, u64, Vec<SiteId>)>,
    /// Orders of this site, those of others by number of their records, and what was written of ours.
    orders: Orders,
    theirs: BTreeMap<(SiteId, u32), Theirs>,
    written: BTreeMap<u32, (Option<ServiceId>, Instant)>,
    tell_at: Instant,
    demand: Demand,
    handshakes: Handshakes,
    /// When sums are made next, and when all of them are said again.
    reckon_at: Instant,
    repeat_at: Instant,
    actions: VecDeque<Action>,
}

impl Join {
    /// A machine that has heard nothing.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut new = Self {
            policy: Policy::new(config.policy.clone(), now),
            lead: Lead::new(config.relay.clone(), &config.relays, now),
            near: Near::default(),
            says: Beat { waits: true, tells: true, ..Beat::default() },
            leader: None,
            led: None,
            words: BTreeMap::new(),
            speaks: BTreeMap::new(),
            sessions: BTreeMap::new(),
            said: BTreeMap::new(),
            reach: Reach::default(),
            own: BTreeMap::new(),
            tables: BTreeMap::new(),
            orders: Orders::default(),
            theirs: BTreeMap::new(),
            written: BTreeMap::new(),
            tell_at: now,
            demand: Demand::default(),
            handshakes: Handshakes::default(),
            reckon_at: now,
            repeat_at: now,
            actions: VecDeque::new(),
            config,
        };
        new.near.handle_config(new.config.policy.here, &new.config.policy.sites);
        new.write_vips(&BTreeMap::new());
        new.settle(now);
        new
    }

    /// Other sites, services, policies or relays; who this node is stays.
    pub fn handle_config(&mut self, config: Config, now: Instant) {
        let before = core::mem::replace(&mut self.config, config);
        self.lead.handle_config(&self.config.relays, now);
        self.words.retain(|relay, _| self.config.relays.contains(relay));
        let sites = &self.config.policy.sites;
        self.near.handle_config(self.config.policy.here, sites);
        self.sessions.retain(|site, _| sites.contains_key(site));
        self.speaks.retain(|site, _| sites.contains_key(site));
        self.said.retain(|(site, _), _| sites.contains_key(site));
        for word in self.words.values_mut() {
            word.sessions.retain(|site, _| sites.contains_key(site));
            word.said.retain(|(site, _), _| sites.contains_key(site));
            word.reach.retain(|(site, of), _| sites.contains_key(site) && sites.contains_key(of));
        }
        self.reach.fit(sites);
        self.theirs.retain(|(site, _), _| sites.contains_key(site));
        self.demand.retain(|id| self.config.services.contains_key(id));
        self.handshakes.retain(|id| self.config.services.contains_key(id));
        let gone: Vec<ServiceId> =
            before.services.keys().filter(|id| !self.config.services.contains_key(id)).copied().collect();
        for service in gone {
            self.own.remove(&service);
            self.actions.push_back(Action::Write(Key::Service(service), None));
            if let Some((key, ..)) = self.tables.remove(&service) {
                self.actions.push_back(Action::Table { service, key, generation: None, slots: self.only_here() });
            }
        }
        self.write_vips(&before.services);
        self.policy.handle_config(self.config.policy.clone(), now);
        // What was said of a service before it was configured here holds.
        for ((site, service), (summary, age, at)) in &self.said {
            self.policy.handle_summary(*site, *service, *summary, *age + now.since(*at), now);
        }
        // Another capacity is another summary of the same endpoints, and another service may be drained.
        self.say_all(now);
        self.write_orders(now);
        let moved = |(id, local): (&ServiceId, &Local)| self.tables.get(id).is_some_and(|t| t.0 != local.key);
        let moved: Vec<ServiceId> = self.config.services.iter().filter(|s| moved(*s)).map(|(id, _)| *id).collect();
        for service in moved {
            if let Some((key, generation, slots)) = self.tables.get(&service).cloned() {
                self.actions.push_back(Action::Table { service, key, generation: None, slots: self.only_here() });
                self.table(service, generation, slots);
            }
        }
        self.settle(now);
    }

    /// What the balancer of this node sees of a service.
    pub fn handle_serving(&mut self, id: ServiceId, serving: Serving, now: Instant) {
        self.say_own(id, serving, now);
        self.settle(now);
    }

    fn say_all(&mut self, now: Instant) {
        let seen: Vec<(ServiceId, Serving)> = self.own.iter().map(|(id, (serving, _))| (*id, *serving)).collect();
        seen.into_iter().for_each(|(id, serving)| self.say_own(id, serving, now));
    }

    fn say_own(&mut self, id: ServiceId, serving: Serving, now: Instant) {
        let Some(local) = self.config.services.get(&id) else { return };
        let summary = summary(self.less_orders(id, local, serving), local.capacity, self.demand.site(id));
        if self.own.insert(id, (serving, summary)).is_some_and(|(_, before)| before == summary) {
            return;
        }
        self.actions.push_back(Action::Write(Key::Service(id), Some(Body::Service(summary))));
        self.policy.handle_summary(self.config.policy.here, id, summary, Duration::ZERO, now);
    }

    /// A relay of this site beat.
    pub fn handle_beat(&mut self, relay: &str, beat: Beat, now: Instant) {
        self.lead.handle_beat(relay, beat, now);
        if let Some(word) = self.words.get_mut(relay) {
            word.at = now;
        }
        if !beat.leads && !beat.tells {
            self.hush(relay);
        }
        self.settle(now);
    }

    /// Nobody serves any more at the address of a relay of this site.
    pub fn handle_gone(&mut self, relay: &str, now: Instant) {
        self.lead.handle_gone(relay, now);
        self.settle(now);
    }

    /// What the path to a site is worth. `cause`: when that began.
    pub fn handle_path(&mut self, site: SiteId, status: PathStatus, cause: Instant, now: Instant) {
        self.near.handle_path(site, &status, now);
        self.reach.know_path(site, status.carriage);
        self.policy.handle_path(site, status, cause, now);
        self.settle(now);
    }

    /// A relay of this site tells something of another site.
    pub fn handle_fact(&mut self, source: Source<'_>, fact: Fact, now: Instant) {
        if matches!(fact, Fact::Order { .. } | Fact::Drained { .. }) {
            self.hear_order(source, fact, now);
            self.settle(now);
            return;
        }
        let leads = match source {
            Source::Own => self.says.leads,
            Source::Relay(name) => !self.says.leads && self.leader.as_deref() == Some(name),
        };
        match fact {
            Fact::Session { .. } | Fact::Summary { .. } | Fact::Confirmed { .. } | Fact::Reach { .. } => {
                self.hear_word(source, fact, now);
            }
            Fact::Ask { site, service, amount } if leads => self.policy.handle_ask(site, service, amount, now),
            Fact::Loan { site, service, amount } if leads => self.policy.handle_loan(site, service, amount, now),
            Fact::Demand { service, rate } if leads => self.hear_demand(service, rate, now),
            Fact::Ask { .. } | Fact::Loan { .. } | Fact::Demand { .. } | Fact::Order { .. } | Fact::Drained { .. } => {}
        }
        if self.says.leads && leads && matches!(fact, Fact::Ask { .. } | Fact::Loan { .. } | Fact::Demand { .. }) {
            self.actions.push_back(Action::Publish(fact));
        }
        self.settle(now);
    }

    /// The lease of an activePassive service has this holder.
    pub fn handle_lease(&mut self, id: ServiceId, holder: Option<SiteId>, now: Instant) {
        self.policy.handle_lease(id, holder, now);
        self.settle(now);
    }

    /// Whether the authority over such leases answers.
    pub fn handle_authority(&mut self, reachable: bool, now: Instant) {
        self.policy.handle_authority(reachable, now);
        self.settle(now);
    }

    /// The balancer has a table.
    pub fn handle_applied(&mut self, id: ServiceId, generation: u64, now: Instant) {
        self.policy.handle_applied(id, generation, now);
        self.settle(now);
    }

    /// Deadlines passed.
    pub fn handle_expire(&mut self, now: Instant) {
        if self.policy.poll_timeout().is_some_and(|at| at <= now) {
            self.policy.handle_expire(now);
        }
        self.expire_orders(now);
        self.expire_demand(now);
        self.settle(now);
    }

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Next time [`Self::handle_expire`] must be called.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let rest = self.lead.poll_timeout(now).into_iter().chain(self.orders_timeout()).chain(self.demand_timeout());
        let rest = rest.chain(self.reach.poll_timeout()).chain(self.near.poll_timeout());
        self.policy.poll_timeout().into_iter().chain(rest).min()
    }

    /// All that is known of other sites, with ages, whoever said it.
    pub fn facts(&self, now: Instant) -> Vec<Fact> {
        let sessions = self.sessions.iter().map(|(site, up)| Fact::Session { site: *site, up: *up });
        sessions.chain(said_facts(&self.said, now)).collect()
    }

    /// The relay of this node speaks for the site.
    pub const fn leads(&self) -> bool {
        self.says.leads
    }

    /// What the relay of this node says of itself.
    pub const fn says(&self) -> Beat {
        self.says
    }

    /// Relays of this site that are heard no more, by how that became known.
    pub const fn gone(&self) -> Gone {
        self.lead.gone()
    }

    /// Whose word counts.
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    /// Relays of this site that are heard, this node's among them.
    pub fn heard(&self) -> impl Iterator<Item = &str> {
        self.lead.heard()
    }

    /// A relay of this site has a session with a site, as far as is known here.
    pub fn session(&self, site: SiteId) -> bool {
        self.sessions.get(&site).copied().unwrap_or(false)
    }

    /// How old the oldest word of a site is; `None`: it has said nothing.
    pub fn age(&self, site: SiteId, now: Instant) -> Option<Duration> {
        let of = self.said.iter().filter(|((s, _), _)| *s == site);
        of.map(|(_, (_, age, at))| *age + now.since(*at)).max()
    }

    /// What is thought of each site for a service.
    pub fn opinions(&self, id: ServiceId, now: Instant) -> Vec<Opinion> {
        self.policy.opinions(id, now)
    }

    /// What a site said last of a service; this one too.
    pub fn summary(&self, site: SiteId, id: ServiceId) -> Option<Summary> {
        if site == self.config.policy.here {
            return self.own.get(&id).map(|(_, summary)| *summary);
        }
        self.said.get(&(site, id)).map(|(summary, ..)| *summary)
    }

    /// The latest changes of a service's table.
    pub fn history(&self, id: ServiceId) -> Option<&History> {
        self.policy.history(id)
    }

    /// No other site is heard.
    pub const fn isolated(&self) -> bool {
        self.policy.isolated()
    }
}

/// What a site says of a service that its balancer sees so, and of which clients bring so much.
fn summary(serving: Serving, capacity: Capacity, demand: Rate) -> Summary {
    let Serving { ready, expected, draining } = serving;
    let capacity = match capacity {
        Capacity::Unknown => 0,
        Capacity::Service(whole) if expected == 0 => whole,
        Capacity::Service(whole) => {
            let part = u64::from(whole) * u64::from(ready.min(expected)) / u64::from(expected);
            u32::try_from(part).unwrap_or(whole)
        }
        Capacity::Endpoint(each) => each.saturating_mul(u32::from(ready)),
    };
    Summary { ready, expected, draining, capacity, demand: demand.whole() }
}
