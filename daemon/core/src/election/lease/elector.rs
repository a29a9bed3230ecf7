//! The entry points of a lease elector, and the steps in which one differs from another.

use core::fmt::Debug;

use super::seat::{Pending, Seat, State};
use super::{CloseReason, Condition, Failure, Holding, Output, RequestId, Standing};
use crate::time::Instant;
use crate::types::Term;

/// A machine that owns while its lease in a store stands. The contract is [`super`]'s.
pub trait LeaseElector: Steps {
    /// The claim that stands, if any.
    fn holding(&self) -> Option<Holding> {
        match self.seat().state {
            State::Active(holding) => Some(holding),
            State::Idle | State::Candidate | State::Closing(_) => None,
        }
    }

    /// How the store answers.
    fn condition(&self) -> Condition {
        self.seat().condition
    }

    /// Takes no part any more, and owes nothing: the driver drops the watch.
    fn is_stopped(&self) -> bool {
        self.seat().state == State::Idle
    }

    /// Takes part from now on.
    fn handle_start(&mut self, now: Instant) {
        let seat = self.seat_mut();
        seat.stopping = false;
        if seat.state == State::Idle {
            seat.state = State::Candidate;
            seat.look_at(now);
            self.doubt();
            self.act(now);
        }
    }

    /// This node may own, or may not.
    fn handle_standing(&mut self, standing: Standing, now: Instant) {
        self.expire(now);
        let before = core::mem::replace(&mut self.seat_mut().standing, standing);
        match standing {
            Standing::Barred => self.bar(),
            Standing::Leaving => self.close(CloseReason::HandedOver),
            Standing::Fit | Standing::Sick if before.is_out() => self.unbar(now),
            Standing::Fit | Standing::Sick => {}
        }
        self.act(now);
    }

    /// Gives up and takes no more part.
    fn handle_stop(&mut self, now: Instant) {
        self.expire(now);
        self.seat_mut().stopping = true;
        self.close(CloseReason::Stopped);
        self.leave(now);
    }

    /// The driver has closed what [`Output::Close`] named: nothing of it answers any more.
    fn handle_closed(&mut self, term: Term, now: Instant) {
        let seat = self.seat_mut();
        match seat.state {
            State::Closing(holding) if holding.term == term => {}
            State::Idle | State::Candidate | State::Active(_) | State::Closing(_) => return,
        }
        seat.state = State::Candidate;
        self.doubt();
        self.release_closed(now);
        self.act(now);
    }

    /// The answer to a request.
    fn handle_answer(&mut self, id: RequestId, answer: Self::Answer, now: Instant) {
        self.expire(now);
        if let Some(pending) = self.seat_mut().answered(id) {
            self.take_answer(pending, answer, now);
            self.act(now);
        }
    }

    /// Word of the watch.
    fn handle_watch(&mut self, watched: Self::Watched, now: Instant) {
        self.expire(now);
        self.take_watched(watched, now);
        self.act(now);
    }

    /// Something may be due.
    fn handle_timeout(&mut self, now: Instant) {
        self.seat_mut().note_stall(now);
        self.expire(now);
        if let Some(pending) = self.seat_mut().overdue(now) {
            self.unanswered(pending, Failure::Lost, now);
        }
        self.act(now);
    }

    /// When to call [`Self::handle_timeout`].
    fn poll_timeout(&self) -> Option<Instant> {
        self.seat().timers.next()
    }

    /// What is owed, in order.
    fn poll_output(&mut self) -> Option<Output<Self::Request>> {
        self.seat_mut().outputs.pop_front()
    }
}

/// What an elector does in its own way.
pub trait Steps {
    /// What it asks of its store.
    type Request: Clone + Debug;
    /// What the store answers.
    type Answer: Clone + Debug;
    /// What a watch on the store tells.
    type Watched: Clone;
    /// What a request is for.
    type Purpose;

    /// The common part.
    fn seat(&self) -> &Seat<Self::Request, Self::Purpose>;
    /// The common part, to change it.
    fn seat_mut(&mut self) -> &mut Seat<Self::Request, Self::Purpose>;

    /// What is known of the store may be outdated; a claim that stood has ended.
    fn doubt(&mut self);
    /// A claim ended by itself: what belonged to it is not released.
    fn abandon(&mut self);
    /// Everything of a claim that was given up is closed: releases it in the store.
    fn release_closed(&mut self, now: Instant);
    /// Told to stop, with no claim that stands.
    fn leave(&mut self, now: Instant);
    /// What an answer means.
    fn take_answer(&mut self, pending: Pending<Self::Purpose>, answer: Self::Answer, now: Instant);
    /// Nobody knows what became of the request.
    fn unanswered(&mut self, pending: Pending<Self::Purpose>, failure: Failure, now: Instant);
    /// What a word of the watch means.
    fn take_watched(&mut self, watched: Self::Watched, now: Instant);
    /// No request is under way: proves the right to own anew, when that is due.
    fn keep(&mut self, holding: Holding, now: Instant);
    /// No request is under way: looks, or tries to own, when that is due.
    fn try_for_it(&mut self, now: Instant);

    /// Sends what is due, one request at a time, and arms the timers for the rest.
    fn act(&mut self, now: Instant) {
        let seat = self.seat_mut();
        match seat.state {
            // Its answer, or the lack of one, says what is next.
            _ if seat.pending.is_some() => seat.rest(),
            State::Idle | State::Closing(_) => seat.rest(),
            State::Active(holding) => self.keep(holding, now),
            State::Candidate => self.try_for_it(now),
        }
    }

    /// A deadline that has passed is over, before anything else is looked at: no answer extends it.
    fn expire(&mut self, now: Instant) {
        match self.seat().state {
            State::Active(holding) if now >= holding.deadline => self.lose(CloseReason::Expired, now),
            State::Idle | State::Candidate | State::Active(_) | State::Closing(_) => {}
        }
    }

    /// The claim ended by itself: there is nothing to release.
    fn lose(&mut self, reason: CloseReason, now: Instant) {
        if self.seat_mut().end(reason, |_| State::Candidate) {
            self.abandon();
            self.doubt();
            self.seat_mut().look_at(now);
        }
    }

    /// This node may not own any more.
    fn bar(&mut self) {
        self.close(CloseReason::Barred);
    }

    /// It may own again.
    fn unbar(&mut self, _now: Instant) {}

    /// Gives up by choice.
    fn close(&mut self, reason: CloseReason) {
        let _ended = self.seat_mut().end(reason, State::Closing);
    }
}
