//! The steps of the elector on an etcd lease.

use core::time::Duration;

use super::super::elector::{LeaseElector, Steps};
use super::super::seat::{Pending, Seat, State};
use super::super::{CloseReason, Condition, Failure, Holding, SICK_WAIT, Standing};
use super::io::{Answer, Request, Watched};
use super::leave::Share;
use super::{EtcdLease, Known, LOOK, Purpose};
use crate::time::Instant;

impl LeaseElector for EtcdLease {}

impl Steps for EtcdLease {
    type Request = Request;
    type Answer = Answer;
    type Watched = Watched;
    type Purpose = Purpose;

    fn seat(&self) -> &Seat<Request, Purpose> {
        &self.seat
    }

    fn seat_mut(&mut self) -> &mut Seat<Request, Purpose> {
        &mut self.seat
    }

    fn doubt(&mut self) {
        self.known = Known::Nothing;
    }

    /// It runs out by itself. The entry may still be ours, and is then taken over with a new lease.
    fn abandon(&mut self) {
        self.lease = None;
        self.share = None;
    }

    /// Who owns with others goes on to the end of its last proof, unless it hands over: nobody can have it before.
    fn bar(&mut self) {
        if !self.config.joint {
            self.close(CloseReason::Barred);
        }
    }

    /// Who is told so of a joint entry is told when it is to be had: it does not wait for its next look.
    fn unbar(&mut self, now: Instant) {
        if self.config.joint {
            self.seat.look_at(now);
        }
    }

    fn release_closed(&mut self, now: Instant) {
        self.let_go();
        self.depart(now);
        self.seat.look_at(now);
    }

    fn leave(&mut self, now: Instant) {
        self.act(now);
    }

    fn take_answer(&mut self, pending: Pending<Purpose>, answer: Answer, now: Instant) {
        if let Answer::Failed(failure) = answer {
            self.unanswered(pending, failure, now);
            return;
        }
        self.seat.set_condition(Condition::Reachable);
        self.seat.pace.succeeded();
        match (pending.purpose, answer) {
            (Purpose::Look | Purpose::Campaign | Purpose::Share(..), Answer::Key(entry, revision)) => {
                self.take_key(entry, revision, now);
            }
            (Purpose::Grant, Answer::Lease(id, ttl)) if !ttl.is_zero() => self.take_grant(id, ttl, pending.sent, now),
            (Purpose::Campaign, Answer::Won(revision)) => self.take_win(revision, now),
            (Purpose::KeepAlive, Answer::Lease(_, ttl)) => self.take_proof(ttl, pending.sent, now),
            (Purpose::KeepAlive, Answer::NoLease) => self.take_proof(Duration::ZERO, pending.sent, now),
            (Purpose::Join, Answer::Lease(id, ttl)) => self.take_part(id, ttl, pending.sent, now),
            (Purpose::Join | Purpose::Share(..), Answer::NoLease) => self.look_later(now),
            (Purpose::Share(lease, entry), Answer::Won(revision)) => {
                self.take_share(Share { lease, revision, entry }, now);
            }
            (Purpose::Leave, Answer::Revoked) => self.left(now),
            (Purpose::Free, answer @ (Answer::Won(_) | Answer::Key(..))) => self.freed(answer, now),
            (Purpose::Campaign, Answer::NoLease) => {
                self.lease = None;
                self.seat.look_at(now);
            }
            (Purpose::Revoke, _) => self.revoked(now),
            // An answer to another question than was asked.
            (
                Purpose::Look
                | Purpose::Grant
                | Purpose::Campaign
                | Purpose::KeepAlive
                | Purpose::Join
                | Purpose::Share(..)
                | Purpose::Leave
                | Purpose::Free,
                _,
            ) => self.unanswered(pending, Failure::Unavailable, now),
        }
    }

    fn unanswered(&mut self, pending: Pending<Purpose>, failure: Failure, now: Instant) {
        // Another member is asked at once, before anything is said of the cluster.
        let another =
            self.config.members > 1 && self.seat.pace.is_well() && failure.condition() == Condition::Unreachable;
        if !another {
            self.seat.set_condition(failure.condition());
        }
        let asked = failure.patience();
        match (pending.purpose, self.seat.state) {
            // It runs out by itself.
            (Purpose::Revoke, _) => self.revoked(now),
            (_, State::Active(holding)) => {
                let wait = self.seat.pace.failed(self.seat.timing.renew);
                let left = holding.deadline.since(now) / 2;
                self.seat.look_at(if another { now } else { now + asked.min(left).max(wait) });
            }
            (_, State::Candidate) => {
                self.known = Known::Nothing;
                self.lease = None;
                let wait = self.seat.pace.failed(LOOK);
                self.seat.look_at(if another { now } else { now + asked.max(wait) });
            }
            (_, State::Idle | State::Closing(_)) => {}
        }
    }

    fn take_watched(&mut self, watched: Watched, now: Instant) {
        match (watched, self.seat.state) {
            (Watched::Ended, _) => {
                self.seat.watching = false;
                if self.seat.state == State::Candidate {
                    self.look_later(now);
                }
            }
            // Another's, or by hand: whoever holds asks before it believes, for this may be old news.
            (Watched::Put(entry), State::Active(_)) if self.is_current(&entry) => {}
            (Watched::Put(_) | Watched::Deleted, State::Active(_)) => {
                self.known = Known::Nothing;
                self.seat.look_at(now);
            }
            (Watched::Put(entry), State::Candidate) => {
                if self.is_joint(&entry) {
                    self.seat.look_at(now);
                }
                self.known = Known::Held(entry);
            }
            (Watched::Deleted, State::Candidate) => {
                self.known = Known::Absent(now);
                self.seat.look_at(now);
            }
            (Watched::Put(_) | Watched::Deleted, State::Idle | State::Closing(_)) => {}
        }
    }

    fn keep(&mut self, _holding: Holding, now: Instant) {
        if self.is_due(now) {
            if self.seat.is_barred() {
                // Proves nothing any more. Looked at again, should it be told otherwise in time.
                self.seat.look_at(now + LOOK);
                return;
            }
            match (self.lease, &self.known) {
                (Some(lease), Known::Held(_)) => {
                    self.seat.send(Purpose::KeepAlive, Request::KeepAlive(lease.id), now);
                }
                _ => self.seat.send(Purpose::Look, Request::Look, now),
            }
        }
    }

    fn try_for_it(&mut self, now: Instant) {
        if self.leave_on(now) {
            return;
        }
        if let Some(spent) = self.spent.front().filter(|_| self.seat.is_barred() || self.lease.is_none()) {
            let revoke = Request::Revoke(*spent);
            self.seat.send(Purpose::Revoke, revoke, now);
            return;
        }
        if self.seat.stopping {
            self.seat.idle();
            return;
        }
        if !self.is_due(now) {
            return;
        }
        if let Known::Held(entry) = &self.known
            && self.is_joint(entry)
            && !self.seat.is_barred()
        {
            let entry = entry.clone();
            return self.join(&entry, now);
        }
        let free = match &self.known {
            Known::Absent(since) => Some((0, *since)),
            Known::Held(entry) if entry.holder == self.config.identity => Some((entry.revision, Instant::ZERO)),
            Known::Nothing | Known::Held(_) => None,
        };
        match (free.filter(|_| !self.seat.is_barred()), self.lease) {
            (Some((_, since)), _) if self.seat.standing == Standing::Sick && now < since + SICK_WAIT => {
                self.seat.look_at(since + SICK_WAIT);
            }
            (Some((over, _)), Some(lease)) => {
                let holder = self.config.identity.clone();
                self.seat.send(Purpose::Campaign, Request::Campaign { holder, lease: lease.id, over }, now);
            }
            (Some(_), None) => self.seat.send(Purpose::Grant, Request::Grant(self.seat.timing.duration), now),
            (None, _) => self.seat.send(Purpose::Look, Request::Look, now),
        }
    }
}
