//! Is the loss of one direction more than this path's usual? Two cumulative sums over slots, one for heavy loss and one for light.
//!
//! What is counted is loss *events* (runs of lost probes), at most three a slot: the length of one hole says nothing about the next, so a
//! long burst must not weigh more than a short one. Page's test ("Continuous inspection schemes", Biometrika 41, 1954) on a Poisson
//! count: an event adds ln(l1/l0), a slot subtracts l1-l0, and the alarm is raised when the sum reaches h. The same sum turned round
//! clears it. What the constants buy, and what no detector can, is worked out in ADR 0020.

use serde::Serialize;

use super::baseline::Baseline;
use super::slots::Slot;

/// Usual events a slot are taken as three times what was learned (sites.md 1.2: with a fixed rate, 11,524 false alarms in 30 days).
const MARGIN: f64 = 3.0;
/// Alarms are cleared when the evidence for the usual rate is 100 to 1: 26 s without an event for light loss, 4 s for heavy.
const CLEAR: f64 = 4.6;
/// Slots whose loss is averaged: 10 s.
const WINDOW: usize = 20;

/// Which of the two sums.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Few events over many slots.
    Light,
    /// Many events over few slots.
    Heavy,
}

/// One sum: floors of both rates, in events a slot, and the threshold.
#[derive(Clone, Copy, Debug)]
struct Shape {
    usual: f64,
    sick: f64,
    ratio: f64,
    threshold: f64,
}

/// Four events in two seconds; a heavy loss is declared 1.5 to 2 s after it began (sites.md 4.6: p0 5 %, p1 50 %, h 10).
const HEAVY: Shape = Shape { usual: 0.05, sick: 0.7, ratio: 4.0, threshold: 10.0 };
/// Three events within 8.5 s. sites.md proposes h 14 (seven events); ADR 0020 says why three are enough and two are not.
const LIGHT: Shape = Shape { usual: 0.01, sick: 0.1, ratio: 4.0, threshold: 5.2 };

#[derive(Clone, Copy, Debug)]
struct Sum {
    shape: Shape,
    up: f64,
    down: f64,
    alarm: bool,
}

impl Sum {
    const fn new(shape: Shape) -> Self {
        Self { shape, up: 0.0, down: 0.0, alarm: false }
    }

    fn slot(&mut self, events: f64, learned: f64) {
        let usual = self.shape.usual.max(MARGIN * learned);
        let sick = self.shape.sick.max(self.shape.ratio * usual);
        let step = events * (sick / usual).ln() - (sick - usual);
        if self.alarm {
            self.down = (self.down - step).max(0.0);
            if self.down >= CLEAR {
                *self = Self::new(self.shape);
            }
        } else {
            self.up = (self.up + step).max(0.0);
            if self.up >= self.shape.threshold {
                self.alarm = true;
                self.down = 0.0;
            }
        }
    }
}

/// What became of an alarm.
#[derive(Clone, Copy, PartialEq, Debug)]
#[must_use]
pub enum Verdict {
    /// As before.
    Same,
    /// Loss is above the usual now.
    Raised(Scale),
    /// Loss is as usual again.
    Cleared,
}

/// The detector of one direction.
#[derive(Clone, Debug)]
pub struct Detector {
    heavy: Sum,
    light: Sum,
    baseline: Baseline,
    recent: [(u32, u32); WINDOW],
    at: usize,
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            heavy: Sum::new(HEAVY),
            light: Sum::new(LIGHT),
            baseline: Baseline::default(),
            recent: [(0, 0); WINDOW],
            at: 0,
        }
    }
}

impl Detector {
    /// A slot is over. Slots with too few probes say nothing and are passed over.
    pub fn slot(&mut self, slot: Slot) -> Verdict {
        if !slot.counts() {
            return Verdict::Same;
        }
        let before = self.alarm();
        self.recent[self.at] = (slot.sent, slot.lost);
        self.at = (self.at + 1) % WINDOW;
        let learned = self.baseline.rate();
        let events = f64::from(slot.events);
        self.heavy.slot(events, learned);
        self.light.slot(events, learned);
        let after = self.alarm();
        self.baseline.slot(events, after.is_some() || before.is_some());
        match (before, after) {
            (None, Some(scale)) => Verdict::Raised(scale),
            (Some(_), None) => Verdict::Cleared,
            (Some(a), Some(b)) if b > a => Verdict::Raised(b),
            (None, None) | (Some(_), Some(_)) => Verdict::Same,
        }
    }

    /// The heavier of the alarms that stand.
    pub fn alarm(&self) -> Option<Scale> {
        if self.heavy.alarm { Some(Scale::Heavy) } else { self.light.alarm.then_some(Scale::Light) }
    }

    /// Share of probes lost over the last 10 s of slots that counted, 0 to 1.
    pub fn loss(&self) -> f64 {
        let (sent, lost) = self.recent.iter().fold((0u32, 0u32), |(s, l), (sent, lost)| (s + sent, l + lost));
        if sent == 0 { 0.0 } else { f64::from(lost) / f64::from(sent) }
    }

    /// Events a slot that are usual here.
    pub fn learned(&self) -> f64 {
        self.baseline.rate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn slot(events: u32) -> Slot {
        Slot { sent: 30, lost: events, events }
    }

    #[test]
    fn two_events_are_forgiven_and_three_within_eight_seconds_are_not() {
        for (gap, alarm) in [(1, true), (8, true), (9, false)] {
            let mut detector = Detector::default();
            for i in 0..=2 * gap {
                let _ = detector.slot(slot(u32::from(i % gap == 0)));
                assert!(i == 2 * gap || detector.alarm().is_none());
            }
            assert_eq!(detector.alarm().is_some(), alarm, "{gap} slots apart");
        }
    }

    #[test]
    fn heavy_loss_takes_four_slots_and_is_forgotten_after_the_light_one() {
        let mut detector = Detector::default();
        let took = (1..).find(|_| detector.slot(slot(2)) == Verdict::Raised(Scale::Heavy)).expect("endless");
        assert_eq!(took, 3, "light first, then heavy");
        assert!((detector.loss() - 2.0 / 30.0).abs() < 1e-9);
        let quiet = (1..).find(|_| detector.slot(slot(0)) == Verdict::Cleared).expect("endless");
        assert_eq!(quiet, 52, "26 s at slots of 500 ms");
    }

    #[test]
    fn slots_with_too_few_probes_say_nothing() {
        let mut detector = Detector::default();
        for _ in 0..100 {
            assert_eq!(detector.slot(Slot { sent: 4, lost: 3, events: 3 }), Verdict::Same);
        }
        assert!(detector.loss() == 0.0);
    }
}
