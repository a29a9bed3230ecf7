//! The whole node as one sans-IO machine: the daemon links it, the simulator runs it by the dozen.
//!
//! Contract: feed [`Node::handle_input`], one input at a time, with a `now` that never goes back; after every call take
//! [`Node::poll_action`] until `None` and carry out each action in order; call [`Node::handle_timeout`] at or after
//! [`Node::poll_timeout`].
//! - The `now` of an input is taken after the input was read: a packet taken for older than it is makes a Backup that was held up
//!   between clock and socket take over from an owner that is alive.
//! - The `now` of an expiry is taken before the look at the sockets that found them empty: it must not be declared over an unread
//!   advert.
//! - An advert that leaves at or after [`Node::advert_deadline`] is dropped by the fence, and sockets do not say so: the driver
//!   compares its clock after sending and feeds [`Input::SendFailed`]. Otherwise a node that was held up between clock and socket
//!   would be Active behind a closed fence for ever. It also asks the fence whether the slot was deposed, and feeds
//!   [`Input::Deposed`]: the kernel gives way to a superior advert by itself.

mod anycast;
mod claim;
mod command;
pub mod config;
pub mod event;
mod group;
pub mod io;
pub mod lease;
mod packets;
mod part;
mod prepare;
mod recall;
mod receive;
mod route;
pub mod status;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use anycast::Anycast;
use command::PendingMove;
use config::{FencePolicy, NodeConfig};
use event::Event;
use group::{Env, Group};
use io::{Action, FenceState, Input, LinkInfo};
use status::{GateStatus, NodeStatus};

use crate::announce::route::Ledger;
use crate::fence::FenceWrite;
use crate::health::Gate;
use crate::time::Instant;
use crate::types::{LinkId, Role, Slot};

/// Lifetime of an address that we put on a link: the kernel removes it by itself when nobody renews it.
pub const ADDRESS_LIFETIME: Duration = Duration::from_secs(10);
/// The same of a shard's address. There are thousands, and for each renewal the kernel walks along all addresses of the link
/// (`find_matching_ifa` of net/ipv4/devinet.c). The fence is what silences a daemon that stands still; the lifetime only clears up after it.
pub const SHARD_LIFETIME: Duration = Duration::from_secs(30);
/// Addresses are renewed this often, all in one batch: two renewals may be lost.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(4);
/// Those of shards every so many times.
const SHARD_RENEWALS: u32 = 3;
/// Slots of the fence.
pub const SLOTS: u32 = 1024;

/// One node.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    seed: u64,
    fence: FenceState,
    drained: bool,
    stopping: bool,
    stopped: bool,
    /// The stop is a planned restart.
    restarting: bool,
    links: Vec<LinkInfo>,
    groups: Vec<Group>,
    /// Groups whose stanza is gone and that still give something away.
    leaving: Vec<Group>,
    /// Anycast VIPs, also those whose stanza is gone and that are still held.
    anycast: Vec<Anycast>,
    next_anycast: u64,
    /// Names of lease electors, one for each group that ever was.
    next_elector: u64,
    ledger: Ledger,
    /// Names or addresses changed: the ledger must be settled.
    routes_changed: bool,
    gates: Vec<Gate>,
    renew: Instant,
    /// So many renewals without the addresses of shards come first.
    spared: u32,
    /// Moves that wait for the group's owner to change: (command, group, wanted node, deadline).
    moves: Vec<PendingMove>,
    refused: [Option<Instant>; 2],
    actions: VecDeque<Action>,
}

impl Node {
    /// A node without configuration, links or fence. `seed` must be random in production: nonces come from it.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            config: NodeConfig::default(),
            seed,
            fence: FenceState::Unavailable("not loaded yet".to_owned()),
            drained: false,
            stopping: false,
            stopped: false,
            restarting: false,
            links: Vec::new(),
            groups: Vec::new(),
            leaving: Vec::new(),
            anycast: Vec::new(),
            next_anycast: 0,
            next_elector: 0,
            ledger: Ledger::default(),
            routes_changed: false,
            gates: Vec::new(),
            renew: now + RENEW_INTERVAL,
            spared: SHARD_RENEWALS - 1,
            moves: Vec::new(),
            refused: [None; 2],
            actions: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Config(config) => self.configure(*config, now),
            Input::Link(link) => {
                match self.links.iter_mut().find(|l| l.id == link.id) {
                    Some(known) if *known == link => return,
                    Some(known) => *known = link,
                    None => self.links.push(link),
                }
                self.evaluate(now);
            }
            Input::LinkGone(id) => {
                self.links.retain(|l| l.id != id);
                self.evaluate(now);
            }
            Input::Fence(state) => self.set_fence(state, now),
            Input::Vrrp { link, src, dst, ttl, payload } => self.handle_vrrp(link, src, dst, ttl, payload, now),
            Input::Neighbor { link, frame } => self.handle_neighbor(link, frame, now),
            Input::Peer { link, src, payload } => self.handle_peer(link, src, payload, now),
            Input::Removed(slot) => self.at_slot(slot, now, |g, env, now| g.handle_removed(env, now)),
            Input::Installed(slot) => self.at_slot(slot, now, |g, env, now| g.handle_installed(env, now)),
            Input::InstallFailed { slot, error } => {
                self.at_slot(slot, now, |g, env, now| g.handle_install_failed(&error, env, now));
            }
            Input::AddressLost { link, address } => {
                self.on_link(link, now, |g, _, _| g.handle_address_lost(address));
                self.each_anycast(now, |a, _, _| a.handle_address_lost(link, address));
            }
            Input::Held { id, result } => {
                let mut result = Some(result);
                self.each_anycast(now, |a, around, now| {
                    if let Some(result) = result.take_if(|_| a.is(id)) {
                        a.handle_held(result, around, now);
                    }
                });
            }
            Input::Released { id, result } => {
                let mut result = Some(result);
                self.each_anycast(now, |a, around, now| {
                    if let Some(result) = result.take_if(|_| a.is(id)) {
                        a.handle_released(result, around, now);
                    }
                });
            }
            Input::SendFailed { slot, .. } => self.at_slot(slot, now, |g, _, _| g.vrrp.advert_failed()),
            Input::Deposed(slot) => self.at_slot(slot, now, |g, env, now| g.handle_deposed(env, now)),
            Input::Word { elector, word } => {
                let mut word = Some(word);
                self.each(now, |g, env, now| {
                    let ours = g.lease.as_ref().is_some_and(|lease| lease.is(elector));
                    if let Some(word) = word.take_if(|_| ours) {
                        g.handle_word(word, env, now);
                    }
                });
            }
            Input::Probed { gate, ok, detail } => self.handle_probed(&gate, ok, &detail, now),
            Input::Command { id, command } => self.handle_command(id, command, now),
        }
        self.collect(now);
    }

    /// A deadline passed; see the contract above for what the driver does first.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.start_probes(now);
        self.join_adverts(now);
        self.each(now, |g, env, now| {
            if g.poll_timeout().is_some_and(|at| at <= now) {
                g.handle_timeout(env, now);
            }
        });
        self.each_anycast(now, |a, around, now| {
            if a.poll_timeout().is_some_and(|at| at <= now) {
                a.handle_timeout(around, now);
            }
        });
        if self.renew <= now {
            self.renew = now + RENEW_INTERVAL;
            self.renew_held(false);
            if let Some(left) = self.spared.checked_sub(1) {
                self.spared = left;
            } else {
                self.spared = SHARD_RENEWALS - 1;
                self.renew_held(true);
            }
        }
        self.collect(now);
    }

    /// Prolongs what groups hold: those that are shards, or those that are not.
    fn renew_held(&mut self, shards: bool) {
        let groups = self.groups.iter().chain(&self.leaving).filter(|g| g.config.shard.is_some() == shards);
        let held = groups.filter_map(|g| g.installed.as_ref());
        let addresses: Vec<(LinkId, IpAddr)> = held.flat_map(|(link, list)| list.iter().map(|a| (*link, *a))).collect();
        if !addresses.is_empty() {
            let lifetime = if shards { SHARD_LIFETIME } else { ADDRESS_LIFETIME };
            self.actions.push_back(Action::Renew { addresses, lifetime });
        }
    }

    /// Shards whose interval is the same send their adverts at one time: a node that owns many wakes itself and everybody who hears it once
    /// in an interval, and not once for each.
    fn join_adverts(&mut self, now: Instant) {
        let shards = || self.groups.iter().filter(|g| g.config.shard.is_some());
        let due = |g: &&Group| g.vrrp.advert_due().is_some_and(|at| at <= now);
        let Some(interval) = shards().find(due).map(|g| g.vrrp.config().interval) else { return };
        for group in self.groups.iter_mut().filter(|g| g.config.shard.is_some()) {
            group.vrrp.join_advert(interval, now);
        }
    }

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Next time [`Self::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let groups = self.groups.iter().chain(&self.leaving).filter_map(Group::poll_timeout);
        let gates = self.gates.iter().filter_map(Gate::poll_timeout);
        let moves = self.moves.iter().map(|m| m.deadline);
        let anycast = self.anycast.iter().filter_map(Anycast::poll_timeout);
        groups.chain(gates).chain(moves).chain(anycast).chain([self.renew]).min()
    }

    /// The links that groups stand on: the driver keeps its sockets open on these.
    pub fn bound_links(&self) -> Vec<LinkId> {
        let mut links: Vec<LinkId> = self.groups.iter().filter_map(|g| g.link.as_ref()).map(|l| l.id).collect();
        links.sort_unstable();
        links.dedup();
        links
    }

    /// When the fence stops letting adverts of this slot out; see the contract above.
    pub fn advert_deadline(&self, slot: Slot) -> Option<Instant> {
        self.groups.iter().chain(&self.leaving).find(|g| g.slot == slot).and_then(|g| g.vrrp.advert_deadline())
    }

    /// A snapshot for people and gauges.
    pub fn status(&self, now: Instant) -> NodeStatus {
        let fence_error = match &self.fence {
            FenceState::Ready => None,
            FenceState::Unavailable(why) => Some(why.clone()),
        };
        // Nobody asked for one.
        let fence_error = fence_error.filter(|_| self.config.fence != FencePolicy::Off);
        let fenced = self.env().fenced();
        let groups: Vec<_> = self.groups.iter().map(|g| g.status(fenced, now)).collect();
        let fence_ok = fence_error.is_none() || self.config.fence != FencePolicy::Required;
        let taking_part = groups.iter().all(|g| self.drained || g.barred || g.role != Role::Initialize)
            && self.anycast.iter().all(|a| self.drained || a.retired || a.is_ready());
        NodeStatus {
            node: self.config.node.clone(),
            fence_policy: self.config.fence,
            fence_ready: self.fence == FenceState::Ready,
            fence_error,
            drained: self.drained,
            ready: fence_ok && taking_part && !self.stopping,
            gates: self
                .gates
                .iter()
                .map(|g| GateStatus { name: g.config().name.clone(), up: g.is_up(), detail: g.detail().to_owned() })
                .collect(),
            anycast: self.anycast.iter().filter(|a| !a.retired).map(|a| a.status(now)).collect(),
            groups,
        }
    }

    /// Everything that decides whether a group or an anycast VIP takes part is looked at.
    fn evaluate(&mut self, now: Instant) {
        self.each(now, |g, env, now| g.evaluate(env, now));
        self.each_anycast(now, |a, around, now| a.evaluate(around, now));
    }

    /// Runs `f` on every group with what it must know, those that are leaving included.
    fn each(&mut self, now: Instant, mut f: impl FnMut(&mut Group, &Env<'_>, Instant)) {
        let mut env = Env {
            node: &self.config.node,
            policy: self.config.fence,
            fence: &self.fence,
            keys: &self.config.keys,
            drained: self.drained || self.stopping,
            ending: self.stopping,
            route_drain: self.config.route_drain,
            links: &self.links,
        };
        for group in &mut self.groups {
            f(group, &env, now);
        }
        (env.drained, env.ending) = (true, true);
        for group in &mut self.leaving {
            f(group, &env, now);
        }
    }

    fn at_slot(&mut self, slot: Slot, now: Instant, f: impl Fn(&mut Group, &Env<'_>, Instant)) {
        self.each(now, |g, env, now| {
            if g.slot == slot {
                f(g, env, now);
            }
        });
    }

    fn on_link(&mut self, link: LinkId, now: Instant, f: impl Fn(&mut Group, &Env<'_>, Instant)) {
        self.each(now, |g, env, now| {
            if g.link.as_ref().is_some_and(|l| l.id == link) {
                f(g, env, now);
            }
        });
    }

    /// Gathers what the groups owe, lets go of those that are done, settles moves.
    fn collect(&mut self, now: Instant) {
        // What is withdrawn comes before what follows from it, what is announced after what makes it true.
        let announced = self.withdraw_routes(now);
        for group in self.groups.iter_mut().chain(&mut self.leaving) {
            self.actions.append(&mut group.out);
        }
        for vip in &mut self.anycast {
            self.actions.append(&mut vip.out);
        }
        self.anycast.retain(|a| !(a.retired && a.is_gone()));
        self.announce_routes(announced);
        let fenced = self.config.fence != FencePolicy::Off && self.fence == FenceState::Ready;
        let actions = &mut self.actions;
        self.leaving.retain(|g| {
            if g.is_gone() && fenced {
                actions.push_back(Action::Fence(FenceWrite::Unregister(g.slot)));
            }
            !g.is_gone()
        });
        self.settle_moves(now);
        let at_rest = self.groups.iter().chain(&self.leaving).all(Group::at_rest)
            && (self.restarting || self.anycast.iter().all(Anycast::at_rest));
        if self.stopping && !self.stopped && at_rest {
            self.stopped = true;
            self.actions.push_back(Action::Stopped);
        }
    }

    fn set_fence(&mut self, state: FenceState, now: Instant) {
        if self.fence == state {
            return;
        }
        self.fence = state;
        let error = match &self.fence {
            FenceState::Ready => None,
            FenceState::Unavailable(why) => Some(why.clone()),
        };
        self.actions.push_back(Action::Report(Event::Fence { ready: error.is_none(), error }));
        self.each(now, |g, env, now| {
            g.registered = None;
            g.register(env, now);
            g.apply_vrrp(env, now);
            g.evaluate(env, now);
        });
    }

    fn start_probes(&mut self, now: Instant) {
        for gate in &mut self.gates {
            if gate.start_due(now) {
                let (gate, kind, timeout) =
                    (gate.config().name.clone(), gate.config().probe.clone(), gate.config().timeout);
                self.actions.push_back(Action::Probe { gate, kind, timeout });
            }
        }
    }

    fn handle_probed(&mut self, name: &str, ok: bool, detail: &str, now: Instant) {
        let Some(gate) = self.gates.iter_mut().find(|g| g.config().name == name) else { return };
        if let Some(up) = gate.handle_result(ok, detail) {
            let (gate, detail) = (name.to_owned(), detail.to_owned());
            self.actions.push_back(Action::Report(Event::Gate { gate, up, detail }));
            self.update_health(now);
        }
    }

    fn update_health(&mut self, now: Instant) {
        let open: Vec<String> = self.gates.iter().filter(|g| g.is_up()).map(|g| g.config().name.clone()).collect();
        self.each(now, |g, env, now| {
            let healthy = g.config.gates.iter().all(|name| open.contains(name));
            g.set_healthy(healthy, env, now);
        });
        self.each_anycast(now, |a, _, _| {
            let healthy = a.config.gates.iter().all(|name| open.contains(name));
            a.set_healthy(healthy);
        });
    }
}

mod reload;

#[cfg(test)]
mod tests;
