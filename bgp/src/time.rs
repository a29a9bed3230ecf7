//! Virtual time: an instant that only a driver can make, one table that holds every timer of a machine, and seeded randomness.
//!
//! The same three exist in bascule-core: the two pure crates know neither one another nor a common third (design.md, dependency
//! direction). The daemon converts by nanoseconds.

use core::fmt;
use core::time::Duration;

/// A point on the driver's clock (the daemon: `CLOCK_BOOTTIME`), in nanoseconds since that clock's zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
#[serde(transparent)]
pub struct Instant(u64);

impl Instant {
    /// The clock's zero.
    pub const ZERO: Self = Self(0);

    /// An instant from nanoseconds of the driver's clock.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds of the driver's clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// The timers of one machine: at most one deadline per key.
#[derive(Clone, Debug)]
pub struct TimerTable<K> {
    armed: Vec<(K, Instant)>,
}

impl<K> Default for TimerTable<K> {
    fn default() -> Self {
        Self { armed: Vec::new() }
    }
}

impl<K: Copy + PartialEq> TimerTable<K> {
    /// Arms `key` for `at`, replacing an earlier deadline of the same key.
    pub fn set(&mut self, key: K, at: Instant) {
        match self.armed.iter_mut().find(|(k, _)| *k == key) {
            Some(slot) => slot.1 = at,
            None => self.armed.push((key, at)),
        }
    }

    /// Disarms `key`; nothing happens when it is not armed.
    pub fn stop(&mut self, key: K) {
        self.armed.retain(|(k, _)| *k != key);
    }

    /// Disarms every timer.
    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// The deadline of `key`, if armed.
    pub fn get(&self, key: K) -> Option<Instant> {
        self.armed.iter().find(|(k, _)| *k == key).map(|(_, at)| *at)
    }

    /// The earliest deadline of all.
    pub fn next(&self) -> Option<Instant> {
        self.armed.iter().map(|(_, at)| *at).min()
    }

    /// Takes the earliest timer that is due at `now`; it is disarmed by this.
    pub fn expire(&mut self, now: Instant) -> Option<K> {
        let due = self.armed.iter().enumerate().filter(|(_, (_, at))| *at <= now).min_by_key(|(i, (_, at))| (*at, *i));
        let index = due.map(|(i, _)| i)?;
        Some(self.armed.remove(index).0)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for jitter, which protects against synchrony and not against an attacker.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 75 % and 100 % of `full` (RFC 4271 section 10).
    pub fn three_quarters(&mut self, full: Duration) -> Duration {
        let quarter = full / 4;
        let part = u32::try_from(self.next() >> 48).expect("16 bits");
        full - quarter + quarter * part / 65_535
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_expire_in_order_and_once() {
        let mut table = TimerTable::default();
        table.set('b', Instant::from_nanos(20));
        table.set('a', Instant::from_nanos(10));
        table.set('a', Instant::from_nanos(15));
        assert_eq!(table.next(), Some(Instant::from_nanos(15)));
        assert_eq!(table.expire(Instant::from_nanos(14)), None);
        assert_eq!(table.expire(Instant::from_nanos(20)), Some('a'));
        assert_eq!(table.expire(Instant::from_nanos(20)), Some('b'));
        assert_eq!(table.expire(Instant::from_nanos(99)), None);
    }

    #[test]
    fn jitter_stays_within_its_quarter_and_uses_it() {
        let mut jitter = Jitter::new(1);
        let drawn: Vec<_> = (0..1000).map(|_| jitter.three_quarters(Duration::from_secs(4))).collect();
        assert!(drawn.iter().all(|d| (Duration::from_secs(3)..=Duration::from_secs(4)).contains(d)));
        assert!(drawn.iter().max() > drawn.iter().min());
    }
}
