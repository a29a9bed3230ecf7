//! How many loss events a slot are usual on a path: the median of hourly means over seven days (sites.md 4.6).

use std::collections::VecDeque;

/// Slots of 500 ms in an hour.
const HOUR: u32 = 7200;
/// Hourly values kept: seven days.
const HOURS: usize = 168;
/// Never learn more: a path that is always bad must not become normal without an operator saying so (sites.md 4.6: 3 % of slots).
const CEILING: f64 = 0.03;
/// The first hour has no median: its mean so far counts, as if ten clean minutes had come before.
const PRIOR: u32 = 1200;

/// Events a slot, learned. Slots under an alarm are not learned from.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline {
    hours: VecDeque<f64>,
    median: Option<f64>,
    events: f64,
    slots: u32,
}

impl Baseline {
    pub(super) fn slot(&mut self, events: f64, alarmed: bool) {
        if alarmed {
            return;
        }
        self.events += events;
        self.slots += 1;
        if self.slots < HOUR {
            return;
        }
        if self.hours.len() == HOURS {
            let _oldest = self.hours.pop_front();
        }
        self.hours.push_back(self.events / f64::from(self.slots));
        (self.events, self.slots) = (0.0, 0);
        let mut sorted: Vec<f64> = self.hours.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        self.median = sorted.get(sorted.len() / 2).copied();
    }

    pub(super) fn rate(&self) -> f64 {
        let so_far = || self.events / f64::from(self.slots + PRIOR);
        self.median.unwrap_or_else(so_far).min(CEILING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_hour_in_five_is_not_learned_and_much_loss_never() {
        let mut baseline = Baseline::default();
        for hour in 0..5 {
            (0..HOUR).for_each(|i| baseline.slot(if hour == 3 || i % 100 == 0 { 1.0 } else { 0.0 }, false));
        }
        assert!((baseline.rate() - 0.01).abs() < 1e-9, "{}", baseline.rate());
        (0..HOUR * 200).for_each(|_| baseline.slot(1.0, true));
        assert!((baseline.rate() - 0.01).abs() < 1e-9, "nothing is learned under an alarm");
        (0..HOUR * 200).for_each(|_| baseline.slot(1.0, false));
        assert!((baseline.rate() - CEILING).abs() < 1e-9);
    }
}
