//! What every lease elector keeps beside what it knows of its store: its part in the election, the request under way, and what it owes.

use core::time::Duration;
use std::collections::VecDeque;

use super::pace::Pace;
use super::timing::Timing;
use super::{CloseReason, Condition, Holding, Output, RequestId, STALL, Standing};
use crate::time::{Instant, TimerTable};
use crate::types::Term;

/// Every timer of a lease elector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Timer {
    /// Next look, step or renewal.
    Next,
    /// The lease of another becomes free, where that is ours to count.
    Free,
    /// The fence of our own claim closes.
    Hold,
    /// The answer is overdue.
    Answer,
}

/// The part that the machine takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum State {
    /// Not taking part.
    Idle,
    /// Owning nothing.
    Candidate,
    /// Owning.
    Active(Holding),
    /// Given up by choice, not yet confirmed closed.
    Closing(Holding),
}

/// The request under way, and what it is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pending<P> {
    pub(super) id: RequestId,
    pub(super) purpose: P,
    pub(super) sent: Instant,
}

/// The common part of a machine with requests `R` that serve purposes `P`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Seat<R, P> {
    pub(super) timing: Timing,
    pub(super) state: State,
    pub(super) standing: Standing,
    /// Told to stop: what is under way is brought to an end.
    pub(super) stopping: bool,
    pub(super) watching: bool,
    pub(super) pending: Option<Pending<P>>,
    pub(super) condition: Condition,
    ids: u64,
    term: u64,
    pub(super) pace: Pace,
    pub(super) timers: TimerTable<Timer>,
    pub(super) outputs: VecDeque<Output<R>>,
}

impl<R, P> Seat<R, P> {
    /// Of a machine that does not take part yet; its claims count from the term after `term`.
    pub(super) fn new(timing: Timing, seed: Option<u64>, term: Term) -> Self {
        Self {
            timing,
            state: State::Idle,
            standing: Standing::default(),
            stopping: false,
            watching: false,
            pending: None,
            condition: Condition::Unknown,
            ids: 0,
            term: term.0,
            pace: Pace::new(seed),
            timers: TimerTable::default(),
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn is_barred(&self) -> bool {
        self.stopping || self.standing.is_out()
    }

    pub(super) fn set_condition(&mut self, condition: Condition) {
        if self.condition != condition {
            self.condition = condition;
            self.outputs.push_back(Output::Condition(condition));
        }
    }

    pub(super) fn look_at(&mut self, at: Instant) {
        self.timers.set(Timer::Next, at);
    }

    /// One renewal period after the request that proved the right to own was sent.
    pub(super) fn renew_later(&mut self, sent: Instant, now: Instant) {
        let at = sent + self.pace.spread(self.timing.renew);
        self.look_at(at.max(now));
    }

    /// Owns from now on, under a new term.
    pub(super) fn claim(&mut self, epoch: u64, deadline: Instant, now: Instant) {
        self.term += 1;
        let term = Term(self.term);
        self.state = State::Active(Holding { term, epoch, deadline, since: now });
        self.outputs.push_back(Output::Claim { term, epoch, deadline });
        self.timers.set(Timer::Hold, deadline);
    }

    /// A further proof of `holding`, which stands. An old one shortens nothing.
    pub(super) fn extend(&mut self, holding: Holding, deadline: Instant) {
        if deadline > holding.deadline {
            self.state = State::Active(Holding { deadline, ..holding });
            self.timers.set(Timer::Hold, deadline);
            self.outputs.push_back(Output::Extend { term: holding.term, deadline });
        }
    }

    /// Ends the claim, if one stands, and goes on as `next` says.
    pub(super) fn end(&mut self, reason: CloseReason, next: impl FnOnce(Holding) -> State) -> bool {
        let State::Active(holding) = self.state else { return false };
        self.state = next(holding);
        self.timers.stop(Timer::Hold);
        self.outputs.push_back(Output::Close { term: holding.term, reason });
        true
    }

    /// Takes no part any more.
    pub(super) fn idle(&mut self) {
        self.state = State::Idle;
        self.pending = None;
        self.watching = false;
        self.timers.clear();
    }

    /// Sends the one request that may be under way.
    pub(super) fn send(&mut self, purpose: P, request: R, now: Instant) {
        let deadline = now + self.timing.request;
        let id = self.owe(request, deadline);
        self.pending = Some(Pending { id, purpose, sent: now });
        self.rest();
        self.timers.set(Timer::Answer, deadline);
    }

    /// Watches, unless it does.
    pub(super) fn watch(&mut self, request: R, now: Instant) {
        if !self.watching {
            self.watching = true;
            let _nobody_waits = self.owe(request, now + self.timing.duration);
        }
    }

    fn owe(&mut self, request: R, deadline: Instant) -> RequestId {
        self.ids += 1;
        let id = RequestId(self.ids);
        self.outputs.push_back(Output::Send { id, request, deadline });
        id
    }

    /// Nothing is to be asked by itself: an answer, or the lack of one, says what is next.
    pub(super) fn rest(&mut self) {
        self.timers.stop(Timer::Next);
        self.timers.stop(Timer::Free);
    }

    /// The request that this answer belongs to, unless nobody waits for it any more.
    pub(super) fn answered(&mut self, id: RequestId) -> Option<Pending<P>> {
        let pending = self.pending.take_if(|pending| pending.id == id)?;
        self.timers.stop(Timer::Answer);
        Some(pending)
    }

    /// The request whose answer is overdue.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Pending<P>> {
        self.timers.get(Timer::Answer).filter(|at| *at <= now)?;
        self.timers.stop(Timer::Answer);
        self.pending.take()
    }

    /// Says so when the machine was called late.
    pub(super) fn note_stall(&mut self, now: Instant) {
        let late: Option<Duration> = self.timers.next().map(|due| now.since(due));
        if let Some(late) = late.filter(|late| *late >= STALL) {
            self.outputs.push_back(Output::Stalled(late));
        }
    }
}
