//! The elector on a `coordination.k8s.io` Lease.
//!
//! The meaning of the record is client-go's (`tools/leaderelection`): who is named in `holderIdentity` owns until a candidate has seen the
//! record unchanged for `leaseDurationSeconds` on its own clock; times in the record are never compared with a clock; every write names
//! the version it replaces, so that of two candidates one gets 409. Differences, all on the safe side: the holder's right counts from
//! before its request and has a margin, an own lease that expired is acquired anew with one more `leaseTransitions`, and a Lease that is
//! absent is waited for as long as one that is held, because somebody may have deleted a living holder's.

mod act;
mod answer;
mod io;
mod steps;

use core::time::Duration;
use std::collections::VecDeque;

pub use io::{Answer, KubeConfig, Object, Record, Request, Version, WallMicros, Watched};

use super::seat::Seat;
use super::{Holding, SICK_WAIT, Standing};
use crate::time::Instant;

/// What is known of the Lease.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Known {
    Nothing,
    /// It is not there, since.
    Absent(Instant),
    /// Its latest version, and since when its content has been seen unchanged.
    Object(Object, Instant),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Purpose {
    Look,
    Renew,
    Acquire,
    Release,
}

/// What the request under way is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Asked {
    purpose: Purpose,
    /// What a write carries.
    record: Option<Record>,
    /// It is a Create.
    creates: bool,
}

/// One elector.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KubeLease {
    config: KubeConfig,
    seat: Seat<Request, Asked>,
    known: Known,
    /// Content of the last record seen, kept when the Lease vanishes: its duration still binds.
    last_duration: Duration,
    /// Renewals whose fate is unknown, with the time before they were sent: found in the record, each is a proof.
    doubtful: VecDeque<(Record, Instant)>,
    /// A Create went out whose fate is unknown. Unlike an Update it succeeds late as well, after a Lease of another came and went: a record
    /// of our own is waited for like anybody's from then on.
    doubtful_create: bool,
    /// `known` may be outdated: read before the next write.
    unsure: bool,
    /// The store asked for patience until then.
    quiet: Instant,
    /// Wall clock minus `now`, in microseconds.
    wall: i64,
}

/// Renewals in doubt that are remembered: more than fit between two answers (`Timing::request` is at least a ninth of the hold).
const DOUBTS: usize = 8;

impl KubeLease {
    /// A machine that does not take part yet.
    pub fn new(config: KubeConfig) -> Self {
        Self {
            seat: Seat::new(config.timing, config.seed, config.term),
            known: Known::Nothing,
            last_duration: Duration::ZERO,
            doubtful: VecDeque::new(),
            doubtful_create: false,
            unsure: false,
            quiet: Instant::ZERO,
            wall: 0,
            config,
        }
    }

    /// Who is named in the record, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        match &self.known {
            Known::Object(object, _) if !object.record.holder.is_empty() => Some(&object.record.holder),
            Known::Object(..) | Known::Absent(_) | Known::Nothing => None,
        }
    }

    /// What the wall clock says at `now`: for the record only.
    pub fn handle_wall_clock(&mut self, wall: WallMicros, now: Instant) {
        self.wall = wall.0.saturating_sub(micros(now));
    }

    /// When the lease may be acquired, if ever without a change.
    fn free_at(&self) -> Option<Instant> {
        let at = match &self.known {
            Known::Nothing => return None,
            Known::Absent(since) => *since + self.last_duration.max(self.seat.timing.duration),
            Known::Object(object, _) if object.record.holder.is_empty() => Instant::ZERO,
            Known::Object(object, _) if self.is_ours(&object.record) && !self.doubtful_create => Instant::ZERO,
            Known::Object(object, since) => {
                let stated = object.record.duration;
                *since + if stated.is_zero() { self.seat.timing.duration } else { stated }
            }
        };
        if self.seat.is_barred() {
            return None;
        }
        match (self.seat.standing, &self.known) {
            (Standing::Barred | Standing::Leaving, _) => None,
            (Standing::Sick, Known::Object(_, since)) => Some(at.max(*since) + SICK_WAIT),
            (Standing::Sick, Known::Absent(_) | Known::Nothing) => Some(at + SICK_WAIT),
            (Standing::Fit, _) => Some(at),
        }
    }

    /// Written by this boot of this machine, whichever process of it.
    fn is_ours(&self, record: &Record) -> bool {
        record.holder == self.config.identity && record.instance.as_ref() == Some(&self.config.instance)
    }

    /// Written under this claim.
    fn is_of(&self, holding: &Holding, record: &Record) -> bool {
        self.is_ours(record) && u64::from(record.transitions) == holding.epoch
    }
}

fn micros(now: Instant) -> i64 {
    i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX)
}
