//! Wishes about routes: gathered from the groups and the anycast VIPs, told as differences.

use std::collections::BTreeMap;

use super::Node;
use super::anycast::{Anycast, Around};
use super::config::{Announce, AnycastConfig};
use super::event::Event;
use super::group::{Env, Group, Timer};
use super::io::Action;
use crate::announce::route::{LINGER, RouteWish, Want};
use crate::time::Instant;
use crate::types::Role;

impl Node {
    /// Runs `f` on every anycast VIP with what it must know.
    pub(super) fn each_anycast(&mut self, now: Instant, mut f: impl FnMut(&mut Anycast, &Around<'_>, Instant)) {
        let around = Around {
            leaving: self.drained || self.stopping,
            ends: self.stopping,
            kept: self.restarting,
            drain: self.config.route_drain,
            links: &self.links,
            wanted: &self.config.anycast,
        };
        for vip in &mut self.anycast {
            f(vip, &around, now);
        }
    }

    /// Settles the ledger when something changed, and owes what is not announced any more. Returns what is.
    pub(super) fn withdraw_routes(&mut self, now: Instant) -> Vec<RouteWish> {
        let drained = self.drained || self.stopping;
        let mut changed = core::mem::take(&mut self.routes_changed);
        let groups = self.groups.iter_mut().map(|g| (g, drained));
        for (group, drained) in groups.chain(self.leaving.iter_mut().map(|g| (g, true))) {
            let want = group.route(drained);
            changed |= want != group.routed;
            group.routed = want;
        }
        for vip in &mut self.anycast {
            changed |= vip.take_changed(now);
        }
        if !changed {
            return Vec::new();
        }
        let groups = self.groups.iter().chain(&self.leaving).flat_map(Group::routes);
        let wanted = groups.chain(self.anycast.iter().flat_map(Anycast::routes));
        let (announced, other) =
            self.ledger.settle(wanted, now).into_iter().partition(|wish| wish.want == Want::Announce);
        self.announce_routes(other);
        announced
    }

    /// Owes the wishes to the speaker, and a line for each VIP.
    pub(super) fn announce_routes(&mut self, wishes: Vec<RouteWish>) {
        if wishes.is_empty() {
            return;
        }
        // A map and not a list that is searched: ten thousand VIPs may change at once, and adverts wait meanwhile.
        let mut told: BTreeMap<(&str, Want), Vec<core::net::IpAddr>> = BTreeMap::new();
        for wish in &wishes {
            told.entry((&wish.vip, wish.want)).or_default().push(wish.address);
        }
        let lines =
            told.into_iter().map(|((vip, want), addresses)| Event::Routes { group: vip.to_owned(), want, addresses });
        let lines: Vec<Event> = lines.collect();
        self.actions.push_back(Action::Routes(wishes));
        self.actions.extend(lines.into_iter().map(Action::Report));
    }

    /// Brings the anycast VIPs to the configuration: by name, then by addresses (a VIP that was renamed), so that what stays never notices.
    pub(super) fn replace_anycast(&mut self, told: &mut Changes, now: Instant) {
        self.routes_changed = true;
        let wanted = self.config.anycast.clone();
        let fresh: Vec<&AnycastConfig> =
            wanted.iter().filter(|w| !self.anycast.iter().any(|a| !a.retired && a.config.name == w.name)).collect();
        let gone = |a: &Anycast| !a.retired && !wanted.iter().any(|w| w.name == a.config.name);
        let mut next: Vec<(usize, AnycastConfig)> = Vec::new();
        for (index, vip) in self.anycast.iter_mut().enumerate() {
            let renamed = || fresh.iter().find(|f| gone(vip) && f.addresses == vip.config.addresses).copied();
            let stanza = wanted.iter().find(|w| !vip.retired && w.name == vip.config.name).or_else(renamed);
            match stanza {
                Some(same) if *same == vip.config => told.unchanged += 1,
                Some(other) => {
                    told.changed.push(other.name.clone());
                    next.push((index, other.clone()));
                }
                None if vip.retired => {}
                None => {
                    told.removed.push(vip.config.name.clone());
                    vip.retired = true;
                }
            }
        }
        for (index, config) in next {
            let id = self.new_anycast_id();
            let around = Around {
                leaving: self.drained || self.stopping,
                ends: self.stopping,
                kept: self.restarting,
                drain: self.config.route_drain,
                links: &self.links,
                wanted: &self.config.anycast,
            };
            let rest = self.anycast[index].update(config, id, &around, now);
            self.anycast.extend(rest);
        }
        for config in &wanted {
            if !self.anycast.iter().any(|a| !a.retired && a.config.name == config.name) {
                told.added.push(config.name.clone());
                let id = self.new_anycast_id();
                self.anycast.push(Anycast::new(config.clone(), id, now));
            }
        }
        self.anycast
            .sort_by_key(|a| wanted.iter().position(|w| !a.retired && w.name == a.config.name).unwrap_or(usize::MAX));
    }

    fn new_anycast_id(&mut self) -> u64 {
        self.next_anycast += 1;
        self.next_anycast
    }
}

/// What a new configuration changed, by name.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) unchanged: usize,
}

impl Changes {
    pub(super) fn into_event(self) -> Event {
        let Self { added, changed, removed, unchanged } = self;
        Event::ConfigApplied { added, changed, removed, unchanged }
    }
}

impl Group {
    /// What is wanted of the group's routes. Announced with the first gratuitous ARP would be, when the addresses are there; through a
    /// planned move until the successor's route is everywhere; withdrawn in the step of every other way to lose the group.
    pub(super) fn route(&self, drained: bool) -> Want {
        if !self.config.announce.routed() {
            return Want::Withdraw;
        }
        match self.role() {
            Role::Active if self.claim.is_some_and(|c| c.announced) => {
                if drained {
                    Want::Drain
                } else {
                    Want::Announce
                }
            }
            Role::Initialize | Role::Backup | Role::Active if self.timers.get(Timer::Unroute).is_some() => Want::Drain,
            Role::Initialize | Role::Backup | Role::Active => Want::Withdraw,
        }
    }

    /// The routes, one for each address. The link-local address of the IPv6 router belongs to its link.
    pub(super) fn routes(&self) -> impl Iterator<Item = (core::net::IpAddr, &str, Want)> {
        self.config.addresses.iter().map(|a| (*a, self.config.name.as_str(), self.routed))
    }

    /// When a planned farewell withdraws the routes, and when it ends.
    pub(super) fn farewell_times(&self, env: &Env<'_>, now: Instant) -> (Instant, Instant) {
        let serve = self.config.drain_time;
        if !self.config.announce.routed() {
            return (now + serve, now + serve);
        }
        let serve = if env.drained { serve.max(env.route_drain) } else { serve };
        (now + serve, now + serve + LINGER)
    }

    /// Another way to announce takes effect under a running claim.
    pub(super) fn change_announcement(&mut self, before: Announce, now: Instant) {
        if !self.claim.is_some_and(|c| c.announced) || before.on_link() == self.config.announce.on_link() {
            return;
        }
        if before.on_link() {
            self.announcer.stop();
        } else {
            self.announcer.start(now);
        }
    }
}
