//! What an answer means.

use super::super::elector::Steps as _;
use super::super::pace::BACKOFF_MIN;
use super::super::seat::{Pending, State};
use super::super::{CloseReason, Holding};
use super::io::{Object, Request};
use super::{Asked, Known, KubeLease, Purpose};
use crate::time::Instant;

impl KubeLease {
    pub(super) fn take_object(&mut self, pending: Pending<Asked>, object: Object, now: Instant) {
        self.seat.pace.succeeded();
        let ours = self.is_ours(&object.record);
        self.observe(object.clone(), now);
        self.unsure = false;
        match (pending.purpose.purpose, self.seat.state) {
            (Purpose::Renew, State::Active(holding)) if self.is_of(&holding, &object.record) => {
                self.doubtful.clear();
                self.prove(holding, pending.sent, now);
            }
            (Purpose::Acquire, State::Candidate) if ours && !self.seat.is_barred() => {
                self.claim(&pending, &object, now)
            }
            (Purpose::Release, _) => self.released(now),
            (Purpose::Look, State::Active(holding)) if self.is_of(&holding, &object.record) => {
                let known = |(written, _): &&(super::Record, Instant)| *written == object.record;
                match self.doubtful.iter().find(known).map(|(_, sent)| *sent) {
                    Some(sent) => self.prove(holding, sent, now),
                    None => self.seat.look_at(now),
                }
            }
            (Purpose::Look | Purpose::Renew | Purpose::Acquire, State::Active(_)) => {
                self.lose(CloseReason::Lost, now);
                self.unsure = false;
                self.look_later(now);
            }
            // Ours in name, but this node may not own: nothing of it is open here.
            (_, State::Candidate) if ours && self.seat.is_barred() => self.release(now),
            (_, State::Candidate) if self.seat.stopping => self.seat.idle(),
            (Purpose::Look | Purpose::Renew | Purpose::Acquire, State::Candidate) => self.look_later(now),
            (Purpose::Look | Purpose::Renew | Purpose::Acquire, State::Idle | State::Closing(_)) => {}
        }
        if let (State::Candidate | State::Active(_), Known::Object(object, _)) = (self.seat.state, &self.known) {
            let version = object.version.clone();
            self.seat.watch(Request::Watch(version), now);
        }
    }

    /// The answer came in time, and says what the request did.
    fn claim(&mut self, pending: &Pending<Asked>, object: &Object, now: Instant) {
        let deadline = pending.sent + self.seat.timing.hold;
        if now >= deadline {
            // Held up until the claim was over: a new one, of a new term.
            self.seat.look_at(now);
            return;
        }
        self.doubtful.clear();
        self.seat.claim(u64::from(object.record.transitions), deadline, now);
        self.seat.renew_later(pending.sent, now);
    }

    /// The record was ours when a request was at the server that left here after `sent`. The fence of `holding` is open: `expire` has looked.
    fn prove(&mut self, holding: Holding, sent: Instant, now: Instant) {
        self.seat.extend(holding, sent + self.seat.timing.hold);
        self.seat.renew_later(sent, now);
    }

    pub(super) fn take_absence(&mut self, pending: &Pending<Asked>, now: Instant) {
        self.observe_absence(now);
        self.unsure = false;
        match (pending.purpose.purpose, self.seat.state) {
            (Purpose::Release, _) => self.released(now),
            (_, State::Active(_)) => self.seat.look_at(now),
            (_, State::Candidate) if self.seat.stopping => self.seat.idle(),
            (_, State::Candidate) => self.look_later(now),
            (_, State::Idle | State::Closing(_)) => {}
        }
    }

    pub(super) fn take_conflict(&mut self, pending: &Pending<Asked>, now: Instant) {
        self.unsure = true;
        match (pending.purpose.purpose, self.seat.state) {
            (Purpose::Release, _) => self.released(now),
            (_, State::Candidate) if self.seat.stopping => self.seat.idle(),
            // Once at once; in a storm of them at the pace of failures.
            (_, State::Active(_) | State::Candidate) => {
                let wait = self.seat.pace.failed(self.seat.timing.renew);
                self.seat.look_at(if wait <= BACKOFF_MIN { now } else { now + wait });
            }
            (_, State::Idle | State::Closing(_)) => {}
        }
    }

    /// Takes a version. Its clock starts anew when its content is another.
    pub(super) fn observe(&mut self, object: Object, now: Instant) {
        let since = match &self.known {
            Known::Object(known, since) if known.record == object.record => *since,
            Known::Object(..) | Known::Absent(_) | Known::Nothing => now,
        };
        if !object.record.holder.is_empty() {
            self.last_duration = object.record.duration;
        }
        self.known = Known::Object(object, since);
    }

    pub(super) fn observe_absence(&mut self, now: Instant) {
        // After a time without sight it may have come and gone: another absence.
        if self.unsure || !matches!(self.known, Known::Absent(_)) {
            self.known = Known::Absent(now);
        }
    }
}
