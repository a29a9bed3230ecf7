//! The elector on an etcd lease: a key that lives as long as its lease.
//!
//! The server counts the time. A lease granted or kept alive by a request that left after `s` lives at least until `s + TTL/(1 + e)` of true
//! time, also when etcd's leader changes: a new one gives every lease its full TTL again. The key goes with the lease, and only then does
//! a campaign of another succeed. So the fence's deadline counts from before the latest grant or keep-alive that was answered
//! ([`super::timing::hold_max`]); winning the key proves nothing about time.
//!
//! A lease is granted for one campaign and never used for a second: what is late on the way (a campaign, a revocation) can then only hit a
//! lease that nobody counts on. Deleting the key by hand is not guarded against: another node may win while its holder has not seen it yet.
//!
//! A joint entry ([`EtcdConfig::joint`]) is one of several nodes at once. Whoever finds it joins: a keep-alive of its lease that is answered
//! proves as much to this node as it does to the one that it was granted to, for the key lives as long as the lease, which nobody revokes.
//!
//! Who joins writes a share beside the entry first, with the same lease, if the entry is still that one; who wins the entry writes both in one
//! step. So nobody owns without a share, but by what was proven on a lease that is over. A hand-over closes, takes its own share away, and frees
//! the entry if no share is left, each by what the store compares: the last one to leave frees it, whichever that is, and one that cannot
//! leave (frozen, cut off, dead) keeps it for as long as it may own (ADR 0042). A departure names the revision of the share that it ends: one
//! that is late on its way cannot end the share of a node that has come back.

mod answer;
mod io;
mod leave;
mod steps;

use core::time::Duration;
use std::collections::VecDeque;

pub use io::{Answer, Entry, EtcdConfig, LeaseId, Request, Watched};

use super::seat::{Seat, Timer};
use crate::time::Instant;
use leave::{Departure, Share};

/// A candidate without a watch looks this often: a death is seen that much later at most, which is a third of what the take-over bound
/// (TTL + 1.5 s) leaves.
pub const LOOK: Duration = Duration::from_millis(500);

/// A lease and what it has been good for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Lease {
    id: LeaseId,
    /// When the latest request left that was answered.
    proof: Instant,
    /// How long the proof holds.
    hold: Duration,
}

/// What the request under way is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// Reading the key.
    Look,
    /// A lease for one campaign.
    Grant,
    /// Writing the key.
    Campaign,
    /// Proving the right to own.
    KeepAlive,
    /// The same, of a lease that another one of the group was granted: for a share in what it stands for.
    Join,
    /// Ending a lease that nobody counts on.
    Revoke,
    /// Writing the share of this node, with this lease, beside the entry of this revision.
    Share(LeaseId, u64),
    /// Taking it away, after everything was closed.
    Leave,
    /// Ending the entry, if nobody has a share in it.
    Free,
}

/// What is known of the key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Known {
    Nothing,
    /// It is not there, since.
    Absent(Instant),
    Held(Entry),
}

/// One elector.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EtcdLease {
    config: EtcdConfig,
    seat: Seat<Request, Purpose>,
    known: Known,
    /// The lease of the claim, or of the campaign that is being fought.
    lease: Option<Lease>,
    /// This node's share in a joint entry.
    share: Option<Share>,
    /// A share that was given up, and what is still to be done about it.
    departure: Option<Departure>,
    /// Leases that nobody counts on: revoked when there is nothing better to do.
    spent: VecDeque<LeaseId>,
}

impl EtcdLease {
    /// A machine that does not take part yet.
    pub fn new(config: EtcdConfig) -> Self {
        Self {
            seat: Seat::new(config.timing, config.seed, config.term),
            known: Known::Nothing,
            lease: None,
            share: None,
            departure: None,
            spent: VecDeque::new(),
            config,
        }
    }

    /// Who is named in the key, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        match &self.known {
            Known::Held(entry) => Some(&entry.holder),
            Known::Absent(_) | Known::Nothing => None,
        }
    }

    /// What [`Self::holder`] says may be told. Of a joint entry only what the store said may: flows follow its holder, and "not known" must not
    /// look like "nobody".
    pub const fn is_certain(&self) -> bool {
        !self.config.joint || !matches!(self.known, Known::Nothing)
    }

    /// The entry is that of the group that this node is one of.
    fn is_joint(&self, entry: &Entry) -> bool {
        self.config.joint && entry.holder == self.config.identity
    }

    /// It counts on a lease no more on which others of its group may count.
    fn let_go(&mut self) {
        if self.config.joint {
            self.lease = None;
        } else {
            self.drop_lease();
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.seat.timers.get(Timer::Next).is_some_and(|at| at <= now)
    }

    fn drop_lease(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.spent.push_back(lease.id);
        }
    }

    /// The entry of the claim that stands.
    fn is_current(&self, entry: &Entry) -> bool {
        entry.holder == self.config.identity && self.lease.is_some_and(|lease| lease.id == entry.lease)
    }

    /// When a candidate looks again: less often while a watch tells it.
    fn look_later(&mut self, now: Instant) {
        let told = self.seat.watching && self.departure.is_none();
        let wait = if told { self.seat.timing.renew.max(LOOK) } else { LOOK };
        let wait = self.seat.pace.spread(wait);
        self.seat.look_at(now + wait);
    }
}
