//! What a change of role means: fence, adverts, addresses and announcements, each in its place.

use core::net::IpAddr;
use core::time::Duration;

use super::event::{Event, seconds};
use super::group::{Claim, Env, Group, Timer};
use super::io::Action;
use super::{ADDRESS_LIFETIME, SHARD_LIFETIME};
use crate::election::{Reason, vrrp};
use crate::fence::{Basis, FenceCtl, FenceRole, FenceWrite};
use crate::handover;
use crate::time::Instant;
use crate::types::{Family, LinkId, Role, Term};
use crate::wire::vrrp::{Advert, GROUP_V4, GROUP_V6, PRIORITY_RELEASE};

/// From the first advert of a claim to its first announcement at least. The advert closes the kernel of whoever is displaced; what that
/// one said until then, and a busy machine's softirqs hold up, is off the wire when our first word comes.
const LEAD: Duration = Duration::from_millis(1);
/// How long the first announcement waits for the addresses. Adding them takes well below a millisecond; a stuck kernel lock must not
/// keep the network from learning the new place.
const ANNOUNCE_WAIT: Duration = Duration::from_millis(5);
/// The same in a planned hand-over without a fence, where the claim comes before the addresses: the predecessor goes on serving (its
/// drain time, 1 s by default), so nobody waits for us, and announcing before the addresses are there would lose what it still serves.
const HANDOVER_WAIT: Duration = Duration::from_millis(200);

impl Group {
    /// Turns everything that the machines owe into actions.
    pub(super) fn drain_outputs(&mut self, env: &Env<'_>, now: Instant) {
        loop {
            if let Some(output) = self.vrrp.poll_output() {
                self.on_vrrp(output, env, now);
            } else if let Some(output) = self.handover.poll_output() {
                self.on_handover(output, env, now);
            } else {
                break;
            }
        }
        if let Some((link, mac)) = self.link.as_ref().map(|l| (l.id, l.mac)) {
            if self.announcer.poll_timeout().is_some_and(|at| at <= now) {
                self.announcer.handle_timeout(mac, now);
            }
            while let Some(frame) = self.announcer.poll_frame() {
                let (kind, address, bytes) = (frame.kind, frame.address, frame.bytes);
                self.out.push_back(Action::SendFrame { link, kind, address, bytes });
            }
        }
    }

    fn on_vrrp(&mut self, output: vrrp::Output, env: &Env<'_>, now: Instant) {
        match output {
            vrrp::Output::SendAdvert { priority, interval } => {
                if priority == PRIORITY_RELEASE {
                    self.begin_leaving(env, now);
                }
                self.send_advert(priority, interval);
            }
            vrrp::Output::Role { from, to, reason } => {
                if to == Role::Active {
                    self.on_claim(reason, env, now);
                    // The first advert, which is next, keeps other Backups quiet: it must not wait for netlink.
                    if let Some(advert) = self.vrrp.poll_output() {
                        self.on_vrrp(advert, env, now);
                    }
                    self.install(now);
                } else if from == Role::Active {
                    self.on_step_down(reason, env, now);
                } else {
                    self.give_up_grant(env);
                }
                self.since = now;
                let event = Event::Role {
                    group: self.config.name.clone(),
                    from,
                    to,
                    reason,
                    term: self.term,
                    owner: self.vrrp.owner().map(|o| o.address),
                };
                self.report(event);
            }
            vrrp::Output::Rival { source, .. } => {
                self.note_rival(None, None, Some(source), now);
            }
            // One pass while it is contested: a rival that cannot hear us will own, and its announcements must be the last.
            vrrp::Output::Announce { settled: false } => self.announcer.repeat(now),
            vrrp::Output::Announce { settled: true } => self.announcer.restart(now),
        }
    }

    fn on_claim(&mut self, reason: Reason, env: &Env<'_>, now: Instant) {
        // `now` is the time of the look at the sockets that found them empty.
        let basis = if reason == Reason::Handover { Basis::Given } else { Basis::Silence(now) };
        self.next_term(basis, now);
        self.timers.stop(Timer::Drained);
        self.timers.stop(Timer::Probe);
        self.timers.stop(Timer::Recall);
        self.handover.reset();
        self.rival_seen = None;
        let deadline = self.vrrp.advert_deadline().unwrap_or(now);
        self.write_fence(env, FenceRole::Active, deadline, Instant::ZERO, false);
        let detect = self.heard.take().map(|at| now.since(at));
        self.claim = Some(Claim { at: now, reason, detect, left: None, installed: None, announced: false });
    }

    /// A term that is unique on this host for a whole boot, over restarts too: the pinned slot may still know the last one.
    pub(super) fn next_term(&mut self, basis: Basis, now: Instant) {
        self.basis = basis;
        self.term = Term((self.term.0 + 1).max(now.as_nanos()));
    }

    /// Has addresses put on the link.
    pub(super) fn put(&mut self, link: LinkId, addresses: Vec<IpAddr>) {
        let lifetime = self.lifetime();
        self.out.push_back(Action::Install { slot: self.slot, link, addresses, lifetime });
    }

    /// How long its addresses stay without a renewal.
    pub(super) const fn lifetime(&self) -> Duration {
        if self.config.shard.is_some() { SHARD_LIFETIME } else { ADDRESS_LIFETIME }
    }

    /// Puts the addresses on the link, unless the grant had them put there.
    pub(super) fn install(&mut self, now: Instant) {
        self.timers.stop(Timer::Prepared);
        let there = self.prepared.take().is_some_and(|p| p.installed);
        if let Some(link) = self.link.as_ref().map(|l| l.id) {
            if there {
                self.claim = self.claim.map(|claim| Claim { installed: Some(now), ..claim });
            } else {
                let addresses = self.config.owned();
                self.installed = Some((link, addresses.clone()));
                self.put(link, addresses);
            }
            // By the next call after this one the actions of this one, the advert among them, have been carried out.
            self.timers.set(Timer::Announce, now + Duration::from_nanos(1));
        }
    }

    fn on_step_down(&mut self, reason: Reason, env: &Env<'_>, now: Instant) {
        self.announcer.stop();
        let announced = self.claim.take().is_some_and(|claim| claim.announced);
        self.doubt(reason, announced, now);
        self.timers.stop(Timer::Announce);
        self.handover.reset();
        let planned = matches!(reason, Reason::Handover | Reason::Stopped | Reason::Unhealthy);
        let (unroute, until) = self.farewell_times(env, now);
        if planned && until > now {
            self.write_fence(env, FenceRole::Leaving, now, self.deliver_until(until), false);
            self.timers.set(Timer::Drained, until);
            if self.config.announce.routed() && unroute > now {
                self.timers.set(Timer::Unroute, unroute);
            }
        } else {
            self.finish_drain(env);
        }
        match reason {
            Reason::FenceExpired => {
                self.report(Event::FenceClosed { group: self.config.name.clone(), term: self.term });
            }
            Reason::OneWay => {
                let source = self.vrrp.owner().map(|o| o.address);
                self.report(Event::OneWay { group: self.config.name.clone(), source });
            }
            Reason::Handover => {
                let to = self.vrrp.owner().map(|o| o.address);
                self.report(Event::Handover { group: self.config.name.clone(), to, error: None });
            }
            _ => {}
        }
    }

    /// Answers close before the release leaves. The release passes until the deadline that the kernel knows from the last advert.
    fn begin_leaving(&mut self, env: &Env<'_>, now: Instant) {
        self.announcer.stop();
        let (_, until) = self.farewell_times(env, now);
        self.write_fence(env, FenceRole::Leaving, now, self.deliver_until(until), false);
    }

    /// Accept_Mode off holds to the end: what was not served while Active is not served on the way out either.
    fn deliver_until(&self, until: Instant) -> Instant {
        if self.config.accept { until } else { Instant::ZERO }
    }

    /// Nothing is served any more: close the fence, then take the addresses off.
    pub(super) fn finish_drain(&mut self, env: &Env<'_>) {
        self.timers.stop(Timer::Drained);
        self.timers.stop(Timer::Unroute);
        self.write_fence(env, FenceRole::Backup, Instant::ZERO, Instant::ZERO, false);
        if let Some((link, addresses)) = self.installed.take() {
            self.remove(link, addresses);
        }
    }

    pub(super) fn write_fence(
        &mut self,
        env: &Env<'_>,
        role: FenceRole,
        deadline: Instant,
        deliver_until: Instant,
        handover: bool,
    ) {
        if env.fenced() {
            let (term, interval, accept) = (self.term, self.config.interval, self.config.accept);
            let (basis, family) = (self.basis, self.config.main_family());
            let ctl = FenceCtl { role, term, deadline, deliver_until, interval, handover, basis, family, accept };
            self.out.push_back(Action::Fence(FenceWrite::Ctl(self.slot, ctl)));
        }
    }

    fn send_advert(&mut self, priority: u8, interval: crate::types::Centis) {
        let Some(link) = self.link.as_ref().map(|l| l.id) else { return };
        for family in self.config.families() {
            let Some(src) = self.own_address(family) else { continue };
            let addresses = self.config.advertised(family);
            let advert = Advert { vrid: self.config.vrid, priority, interval, addresses };
            for dst in self.destinations(family) {
                let payload = advert.encode(src, dst);
                self.out.push_back(Action::SendVrrp { slot: self.slot, link, src, dst, payload });
            }
        }
        self.sent += 1;
    }

    /// Where adverts of a family go: the listed peers but this node itself (one list may serve all nodes), else the group.
    fn destinations(&self, family: Family) -> Vec<IpAddr> {
        if self.config.unicast_peers.is_empty() {
            return vec![match family {
                Family::V4 => IpAddr::V4(GROUP_V4),
                Family::V6 => IpAddr::V6(GROUP_V6),
            }];
        }
        self.unicast_peers().filter(|p| Family::of(p) == family).collect()
    }

    /// The listed peers but this node itself.
    pub(super) fn unicast_peers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let own = [self.own_address(Family::V4), self.own_address(Family::V6)];
        self.config.unicast_peers.iter().copied().filter(move |peer| !own.contains(&Some(*peer)))
    }

    /// The addresses are on the link, or a step of the claim is due: let the network know when both have had their time.
    pub(super) fn announce(&mut self, installed: bool, env: &Env<'_>, now: Instant) {
        let Some(claim) = self.claim.as_mut().filter(|claim| !claim.announced) else { return };
        if installed {
            claim.installed.get_or_insert(now);
        }
        let patience = if claim.reason == Reason::Handover { HANDOVER_WAIT } else { ANNOUNCE_WAIT };
        let quiet = *claim.left.get_or_insert(now) + LEAD;
        let due = if claim.installed.is_some() { quiet } else { quiet.max(claim.at + patience) };
        if now < due {
            self.timers.set(Timer::Announce, due);
            return;
        }
        claim.announced = true;
        let claim = *claim;
        self.timers.stop(Timer::Announce);
        self.timers.stop(Timer::Unroute);
        if self.config.announce.on_link() {
            self.announcer.start(now);
        }
        self.drain_outputs(env, now);
        self.report(Event::Takeover {
            group: self.config.name.clone(),
            term: self.term,
            reason: claim.reason,
            detect: claim.detect.map(seconds),
            claim: claim.installed.map(|at| seconds(at.since(claim.at))),
            announce: seconds(now.since(claim.at)),
        });
    }

    pub(super) fn start_handover(&mut self, wanted: handover::Wanted, now: Instant) {
        let nonce = self.nonce();
        self.handover.start(wanted, nonce, now);
    }

    fn on_handover(&mut self, output: handover::Output, env: &Env<'_>, now: Instant) {
        match output {
            handover::Output::Send(to, message) => self.send_peer(to, &message, env),
            handover::Output::Claim { granter, until } => self.prepare(granter, until, env, now),
            handover::Output::Granted(_) => {
                let deadline = self.vrrp.fence_deadline().unwrap_or(now);
                self.write_fence(env, FenceRole::Active, deadline, Instant::ZERO, true);
            }
            handover::Output::Failed(failure) => {
                // The successor may have muted us in the kernel and vanished: only a new term lets us answer again.
                if self.vrrp.role() == Role::Active && matches!(failure, handover::Failure::NotTaken { .. }) {
                    let deadline = self.vrrp.fence_deadline().unwrap_or(now);
                    self.reclaim(deadline, env, now);
                    self.announcer.restart(now);
                }
                let (group, error) = (self.config.name.clone(), Some(failure.to_string()));
                self.report(Event::Handover { group, to: None, error });
                self.evaluate(env, now);
            }
            handover::Output::MoveRequested(node) => {
                if self.vrrp.role() == Role::Active && !self.handover.in_progress() {
                    self.start_handover(handover::Wanted::Node(node), now);
                }
            }
        }
    }

    /// Still the owner although the kernel may have closed: a fresh term, until the deadline that the adverts so far have set.
    pub(super) fn reclaim(&mut self, deadline: Instant, env: &Env<'_>, now: Instant) {
        self.next_term(Basis::Continued, now);
        self.write_fence(env, FenceRole::Active, deadline, Instant::ZERO, false);
    }
}
