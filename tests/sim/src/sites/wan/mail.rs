//! What goes between sites and the authority.

use bascule_core::election::lease::LeaseElector as _;
use bascule_core::election::lease::RequestId;
use bascule_core::election::lease::etcd::{Answer, Request, Watched};

use super::super::link::MS;
use super::{Event, World};

/// A message.
#[derive(Debug)]
pub(super) enum Letter {
    Ask(RequestId, Request),
    Answer(RequestId, Answer),
    Watched(Watched),
}

impl World {
    /// A site asks.
    pub(super) fn ask(&mut self, site: usize, id: RequestId, request: Request) {
        match request {
            Request::Watch(_) => self.watching[site] = true,
            request => self.send(site, Letter::Ask(id, request)),
        }
    }

    fn send(&mut self, site: usize, letter: Letter) {
        let Some(life) = self.hosts[site].as_ref().map(|host| host.life) else { return };
        self.order += 1;
        let (number, wait) = (self.order, self.rng.between(1, 20) * MS);
        let _new = self.mail.insert(number, (life, letter));
        self.put(self.now + wait, Event::Mail { site, number });
    }

    /// It arrives, if a majority is there for the site: what a site says to a minority, or hears from one, is lost.
    pub(super) fn letter(&mut self, site: usize, number: u64) {
        let Some((life, letter)) = self.mail.remove(&number) else { return };
        let ended = matches!(letter, Letter::Watched(Watched::Ended));
        if !ended && !self.answered(site) {
            return;
        }
        let now = self.now;
        let Some(host) = self.hosts[site].as_mut().filter(|host| host.life == life) else { return };
        let at = host.at(now);
        self.touched[site] = true;
        match letter {
            Letter::Answer(id, answer) => host.elector.handle_answer(id, answer, at),
            Letter::Watched(watched) => host.elector.handle_watch(watched, at),
            Letter::Ask(id, request) => {
                let answer = self.authority.serve(request, now);
                self.announce();
                self.send(site, Letter::Answer(id, answer));
            }
        }
    }

    /// Is it for the site's process, and not for the authority?
    pub(super) fn is_answer(&self, number: u64) -> bool {
        self.mail.get(&number).is_some_and(|(_, letter)| !matches!(letter, Letter::Ask(..)))
    }

    fn announce(&mut self) {
        for change in self.authority.changes() {
            for site in (0..self.scene.sites).filter(|site| self.watching[*site]).collect::<Vec<_>>() {
                self.send(site, Letter::Watched(change.clone()));
            }
        }
    }

    /// Leases run out; who is cut off from the majority loses its watch.
    pub(super) fn authority(&mut self, tick: u64) {
        self.authority.tick(self.now, tick);
        self.announce();
        for site in 0..self.scene.sites {
            if self.watching[site] && !self.answered(site) {
                self.watching[site] = false;
                self.send(site, Letter::Watched(Watched::Ended));
            }
        }
    }
}
