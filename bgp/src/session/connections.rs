//! What the driver tells about connections, and what is written on them.

use core::time::Duration;

use crate::event::Event;
use crate::io::{Action, Conn};
use crate::rib::Batch;
use crate::session::ending::{Last, Next};
use crate::session::link::{Link, LocalEnd, Phase};
use crate::session::machine::{Run, Session, Timer};
use crate::session::negotiate::{Restarted, offer};
use crate::time::Instant;
use crate::wire::header::{MAX_LEN, MAX_LEN_EXTENDED};
use crate::wire::{FamilySet, Notification};

/// Hold time before the OPENs are exchanged: "a large value", 4 minutes suggested (RFC 4271 section 8.2.2).
const OPEN_HOLD: Duration = Duration::from_secs(240);

/// Most bytes of one write: what may be encoded before the next KEEPALIVE gets its turn.
pub const WRITE_MAX: usize = 64 * 1024;

/// Least SendHoldTime (RFC 9687 section 6).
const SEND_HOLD_LEAST: Duration = Duration::from_secs(480);

/// What may be kept unread while a second connection waits for its verdict.
const DEFERRED_BYTES: usize = 2 * MAX_LEN;

/// Asked for routes to write on an Established connection.
pub struct Room<'a> {
    /// Which connection.
    pub conn: Conn,
    /// Append at most so many bytes ...
    pub budget: usize,
    /// ... in messages of at most so many.
    pub max_message: usize,
    /// ... here.
    pub out: &'a mut Vec<u8>,
}

impl Session {
    /// The connection that was dialled stands (RFC 4271 event 16).
    pub fn handle_connected(&mut self, conn: Conn, local: LocalEnd, now: Instant) {
        let Some(link) = self.link(conn).filter(|link| link.phase == Phase::Connecting) else { return };
        link.local = Some(local);
        self.timers.stop(Timer::ConnectRetry);
        self.open(conn, now);
        self.settle("connected", now);
    }

    /// It could not be made (event 18). RFC 4271 goes to Idle; like every speaker in use we wait in Active, where the neighbor may dial.
    pub fn handle_connect_failed(&mut self, conn: Conn, error: &str, now: Instant) {
        if self.link(conn).is_none_or(|link| link.phase != Phase::Connecting) {
            return;
        }
        self.links.retain(|link| link.conn != conn);
        self.unreachable(error, now);
        self.settle(error, now);
    }

    /// The neighbor dialled (event 17). False when it is not wanted; the caller closes it then.
    #[must_use]
    pub fn handle_accepted(&mut self, conn: Conn, local: LocalEnd, now: Instant) -> bool {
        let wanted = self.config.mode != crate::config::Mode::Active
            && match self.run {
                Run::Stopped(_) => false,
                Run::Resting => !self.path.blocks(),
                Run::Trying => true,
            };
        if !wanted {
            return false;
        }
        // A neighbor dials once at a time: the earlier connection is dead at its end, whatever we believe.
        let earlier = self.links.iter().find(|link| !link.dialled && link.phase != Phase::Established);
        if let Some(earlier) = earlier.map(|link| link.conn) {
            self.lose(earlier, now);
        }
        self.links.push(Link::new(conn, false, Phase::Parked, Some(local)));
        if self.run == Run::Trying {
            self.open(conn, now);
            self.settle("the neighbor dialled", now);
        }
        true
    }

    /// Sends the OPEN (end of Connect and Active).
    fn open(&mut self, conn: Conn, now: Instant) {
        let restarted = match &self.former {
            // What stood while we lived needs no marker: only the connection was lost.
            _ if self.lived => Restarted { restarting: false, forwarding: self.config.families },
            Some(former) => Restarted { restarting: former.restarting(now), forwarding: former.forwarding(now) },
            None => Restarted { restarting: false, forwarding: FamilySet::EMPTY },
        };
        let open = offer(&self.config, self.local, self.rung, restarted);
        let Some(link) = self.link(conn) else { return };
        link.queue(|out| open.encode(out).expect("two families and a handful of flags fit in an OPEN"));
        link.offer = Some(open);
        link.phase = Phase::OpenSent;
        self.timers.set(Timer::Hold(conn), now + OPEN_HOLD);
    }

    /// A connection that was accepted in Idle gets its turn.
    pub(super) fn unpark(&mut self, conn: Conn, now: Instant) {
        self.open(conn, now);
        if let Some(early) = self.link(conn).map(|link| core::mem::take(&mut link.early)) {
            self.handle_received(conn, &early, now);
        }
    }

    /// Bytes arrived.
    pub fn handle_received(&mut self, conn: Conn, bytes: &[u8], now: Instant) {
        let Some(link) = self.link(conn) else { return };
        if link.phase == Phase::Parked {
            if !link.keep_early(bytes) {
                self.end(conn, Last::Silent, Next::Retry, "more than an OPEN before ours", now);
            }
            return;
        }
        // A driver that feeds bytes before `Connected` is wrong; the neighbor is not to blame.
        if link.phase != Phase::Connecting {
            link.framer.push(bytes);
            self.read(conn, now);
        }
    }

    /// Handles every whole message there is.
    pub(super) fn read(&mut self, conn: Conn, now: Instant) {
        while let Some(link) = self.link(conn) {
            if link.deferred.is_some() {
                if link.framer.pending() > DEFERRED_BYTES {
                    self.lose(conn, now);
                }
                return;
            }
            let extended = link.agreed.as_ref().is_some_and(|agreed| agreed.extended_receive);
            match link.framer.next(if extended { MAX_LEN_EXTENDED } else { MAX_LEN }) {
                Ok(None) => return,
                Ok(Some(frame)) => self.handle_message(conn, &frame, now),
                Err(notification) => self.fail(conn, notification, now),
            }
        }
    }

    /// An error of the neighbor's bytes.
    pub(super) fn fail(&mut self, conn: Conn, notification: Notification, now: Instant) {
        self.end(conn, Last::Say(notification), Next::Fail, "", now);
    }

    /// The kernel took bytes.
    pub fn handle_written(&mut self, conn: Conn, pending: usize, unacknowledged: Option<usize>, now: Instant) {
        let Some(link) = self.link(conn) else { return };
        link.unacknowledged = unacknowledged.or(link.unacknowledged);
        let progress = pending < link.in_flight;
        link.in_flight = pending.min(link.in_flight);
        let batch = if link.in_flight == 0 { link.batch.take() } else { None };
        if link.in_flight == 0 {
            self.timers.stop(Timer::SendHold(conn));
        } else if progress {
            self.arm_send_hold(conn, now);
        }
        if let Some(batch) = batch {
            self.report_batch(&batch, now);
        }
    }

    fn report_batch(&mut self, batch: &Batch, now: Instant) {
        let neighbor = || self.config.name.clone();
        let mut events = Vec::new();
        if batch.announced + batch.withdrawn > 0 {
            events.push(Event::Sent {
                neighbor: neighbor(),
                announced: batch.announced,
                withdrawn: batch.withdrawn,
                latency: batch.oldest.map(|oldest| now.since(oldest)).unwrap_or_default(),
            });
        }
        events.extend(batch.end_of_rib.iter().map(|family| Event::EndOfRib { neighbor: neighbor(), family: *family }));
        events.into_iter().for_each(|event| self.report(event));
    }

    /// The neighbor closed, or the connection broke (event 18).
    pub fn handle_closed(&mut self, conn: Conn, error: Option<&str>, now: Instant) {
        let Some(link) = self.links.iter().find(|link| link.conn == conn) else { return };
        let error = error.unwrap_or("the neighbor closed the connection");
        match link.phase {
            Phase::Connecting => self.handle_connect_failed(conn, error, now),
            Phase::Parked => self.end(conn, Last::Gone, Next::Retry, error, now),
            Phase::OpenSent => {
                let reason = format!("closed before an OPEN came: {error}");
                let others = self.links.len() > 1;
                self.end(conn, Last::Gone, Next::Retry, &reason, now);
                if !others {
                    self.unreachable(&reason, now);
                }
            }
            Phase::OpenConfirm | Phase::Established => {
                self.end(conn, Last::Gone, Next::Fail, error, now);
            }
        }
    }

    /// Writes what waits, one write at a time and connection. `routes` is asked to fill an Established connection's.
    pub fn pump(&mut self, now: Instant, mut routes: impl FnMut(&mut Room<'_>) -> Option<Batch>) {
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            if !link.is_open() || link.in_flight > 0 {
                continue;
            }
            let conn = link.conn;
            let mut bytes = link.take_control();
            if let (Phase::Established, Some(agreed)) = (link.phase, &link.agreed) {
                let max_message = if agreed.extended_send { MAX_LEN_EXTENDED } else { MAX_LEN };
                let budget = WRITE_MAX.saturating_sub(bytes.len());
                let max_message = max_message.min(budget);
                link.batch = routes(&mut Room { conn, budget, max_message, out: &mut bytes });
            }
            if bytes.is_empty() {
                continue;
            }
            link.in_flight = bytes.len();
            link.unacknowledged = None;
            self.counters.sent.count_encoded(&bytes);
            self.act(Action::Write { conn, bytes });
            self.arm_send_hold(conn, now);
            self.arm_keepalive(conn, now);
        }
    }

    /// RFC 9687 restarts the timer with every message that leaves; one that runs only while something waits expires at the same time,
    /// and is of use with hold time 0 too.
    fn arm_send_hold(&mut self, conn: Conn, now: Instant) {
        let hold = self.link(conn).and_then(|link| link.agreed.as_ref()).and_then(|agreed| agreed.hold());
        let time = self.config.send_hold.unwrap_or_else(|| SEND_HOLD_LEAST.max(hold.unwrap_or_default() * 2));
        self.timers.set(Timer::SendHold(conn), now + time);
    }

    /// A third of the hold time from the last message (RFC 4271 section 4.4), jittered (section 10).
    pub(super) fn arm_keepalive(&mut self, conn: Conn, now: Instant) {
        let every = self.link(conn).and_then(|link| link.agreed.as_ref()).and_then(|agreed| agreed.keepalive());
        if let Some(every) = every {
            let wait = self.jitter.three_quarters(every);
            self.timers.set(Timer::Keepalive(conn), now + wait);
        }
    }

    /// Asks the driver to tell what the neighbor has acknowledged.
    pub fn watch_acknowledged(&mut self, conn: Conn) {
        if let Some(link) = self.link(conn)
            && !core::mem::replace(&mut link.watched, true)
        {
            self.act(Action::WatchAcknowledged { conn });
        }
    }

    /// Bytes not taken by the kernel, and not acknowledged by the neighbor where that is known.
    pub fn unsent(&self, conn: Conn) -> (usize, Option<usize>) {
        let link = self.links.iter().find(|link| link.conn == conn);
        link.map_or((0, None), |link| (link.in_flight, link.unacknowledged))
    }

    /// Own end of the Established connection.
    pub fn local_end(&self) -> Option<LocalEnd> {
        self.established_link().and_then(|link| link.local)
    }
}
