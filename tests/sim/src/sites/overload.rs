//! Many sites, some of them overloaded: the policy of each, in a fluid model.
//!
//! Every site knows its own load at once (as measured over the last half second) and the others' by messages that take as long as the WAN
//! and are lost now and then. What a site carries is what the tables of all sites send there.

use core::time::Duration;
use std::collections::{BTreeMap, BinaryHeap};

use bascule_core::site::SiteId;
use bascule_core::site::path::io::{Carriage, Refused, Status};
use bascule_core::site::policy::Policy;
use bascule_core::site::policy::io::{Action, Config, Mode, ServicePolicy};
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_core::time::Instant;

use super::link::{MS, SEC, symmetric};
use crate::rng::Rng;

const SERVICE: ServiceId = ServiceId(1);
/// What a site can carry.
const CAPACITY: u32 = 10_000;
/// Sites.
const SITES: u8 = 8;
/// Of which so many are overloaded at once.
const LOADED: u8 = 4;
/// How often the load is measured and told.
const MEASURE: u64 = 500 * MS;

/// What is done with an excess.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spill {
    /// The policy.
    Credits,
    /// Nothing: the policy's spill is off.
    Off,
}

/// What a run showed.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Highest load of any site after the settling time, 1 is its capacity.
    pub highest: f64,
    /// Largest difference between highest and lowest load of one site over the last half of the run.
    pub swing: f64,
    /// Time after the overload began at which the last site was above 1.05, in seconds.
    pub settled: f64,
    /// Tables written by all sites.
    pub tables: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Message {
    Summary(u8, u32),
    Ask(u8, u32),
    Lend(u8, u32),
}

struct World {
    policies: Vec<Policy>,
    shares: Vec<BTreeMap<SiteId, f64>>,
    demand: Vec<f64>,
    queue: BinaryHeap<std::cmp::Reverse<(u64, u64, u8, Message)>>,
    order: u64,
    rng: Rng,
    rtt: Vec<Vec<u64>>,
    tables: u64,
}

const fn index(site: u8) -> usize {
    site as usize - 1
}

fn at(now: u64) -> Instant {
    Instant::from_nanos(now)
}

fn up(rtt: u64) -> Status {
    Status {
        carriage: Carriage::Up,
        brownout_in: None,
        brownout_out: None,
        loss_in: 0.0,
        loss_out: 0.0,
        rtt: Some(rtt as f64 / SEC as f64),
        rtt_usual: Some(rtt as f64 / SEC as f64),
        rtt_factor: 1.0,
        mtu: 1500,
        flows_up: 6,
        flows: 0b11_1111,
        returning: false,
        suppressed: false,
        refused: Refused::default(),
    }
}

impl World {
    fn new(seed: u64, spill: Spill) -> Self {
        let mut rng = Rng::new(seed);
        let regions = (1..=SITES).map(|s| (SiteId(s), format!("region {}", s % 2))).collect::<BTreeMap<_, _>>();
        let rtt = symmetric(usize::from(SITES), || rng.between(2, 100) * MS);
        let policy = |here: u8| {
            let service = ServicePolicy { mode: Mode::LocalFirst, ..ServicePolicy::default() };
            let (sites, services) = (regions.clone(), BTreeMap::from([(SERVICE, service)]));
            let config = Config { here: SiteId(here), sites, services, spill: spill == Spill::Credits };
            let mut policy = Policy::new(config, at(u64::from(here) * 61 * MS));
            for other in (1..=SITES).filter(|o| *o != here) {
                policy.handle_session(SiteId(other), true);
                let now = at(u64::from(here) * 61 * MS);
                policy.handle_path(SiteId(other), up(rtt[index(here)][index(other)]), now, now);
            }
            policy
        };
        Self {
            policies: (1..=SITES).map(policy).collect(),
            shares: vec![BTreeMap::new(); usize::from(SITES)],
            demand: vec![0.6; usize::from(SITES)],
            queue: BinaryHeap::new(),
            order: 0,
            rng,
            rtt,
            tables: 0,
        }
    }

    fn send(&mut self, from: u8, to: u8, message: Message, now: u64) {
        // One message in fifty is lost.
        if self.rng.chance(20) {
            return;
        }
        self.order += 1;
        let when = now + self.rtt[index(from)][index(to)] / 2 + self.rng.below(5 * MS);
        self.queue.push(std::cmp::Reverse((when, self.order, to, message)));
    }

    /// What site `site` carries, 1 is its capacity.
    fn load(&self, site: u8) -> f64 {
        let sent = |from: usize| self.demand[from] * self.shares[from].get(&SiteId(site)).copied().unwrap_or(0.0);
        (0..usize::from(SITES)).map(sent).sum()
    }

    fn own(demand: f64) -> Summary {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few times the capacity at most")]
        let demand = (demand * f64::from(CAPACITY)) as u32;
        Summary { ready: 10, expected: 10, draining: false, capacity: CAPACITY, demand }
    }

    fn measure(&mut self, now: u64) {
        for site in 1..=SITES {
            // Clients come and go: 1 % either way.
            let noise = 1.0 + (self.rng.below(2001) as f64 - 1000.0) / 100_000.0;
            let summary = Self::own(self.demand[index(site)] * noise);
            self.policies[index(site)].handle_summary(SiteId(site), SERVICE, summary, Duration::ZERO, at(now));
            for other in (1..=SITES).filter(|o| *o != site) {
                self.send(site, other, Message::Summary(site, summary.demand), now);
            }
        }
    }

    fn deliver(&mut self, to: u8, message: &Message, now: u64) {
        let policy = &mut self.policies[index(to)];
        match message {
            Message::Summary(from, demand) => {
                let summary = Summary { demand: *demand, ..Self::own(0.0) };
                policy.handle_summary(SiteId(*from), SERVICE, summary, Duration::ZERO, at(now));
            }
            Message::Ask(from, excess) => policy.handle_ask(SiteId(*from), SERVICE, *excess, at(now)),
            Message::Lend(from, amount) => policy.handle_loan(SiteId(*from), SERVICE, *amount, at(now)),
        }
    }

    fn drain(&mut self, now: u64) {
        for site in 1..=SITES {
            while let Some(action) = self.policies[index(site)].poll_action() {
                match action {
                    Action::Table(table) => {
                        self.tables += 1;
                        // What packets see are slots, not fractions.
                        let mut shares = BTreeMap::new();
                        for owner in &table.slots {
                            *shares.entry(*owner).or_insert(0.0) += 1.0 / table.slots.len() as f64;
                        }
                        self.shares[index(site)] = shares;
                    }
                    Action::Ask { to, excess, .. } => self.send(site, to.0, Message::Ask(site, excess), now),
                    Action::Lend { to, amount, .. } => self.send(site, to.0, Message::Lend(site, amount), now),
                    _ => {}
                }
            }
        }
    }
}

/// Four of eight sites go from 0.6 to 1.3 of their capacity at once, so that all demand is 0.95 of all capacity (F16, F17).
pub fn run(seed: u64, spill: Spill) -> Outcome {
    let mut world = World::new(seed, spill);
    let (start, end) = (30 * SEC, 120 * SEC);
    let (mut now, mut measured) = (0, MEASURE);
    let mut outcome = Outcome { highest: 0.0, swing: 0.0, settled: 0.0, tables: 0 };
    let mut range = vec![(f64::INFINITY, 0.0f64); usize::from(SITES)];
    let mut loaded = false;
    while now < end {
        let timer = world.policies.iter().filter_map(Policy::poll_timeout).map(Instant::as_nanos).min();
        let arrival = world.queue.peek().map(|r| r.0.0);
        now = [timer, arrival, Some(measured)].into_iter().flatten().min().unwrap_or(end).max(now);
        if !loaded && now >= start {
            loaded = true;
            (0..usize::from(LOADED)).for_each(|i| world.demand[i] = 1.3);
        }
        if now >= measured {
            world.measure(now);
            measured += MEASURE;
        }
        while world.queue.peek().is_some_and(|r| r.0.0 <= now) {
            let Some(std::cmp::Reverse((_, _, to, message))) = world.queue.pop() else { break };
            world.deliver(to, &message, now);
        }
        world.policies.iter_mut().for_each(|p| p.handle_expire(at(now)));
        world.drain(now);
        for site in (1..=SITES).filter(|_| loaded) {
            let load = world.load(site);
            if load > 1.05 {
                outcome.settled = (now - start) as f64 / SEC as f64;
            }
            if now >= start + 4 * SEC {
                outcome.highest = outcome.highest.max(load);
            }
            if now >= (start + end) / 2 {
                let (low, high) = &mut range[index(site)];
                (*low, *high) = (low.min(load), high.max(load));
            }
        }
    }
    outcome.swing = range.iter().map(|(low, high)| high - low).fold(0.0, f64::max);
    outcome.tables = world.tables;
    outcome
}
