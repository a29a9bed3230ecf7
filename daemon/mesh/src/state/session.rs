//! Sessions: which connection is one, what comes over it, how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::time::Instant;

use super::choose::{Choice, Side, choose};
use super::connect;
use super::frame::{Frame, Goodbye};
use super::io::{Ended, Event, Failed, Peer, SessionStatus};
use super::link::{Fresh, Link, Slow};
use super::{Inner, LOOK, Relay, Said};
use crate::tls::Refusal;

/// A session that was silent for so long is asked for an answer. Beats come every 10 s once both ends write.
const ASK: Duration = Duration::from_secs(5);
/// Another relay of its site calls: without an answer for so long it is over. Two round trips of the longest path, and a look a second.
const DOUBT: Duration = Duration::from_secs(2);
/// Without a frame for so long it is over.
const SILENCE: Duration = Duration::from_secs(15);

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
    /// The number of a call under way, and whether it renews.
    pub(super) calling: Option<(u64, bool)>,
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
            expires: end.map_or(0, |at| at.as_secs()),
            sent: self.sent,
            received: self.received,
            waiting: link.map_or((0, 0), Link::waiting),
            sessions: self.sessions,
            ..SessionStatus::default()
        }
    }

    /// The relay at this address is gone: it is called last. One that called us is known by its host alone.
    fn passed(&mut self, from: SocketAddr) {
        let relays = &self.peer.relays;
        let at =
            relays.iter().position(|relay| *relay == from).or_else(|| relays.iter().position(|r| r.ip() == from.ip()));
        if let Some(at) = at {
            self.first = (at + 1) % relays.len();
        }
    }

    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.link.iter_mut().chain(&mut self.former).chain(&mut self.renewal)
    }
}

impl Relay {
    /// Calls the relays of a site, one after the other.
    pub(super) fn call(&mut self, id: SiteId, renews: bool) {
        let call = self.draw();
        let (face, dial, inner) = (self.face.borrow().clone(), self.config.dial.clone(), self.inner.0.clone());
        let Some(site) = self.sites.get_mut(&id).filter(|site| renews || site.link.is_none()) else { return };
        site.calling = Some((call, renews));
        let mut relays = site.peer.relays.clone();
        // The list wins, but a relay that answered last time needs no time limit of the dead ones before it.
        let first = site.first.min(relays.len().saturating_sub(1));
        relays.rotate_left(first);
        let _task = self.calls.spawn(async move {
            let outcome = connect::call(id, relays, dial, face, renews).await.map(Box::new);
            // A driver that has ended needs to know nothing.
            let _over = inner.send(Inner::Called { site: id, call, outcome }).await;
        });
    }

    pub(super) fn called(&mut self, id: SiteId, call: u64, outcome: Result<Box<Fresh>, Failed>) {
        let now = self.now();
        let Some(site) = self.sites.get_mut(&id) else { return };
        // A call that nobody waits for any more.
        let Some((_, renews)) = site.calling.take_if(|(number, _)| *number == call) else { return };
        let fresh = match outcome {
            Ok(fresh) => *fresh,
            Err(failed) => {
                if let Failed::Refused(refusal) = failed {
                    *self.counters.sent_away.entry(refusal).or_default() += 1;
                }
                site.unheard |= renews && failed == Failed::Unreachable;
                if !renews && site.link.is_none() {
                    site.first = (site.first + 1) % site.peer.relays.len().max(1);
                    self.events.push(Event::CallFailed { site: id, failed });
                    if let Some(state) = &mut self.state {
                        state.handle_disconnected(id, now);
                    }
                }
                return;
            }
        };
        if renews { self.renewal_came(id, fresh) } else { self.fresh(fresh) }
    }

    /// A connection whose ends have greeted each other: it becomes the session, or goes.
    pub(super) fn fresh(&mut self, fresh: Fresh) {
        let (now, here, id) = (self.now(), self.site(), fresh.peer.site);
        let link = self.draw();
        let process = self.face.borrow().process;
        let (from, ours, renews) = (fresh.from, fresh.ours, fresh.renews && !fresh.dialled);
        let link = Link::new(link, fresh, self.inner.0.clone(), now);
        let Some(site) = self.sites.get_mut(&id) else {
            link.end(Some(&Frame::Goodbye(Goodbye::Closed)));
            return self.sent_away(from, Some(id), Refusal::WrongName);
        };
        // We stand by since it was greeted, or are another process.
        if process != Some(ours) {
            return link.end(Some(&Frame::Goodbye(Goodbye::Standby)));
        }
        if renews {
            return self.renew_for(id, link, now);
        }
        if let Some(old) = &site.link {
            let side = |l: &Link| (l.peer.relay.clone(), l.dialled);
            let ((old_relay, old_dialled), (new_relay, new_dialled)) = (side(old), side(&link));
            let (old_side, new_side) =
                (Side { relay: &old_relay, dialled: old_dialled }, Side { relay: &new_relay, dialled: new_dialled });
            if choose(here, id, old_side, new_side, now.since(old.since)) == Choice::Keep {
                link.end(Some(&Frame::Goodbye(Goodbye::Held)));
                if old_relay != new_relay {
                    self.doubt(id, now);
                }
                return;
            }
            self.hang_up(id, Ended::Replaced);
        }
        self.install(id, link, now);
    }

    fn install(&mut self, id: SiteId, mut link: Link, now: Instant) {
        let here = self.site();
        let Some(site) = self.sites.get_mut(&id) else { return };
        // Of crossing calls that of the lower site counts: it goes on, the other one is not waited for.
        if here > id || link.dialled {
            site.calling = None;
        }
        site.sessions += 1;
        link.listen(now);
        self.events.push(Event::Up { site: id, relay: link.peer.relay.clone(), dialled: link.dialled });
        site.link = Some(link);
        if let Some(state) = &mut self.state {
            state.handle_connected(id, now);
        }
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
        if let Some(state) = &mut self.state {
            state.handle_disconnected(id, now);
        }
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
        if matches!(ended, Ended::Goodbye(Goodbye::Stopping) | Ended::Broken | Ended::Silent)
            && let Some(from) = site.link.as_ref().map(|link| link.from)
        {
            site.passed(from);
        }
        let links = [site.link.take(), site.former.take(), site.renewal.take()];
        links.into_iter().flatten().for_each(|link| link.end(Some(&Frame::Goodbye(word))));
        site.moved = false;
        site.calling = site.calling.filter(|(_, renews)| !renews);
        *self.counters.ended.entry(ended).or_default() += 1;
        self.events.push(Event::Down { site: id, ended });
    }

    /// A frame, or the end of a connection.
    pub(super) fn said(&mut self, number: u64, said: Said) {
        let now = self.now();
        let found = self.sites.iter_mut().find_map(|(id, site)| {
            site.links().find(|link| link.id == number).map(|link| {
                link.heard_at = now;
                link.pinged = false;
                *id
            })
        });
        // Of a connection that we have ended.
        let Some(id) = found else { return };
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
                    state.handle_bytes(id, &bytes, now);
                }
            }
            Frame::Ping | Frame::Pong => self.ping(id, number, frame == Frame::Ping, now),
            Frame::Moved => self.moved(id, number, now),
            Frame::Goodbye(word) => self.lost(id, Ended::Goodbye(word), now),
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

    /// Another relay speaks for a site whose relay we hear, or believe that we do: that one is asked, at most once in [`LOOK`]
    /// (a peer may ping twice a second), and not again before it has answered.
    fn doubt(&mut self, id: SiteId, now: Instant) {
        let Some(link) = self.sites.get_mut(&id).and_then(|site| site.link.as_mut()) else { return };
        if link.doubted.is_none_or(|at| link.heard_at >= at && now.since(at) >= LOOK) {
            (link.doubted, link.pinged) = (Some(now), true);
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
            let Some(link) = self.sites.get_mut(&id).and_then(|site| site.link.as_mut()) else { continue };
            let silent = now.since(link.heard_at);
            let unanswered = link.doubted.is_some_and(|at| link.heard_at < at && now.since(at) >= DOUBT);
            if silent >= SILENCE || unanswered {
                self.lost(id, Ended::Silent, now);
            } else if silent >= ASK && !link.pinged {
                link.pinged = true;
                self.say_to(id, &Frame::Ping, now);
            }
        }
        self.give_up_renewals(now);
    }
}
