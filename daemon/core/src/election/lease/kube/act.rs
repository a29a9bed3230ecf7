//! What is sent.

use core::time::Duration;

use super::super::Holding;
use super::io::{Record, Request, WallMicros};
use super::{Asked, Known, KubeLease, Purpose, micros};
use crate::time::Instant;

impl KubeLease {
    pub(super) fn renew(&mut self, holding: &Holding, now: Instant) {
        match (&self.known, self.unsure) {
            (Known::Object(object, _), false) => {
                let record = Record { renewed: self.stamp(now), duration: self.duration(), ..object.record.clone() };
                let version = object.version.clone();
                self.send(Purpose::Renew, Request::Update { version, record: record.clone() }, Some(record), now);
            }
            // Somebody deleted it. Whoever creates it first has it, and the others are told so by a 409.
            (Known::Absent(_), false) => {
                let epoch = u32::try_from(holding.epoch).unwrap_or(u32::MAX);
                let record = self.record(epoch, now);
                self.send(Purpose::Renew, Request::Create(record.clone()), Some(record), now);
            }
            (Known::Nothing, _) | (_, true) => self.send(Purpose::Look, Request::Get, None, now),
        }
    }

    /// The lease is free: one more claim of it.
    pub(super) fn acquire(&mut self, now: Instant) {
        let (request, record) = match &self.known {
            Known::Object(object, _) => {
                // A claim of our own that ran out counts as one more, like that of anybody else.
                let epoch = object.record.transitions.checked_add(1).filter(|n| i32::try_from(*n).is_ok()).unwrap_or(1);
                let record = self.record(epoch, now);
                (Request::Update { version: object.version.clone(), record: record.clone() }, record)
            }
            Known::Absent(_) | Known::Nothing => {
                let record = self.record(1, now);
                (Request::Create(record.clone()), record)
            }
        };
        self.send(Purpose::Acquire, request, Some(record), now);
    }

    /// Frees the lease after everything is closed. If that fails it runs out by itself.
    pub(super) fn release(&mut self, now: Instant) {
        let Known::Object(object, _) = &self.known else { return };
        if !self.is_ours(&object.record) {
            return;
        }
        // As client-go releases: nobody named, one second.
        let record = Record {
            holder: String::new(),
            instance: None,
            duration: Duration::from_secs(1),
            renewed: self.stamp(now),
            ..object.record.clone()
        };
        let version = object.version.clone();
        self.send(Purpose::Release, Request::Update { version, record: record.clone() }, Some(record), now);
    }

    /// When a candidate looks again: seldom while a watch tells it, and as client-go does without one.
    pub(super) fn look_later(&mut self, now: Instant) {
        let timing = self.seat.timing;
        let wait = if self.seat.watching { timing.duration } else { timing.renew };
        let wait = self.seat.pace.spread(wait);
        self.seat.look_at(now + wait);
    }

    fn record(&self, transitions: u32, now: Instant) -> Record {
        let renewed = self.stamp(now);
        Record {
            holder: self.config.identity.clone(),
            instance: Some(self.config.instance.clone()),
            duration: self.duration(),
            acquired: renewed,
            renewed,
            transitions,
        }
    }

    fn duration(&self) -> Duration {
        self.seat.timing.duration
    }

    /// Later than the record's, whatever the wall clock does: a renewal must not look like the record it renews.
    fn stamp(&self, now: Instant) -> WallMicros {
        let before = match &self.known {
            Known::Object(object, _) => object.record.renewed.0,
            Known::Absent(_) | Known::Nothing => i64::MIN,
        };
        WallMicros(micros(now).saturating_add(self.wall).max(before.saturating_add(1)))
    }

    pub(super) fn send(&mut self, purpose: Purpose, request: Request, record: Option<Record>, now: Instant) {
        let creates = matches!(request, Request::Create(_));
        self.seat.send(Asked { purpose, record, creates }, request, now);
    }

    /// A release ends the participation of a machine that was told to stop; one that is barred goes on looking.
    pub(super) fn released(&mut self, now: Instant) {
        self.unsure = true;
        if self.seat.stopping {
            self.seat.idle();
        } else {
            self.look_later(now);
        }
    }
}
