//! Distributions of detection: how soon loss is seen, how often none is.

use bascule_core::site::path::detector::{Detector, Verdict};
use bascule_core::site::path::io::Event;
use bascule_core::site::path::slots::{SLOT, Slot};

use super::link::{Direction, Loss, MS, SEC};
use super::path::Pair;
use crate::rng::Rng;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Its name in rows.
    pub name: &'static str,
    /// The loss.
    pub loss: Loss,
    /// In both directions, each by itself, or only from end 0 to end 1.
    pub both: bool,
    /// Seconds within which 95 of 100 must be seen by both ends; `None`: shown, not bound.
    pub bound: Option<f64>,
}

/// The scenes of issue 6, Shows 4, and those beside them that tell how far the numbers reach.
pub const SCENES: [Scene; 8] = [
    Scene { name: "total loss, one way", loss: Loss::All, both: false, bound: Some(0.6) },
    Scene { name: "total loss, both ways", loss: Loss::All, both: true, bound: Some(0.6) },
    Scene { name: "5 % random, one way", loss: Loss::Random(0.05), both: false, bound: Some(4.0) },
    Scene { name: "5 % random, both ways", loss: Loss::Random(0.05), both: true, bound: Some(4.0) },
    Scene { name: "2 % random, one way", loss: Loss::Random(0.02), both: false, bound: Some(8.0) },
    Scene { name: "10 % in bursts, both ways", loss: Loss::bursts(0.1), both: true, bound: Some(11.0) },
    // Three bursts are needed, and one direction has them half as often: ADR 0020 says why two cannot do.
    Scene { name: "10 % in bursts, one way", loss: Loss::bursts(0.1), both: false, bound: None },
    Scene { name: "20 % random, one way", loss: Loss::Random(0.2), both: false, bound: Some(4.0) },
];

/// A hole of this length makes the path down.
const DOWN: u64 = 500 * MS;
/// Longest wait for a detection.
const PATIENCE: u64 = 120 * SEC;

/// Seconds until both ends have seen it; `None` within two minutes. The round trip is 20 ms.
pub fn detect(scene: &Scene, seed: u64) -> Option<f64> {
    let mut rng = Rng::new(seed);
    let mut pair = Pair::new(seed, 10 * MS);
    pair.run(15 * SEC + rng.below(SEC), |_| false);
    let start = pair.now;
    pair.events.clear();
    pair.lose(0, scene.loss);
    if scene.both {
        pair.lose(1, scene.loss);
    }
    let total = scene.loss == Loss::All;
    let mut seen = [false; 2];
    pair.run(PATIENCE, |(_, end, event)| {
        seen[*end] |= match event {
            Event::Down { .. } => total,
            Event::Brownout { .. } => !total,
            _ => false,
        };
        seen == [true; 2]
    });
    (seen == [true; 2]).then(|| (pair.now - start) as f64 / SEC as f64)
}

/// A distribution in seconds; runs that were not seen count as two minutes.
#[derive(Clone, Debug)]
pub struct Times(Vec<f64>);

impl Times {
    /// Of a scene over seeds.
    pub fn of(scene: &Scene, seeds: std::ops::Range<u64>) -> Self {
        let mut all: Vec<f64> = seeds.map(|s| detect(scene, s).unwrap_or(PATIENCE as f64 / SEC as f64)).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// The value that `percent` of 100 do not exceed.
    ///
    /// # Panics
    /// Without a run.
    pub fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent).div_ceil(100).clamp(1, self.0.len()) - 1]
    }
}

/// What a quiet link was taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Alarms {
    /// Brownouts of either direction.
    pub brownouts: u64,
    /// Times down.
    pub downs: u64,
}

/// Two ends over `hours` of base loss in both directions, packet by packet. Alarms are those of end 0.
pub fn quiet(loss: Loss, seed: u64, hours: u64) -> Alarms {
    let mut pair = Pair::new(seed, 10 * MS);
    pair.run(15 * SEC, |_| false);
    pair.events.clear();
    (0..2).for_each(|way| pair.lose(way, loss));
    let mut alarms = Alarms::default();
    for _ in 0..hours {
        pair.run(3600 * SEC, |_| false);
        for (_, end, event) in pair.events.drain(..) {
            alarms.brownouts += u64::from(end == 0 && matches!(event, Event::Brownout { .. }));
            alarms.downs += u64::from(end == 0 && matches!(event, Event::Down { .. }));
        }
    }
    alarms
}

/// The detectors of both directions alone over `days`, slot by slot: each burst is one event in the slot in which it begins, and one more in
/// each that it fills by more than half. A burst that makes the path down (500 ms) is left out, as the path does.
pub fn quiet_detectors(loss: Loss, seed: u64, days: u64) -> u64 {
    let slot = u64::try_from(SLOT.as_nanos()).unwrap_or(u64::MAX);
    let mut alarms = 0;
    for way in 0..2 {
        let mut direction = Direction::new(seed * 2 + way);
        direction.set(loss, 0);
        let mut detector = Detector::default();
        for i in 0..days * 86_400 * SEC / slot {
            let (begin, end) = (i * slot, (i + 1) * slot);
            let (mut events, mut lost) = (0, 0);
            let mut at = begin;
            loop {
                let (from, to) = direction.burst(at);
                if from >= end {
                    break;
                }
                if to - from >= DOWN {
                    at = to;
                    continue;
                }
                lost += (to.min(end) - from.max(begin)) * 30 / slot;
                events += u32::from(from >= begin);
                if to >= end {
                    break;
                }
                at = to;
            }
            let lost = u32::try_from(lost).unwrap_or(30).min(30);
            let events = if events == 0 && lost > 15 { 1 } else { events.min(3) };
            if lost < 30 {
                let verdict = detector.slot(Slot { sent: 30, lost, events });
                alarms += u64::from(matches!(verdict, Verdict::Raised(_)));
            }
        }
    }
    alarms
}
