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

mod answer;
mod io;
mod steps;

use core::time::Duration;
use std::collections::VecDeque;

pub use io::{Answer, Entry, EtcdConfig, LeaseId, Request, Watched};

use super::seat::{Seat, Timer};
use crate::time::Instant;

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
        let wait = if self.seat.watching { self.seat.timing.renew.max(LOOK) } else { LOOK };
        let wait = self.seat.pace.spread(wait);
        self.seat.look_at(now + wait);
    }
}
