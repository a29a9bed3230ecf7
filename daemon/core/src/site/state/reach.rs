//! What this site reaches, said to each other site, and what they say of that: so a site learns whether others reach one that it does not
//! (sites.md 4.5). There is no question: an answer that is here already needs no round trip when it is wanted.
//!
//! Soft state, beside the records: no sequence, no digest, nothing on the disk. It is said when a session begins, when it changes and with each
//! beat; who hears it lets it age ([`crate::site::join`]). A relay of whose name two live says nothing.

use core::time::Duration;
use std::collections::BTreeMap;

use super::io::Action;
use super::limit::Bucket;
use super::message::Message;
use super::{State, Timer};
use crate::site::SiteId;
use crate::time::Instant;

/// From one change that is said to the next: a path that flaps must not fill a session.
const PACE: Duration = Duration::from_secs(1);
/// Words that are taken of a peer, a second and at once: twice what [`PACE`] and beats make, and what may wait in a stalled connection.
/// More are dropped, for they are said again.
const HEARD: (f64, f64) = (2.0, 20.0);

/// What a session keeps of it.
#[derive(Clone, Debug)]
pub(super) struct Reaching {
    /// What was said last on this session.
    said: BTreeMap<SiteId, bool>,
    /// From when on a change may be said.
    next: Instant,
    heard: Bucket,
}

impl Reaching {
    pub(super) const fn new(now: Instant) -> Self {
        Self { said: BTreeMap::new(), next: now, heard: Bucket::new(HEARD.0, HEARD.1, now) }
    }

    /// The session is gone; its pace is not.
    pub(super) fn reset(&mut self) {
        self.said.clear();
    }
}

impl State {
    /// What this site reaches, by site, as of now; it is not told again when nothing changes.
    pub fn handle_reach(&mut self, reach: BTreeMap<SiteId, bool>, now: Instant) {
        self.reach = reach;
        for site in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.say_reach(site, false, now);
        }
    }

    /// Says it to a site where it is news, at its pace, or `again`, whenever that is. Who has heard nothing yet is not told that there is nothing.
    pub(super) fn say_reach(&mut self, site: SiteId, again: bool, now: Instant) {
        self.timers.stop(Timer::Reach(site));
        let Some(session) = self.sessions.get_mut(&site).filter(|s| s.greeted && !self.duplicate) else { return };
        let sites: BTreeMap<SiteId, bool> =
            self.reach.iter().filter(|(of, _)| **of != site).map(|(of, reached)| (*of, *reached)).collect();
        let news = sites != session.reach.said;
        if !news && (!again || sites.is_empty()) {
            return;
        }
        if !again && now < session.reach.next {
            return self.timers.set(Timer::Reach(site), session.reach.next);
        }
        let message = Message::Reach { sites: sites.clone() };
        if session.speaks.is_none_or(|(_, agreed)| agreed < message.since()) {
            return;
        }
        if !again {
            session.reach.next = now + PACE;
        }
        session.reach.said = sites;
        session.charge(message.encode().len(), now);
        self.send(site, &message);
    }

    /// A peer says what it reaches.
    pub(super) fn hear_reach(&mut self, site: SiteId, reach: BTreeMap<SiteId, bool>, now: Instant) {
        let Some(session) = self.sessions.get_mut(&site) else { return };
        if session.reach.heard.fill(now) < 1.0 {
            if let Some(theirs) = self.theirs.get_mut(&site) {
                theirs.refused.surplus += 1;
            }
            return;
        }
        session.reach.heard.take(1.0);
        self.actions.push_back(Action::Reach { from: site, reach });
    }
}
