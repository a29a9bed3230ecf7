//! The one clock of the daemon: `CLOCK_BOOTTIME`, which goes on through suspend and is what the fence in the kernel compares with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME` now.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    u64::try_from(Duration::from(now).as_nanos()).expect("584 years of nanoseconds fit")
}

/// Milliseconds of the wall clock since 1970, for people: nothing is decided by it. 0 when the clock stands before 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
