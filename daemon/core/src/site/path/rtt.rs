//! Is the round trip longer than this path's usual? Median of 5 s against the least of 10 minutes (sites.md 4.6).
//!
//! The window slides by a second. Windows that lie side by side would see a change up to 17.5 s late: the one that it begins in may be
//! spent, and three more have to pass.

use core::time::Duration;
use std::collections::VecDeque;

/// One judgement is over so long ..
pub(super) const WINDOW: Duration = Duration::from_secs(5);
/// .. and comes so often.
pub(super) const STEP: Duration = Duration::from_secs(1);
/// Steps of a window.
const STEPS: usize = 5;
/// Windows side by side whose least median makes the usual: 10 minutes.
const MEMORY: usize = 120;
/// Judgements in a row that make or end an inflation: the first and the last are of three windows side by side.
const ROW: u8 = 11;
/// Inflated above this many times the usual and 2 ms: below that it is scheduling.
const FACTOR: f64 = 1.5;
const SLACK: f64 = 0.002;
/// 60 a second is what the probes give; more would be a driver that does not close steps.
const MOST: usize = 256;
/// Fewer in a window are no measure.
const LEAST: usize = 5;

/// The judge of round trips, in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rtt {
    samples: Vec<f64>,
    /// Samples of the last steps.
    steps: VecDeque<Vec<f64>>,
    /// Judgements so far.
    judged: usize,
    medians: VecDeque<f64>,
    usual: Option<f64>,
    last: Option<f64>,
    above: u8,
    below: u8,
    inflated: bool,
}

impl Rtt {
    pub(super) fn sample(&mut self, rtt: Duration) {
        if self.samples.len() < MOST {
            self.samples.push(rtt.as_secs_f64());
        }
    }

    /// Ends a step; true when the verdict changed.
    pub(super) fn close(&mut self) -> bool {
        self.steps.push_back(core::mem::take(&mut self.samples));
        if self.steps.len() > STEPS {
            let _oldest = self.steps.pop_front();
        }
        let mut samples: Vec<f64> = self.steps.iter().flatten().copied().collect();
        if samples.len() < LEAST {
            return false;
        }
        let middle = samples.len() / 2;
        let (_, median, _) = samples.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        self.last = Some(median);
        if self.judged.is_multiple_of(STEPS) {
            self.remember(median);
        }
        self.judged += 1;
        let above = self.usual.is_some_and(|usual| median > usual * FACTOR + SLACK);
        self.above = if above { (self.above + 1).min(ROW) } else { 0 };
        self.below = if above { 0 } else { (self.below + 1).min(ROW) };
        let before = self.inflated;
        self.inflated = if before { self.below < ROW } else { self.above == ROW };
        before != self.inflated
    }

    /// A window is over.
    fn remember(&mut self, median: f64) {
        if self.medians.len() == MEMORY {
            let _oldest = self.medians.pop_front();
        }
        self.medians.push_back(median);
        let least = self.medians.iter().copied().fold(f64::INFINITY, f64::min);
        // Down at once, up by an eighth a window: one window that slid out does not move it.
        let usual = self.usual.map_or(least, |u| if least < u { least } else { u + (least - u) / 8.0 });
        self.usual = Some(usual);
    }

    /// Times the usual, while inflated; 1 otherwise.
    pub(super) fn factor(&self) -> f64 {
        match (self.inflated, self.last, self.usual) {
            (true, Some(last), Some(usual)) if usual > 0.0 => (last / usual).max(1.0),
            _ => 1.0,
        }
    }

    pub(super) fn last(&self) -> Option<Duration> {
        self.last.map(Duration::from_secs_f64)
    }

    pub(super) fn usual(&self) -> Option<Duration> {
        self.usual.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five steps; true when the verdict changed in one of them.
    fn window(rtt: &mut Rtt, ms: u64) -> bool {
        (0..STEPS).fold(false, |changed, _| step(rtt, ms) || changed)
    }

    fn step(rtt: &mut Rtt, ms: u64) -> bool {
        (0..10).for_each(|_| rtt.sample(Duration::from_millis(ms)));
        rtt.close()
    }

    #[test]
    fn a_step_is_seen_in_three_windows_and_becomes_usual_after_ten_minutes() {
        let mut rtt = Rtt::default();
        assert!((0..200).all(|_| !window(&mut rtt, 20)));
        assert_eq!([80, 80, 80].map(|ms| window(&mut rtt, ms)), [false, false, true]);
        assert!((rtt.factor() - 4.0).abs() < 0.01, "{}", rtt.factor());
        let until = (1..1000).find(|_| window(&mut rtt, 80)).expect("it becomes usual");
        assert!((117..140).contains(&until), "{until} windows");
        assert!(rtt.factor() == 1.0);
    }

    #[test]
    fn a_step_is_seen_after_thirteen_seconds_whenever_it_comes() {
        for quiet in 100..110 {
            let mut rtt = Rtt::default();
            assert!((0..quiet).all(|_| !step(&mut rtt, 20)));
            assert_eq!((1..).find(|_| step(&mut rtt, 80)), Some(13), "{quiet}");
            assert_eq!((1..).find(|_| step(&mut rtt, 20)), Some(13), "{quiet}: and its end");
        }
    }

    #[test]
    fn two_windows_and_small_steps_are_nothing() {
        let mut rtt = Rtt::default();
        for ms in [1, 1, 1, 3, 3, 3, 3, 20, 20, 1, 20, 20, 1] {
            assert!(!window(&mut rtt, ms));
        }
    }
}
