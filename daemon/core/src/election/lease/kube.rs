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

use core::time::Duration;
use std::collections::VecDeque;

pub use io::{Answer, KubeConfig, Object, Record, Request, Version, WallMicros, Watched};

use super::pace::Pace;
use super::{CloseReason, Condition, Holding, Output, RequestId, SICK_WAIT, STALL, Standing};
use crate::time::{Instant, TimerTable};
use crate::types::Term;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Timer {
    /// Next look or renewal.
    Next,
    /// The lease of another becomes free.
    Free,
    /// The fence of our own claim closes.
    Hold,
    /// The answer is overdue.
    Answer,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum State {
    /// Not taking part.
    Idle,
    /// Owning nothing.
    Candidate,
    /// Owning.
    Active(Holding),
    /// Given up by choice, not yet confirmed closed.
    Closing(Holding),
}

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

/// The request under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pending {
    id: RequestId,
    purpose: Purpose,
    sent: Instant,
    /// What a write carries.
    record: Option<Record>,
    /// It is a Create.
    creates: bool,
}

/// One elector.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KubeLease {
    config: KubeConfig,
    state: State,
    standing: Standing,
    known: Known,
    /// Content of the last record seen, kept when the Lease vanishes: its duration still binds.
    last_duration: Duration,
    pending: Option<Pending>,
    /// Renewals whose fate is unknown, with the time before they were sent: found in the record, each is a proof.
    doubtful: VecDeque<(Record, Instant)>,
    /// A Create went out whose fate is unknown. Unlike an Update it succeeds late as well, after a Lease of another came and went: a record
    /// of our own is waited for like anybody's from then on.
    doubtful_create: bool,
    /// `known` may be outdated: read before the next write.
    unsure: bool,
    watching: bool,
    /// Told to stop: what is under way is brought to an end.
    stopping: bool,
    /// The store asked for patience until then.
    quiet: Instant,
    condition: Condition,
    /// Wall clock minus `now`, in microseconds.
    wall: i64,
    ids: u64,
    term: u64,
    pace: Pace,
    timers: TimerTable<Timer>,
    outputs: VecDeque<Output<Request>>,
}

/// Renewals in doubt that are remembered: more than fit between two answers (`Timing::request` is at least a ninth of the hold).
const DOUBTS: usize = 8;

impl KubeLease {
    /// A machine that does not take part yet.
    pub fn new(config: KubeConfig) -> Self {
        Self {
            state: State::Idle,
            standing: Standing::default(),
            known: Known::Nothing,
            last_duration: Duration::ZERO,
            pending: None,
            doubtful: VecDeque::new(),
            doubtful_create: false,
            unsure: false,
            watching: false,
            stopping: false,
            quiet: Instant::ZERO,
            condition: Condition::Unknown,
            wall: 0,
            ids: 0,
            term: config.term.0,
            pace: Pace::new(config.seed),
            timers: TimerTable::default(),
            outputs: VecDeque::new(),
            config,
        }
    }

    /// The claim that stands, if any.
    pub fn holding(&self) -> Option<Holding> {
        match self.state {
            State::Active(holding) => Some(holding),
            State::Idle | State::Candidate | State::Closing(_) => None,
        }
    }

    /// Who is named in the record, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        match &self.known {
            Known::Object(object, _) if !object.record.holder.is_empty() => Some(&object.record.holder),
            Known::Object(..) | Known::Absent(_) | Known::Nothing => None,
        }
    }

    /// How the API server answers.
    pub const fn condition(&self) -> Condition {
        self.condition
    }

    /// What the wall clock says at `now`: for the record only.
    pub fn handle_wall_clock(&mut self, wall: WallMicros, now: Instant) {
        self.wall = wall.0.saturating_sub(micros(now));
    }

    /// Takes part from now on.
    pub fn handle_start(&mut self, now: Instant) {
        self.stopping = false;
        if self.state == State::Idle {
            self.state = State::Candidate;
            self.unsure = true;
            self.look_at(now);
            self.act(now);
        }
    }

    /// This node may own, or may not.
    pub fn handle_standing(&mut self, standing: Standing, now: Instant) {
        self.expire(now);
        self.standing = standing;
        if standing == Standing::Barred {
            self.close(CloseReason::Barred);
        }
        self.act(now);
    }

    /// Gives up and takes no more part.
    pub fn handle_stop(&mut self, now: Instant) {
        self.expire(now);
        self.stopping = true;
        self.close(CloseReason::Stopped);
        let ends_itself = |p: &Pending| matches!(p.purpose, Purpose::Acquire | Purpose::Release);
        if self.state == State::Candidate && !self.pending.as_ref().is_some_and(ends_itself) {
            self.idle();
        }
    }

    /// The driver has closed what [`Output::Close`] named: nothing of it answers any more.
    pub fn handle_closed(&mut self, term: Term, now: Instant) {
        match self.state {
            State::Closing(holding) if holding.term == term => {}
            State::Idle | State::Candidate | State::Active(_) | State::Closing(_) => return,
        }
        self.state = State::Candidate;
        self.unsure = true;
        self.look_later(now);
        if self.pending.is_none() {
            self.release(now);
        }
        if self.stopping && self.pending.is_none() {
            self.idle();
        }
        self.act(now);
    }

    /// Takes no part any more, and owes nothing: the driver drops the watch.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Idle
    }

    fn is_barred(&self) -> bool {
        self.stopping || self.standing == Standing::Barred
    }

    /// The answer to a request.
    pub fn handle_answer(&mut self, id: RequestId, answer: Answer, now: Instant) {
        self.expire(now);
        if self.pending.as_ref().is_none_or(|pending| pending.id != id) {
            return;
        }
        let Some(pending) = self.pending.take() else { return };
        self.timers.stop(Timer::Answer);
        self.take_answer(pending, answer, now);
        self.act(now);
    }

    /// Word of the watch.
    pub fn handle_watch(&mut self, watched: Watched, now: Instant) {
        self.expire(now);
        self.take_watched(watched, now);
        self.act(now);
    }

    /// Something may be due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(late) = self.poll_timeout().map(|due| now.since(due)).filter(|late| *late >= STALL) {
            self.outputs.push_back(Output::Stalled(late));
        }
        self.expire(now);
        if self.timers.get(Timer::Answer).is_some_and(|at| at <= now) {
            self.timers.stop(Timer::Answer);
            if let Some(pending) = self.pending.take() {
                self.unanswered(pending, super::Failure::Lost, now);
            }
        }
        self.act(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What is owed, in order.
    pub fn poll_output(&mut self) -> Option<Output<Request>> {
        self.outputs.pop_front()
    }

    /// A deadline that has passed is over, before anything else is looked at: no answer extends it.
    fn expire(&mut self, now: Instant) {
        match self.state {
            State::Active(holding) if now >= holding.deadline => self.lose(CloseReason::Expired, now),
            State::Idle | State::Candidate | State::Active(_) | State::Closing(_) => {}
        }
    }

    /// The claim ended by itself: there is nothing to release.
    fn lose(&mut self, reason: CloseReason, now: Instant) {
        let State::Active(Holding { term, .. }) = self.state else { return };
        self.state = State::Candidate;
        self.timers.stop(Timer::Hold);
        self.doubtful.clear();
        self.unsure = true;
        self.outputs.push_back(Output::Close { term, reason });
        self.look_at(now);
    }

    /// Gives up by choice.
    fn close(&mut self, reason: CloseReason) {
        let State::Active(holding) = self.state else { return };
        self.state = State::Closing(holding);
        self.timers.stop(Timer::Hold);
        self.doubtful.clear();
        self.outputs.push_back(Output::Close { term: holding.term, reason });
    }

    fn idle(&mut self) {
        self.state = State::Idle;
        self.pending = None;
        self.watching = false;
        self.timers.clear();
    }

    fn set_condition(&mut self, condition: Condition) {
        if self.condition != condition {
            self.condition = condition;
            self.outputs.push_back(Output::Condition(condition));
        }
    }

    /// When the lease may be acquired, if ever without a change.
    fn free_at(&self) -> Option<Instant> {
        let at = match &self.known {
            Known::Nothing => return None,
            Known::Absent(since) => *since + self.last_duration.max(self.config.timing.duration),
            Known::Object(object, _) if object.record.holder.is_empty() => Instant::ZERO,
            Known::Object(object, _) if self.is_ours(&object.record) && !self.doubtful_create => Instant::ZERO,
            Known::Object(object, since) => {
                let stated = object.record.duration;
                *since + if stated.is_zero() { self.config.timing.duration } else { stated }
            }
        };
        if self.is_barred() {
            return None;
        }
        match (self.standing, &self.known) {
            (Standing::Barred, _) => None,
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

    fn look_at(&mut self, at: Instant) {
        self.timers.set(Timer::Next, at);
    }
}

fn micros(now: Instant) -> i64 {
    i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX)
}
