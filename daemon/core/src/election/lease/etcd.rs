//! The elector on an etcd lease: a key that lives as long as its lease.
//!
//! The server counts the time. A lease granted or kept alive by a request that left after `s` lives at least until `s + TTL/(1 + e)` of true
//! time, also when etcd's leader changes: a new one gives every lease its full TTL again. The key goes with the lease, and only then does
//! a campaign of another succeed. So the fence's deadline counts from before the latest grant or keep-alive that was answered
//! ([`super::timing::hold_max`]); winning the key proves nothing about time.
//!
//! A lease is granted for one campaign and never used for a second: what is late on the way (a campaign, a revocation) can then only hit a
//! lease that nobody counts on. Deleting the key by hand is not guarded against: another node may win while its holder has not seen it yet.

mod answer;
mod io;

use core::time::Duration;
use std::collections::VecDeque;

pub use io::{Answer, Entry, EtcdConfig, LeaseId, Request, Watched};

use super::pace::Pace;
use super::{CloseReason, Condition, Failure, Holding, Output, RequestId, SICK_WAIT, STALL, Standing};
use crate::time::{Instant, TimerTable};
use crate::types::Term;

/// A candidate without a watch looks this often: a death is seen that much later at most, which is a third of what the take-over bound
/// (TTL + 1.5 s) leaves.
pub const LOOK: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Timer {
    /// Next look, step or keep-alive.
    Next,
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

/// A lease and what it has been good for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Lease {
    id: LeaseId,
    /// When the latest request left that was answered.
    proof: Instant,
    /// How long the proof holds.
    hold: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Purpose {
    Look,
    Grant,
    Campaign,
    KeepAlive,
    Revoke,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Pending {
    id: RequestId,
    purpose: Purpose,
    sent: Instant,
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
    state: State,
    standing: Standing,
    known: Known,
    /// The lease of the claim, or of the campaign that is being fought.
    lease: Option<Lease>,
    /// Leases that nobody counts on: revoked when there is nothing better to do.
    spent: VecDeque<LeaseId>,
    pending: Option<Pending>,
    watching: bool,
    stopping: bool,
    condition: Condition,
    ids: u64,
    term: u64,
    pace: Pace,
    timers: TimerTable<Timer>,
    outputs: VecDeque<Output<Request>>,
}

impl EtcdLease {
    /// A machine that does not take part yet.
    pub fn new(config: EtcdConfig) -> Self {
        Self {
            state: State::Idle,
            standing: Standing::default(),
            known: Known::Nothing,
            lease: None,
            spent: VecDeque::new(),
            pending: None,
            watching: false,
            stopping: false,
            condition: Condition::Unknown,
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

    /// Who is named in the key, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        match &self.known {
            Known::Held(entry) => Some(&entry.holder),
            Known::Absent(_) | Known::Nothing => None,
        }
    }

    /// How etcd answers.
    pub const fn condition(&self) -> Condition {
        self.condition
    }

    /// Takes part from now on.
    pub fn handle_start(&mut self, now: Instant) {
        self.stopping = false;
        if self.state == State::Idle {
            self.state = State::Candidate;
            self.known = Known::Nothing;
            self.timers.set(Timer::Next, now);
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
        self.act(now);
    }

    /// The driver has closed what [`Output::Close`] named: nothing of it answers any more.
    pub fn handle_closed(&mut self, term: Term, now: Instant) {
        match self.state {
            State::Closing(holding) if holding.term == term => {}
            State::Idle | State::Candidate | State::Active(_) | State::Closing(_) => return,
        }
        self.state = State::Candidate;
        self.known = Known::Nothing;
        self.drop_lease();
        self.timers.set(Timer::Next, now);
        self.act(now);
    }

    /// Takes no part any more, and owes nothing: the driver drops the watch.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Idle
    }

    /// The answer to a request.
    pub fn handle_answer(&mut self, id: RequestId, answer: Answer, now: Instant) {
        self.expire(now);
        if self.pending.is_none_or(|pending| pending.id != id) {
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
        match (watched, self.state) {
            (Watched::Ended, _) => {
                self.watching = false;
                if self.state == State::Candidate {
                    self.look_later(now);
                }
            }
            // Another's, or by hand: whoever holds asks before it believes, for this may be old news.
            (Watched::Put(entry), State::Active(_)) if self.is_current(&entry) => {}
            (Watched::Put(_) | Watched::Deleted, State::Active(_)) => {
                self.known = Known::Nothing;
                self.timers.set(Timer::Next, now);
            }
            (Watched::Put(entry), State::Candidate) => self.known = Known::Held(entry),
            (Watched::Deleted, State::Candidate) => {
                self.known = Known::Absent(now);
                self.timers.set(Timer::Next, now);
            }
            (Watched::Put(_) | Watched::Deleted, State::Idle | State::Closing(_)) => {}
        }
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
                self.unanswered(pending, Failure::Lost, now);
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

    /// Sends what is due, one request at a time.
    fn act(&mut self, now: Instant) {
        if self.pending.is_some() {
            self.timers.stop(Timer::Next);
            return;
        }
        let due = self.timers.get(Timer::Next).is_some_and(|at| at <= now);
        match self.state {
            State::Idle | State::Closing(_) => self.timers.stop(Timer::Next),
            State::Active(_) if due => match (self.lease, &self.known) {
                (Some(lease), Known::Held(_)) => {
                    self.send(Purpose::KeepAlive, Request::KeepAlive(lease.id), now);
                }
                _ => self.send(Purpose::Look, Request::Look, now),
            },
            State::Active(_) => {}
            State::Candidate => self.try_for_it(due, now),
        }
    }

    fn try_for_it(&mut self, due: bool, now: Instant) {
        if let Some(spent) = self.spent.front().filter(|_| self.is_barred() || self.lease.is_none()) {
            let revoke = Request::Revoke(*spent);
            self.send(Purpose::Revoke, revoke, now);
            return;
        }
        if self.stopping {
            self.state = State::Idle;
            self.watching = false;
            self.timers.clear();
            return;
        }
        if !due {
            return;
        }
        let free = match &self.known {
            Known::Absent(since) => Some((0, *since)),
            Known::Held(entry) if entry.holder == self.config.identity => Some((entry.revision, Instant::ZERO)),
            Known::Nothing | Known::Held(_) => None,
        };
        match (free.filter(|_| !self.is_barred()), self.lease) {
            (Some((_, since)), _) if self.standing == Standing::Sick && now < since + SICK_WAIT => {
                self.timers.set(Timer::Next, since + SICK_WAIT);
            }
            (Some((over, _)), Some(lease)) => {
                let holder = self.config.identity.clone();
                self.send(Purpose::Campaign, Request::Campaign { holder, lease: lease.id, over }, now);
            }
            (Some(_), None) => self.send(Purpose::Grant, Request::Grant(self.config.timing.duration), now),
            (None, _) => self.send(Purpose::Look, Request::Look, now),
        }
    }

    /// A deadline that has passed is over, before anything else is looked at: no answer extends it.
    fn expire(&mut self, now: Instant) {
        match self.state {
            State::Active(holding) if now >= holding.deadline => self.lose(CloseReason::Expired, now),
            State::Idle | State::Candidate | State::Active(_) | State::Closing(_) => {}
        }
    }

    /// The claim ended by itself.
    fn lose(&mut self, reason: CloseReason, now: Instant) {
        let State::Active(Holding { term, .. }) = self.state else { return };
        self.state = State::Candidate;
        self.timers.stop(Timer::Hold);
        self.known = Known::Nothing;
        // It runs out by itself. The entry may still be ours, and is then taken over with a new lease.
        self.lease = None;
        self.outputs.push_back(Output::Close { term, reason });
        self.timers.set(Timer::Next, now);
    }

    /// Gives up by choice.
    fn close(&mut self, reason: CloseReason) {
        let State::Active(holding) = self.state else { return };
        self.state = State::Closing(holding);
        self.timers.stop(Timer::Hold);
        self.outputs.push_back(Output::Close { term: holding.term, reason });
    }

    fn drop_lease(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.spent.push_back(lease.id);
        }
    }

    fn is_barred(&self) -> bool {
        self.stopping || self.standing == Standing::Barred
    }

    /// The entry of the claim that stands.
    fn is_current(&self, entry: &Entry) -> bool {
        entry.holder == self.config.identity && self.lease.is_some_and(|lease| lease.id == entry.lease)
    }

    /// When a candidate looks again: less often while a watch tells it.
    fn look_later(&mut self, now: Instant) {
        let wait = if self.watching { self.config.timing.renew.max(LOOK) } else { LOOK };
        let wait = self.pace.spread(wait);
        self.timers.set(Timer::Next, now + wait);
    }

    fn set_condition(&mut self, condition: Condition) {
        if self.condition != condition {
            self.condition = condition;
            self.outputs.push_back(Output::Condition(condition));
        }
    }

    fn send(&mut self, purpose: Purpose, request: Request, now: Instant) {
        self.ids += 1;
        let id = RequestId(self.ids);
        let deadline = now + self.config.timing.request;
        self.pending = Some(Pending { id, purpose, sent: now });
        self.timers.stop(Timer::Next);
        self.timers.set(Timer::Answer, deadline);
        self.outputs.push_back(Output::Send { id, request, deadline });
    }

    fn watch(&mut self, revision: u64, now: Instant) {
        if !self.watching {
            self.watching = true;
            self.ids += 1;
            let deadline = now + self.config.timing.duration;
            self.outputs.push_back(Output::Send {
                id: RequestId(self.ids),
                request: Request::Watch(revision),
                deadline,
            });
        }
    }
}
