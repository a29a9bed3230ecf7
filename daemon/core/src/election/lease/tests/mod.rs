//! Both electors: by hand in milliseconds, on virtual stores from a seed, and in every order of events that a model checker finds.

mod contract;
mod etcd_machine;
mod joint;
mod kube_machine;
mod model;
mod mutants;
mod simulate;
mod stores;
mod world;

use core::time::Duration;

use super::elector::Steps;
use super::etcd::{self, EtcdLease};
use super::kube::{self, KubeLease};
use super::timing::{Timing, WIRE_MARGIN, hold_max};
use super::{CloseReason, Condition, Failure, LeaseElector, Output, RequestId, SICK_WAIT, Standing};
use crate::time::Instant;
use crate::types::Term;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a clock shows that is fast by so many millionths, at this true time in nanoseconds.
fn clock_at(ppm: i64, now: u64) -> Instant {
    let rate = u128::try_from(1_000_000 + ppm).expect("positive");
    Instant::from_nanos(u64::try_from(u128::from(now) * rate / 1_000_000).expect("short"))
}

/// The true time, rounded up, at which it shows this.
fn true_at(ppm: i64, at: Instant) -> u64 {
    let rate = u128::try_from(1_000_000 + ppm).expect("positive");
    u64::try_from((u128::from(at.as_nanos()) * 1_000_000).div_ceil(rate)).expect("short")
}
