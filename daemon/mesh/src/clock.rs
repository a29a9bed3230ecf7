//! Time, as the drivers take it: one clock for machines, one for certificates.

mod floor;

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bascule_core::time::Instant;

pub use floor::{Floor, RELEASED};

/// The clocks of a driver.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The clock of the machines. Never goes back; the daemon's is CLOCK_BOOTTIME.
    fn now(&self) -> Instant;

    /// The wall clock, since 1970: only for what is written in certificates (sites.md 4.4).
    fn unix(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// A certificate of somebody else was believed at this time of [`Self::unix`].
    fn believed(&self, _unix: Duration) {}

    /// How long the driver sleeps while the clock of the machines advances by `span`.
    fn sleep(&self, span: Duration) -> Duration {
        span
    }
}
