//! One clock for the whole lab.

use std::ops::{Add, Sub};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use crate::{LabError, Result};

/// How often a waited-for condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// A point in time: CLOCK_MONOTONIC, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        Self(read(ClockId::CLOCK_MONOTONIC))
    }

    /// A CLOCK_REALTIME value of the kernel (ns), as a stamp. Right as long as the wall clock is not stepped in between.
    pub fn from_realtime(realtime_ns: u64) -> Self {
        let mono = read(ClockId::CLOCK_MONOTONIC);
        let real = read(ClockId::CLOCK_REALTIME);
        Self(mono.saturating_sub(real.saturating_sub(realtime_ns)))
    }

    /// A CLOCK_BOOTTIME value (ns), as a stamp. Right as long as the machine does not sleep in between.
    pub fn from_boottime(boottime_ns: u64) -> Self {
        let mono = read(ClockId::CLOCK_MONOTONIC);
        let boot = read(ClockId::CLOCK_BOOTTIME);
        Self(mono.saturating_sub(boot.saturating_sub(boottime_ns)))
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Stamp {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos(rhs)))
    }
}

impl Sub<Duration> for Stamp {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(rhs)))
    }
}

/// Sleeps until `at`, by absolute deadline, so that lateness does not add up.
pub fn sleep_until(at: Stamp) {
    let spec = TimeSpec::from_duration(Duration::from_nanos(at.0));
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &spec)
        == Err(nix::errno::Errno::EINTR)
    {}
}

/// Waits until `condition` gives a value, at most `deadline` from now.
///
/// # Errors
/// [`LabError::Timeout`] naming `what`.
pub fn wait_for<T>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Stamp::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Stamp::now() > end {
            return Err(LabError::Timeout { what: what.to_owned(), after: deadline });
        }
        std::thread::sleep(POLL);
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn read(clock: ClockId) -> u64 {
    let spec = clock_gettime(clock).expect("the clock exists on every Linux");
    nanos(Duration::from(spec))
}
