//! The clock of one node: an offset, and a rate that is not quite the world's.

use bascule_core::time::Instant;

/// A node's boot clock as a function of the world's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Reading at the world's zero, in nanoseconds.
    pub offset: u64,
    /// Rate error in parts per million.
    pub ppm: i64,
}

impl Clock {
    /// What the clock shows at world time `t`.
    pub fn read(&self, t: u64) -> Instant {
        let drift = i128::from(t) * i128::from(self.ppm) / 1_000_000;
        let shown = i128::from(self.offset) + i128::from(t) + drift;
        Instant::from_nanos(u64::try_from(shown).expect("the clock runs forward from a positive offset"))
    }

    /// The first world time at which the clock shows at least `shown`.
    pub fn when(&self, shown: Instant) -> u64 {
        let ahead = i128::from(shown.as_nanos()) - i128::from(self.offset);
        let guess = ahead * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut t = u64::try_from((guess - 2).max(0)).unwrap_or(u64::MAX);
        while self.read(t) < shown {
            t += 1;
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_and_waiting_agree() {
        for ppm in [-1000, -3, 0, 999] {
            let clock = Clock { offset: 5_000_000_000, ppm };
            for t in [0, 1, 999, 123_456_789_012] {
                assert_eq!(clock.read(clock.when(clock.read(t))), clock.read(t));
                assert!(clock.when(clock.read(t)) <= t);
            }
        }
    }
}
