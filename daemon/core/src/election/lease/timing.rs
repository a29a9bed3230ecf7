//! How long a lease may be used, and how soon the next one may have it: the mathematics of ADR 0009.
//!
//! A candidate waits the lease's duration D on its own clock, from when it saw the record. The holder saw its own clock at `s`, before the
//! request that wrote the record was sent, and the record is younger than that. With rates of clocks off by at most e, no candidate starts
//! before `s + D/(1 + e)` of true time, and a fence that closes a time F after `s` on the holder's clock is closed at `s + F/(1 - e)`. So
//! `F <= D * (1 - e)/(1 + e)`, and what is in queues when the fence closes comes off that.

use core::time::Duration;

/// Largest error of a clock's rate, in parts per million. The kernel's NTP discipline slews by at most 500 ppm (MAXFREQ in adjtimex(2)) and
/// crystals are off by at most 100; the rest is reserve.
pub const CLOCK_RATE_PPM: u32 = 1_000;

/// For frames that passed the fence just before it closed and lie in the queues of a NIC or a switch: 1 MiB of buffer at 100 Mbit/s takes
/// 84 ms.
pub const WIRE_MARGIN: Duration = Duration::from_millis(100);

/// Longest time from before the request until the fence closes, for a lease of this duration.
pub fn hold_max(duration: Duration) -> Duration {
    let ppm = u128::from(CLOCK_RATE_PPM);
    // D * 2e/(1 + e), rounded up.
    let skew = (duration.as_nanos() * 2 * ppm).div_ceil(1_000_000 + ppm);
    let skew = Duration::from_nanos(u64::try_from(skew).unwrap_or(u64::MAX));
    duration.saturating_sub(skew).saturating_sub(WIRE_MARGIN)
}

/// Why a set of times is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TimingError {
    /// `leaseDurationSeconds` is an integer, and etcd's TTL is too.
    #[error("lease duration {0:?} is not a whole number of seconds, at least one")]
    NotSeconds(Duration),
    /// The rule of client-go, without which a holder outlives its lease.
    #[error("renew deadline {renew_deadline:?} is not shorter than the lease duration {duration:?}")]
    DeadlineTooLong {
        /// The renew deadline.
        renew_deadline: Duration,
        /// The duration.
        duration: Duration,
    },
    /// One lost request would cost the lease.
    #[error("retry period {retry_period:?} is longer than half of what a lease may be used, {hold:?}")]
    RetryTooLong {
        /// The retry period.
        retry_period: Duration,
        /// How long a proof holds.
        hold: Duration,
    },
}

/// The times of a lease elector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Timing {
    pub(super) duration: Duration,
    pub(super) hold: Duration,
    pub(super) renew: Duration,
    pub(super) request: Duration,
}

impl Timing {
    /// A Lease: duration, renew deadline and retry period as client-go and kube-vip mean them (their defaults: 15 s, 10 s, 2 s).
    ///
    /// # Errors
    /// When a holder could outlive its lease, or one lost request would cost it.
    pub fn kubernetes(
        duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, TimingError> {
        if renew_deadline >= duration {
            return Err(TimingError::DeadlineTooLong { renew_deadline, duration });
        }
        Self::new(duration, renew_deadline, retry_period)
    }

    /// An etcd lease: kept alive every third of its TTL, as etcd's own clients do, and used as long as is safe.
    ///
    /// # Errors
    /// When the TTL is no whole number of seconds.
    pub fn etcd(ttl: Duration) -> Result<Self, TimingError> {
        Self::new(ttl, ttl, ttl / 3)
    }

    fn new(duration: Duration, renew_deadline: Duration, renew: Duration) -> Result<Self, TimingError> {
        if duration.subsec_nanos() != 0 || duration.is_zero() {
            return Err(TimingError::NotSeconds(duration));
        }
        let hold = renew_deadline.min(hold_max(duration));
        if renew.is_zero() || renew * 2 > hold {
            return Err(TimingError::RetryTooLong { retry_period: renew, hold });
        }
        // A third of what remains after a renewal was due: three attempts, the last one with an answer in time. Two seconds are long for an
        // answer that takes milliseconds.
        let request = ((hold - renew) / 3).min(Duration::from_secs(2));
        Ok(Self { duration, hold, renew, request })
    }

    /// Duration of the lease.
    pub const fn duration(&self) -> Duration {
        self.duration
    }

    /// How long a proof holds: from before its request was sent until the fence closes.
    pub const fn hold(&self) -> Duration {
        self.hold
    }

    /// Between renewals.
    pub const fn renew(&self) -> Duration {
        self.renew
    }

    /// How long an answer is awaited.
    pub const fn request(&self) -> Duration {
        self.request
    }

    /// A Lease whose holder died has a new one at the latest so long after the holder's last renewal was written, in true time. `seen` is
    /// the longest time until a candidate sees a renewal (a look every retry period, or a watch's delay) and `answer` the longest for one
    /// request.
    pub fn kubernetes_takeover(&self, seen: Duration, answer: Duration) -> Duration {
        let late = self.duration.as_nanos() * u128::from(CLOCK_RATE_PPM) / 1_000_000;
        let late = Duration::from_nanos(u64::try_from(late).unwrap_or(u64::MAX)) + Duration::from_millis(1);
        self.duration + late + seen + answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_fence_closes_before_the_fastest_candidate_starts() {
        for seconds in [1_u32, 2, 5, 15, 60, 3600] {
            let d = S * seconds;
            let hold = hold_max(d).as_secs_f64();
            let e = f64::from(CLOCK_RATE_PPM) / 1e6;
            let (closed, starts) = (hold / (1.0 - e), d.as_secs_f64() / (1.0 + e));
            assert!(closed + WIRE_MARGIN.as_secs_f64() <= starts + 2e-4, "{seconds}: {closed} {starts}");
            assert!(
                closed + WIRE_MARGIN.as_secs_f64() >= starts - 2e-3,
                "{seconds}: no more is given away than is said"
            );
        }
    }

    #[test]
    fn defaults_of_the_incumbents_are_taken_and_bad_ones_refused() {
        let t = Timing::kubernetes(S * 15, S * 10, S * 2).expect("kube-vip's defaults");
        assert_eq!((t.hold(), t.renew(), t.request()), (S * 10, S * 2, S * 2));
        let t = Timing::kubernetes(S * 5, S * 3, S).expect("kube-vip's sample manifests");
        assert_eq!((t.hold(), t.request()), (S * 3, S * 2 / 3));
        let t = Timing::etcd(S * 5).expect("etcd");
        assert!(t.hold() > S * 4 && t.hold() < S * 5);
        assert!(
            matches!(Timing::kubernetes(S * 5, S * 7, S * 2), Err(TimingError::DeadlineTooLong { .. })),
            "PureLB's"
        );
        assert!(matches!(Timing::kubernetes(S * 5, S * 4, S * 3), Err(TimingError::RetryTooLong { .. })));
        assert_eq!(Timing::etcd(S * 5 / 2), Err(TimingError::NotSeconds(S * 5 / 2)));
        assert_eq!(Timing::etcd(Duration::ZERO), Err(TimingError::NotSeconds(Duration::ZERO)));
    }
}
