//! When to ask next: spread, so that nodes do not ask together, and later after each failure.

use core::hash::Hasher as _;
use core::time::Duration;

use siphasher::sip::SipHasher13;

/// First wait after a failure; it doubles from there.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// How far times are spread: a tenth, as much as keeps 100 candidates of one Lease apart by more than a request takes.
const SPREAD_PERCENT: u64 = 10;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pace {
    /// `None`: no spread.
    seed: Option<u64>,
    draws: u64,
    failures: u32,
}

impl Pace {
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self { seed, draws: 0, failures: 0 }
    }

    /// Up to a tenth less than `base`, never more.
    pub(super) fn spread(&mut self, base: Duration) -> Duration {
        let Some(seed) = self.seed else { return base };
        self.draws += 1;
        let mut hasher = SipHasher13::new_with_keys(seed, 0x6c65_6173_6521);
        hasher.write_u64(self.draws);
        let permille = hasher.finish() % (SPREAD_PERCENT * 10 + 1);
        base - base * u32::try_from(permille).unwrap_or(0) / 1000
    }

    /// The wait after one more failure, at most `cap`.
    pub(super) fn failed(&mut self, cap: Duration) -> Duration {
        let wait = (BACKOFF_MIN * (1 << self.failures.min(8))).min(cap);
        // Counted no further than it matters.
        self.failures = (self.failures + 1).min(9);
        self.spread(wait)
    }

    /// The latest request did not fail.
    pub(super) const fn is_well(&self) -> bool {
        self.failures == 0
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_spread_downwards() {
        let mut exact = Pace::new(None);
        let cap = Duration::from_secs(2);
        let waits: Vec<u128> = (0..5).map(|_| exact.failed(cap).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 2000]);
        exact.succeeded();
        assert_eq!(exact.failed(cap), BACKOFF_MIN);
        let mut spread = Pace::new(Some(7));
        let drawn: Vec<Duration> = (0..100).map(|_| spread.spread(cap)).collect();
        assert!(drawn.iter().all(|d| *d <= cap && *d >= cap * 9 / 10));
        assert!(drawn.iter().collect::<std::collections::BTreeSet<_>>().len() > 50);
    }
}
