//! What an answer means.

use core::time::Duration;

use super::super::CloseReason;
use super::super::elector::Steps as _;
use super::super::seat::State;
use super::super::timing::hold_max;
use super::io::{Entry, LeaseId, Request};
use super::leave::Share;
use super::{EtcdLease, Known, Lease};
use crate::time::Instant;

impl EtcdLease {
    pub(super) fn take_key(&mut self, entry: Option<Entry>, revision: u64, now: Instant) {
        let current = entry.as_ref().is_some_and(|entry| self.is_current(entry));
        self.known = entry.map_or(Known::Absent(now), Known::Held);
        match (self.seat.state, &self.known) {
            (State::Active(_), _) if current => self.seat.look_at(now),
            (State::Active(_), Known::Held(_)) => self.lose(CloseReason::Lost, now),
            (State::Active(_), Known::Absent(_) | Known::Nothing) => self.lose(CloseReason::Gone, now),
            (State::Candidate, Known::Held(entry)) if entry.holder != self.config.identity => {
                self.drop_lease();
                self.seat.watch(Request::Watch(revision), now);
                self.look_later(now);
            }
            // Won after all, by a campaign whose answer was lost: taken over with a lease whose time is known.
            (State::Candidate, Known::Held(_)) => {
                self.lease = None;
                self.seat.watch(Request::Watch(revision), now);
                self.next_step(now);
            }
            (State::Candidate, Known::Absent(_) | Known::Nothing) => {
                self.seat.watch(Request::Watch(revision), now);
                self.next_step(now);
            }
            (State::Idle | State::Closing(_), _) => {}
        }
    }

    /// On with the campaign, if this node may.
    fn next_step(&mut self, now: Instant) {
        if self.seat.is_barred() && self.departure.is_none() { self.look_later(now) } else { self.seat.look_at(now) }
    }

    pub(super) fn take_grant(&mut self, id: LeaseId, ttl: Duration, sent: Instant, now: Instant) {
        // The server's minimum may be more than was asked for; less than was asked for counts.
        let hold = hold_max(ttl.min(self.seat.timing.duration));
        self.lease = Some(Lease { id, proof: sent, hold });
        if self.seat.is_barred() || self.seat.state != State::Candidate {
            self.drop_lease();
        }
        self.seat.look_at(now);
    }

    pub(super) fn take_win(&mut self, revision: u64, now: Instant) {
        let Some(lease) = self.lease.filter(|_| self.seat.state == State::Candidate) else { return };
        let entry = Entry { holder: self.config.identity.clone(), lease: lease.id, revision };
        let deadline = lease.proof + lease.hold;
        self.share = self.config.joint.then_some(Share { lease: lease.id, revision, entry: revision });
        if self.seat.is_barred() {
            return self.decline(now);
        }
        self.known = Known::Held(entry);
        if now >= deadline {
            // Held up until the lease was over: the entry is taken over with a new one.
            self.lease = None;
            self.seat.look_at(now);
            return;
        }
        self.seat.claim(revision, deadline, now);
        self.seat.watch(Request::Watch(revision), now);
        self.seat.renew_later(lease.proof, now);
    }

    /// The lease of the group's entry lives: a share in what it stands for, if the entry is still that one.
    pub(super) fn take_part(&mut self, id: LeaseId, ttl: Duration, sent: Instant, now: Instant) {
        let hold = hold_max(ttl.min(self.seat.timing.duration));
        let revision = match &self.known {
            Known::Held(entry) if entry.lease == id && self.is_joint(entry) && self.has_share(entry) => entry.revision,
            Known::Held(_) | Known::Absent(_) | Known::Nothing => return self.seat.look_at(now),
        };
        if ttl.is_zero() || self.seat.is_barred() || self.seat.state != State::Candidate || now >= sent + hold {
            return self.look_later(now);
        }
        self.lease = Some(Lease { id, proof: sent, hold });
        self.seat.claim(revision, sent + hold, now);
        self.seat.watch(Request::Watch(revision), now);
        self.seat.renew_later(sent, now);
    }

    pub(super) fn take_proof(&mut self, ttl: Duration, sent: Instant, now: Instant) {
        let (State::Active(holding), Some(lease)) = (self.seat.state, self.lease.as_mut()) else {
            // Closed or lost meanwhile.
            self.seat.look_at(now);
            return;
        };
        if ttl.is_zero() {
            self.lose(CloseReason::Gone, now);
            return;
        }
        let hold = hold_max(ttl.min(self.seat.timing.duration));
        *lease = Lease { proof: sent, hold, ..*lease };
        self.seat.extend(holding, sent + hold);
        if matches!(self.known, Known::Held(_)) {
            self.seat.renew_later(sent, now);
        } else {
            self.seat.look_at(now);
        }
    }

    pub(super) fn revoked(&mut self, now: Instant) {
        let _revoked = self.spent.pop_front();
        match (self.seat.state, &self.known) {
            (State::Candidate, Known::Held(_)) => self.look_later(now),
            (State::Candidate, Known::Absent(_) | Known::Nothing) => self.seat.look_at(now),
            (State::Idle | State::Active(_) | State::Closing(_), _) => {}
        }
    }
}
