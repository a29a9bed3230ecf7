//! How soon one intent may follow another.
//!
//! An intent is all of a cluster, so that one costs as much as the cluster is large. Where Services are made by the thousand, one intent for
//! each few of them would cost the square of their number; so what only adds to an intent waits, the longer the more intents cost. What
//! takes something away, or changes what is served, does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// After an intent follows a pause of so many times what it took to make, so that a cluster in turmoil costs a fifth of a core at most...
const TIMES: u32 = 4;
/// ...but an endpoint that is not ready any more is out of the tables within 100 ms.
const MAX: Duration = Duration::from_millis(40);
/// What adds waits for so many times what the last intent took to make and to carry out: additions cost a fortieth of a core...
const ADDS_TIMES: u32 = 39;
/// ...as long as a new Service is served within a second.
const ADDS_MAX: Duration = Duration::from_millis(800);

/// How long the last intent took to be carried out, told by whoever does.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<AtomicU64>);

impl Pace {
    /// It took this long.
    pub fn took(&self, time: Duration) {
        self.0.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the next intent waits that changes something, and how long one that only adds, after one that took `made` to make.
    pub(super) fn pauses(&self, made: Duration) -> (Duration, Duration) {
        let took = Duration::from_nanos(self.0.load(Ordering::Relaxed));
        let changes = made.saturating_mul(TIMES).min(MAX);
        (changes, made.saturating_add(took).saturating_mul(ADDS_TIMES).min(ADDS_MAX).max(changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_wait_for_what_intents_cost_and_changes_do_not() {
        let ms = Duration::from_millis;
        let pace = Pace::default();
        assert_eq!(pace.pauses(ms(1)), (ms(4), ms(39)));
        pace.clone().took(ms(5));
        assert_eq!(pace.pauses(ms(1)), (ms(4), ms(234)));
        assert_eq!(pace.pauses(ms(15)), (MAX, ms(780)));
        assert_eq!(pace.pauses(ms(40)), (MAX, ADDS_MAX));
        pace.took(Duration::MAX);
        assert_eq!(pace.pauses(Duration::MAX), (MAX, ADDS_MAX));
        pace.took(Duration::ZERO);
        assert_eq!(pace.pauses(Duration::ZERO), (Duration::ZERO, Duration::ZERO));
    }
}
