//! What an answer means.

use core::time::Duration;

use super::super::pace::BACKOFF_MIN;
use super::super::{CloseReason, Condition, Failure, Holding, Output};
use super::io::{Answer, Object, Watched};
use super::{DOUBTS, Known, KubeLease, Pending, Purpose, State, Timer};
use crate::time::Instant;
use crate::types::Term;

/// Longest patience that a candidate has with a server that asks for it.
const QUIET_MAX: Duration = Duration::from_secs(60);

impl KubeLease {
    pub(super) fn take_answer(&mut self, pending: Pending, answer: Answer, now: Instant) {
        match answer {
            Answer::Failed(failure) => self.unanswered(pending, failure, now),
            Answer::Object(_) | Answer::NotFound | Answer::Conflict => {
                self.set_condition(Condition::Reachable);
                match answer {
                    Answer::Object(object) => self.take_object(pending, object, now),
                    Answer::NotFound => self.take_absence(&pending, now),
                    // Somebody else wrote, or we did and never heard of it: the record will say.
                    Answer::Conflict | Answer::Failed(_) => self.take_conflict(&pending, now),
                }
            }
        }
    }

    fn take_object(&mut self, pending: Pending, object: Object, now: Instant) {
        self.pace.succeeded();
        let ours = self.is_ours(&object.record);
        self.observe(object.clone(), now);
        self.unsure = false;
        match (pending.purpose, self.state) {
            (Purpose::Renew, State::Active(holding)) if self.is_of(&holding, &object.record) => {
                self.doubtful.clear();
                self.prove(holding, pending.sent, now);
            }
            (Purpose::Acquire, State::Candidate) if ours && !self.is_barred() => self.claim(&pending, &object, now),
            (Purpose::Release, _) => self.released(now),
            (Purpose::Look, State::Active(holding)) if self.is_of(&holding, &object.record) => {
                let known = |(written, _): &&(super::Record, Instant)| *written == object.record;
                match self.doubtful.iter().find(known).map(|(_, sent)| *sent) {
                    Some(sent) => self.prove(holding, sent, now),
                    None => self.look_at(now),
                }
            }
            (Purpose::Look | Purpose::Renew | Purpose::Acquire, State::Active(_)) => {
                self.lose(CloseReason::Lost, now);
                self.unsure = false;
                self.look_later(now);
            }
            // Ours in name, but this node may not own: nothing of it is open here.
            (_, State::Candidate) if ours && self.is_barred() => self.release(now),
            (_, State::Candidate) if self.stopping => self.idle(),
            (Purpose::Look | Purpose::Renew | Purpose::Acquire, State::Candidate) => self.look_later(now),
            (Purpose::Look | Purpose::Renew | Purpose::Acquire, State::Idle | State::Closing(_)) => {}
        }
        if let (State::Candidate | State::Active(_), Known::Object(object, _)) = (self.state, &self.known) {
            let version = object.version.clone();
            self.watch(version, now);
        }
    }

    /// The answer came in time, and says what the request did.
    fn claim(&mut self, pending: &Pending, object: &Object, now: Instant) {
        let deadline = pending.sent + self.config.timing.hold;
        if now >= deadline {
            // Held up until the claim was over: a new one, of a new term.
            self.look_at(now);
            return;
        }
        self.term += 1;
        let holding =
            Holding { term: Term(self.term), epoch: u64::from(object.record.transitions), deadline, since: now };
        self.state = State::Active(holding);
        self.doubtful.clear();
        self.outputs.push_back(Output::Claim { term: holding.term, epoch: holding.epoch, deadline });
        self.timers.set(Timer::Hold, deadline);
        self.renew_later(pending.sent, now);
    }

    /// The record was ours when a request was at the server that left here after `sent`. The fence of `holding` is open: `expire` has looked.
    fn prove(&mut self, holding: Holding, sent: Instant, now: Instant) {
        let deadline = sent + self.config.timing.hold;
        if deadline > holding.deadline {
            self.state = State::Active(Holding { deadline, ..holding });
            self.timers.set(Timer::Hold, deadline);
            self.outputs.push_back(Output::Extend { term: holding.term, deadline });
        }
        self.renew_later(sent, now);
    }

    fn renew_later(&mut self, sent: Instant, now: Instant) {
        let at = sent + self.pace.spread(self.config.timing.renew);
        self.look_at(at.max(now));
    }

    fn take_absence(&mut self, pending: &Pending, now: Instant) {
        self.observe_absence(now);
        self.unsure = false;
        match (pending.purpose, self.state) {
            (Purpose::Release, _) => self.released(now),
            (_, State::Active(_)) => self.look_at(now),
            (_, State::Candidate) if self.stopping => self.idle(),
            (_, State::Candidate) => self.look_later(now),
            (_, State::Idle | State::Closing(_)) => {}
        }
    }

    fn take_conflict(&mut self, pending: &Pending, now: Instant) {
        self.unsure = true;
        match (pending.purpose, self.state) {
            (Purpose::Release, _) => self.released(now),
            (_, State::Candidate) if self.stopping => self.idle(),
            // Once at once; in a storm of them at the pace of failures.
            (_, State::Active(_) | State::Candidate) => {
                let wait = self.pace.failed(self.config.timing.renew);
                self.look_at(if wait <= BACKOFF_MIN { now } else { now + wait });
            }
            (_, State::Idle | State::Closing(_)) => {}
        }
    }

    /// Nobody knows what became of the request.
    pub(super) fn unanswered(&mut self, pending: Pending, failure: Failure, now: Instant) {
        self.set_condition(failure.condition());
        self.unsure = true;
        self.doubtful_create |= pending.creates;
        let wait = self.pace.failed(self.config.timing.renew);
        let asked = match failure {
            Failure::Throttled { retry_after } => retry_after.unwrap_or_default().min(QUIET_MAX),
            Failure::Unavailable | Failure::Denied | Failure::Lost => Duration::ZERO,
        };
        match (pending.purpose, self.state) {
            (Purpose::Release, _) => self.released(now),
            (purpose, State::Active(holding)) => {
                if let (Purpose::Renew, Some(record)) = (purpose, pending.record) {
                    if self.doubtful.len() == DOUBTS {
                        let _oldest = self.doubtful.pop_front();
                    }
                    self.doubtful.push_back((record, pending.sent));
                }
                // Patience costs the VIP at the deadline: never more than half of what is left.
                let left = holding.deadline.since(now) / 2;
                self.look_at(now + asked.min(left).max(wait));
            }
            (_, State::Candidate) if self.stopping => self.idle(),
            (_, State::Candidate) => {
                self.quiet = now + asked;
                self.look_at(now + asked.max(wait));
            }
            (_, State::Idle | State::Closing(_)) => {}
        }
    }

    pub(super) fn take_watched(&mut self, watched: Watched, now: Instant) {
        if watched == Watched::Ended {
            self.watching = false;
            // Read again soon, for what was missed and for a version to watch from.
            if self.state == State::Candidate && self.pending.is_none() {
                let soon = now + self.pace.spread(self.config.timing.renew);
                let at = self.timers.get(Timer::Next).map_or(soon, |at| at.min(soon));
                self.look_at(at);
            }
            return;
        }
        match (self.state, watched) {
            (State::Candidate, Watched::Object(object)) => {
                self.observe(object, now);
                // A fresh record answers the question that was open.
                if self.pending.is_none() && self.unsure {
                    self.look_at(now);
                }
            }
            (State::Candidate, Watched::Deleted) => self.observe_absence(now),
            // It may be old news: whoever holds asks before it believes.
            (State::Active(holding), Watched::Object(object)) if !self.is_of(&holding, &object.record) => {
                self.unsure = true;
                self.look_at(now);
            }
            (State::Active(_), Watched::Deleted) => {
                self.unsure = true;
                self.look_at(now);
            }
            (State::Active(_) | State::Idle | State::Closing(_), Watched::Object(_) | Watched::Deleted)
            | (_, Watched::Ended) => {}
        }
    }

    /// Takes a version. Its clock starts anew when its content is another.
    fn observe(&mut self, object: Object, now: Instant) {
        let since = match &self.known {
            Known::Object(known, since) if known.record == object.record => *since,
            Known::Object(..) | Known::Absent(_) | Known::Nothing => now,
        };
        if !object.record.holder.is_empty() {
            self.last_duration = object.record.duration;
        }
        self.known = Known::Object(object, since);
    }

    fn observe_absence(&mut self, now: Instant) {
        // After a time without sight it may have come and gone: another absence.
        if self.unsure || !matches!(self.known, Known::Absent(_)) {
            self.known = Known::Absent(now);
        }
    }
}
