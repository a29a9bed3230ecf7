//! Two ends of a path, each the very machine, over two directions that lose.

use std::collections::BTreeMap;

use bascule_core::site::path::Path;
use bascule_core::site::path::io::{Action, Config, Event};
use bascule_core::time::Instant;
use bascule_core::wire::site::PairKeys;

use super::link::{Direction, Loss, MS};

/// The pair.
#[derive(Debug)]
pub struct Pair {
    /// Both ends.
    pub ends: [Path; 2],
    ways: [Direction; 2],
    delay: u64,
    /// Virtual time in nanoseconds.
    pub now: u64,
    queue: BTreeMap<(u64, u64), (usize, u8, Vec<u8>)>,
    order: u64,
    /// When, at which end, what; flows left out.
    pub events: Vec<(u64, usize, Event)>,
}

impl Pair {
    /// Two ends `delay` nanoseconds apart, one way.
    pub fn new(seed: u64, delay: u64) -> Self {
        let secret = vec![b"a pair of sites".to_vec()];
        let end = |here: u8, there: u8| {
            let config = Config::new(PairKeys::new(here, there, secret.clone()));
            Path::new(config, u32::from(here) << 16 | 7, seed ^ u64::from(here), Instant::ZERO)
        };
        Self {
            ends: [end(1, 2), end(2, 1)],
            ways: [Direction::new(seed.wrapping_mul(3)), Direction::new(seed.wrapping_mul(5).wrapping_add(1))],
            delay,
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            events: Vec::new(),
        }
    }

    /// Packets that end `from` sends are lost like this from now on.
    pub fn lose(&mut self, from: usize, loss: Loss) {
        self.ways[from].set(loss, self.now);
    }

    /// Lets nanoseconds pass, or stops at the first event that `enough` accepts.
    pub fn run(&mut self, span: u64, mut enough: impl FnMut(&(u64, usize, Event)) -> bool) {
        let end = self.now + span;
        loop {
            let before = self.events.len();
            self.drain();
            if self.events[before..].iter().any(&mut enough) {
                return;
            }
            let timers = self.ends.iter().filter_map(Path::poll_timeout).map(Instant::as_nanos).min();
            let arrival = self.queue.keys().next().map(|(at, _)| *at);
            let next = timers.into_iter().chain(arrival).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            let now = Instant::from_nanos(self.now);
            while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, flow, payload) = entry.remove();
                self.ends[to].handle_packet(flow, &payload, now);
            }
            self.ends.iter_mut().for_each(|end| end.handle_expire(now));
        }
    }

    fn drain(&mut self) {
        for from in 0..2 {
            while let Some(action) = self.ends[from].poll_action() {
                match action {
                    Action::Report(Event::FlowUp { .. } | Event::FlowDown { .. }) => {}
                    Action::Report(event) => self.events.push((self.now, from, event)),
                    Action::Send { flow, payload } => {
                        if !self.ways[from].loses(self.now) {
                            self.order += 1;
                            let at = self.now + self.delay + self.order % 8 * MS / 8;
                            let _free = self.queue.insert((at, self.order), (1 - from, flow, payload));
                        }
                    }
                }
            }
        }
    }
}
