//! Whether a group takes part in its election: its link, what stands in the way, and how it comes in and out.

use core::time::Duration;

use super::config::{FencePolicy, WhenAllFail};
use super::event::Event;
use super::group::{Env, Group, Timer};
use super::io::{Action, FenceState, LinkInfo};
use crate::election::Reason;
use crate::fence::{Basis, FenceRole, FenceWrite, window};
use crate::handover::Wanted;
use crate::time::Instant;
use crate::types::{Family, Role};

/// A link may take this long after the start to come up with its addresses before that is worth an error.
const SETTLE: Duration = Duration::from_secs(2);

impl Group {
    /// The link of the group among those that exist: by name, else by this node's address (a shard) or the subnet of the first address.
    fn find_link<'a>(&self, links: &'a [LinkInfo]) -> Option<&'a LinkInfo> {
        match (&self.config.interface, self.config.shard) {
            (Some(name), _) => {
                let mut names = core::iter::once(name).chain(&self.config.further_interfaces);
                names.find_map(|name| links.iter().find(|l| l.name == *name))
            }
            (None, Some(shard)) => links.iter().find(|l| l.addresses.iter().any(|n| n.addr() == shard.node)),
            (None, None) => {
                let owned = self.config.owned();
                let first = self.config.addresses.first()?;
                links.iter().find(|l| l.addresses.iter().any(|n| n.contains(first) && !owned.contains(&n.addr())))
            }
        }
    }

    /// Why the group must not take part, and what to call it; `None` when it may.
    fn obstacle(&self, env: &Env<'_>) -> Option<(Reason, String)> {
        let Some(link) = &self.link else {
            let text = match (&self.config.interface, self.config.shard) {
                (Some(name), _) if self.config.further_interfaces.is_empty() => {
                    format!("interface {name} does not exist")
                }
                (Some(name), _) => {
                    format!("none of the interfaces {name}, {} exists", self.config.further_interfaces.join(", "))
                }
                (None, Some(shard)) => format!("no interface has this node's address {}", shard.node),
                (None, None) => "no interface has a subnet with the first address".to_owned(),
            };
            return Some((Reason::LinkDown, text));
        };
        if !link.up {
            return Some((Reason::LinkDown, format!("interface {} is down", link.name)));
        }
        for family in self.config.families() {
            if self.own_address(family).is_none() {
                let what = if family == Family::V4 { "IPv4" } else { "IPv6 link-local" };
                return Some((Reason::LinkDown, format!("interface {} has no {what} address of its own", link.name)));
            }
        }
        if let (FencePolicy::Required, FenceState::Unavailable(why)) = (env.policy, env.fence) {
            return Some((Reason::FenceUnavailable, format!("fence: {why}")));
        }
        if env.drained {
            return Some((Reason::Stopped, "drained".to_owned()));
        }
        if let Some(why) = &self.config.barred {
            return Some((Reason::Stopped, why.clone()));
        }
        if !self.healthy && self.config.when_all_fail == WhenAllFail::Release {
            return Some((Reason::Unhealthy, "a gate is closed and whenAllFail is release".to_owned()));
        }
        self.setback.clone()
    }

    /// Looks at everything that decides whether the group takes part, and brings it in or out.
    pub(super) fn evaluate(&mut self, env: &Env<'_>, now: Instant) {
        let link = self.find_link(env.links).cloned();
        if self.link.as_ref().map(|l| l.id) != link.as_ref().map(|l| l.id) && self.role() != Role::Initialize {
            // The link was replaced under us: nothing of the old one can be trusted.
            self.vrrp.stop(Reason::LinkDown, false);
            self.drain_outputs(env, now);
            self.lease_close(Role::Initialize, Reason::LinkDown, env, now);
        }
        let new_mac = matches!((&self.link, &link), (Some(old), Some(new)) if old.mac != new.mac);
        self.link = link;
        if new_mac {
            // The whole segment holds the old one.
            self.announcer.restart(now);
        }
        self.register(env, now);
        let obstacle = self.obstacle(env);
        let condition = obstacle.as_ref().map(|(_, text)| text.clone());
        self.condition.clone_from(&condition);
        // A link that comes up with the node takes a moment (IPv6 duplicate detection alone a second): no news before that.
        let settles = self.begun + SETTLE;
        let early = now < settles
            && self.role() == Role::Initialize
            && self.link.is_some()
            && matches!(obstacle, Some((Reason::LinkDown, _)));
        if early {
            self.timers.set(Timer::Retry, settles);
        } else if condition != self.reported {
            self.reported.clone_from(&condition);
            // A drain was asked for and is reported as such, and so is what bars a node; every other obstacle is news.
            if !env.drained && self.config.barred.is_none() {
                self.report(Event::Blocked { group: self.config.name.clone(), condition });
            }
        }
        match obstacle {
            Some((reason, _)) => self.withdraw(reason, env, now),
            None => self.join(now),
        }
        self.tell_standing(env);
        self.drain_outputs(env, now);
    }

    /// Leaves the election; the planned way when somebody may take over and we are still able to.
    fn withdraw(&mut self, reason: Reason, env: &Env<'_>, now: Instant) {
        self.timers.stop(Timer::Probe);
        if self.role() == Role::Initialize {
            return;
        }
        if self.lease.is_some() {
            return self.lease_close(Role::Initialize, reason, env, now);
        }
        let planned = matches!(reason, Reason::Stopped | Reason::Unhealthy);
        if planned && self.vrrp.role() == Role::Active && !env.keys.is_empty() {
            if !self.farewell {
                self.farewell = true;
                self.start_handover(Wanted::Best, now);
            }
            if self.handover.in_progress() {
                return;
            }
        }
        self.vrrp.stop(reason, planned || reason == Reason::InstallFailed);
    }

    fn join(&mut self, now: Instant) {
        self.farewell = false;
        if self.role() != Role::Initialize || self.timers.get(Timer::Probe).is_some() {
            return;
        }
        if self.probed && self.lease.is_some() {
            self.lease_join(now);
        } else if self.probed {
            self.vrrp.start(now);
        } else {
            self.probes = 0;
            self.answered = None;
            self.timers.set(Timer::Probe, now);
        }
    }

    /// Tells the fence what the slot guards, when that changed.
    pub(super) fn register(&mut self, env: &Env<'_>, now: Instant) {
        let Some(link) = self.link.as_ref().filter(|_| env.fenced()) else {
            self.registered = None;
            return;
        };
        let mut guarded = self.config.owned();
        guarded.extend(self.removing.iter().filter(|a| !self.config.owned().contains(a)));
        let wanted = (link.id, guarded);
        if self.registered.as_ref() == Some(&wanted) {
            return;
        }
        let families = if self.lease.is_some() { Vec::new() } else { self.config.families() };
        let routers = families.into_iter().map(|family| (family, self.config.vrid)).collect();
        let (slot, addresses) = (self.slot, wanted.1.clone());
        self.registered = Some(wanted);
        let write = FenceWrite::Register { slot, link: link.id, addresses, routers };
        self.out.push_back(Action::Fence(write));
        if self.role() == Role::Active {
            // What the slot knew is forgotten: the claim goes on in it. A fence that became available under a running claim opens
            // for one window, which the advert that follows proves.
            let deadline = self.fence_deadline().unwrap_or(now + window(self.config.interval));
            // Programs that were not there saw no silence.
            self.basis = Basis::Given;
            self.write_fence(env, FenceRole::Active, deadline, Instant::ZERO, self.handover.granted_to().is_some());
        }
    }
}
