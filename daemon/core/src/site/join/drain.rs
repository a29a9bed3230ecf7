//! Orders to take something of this site out of use: given at the relay that leads, told to all nodes of the site, written for other
//! sites. Here a drained service is one whose summary says so, and everything follows from that: the own table, the record, and theirs.

use core::time::Duration;
use std::collections::BTreeMap;

use serde::Serialize;
use thiserror::Error;

use super::io::{Action, Fact, Report, Source};
use super::{Join, Local};
use crate::balance::serving::Serving;
use crate::site::SiteId;
use crate::site::orders::{KEEP, TELL, Target, Turn};
use crate::site::policy::io::{DrainError, Takes};
use crate::site::state::record::{Body, Key};
use crate::site::summary::ServiceId;
use crate::time::Instant;

/// Number of the record of an order that takes the whole site; others have that of their service.
const WHOLE: u32 = u32::MAX;

/// Why an order is not given, or not taken back.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// Orders are given where the site writes.
    #[error("orders are given on the relay that leads")]
    Elsewhere {
        /// Which is that, if one leads.
        leader: Option<String>,
    },
    /// No service of several sites is what the order names.
    #[error("no service of several sites is concerned")]
    Nothing,
    /// Too little would be left.
    #[error("{0}")]
    Short(DrainError),
    /// There is no such order.
    #[error("there is no such order")]
    None,
}

/// A drain in force, for status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// At which site.
    pub site: SiteId,
    /// What. Other sites say which services, and not why.
    pub target: Target,
    /// When connections that exist have had their time; passed: they have.
    pub until: Instant,
}

/// An order of another site, as its record says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theirs {
    service: Option<ServiceId>,
    until: Instant,
    confirmed: Instant,
}

impl Join {
    /// Takes something of this site out of use for new connections, or gives a drain another deadline. `parts`: how many ready endpoints of
    /// which service a node or an endpoint carries; of no interest for other targets.
    ///
    /// # Errors
    /// [`Refused`], and nothing has changed.
    pub fn handle_drain(
        &mut self,
        target: Target,
        within: Duration,
        parts: &BTreeMap<ServiceId, u16>,
        force: bool,
        now: Instant,
    ) -> Result<(), Refused> {
        self.may_order()?;
        let whole: BTreeMap<ServiceId, Takes> = self.concerned(&target).map(|id| (id, Takes::All)).collect();
        if whole.is_empty() && !target.inside() {
            return Err(Refused::Nothing);
        }
        let parts = parts.iter().map(|(id, count)| (*id, Takes::Endpoints(*count)));
        let takes = if target.inside() { parts.collect() } else { whole };
        if !force && !self.orders.has(&target) {
            self.policy.spares(&takes, now).map_err(Refused::Short)?;
        }
        let turn = self.orders.give(target, within, now);
        self.turned(turn.map(|turn| (target, turn)).into_iter().collect(), now);
        self.settle(now);
        Ok(())
    }

    /// Puts it back. What takes part again begins slowly.
    ///
    /// # Errors
    /// [`Refused`], and nothing has changed.
    pub fn handle_undrain(&mut self, target: Target, now: Instant) -> Result<(), Refused> {
        self.may_order()?;
        if !self.orders.end(&target) {
            return Err(Refused::None);
        }
        self.turned(vec![(target, Turn::Ended)], now);
        self.settle(now);
        Ok(())
    }

    /// Drains in force, here and elsewhere, as far as is known.
    pub fn drains(&self) -> Vec<Drain> {
        let here = self.config.policy.here;
        let ours = self.orders.iter().map(|(target, until)| Drain { site: here, target, until });
        let theirs = self.theirs.iter().map(|((site, _), theirs)| Drain {
            site: *site,
            target: theirs.service.map_or(Target::Site, Target::Service),
            until: theirs.until,
        });
        ours.chain(theirs).collect()
    }

    /// Services of several sites that a drain takes, wholly.
    pub fn concerned<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = ServiceId> + 'a {
        let services = self.config.services.iter();
        services.filter(move |(id, local)| target.takes(**id, local.key.vip)).map(|(id, _)| *id)
    }

    fn may_order(&self) -> Result<(), Refused> {
        if self.says.leads { Ok(()) } else { Err(Refused::Elsewhere { leader: self.leader.clone() }) }
    }

    /// What the balancer sees, less what orders take.
    pub(super) fn less_orders(&self, id: ServiceId, local: &Local, serving: Serving) -> Serving {
        Serving { draining: serving.draining || self.orders.drains(id, local.key.vip).is_some(), ..serving }
    }

    /// Word of an order. The relay that leads counts; while none does, every relay: what one holds outlives its return. Orders of other sites
    /// are said by every relay that has a session there, and again by the one that leads.
    pub(super) fn hear_order(&mut self, source: Source<'_>, fact: Fact, now: Instant) {
        let leads = |name: &str| !self.says.leads && self.leader.as_deref().is_none_or(|leader| leader == name);
        let counts = match (source, fact) {
            (Source::Own, Fact::Drained { .. }) => self.config.relay.is_some(),
            (Source::Own, _) => self.says.leads,
            (Source::Relay(name), Fact::Drained { site, .. }) => leads(name) || self.has_session(name, site),
            (Source::Relay(name), _) => leads(name),
        };
        if !counts {
            return;
        }
        match fact {
            Fact::Order { target, left: Some(left) } => {
                let turn = self.orders.give(target, left, now);
                self.turned(turn.map(|turn| (target, turn)).into_iter().collect(), now);
            }
            Fact::Order { target, left: None } => {
                if self.leader.is_some() && self.orders.end(&target) {
                    self.turned(vec![(target, Turn::Ended)], now);
                }
            }
            Fact::Drained { site, number, order: Some((service, seconds)), age } => {
                let left = Duration::from_secs(seconds.into()).saturating_sub(age);
                let theirs = Theirs { service, until: now + left, confirmed: now };
                if self.config.policy.sites.contains_key(&site) {
                    let _before = self.theirs.insert((site, number), theirs);
                }
            }
            Fact::Drained { site, number, order: None, .. } => drop(self.theirs.remove(&(site, number))),
            Fact::Session { .. }
            | Fact::Summary { .. }
            | Fact::Confirmed { .. }
            | Fact::Ask { .. }
            | Fact::Loan { .. }
            | Fact::Demand { .. }
            | Fact::Reach { .. } => {}
        }
        if source == Source::Own {
            self.actions.push_back(Action::Publish(fact));
        }
    }

    /// Deadlines, what is not repeated, and the next word of a relay.
    pub(super) fn expire_orders(&mut self, now: Instant) {
        let led = self.led.filter(|_| !self.says.leads);
        let turns = self.orders.expire(led, now);
        self.turned(turns, now);
        let heard = |theirs: &Theirs| led.is_none_or(|since| now.since(since.max(theirs.confirmed)) < KEEP);
        self.theirs.retain(|_, theirs| heard(theirs));
        if now >= self.tell_at {
            self.tell_at = now + TELL;
            let facts: Vec<Fact> = self.order_facts(now).collect();
            // Not only the one that leads: see `hear_order`.
            if self.config.relay.is_some() {
                self.actions.extend(facts.into_iter().map(Action::Publish));
            }
        }
    }

    /// When the next word is due, if there is anything to say or to forget.
    pub(super) fn orders_timeout(&self) -> Option<Instant> {
        (!self.orders.is_empty() || !self.theirs.is_empty()).then_some(self.tell_at)
    }

    fn order_facts(&self, now: Instant) -> impl Iterator<Item = Fact> {
        let ours = self.orders.iter().map(move |(target, until)| Fact::Order { target, left: Some(until.since(now)) });
        let theirs = self.theirs.iter().filter(|_| self.says.leads);
        let theirs = theirs.map(move |((site, number), theirs)| Fact::Drained {
            site: *site,
            number: *number,
            order: Some((theirs.service, seconds(theirs.until.since(now)))),
            age: Duration::ZERO,
        });
        ours.chain(theirs)
    }

    /// Orders changed: the balancer, the own summaries, the records and the other nodes follow.
    fn turned(&mut self, turns: Vec<(Target, Turn)>, now: Instant) {
        if turns.is_empty() {
            return;
        }
        for (target, turn) in turns {
            let on = turn != Turn::Ended;
            if target.inside() && turn != Turn::Over {
                self.actions.push_back(Action::Drain { target, on });
            }
            if self.says.leads {
                let left = on.then(|| self.orders.until(&target).map_or(Duration::ZERO, |until| until.since(now)));
                self.actions.push_back(Action::Publish(Fact::Order { target, left }));
            }
            self.actions.push_back(Action::Report(Report::Order { target, turn }));
        }
        self.say_all(now);
        self.write_orders(now);
    }

    /// Records of orders that take whole services.
    pub(super) fn write_orders(&mut self, now: Instant) {
        let mut wanted = BTreeMap::new();
        if let Some(until) = self.orders.until(&Target::Site) {
            let _first = wanted.insert(WHOLE, (None, until));
        }
        for (id, local) in &self.config.services {
            let other =
                self.orders.iter().filter(|(target, _)| *target != Target::Site && target.takes(*id, local.key.vip));
            if let Some(until) = other.map(|(_, until)| until).max() {
                let _first = wanted.insert(id.0, (Some(*id), until));
            }
        }
        let write = |number: &u32, body| Action::Write(Key::Order(*number), body);
        let gone = self.written.keys().filter(|number| !wanted.contains_key(*number)).map(|number| write(number, None));
        let news = wanted.iter().filter(|(number, order)| self.written.get(*number) != Some(*order));
        let news = news.map(|(number, (service, until))| {
            write(number, Some(Body::Order { service: *service, seconds: seconds(until.since(now)) }))
        });
        self.actions.extend(gone.chain(news));
        self.written = wanted;
    }
}

/// Whole seconds, at least what there is.
fn seconds(left: Duration) -> u32 {
    let whole = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(whole).unwrap_or(u32::MAX)
}
