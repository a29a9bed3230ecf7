//! A policy at site 1 of four, whose every input the test gives.

mod passive;
mod rules;
mod table;

use core::time::Duration;
use std::collections::BTreeMap;

use super::Policy;
use super::io::{Action, Config, Mode, Report, ServicePolicy, Table};
use crate::site::SiteId;
use crate::site::path::io::{Carriage, Refused, Silence, Status};
use crate::site::summary::{ServiceId, Summary};
use crate::time::Instant;

pub(super) const API: ServiceId = ServiceId(7);
pub(super) const HERE: SiteId = SiteId(1);

/// A path that is well but for its carriage.
pub(in crate::site) const fn status(carriage: Carriage) -> Status {
    Status {
        carriage,
        brownout_in: None,
        brownout_out: None,
        loss_in: 0.0,
        loss_out: 0.0,
        rtt: Some(0.02),
        rtt_usual: Some(0.02),
        rtt_factor: 1.0,
        mtu: 1500,
        flows_up: 6,
        flows: 0b11_1111,
        returning: false,
        suppressed: false,
        refused: Refused { malformed: 0, tag: 0, stale: 0, replayed: 0, flow: 0, version: 0, unknown: 0 },
    }
}

pub(super) const DOWN: Carriage = Carriage::Down(Silence::In);

pub(super) const fn summary(ready: u16, capacity: u32, demand: u32) -> Summary {
    Summary { ready, expected: 10, draining: false, capacity, demand }
}

pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) now: Instant,
    pub(super) tables: Vec<(Instant, Table)>,
    pub(super) actions: Vec<(Instant, Action)>,
    said: BTreeMap<u8, Summary>,
    refreshed: Instant,
}

impl World {
    /// Sites 1 and 2 are in one region, 3 and 4 in another. Everybody is well and carries 60 of 100.
    pub(super) fn new(mode: Mode) -> Self {
        let regions = [(1, "north"), (2, "north"), (3, "south"), (4, "south")];
        let sites = regions.map(|(id, region)| (SiteId(id), region.to_owned())).into();
        let services = BTreeMap::from([(API, ServicePolicy { mode, ..ServicePolicy::default() })]);
        let now = Instant::from_nanos(1_000_000_000);
        let policy = Policy::new(Config { here: HERE, sites, services, spill: true }, now);
        let mut world =
            Self { policy, now, tables: Vec::new(), actions: Vec::new(), said: BTreeMap::new(), refreshed: now };
        for site in 2..=4 {
            world.policy.handle_session(SiteId(site), true);
            world.path(site, status(Carriage::Up));
        }
        (1..=4).for_each(|site| world.say(site, summary(10, 100, 60)));
        world.run(20_000);
        world
    }

    pub(super) fn path(&mut self, site: u8, status: Status) {
        self.policy.handle_path(SiteId(site), status, self.now, self.now);
        self.drain();
    }

    pub(super) fn say(&mut self, site: u8, summary: Summary) {
        let _old = self.said.insert(site, summary);
        self.policy.handle_summary(SiteId(site), API, summary, Duration::ZERO, self.now);
        self.drain();
    }

    /// Lets `ms` pass; what was said is said again every 10 s.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.policy.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.policy.handle_expire(self.now);
            self.drain();
            if self.now.since(self.refreshed) >= Duration::from_secs(10) {
                self.refreshed = self.now;
                self.said.clone().into_iter().for_each(|(site, summary)| self.say(site, summary));
            }
        }
        self.now = end;
    }

    pub(super) fn drain(&mut self) {
        while let Some(action) = self.policy.poll_action() {
            if let Action::Table(table) = &action {
                self.tables.push((self.now, table.clone()));
            }
            self.actions.push((self.now, action));
        }
    }

    pub(super) fn share(&self, site: u8) -> f64 {
        self.tables.last().and_then(|(_, t)| t.shares.get(&SiteId(site))).copied().unwrap_or(0.0)
    }

    pub(super) fn shares(&self) -> [f64; 4] {
        [1, 2, 3, 4].map(|site| (self.share(site) * 1000.0).round() / 1000.0)
    }

    pub(super) fn standings(&self, site: u8) -> Vec<super::State> {
        let of = |a: &Action| match a {
            Action::Report(Report::Standing { site: s, state, .. }) if *s == SiteId(site) => Some(*state),
            _ => None,
        };
        self.actions.iter().filter_map(|(_, a)| of(a)).collect()
    }
}
