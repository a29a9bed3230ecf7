//! What a group makes of packets, timers and driver reports.

use core::net::IpAddr;
use core::time::Duration;

use super::event::Event;
use super::group::{Env, Group, PROBE_COUNT, PROBE_GAP, RETRY, Timer};
use super::io::Action;
use crate::election::Reason;
use crate::election::vrrp::Heard;
use crate::time::Instant;
use crate::types::{Family, Mac, Role};
use crate::wire::peer::Message;
use crate::wire::vrrp::{Advert, GROUP_V4, GROUP_V6, PRIORITY_RELEASE};

/// A rival that was silent for this long begins a new series when it comes back.
const RIVAL_SERIES: Duration = Duration::from_secs(10);

impl Group {
    /// An advert with our VRID on our link, from somebody else.
    pub(super) fn handle_advert(&mut self, src: IpAddr, advert: &Advert, env: &Env<'_>, now: Instant) {
        let family = Family::of(&src);
        let Some(own) = self.own_address(family) else { return };
        let heard = Heard { source: src, own, priority: advert.priority, interval: advert.interval };
        let unicast = !self.config.unicast_peers.is_empty();
        if unicast && !self.config.unicast_peers.contains(&src) {
            let proven = self.vrrp.fence_deadline();
            self.stay(&heard, proven, env, now);
            return;
        }
        self.received += 1;
        let ours = self.config.advertised(family);
        let same = ours.len() == advert.addresses.len() && ours.iter().all(|a| advert.addresses.contains(a));
        let disjoint = !ours.iter().any(|a| advert.addresses.contains(a));
        let release = advert.priority == PRIORITY_RELEASE;
        if disjoint && release {
            // A foreign router says nothing about ours by leaving.
            return;
        }
        if !same && !release {
            self.note_foreign(src, advert, now);
            if self.vrrp.role() != Role::Active || disjoint {
                self.vrrp.hold_off(advert.interval, now);
                return;
            }
        }
        self.heard = Some(now);
        let known = self.vrrp.owner().map(|o| o.address);
        let proven = self.vrrp.fence_deadline();
        if self.handover.granted_to().is_some() && self.vrrp.role() == Role::Active && !release {
            self.vrrp.handed_over(heard, now);
        } else {
            self.vrrp.handle_advert(heard, now);
        }
        self.check_grant(&heard, env);
        self.stay(&heard, proven, env, now);
        if self.vrrp.owner().is_some_and(|o| known != Some(o.address)) {
            self.owner_since = Some(now);
        }
        self.drain_outputs(env, now);
        self.leave_if_barred(env, now);
    }

    /// Stepped down on the way out, by whatever came first: a node that must not take part does not stay in the election.
    fn leave_if_barred(&mut self, env: &Env<'_>, now: Instant) {
        if self.condition.is_some() && self.vrrp.role() == Role::Backup {
            self.evaluate(env, now);
        }
    }

    /// The kernel gave way to another node's advert: its word goes.
    pub(super) fn handle_deposed(&mut self, env: &Env<'_>, now: Instant) {
        self.vrrp.overtaken(now);
        self.drain_outputs(env, now);
        self.leave_if_barred(env, now);
    }

    /// The kernel gives way to an advert that outranks ours. Where we know better (it is no peer's, or the granter's that crossed our
    /// first one) a fresh term opens again, before anything else leaves. `proven`: what the adverts before this one allow.
    fn stay(&mut self, heard: &Heard, proven: Option<Instant>, env: &Env<'_>, now: Instant) {
        let open = self.vrrp.role() == Role::Active && self.handover.granted_to().is_none();
        if let Some(deadline) = proven.filter(|_| open && self.vrrp.is_outranked(heard)) {
            self.reclaim(deadline, env, now);
            if self.claim.is_some_and(|c| c.announced) {
                // A frame of the first pass may have met the closed fence.
                self.announcer.repeat(now);
            }
        }
    }

    fn note_foreign(&mut self, src: IpAddr, advert: &Advert, now: Instant) {
        self.timers.set(Timer::Foreign, now + advert.interval.duration() * 4);
        if self.foreign.replace(src).is_none() {
            let (group, vrid) = (self.config.name.clone(), self.config.vrid);
            self.report(Event::VridInUse { group, vrid, source: Some(src), active: true });
        }
    }

    /// Somebody else says that it has one of our addresses.
    pub(super) fn handle_claim_by(&mut self, address: IpAddr, mac: Mac, env: &Env<'_>, now: Instant) {
        if self.timers.get(Timer::Probe).is_some() {
            // A legitimate owner answers our probe too, long before its next advert is due: judged when probing ends.
            self.answered.get_or_insert((address, mac, now));
            return;
        }
        self.relieve();
        if self.role() == Role::Active && self.handover.granted_to().is_none() {
            self.note_rival(Some(address), Some(mac), None, now);
            if let Some(own) = self.link.as_ref().map(|l| l.mac) {
                let _answered = self.announcer.defend(own, address, now);
            }
            self.drain_outputs(env, now);
        }
    }

    pub(super) fn note_rival(
        &mut self,
        address: Option<IpAddr>,
        mac: Option<Mac>,
        source: Option<IpAddr>,
        now: Instant,
    ) {
        let first = self.rival_seen.is_none_or(|at| now.since(at) >= RIVAL_SERIES);
        self.rival_seen = Some(now);
        self.report(Event::Rival { group: self.config.name.clone(), address, mac, source, first });
    }

    /// A genuine message of a peer about this group.
    pub(super) fn handle_peer(&mut self, src: IpAddr, message: &Message, env: &Env<'_>, now: Instant) {
        let backup = self.vrrp.role() == Role::Backup && self.foreign.is_none();
        let offer = (backup && !env.drained).then(|| self.priority());
        let owner = self.vrrp.role() == Role::Active;
        let nonce = self.nonce();
        self.handover.handle_message(src, message, offer, owner, nonce, now);
        self.drain_outputs(env, now);
    }

    pub(super) fn send_peer(&mut self, to: Option<IpAddr>, message: &Message, env: &Env<'_>) {
        let (Some(link), Some(payload)) = (self.link.as_ref().map(|l| l.id), message.encode(env.keys)) else { return };
        let family = self.config.main_family();
        let everyone = || match (self.config.unicast_peers.is_empty(), family) {
            (true, Family::V4) => vec![IpAddr::V4(GROUP_V4)],
            (true, Family::V6) => vec![IpAddr::V6(GROUP_V6)],
            (false, _) => self.unicast_peers().collect(),
        };
        let targets = to.map_or_else(everyone, |one| vec![one]);
        for dst in targets {
            if let Some(src) = self.own_address(Family::of(&dst)) {
                self.out.push_back(Action::SendPeer { link, src, dst, payload: payload.clone() });
            }
        }
    }

    /// The kernel lost one of our addresses.
    pub(super) fn handle_address_lost(&mut self, address: IpAddr) {
        let Some((link, _)) = self.installed.as_ref().filter(|(_, held)| held.contains(&address)) else { return };
        let link = *link;
        self.put(link, vec![address]);
        self.report(Event::AddressRestored { group: self.config.name.clone(), address });
    }

    pub(super) fn handle_install_failed(&mut self, error: &str, env: &Env<'_>, now: Instant) {
        self.report(Event::InstallFailed { group: self.config.name.clone(), error: error.to_owned() });
        self.give_up_grant(env);
        if self.role() == Role::Active {
            self.setback = Some((Reason::InstallFailed, format!("addresses cannot be installed: {error}")));
            self.timers.set(Timer::Retry, now + RETRY);
            let retry = self.timers.get(Timer::Retry);
            self.evaluate(env, now);
            // Stepping down clears nothing of what brings the group back.
            if let Some(at) = retry {
                self.timers.set(Timer::Retry, at);
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, env: &Env<'_>, now: Instant) {
        if let Some(due) = self.vrrp.advert_due().filter(|due| *due <= now) {
            let seconds = now.since(due).as_secs_f64();
            self.report(Event::AdvertLateness { group: self.config.name.clone(), seconds });
        }
        if self.vrrp.poll_timeout().is_some_and(|at| at <= now) {
            self.vrrp.handle_timeout(now);
        }
        self.drain_outputs(env, now);
        if self.handover.poll_timeout().is_some_and(|at| at <= now) {
            self.handover.handle_timeout(now);
        }
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Probe => self.probe(env, now),
                Timer::Announce => self.announce(false, env, now),
                Timer::Prepared => self.give_up_grant(env),
                Timer::Recall => self.recall(now),
                // The node sees that the route is not wanted any more.
                Timer::Unroute => {}
                Timer::Drained => {
                    self.finish_drain(env);
                    self.evaluate(env, now);
                }
                Timer::Retry => {
                    self.setback = None;
                    self.evaluate(env, now);
                }
                Timer::Lease => self.expire_lease(env, now),
                Timer::Closed => self.addresses_ended(env, now),
                Timer::Foreign => {
                    self.foreign = None;
                    let (group, vrid) = (self.config.name.clone(), self.config.vrid);
                    self.report(Event::VridInUse { group, vrid, source: None, active: false });
                }
            }
        }
        self.drain_outputs(env, now);
        self.leave_if_barred(env, now);
    }

    /// Sends the next round of conflict probes, or ends probing.
    fn probe(&mut self, env: &Env<'_>, now: Instant) {
        let owner_heard = self.heard.is_some_and(|at| now.since(at) < self.vrrp.active_down_interval());
        if owner_heard {
            // The owner is the one that advertises: whoever answered, it is no conflict.
            self.answered = None;
        }
        if let (PROBE_COUNT, Some((address, mac, _)), Some(lease)) = (self.probes, self.answered, self.lease.as_mut()) {
            // It may be the holder's answer. The lease will say: whoever is given it knows that no holder is there.
            lease.suspect(address, mac);
            self.answered = None;
        }
        if let (PROBE_COUNT, Some((address, mac, at))) = (self.probes, self.answered) {
            // An owner with a long interval may not have had its turn since: as patient as a Backup is with a silent one.
            let verdict = at + self.vrrp.active_down_interval();
            if now < verdict {
                self.timers.set(Timer::Probe, verdict);
                return;
            }
            self.answered = None;
            let text = format!("address_in_use: {address} is answered for by {mac}");
            self.setback = Some((Reason::AddressInUse, text));
            self.report(Event::AddressInUse { group: self.config.name.clone(), address, mac });
            self.timers.set(Timer::Retry, now + RETRY);
            self.evaluate(env, now);
            return;
        }
        if self.probes == PROBE_COUNT || owner_heard {
            self.probed = true;
            self.evaluate(env, now);
            return;
        }
        self.probes += 1;
        self.timers.set(Timer::Probe, now + PROBE_GAP);
        self.send_probes();
    }
}
