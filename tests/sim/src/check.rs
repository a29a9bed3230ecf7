//! The invariants. Every one is checked from outside: from what the kernels answer, what left and what arrived, never from what a
//! daemon thinks, except where the claim is about the daemon itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bascule_core::fence::{FenceRole, FenceWrite, window};
use bascule_core::node::event::Event;
use bascule_core::time::Instant;
use bascule_core::types::{Role, Term};
use bascule_core::wire::vrrp::Advert;

use crate::lan::{Body, Lan, Packet};
use crate::scenario::{Class, MS, SEC, Scenario};
use crate::violation::Violation;
use crate::world::World;

/// A lifetime of 10 s and what the kernel needs to notice (issue 2, "SIGKILL of the owner's daemon": 11 s).
const LINGER: u64 = 11 * SEC;
/// Turns with an expiry and actions per virtual second and node at most: three groups at 10 ms send 600 adverts.
const WORK: u64 = 3000;

/// Two or more owners of one VIP.
#[derive(Clone, Debug)]
struct Dual {
    since: u64,
    owners: Vec<usize>,
    /// First advert among them that should end it.
    heard: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Vip {
    group: usize,
    address: Option<IpAddr>,
    dual: Option<Dual>,
    unowned: Option<u64>,
    /// While nobody owns: who could, and since when.
    able: BTreeMap<usize, u64>,
}

/// The checker of a run.
#[derive(Debug, Default)]
pub struct Checker {
    vips: Vec<Vip>,
    class: Option<Class>,
    /// Advert interval in nanoseconds; the longest when a reload changes it.
    a: u64,
    reach: u64,
    /// Nothing is planned, and the faults are of processes: who owns and is not struck stays the owner.
    strict: bool,
    gap_bound: Option<u64>,
    split_since: u64,
    announced: BTreeMap<(usize, IpAddr), (Option<Term>, u64)>,
    lingering: BTreeMap<(usize, IpAddr), u64>,
    work: Vec<(u64, u64)>,
    /// Longest time with two owners.
    pub longest_dual: u64,
    /// Longest time without an owner.
    pub longest_gap: u64,
}

impl Checker {
    /// A checker with the bounds of the scenario's class.
    pub fn new(scenario: &Scenario) -> Self {
        let a = scenario.longest_interval();
        let first = &scenario.nodes[0].config;
        let vips =
            first.groups.iter().enumerate().flat_map(|(group, g)| {
                g.addresses.iter().map(move |a| Vip { group, address: Some(*a), ..Vip::default() })
            });
        let planned = first.groups.iter().any(|g| g.preempt || !g.gates.is_empty());
        let daemon_only = matches!(scenario.class, Class::Quiet | Class::Kill | Class::Pause | Class::Stall);
        // Active_Down_Interval with the longest skew, clocks that are off, adding the addresses, turns.
        let gap = 4 * a + 4 * a / 500 + 30 * MS;
        let bounded = scenario.class.single_node() && !matches!(scenario.class, Class::Gates | Class::Reload);
        let released = first.groups.iter().any(|g| !g.gates.is_empty());
        Self {
            vips: vips.collect(),
            class: Some(scenario.class),
            a,
            reach: scenario.net.reach(),
            strict: daemon_only && !planned,
            gap_bound: (bounded && !released && scenario.nodes.len() > 1).then_some(gap),
            work: vec![(0, 0); scenario.nodes.len()],
            ..Self::default()
        }
    }

    fn broken(rule: &'static str, at: u64, text: String) -> Option<Violation> {
        Some(Violation { rule, at, text })
    }

    /// A write to the fence: a claim's own deadline is at most one window away.
    pub fn on_write(&mut self, n: usize, write: &FenceWrite, shown: Instant, at: u64) -> Option<Violation> {
        let FenceWrite::Ctl(slot, ctl) = write else { return None };
        if ctl.role == FenceRole::Active && ctl.deadline > shown + window(ctl.interval) {
            return Self::broken("claim-deadline", at, format!("n{n} slot {} claims until {:?}", slot.0, ctl.deadline));
        }
        None
    }

    /// A node reports something: where nothing is planned, an owner that nothing happens to stays the owner.
    pub fn on_event(
        &mut self,
        n: usize,
        event: &Event,
        victim: Option<usize>,
        at: u64,
        scenario: &Scenario,
    ) -> Option<Violation> {
        let Event::Role { group, from: Role::Active, reason, .. } = event else { return None };
        let innocent = self.strict && at > scenario.settled && victim != Some(n);
        innocent.then(|| Violation {
            rule: "deposed",
            at,
            text: format!("n{n} lost {group} ({}) unharmed", reason.as_str()),
        })
    }

    /// An announcement left a node.
    pub fn on_announcement(&mut self, n: usize, address: IpAddr, term: Option<Term>, at: u64) {
        self.announced.insert((n, address), (term, at));
    }

    /// A packet reached a daemon's socket.
    pub fn on_arrival(&mut self, n: usize, packet: &Packet, at: u64, lan: &Lan) {
        let Body::Vrrp { src, dst, payload } = &packet.body else { return };
        let whole = lan.is_whole();
        for vip in &mut self.vips {
            let Some(dual) = vip.dual.as_mut().filter(|d| d.owners.contains(&n) && d.owners.contains(&packet.from))
            else {
                continue;
            };
            if dual.heard.is_some() {
                continue;
            }
            let Ok(advert) = Advert::parse(payload, *src, *dst) else { continue };
            // While frames are lost, only an advert of the lower rank's superior decides by itself.
            if usize::from(advert.vrid) == 51 + vip.group && whole {
                dual.heard = Some(at);
            }
        }
    }

    /// The LAN was split or joined.
    pub fn split(&mut self, at: u64) {
        self.split_since = at;
    }

    /// After every event.
    pub fn after_event(&mut self, world: &World) -> Option<Violation> {
        for host in &world.hosts {
            let shown = host.clock.read(world.now);
            for (slot, guard) in host.kernel.guards() {
                let active = guard.ctl.is_some_and(|c| c.role == FenceRole::Active);
                if active && guard.model.deadline() > guard.allowed && shown < guard.model.deadline() {
                    let text = format!(
                        "n{} slot {} is open until {:?}, its last advert allows {:?}",
                        host.index,
                        slot.0,
                        guard.model.deadline(),
                        guard.allowed
                    );
                    return Self::broken("fence-deadline", world.now, text);
                }
            }
        }
        let mut vips = core::mem::take(&mut self.vips);
        let broken = vips.iter_mut().find_map(|vip| self.owners(vip, world));
        self.vips = vips;
        broken
    }

    fn owners(&mut self, vip: &mut Vip, world: &World) -> Option<Violation> {
        let address = vip.address?;
        let (now, nodes) = (world.now, world.hosts.len());
        let (mut answering, mut owners) = (0usize, Vec::new());
        for host in &world.hosts {
            if world.lan.joined(host.index, nodes) && host.kernel.answers(address, host.clock.read(now)) {
                answering += 1;
                let said = self.announced.get(&(host.index, address));
                if said.is_some_and(|(term, _)| *term == host.kernel.term(address)) {
                    owners.push(host.index);
                }
            }
        }
        if answering > 0 {
            vip.unowned = None;
            vip.able.clear();
        } else if now > world.scenario.settled {
            let since = *vip.unowned.get_or_insert(now);
            self.longest_gap = self.longest_gap.max(now - since);
            let bound = self.gap_bound?;
            // Only a node that could have owned all the while makes a gap a fault.
            vip.able.retain(|n, _| world.can_own(*n, vip.group));
            for n in (0..nodes).filter(|n| world.can_own(*n, vip.group)) {
                vip.able.entry(n).or_insert(now);
            }
            if vip.able.values().any(|able| now - able > bound) {
                let text = format!("{address}: nobody for {:.3} ms", (now - since) as f64 / 1e6);
                return Self::broken("gap", now, text);
            }
        }
        if owners.len() < 2 {
            vip.dual = None;
            return None;
        }
        let reach = self.reach;
        let dual = vip.dual.get_or_insert_with(|| Dual { since: now, owners: owners.clone(), heard: None });
        dual.owners.clone_from(&owners);
        let length = now - dual.since;
        self.longest_dual = self.longest_dual.max(length);
        let (from, bound) = match self.class? {
            Class::OneWay if !world.lan.is_whole() => (dual.since, 3 * self.a + reach),
            Class::OneWay | Class::Loss | Class::Partition | Class::Cut => match dual.heard {
                Some(heard) => (heard, 2 * self.a + reach),
                None if world.lan.is_whole() => (dual.since.max(world.scenario.last_fault(now)), 3 * self.a + reach),
                None => return None,
            },
            // A fault of one node. Whoever displaces an owner that is alive does not wait for its fence: the owner's kernel gives way to the
            // advert, whether its daemon stands still or not, and the advert leaves longer before the announcement than a frame flies.
            _ => (dual.since, 0),
        };
        let over = now - from;
        if if bound == 0 { length > 0 } else { over > bound } {
            let text = format!(
                "{address}: n{owners:?} answer together for {:.3} ms, {:.3} ms past what is allowed",
                length as f64 / 1e6,
                over.saturating_sub(bound) as f64 / 1e6
            );
            return Self::broken("two-owners", now, text);
        }
        None
    }

    /// At every tick of the clients: what needs no exact time.
    pub fn on_tick(&mut self, world: &World) -> Option<Violation> {
        let now = world.now;
        for host in &world.hosts {
            let shown = host.clock.read(now);
            let held = host.kernel.addresses();
            let status = host.process.as_ref().filter(|p| !p.frozen && !held.is_empty()).map(|p| p.node.status(shown));
            for address in &held {
                let key = (host.index, *address);
                let rightful = status.as_ref().is_some_and(|s| {
                    s.groups.iter().any(|g| g.addresses.contains(address) && (g.role == Role::Active || g.draining))
                });
                if rightful {
                    self.lingering.remove(&key);
                } else if now - *self.lingering.entry(key).or_insert(now) > LINGER {
                    return Self::broken("address-lingers", now, format!("n{}: {address}", host.index));
                }
            }
            self.lingering.retain(|(n, a), _| *n != host.index || held.contains(a));
            if let Some(process) = &host.process {
                let (since, base) = self.work[host.index];
                if process.work < base || now - since >= SEC {
                    let done = process.work.saturating_sub(base);
                    self.work[host.index] = (now, process.work);
                    if done > WORK * (now - since).div_ceil(SEC) {
                        return Self::broken("busy", now, format!("n{}: {done} steps in a second", host.index));
                    }
                }
            }
        }
        None
    }

    /// Before the LAN's segments change: a partition that stood long enough has one Active per segment.
    pub fn before_split(&self, world: &World) -> Option<Violation> {
        if !world.lan.is_split() || world.now - self.split_since < 7 * self.a + 100 * MS {
            return None;
        }
        self.vips.iter().find_map(|vip| {
            let address = vip.address?;
            (0..2).find_map(|segment| {
                let there = || world.hosts.iter().filter(|h| world.lan.segment(h.index) == segment);
                let owners = there().filter(|h| h.kernel.answers(address, h.clock.read(world.now))).count();
                let able = there().any(|h| h.process.is_some());
                (able && owners != 1).then(|| Violation {
                    rule: "one-per-segment",
                    at: world.now,
                    text: format!("{address}: {owners} owners on segment {segment}"),
                })
            })
        })
    }

    /// After the quiet at the end: exactly one owner, and the clients reach it.
    pub fn at_end(&mut self, world: &World) -> Option<Violation> {
        if !world.lan.is_whole() {
            return None;
        }
        let now = world.now;
        for vip in &self.vips {
            let Some(address) = vip.address else { continue };
            let able: Vec<usize> =
                world.hosts.iter().filter(|h| world.able(h, vip.group, address)).map(|h| h.index).collect();
            let owners: Vec<usize> =
                world.hosts.iter().filter(|h| h.kernel.answers(address, h.clock.read(now))).map(|h| h.index).collect();
            if owners.len() > 1 || owners.is_empty() != able.is_empty() {
                return Self::broken("one-owner", now, format!("{address}: owners {owners:?}, able {able:?}"));
            }
            let roles: Vec<usize> =
                able.iter().copied().filter(|n| world.role(*n, vip.group) == Some(Role::Active)).collect();
            if roles != owners {
                return Self::broken("role", now, format!("{address}: Active {roles:?}, answering {owners:?}"));
            }
            let accept = world.scenario.nodes[0].config.groups[vip.group].accept;
            let served = world.clients.served(address);
            if accept && !owners.is_empty() && now - served > 4 * world.scenario.tick() {
                let text = format!("{address}: a client was served {:.3} s ago", (now - served) as f64 / 1e9);
                return Self::broken("unreachable", now, text);
            }
        }
        None
    }
}
