//! What sites tell one another: records with versions, sent as differences, never compared by clocks.
//!
//! Contract: feed `handle_*` with a `now` that never goes back; after every call take [`State::poll_action`] until `None` and carry out each
//! action in order; call [`State::handle_expire`] at or after [`State::poll_timeout`].
//!
//! Each site writes its own records and nobody else's: the session says whose they are, so a forged origin cannot be expressed. A version is
//! (incarnation, sequence). An incarnation is a process: one more than what the disk says, and than what any peer has ever read, so that a
//! wiped disk cannot bring back an old time. A reader's position is one number; who is behind it gets what was written since, who is
//! lost gets everything. A beat every 10 s says that nothing else is new, which makes all that is held fresh without sending it again, and
//! carries a digest, which finds what should not differ (anti-entropy).
//!
//! Each relay of a site writes as a process of its own, with the name in its certificate, and has one session with each other site at a
//! time; with which of its relays is the driver's matter. How far a writer was read is kept by its name (ADR 0043): a session that turns to
//! another relay of the site begins with all that this one says, which replaces what the former said.

mod hear;
pub mod io;
mod limit;
pub mod message;
mod reach;
pub mod record;
mod session;
mod store;
#[cfg(test)]
mod tests;
pub mod version;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use crate::site::SiteId;
use crate::site::summary::{ServiceId, Summary};
use crate::time::{Instant, TimerTable};
use io::{Action, CloseReason, Config, PeerConfig, Refused, Report};
use message::{Cursor, Message, RECORDS};
use record::{Body, Key, Record};
use session::{COALESCE, LAZY, Session};
use store::{Ours, Theirs};

/// How often a reader is told that it has everything.
pub const BEAT: Duration = Duration::from_secs(10);
/// A session without a message for so long is closed: three beats.
const SILENCE: Duration = Duration::from_secs(30);
/// A session that stood for so long, and ends, is looked for again at once (`limit`): as long as a relay that is silent is believed.
const STOOD: Duration = super::lead::HOLD;
/// A digest that differs asks for everything at most so often (sites.md 4.4).
const ENTROPY: Duration = Duration::from_secs(60);
/// Peers are asked for our own past for so long before anything is written (sites.md 4.10).
pub const LEARN: Duration = Duration::from_secs(10);
/// A summary that moved by so much is sent in a quarter of a second: a sixteenth of the endpoints, a twentieth of the load.
const STEPS: (u32, u32) = (16, 20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    Dial(SiteId),
    Flush(SiteId),
    /// A change of what we reach has waited for its turn.
    Reach(SiteId),
    Beat,
    Learned,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct State {
    config: Config,
    own: Cursor,
    ours: Ours,
    theirs: BTreeMap<SiteId, Theirs>,
    sessions: BTreeMap<SiteId, Session>,
    /// Peers are still being asked for our past.
    learning: bool,
    /// Foreign processes that wrote as this relay, with the incarnation above which we went, since this relay leads or does not.
    outbid: BTreeMap<u64, u64>,
    /// Another one writes as us: nothing is exported any more.
    duplicate: bool,
    /// How long the message that is heard may have waited.
    late: Duration,
    /// Sites of which two processes write.
    contested: BTreeMap<SiteId, u64>,
    /// What this site reaches.
    reach: BTreeMap<SiteId, bool>,
    timers: TimerTable<Timer>,
    actions: VecDeque<Action>,
}

impl State {
    /// A machine that has written nothing and knows nobody.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Beat, now + BEAT);
        timers.set(Timer::Learned, now + LEARN);
        let own = Cursor { incarnation: config.incarnation.max(1), instance: config.instance, seq: 0 };
        let mut new = Self {
            own,
            ours: Ours::default(),
            theirs: BTreeMap::new(),
            sessions: BTreeMap::new(),
            learning: true,
            outbid: BTreeMap::new(),
            duplicate: false,
            late: Duration::ZERO,
            contested: BTreeMap::new(),
            reach: BTreeMap::new(),
            timers,
            actions: VecDeque::from([Action::Persist(own.incarnation)]),
            config,
        };
        new.fit(now);
        new
    }

    /// Other peers, prefixes and rights. What a peer may see and we want is settled anew with each session, so those that differ are closed.
    pub fn handle_config(&mut self, peers: BTreeMap<SiteId, PeerConfig>, now: Instant) {
        let old = core::mem::replace(&mut self.config.peers, peers);
        for (site, before) in old {
            if self.config.peers.get(&site) != Some(&before) && self.sessions.get(&site).is_some_and(|s| s.connected) {
                self.close(site, CloseReason::Removed, now);
            }
        }
        self.fit(now);
    }

    /// This site writes. `None`: there is none any more.
    pub fn handle_local(&mut self, key: Key, body: Option<Body>, now: Instant) {
        let Some(before) = self.ours.write(key, body, now) else { return };
        let urgent = Body::urgent(before.as_ref(), body.as_ref());
        let delay = match (urgent, before, body) {
            (true, ..) => Duration::ZERO,
            (false, Some(Body::Service(a)), Some(Body::Service(b))) if !far(&a, &b) => LAZY,
            (false, ..) => COALESCE,
        };
        for site in self.sessions.keys().copied().collect::<Vec<_>>() {
            if let Some(session) = self.sessions.get_mut(&site) {
                session.note(key, delay, urgent, now);
                if urgent {
                    self.flush(site, now);
                } else {
                    self.hurry(site, now);
                }
            }
        }
    }

    /// This relay begins to speak for its site: where it has no session, it calls at once.
    ///
    /// Readers of before ADR 0043 know one writer of a site and not its name: two relays that take turns go above one another there, and that
    /// is no accident. What was seen in one turn says nothing about the next.
    pub fn handle_lead(&mut self, now: Instant) {
        self.outbid.clear();
        for (site, session) in self.sessions.iter_mut().filter(|(_, session)| !session.connected) {
            session.backoff.soon();
            self.timers.set(Timer::Dial(*site), now);
        }
    }

    /// A session with a site stands, with the only relay that it has, or with one whose name is of no interest.
    pub fn handle_connected(&mut self, site: SiteId, now: Instant) {
        self.handle_relay(site, "", now);
    }

    /// A session with this relay of a site stands, dialled by either side. An earlier one is forgotten; that it is over is no news, for this one is
    /// there.
    pub fn handle_relay(&mut self, site: SiteId, relay: &str, now: Instant) {
        if let Some(theirs) = self.theirs.get_mut(&site) {
            theirs.turn_to(relay);
        }
        let Some(session) = self.sessions.get_mut(&site) else {
            return self.actions.push_back(Action::Close(site, CloseReason::Removed));
        };
        session.reset();
        session.connected = true;
        (session.since, session.heard_at) = (now, now);
        self.timers.stop(Timer::Dial(site));
        self.hello(site);
    }

    /// A session ended, or could not be made.
    pub fn handle_disconnected(&mut self, site: SiteId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&site) else { return };
        if core::mem::take(&mut session.shown) {
            self.actions.push_back(Action::Report(Report::Session { site, up: false }));
            // One that ends as soon as it stands has no successor to wait for.
            if now.since(session.since) >= STOOD {
                session.backoff.soon();
            }
        }
        session.reset();
        let wait = session.backoff.failed(self.config.seed ^ u64::from(site.0));
        self.timers.set(Timer::Dial(site), now + wait);
        self.timers.stop(Timer::Flush(site));
    }

    /// A message arrived on the session of a site.
    pub fn handle_bytes(&mut self, site: SiteId, bytes: &[u8], now: Instant) {
        self.handle_late(site, bytes, Duration::ZERO, now);
    }

    /// The same of a message that may have waited for so long before it was read ([`super::partner::Pulse::late`]): what it says is that much older
    /// than it says.
    pub fn handle_late(&mut self, site: SiteId, bytes: &[u8], late: Duration, now: Instant) {
        self.late = late;
        let Some(session) = self.sessions.get_mut(&site).filter(|s| s.connected) else { return };
        if !session.admit(bytes.len(), now) {
            return self.close(site, CloseReason::Flood, now);
        }
        let newer = session.speaks.is_some_and(|(theirs, _)| theirs.newest > self.config.speaks.newest);
        let Ok(heard) = Message::read(bytes, newer) else {
            return self.close(site, CloseReason::Malformed, now);
        };
        if let Some(theirs) = self.theirs.get_mut(&site) {
            theirs.refused.unknown += u64::from(heard.skipped);
        }
        if let Some(message) = heard.message {
            self.hear(site, message, now);
        }
    }

    /// Tells a site that we need room, or lend it some.
    pub fn handle_credit(&mut self, to: SiteId, service: ServiceId, amount: u32, lend: bool) {
        if self.sessions.get(&to).is_some_and(|s| s.greeted) && !self.duplicate {
            let message = if lend { Message::Lend { service, amount } } else { Message::Ask { service, amount } };
            self.send(to, &message);
        }
    }

    /// Deadlines passed.
    pub fn handle_expire(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Dial(site) => self.actions.push_back(Action::Dial(site)),
                Timer::Flush(site) => self.flush(site, now),
                Timer::Reach(site) => self.say_reach(site, false, now),
                Timer::Beat => self.beat(now),
                Timer::Learned => self.learned(now),
            }
        }
    }

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Next time [`Self::handle_expire`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// All that is known of a site, with ages.
    pub fn records(&self, origin: SiteId, now: Instant) -> impl Iterator<Item = (Key, Body, Duration)> {
        self.theirs.get(&origin).into_iter().flat_map(move |t| t.iter(now))
    }

    /// How far the relay of a site has been read with which the session is, or was last.
    pub fn cursor(&self, origin: SiteId) -> Cursor {
        self.theirs.get(&origin).map(|t| t.cursor).unwrap_or_default()
    }

    /// Who writes here, and how far it has come.
    pub const fn own(&self) -> Cursor {
        Cursor { seq: self.ours.head, ..self.own }
    }

    /// The version of the session with a site, and what the site runs, as far as it says so.
    pub fn speaks(&self, site: SiteId) -> (Option<u8>, Option<&str>) {
        let session = self.sessions.get(&site);
        let agreed = session.and_then(|session| session.speaks).map(|(_, agreed)| agreed);
        (agreed, session.and_then(|session| session.build.as_deref()))
    }

    /// Refused of a peer, since start.
    pub fn refused(&self, site: SiteId) -> Refused {
        self.theirs.get(&site).map(|t| t.refused).unwrap_or_default()
    }

    /// Records held of a site, those without effect included: what bounds memory.
    pub fn held(&self, site: SiteId) -> usize {
        let staged = self.sessions.get(&site).and_then(|s| s.staging.as_ref()).map_or(0, |s| s.records.len());
        self.theirs.get(&site).map_or(0, Theirs::len) + staged
    }

    /// Another process writes as this relay.
    pub const fn duplicate(&self) -> bool {
        self.duplicate
    }

    fn fit(&mut self, now: Instant) {
        let peers = &self.config.peers;
        self.theirs.retain(|site, _| peers.contains_key(site));
        self.sessions.retain(|site, _| peers.contains_key(site));
        for site in peers.keys() {
            let _held = self.theirs.entry(*site).or_default();
            if !self.sessions.contains_key(site) {
                let _new = self.sessions.insert(*site, Session::new(now));
                self.timers.set(Timer::Dial(*site), now);
            }
        }
    }

    fn learned(&mut self, now: Instant) {
        self.learning = false;
        for site in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.start(site, now);
        }
    }

    fn hello(&mut self, site: SiteId) {
        let read = self.cursor(site);
        let own = self.own();
        let speaks = self.config.speaks;
        self.send(site, &Message::Hello { own, read, speaks });
        if let Some(instance) = self.contested.get(&site).copied() {
            self.send(site, &Message::Contested { instance });
        }
    }

    /// What the peer's version does not have is not sent to it. Before its Hello that is all but the first version.
    fn send(&mut self, site: SiteId, message: &Message) {
        let agreed = self.sessions.get(&site).and_then(|session| session.speaks).map_or(1, |(_, agreed)| agreed);
        if message.since() <= agreed {
            self.actions.push_back(Action::Send(site, message.encode()));
        }
    }

    fn close(&mut self, site: SiteId, reason: CloseReason, now: Instant) {
        self.actions.push_back(Action::Close(site, reason));
        if let Some(theirs) = self.theirs.get_mut(&site) {
            theirs.refused.closed += 1;
        }
        self.handle_disconnected(site, now);
    }

    fn flush(&mut self, site: SiteId, now: Instant) {
        if self.duplicate || self.learning {
            return;
        }
        let (Some(session), Some(peer)) = (self.sessions.get_mut(&site), self.config.peers.get(&site)) else { return };
        if let Some(message) = session.flush(&self.ours, self.own.incarnation, peer, now) {
            self.send(site, &message);
        }
        self.watch(site, now);
    }

    /// A key waits that did not: it may be due before all others. What is due already keeps its turn, or writes that follow one another faster than
    /// turns would put it off for ever.
    fn hurry(&mut self, site: SiteId, now: Instant) {
        let next = self.sessions.get(&site).and_then(|s| s.next(now));
        let set = self.timers.get(Timer::Flush(site));
        if let Some(at) = next.filter(|at| set.is_none_or(|set| *at < set)) {
            self.timers.set(Timer::Flush(site), at);
        }
    }

    fn watch(&mut self, site: SiteId, now: Instant) {
        let next = self.sessions.get(&site).and_then(|s| s.next(now));
        match next {
            // Parts of a snapshot follow one another without a pause, in turns of the driver.
            Some(at) => self.timers.set(Timer::Flush(site), at),
            None => self.timers.stop(Timer::Flush(site)),
        }
    }

    fn beat(&mut self, now: Instant) {
        self.timers.set(Timer::Beat, now + BEAT);
        self.ours.bury(now);
        for site in self.sessions.keys().copied().collect::<Vec<_>>() {
            let (Some(session), Some(peer)) = (self.sessions.get(&site), self.config.peers.get(&site)) else {
                continue;
            };
            if session.connected && now.since(session.heard_at) >= SILENCE {
                self.close(site, CloseReason::Silent, now);
                continue;
            }
            if session.greeted && session.parts.is_empty() && !self.duplicate && !self.learning {
                let (lag, head) = (session.lag(now), session.sent);
                let root = self.ours.root(self.config.here, peer);
                self.send(site, &Message::Beat { incarnation: self.own.incarnation, head, lag, root });
            }
            self.say_reach(site, true, now);
        }
    }

    /// Everything, in parts.
    fn snapshot(&mut self, site: SiteId, now: Instant) {
        let (Some(session), Some(peer)) = (self.sessions.get_mut(&site), self.config.peers.get(&site)) else { return };
        let shown = |key: &Key| self.ours.shown(key, peer, now).filter(|r| r.body.is_some());
        let records: Vec<Record> = self.ours.records.keys().filter_map(shown).collect();
        let (incarnation, head) = (self.own.incarnation, self.ours.head);
        session.pending.clear();
        session.parts.clear();
        session.sent = head;
        let count = records.len().div_ceil(RECORDS).max(1);
        for part in 0..count {
            let records = records.iter().skip(part * RECORDS).take(RECORDS).copied().collect();
            let (part, last) = (u32::try_from(part).unwrap_or(u32::MAX), part + 1 == count);
            session.parts.push_back(Message::Snapshot { incarnation, head, part, last, records });
        }
        self.timers.set(Timer::Flush(site), now);
    }
}

/// Is the difference worth a message soon?
fn far(a: &Summary, b: &Summary) -> bool {
    let step = |x: u32, y: u32, whole: u32, parts: u32| x.abs_diff(y).saturating_mul(parts) >= whole.max(1);
    let whole = u32::from(a.expected.max(b.expected));
    let loads = a.capacity.max(b.capacity);
    step(u32::from(a.ready), u32::from(b.ready), whole, STEPS.0)
        || a.expected != b.expected
        || step(a.capacity, b.capacity, loads, STEPS.1)
        // Nobody reckons with the demand of a site that cannot say what it carries.
        || loads > 0 && step(a.demand, b.demand, loads.max(a.demand).max(b.demand), STEPS.1)
}
