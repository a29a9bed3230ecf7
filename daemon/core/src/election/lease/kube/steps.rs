//! The steps of the elector on a Lease.

use super::super::elector::{LeaseElector, Steps};
use super::super::seat::{Pending, Seat, State, Timer};
use super::super::{Condition, Failure, Holding};
use super::io::{Answer, Request, Watched};
use super::{Asked, DOUBTS, KubeLease, Purpose};
use crate::time::Instant;

impl LeaseElector for KubeLease {}

impl Steps for KubeLease {
    type Request = Request;
    type Answer = Answer;
    type Watched = Watched;
    type Purpose = Asked;

    fn seat(&self) -> &Seat<Request, Asked> {
        &self.seat
    }

    fn seat_mut(&mut self) -> &mut Seat<Request, Asked> {
        &mut self.seat
    }

    fn doubt(&mut self) {
        self.doubtful.clear();
        self.unsure = true;
    }

    fn abandon(&mut self) {}

    fn release_closed(&mut self, now: Instant) {
        self.look_later(now);
        if self.seat.pending.is_none() {
            self.release(now);
        }
        if self.seat.stopping && self.seat.pending.is_none() {
            self.seat.idle();
        }
    }

    fn leave(&mut self, _now: Instant) {
        let ends_itself = |p: &Pending<Asked>| matches!(p.purpose.purpose, Purpose::Acquire | Purpose::Release);
        if self.seat.state == State::Candidate && !self.seat.pending.as_ref().is_some_and(ends_itself) {
            self.seat.idle();
        }
    }

    fn take_answer(&mut self, pending: Pending<Asked>, answer: Answer, now: Instant) {
        match answer {
            Answer::Failed(failure) => self.unanswered(pending, failure, now),
            Answer::Object(_) | Answer::NotFound | Answer::Conflict => {
                self.seat.set_condition(Condition::Reachable);
                match answer {
                    Answer::Object(object) => self.take_object(pending, object, now),
                    Answer::NotFound => self.take_absence(&pending, now),
                    // Somebody else wrote, or we did and never heard of it: the record will say.
                    Answer::Conflict | Answer::Failed(_) => self.take_conflict(&pending, now),
                }
            }
        }
    }

    fn unanswered(&mut self, pending: Pending<Asked>, failure: Failure, now: Instant) {
        self.seat.set_condition(failure.condition());
        self.unsure = true;
        self.doubtful_create |= pending.purpose.creates;
        let wait = self.seat.pace.failed(self.seat.timing.renew);
        let asked = failure.patience();
        let Asked { purpose, record, .. } = pending.purpose;
        match (purpose, self.seat.state) {
            (Purpose::Release, _) => self.released(now),
            (purpose, State::Active(holding)) => {
                if let (Purpose::Renew, Some(record)) = (purpose, record) {
                    if self.doubtful.len() == DOUBTS {
                        let _oldest = self.doubtful.pop_front();
                    }
                    self.doubtful.push_back((record, pending.sent));
                }
                // Patience costs the VIP at the deadline: never more than half of what is left.
                let left = holding.deadline.since(now) / 2;
                self.seat.look_at(now + asked.min(left).max(wait));
            }
            (_, State::Candidate) if self.seat.stopping => self.seat.idle(),
            (_, State::Candidate) => {
                self.quiet = now + asked;
                self.seat.look_at(now + asked.max(wait));
            }
            (_, State::Idle | State::Closing(_)) => {}
        }
    }

    fn take_watched(&mut self, watched: Watched, now: Instant) {
        if watched == Watched::Ended {
            self.seat.watching = false;
            // Read again soon, for what was missed and for a version to watch from.
            if self.seat.state == State::Candidate && self.seat.pending.is_none() {
                let soon = now + self.seat.pace.spread(self.seat.timing.renew);
                let at = self.seat.timers.get(Timer::Next).map_or(soon, |at| at.min(soon));
                self.seat.look_at(at);
            }
            return;
        }
        match (self.seat.state, watched) {
            (State::Candidate, Watched::Object(object)) => {
                self.observe(object, now);
                // A fresh record answers the question that was open.
                if self.seat.pending.is_none() && self.unsure {
                    self.seat.look_at(now);
                }
            }
            (State::Candidate, Watched::Deleted) => self.observe_absence(now),
            // It may be old news: whoever holds asks before it believes.
            (State::Active(holding), Watched::Object(object)) if !self.is_of(&holding, &object.record) => {
                self.unsure = true;
                self.seat.look_at(now);
            }
            (State::Active(_), Watched::Deleted) => {
                self.unsure = true;
                self.seat.look_at(now);
            }
            (State::Active(_) | State::Idle | State::Closing(_), Watched::Object(_) | Watched::Deleted)
            | (_, Watched::Ended) => {}
        }
    }

    fn keep(&mut self, holding: Holding, now: Instant) {
        self.seat.timers.stop(Timer::Free);
        match self.seat.timers.get(Timer::Next) {
            Some(at) if at > now => {}
            Some(_) | None => self.renew(&holding, now),
        }
    }

    fn try_for_it(&mut self, now: Instant) {
        self.seat.timers.stop(Timer::Free);
        let look = self.seat.timers.get(Timer::Next);
        if look.is_some_and(|at| at <= now) {
            self.send(Purpose::Look, Request::Get, None, now);
        } else if let Some(free) = self.free_at().filter(|_| !self.unsure) {
            let due = free.max(self.quiet);
            if due > now {
                self.seat.timers.set(Timer::Free, due);
            } else {
                self.acquire(now);
            }
        }
    }
}
