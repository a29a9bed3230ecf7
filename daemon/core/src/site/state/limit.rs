//! Rates: a token bucket, and a back-off with full jitter.

use core::hash::Hasher as _;
use core::time::Duration;

use siphasher::sip::SipHasher13;

use crate::time::Instant;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Tokens a second.
    rate: f64,
    most: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) const fn new(rate: f64, most: f64, now: Instant) -> Self {
        Self { rate, most, tokens: most, at: now }
    }

    /// Tokens that there are.
    pub(super) fn fill(&mut self, now: Instant) -> f64 {
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() * self.rate).min(self.most);
        self.at = self.at.max(now);
        self.tokens
    }

    pub(super) fn take(&mut self, cost: f64) {
        self.tokens -= cost;
    }

    /// When there will be one token at least.
    pub(super) fn ready(&self) -> Instant {
        let missing = ((1.0 - self.tokens) / self.rate).max(0.0);
        self.at + Duration::from_secs_f64(missing)
    }
}

/// The first wait, doubled by each failure up to the longest (sites.md 4.10, core sites).
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// So often, and after at most so long each time, is called where a session has just ended, before that: the next relay of the site is about
/// to lead. All in all a second on average, two at most: more than a succession takes of which the site itself knows (`lead`).
const SOON: (u32, Duration) = (8, Duration::from_millis(250));

/// When to dial again: anywhere between now and the bound (full jitter: Brooker, "Exponential Backoff And Jitter", 2015).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    drawn: u64,
    soon: u32,
}

impl Backoff {
    pub(super) fn failed(&mut self, seed: u64) -> Duration {
        let bound = if self.soon > 0 {
            self.soon -= 1;
            SOON.1
        } else {
            self.failures = self.failures.saturating_add(1);
            (FIRST * (1 << (self.failures - 1).min(6))).min(LONGEST)
        };
        self.drawn += 1;
        let mut hasher = SipHasher13::new_with_keys(seed, 0x626f);
        hasher.write_u64(self.drawn);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(hasher.finish() % nanos.max(1))
    }

    pub(super) fn succeeded(&mut self) {
        (self.failures, self.soon) = (0, 0);
    }

    /// The next waits are short.
    pub(super) fn soon(&mut self) {
        self.soon = SOON.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_spread_over_a_doubling_bound() {
        let bounds = [1, 2, 4, 8, 16, 32, 60, 60];
        let mut spread = [f64::INFINITY, 0.0f64];
        for seed in 0..200 {
            let mut backoff = Backoff::default();
            for bound in bounds {
                let wait = backoff.failed(seed).as_secs_f64() / f64::from(bound);
                assert!(wait < 1.0);
                spread = [spread[0].min(wait), spread[1].max(wait)];
            }
        }
        assert!(spread[0] < 0.01 && spread[1] > 0.99, "{spread:?}");
    }

    #[test]
    fn after_a_session_waits_are_short_for_two_seconds_at_most() {
        let mut backoff = Backoff::default();
        backoff.soon();
        let short: Vec<Duration> = (0..SOON.0).map(|_| backoff.failed(7)).collect();
        assert!(short.iter().all(|wait| *wait < SOON.1) && short.iter().sum::<Duration>() < Duration::from_secs(2));
        let longest = (0..100).map(|_| backoff.failed(7)).max();
        assert!(longest > Some(Duration::from_secs(30)), "then it backs off as ever: {longest:?}");
        backoff.soon();
        backoff.succeeded();
        assert_eq!((backoff.failures, backoff.soon), (0, 0));
    }

    #[test]
    fn a_bucket_holds_its_rate() {
        let mut bucket = Bucket::new(10.0, 5.0, Instant::ZERO);
        let mut taken = 0;
        for ms in 0..10_000u64 {
            let now = Instant::from_nanos(ms * 1_000_000);
            if bucket.fill(now) >= 1.0 {
                bucket.take(1.0);
                taken += 1;
            }
        }
        assert!((104..=105).contains(&taken), "{taken}");
    }
}
