//! Sessions: which connection is one, what comes over it, how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::partner::{CROSSING, Choice, Look, Seeks, Side, Why, choose};
use bascule_core::time::Instant;

use super::connect;
use super::frame::{Frame, Goodbye};
use super::io::{Ended, Event, Failed, Peer, SessionStatus};
use super::link::{Fresh, Link, Slow};
use super::{Inner, Relay, Said};
use crate::tls::Refusal;

/// A site whose relays are of an earlier version is not called for so long by a relay that does not lead.
pub(super) const EARLIER: Duration = Duration::from_secs(300);

/// What there is with one site.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) peer: Peer,
    /// The session: what is written goes here.
    pub(super) link: Option<Link>,
    /// Where it was before, and is read to the end.
    pub(super) former: Option<Link>,
    /// Where it shall go on.
    pub(super) renewal: Option<Link>,
    /// The session has moved at the other end, and the connection it moved to is not here yet.
    pub(super) moved: bool,
    /// The number of a call under way, and what for.
    pub(super) calling: Option<(u64, Why)>,
    /// A relay that greeted and may yet say that it has another session: it is ours with its first message.
    pub(super) sought: Option<Link>,
    /// Calls for the relay that leads, and when the next one is due.
    pub(super) seeks: Seeks,
    /// Until then its relays count as ones of an earlier version.
    pub(super) earlier: Instant,
    /// Our last call to renew reached nobody: the other end may have to do it.
    pub(super) unheard: bool,
    /// The relay to call first: the last that answered, or the one after that which went.
    pub(super) first: usize,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) sessions: u64,
}

impl Site {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            link: None,
            former: None,
            renewal: None,
            moved: false,
            calling: None,
            sought: None,
            seeks: Seeks::new(Instant::ZERO),
            earlier: Instant::ZERO,
            unheard: false,
            first: 0,
            sent: 0,
            received: 0,
            sessions: 0,
        }
    }

    pub(super) fn status(&self) -> SessionStatus {
        let link = self.link.as_ref();
        let end = link.and_then(|l| l.chain.first()).and_then(crate::tls::not_after);
        SessionStatus {
            relay: link.map(|l| l.peer.relay.clone()),
            dialled: link.is_some_and(|l| l.dialled),
            leads: link.is_some_and(Link::leads),
            expires: end.map_or(0, |at| at.as_secs()),
            sent: self.sent,
            received: self.received,
            waiting: link.map_or((0, 0), Link::waiting),
            sessions: self.sessions,
            ..SessionStatus::default()
        }
    }

    /// The relay at this address is gone: it is called last. One that called us is known by its host alone.
    pub(super) fn passed(&mut self, from: SocketAddr) {
        let relays = &self.peer.relays;
        let at =
            relays.iter().position(|relay| *relay == from).or_else(|| relays.iter().position(|r| r.ip() == from.ip()));
        if let Some(at) = at {
            self.first = (at + 1) % relays.len();
        }
    }

    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.link.iter_mut().chain(&mut self.former).chain(&mut self.renewal).chain(&mut self.sought)
    }

    /// Nothing is under way that will make its session another one.
    pub(super) fn is_idle(&self) -> bool {
        let links = self.former.is_none() && self.renewal.is_none() && self.sought.is_none();
        links && self.calling.is_none() && !self.moved
    }

    /// It is worth looking for another relay of it: the one that we speak with does not lead.
    pub(super) fn wants_another(&self) -> bool {
        self.peer.relays.len() > 1 && self.link.as_ref().is_some_and(|link| !link.leads())
    }
}

impl Relay {
    /// Calls the relays of a site, one after the other.
    pub(super) fn call(&mut self, id: SiteId, why: Why) {
        let (call, now) = (self.draw(), self.now());
        let (face, dial, inner) = (self.face.borrow().clone(), self.config.dial.clone(), self.inner.0.clone());
        let Some(site) = self.sites.get_mut(&id) else { return };
        // One that has greeted says what becomes of it, and so does a call under way.
        let under_way = site.sought.is_some() || site.calling.is_some_and(|(_, why)| why == Why::Session);
        if why == Why::Session && (site.link.is_some() || under_way) {
            return;
        }
        if why == Why::Session && !face.leads && now < site.earlier {
            if let Some(state) = &mut self.state {
                state.handle_disconnected(id, now);
            }
            return;
        }
        site.calling = Some((call, why));
        let mut relays = site.peer.relays.clone();
        // The list wins, but a relay that answered last time needs no time limit of the dead ones before it.
        let first = site.first.min(relays.len().saturating_sub(1));
        relays.rotate_left(first);
        let _task = self.calls.spawn(async move {
            let outcome = connect::call(id, relays, dial, face, why).await.map(Box::new);
            // A driver that has ended needs to know nothing.
            let _over = inner.send(Inner::Called { site: id, call, outcome }).await;
        });
    }

    pub(super) fn called(&mut self, id: SiteId, call: u64, outcome: Result<Box<Fresh>, Failed>) {
        let (now, leads) = (self.now(), self.face.borrow().leads);
        let Some(site) = self.sites.get_mut(&id) else { return };
        // A call that nobody waits for any more.
        let Some((_, why)) = site.calling.take_if(|(number, _)| *number == call) else { return };
        let fresh = match outcome {
            Ok(fresh) => *fresh,
            Err(failed) => {
                if let Failed::Refused(refusal) = failed {
                    *self.counters.sent_away.entry(refusal).or_default() += 1;
                }
                site.unheard |= why == Why::Renewal && failed == Failed::Unreachable;
                if why == Why::Session && !leads && failed == Failed::Goodbye(Goodbye::Standby) {
                    site.earlier = now + EARLIER;
                }
                if why != Why::Renewal && site.link.is_none() && site.sought.is_none() {
                    site.first = (site.first + 1) % site.peer.relays.len().max(1);
                    self.no_session(id, failed);
                }
                return;
            }
        };
        match why {
            Why::Renewal => self.renewal_came(id, fresh),
            // Who leads is taken by whoever has no session with one that leads: that is soon known.
            Why::Session if fresh.stated => self.fresh(fresh),
            Why::Session | Why::Seek => self.await_word(id, fresh),
        }
    }

    pub(super) fn no_session(&mut self, id: SiteId, failed: Failed) {
        let now = self.now();
        self.events.push(Event::CallFailed { site: id, failed });
        if let Some(state) = &mut self.state {
            state.handle_disconnected(id, now);
        }
    }

    /// A connection that came to us and whose ends have greeted each other: it becomes the session, or goes.
    pub(super) fn fresh(&mut self, fresh: Fresh) {
        let (now, id) = (self.now(), fresh.peer.site);
        let number = self.draw();
        let (process, leads) = (self.face.borrow().process, self.face.borrow().leads);
        let (from, ours, renews) = (fresh.from, fresh.ours, fresh.renews && !fresh.dialled);
        let link = Link::new(number, fresh, self.inner.0.clone(), now);
        if !self.sites.contains_key(&id) {
            link.end(Some(&Frame::Goodbye(Goodbye::Closed)));
            return self.sent_away(from, Some(id), Refusal::WrongName);
        }
        // We are another process since it was greeted, or lead no more and it knows of no other relays.
        if process != Some(ours) || !leads && link.rank.is_none() {
            let called = process == Some(ours) && link.dialled;
            link.end(Some(&Frame::Goodbye(Goodbye::Standby)));
            if called && self.sites.get(&id).is_some_and(|site| site.link.is_none()) {
                self.no_session(id, Failed::Goodbye(Goodbye::Standby));
            }
            return;
        }
        if renews {
            return self.renew_for(id, link, now);
        }
        let _stays = self.settle(id, link, now);
    }

    /// Which of two connections with a site is the session. True: this one.
    pub(super) fn settle(&mut self, id: SiteId, link: Link, now: Instant) -> bool {
        let (here, leads) = (self.site(), self.face.borrow().leads);
        if let Some(old) = self.sites.get(&id).and_then(|site| site.link.as_ref()) {
            let side = |l: &Link| (l.peer.relay.clone(), l.dialled, leads && l.leads());
            let (old_side, new_side) = (side(old), side(&link));
            let another = old_side.0 != new_side.0;
            let [old_side, new_side] =
                [&old_side, &new_side].map(|(relay, dialled, leads)| Side { relay, dialled: *dialled, leads: *leads });
            if choose(here, id, old_side, new_side, now.since(old.since)) == Choice::Keep {
                link.end(Some(&Frame::Goodbye(Goodbye::Held)));
                if another {
                    self.doubt(id, now);
                }
                return false;
            }
            self.hang_up(id, Ended::Replaced);
        }
        self.install(id, link, now);
        true
    }

    fn install(&mut self, id: SiteId, mut link: Link, now: Instant) {
        let (here, leads) = (self.site(), self.face.borrow().leads);
        let Some(site) = self.sites.get_mut(&id) else { return };
        // Of crossing calls that of the lower site counts: it goes on, the other one is not waited for.
        if here > id || link.dialled {
            site.calling = None;
        }
        site.sessions += 1;
        site.seeks = Seeks::new(now);
        link.listen(now);
        let relay = link.peer.relay.clone();
        self.events.push(Event::Up { site: id, relay: relay.clone(), dialled: link.dialled });
        // We may have begun to lead since it was greeted.
        let stated = link.state(leads);
        site.link = Some(link);
        if let Some(state) = &mut self.state {
            state.handle_relay(id, &relay, now);
        }
        self.stated(id, stated, now);
    }

    pub(super) fn send(&mut self, id: SiteId, bytes: Vec<u8>) {
        let now = self.now();
        let Some(site) = self.sites.get_mut(&id) else { return };
        let Some(link) = &site.link else { return };
        match link.send(&Frame::Message(bytes)) {
            Ok(len) => site.sent += len as u64,
            Err(Slow) => self.lost(id, Ended::Slow, now),
        }
    }

    /// The session is over and the machine does not know it yet.
    pub(super) fn lost(&mut self, id: SiteId, ended: Ended, now: Instant) {
        self.end(id, ended);
        // Of two that lead and look for each other, one takes the call of the other: what becomes of that is soon known.
        if ended == Ended::Goodbye(Goodbye::Held) && self.seeks_still(id) {
            return;
        }
        if let Some(state) = &mut self.state {
            state.handle_disconnected(id, now);
        }
    }

    /// Our call for the relay that leads there is under way, or waits for its word.
    fn seeks_still(&self, id: SiteId) -> bool {
        let calls = |site: &Site| site.sought.is_some() || site.calling.is_some();
        self.face.borrow().leads && self.sites.get(&id).is_some_and(calls)
    }

    /// Ends the session with a site, if there is one.
    pub(super) fn end(&mut self, id: SiteId, ended: Ended) {
        if self.sites.get(&id).is_some_and(|site| site.link.is_some()) {
            self.hang_up(id, ended);
        }
    }

    fn hang_up(&mut self, id: SiteId, ended: Ended) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        let word = match ended {
            Ended::Ours => Goodbye::Stopping,
            Ended::Replaced => Goodbye::Held,
            _ => Goodbye::Closed,
        };
        if matches!(ended, Ended::Goodbye(Goodbye::Stopping | Goodbye::Held) | Ended::Broken | Ended::Silent)
            && let Some(from) = site.link.as_ref().map(|link| link.from)
        {
            site.passed(from);
        }
        let links = [site.link.take(), site.former.take(), site.renewal.take()];
        links.into_iter().flatten().for_each(|link| link.end(Some(&Frame::Goodbye(word))));
        site.moved = false;
        site.calling = site.calling.and_then(|(call, why)| Some((call, why.without_session()?)));
        *self.counters.ended.entry(ended).or_default() += 1;
        self.events.push(Event::Down { site: id, ended });
    }

    /// A frame, or the end of a connection.
    pub(super) fn said(&mut self, number: u64, said: Said) {
        let now = self.now();
        let found = self.sites.iter_mut().find_map(|(id, site)| {
            site.links().find(|link| link.id == number).map(|link| {
                link.pulse.handle_frame(now);
                let late = link.pulse.late();
                if matches!(said, Said::Frame(Frame::Pong, ..)) {
                    link.pulse.handle_answer();
                }
                (*id, late)
            })
        });
        // Of a connection that we have ended.
        let Some((id, late)) = found else { return };
        let sought = self.sites.get(&id).and_then(|site| site.sought.as_ref()).is_some_and(|link| link.id == number);
        if sought && !self.sought(id, &said, now) {
            return;
        }
        let (frame, len) = match said {
            Said::Frame(frame, len, _until_here) => (frame, len),
            Said::Malformed => return self.lost(id, Ended::Malformed, now),
            Said::Broken(None) => return self.lost(id, Ended::Broken, now),
            Said::Broken(Some(refusal)) => return self.lost(id, Ended::Refused(refusal), now),
        };
        if let Some(site) = self.sites.get_mut(&id) {
            site.received += len as u64;
        }
        match frame {
            Frame::Message(bytes) => {
                if let Some(state) = &mut self.state {
                    state.handle_late(id, &bytes, late, now);
                }
            }
            Frame::Ping | Frame::Pong => self.ping(id, number, frame == Frame::Ping, now),
            Frame::Moved => self.moved(id, number, now),
            Frame::Goodbye(word) => self.lost(id, Ended::Goodbye(word), now),
            Frame::Leads(leads) => {
                if let Some(link) = self.sites.get_mut(&id).and_then(|site| site.links().find(|link| link.id == number))
                {
                    link.rank = Some(leads);
                }
                // It costs as little as a ping, and there are no more of them.
                self.ping(id, number, false, now);
            }
            Frame::Unknown => {
                self.counters.unknown += 1;
                // It costs as little as a ping, and there are no more of them.
                self.ping(id, number, false, now);
            }
            Frame::Greeting { .. } => self.lost(id, Ended::Malformed, now),
        }
    }

    fn ping(&mut self, id: SiteId, number: u64, answer: bool, now: Instant) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        let Some(link) = site.links().find(|link| link.id == number) else { return };
        if !link.admit_ping(now) {
            return self.lost(id, Ended::Pings, now);
        }
        if answer {
            self.say_to(id, &Frame::Pong, now);
        }
    }

    /// Another relay speaks for a site whose relay we hear, or believe that we do: that one is asked.
    fn doubt(&mut self, id: SiteId, now: Instant) {
        let Some(link) = self.sites.get_mut(&id).and_then(|site| site.link.as_mut()) else { return };
        if link.pulse.handle_rival(now) {
            self.say_to(id, &Frame::Ping, now);
        }
    }

    /// This process stood still: what waits in its sockets is older than it says, up to the answer to what is asked now.
    pub(super) fn stood(&mut self, gap: Duration, now: Instant) {
        for id in self.sites.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.sites.get_mut(&id).and_then(|site| site.link.as_mut()) else { continue };
            link.pulse.handle_gap(gap);
            self.say_to(id, &Frame::Ping, now);
        }
    }

    fn say_to(&mut self, id: SiteId, frame: &Frame, now: Instant) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        match site.link.as_ref().map(|link| link.send(frame)) {
            Some(Ok(len)) => site.sent += len as u64,
            Some(Err(Slow)) => self.lost(id, Ended::Slow, now),
            None => {}
        }
    }

    /// Asks who was silent for long, and gives up who does not answer.
    pub(super) fn look(&mut self, now: Instant) {
        self.looked = now;
        for id in self.sites.keys().copied().collect::<Vec<_>>() {
            let late = |link: &Link| now.since(link.since) >= CROSSING;
            if self.sites.get(&id).is_some_and(|site| site.sought.as_ref().is_some_and(late)) {
                self.not_taken_up(id, Failed::Unreachable);
            }
            let Some(link) = self.sites.get_mut(&id).and_then(|site| site.link.as_mut()) else { continue };
            match link.pulse.look(now) {
                Look::Over => self.lost(id, Ended::Silent, now),
                Look::Ask => self.say_to(id, &Frame::Ping, now),
                Look::Heard => {}
            }
        }
        self.give_up_renewals(now);
    }
}
