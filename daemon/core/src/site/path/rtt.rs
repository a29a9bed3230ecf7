//! Is the round trip longer than this path's usual? Median of 5 s against the least of 10 minutes (sites.md 4.6).

use core::time::Duration;
use std::collections::VecDeque;

/// One judgement.
pub(super) const WINDOW: Duration = Duration::from_secs(5);
/// Windows whose least median makes the usual: 10 minutes.
const MEMORY: usize = 120;
/// Windows in a row that make or end an inflation.
const ROW: u8 = 3;
/// Inflated above this many times the usual and 2 ms: below that it is scheduling.
const FACTOR: f64 = 1.5;
const SLACK: f64 = 0.002;

/// The judge of round trips, in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rtt {
    samples: Vec<f64>,
    medians: VecDeque<f64>,
    usual: Option<f64>,
    last: Option<f64>,
    above: u8,
    below: u8,
    inflated: bool,
}

impl Rtt {
    pub(super) fn sample(&mut self, rtt: Duration) {
        // 60 a second for 5 s is what the probes give; more would be a driver that does not close windows.
        if self.samples.len() < 1024 {
            self.samples.push(rtt.as_secs_f64());
        }
    }

    /// Ends a window; true when the verdict changed.
    pub(super) fn close(&mut self) -> bool {
        if self.samples.len() < 5 {
            self.samples.clear();
            return false;
        }
        let mut samples = core::mem::take(&mut self.samples);
        samples.sort_by(f64::total_cmp);
        let median = samples[samples.len() / 2];
        self.last = Some(median);
        if self.medians.len() == MEMORY {
            let _oldest = self.medians.pop_front();
        }
        self.medians.push_back(median);
        let least = self.medians.iter().copied().fold(f64::INFINITY, f64::min);
        // Down at once, up by an eighth a window: one window that slid out does not move it.
        let usual = self.usual.map_or(least, |u| if least < u { least } else { u + (least - u) / 8.0 });
        self.usual = Some(usual);
        let above = median > usual * FACTOR + SLACK;
        self.above = if above { (self.above + 1).min(ROW) } else { 0 };
        self.below = if above { 0 } else { (self.below + 1).min(ROW) };
        let before = self.inflated;
        self.inflated = if before { self.below < ROW } else { self.above == ROW };
        before != self.inflated
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

    fn window(rtt: &mut Rtt, ms: u64) -> bool {
        (0..50).for_each(|_| rtt.sample(Duration::from_millis(ms)));
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
    fn two_windows_and_small_steps_are_nothing() {
        let mut rtt = Rtt::default();
        for ms in [1, 1, 1, 3, 3, 3, 3, 20, 20, 1, 20, 20, 1] {
            assert!(!window(&mut rtt, ms));
        }
    }
}
