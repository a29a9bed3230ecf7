//! Certificates that change under sessions that stand.

use std::sync::Arc;

use bascule_core::site::SiteId;
use bascule_core::site::partner::{CROSSING, Why};
use bascule_core::time::Instant;
use tokio::task::spawn_blocking;

use super::frame::{Frame, Goodbye};
use super::io::{Ended, Event};
use super::link::{Fresh, Link};
use super::{Inner, Relay};
use crate::tls::{Credentials, Files, TlsError};

impl Relay {
    /// Reads the files, beside the loop: a disk that hangs must not hold up sessions.
    pub(super) fn read_files(&mut self) {
        if std::mem::replace(&mut self.reading, true) {
            return;
        }
        let (dir, inner) = (self.config.credentials.clone(), self.inner.0.clone());
        let _task = self.calls.spawn(async move {
            let Ok(read) = spawn_blocking(move || Files::read(&dir)).await else { return };
            // A driver that has ended needs to know nothing.
            let _over = inner.send(Inner::Files(read)).await;
        });
    }

    pub(super) fn reloaded(&mut self, read: Result<Files, TlsError>) {
        self.reading = false;
        let old = self.face.borrow().clone();
        let other = match read {
            Ok(files) if old.credentials.made_of(&files) => {
                self.not_reloaded = None;
                Ok(None)
            }
            Ok(files) => Credentials::new(files, &self.config.credentials, &self.config.clock).map(Some),
            Err(error) => Err(error),
        };
        match other {
            Ok(None) => {}
            Ok(Some(new)) if new.identity != old.credentials.identity => {
                self.not_taken(format!("{} has become {}", old.credentials.identity.uri(), new.identity.uri()));
            }
            Ok(Some(new)) => {
                self.not_reloaded = None;
                let shows = !new.shows_as(&old.credentials);
                self.events.push(Event::Reloaded { expires: new.expires.as_secs() });
                self.face.send_modify(|face| {
                    face.credentials = Arc::new(new);
                    face.generation += u64::from(shows);
                });
            }
            Err(error) => self.not_taken(error.to_string()),
        }
        self.hold_against();
        self.renew();
    }

    fn not_taken(&mut self, error: String) {
        if self.not_reloaded.as_ref() != Some(&error) {
            self.counters.not_reloaded += 1;
            self.events.push(Event::NotReloaded { error: error.clone() });
            self.not_reloaded = Some(error);
        }
    }

    /// Ends sessions with peers whose certificates are not believed any more: expired, revoked, of an authority that is gone.
    fn hold_against(&mut self) {
        let (now, unix) = (self.now(), self.config.clock.unix());
        let credentials = Arc::clone(&self.face.borrow().credentials);
        for id in self.sites.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.sites.get(&id).and_then(|site| site.link.as_ref()) else { continue };
            match credentials.believes(&link.chain, unix) {
                Ok(_) => self.config.clock.believed(unix),
                Err(refusal) => {
                    *self.counters.sent_away.entry(refusal).or_default() += 1;
                    self.lost(id, Ended::Refused(refusal), now);
                }
            }
        }
    }

    /// Calls where a session still shows a certificate of ours that is not the present one.
    fn renew(&mut self) {
        let generation = self.face.borrow().generation;
        for id in self.sites.keys().copied().collect::<Vec<_>>() {
            let Some(site) = self.sites.get(&id) else { continue };
            if site.is_idle() && site.link.as_ref().is_some_and(|link| link.generation != generation) {
                self.call(id, Why::Renewal);
            }
        }
    }

    /// We were called to go on with a session on another connection.
    pub(super) fn renew_for(&mut self, id: SiteId, link: Link, now: Instant) {
        let here = self.site();
        let Some(site) = self.sites.get_mut(&id) else { return };
        let known = |old: &Link| (old.process, &old.peer) == (link.process, &link.peer);
        let calling = matches!(site.calling, Some((_, Why::Renewal)));
        let ours = site.renewal.is_some() || calling && !site.unheard;
        // Of two that renew at once the lower site does; its connection shows both new certificates.
        let may = site.former.is_none() && !site.moved && (!ours || here > id);
        if !may || !site.link.as_ref().is_some_and(known) {
            return link.end(Some(&Frame::Goodbye(Goodbye::Held)));
        }
        site.calling = None;
        if let Some(own) = site.renewal.take() {
            own.end(Some(&Frame::Goodbye(Goodbye::Held)));
        }
        let Some(mut old) = site.link.replace(link) else { return };
        if old.send(&Frame::Moved).is_err() {
            site.former = Some(old);
            return self.lost(id, Ended::Slow, now);
        }
        old.hush();
        site.former = Some(old);
    }

    /// The connection that we called for is there.
    pub(super) fn renewal_came(&mut self, id: SiteId, fresh: Fresh) {
        let (now, number) = (self.now(), self.draw());
        let link = Link::new(number, fresh, self.inner.0.clone(), now);
        let Some(site) = self.sites.get_mut(&id) else { return };
        let known = |old: &Link| (old.process, &old.peer) == (link.process, &link.peer);
        if site.former.is_some() || !site.link.as_ref().is_some_and(known) {
            return link.end(Some(&Frame::Goodbye(Goodbye::Held)));
        }
        site.unheard = false;
        site.renewal = Some(link);
        if std::mem::take(&mut site.moved) {
            self.follow(id, now);
        }
    }

    /// The other end writes no more where the session was.
    pub(super) fn moved(&mut self, id: SiteId, number: u64, now: Instant) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        if let Some(former) = site.former.take_if(|former| former.id == number) {
            former.end(None);
            if let Some(link) = &mut site.link {
                link.listen(now);
            }
            return self.renewed(id);
        }
        match (site.renewal.is_some(), site.calling) {
            (true, _) => self.follow(id, now),
            (false, Some((_, Why::Renewal))) => site.moved = true,
            (false, _) => self.lost(id, Ended::Malformed, now),
        }
    }

    /// Moves the session to the connection that we called for.
    fn follow(&mut self, id: SiteId, now: Instant) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        let Some(mut link) = site.renewal.take() else { return };
        link.listen(now);
        let Some(old) = site.link.replace(link) else { return };
        old.end(Some(&Frame::Moved));
        self.renewed(id);
    }

    fn renewed(&mut self, id: SiteId) {
        self.counters.renewed += 1;
        if let Some(link) = self.sites.get(&id).and_then(|site| site.link.as_ref()) {
            self.events.push(Event::Renewed { site: id, relay: link.peer.relay.clone() });
        }
    }

    /// A renewal that was not taken up: the next look at the files tries again.
    pub(super) fn give_up_renewals(&mut self, now: Instant) {
        for site in self.sites.values_mut() {
            if let Some(link) = site.renewal.take_if(|link| now.since(link.since) >= CROSSING) {
                link.end(Some(&Frame::Goodbye(Goodbye::Held)));
            }
        }
    }
}
