//! What clients bring, as one node deals with it: its own counts go to the relays of its site, the relay that leads makes the sum of them,
//! and the sum goes into this site's summary at every node, by the same rule everywhere (ADR 0031).

use super::Join;
use super::io::{Action, Fact};
use crate::site::demand::{AGAIN, Count, HOLD, READ, Rate};
use crate::site::summary::ServiceId;
use crate::time::Instant;

/// Of a service, for status: what is brought here and to the site, what it carries, and what is lent, in units a second.
#[derive(Clone, Copy, PartialEq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Brought {
    /// New connections (UDP: datagrams) a second that clients bring to this node.
    pub node: f64,
    /// To the site, as it says; 0: not known.
    pub site: f64,
    /// What the site's ready endpoints carry; 0: nobody said.
    pub capacity: u32,
    /// What this site lends to others.
    pub lent: f64,
    /// What others lend to it.
    pub borrowed: f64,
}

impl Join {
    /// Counters of this node were read: what clients have asked for since the maps were made. Called every [`READ`].
    pub fn handle_counts(&mut self, totals: &[(ServiceId, u64)], now: Instant) {
        for (id, total) in totals.iter().filter(|(id, _)| self.config.services.contains_key(id)) {
            self.demand.handle_total(*id, *total, now);
        }
        let counts = self.demand.say(now);
        let others = self.config.relays.iter().any(|relay| Some(relay) != self.config.relay.as_ref());
        if others && !counts.is_empty() {
            self.actions.push_back(Action::Say(counts));
        }
        self.reckon(now);
        self.settle(now);
    }

    /// Another node of this site says what it counts. Every relay listens, so that the next one that leads knows it already. How many of
    /// them are of no service that this site spreads: they are not taken.
    pub fn handle_said(&mut self, node: &str, counts: &[Count], now: Instant) -> usize {
        let (known, unknown): (Vec<&Count>, Vec<&Count>) =
            counts.iter().partition(|count| self.config.services.contains_key(&count.service));
        known.into_iter().for_each(|count| self.demand.hear(node, *count, now));
        self.reckon(now);
        self.settle(now);
        unknown.len()
    }

    /// What is brought, lent and borrowed of a service.
    pub fn brought(&self, id: ServiceId, now: Instant) -> Brought {
        let (lent, borrowed) = self.policy.credits(id, now);
        let (node, site) = (self.demand.node(id, now).per_second(), self.demand.site(id).per_second());
        let capacity = self.own.get(&id).map_or(0, |(_, summary)| summary.capacity);
        Brought { node, site, capacity, lent, borrowed }
    }

    /// The sums, on the relay that leads, at most once in [`READ`]; and their word to the nodes.
    fn reckon(&mut self, now: Instant) {
        if !self.says.leads || now < self.reckon_at {
            return;
        }
        self.reckon_at = now + READ;
        // Whoever is there has spoken once a rate of his would have ended.
        let learning = self.led.is_none_or(|since| now.since(since) < HOLD);
        for (service, rate) in self.demand.reckon(learning, now) {
            self.actions.push_back(Action::Publish(Fact::Demand { service, rate }));
            self.say_again(service, now);
        }
        if now >= self.repeat_at {
            self.repeat_at = now + AGAIN;
            let all = self.demand.all().map(|(service, rate)| Action::Publish(Fact::Demand { service, rate }));
            self.actions.extend(all);
        }
    }

    /// The relay that leads says what the site's clients bring.
    pub(super) fn hear_demand(&mut self, service: ServiceId, rate: Rate, now: Instant) {
        if self.config.services.contains_key(&service) {
            self.demand.set(service, rate, now);
            self.say_again(service, now);
        }
    }

    /// What nobody has said for long is not known any more; on the relay that leads, who is silent counts no more.
    pub(super) fn expire_demand(&mut self, now: Instant) {
        self.reckon(now);
        for service in self.demand.expire(now) {
            self.say_again(service, now);
        }
    }

    pub(super) fn demand_timeout(&self) -> Option<Instant> {
        if self.says.leads {
            return (!self.demand.is_empty()).then_some(self.reckon_at);
        }
        self.demand.poll_timeout()
    }

    fn say_again(&mut self, service: ServiceId, now: Instant) {
        if let Some((serving, _)) = self.own.get(&service).copied() {
            self.say_own(service, serving, now);
        }
    }
}

#[cfg(test)]
mod tests;
