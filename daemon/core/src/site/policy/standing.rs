//! A service at a site over time: hysteresis, hold-down, damping, slow start (sites.md 4.7).

use core::time::Duration;
use std::collections::VecDeque;

use serde::Serialize;

use super::facts::Verdict;
use crate::time::Instant;

/// Below it for two slots: Degraded. Envoy's and Google's 70 %.
const WORSE: f64 = 70.0;
/// At or above it for [`GOOD`]: Up again.
const BETTER: f64 = 85.0;
/// Below it for three slots: Down. Google's automatic capacity drain.
const BAD: f64 = 25.0;
/// At or above it while probing for [`GOOD`]: slow start.
const ENOUGH: f64 = 50.0;
/// Time of good behaviour that is believed.
const GOOD: Duration = Duration::from_secs(10);
/// From the first flows to all of them.
const RAMP: Duration = Duration::from_secs(60);
/// Where the ramp begins.
const FLOOR: f64 = 0.1;
/// Share of its flows that a site on probation gets.
const PROBATION: f64 = 0.01;
/// The first hold; each further Down within [`MEMORY`] doubles it.
const HOLD: Duration = Duration::from_secs(5);
/// The longest.
const HOLD_MAX: Duration = Duration::from_secs(300);
const MEMORY: Duration = Duration::from_secs(600);
/// A Down costs so much, half of which is forgotten every minute; suppressed above, until below (RFC 2439's scheme).
const PENALTY: f64 = 1000.0;
const HALF_LIFE: f64 = 60.0;
const SUPPRESS: f64 = 3000.0;
const REUSE: f64 = 1500.0;
/// Nobody is suppressed for longer.
const SUPPRESS_MAX: Duration = Duration::from_secs(600);

/// Where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Takes its share, or a growing part of it after a return.
    Up,
    /// Takes as much of its share as its score says.
    Degraded,
    /// Takes nothing.
    Down,
    /// Takes 1 % of its share, to be seen.
    Probing,
}

/// The standing of one service at one site.
#[derive(Clone, Debug)]
pub struct Standing {
    state: State,
    /// Slots in a row below [`WORSE`], and below [`BAD`].
    worse: u32,
    bad: u32,
    good_since: Option<Instant>,
    ramp: Option<Instant>,
    hold: Instant,
    downs: VecDeque<Instant>,
    penalty: (f64, Instant),
    suppressed: Option<Instant>,
    score: f64,
    verdict: Verdict,
}

impl Standing {
    /// At start nothing is known of the past: who is usable is Up, the rest Down without a penalty.
    pub fn new(verdict: Verdict, score: f64, now: Instant) -> Self {
        Self {
            state: if verdict.usable() { State::Up } else { State::Down },
            worse: 0,
            bad: 0,
            good_since: None,
            ramp: None,
            hold: now,
            downs: VecDeque::new(),
            penalty: (0.0, now),
            suppressed: None,
            score,
            verdict,
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// The latest score.
    pub const fn score(&self) -> f64 {
        self.score
    }

    /// The latest verdict.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Held back for flapping.
    pub const fn suppressed(&self) -> bool {
        self.suppressed.is_some()
    }

    /// Facts that do not wait for the next slot. True when the state changed.
    pub fn hear(&mut self, verdict: Verdict, now: Instant) -> bool {
        self.verdict = verdict;
        let out = !verdict.usable() && self.state != State::Down;
        if out {
            self.fall(now, verdict != Verdict::Draining);
        }
        out
    }

    /// One slot of 500 ms. `last`: no other site is usable, and then nobody is held back. True when the state changed.
    pub fn slot(&mut self, verdict: Verdict, score: f64, last: bool, now: Instant) -> bool {
        let before = self.state;
        self.score = score;
        let _fell = self.hear(verdict, now);
        self.forget(now);
        self.worse = if score < WORSE { self.worse + 1 } else { 0 };
        self.bad = if score < BAD { self.bad + 1 } else { 0 };
        let enough = match self.state {
            State::Up | State::Degraded => score >= BETTER,
            State::Probing | State::Down => score >= ENOUGH,
        };
        self.good_since = if enough && verdict.usable() { self.good_since.or(Some(now)) } else { None };
        let good = self.good_since.is_some_and(|at| now.since(at) >= GOOD);
        match self.state {
            State::Up | State::Degraded if self.bad >= 3 => self.fall(now, true),
            State::Up if self.worse >= 2 => self.become_(State::Degraded),
            State::Degraded if good => self.become_(State::Up),
            State::Down if verdict.usable() && (last || now >= self.hold && self.suppressed.is_none()) => {
                self.become_(if last { State::Up } else { State::Probing });
            }
            State::Probing if good => {
                self.become_(State::Up);
                self.ramp = Some(now);
            }
            State::Probing if self.bad >= 3 => self.fall(now, true),
            State::Up | State::Degraded | State::Down | State::Probing => {}
        }
        if self.ramp.is_some_and(|at| now.since(at) >= RAMP) {
            self.ramp = None;
        }
        before != self.state
    }

    /// The part of its share that it takes.
    pub fn factor(&self, now: Instant) -> f64 {
        let ramp = self.ramp.map_or(1.0, |at| (now.since(at).as_secs_f64() / RAMP.as_secs_f64()).clamp(FLOOR, 1.0));
        match self.state {
            State::Up => ramp,
            State::Degraded => ramp * self.score / 100.0,
            State::Down => 0.0,
            State::Probing => PROBATION,
        }
    }

    /// An end of a drain: back by slow start and not at once.
    pub fn returned(&mut self, now: Instant) {
        self.become_(State::Up);
        self.ramp = Some(now);
    }

    fn become_(&mut self, state: State) {
        self.state = state;
        self.good_since = None;
    }

    fn fall(&mut self, now: Instant, blame: bool) {
        self.become_(State::Down);
        self.ramp = None;
        if !blame {
            self.hold = now;
            return;
        }
        self.downs.push_back(now);
        while self.downs.front().is_some_and(|at| now.since(*at) > MEMORY) {
            let _old = self.downs.pop_front();
        }
        let doubled = u32::try_from(self.downs.len()).unwrap_or(u32::MAX).saturating_sub(1).min(8);
        self.hold = now + (HOLD * (1 << doubled)).min(HOLD_MAX);
        self.forget(now);
        self.penalty.0 += PENALTY;
        if self.penalty.0 > SUPPRESS && self.suppressed.is_none() {
            self.suppressed = Some(now);
        }
    }

    fn forget(&mut self, now: Instant) {
        let (penalty, at) = self.penalty;
        self.penalty = (penalty * 0.5f64.powf(now.since(at).as_secs_f64() / HALF_LIFE), now);
        let long = self.suppressed.is_some_and(|at| now.since(at) >= SUPPRESS_MAX);
        if long || self.penalty.0 < REUSE {
            self.suppressed = None;
        }
    }
}
