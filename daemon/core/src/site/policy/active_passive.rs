//! One site at a time, by a lease that is kept elsewhere (etcd): who should ask for it, who should give it back.
//!
//! Nothing here makes a site the holder; only the lease does. So two sites that judge differently at the same time ask twice and serve once.

use core::time::Duration;
use std::collections::BTreeMap;

use super::decide::Candidate;
use super::io::{Action, Failback, ReleaseReason};
use super::{FAILBACK, LEARN, Policy};
use crate::site::SiteId;
use crate::site::summary::ServiceId;
use crate::site::timeline::Rule;
use crate::time::Instant;

/// Who did not hold a lease last leaves it to the one who did for so long. Two slots, within the 1.5 s that issue 6 allows beyond the TTL.
const COURTESY: Duration = Duration::from_secs(1);

impl Policy {
    /// The lease of an activePassive service has this holder, as far as is known.
    pub fn handle_lease(&mut self, id: ServiceId, holder: Option<SiteId>, now: Instant) {
        let Some(service) = self.services.get_mut(&id) else { return };
        if service.holder != holder {
            service.last = service.holder.or(service.last);
            service.vacant = holder.is_none().then_some(now);
            service.holder = holder;
            service.better = None;
            service.pending = Some((Rule::Lease { holder }, now, now));
            self.decide(id, now);
        }
    }

    /// Whether the authority can be asked at all. Until told otherwise it can.
    pub fn handle_authority(&mut self, reachable: bool, now: Instant) {
        self.authority = if reachable { self.authority.or(Some(now)) } else { None };
    }

    pub(super) fn active_passive(
        &mut self,
        id: ServiceId,
        all: &[Candidate],
        order: &[SiteId],
        failback: Failback,
        now: Instant,
    ) -> BTreeMap<SiteId, f64> {
        let (here, isolated) = (self.config.here, self.isolated);
        let learned = now.since(self.started) >= LEARN;
        let reachable = self.authority;
        let well = |site: SiteId| all.iter().any(|c| c.site == site && c.factor > 0.0);
        let best = order.iter().copied().find(|site| well(*site));
        let Some(service) = self.services.get_mut(&id) else { return BTreeMap::new() };
        let rank = |site: SiteId| order.iter().position(|s| *s == site).unwrap_or(usize::MAX);
        match service.holder {
            // Asking again every slot costs one message and mends a lost one. Who had it last goes first: an authority that was away for a
            // moment must not move what nobody wanted moved.
            None if best == Some(here) && !isolated && learned => {
                let free = reachable.map(|at| service.vacant.map_or(at, |vacant| vacant.max(at)));
                let first = service.last.is_none_or(|last| last == here);
                if free.is_some_and(|at| first || now.since(at) >= COURTESY) {
                    self.actions.push_back(Action::Claim(id));
                }
            }
            Some(holder) if holder == here => {
                let other = best.filter(|site| *site != here);
                let better = other.filter(|site| rank(*site) < rank(here));
                service.better = better.and(service.better.or(Some(now)));
                let reason = if isolated {
                    Some(ReleaseReason::Isolated)
                } else if !well(here) && other.is_some() {
                    Some(ReleaseReason::NotServing)
                } else {
                    let stable = service.better.is_some_and(|since| now.since(since) >= FAILBACK);
                    (stable && failback == Failback::Automatic).then_some(ReleaseReason::Failback)
                };
                self.actions.extend(reason.map(|reason| Action::Release(id, reason)));
            }
            None | Some(_) => {}
        }
        // Flows go to the holder and to nobody else, as long as it is possible at all that it serves them.
        let holder = self.services.get(&id).and_then(|s| s.holder);
        holder.map(|site| BTreeMap::from([(site, 1.0)])).unwrap_or_default()
    }
}
