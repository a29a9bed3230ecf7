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
