//! What follows from what the machine knows: who leads, then what the policy owes.

use std::collections::BTreeMap;

use super::Join;
use super::io::{Action, Local, Report};
use crate::site::SiteId;
use crate::site::policy::io::Action as Decided;
use crate::site::policy::table::SLOTS;
use crate::site::state::record::{Body, Key};
use crate::site::summary::ServiceId;
use crate::time::Instant;

impl Join {
    pub(super) fn only_here(&self) -> Vec<SiteId> {
        vec![self.config.policy.here; usize::from(SLOTS)]
    }

    pub(super) fn table(&mut self, service: ServiceId, generation: u64, slots: Vec<SiteId>) {
        let Some(local) = self.config.services.get(&service) else { return };
        let _before = self.tables.insert(service, (local.key, generation, slots.clone()));
        self.actions.push_back(Action::Table { service, key: local.key, generation: Some(generation), slots });
    }

    /// VIPs that this site announces: what others hold against its prefixes.
    pub(super) fn write_vips(&mut self, before: &BTreeMap<ServiceId, Local>) {
        let vips = |services: &BTreeMap<ServiceId, Local>| -> BTreeMap<_, _> {
            services.iter().rev().map(|(id, local)| (local.key.vip, *id)).collect()
        };
        let (before, now) = (vips(before), vips(&self.config.services));
        for vip in before.keys().filter(|vip| !now.contains_key(vip)) {
            self.actions.push_back(Action::Write(Key::Vip(*vip), None));
        }
        for (vip, service) in now.into_iter().filter(|(vip, service)| before.get(vip) != Some(service)) {
            self.actions.push_back(Action::Write(Key::Vip(vip), Some(Body::Vip { service, term: 0 })));
        }
    }

    /// Who leads, then what the policy owes.
    pub(super) fn settle(&mut self, now: Instant) {
        self.lead.handle_expire(now);
        let leader = self.lead.leader().map(str::to_owned);
        if leader != self.leader {
            self.leader.clone_from(&leader);
            self.led = leader.is_some().then_some(now);
            self.actions.push_back(Action::Report(Report::Leader { relay: leader }));
        }
        let (says, led) = (self.lead.says(), self.says.leads);
        if says != self.says && self.config.relay.is_some() {
            self.says = says;
            self.actions.push_back(Action::Lead(says));
            // Nodes of earlier versions have left out what was said before.
            if says.leads
                && !led
                && let Some(word) = self.config.relay.as_ref().and_then(|relay| self.words.get(relay))
            {
                let again: Vec<Action> = word.facts(now).map(Action::Publish).collect();
                self.actions.extend(again);
            }
        }
        self.settle_words(now);
        self.settle_reach(now);
        self.actions.extend(self.near.poll(now).map(Action::Neighbours));
        while let Some(decided) = self.policy.poll_action() {
            self.carry(decided);
        }
    }

    fn carry(&mut self, decided: Decided) {
        match decided {
            Decided::Table(table) => self.table(table.service, table.generation, table.slots),
            Decided::Ask { to, service, excess } => self.credit(to, service, excess, false),
            Decided::Lend { to, service, amount } => self.credit(to, service, amount, true),
            Decided::Report(report) => self.actions.push_back(Action::Report(Report::Policy(report))),
            Decided::Timeline(timeline) => self.actions.push_back(Action::Timeline(timeline)),
            Decided::Claim(service) => self.actions.push_back(Action::Claim(service)),
            Decided::Release(service, reason) => self.actions.push_back(Action::Release(service, reason)),
            // A site without the lease delivers nothing: its routes may stay.
            Decided::Announce { .. } => {}
        }
    }

    /// Every node comes to the same; one says it.
    fn credit(&mut self, to: SiteId, service: ServiceId, amount: u32, lend: bool) {
        if self.says.leads {
            self.actions.push_back(Action::Credit { to, service, amount, lend });
        }
    }
}
