//! What a message of a peer does.

use super::io::{Action, CloseReason, Report};
use super::message::{Cursor, Message};
use super::record::Record;
use super::session::Staging;
use super::store::{MOST, Taken};
use super::version::Speaks;
use super::{ENTROPY, State, Timer};
use crate::site::SiteId;
use crate::time::Instant;

impl State {
    pub(super) fn hear(&mut self, site: SiteId, message: Message, now: Instant) {
        let greeted = self.sessions.get(&site).is_some_and(|s| s.greeted);
        if !greeted && !matches!(message, Message::Hello { .. } | Message::Contested { .. }) {
            return self.close(site, CloseReason::Order, now);
        }
        match message {
            Message::Hello { own, read, speaks } => self.greeted(site, own, read, speaks, now),
            Message::About { build } => {
                if let Some(session) = self.sessions.get_mut(&site) {
                    session.build = Some(build);
                }
            }
            Message::Delta { incarnation, head, records } => {
                if self.current(site, incarnation, now) {
                    records.iter().for_each(|record| self.take(site, record, now));
                    if let Some(theirs) = self.theirs.get_mut(&site) {
                        theirs.cursor.seq = theirs.cursor.seq.max(head);
                    }
                }
            }
            Message::Snapshot { incarnation, head, part, last, records } => {
                self.stage(site, incarnation, head, (part, last), records, now);
            }
            Message::Beat { incarnation, head, lag, root } => {
                if !self.current(site, incarnation, now) {
                    return;
                }
                let Some(theirs) = self.theirs.get_mut(&site) else { return };
                let whole = theirs.cursor.seq == head && (!lag.is_zero() || theirs.root(site) == root);
                if whole {
                    theirs.confirmed = Some((now, lag + self.late));
                } else {
                    self.resync(site, now);
                }
            }
            Message::Resync => self.snapshot(site, now),
            Message::Contested { instance } if instance == self.own.instance => self.contest(instance),
            Message::Contested { instance } => {
                // The site itself says that another process writes as it.
                let _known = self.contested.insert(site, instance);
            }
            Message::Ask { service, amount } => self.actions.push_back(Action::Ask { from: site, service, amount }),
            Message::Lend { service, amount } => self.actions.push_back(Action::Lend { from: site, service, amount }),
            Message::Reach { sites } => self.hear_reach(site, sites, now),
        }
    }

    fn greeted(&mut self, site: SiteId, own: Cursor, read: Cursor, theirs: Speaks, now: Instant) {
        let ours = self.config.speaks;
        let Some(session) = self.sessions.get_mut(&site) else { return };
        let Some(agreed) = ours.agree(theirs) else {
            self.actions.push_back(Action::Report(Report::Versions { site, theirs, ours }));
            return self.close(site, CloseReason::Version, now);
        };
        session.speaks = Some((theirs, agreed));
        session.backoff.succeeded();
        if !session.greeted {
            session.greeted = true;
            if !core::mem::replace(&mut session.shown, true) {
                self.actions.push_back(Action::Report(Report::Session { site, up: true }));
            }
            let build = self.config.build.clone();
            self.send(site, &Message::About { build });
            self.say_reach(site, true, now);
        }
        if let Some(theirs) = self.theirs.get_mut(&site)
            && own.incarnation > theirs.cursor.incarnation
        {
            // What it said before stays in force until its new process has said everything once.
            theirs.forget_sequences();
            theirs.confirmed = None;
            theirs.cursor = Cursor { seq: 0, ..own };
        }
        if read.incarnation >= self.own.incarnation && read.instance != self.own.instance && read.incarnation > 0 {
            return self.outbid(site, read, now);
        }
        if let Some(session) = self.sessions.get_mut(&site) {
            // Where the reader is; `start` turns it into what it lacks.
            session.sent = if read.incarnation == self.own.incarnation { read.seq } else { 0 };
        }
        self.start(site, now);
    }

    /// Begins to export to a peer that has said where it is.
    pub(super) fn start(&mut self, site: SiteId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&site).filter(|s| s.greeted) else { return };
        if self.learning || self.duplicate {
            return;
        }
        let read = session.sent;
        if read == 0 || read < self.ours.floor || read > self.ours.head {
            return self.snapshot(site, now);
        }
        for (key, own) in self.ours.records.iter().filter(|(_, own)| own.seq > read) {
            let _there = session.pending.entry(*key).or_insert(super::session::Pending {
                due: now,
                since: own.at,
                urgent: true,
            });
        }
        self.timers.set(Timer::Flush(site), now);
    }

    /// A peer has read a process of this site that is not this one and not older: our own past, or somebody who lives.
    fn outbid(&mut self, site: SiteId, read: Cursor, now: Instant) {
        let above = self.outbid.get(&read.instance).copied();
        if above.is_some_and(|above| read.incarnation > above) {
            // It went above us after we had gone above it: it is alive.
            self.contest(read.instance);
            let instance = read.instance;
            return self.send(site, &Message::Contested { instance });
        }
        self.own.incarnation = read.incarnation + 1;
        let _above = self.outbid.insert(read.instance, self.own.incarnation);
        self.actions.push_back(Action::Persist(self.own.incarnation));
        self.actions.push_back(Action::Report(Report::Incarnation(self.own.incarnation)));
        for peer in self.sessions.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.sessions.get_mut(&peer).filter(|s| s.connected) else { continue };
            session.sent = 0;
            let greeted = session.greeted;
            self.hello(peer);
            if greeted {
                self.start(peer, now);
            }
        }
    }

    fn contest(&mut self, instance: u64) {
        if !self.duplicate {
            self.duplicate = true;
            self.actions.push_back(Action::Report(Report::DuplicateSite { instance }));
        }
    }

    /// Is a message of this incarnation to be taken?
    fn current(&mut self, site: SiteId, incarnation: u64, now: Instant) -> bool {
        let Some(theirs) = self.theirs.get_mut(&site) else { return false };
        if incarnation < theirs.cursor.incarnation {
            theirs.refused.stale += 1;
            return false;
        }
        // Of a process that has not said everything once, or not said Hello.
        if incarnation > theirs.cursor.incarnation || theirs.cursor.seq == 0 {
            self.resync(site, now);
            return false;
        }
        true
    }

    fn resync(&mut self, site: SiteId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&site) else { return };
        if session.staging.is_none() && session.asked.is_none_or(|at| now.since(at) >= ENTROPY) {
            session.asked = Some(now);
            self.send(site, &Message::Resync);
        }
    }

    fn stage(
        &mut self,
        site: SiteId,
        incarnation: u64,
        head: u64,
        (part, last): (u32, bool),
        records: Vec<Record>,
        now: Instant,
    ) {
        let (Some(theirs), Some(session)) = (self.theirs.get_mut(&site), self.sessions.get_mut(&site)) else { return };
        if incarnation < theirs.cursor.incarnation {
            theirs.refused.stale += 1;
            return;
        }
        if part == 0 {
            let began = (now, self.late);
            session.staging = Some(Staging { began, incarnation, next: 0, records: Default::default() });
        }
        let Some(staging) = session.staging.as_mut().filter(|s| s.next == part && s.incarnation == incarnation) else {
            return self.close(site, CloseReason::Order, now);
        };
        staging.next += 1;
        staging.records.extend(records.into_iter().map(|r| (r.key, r)));
        if staging.records.len() > MOST {
            self.actions.push_back(Action::Report(Report::TooMany { site }));
            return self.close(site, CloseReason::TooMany, now);
        }
        if !last {
            return;
        }
        let Some(staging) = session.staging.take() else { return };
        // It is all there is, as of now: what does not agree with it is wrong, whatever its number.
        theirs.forget_sequences();
        theirs.cursor.incarnation = incarnation;
        for key in theirs.replace(&staging.records) {
            let (origin, age) = (site, core::time::Duration::ZERO);
            self.actions.push_back(Action::Record { origin, key, body: None, age });
        }
        theirs.cursor.seq = theirs.cursor.seq.max(head).max(1);
        // As good as a beat, which may be 10 s away: nobody was younger that long.
        theirs.confirmed = Some(staging.began);
        staging.records.values().for_each(|record| self.take(site, record, now));
    }

    fn take(&mut self, site: SiteId, record: &Record, now: Instant) {
        let (Some(theirs), Some(peer)) = (self.theirs.get_mut(&site), self.config.peers.get(&site)) else { return };
        let before = theirs.refused.surplus;
        let record = Record { age: record.age + self.late, ..*record };
        match theirs.take(&record, peer, now) {
            Taken::Old | Taken::Refused => {}
            Taken::News => {
                let Record { key, age, body, .. } = record;
                self.actions.push_back(Action::Record { origin: site, key, body, age });
            }
            Taken::Foreign => {
                if let super::Key::Vip(vip) = record.key {
                    self.actions.push_back(Action::Report(Report::ForeignVip { site, vip }));
                }
            }
            Taken::Surplus => {
                if before == 0 {
                    self.actions.push_back(Action::Report(Report::TooMany { site }));
                }
            }
        }
    }
}
