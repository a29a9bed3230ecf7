//! How a connection and with it a session ends: what is said last, what is remembered, and what comes next.

use core::time::Duration;

use crate::event::Event;
use crate::io::{Action, Conn};
use crate::session::counters::count_notification;
use crate::session::last_error::{LastError, NotificationError};
use crate::session::link::{Link, Phase};
use crate::session::machine::{Effect, Run, Session, Timer};
use crate::session::negotiate::Rung;
use crate::time::Instant;
use crate::wire::notification::Cease;
use crate::wire::{Family, Notification};

/// What ends a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Last {
    /// We say this and close.
    Say(Notification),
    /// We close without a word: for a planned restart, and for what was never open.
    Silent,
    /// The neighbor said this and closes; so do we.
    Heard(Notification),
    /// The connection is gone already.
    Gone,
}

/// What the session does when no other connection carries it on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Active: the next attempt by ConnectRetry.
    Retry,
    /// Idle, longer with each failure of a series.
    Fail,
    /// Idle, at once for the longest time: trying again would only bother the neighbor.
    Refused,
    /// Idle for so long.
    Rest(Duration),
    /// Idle until told otherwise, and why.
    Stop(String),
}

/// Why a session is stopped from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The speaker shuts down, with the operator's text (RFC 9003).
    Shutdown(String),
    /// The neighbor is not configured any more.
    Deconfigured,
    /// A planned restart: no NOTIFICATION, the neighbor keeps the routes (RFC 4724 section 4).
    Restart,
}

impl Stop {
    /// NOTIFICATION, whether it must also end graceful restart, and words.
    pub(super) fn words(&self) -> (Option<Notification>, bool, String) {
        match self {
            Self::Shutdown(text) => {
                let cease = Notification::cease(Cease::AdministrativeShutdown, text);
                (Some(cease), true, format!("shut down: {text}"))
            }
            Self::Deconfigured => {
                let cease = Notification::cease(Cease::PeerDeconfigured, "");
                (Some(cease), true, "not configured any more".to_owned())
            }
            Self::Restart => (None, false, "planned restart".to_owned()),
        }
    }
}

impl Session {
    /// Ends one connection. Others that are open carry the session on; else `next` holds.
    pub(super) fn end(&mut self, conn: Conn, last: Last, next: Next, reason: &str, now: Instant) {
        let Some(reason) = self.drop_link(conn, last, reason, now) else { return };
        if !matches!(next, Next::Stop(_)) && self.links.iter().any(Link::is_open) {
            self.resume_deferred(now);
            self.settle(&reason, now);
            return;
        }
        self.rest(next, &reason, now);
    }

    /// Ends every connection, the open ones with `notification`, wrapped in a Hard Reset where `hard` asks and the neighbor understands
    /// (RFC 8538 section 3).
    pub(super) fn end_all(&mut self, notification: &Notification, hard: bool, next: Next, reason: &str, now: Instant) {
        for (conn, wrap, open) in self.links.iter().map(|l| (l.conn, keeps_routes(l), l.is_open())).collect::<Vec<_>>()
        {
            let last = match (open, hard && wrap) {
                (true, true) => Last::Say(Notification::hard_reset(notification)),
                (true, false) => Last::Say(notification.clone()),
                (false, _) => Last::Silent,
            };
            let _words = self.drop_link(conn, last, reason, now);
        }
        self.rest(next, reason, now);
    }

    pub(super) fn end_all_silently(&mut self, next: Next, reason: &str, now: Instant) {
        for conn in self.links.iter().map(|link| link.conn).collect::<Vec<_>>() {
            let _words = self.drop_link(conn, Last::Silent, reason, now);
        }
        self.rest(next, reason, now);
    }

    /// Closes a connection that is one too many: Cease, subcode 7, once an OPEN was sent on it.
    pub(super) fn lose(&mut self, conn: Conn, now: Instant) {
        let Some(open) = self.links.iter().find(|link| link.conn == conn).map(Link::is_open) else { return };
        let last =
            if open { Last::Say(Notification::cease(Cease::ConnectionCollisionResolution, "")) } else { Last::Silent };
        self.end(conn, last, Next::Retry, "connection collision", now);
    }

    fn rest(&mut self, next: Next, reason: &str, now: Instant) {
        match next {
            Next::Retry if self.run == Run::Trying => {
                let dials = self.config.mode != crate::config::Mode::Passive;
                if dials && self.links.is_empty() && self.timers.get(Timer::ConnectRetry).is_none() {
                    self.arm_connect_retry(now);
                }
            }
            Next::Retry => {}
            Next::Fail => {
                let wait = self.backoff.fail(&mut self.jitter);
                self.idle(wait, now);
            }
            Next::Refused => {
                let wait = self.backoff.refused(&mut self.jitter);
                self.idle(wait, now);
            }
            Next::Rest(wait) => self.idle(wait, now),
            Next::Stop(why) => {
                self.end_leftovers(now);
                self.run = Run::Stopped(why);
                self.timers.clear();
            }
        }
        self.settle(reason, now);
    }

    /// In Idle nothing is dialled.
    fn idle(&mut self, wait: Duration, now: Instant) {
        self.run = Run::Resting;
        self.timers.set(Timer::IdleHold, now + wait);
        self.timers.stop(Timer::ConnectRetry);
        for conn in self.links.iter().filter(|l| l.phase == Phase::Connecting).map(|l| l.conn).collect::<Vec<_>>() {
            let _words = self.drop_link(conn, Last::Silent, "", now);
        }
    }

    fn end_leftovers(&mut self, now: Instant) {
        for (conn, open) in self.links.iter().map(|link| (link.conn, link.is_open())).collect::<Vec<_>>() {
            let last = if open { Last::Say(Notification::cease(Cease::ConnectionRejected, "")) } else { Last::Silent };
            let _words = self.drop_link(conn, last, "", now);
        }
    }

    /// Takes a connection out of the machine: its last write, its timers, its routes. Answers the reason in words.
    fn drop_link(&mut self, conn: Conn, last: Last, reason: &str, now: Instant) -> Option<String> {
        let at = self.links.iter().position(|link| link.conn == conn)?;
        let mut link = self.links.remove(at);
        for timer in [Timer::Hold(conn), Timer::Keepalive(conn), Timer::SendHold(conn), Timer::Collision(conn)] {
            self.timers.stop(timer);
        }
        let last = match last {
            Last::Say(_) if self.hushed && link.established.is_some() => Last::Silent,
            last => last,
        };
        let said = match &last {
            Last::Say(notification) => Some(notification),
            Last::Silent | Last::Heard(_) | Last::Gone => None,
        };
        let bytes = link.last_words(said);
        if !bytes.is_empty() {
            self.counters.sent.count_encoded(&bytes);
            self.act(Action::Write { conn, bytes });
        }
        if last != Last::Gone {
            self.act(Action::Close { conn });
        }
        let words = self.remember(&last, reason, now);
        if let Some(established) = link.established {
            self.backoff.ended(established, now);
            self.rung = Rung::Full;
            self.intake.clear();
            self.refresh_again.clear();
            for family in Family::ALL {
                self.timers.stop(Timer::Refresh(family));
            }
            self.effects.push_back(Effect::Down(conn));
        }
        Some(words)
    }

    /// Counts, reports and keeps what ended a connection.
    fn remember(&mut self, last: &Last, reason: &str, now: Instant) -> String {
        let (sent, notification) = match last {
            Last::Say(notification) => (true, notification),
            Last::Heard(notification) => (false, notification),
            Last::Silent => return reason.to_owned(),
            Last::Gone => {
                self.last_error = Some(LastError::words(now, reason));
                return reason.to_owned();
            }
        };
        let described = notification.describe();
        let text = if reason.is_empty() || reason == described {
            described
        } else if reason.contains(&described) {
            reason.to_owned()
        } else {
            format!("{reason}: {described}")
        };
        let counters = &mut self.counters;
        let table = if sent { &mut counters.notifications_sent } else { &mut counters.notifications_received };
        count_notification(table, notification.code.number(), notification.subcode);
        self.last_error = Some(LastError {
            at: now,
            text: text.clone(),
            notification: Some(NotificationError::new(sent, notification)),
        });
        self.report(Event::Notification {
            neighbor: self.config.name.clone(),
            sent,
            code: notification.code.number(),
            subcode: notification.subcode,
            text: text.clone(),
        });
        text
    }

    /// No connection could be made; said once per series of attempts.
    pub(super) fn unreachable(&mut self, error: &str, now: Instant) {
        self.last_error = Some(LastError::words(now, error));
        if !core::mem::replace(&mut self.unreachable_said, true) {
            self.report(Event::Unreachable { neighbor: self.config.name.clone(), reason: error.to_owned() });
        }
    }
}

/// The neighbor keeps our routes through a NOTIFICATION (RFC 8538 section 2).
fn keeps_routes(link: &Link) -> bool {
    link.agreed.as_ref().and_then(|agreed| agreed.graceful).is_some_and(|graceful| graceful.notification)
}
