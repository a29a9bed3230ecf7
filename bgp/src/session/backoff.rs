//! How long a session stays in Idle after a failure (IdleHoldTime, RFC 4271 section 8.1.1), and when a neighbor is good again.

use core::time::Duration;

use crate::time::{Instant, Jitter};

/// First wait. RFC 4271 leaves the value open; short, since most ends of a session are restarts that are over at once.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait: neighbors double theirs for an hour or lock us out when they are bothered faster (bgp.md section 2.1).
pub const LONGEST: Duration = Duration::from_secs(60);
/// A session that was Established for so long ended for a new reason: the series of failures is over.
const PROVEN: Duration = Duration::from_secs(60);

/// Doubles with each failure of a series.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure.
    pub(super) fn fail(&mut self, jitter: &mut Jitter) -> Duration {
        let full = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = self.failures.saturating_add(1).min(16);
        jitter.three_quarters(full)
    }

    /// The wait after a refusal that only an operator's hand can cure.
    pub(super) fn refused(&mut self, jitter: &mut Jitter) -> Duration {
        self.failures = 16;
        jitter.three_quarters(LONGEST)
    }

    /// A session ended that was Established since then.
    pub(super) fn ended(&mut self, established: Instant, now: Instant) {
        if now.since(established) >= PROVEN {
            self.failures = 0;
        }
    }

    /// An operator or a new configuration starts anew.
    pub(super) fn forget(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_cap_and_a_long_session_ends_the_series() {
        let (mut backoff, mut jitter) = (Backoff::default(), Jitter::new(1));
        for full in [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs) {
            let wait = backoff.fail(&mut jitter);
            assert!(wait <= full && wait >= full * 3 / 4, "{wait:?} of {full:?}");
        }
        backoff.ended(Instant::ZERO, Instant::ZERO + PROVEN / 2);
        assert!(backoff.fail(&mut jitter) >= LONGEST * 3 / 4);
        backoff.ended(Instant::ZERO, Instant::ZERO + PROVEN);
        assert!(backoff.fail(&mut jitter) <= FIRST);
        assert!(backoff.refused(&mut jitter) >= LONGEST * 3 / 4);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let (mut backoff, mut jitter) = (Backoff::default(), Jitter::new(1));
        assert!((0..1000).all(|_| backoff.fail(&mut jitter) <= LONGEST));
    }
}
