//! Two sites over a stream that the test connects and cuts. Loss, reorder, restarts and partitions of many sites are the simulator's.

mod codec;
mod reach;
mod relays;
mod rules;
mod versions;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::State;
use super::io::{Action, CloseReason, Config, Pass, PeerConfig, Report};
use super::record::{Body, Key};
use super::version::Speaks;
use crate::site::SiteId;
use crate::site::summary::{ServiceId, Summary};
use crate::time::Instant;

pub(super) const A: SiteId = SiteId(1);
pub(super) const B: SiteId = SiteId(2);
const DELAY: u64 = 10;

pub(super) fn peer(prefix: &str) -> PeerConfig {
    let prefixes = vec![prefix.parse().expect("a prefix")];
    PeerConfig { prefixes, export: Pass::All, import: Pass::All }
}

pub(super) fn config(here: SiteId, instance: u64, incarnation: u64) -> Config {
    let (other, prefix) = if here == A { (B, "10.2.0.0/16") } else { (A, "10.1.0.0/16") };
    let (speaks, build) = (Speaks::OURS, format!("build of {here}"));
    Config {
        here,
        instance,
        incarnation,
        seed: instance,
        speaks,
        build,
        peers: BTreeMap::from([(other, peer(prefix))]),
    }
}

pub(super) const fn summary(ready: u16, demand: u32) -> Body {
    Body::Service(Summary { ready, expected: 100, draining: false, capacity: 1000, demand })
}

pub(super) const fn key(id: u32) -> Key {
    Key::Service(ServiceId(id))
}

pub(super) struct Pair {
    pub(super) ends: [State; 2],
    pub(super) up: bool,
    connected: bool,
    pub(super) ms: u64,
    way: VecDeque<(u64, usize, Vec<u8>)>,
    /// Bytes that each end sent.
    pub(super) sent: [usize; 2],
    pub(super) messages: [usize; 2],
    pub(super) reports: Vec<(usize, Report)>,
    pub(super) closed: Vec<(usize, CloseReason)>,
    /// What the policy of each end knows: body, and age when it came.
    pub(super) known: [BTreeMap<Key, (Body, Duration)>; 2],
    pub(super) came: Vec<(u64, usize, Key)>,
    /// What each end heard that the other one reaches, and when.
    pub(super) reached: [Vec<(u64, BTreeMap<SiteId, bool>)>; 2],
}

impl Pair {
    pub(super) fn new() -> Self {
        let at = Instant::ZERO;
        Self {
            ends: [State::new(config(A, 0xa1, 1), at), State::new(config(B, 0xb1, 1), at)],
            up: true,
            connected: false,
            ms: 0,
            way: VecDeque::new(),
            sent: [0; 2],
            messages: [0; 2],
            reports: Vec::new(),
            closed: Vec::new(),
            known: Default::default(),
            came: Vec::new(),
            reached: Default::default(),
        }
    }

    /// Two ends that have learned and are connected.
    pub(super) fn ready() -> Self {
        let mut pair = Self::new();
        pair.run(11_000);
        pair
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_nanos(self.ms * 1_000_000)
    }

    pub(super) fn write(&mut self, end: usize, key: Key, body: Option<Body>) {
        let now = self.now();
        self.ends[end].handle_local(key, body, now);
        self.drain();
    }

    pub(super) fn give(&mut self, to: usize, bytes: &[u8]) {
        let (from, now) = (if to == 0 { B } else { A }, self.now());
        self.ends[to].handle_bytes(from, bytes, now);
        self.drain();
    }

    pub(super) fn restart(&mut self, end: usize, instance: u64, incarnation: u64) {
        self.cut();
        let here = [A, B][end];
        self.ends[end] = State::new(config(here, instance, incarnation), self.now());
        self.known[end].clear();
    }

    /// The session breaks.
    pub(super) fn cut(&mut self) {
        self.way.clear();
        if std::mem::take(&mut self.connected) {
            let now = self.now();
            self.ends[0].handle_disconnected(B, now);
            self.ends[1].handle_disconnected(A, now);
        }
        self.drain();
    }

    pub(super) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.drain();
            while self.way.front().is_some_and(|(at, ..)| *at <= self.ms) {
                let Some((_, to, bytes)) = self.way.pop_front() else { break };
                self.give(to, &bytes);
            }
            let now = self.now();
            self.ends.iter_mut().for_each(|end| end.handle_expire(now));
            self.drain();
            self.ms += 1;
        }
    }

    fn drain(&mut self) {
        let mut idle = false;
        while !idle {
            idle = true;
            for end in 0..2 {
                while let Some(action) = self.ends[end].poll_action() {
                    idle = false;
                    self.act(end, action);
                }
            }
        }
    }

    fn act(&mut self, end: usize, action: Action) {
        let now = self.now();
        match action {
            Action::Dial(_) if self.connected => {}
            Action::Dial(_) if self.up => {
                self.connected = true;
                self.ends[0].handle_connected(B, now);
                self.ends[1].handle_connected(A, now);
            }
            Action::Dial(site) => self.ends[end].handle_disconnected(site, now),
            Action::Send(_, bytes) => {
                self.sent[end] += bytes.len();
                self.messages[end] += 1;
                if self.connected {
                    self.way.push_back((self.ms + DELAY, 1 - end, bytes));
                }
            }
            Action::Close(_, reason) => {
                self.closed.push((end, reason));
                self.way.clear();
                self.connected = false;
                let other = [B, A][1 - end];
                self.ends[1 - end].handle_disconnected(other, now);
            }
            Action::Record { key, body: Some(body), age, .. } => {
                self.came.push((self.ms, end, key));
                let _old = self.known[end].insert(key, (body, age));
            }
            Action::Record { key, body: None, .. } => {
                let _old = self.known[end].remove(&key);
            }
            Action::Report(report) => self.reports.push((end, report)),
            Action::Reach { reach, .. } => self.reached[end].push((self.ms, reach)),
            Action::Persist(_) | Action::Ask { .. } | Action::Lend { .. } => {}
        }
    }
}
