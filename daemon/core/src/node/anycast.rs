//! A VIP that every eligible node announces over BGP (`scope: all`): its addresses on the loopback link, and when its routes are wanted.
//!
//! There is no election and no fence: several owners are the point. A node withdraws when a gate closes, when it is drained or when the
//! addresses are missing; a node that stands still is withdrawn by BFD or by the hold time of its neighbors. The addresses stay while a
//! gate is closed, so that what routers still send is answered here and does not go round in circles.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use super::config::AnycastConfig;
use super::event::Event;
use super::group::RETRY;
use super::io::{Action, LinkInfo};
use super::status::AnycastStatus;
use crate::announce::route::{LINGER, Want};
use crate::time::{Instant, TimerTable};
use crate::types::LinkId;

/// The kernel's name of the loopback link, the same in every network namespace.
const LOOPBACK: &str = "lo";

/// What the node knows and every anycast VIP needs.
pub(super) struct Around<'a> {
    /// The node is drained or stops: give everything away.
    pub(super) leaving: bool,
    /// The process ends when everything is given away.
    pub(super) ends: bool,
    /// The process ends for a planned restart: everything stays as it is for the next one.
    pub(super) kept: bool,
    /// How long routes are announced with GRACEFUL_SHUTDOWN.
    pub(super) drain: Duration,
    pub(super) links: &'a [LinkInfo],
    /// Every anycast VIP of the configuration.
    pub(super) wanted: &'a [AnycastConfig],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    /// The routes were announced with GRACEFUL_SHUTDOWN long enough.
    Drained,
    /// What was on its way at the withdrawal has arrived.
    Lingered,
    /// The kernel refused: ask again.
    Retry,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Announced while healthy.
    Serving,
    /// On the way out: announced with GRACEFUL_SHUTDOWN while healthy.
    Draining,
    /// Withdrawn, still served.
    Lingering,
    /// Given away.
    Out,
}

/// One VIP.
#[derive(Debug)]
pub(super) struct Anycast {
    pub(super) config: AnycastConfig,
    /// Names it towards the driver; names of VIPs change.
    id: u64,
    healthy: bool,
    /// Its stanza is gone.
    pub(super) retired: bool,
    stage: Stage,
    /// The loopback link, while it is up.
    link: Option<LinkId>,
    /// What the driver was asked to hold, and where.
    held: Option<(LinkId, Vec<IpAddr>)>,
    /// What the kernel confirmed.
    standing: Vec<IpAddr>,
    /// Requests to hold, and to release, without an answer yet.
    holding: u32,
    releasing: u32,
    failure: Option<String>,
    condition: Option<String>,
    timers: TimerTable<Timer>,
    /// What the ledger took last.
    told: Want,
    changed: bool,
    since: Instant,
    pub(super) out: VecDeque<Action>,
}

impl Anycast {
    pub(super) fn new(config: AnycastConfig, id: u64, now: Instant) -> Self {
        Self {
            healthy: config.gates.is_empty(),
            config,
            id,
            retired: false,
            stage: Stage::Serving,
            link: None,
            held: None,
            standing: Vec::new(),
            holding: 0,
            releasing: 0,
            failure: None,
            condition: None,
            timers: TimerTable::default(),
            told: Want::Withdraw,
            changed: false,
            since: now,
            out: VecDeque::new(),
        }
    }

    pub(super) fn is(&self, id: u64) -> bool {
        self.id == id
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What is wanted of its routes, as far as their addresses stand.
    fn want(&self) -> Want {
        match self.stage {
            _ if !self.healthy || self.link.is_none() || self.standing.is_empty() => Want::Withdraw,
            Stage::Serving => Want::Announce,
            Stage::Draining => Want::Drain,
            Stage::Lingering | Stage::Out => Want::Withdraw,
        }
    }

    /// The routes, one for each address that stands.
    pub(super) fn routes(&self) -> impl Iterator<Item = (IpAddr, &str, Want)> {
        let want = self.want();
        self.standing.iter().map(move |a| (*a, self.config.name.as_str(), want))
    }

    /// True once after the routes changed.
    pub(super) fn take_changed(&mut self, now: Instant) -> bool {
        let want = self.want();
        if want != self.told {
            self.since = now;
        }
        let changed = core::mem::take(&mut self.changed) || want != self.told;
        self.told = want;
        changed
    }

    /// Nothing is held any more.
    pub(super) fn at_rest(&self) -> bool {
        self.held.is_none()
    }

    /// At rest, and the kernel has none of the addresses any more.
    pub(super) fn is_gone(&self) -> bool {
        self.at_rest() && self.releasing == 0
    }

    pub(super) fn set_healthy(&mut self, healthy: bool) {
        self.healthy = healthy;
    }

    /// A new stanza in the place of this one: what both have in common never notices. What only the old one had is returned: it goes
    /// its own way out.
    pub(super) fn update(&mut self, config: AnycastConfig, id: u64, around: &Around<'_>, now: Instant) -> Option<Self> {
        let former = core::mem::replace(&mut self.config, config);
        self.changed = true;
        let stays = |address: &IpAddr| self.config.addresses.contains(address);
        let (link, held) = self.held.take()?;
        let gone: Vec<IpAddr> = held.iter().copied().filter(|a| !stays(a)).collect();
        let standing = self.standing.iter().copied().filter(|a| gone.contains(a)).collect();
        self.standing.retain(stays);
        if self.config.addresses.iter().all(|a| held.contains(a)) {
            self.held = Some((link, self.config.addresses.clone()));
        } else {
            self.hold(link);
        }
        if gone.is_empty() {
            return None;
        }
        let rest = AnycastConfig { addresses: gone.clone(), ..former };
        let (healthy, stage) = (self.healthy, self.stage);
        let mut rest = Self {
            healthy,
            stage,
            link: self.link,
            held: Some((link, gone)),
            standing,
            retired: true,
            ..Self::new(rest, id, now)
        };
        rest.evaluate(around, now);
        Some(rest)
    }

    /// Looks at everything that decides what is held and wanted.
    pub(super) fn evaluate(&mut self, around: &Around<'_>, now: Instant) {
        if around.kept {
            return;
        }
        let lo = around.links.iter().find(|l| l.name == LOOPBACK);
        self.link = lo.filter(|l| l.up).map(|l| l.id);
        if around.leaving || self.retired {
            self.leave(around, now);
        } else {
            self.serve();
        }
        let condition = match (lo, self.link) {
            _ if around.leaving || self.retired => None,
            (None, _) => Some(format!("interface {LOOPBACK} does not exist")),
            (Some(_), None) => Some(format!("interface {LOOPBACK} is down")),
            (Some(_), Some(_)) => self.failure.clone(),
        };
        if condition != self.condition {
            self.condition.clone_from(&condition);
            self.report(Event::Blocked { group: self.config.name.clone(), condition });
        }
    }

    fn serve(&mut self) {
        self.timers.stop(Timer::Drained);
        self.timers.stop(Timer::Lingered);
        self.stage = Stage::Serving;
        if let (Some(link), None) = (self.link, &self.held) {
            self.hold(link);
        }
    }

    fn leave(&mut self, around: &Around<'_>, now: Instant) {
        match self.stage {
            Stage::Serving if self.want() == Want::Announce => {
                self.stage = Stage::Draining;
                self.timers.set(Timer::Drained, now + around.drain);
                self.expire(around, now);
            }
            Stage::Serving => self.release(around),
            Stage::Draining | Stage::Lingering | Stage::Out => {}
        }
    }

    /// A deadline passed.
    pub(super) fn handle_timeout(&mut self, around: &Around<'_>, now: Instant) {
        self.expire(around, now);
    }

    fn expire(&mut self, around: &Around<'_>, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Drained => {
                    self.stage = Stage::Lingering;
                    self.timers.set(Timer::Lingered, now + LINGER);
                }
                Timer::Lingered => self.release(around),
                Timer::Retry if self.stage == Stage::Out => self.release(around),
                Timer::Retry => {
                    if let Some((link, _)) = self.held.take() {
                        self.hold(link);
                    }
                }
            }
        }
    }

    fn hold(&mut self, link: LinkId) {
        let addresses = self.config.addresses.clone();
        self.held = Some((link, addresses.clone()));
        self.holding += 1;
        self.out.push_back(Action::Hold { id: self.id, link, addresses });
    }

    fn release(&mut self, around: &Around<'_>) {
        self.stage = Stage::Out;
        self.timers.clear();
        self.standing.clear();
        let Some((link, mut addresses)) = self.held.take() else { return };
        if self.retired && !around.leaving {
            // Another VIP has taken them over and holds them now.
            addresses.retain(|a| !around.wanted.iter().any(|w| w.addresses.contains(a)));
        }
        if !addresses.is_empty() {
            self.releasing += 1;
            self.out.push_back(Action::Release { id: self.id, link, addresses });
        }
    }

    /// The driver's answer to a request to hold.
    pub(super) fn handle_held(&mut self, result: Result<(), String>, around: &Around<'_>, now: Instant) {
        self.holding = self.holding.saturating_sub(1);
        let Some((_, held)) = self.held.as_ref() else { return };
        match result {
            // An answer that is followed by another says nothing about what was asked last.
            Ok(()) if self.holding > 0 => {}
            Ok(()) => {
                self.changed |= self.standing != *held;
                self.standing.clone_from(held);
                self.failure = None;
            }
            Err(error) => {
                self.changed = true;
                self.standing.clear();
                self.failure = Some(format!("addresses cannot be installed: {error}"));
                self.report(Event::InstallFailed { group: self.config.name.clone(), error });
                self.timers.set(Timer::Retry, now + RETRY);
            }
        }
        self.evaluate(around, now);
    }

    /// The driver's answer to a request to release. What the kernel refuses to take off would stay for good: asked again, but a process
    /// that ends leaves it to the sweep of the next start.
    pub(super) fn handle_released(&mut self, result: Result<(), String>, around: &Around<'_>, now: Instant) {
        self.releasing = self.releasing.saturating_sub(1);
        let Err(error) = result else { return };
        self.report(Event::InstallFailed { group: self.config.name.clone(), error });
        if let (Some(link), false, Stage::Out) = (self.link, around.ends, self.stage) {
            self.held = Some((link, self.config.addresses.clone()));
            self.timers.set(Timer::Retry, now + RETRY);
        }
    }

    /// The kernel lost an address: put back. Its route stays meanwhile, for a withdrawal would cost more than the millisecond.
    pub(super) fn handle_address_lost(&mut self, link: LinkId, address: IpAddr) {
        if self.held.as_ref().is_some_and(|(at, held)| *at == link && held.contains(&address)) {
            self.hold(link);
            self.report(Event::AddressRestored { group: self.config.name.clone(), address });
        }
    }

    fn report(&mut self, event: Event) {
        self.out.push_back(Action::Report(event));
    }

    /// Takes part, or nothing keeps it from it.
    pub(super) fn is_ready(&self) -> bool {
        self.link.is_some() && self.config.addresses.iter().all(|a| self.standing.contains(a))
    }

    pub(super) fn status(&self, now: Instant) -> AnycastStatus {
        AnycastStatus {
            name: self.config.name.clone(),
            addresses: self.config.addresses.clone(),
            healthy: self.healthy,
            installed: self.config.addresses.iter().all(|a| self.standing.contains(a)),
            route: self.want(),
            since_seconds: now.since(self.since).as_secs_f64(),
            condition: self.condition.clone(),
        }
    }
}
