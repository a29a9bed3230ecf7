//! Two paths that face each other over a link that the test holds in its hands.

mod rules;

use core::time::Duration;
use std::collections::BTreeMap;

use super::Path;
use super::io::{Action, Config, Event, Evidence};
use crate::time::Instant;
use crate::wire::site::PairKeys;

pub(in crate::site) const MS: u64 = 1_000_000;

/// What the link does with a datagram from end 0 or 1 of a length on a flow at a time in ms.
pub(in crate::site) type Passes = Box<dyn Fn(usize, usize, u8, u64) -> bool>;

pub(in crate::site) struct Pair {
    pub(in crate::site) ends: [Path; 2],
    pub(in crate::site) passes: Passes,
    /// One way, in ms.
    pub(in crate::site) delay: u64,
    pub(in crate::site) now: u64,
    way: BTreeMap<(u64, u64), (usize, u8, Vec<u8>)>,
    order: u64,
    /// Time in ms, end, event.
    pub(in crate::site) events: Vec<(u64, usize, Event)>,
    /// Datagrams sent by each end.
    pub(in crate::site) sent: [u64; 2],
    /// Copies of what end 0 sent lately.
    pub(in crate::site) tape: Vec<(u8, Vec<u8>)>,
    /// Both ends see so many segments acknowledged every 100 ms.
    pub(in crate::site) traffic: Option<Evidence>,
}

pub(in crate::site) fn config(here: u8, there: u8) -> Config {
    Config::new(PairKeys::new(here, there, vec![b"secret of one and two".to_vec()]))
}

impl Pair {
    pub(in crate::site) fn new(delay: u64) -> Self {
        let path = |here, there, run| Path::new(config(here, there), run, 7, Instant::ZERO);
        Self {
            ends: [path(1, 2, 0xaaaa), path(2, 1, 0xbbbb)],
            passes: Box::new(|_, _, _, _| true),
            delay,
            now: 0,
            way: BTreeMap::new(),
            order: 0,
            events: Vec::new(),
            sent: [0; 2],
            tape: Vec::new(),
            traffic: None,
        }
    }

    pub(in crate::site) fn at(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// Lets `ms` pass.
    pub(in crate::site) fn run(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        let mut report = self.now.next_multiple_of(100 * MS);
        loop {
            self.drain();
            let timers = self.ends.iter().filter_map(Path::poll_timeout).map(Instant::as_nanos).min();
            let arrival = self.way.keys().next().map(|(at, _)| *at);
            let next = [timers, arrival, self.traffic.map(|_| report)].into_iter().flatten().min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            let now = self.at();
            while let Some(entry) = self.way.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, flow, payload) = entry.remove();
                self.ends[to].handle_packet(flow, &payload, now);
            }
            if let Some(evidence) = self.traffic.filter(|_| report <= self.now) {
                self.ends.iter_mut().for_each(|end| end.handle_evidence(evidence, now));
                report += 100 * MS;
            }
            self.ends.iter_mut().for_each(|end| end.handle_expire(now));
        }
    }

    fn drain(&mut self) {
        for from in 0..2 {
            while let Some(action) = self.ends[from].poll_action() {
                match action {
                    Action::Report(event) => self.events.push((self.now / MS, from, event)),
                    Action::Send { flow, payload } => {
                        self.sent[from] += 1;
                        if from == 0 {
                            self.tape.push((flow, payload.clone()));
                        }
                        if (self.passes)(from, payload.len(), flow, self.now / MS) {
                            self.order += 1;
                            let _free =
                                self.way.insert((self.now + self.delay * MS, self.order), (1 - from, flow, payload));
                        }
                    }
                }
            }
        }
    }

    /// Time, end and event of everything but flows since `ms`.
    pub(in crate::site) fn since(&self, ms: u64) -> Vec<(u64, usize, Event)> {
        let flows = |e: &Event| matches!(e, Event::FlowUp { .. } | Event::FlowDown { .. });
        self.events.iter().filter(|(at, _, e)| *at >= ms && !flows(e)).copied().collect()
    }
}

pub(in crate::site) const fn second() -> Duration {
    Duration::from_secs(1)
}
