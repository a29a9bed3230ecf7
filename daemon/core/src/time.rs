//! Virtual time: an instant that only a driver can make, and one table that holds every timer of a machine.

use core::fmt;
use core::time::Duration;

/// A point on the driver's clock, in nanoseconds since that clock's zero.
///
/// The daemon uses `CLOCK_BOOTTIME`, the clock of the fence in the kernel (`bpf_ktime_get_boot_ns`), so that one value can be
/// compared with the other without conversion. The simulator counts from zero.
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

/// The timers of one machine: at most one deadline per key, listable and stoppable at once.
///
/// Keys are few (a machine has fewer than ten timers), so a vector with linear search beats a heap and keeps the order of equal
/// deadlines stable, which the simulator's replay needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_expire_in_order_and_once() {
        let mut table = TimerTable::default();
        table.set('b', Instant::from_nanos(20));
        table.set('a', Instant::from_nanos(10));
        table.set('c', Instant::from_nanos(30));
        table.set('c', Instant::from_nanos(5));
        assert_eq!(table.next(), Some(Instant::from_nanos(5)));
        assert_eq!(table.expire(Instant::from_nanos(4)), None);
        assert_eq!(table.expire(Instant::from_nanos(20)), Some('c'));
        assert_eq!(table.expire(Instant::from_nanos(20)), Some('a'));
        assert_eq!(table.expire(Instant::from_nanos(20)), Some('b'));
        assert_eq!(table.expire(Instant::from_nanos(99)), None);
    }

    #[test]
    fn time_before_zero_saturates() {
        assert_eq!(Instant::ZERO.since(Instant::from_nanos(7)), Duration::ZERO);
    }
}
