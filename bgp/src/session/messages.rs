//! Messages by state (RFC 4271 section 8.2.2, events 19 to 28), and collisions (section 6.8).

use core::time::Duration;

use crate::event::Event;
use crate::io::Conn;
use crate::session::collision::{Winner, winner};
use crate::session::ending::{Last, Next};
use crate::session::intake::Limit;
use crate::session::last_error::refusal;
use crate::session::link::{Link, Phase};
use crate::session::machine::{Effect, Session, Timer};
use crate::session::negotiate::{Negotiated, accept};
use crate::time::Instant;
use crate::wire::header::Frame;
use crate::wire::notification::{Cease, FsmState, open_error};
use crate::wire::{
    DecodeContext, Disposition, Message, MessageType, Notification, NotificationCode, Open, RouteRefresh, Update,
};

/// How long a young Established connection tolerates the one that the identifiers prefer. The neighbor may not have seen this one
/// Established and drop it by section 6.8; if both ends then dropped "the other" one, none would be left. Longer than any round trip
/// and the first retransmission of a lost segment.
const COLLISION_WAIT: Duration = Duration::from_secs(2);

/// Refreshes of one family are answered at most so often; more requests become one (RFC 7313 section 4 leaves the pace to us). The table
/// of 10,000 routes costs 17 ms of encoding: a neighbor that asks without a pause gets a thirtieth of a core, and a person who asks twice
/// does not notice.
const REFRESH_EVERY: Duration = Duration::from_millis(500);

impl Session {
    pub(super) fn handle_message(&mut self, conn: Conn, frame: &Frame, now: Instant) {
        self.counters.received.count(frame.kind.code());
        let Some(link) = self.link(conn) else { return };
        let phase = link.phase;
        let expected = match frame.kind {
            MessageType::Notification => true,
            MessageType::Open => phase == Phase::OpenSent,
            MessageType::Keepalive => phase >= Phase::OpenConfirm,
            MessageType::Update | MessageType::RouteRefresh => phase == Phase::Established,
        };
        if !expected {
            let state = match phase {
                Phase::Connecting | Phase::Parked | Phase::OpenSent => FsmState::OpenSent,
                Phase::OpenConfirm => FsmState::OpenConfirm,
                Phase::Established => FsmState::Established,
            };
            return self.fail(conn, Notification::fsm_error(state, frame.kind), now);
        }
        let context = link.agreed.as_ref().map(decode_context).unwrap_or_default();
        match Message::decode(frame, &context) {
            Err(notification) => self.fail(conn, notification, now),
            Ok(Message::Open(open)) => self.handle_open(conn, open, now),
            Ok(Message::Notification(notification)) => self.handle_notification(conn, notification, now),
            Ok(Message::Keepalive) => {
                self.heard(conn, now);
                if phase == Phase::OpenConfirm {
                    self.establish(conn, now);
                }
            }
            Ok(Message::Update(update)) => {
                self.heard(conn, now);
                self.handle_update(&update, now);
            }
            Ok(Message::RouteRefresh(request)) => {
                self.heard(conn, now);
                self.handle_refresh(request, now);
            }
        }
    }

    /// Restarts the hold timer.
    fn heard(&mut self, conn: Conn, now: Instant) {
        if let Some(hold) = self.link(conn).and_then(|link| link.agreed.as_ref()).and_then(Negotiated::hold) {
            self.timers.set(Timer::Hold(conn), now + hold);
        }
    }

    /// Event 19.
    fn handle_open(&mut self, conn: Conn, open: Open, now: Instant) {
        self.unreachable_said = false;
        let Some(ours) = self.link(conn).and_then(|link| link.offer.clone()) else { return };
        let agreed = match accept(&self.config, self.local, &ours, &open) {
            Ok(agreed) => agreed,
            Err(notification) => {
                let reason = format!("we refuse its OPEN (AS {}, identifier {})", open.asn(), open.id);
                return self.end(conn, Last::Say(*notification), Next::Refused, &reason, now);
            }
        };
        match self.collide(conn, &agreed, now) {
            Collision::None => {}
            Collision::Lost => return self.lose(conn, now),
            Collision::Later => {
                if let Some(link) = self.link(conn) {
                    link.deferred = Some(Box::new(open));
                }
                return;
            }
        }
        let hold = agreed.hold();
        let Some(link) = self.link(conn) else { return };
        link.agreed = Some(agreed);
        link.phase = Phase::OpenConfirm;
        link.queue_keepalive();
        match hold {
            Some(hold) => self.timers.set(Timer::Hold(conn), now + hold),
            None => self.timers.stop(Timer::Hold(conn)),
        }
        self.arm_keepalive(conn, now);
        self.settle("OPEN received", now);
    }

    /// Which of two connections stays, when an acceptable OPEN came on `conn`.
    fn collide(&mut self, conn: Conn, agreed: &Negotiated, now: Instant) -> Collision {
        let dialled = self.link(conn).is_some_and(|link| link.dialled);
        let preferred = (winner(self.local, agreed.peer) == Winner::Dialled) == dialled;
        let other = self.links.iter().filter(|link| link.conn != conn).max_by_key(|link| link.phase);
        let Some(other) = other.filter(|link| link.phase >= Phase::OpenConfirm) else { return Collision::None };
        let other_conn = other.conn;
        match other.established {
            None if preferred => {
                self.lose(other_conn, now);
                Collision::None
            }
            None => Collision::Lost,
            Some(since) => {
                let kept = other.agreed.as_ref().and_then(|agreed| agreed.graceful);
                if agreed.graceful.is_some_and(|graceful| graceful.restarting)
                    && kept.is_some_and(|graceful| !graceful.families.is_empty())
                {
                    // It restarted faster than its old connection timed out (RFC 4724 section 4.2): that one is dead.
                    self.end(other_conn, Last::Silent, Next::Retry, "the neighbor restarted", now);
                    return Collision::None;
                }
                // An Established connection stays, but see COLLISION_WAIT.
                let young = now.since(since) < COLLISION_WAIT && other.dialled != dialled;
                if young && preferred {
                    self.timers.set(Timer::Collision(conn), since + COLLISION_WAIT);
                    Collision::Later
                } else {
                    Collision::Lost
                }
            }
        }
    }

    /// The Established connection went: what waited behind it is judged anew.
    pub(super) fn resume_deferred(&mut self, now: Instant) {
        let waiting = self.links.iter_mut().find_map(|link| Some((link.conn, link.deferred.take()?)));
        if let Some((conn, open)) = waiting {
            self.timers.stop(Timer::Collision(conn));
            self.handle_open(conn, *open, now);
            self.read(conn, now);
        }
    }

    /// Events 24 and 25.
    fn handle_notification(&mut self, conn: Conn, notification: Notification, now: Instant) {
        let Some(link) = self.link(conn) else { return };
        let (phase, offer) = (link.phase, link.offer.clone());
        let (code, subcode) = (notification.code, notification.subcode);
        if phase == Phase::Established {
            return self.end(conn, Last::Heard(notification), Next::Fail, "", now);
        }
        if code == NotificationCode::Cease && subcode == Cease::ConnectionCollisionResolution as u8 {
            return self.end(conn, Last::Heard(notification), Next::Retry, "", now);
        }
        let reduces = code == NotificationCode::Open
            && matches!(
                subcode,
                open_error::UNSPECIFIC
                    | open_error::UNSUPPORTED_OPTIONAL_PARAMETER
                    | open_error::UNSUPPORTED_CAPABILITY
            );
        if reduces && let Some(rung) = self.rung.below(&self.config, self.local.asn) {
            self.rung = rung;
            let without = rung.without().to_owned();
            self.end(conn, Last::Heard(notification), Next::Fail, "peer refused our capabilities", now);
            return self.report(Event::CapabilitiesReduced { neighbor: self.config.name.clone(), without });
        }
        let hold_time = offer.map_or(self.config.hold_time, |offer| offer.hold_time);
        match refusal(&notification, self.local.asn, hold_time, self.local.id) {
            // The next OPEN would be refused too: only a hand at one of the two ends cures that, so the neighbor is not bothered.
            Some(reason) => {
                self.rung = Default::default();
                self.end(conn, Last::Heard(notification), Next::Refused, &reason, now);
            }
            None => {
                self.end(conn, Last::Heard(notification), Next::Fail, "", now);
            }
        }
    }

    /// Event 26 in OpenConfirm.
    fn establish(&mut self, conn: Conn, now: Instant) {
        let Some(link) = self.link(conn) else { return };
        link.phase = Phase::Established;
        link.established = Some(now);
        let peer = link.agreed.as_ref().map(|agreed| agreed.peer);
        self.lived = true;
        self.counters.established += 1;
        self.timers.stop(Timer::ConnectRetry);
        self.effects.push_back(Effect::Up(conn));
        for (other, dialled, open) in self.others(conn) {
            let preferred = peer.is_some_and(|peer| (winner(self.local, peer) == Winner::Dialled) == dialled);
            if open && preferred {
                self.timers.set(Timer::Collision(other), now + COLLISION_WAIT);
            } else {
                self.lose(other, now);
            }
        }
        self.settle("KEEPALIVE received", now);
    }

    fn others(&self, conn: Conn) -> Vec<(Conn, bool, bool)> {
        let others = self.links.iter().filter(|link| link.conn != conn);
        others.map(|link| (link.conn, link.dialled, Link::is_open(link))).collect()
    }

    /// Event 27.
    fn handle_update(&mut self, update: &Update, now: Instant) {
        if update.disposition != Disposition::Accept || !update.errors.is_empty() {
            self.counters.malformed += 1;
            if let Some(reason) = self.intake.malformed(update, now) {
                self.report(Event::Malformed { neighbor: self.config.name.clone(), reason });
            }
        }
        let limit = self.intake.count(update, self.config.max_prefix, self.config.max_prefix_action);
        self.apply_limit(limit, now);
    }

    pub(super) fn apply_limit(&mut self, limit: Limit, now: Instant) {
        let Limit::Passed { family, prefixes, limit, action } = limit else { return };
        self.report(Event::PrefixLimit { neighbor: self.config.name.clone(), prefixes, limit });
        if action == crate::config::MaxPrefixAction::Reset {
            let reason = format!("more than {limit} prefixes; held down until an operator or a new configuration");
            let cease = Notification::maximum_prefixes(family, limit);
            self.end_all(&cease, true, Next::Stop(reason.clone()), &reason, now);
        }
    }

    /// RFC 2918 section 4, RFC 7313 section 4.
    fn handle_refresh(&mut self, request: RouteRefresh, now: Instant) {
        let Some(agreed) = self.established_link().and_then(|link| link.agreed.as_ref()) else { return };
        // The neighbor's own marks, unknown subtypes, and families that are not exchanged: nothing to do.
        let wanted = request.family().filter(|family| agreed.families.contains(*family));
        let Some(family) = wanted.filter(|_| request.subtype == RouteRefresh::REQUEST && agreed.route_refresh) else {
            return;
        };
        self.counters.refreshes += 1;
        if self.timers.get(Timer::Refresh(family)).is_some() {
            if !self.refresh_again.contains(&family) {
                self.refresh_again.push(family);
            }
        } else {
            self.refresh(family, now);
        }
    }

    pub(super) fn refresh(&mut self, family: crate::wire::Family, now: Instant) {
        self.timers.set(Timer::Refresh(family), now + REFRESH_EVERY);
        self.effects.push_back(Effect::Refresh(family));
    }
}

enum Collision {
    None,
    Lost,
    Later,
}

fn decode_context(agreed: &Negotiated) -> DecodeContext {
    DecodeContext {
        four_octet_as: agreed.four_octet_as,
        families: agreed.families,
        ibgp: agreed.ibgp,
        enhanced_refresh: agreed.enhanced_refresh,
    }
}
