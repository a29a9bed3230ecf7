//! Who leads and who does not (ADR 0043): sessions of those who lead with one another are looked for, and nobody gives up what it has before
//! the other end has decided.

use bascule_core::site::SiteId;
use bascule_core::site::partner::{Seeks, Why};
use bascule_core::time::Instant;

use super::frame::{Frame, Goodbye};
use super::io::{Ended, Failed};
use super::link::{Fresh, Link, Slow};
use super::session::EARLIER;
use super::{Relay, Said};

impl Relay {
    /// A relay that we called has greeted, and decides now: it begins a session with a message, or says that it has another one. What we have
    /// stays until then.
    pub(super) fn await_word(&mut self, id: SiteId, fresh: Fresh) {
        let (now, number, process) = (self.now(), self.draw(), self.face.borrow().process);
        let ours = fresh.ours;
        let mut link = Link::new(number, fresh, self.inner.0.clone(), now);
        let Some(site) = self.sites.get_mut(&id).filter(|site| process == Some(ours) && site.sought.is_none()) else {
            return link.end(Some(&Frame::Goodbye(Goodbye::Closed)));
        };
        link.listen(now);
        site.sought = Some(link);
    }

    /// What came of it. True: it is the session, and what it said is to be heard.
    pub(super) fn sought(&mut self, id: SiteId, said: &Said, now: Instant) -> bool {
        let Some(site) = self.sites.get_mut(&id) else { return false };
        match said {
            Said::Frame(Frame::Message(_), ..) => {
                let Some(link) = site.sought.take() else { return false };
                self.settle(id, link, now)
            }
            Said::Frame(Frame::Leads(leads), ..) => {
                if let Some(link) = &mut site.sought {
                    link.rank = Some(*leads);
                }
                false
            }
            Said::Frame(Frame::Goodbye(word), ..) => {
                self.not_taken_up(id, Failed::Goodbye(*word));
                false
            }
            Said::Frame(..) | Said::Malformed | Said::Broken(_) => {
                self.not_taken_up(id, Failed::Unreachable);
                false
            }
        }
    }

    pub(super) fn not_taken_up(&mut self, id: SiteId, failed: Failed) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        let Some(link) = site.sought.take() else { return };
        site.passed(link.from);
        link.end(Some(&Frame::Goodbye(Goodbye::Closed)));
        if site.link.is_none() && site.calling.is_none() {
            self.no_session(id, failed);
        }
    }

    /// Looks for the relay that leads another site, where we lead and speak with one that does not.
    pub(super) fn seek(&mut self, now: Instant) {
        if !self.face.borrow().leads {
            return;
        }
        for id in self.sites.keys().copied().collect::<Vec<_>>() {
            let Some(site) = self.sites.get_mut(&id) else { continue };
            if !site.wants_another() {
                site.seeks = Seeks::new(now);
            } else if site.is_idle() && site.seeks.call(now) {
                self.call(id, Why::Seek);
            }
        }
    }

    /// When [`Self::seek`] has something to do.
    pub(super) fn next_seek(&self) -> Option<Instant> {
        let sites = self.sites.values().filter(|site| site.wants_another() && site.is_idle());
        sites.map(|site| site.seeks.next()).min().filter(|_| self.face.borrow().leads)
    }

    pub(super) fn stated(&mut self, id: SiteId, sent: Result<usize, Slow>, now: Instant) {
        match sent {
            Ok(len) => {
                if let Some(site) = self.sites.get_mut(&id) {
                    site.sent += len as u64;
                }
            }
            Err(Slow) => self.lost(id, Ended::Slow, now),
        }
    }

    /// Tells other sites that we lead, or do not any more. Sessions with an earlier version are the leading relay's.
    pub(super) fn state_rank(&mut self, leads: bool, now: Instant) {
        for id in self.sites.keys().copied().collect::<Vec<_>>() {
            let Some(site) = self.sites.get_mut(&id) else { continue };
            let Some(link) = &mut site.link else { continue };
            if link.rank.is_none() && !leads {
                site.earlier = now + EARLIER;
                self.lost(id, Ended::Ours, now);
            } else {
                let stated = link.state(leads);
                self.stated(id, stated, now);
            }
        }
    }
}
