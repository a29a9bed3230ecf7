//! One site at a time, by a lease that is kept elsewhere (etcd): who should ask for it, who should not renew it any more.
//!
//! Nothing here makes a site the holder; only the lease does. So two sites that judge differently at the same time ask twice and serve once.

use core::time::Duration;
use std::collections::BTreeMap;

use super::decide::Candidate;
use super::io::{Action, Failback, Mode, ReleaseReason, Report};
use super::{FAILBACK, LEARN, Policy, Timer};
use crate::site::SiteId;
use crate::site::summary::ServiceId;
use crate::site::timeline::Rule;
use crate::time::Instant;

/// A lease that nobody has is left to each better candidate for so long: one that is well and does not take it does not reach the authority.
/// With etcd's half second and the requests it fits into the 1.5 s that issue 6 allows beyond the TTL, for the first and the second.
pub(super) const COURTESY: Duration = Duration::from_millis(500);

/// The same when the authority has been away: it is back for one site up to the patience with a request (1.1 s) and a look (0.5 s) later than for
/// another, and who had the lease last must not lose it by that. A site that drains leaves what nobody has to all others for so long at least.
pub(super) const RETURNED: Duration = Duration::from_secs(2);

/// The sites as this one sees them.
struct View {
    /// Those that are well, in their order.
    well: Vec<SiteId>,
    /// Another one can take it for certain: it is heard or has been, is reached, and says that it serves.
    able: bool,
    /// This one drains.
    draining: bool,
    /// It could serve all the same.
    spare: bool,
}

impl View {
    fn of(here: SiteId, all: &[Candidate], order: &[SiteId]) -> Self {
        let well = |site: &SiteId| all.iter().any(|c| c.site == *site && c.factor > 0.0);
        let able = |c: &Candidate| c.factor > 0.0 && !c.hard && !c.fallback && c.summary.serves();
        let own = all.iter().find(|c| c.site == here).map(|c| c.summary);
        Self {
            well: order.iter().copied().filter(well).collect(),
            able: all.iter().any(|c| c.site != here && order.contains(&c.site) && able(c)),
            draining: own.is_some_and(|own| own.draining),
            spare: own.is_some_and(|own| own.draining && own.ready > 0),
        }
    }
}

impl Policy {
    /// The lease of an activePassive service has this holder. Said when it is known, and not while it is not.
    pub fn handle_lease(&mut self, id: ServiceId, holder: Option<SiteId>, now: Instant) {
        let Some(service) = self.services.get_mut(&id) else { return };
        if service.holder != holder {
            service.last = service.holder.or(service.last);
            service.vacant = holder.is_none().then_some(now);
            service.holder = holder;
            service.better = None;
            let (handed, here) = (service.handed, self.config.here);
            service.handed &= holder.is_none();
            service.kept = match holder {
                Some(holder) if holder == here => handed.then_some(now),
                Some(_) => None,
                None => service.kept,
            };
            service.pending = Some((Rule::Lease { holder }, now, now));
            if service.kept == Some(now) {
                self.actions.push_back(Action::Report(Report::Kept { service: id, seconds: FAILBACK.as_secs() }));
            }
            self.decide(id, now);
        }
    }

    /// Whether the authority can be asked at all. Until told otherwise it can.
    pub fn handle_authority(&mut self, reachable: bool, now: Instant) {
        self.authority = if reachable { self.authority.or(Some(now)) } else { None };
    }

    /// Cut off: no other site and no authority is heard.
    pub(super) const fn is_cut_off(&self) -> bool {
        self.isolated && self.authority.is_none()
    }

    /// The turn of some candidate may have come.
    pub(super) fn turn(&mut self, now: Instant) {
        let passive = |policy: &super::io::ServicePolicy| matches!(policy.mode, Mode::ActivePassive { .. });
        let ids: Vec<ServiceId> =
            self.config.services.iter().filter(|(_, policy)| passive(policy)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.decide(id, now));
    }

    pub(super) fn active_passive(
        &mut self,
        id: ServiceId,
        all: &[Candidate],
        order: &[SiteId],
        failback: Failback,
        now: Instant,
    ) -> BTreeMap<SiteId, f64> {
        let here = self.config.here;
        let holder = self.services.get(&id).and_then(|service| service.holder);
        let view = View::of(here, all, order);
        let reason = match holder {
            Some(holder) if holder == here => self.gives_up(id, &view, order, failback, now),
            Some(_) => Some(ReleaseReason::Elsewhere),
            None => (!self.has_turn(id, &view, failback, now)).then_some(ReleaseReason::Elsewhere),
        };
        if let Some(service) = self.services.get_mut(&id)
            && service.wants == reason.is_some()
        {
            service.wants = reason.is_none();
            if holder == Some(here) {
                service.handed = reason == Some(ReleaseReason::Draining);
            }
            self.actions.push_back(reason.map_or(Action::Claim(id), |reason| Action::Release(id, reason)));
        }
        // Flows go to the holder and to nobody else, as long as it is possible at all that it serves them.
        holder.map(|site| BTreeMap::from([(site, 1.0)])).unwrap_or_default()
    }

    /// Why the holder, this site, hands over or lets the lease run out. What nobody can take is kept, however it was ordered.
    fn gives_up(
        &mut self,
        id: ServiceId,
        view: &View,
        order: &[SiteId],
        failback: Failback,
        now: Instant,
    ) -> Option<ReleaseReason> {
        let here = self.config.here;
        if self.is_cut_off() {
            return Some(ReleaseReason::Isolated);
        }
        let learned = now.since(self.started) >= LEARN;
        let other = view.well.iter().copied().find(|site| *site != here);
        let rank = |site: SiteId| order.iter().position(|s| *s == site).unwrap_or(usize::MAX);
        let service = self.services.get_mut(&id)?;
        let better = other.filter(|site| rank(*site) < rank(here));
        service.better = better.and(service.better.or(Some(now)));
        // An order that was taken back is over: the next one is tried at once.
        service.kept = service.kept.filter(|_| view.draining);
        if learned && view.spare {
            // Whoever did not take it then, though it looked as if it could, is not trusted with it again for a while.
            let tried = service.kept.is_some_and(|since| now.since(since) < FAILBACK);
            return (view.able && !tried).then_some(ReleaseReason::Draining);
        }
        if learned && !view.well.contains(&here) && other.is_some() {
            return Some(if view.draining { ReleaseReason::Draining } else { ReleaseReason::NotServing });
        }
        let stable = service.better.is_some_and(|since| now.since(since) >= FAILBACK);
        (stable && failback == Failback::Automatic).then_some(ReleaseReason::Failback)
    }

    /// Nobody has the lease: is it for this site to ask for it? Who had it last goes first, unless the best one is to have it back: an authority
    /// that was away for a moment must not move what nobody wanted moved. Then they go in their order. A site that drains goes last: it is better
    /// than nobody.
    fn has_turn(&mut self, id: ServiceId, view: &View, failback: Failback, now: Instant) -> bool {
        let View { well, spare, .. } = view;
        let (here, isolated) = (self.config.here, self.is_cut_off());
        let (Some(service), Some(reachable)) = (self.services.get(&id), self.authority) else { return false };
        let free = service.vacant.map_or(reachable, |vacant| vacant.max(reachable)).max(self.started + LEARN);
        // Two sites that do not reach each other, and an authority that comes and goes: it would move each time.
        let returned = free.since(reachable) < RETURNED;
        let last = service.last.filter(|last| failback == Failback::Manual && (returned || well.contains(last)));
        let queue = last.into_iter().chain(well.iter().copied().filter(|site| Some(*site) != last));
        let queue = queue.chain(spare.then_some(here));
        let Some(place) = queue.into_iter().position(|site| site == here) else { return false };
        if isolated || !(well.contains(&here) || *spare) {
            return false;
        }
        let courtesy = if returned { RETURNED } else { COURTESY };
        let wait = courtesy * u32::try_from(place).unwrap_or(u32::MAX);
        let turn = free + if *spare { wait.max(RETURNED) } else { wait };
        if now < turn && self.timers.get(Timer::Turn).is_none_or(|at| turn < at) {
            self.timers.set(Timer::Turn, turn);
        }
        now >= turn
    }
}
