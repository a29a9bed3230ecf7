//! Electors that stand on a lease in a store with consensus: one owner through any fault, at the price of availability.
//!
//! [`kube`] is the elector on a `coordination.k8s.io` Lease, with the meaning of client-go's and kube-vip's, so that a mixed roll-out has
//! one owner. [`etcd`] is the one on an etcd lease. Both decide when to ask for what, and what the answer means for the fence; the driver
//! owns sockets, TLS and the objects: `bascule-k8s` for [`kube`], `bascule-etcd` for [`etcd`]. [`crate::node`] makes fence, addresses and
//! announcements of what they say.
//!
//! What both promise (ADR 0009): the fence's deadline is counted from before the request that proves the right to own was sent
//! ([`timing::hold_max`]), so that it has passed before any other node can acquire, whatever delays, stalls or clocks (within
//! [`timing::CLOCK_RATE_PPM`]) do; a deadline that has passed is never extended, the lease is acquired anew under a new term; what is given
//! up by choice is closed first and released afterwards.
//!
//! Contract of both ([`LeaseElector`]): call `handle_*` with a `now` that never goes back, on the clock of the fence (CLOCK_BOOTTIME, which runs on through
//! suspend); then take `poll_output` until `None`, carrying out in order; then come back at `poll_timeout`. Answers that have arrived
//! are handed in before `handle_timeout`. What a hypervisor does that stops the guest's clock with the guest, no machine can see.

mod elector;
pub mod etcd;
pub mod kube;
mod pace;
mod seat;
#[cfg(test)]
mod tests;
pub mod timing;
mod word;

use core::time::Duration;

pub use elector::LeaseElector;
use serde::Serialize;
pub use word::{Command, Word};

use crate::time::Instant;
use crate::types::Term;

/// Names a request of one machine. Answers with an old id are ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// What the caller owes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Output<R> {
    /// Send this, once: no retry of the client library's, no redirect. Report the answer with the id; after the deadline nobody waits.
    Send {
        /// Its id.
        id: RequestId,
        /// What to send.
        request: R,
        /// When the machine gives up waiting. Drop the connection then: the next request must not queue behind this one.
        deadline: Instant,
    },
    /// Own: write the fence with this term and deadline, then claim.
    Claim {
        /// Counts the claims of this machine.
        term: Term,
        /// Counts the claims of all nodes: leaseTransitions of the Lease, revision of the key.
        epoch: u64,
        /// When the fence closes without a further proof.
        deadline: Instant,
    },
    /// A further proof: the fence of this term closes later.
    Extend {
        /// The claim.
        term: Term,
        /// When the fence closes without a further proof.
        deadline: Instant,
    },
    /// Give up: close the fence, withdraw, remove. Then call `handle_closed`; before that nothing is released.
    Close {
        /// The claim.
        term: Term,
        /// Why.
        reason: CloseReason,
    },
    /// The store's condition as seen from here changed.
    Condition(Condition),
    /// The machine was called this much later than it asked for: the process was held up.
    Stalled(Duration),
}

/// Why a claim ended. One word each, for labels and logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// No proof in time.
    Expired,
    /// The record names somebody else.
    Lost,
    /// The record is gone.
    Gone,
    /// Told to stop.
    Stopped,
    /// This node may not own.
    Barred,
    /// Given up so that another one has it at once.
    HandedOver,
}

impl CloseReason {
    /// Given up by choice: nothing is released before all is closed.
    pub const fn is_chosen(self) -> bool {
        match self {
            Self::Stopped | Self::Barred | Self::HandedOver => true,
            Self::Expired | Self::Lost | Self::Gone => false,
        }
    }

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Gone => "gone",
            Self::Stopped => "stopped",
            Self::Barred => "barred",
            Self::HandedOver => "handed_over",
        }
    }
}

/// How the store answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Nothing was asked yet.
    #[default]
    Unknown,
    /// It answers.
    Reachable,
    /// It asks for patience (429).
    Throttled,
    /// It does not answer, or only with 5xx.
    Unreachable,
    /// It refuses us (401, 403).
    Denied,
}

impl Condition {
    /// Every condition, for gauges.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Reachable, Self::Throttled, Self::Unreachable, Self::Denied];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Reachable => "reachable",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
        }
    }
}

/// Why a request did not do what it should.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// 429, and RESOURCE_EXHAUSTED of etcd.
    Throttled {
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// 5xx, UNAVAILABLE, 410 on anything but a watch, or an answer that makes no sense.
    Unavailable,
    /// 401, 403, PERMISSION_DENIED.
    Denied,
    /// The connection broke before an answer.
    Lost,
}

impl Failure {
    const fn condition(self) -> Condition {
        match self {
            Self::Throttled { .. } => Condition::Throttled,
            Self::Unavailable | Self::Lost => Condition::Unreachable,
            Self::Denied => Condition::Denied,
        }
    }

    /// How long the store asks to be left alone, as far as a candidate has patience.
    fn patience(self) -> Duration {
        match self {
            Self::Throttled { retry_after } => retry_after.unwrap_or_default().min(QUIET_MAX),
            Self::Unavailable | Self::Denied | Self::Lost => Duration::ZERO,
        }
    }
}

/// Longest patience that a candidate has with a server that asks for it.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// What this node may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Acquires when it can.
    #[default]
    Fit,
    /// A gate fails: acquires only what nobody else took for [`SICK_WAIT`], and keeps what it has.
    Sick,
    /// Drained or not eligible: releases, and does not acquire. A share in a joint entry is used to the end of what was proven instead.
    Barred,
    /// Hands over: closes, then releases, and does not acquire. Of a joint entry the last of the group that does so frees it.
    Leaving,
}

impl Standing {
    /// It may not acquire.
    pub const fn is_out(self) -> bool {
        matches!(self, Self::Barred | Self::Leaving)
    }
}

/// How long a sick node leaves a free lease to the others: longer than one look of theirs with kube-vip's retry period of 2 s.
pub const SICK_WAIT: Duration = Duration::from_secs(3);

/// Later than this is a stall worth a word: half of what the fence keeps in reserve for the wire.
const STALL: Duration = Duration::from_millis(50);

/// A claim, as long as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Holding {
    /// Counts the claims of this machine.
    pub term: Term,
    /// Counts the claims of all nodes.
    pub epoch: u64,
    /// When the fence closes without a further proof.
    pub deadline: Instant,
    /// When it was claimed.
    pub since: Instant,
}
