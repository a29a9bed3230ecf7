//! What an answer means.

use core::time::Duration;

use super::super::timing::hold_max;
use super::super::{CloseReason, Condition, Failure, Holding, Output};
use super::io::{Answer, Entry, LeaseId};
use super::{EtcdLease, Known, LOOK, Lease, Pending, Purpose, State, Timer};
use crate::time::Instant;
use crate::types::Term;

/// Longest patience that a candidate has with a server that asks for it.
const QUIET_MAX: Duration = Duration::from_secs(60);

impl EtcdLease {
    pub(super) fn take_answer(&mut self, pending: Pending, answer: Answer, now: Instant) {
        if let Answer::Failed(failure) = answer {
            self.unanswered(pending, failure, now);
            return;
        }
        self.set_condition(Condition::Reachable);
        self.pace.succeeded();
        match (pending.purpose, answer) {
            (Purpose::Look | Purpose::Campaign, Answer::Key(entry, revision)) => self.take_key(entry, revision, now),
            (Purpose::Grant, Answer::Lease(id, ttl)) if !ttl.is_zero() => self.take_grant(id, ttl, pending.sent, now),
            (Purpose::Campaign, Answer::Won(revision)) => self.take_win(revision, now),
            (Purpose::KeepAlive, Answer::Lease(_, ttl)) => self.take_proof(ttl, pending.sent, now),
            (Purpose::KeepAlive, Answer::NoLease) => self.take_proof(Duration::ZERO, pending.sent, now),
            (Purpose::Campaign, Answer::NoLease) => {
                self.lease = None;
                self.timers.set(Timer::Next, now);
            }
            (Purpose::Revoke, _) => self.revoked(now),
            // An answer to another question than was asked.
            (Purpose::Look | Purpose::Grant | Purpose::Campaign | Purpose::KeepAlive, _) => {
                self.unanswered(pending, Failure::Unavailable, now);
            }
        }
    }

    fn take_key(&mut self, entry: Option<Entry>, revision: u64, now: Instant) {
        let current = entry.as_ref().is_some_and(|entry| self.is_current(entry));
        self.known = entry.map_or(Known::Absent(now), Known::Held);
        match (self.state, &self.known) {
            (State::Active(_), _) if current => self.timers.set(Timer::Next, now),
            (State::Active(_), Known::Held(_)) => self.lose(CloseReason::Lost, now),
            (State::Active(_), Known::Absent(_) | Known::Nothing) => self.lose(CloseReason::Gone, now),
            (State::Candidate, Known::Held(entry)) if entry.holder != self.config.identity => {
                self.drop_lease();
                self.watch(revision, now);
                self.look_later(now);
            }
            // Won after all, by a campaign whose answer was lost: taken over with a lease whose time is known.
            (State::Candidate, Known::Held(_)) => {
                self.lease = None;
                self.watch(revision, now);
                self.next_step(now);
            }
            (State::Candidate, Known::Absent(_) | Known::Nothing) => {
                self.watch(revision, now);
                self.next_step(now);
            }
            (State::Idle | State::Closing(_), _) => {}
        }
    }

    /// On with the campaign, if this node may.
    fn next_step(&mut self, now: Instant) {
        if self.is_barred() { self.look_later(now) } else { self.timers.set(Timer::Next, now) }
    }

    fn take_grant(&mut self, id: LeaseId, ttl: Duration, sent: Instant, now: Instant) {
        // The server's minimum may be more than was asked for; less than was asked for counts.
        let hold = hold_max(ttl.min(self.config.timing.duration));
        self.lease = Some(Lease { id, proof: sent, hold });
        if self.is_barred() || self.state != State::Candidate {
            self.drop_lease();
        }
        self.timers.set(Timer::Next, now);
    }

    fn take_win(&mut self, revision: u64, now: Instant) {
        let Some(lease) = self.lease.filter(|_| self.state == State::Candidate) else { return };
        let entry = Entry { holder: self.config.identity.clone(), lease: lease.id, revision };
        let deadline = lease.proof + lease.hold;
        if self.is_barred() {
            self.known = Known::Nothing;
            self.drop_lease();
            self.timers.set(Timer::Next, now);
            return;
        }
        self.known = Known::Held(entry);
        if now >= deadline {
            // Held up until the lease was over: the entry is taken over with a new one.
            self.lease = None;
            self.timers.set(Timer::Next, now);
            return;
        }
        self.term += 1;
        let term = Term(self.term);
        self.state = State::Active(Holding { term, epoch: revision, deadline, since: now });
        self.outputs.push_back(Output::Claim { term, epoch: revision, deadline });
        self.timers.set(Timer::Hold, deadline);
        self.watch(revision, now);
        self.renew_later(lease.proof, now);
    }

    fn take_proof(&mut self, ttl: Duration, sent: Instant, now: Instant) {
        let (State::Active(holding), Some(lease)) = (self.state, self.lease.as_mut()) else {
            // Closed or lost meanwhile.
            self.timers.set(Timer::Next, now);
            return;
        };
        if ttl.is_zero() {
            self.lose(CloseReason::Gone, now);
            return;
        }
        let hold = hold_max(ttl.min(self.config.timing.duration));
        *lease = Lease { proof: sent, hold, ..*lease };
        let deadline = sent + hold;
        if deadline > holding.deadline {
            self.state = State::Active(Holding { deadline, ..holding });
            self.timers.set(Timer::Hold, deadline);
            self.outputs.push_back(Output::Extend { term: holding.term, deadline });
        }
        if matches!(self.known, Known::Held(_)) {
            self.renew_later(sent, now);
        } else {
            self.timers.set(Timer::Next, now);
        }
    }

    fn renew_later(&mut self, sent: Instant, now: Instant) {
        let at = sent + self.pace.spread(self.config.timing.renew);
        self.timers.set(Timer::Next, at.max(now));
    }

    fn revoked(&mut self, now: Instant) {
        let _revoked = self.spent.pop_front();
        match (self.state, &self.known) {
            (State::Candidate, Known::Held(_)) => self.look_later(now),
            (State::Candidate, Known::Absent(_) | Known::Nothing) => self.timers.set(Timer::Next, now),
            (State::Idle | State::Active(_) | State::Closing(_), _) => {}
        }
    }

    /// Nobody knows what became of the request.
    pub(super) fn unanswered(&mut self, pending: Pending, failure: Failure, now: Instant) {
        self.set_condition(failure.condition());
        let asked = match failure {
            Failure::Throttled { retry_after } => retry_after.unwrap_or_default().min(QUIET_MAX),
            Failure::Unavailable | Failure::Denied | Failure::Lost => Duration::ZERO,
        };
        match (pending.purpose, self.state) {
            // It runs out by itself.
            (Purpose::Revoke, _) => self.revoked(now),
            (_, State::Active(holding)) => {
                let wait = self.pace.failed(self.config.timing.renew);
                let left = holding.deadline.since(now) / 2;
                self.timers.set(Timer::Next, now + asked.min(left).max(wait));
            }
            (_, State::Candidate) => {
                self.known = Known::Nothing;
                self.lease = None;
                let wait = self.pace.failed(LOOK);
                self.timers.set(Timer::Next, now + asked.max(wait));
            }
            (_, State::Idle | State::Closing(_)) => {}
        }
    }
}
