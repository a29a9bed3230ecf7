//! The VRRPv3 state machine of one virtual router (RFC 9568 section 6.4), with the house's additions.
//!
//! Additions, each with its ADR: a healthy Backup takes over from a sick Active (0004); an Active that keeps hearing a lower-priority
//! Active yields (0002); an Active whose fence has closed steps down by itself.
//! Decides the role and when adverts are due. Leaves to the group: addresses, fence writes, announcements, gates.
//!
//! Contract: call `handle_*` with a `now` that never goes back, then take [`Vrrp::poll_output`] until `None`, then come back at
//! [`Vrrp::poll_timeout`]. The caller drains its socket before it calls [`Vrrp::handle_timeout`].

mod adverts;

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use super::Reason;
use super::grace::{GRACE_MAX, Grace, Granter};
use crate::fence;
use crate::time::{Instant, TimerTable};
use crate::types::{Centis, Family, HEALTHY_MIN, Role};
use crate::wire::vrrp::PRIORITY_RELEASE;

/// What the machine must know of its own configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VrrpConfig {
    /// Effective priority 1..=254 (the sick band when a gate fails).
    pub priority: u8,
    /// Advertisement_Interval.
    pub interval: Centis,
    /// Preempt_Mode.
    pub preempt: bool,
    /// Off switch of the one-way rule.
    pub strict_rfc: bool,
    /// The fence guards this router: the machine steps down when its window has passed.
    pub fenced: bool,
    /// Family of the group's first address. A dual-stack node speaks from two addresses: the one of this family names it and settles
    /// ties, so that both nodes compare the same pair.
    pub family: Family,
}

/// An advert of the same virtual router, already checked: not our own, addresses as ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// Sender's address (the primary address of RFC 9568 section 1.7).
    pub source: IpAddr,
    /// Our own primary address of the same family, for the tie-break.
    pub own: IpAddr,
    /// Priority field.
    pub priority: u8,
    /// Max Advertise Interval field.
    pub interval: Centis,
}

/// What the caller owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Output {
    /// Send an advert with this priority and interval on every family of the group.
    SendAdvert {
        /// Priority field; 0 releases.
        priority: u8,
        /// Interval field.
        interval: Centis,
    },
    /// The role changed: `Active` means claim now, anything else means give up what was owned.
    Role {
        /// Role before.
        from: Role,
        /// Role now.
        to: Role,
        /// Why.
        reason: Reason,
    },
    /// Say where the addresses are: another Active was met, and neighbours may have learned it.
    Announce {
        /// The contest is over and we stay: the other fell silent, or has to.
        settled: bool,
    },
    /// Another Active was heard while we are Active.
    Rival {
        /// Its address.
        source: IpAddr,
        /// Its priority.
        priority: u8,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    /// Adver_Timer of an Active.
    Adver,
    /// Active_Down_Timer of a Backup.
    ActiveDown,
    /// End of the two intervals that a re-asserting Active grants to a rival.
    Yield,
    /// When the fence closes unless an advert leaves before.
    Fence,
    /// After a grant: an advert of the granter that crossed our first one must not send us back.
    Grace,
}

/// Who the Active is, as far as a Backup knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its address.
    pub address: IpAddr,
    /// Its priority in the last advert.
    pub priority: u8,
    /// When an advert last came from that address.
    pub heard: Instant,
}

/// A lower-priority Active that we told about us, or an equal one that only its other family's address can settle.
#[derive(Clone, Copy, Debug)]
struct Rival {
    /// Its latest advert.
    advert: Heard,
    /// Equal priority, heard in the family that does not settle ties.
    tie: bool,
    first: Instant,
    last: Instant,
}

/// One virtual router.
#[derive(Clone, Debug)]
pub struct Vrrp {
    config: VrrpConfig,
    role: Role,
    /// Active_Adver_Interval, learned from the Active (RFC 9568 section 6.1).
    active_interval: Centis,
    /// The interval that was in the last advert sent: the smaller of it and the configured one still binds the fence.
    last_sent: Option<Centis>,
    owner: Option<Owner>,
    /// The kernel deposed us for an advert that we have not read yet: its sender is a rival although we are a Backup by now.
    deposed: bool,
    /// Why the Active_Down_Timer was shortened, if it was.
    pending: Option<Reason>,
    /// The rivals that we re-asserted against, by address; at most [`RIVALS`].
    rivals: Vec<Rival>,
    /// The Active that we yielded to because it cannot hear us, and when it was heard: not preempted while it is.
    yielded: Option<(IpAddr, Instant)>,
    /// After a grant, while adverts of the granter may have crossed our first one.
    grace: Option<Grace>,
    /// The deadline of the fence before the last advert, in case that advert turns out not to have left.
    fence_before: Option<Instant>,
    timers: TimerTable<Timer>,
    outputs: VecDeque<Output>,
}

impl Vrrp {
    /// A machine in Initialize.
    pub fn new(config: VrrpConfig) -> Self {
        Self {
            active_interval: config.interval,
            config,
            role: Role::Initialize,
            last_sent: None,
            owner: None,
            deposed: false,
            pending: None,
            rivals: Vec::new(),
            yielded: None,
            grace: None,
            fence_before: None,
            timers: TimerTable::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The role now.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The configuration in force.
    pub fn config(&self) -> &VrrpConfig {
        &self.config
    }

    /// The other node that was last heard as Active; `None` while we are.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// While Active: when the next advert is due.
    pub fn advert_due(&self) -> Option<Instant> {
        self.timers.get(Timer::Adver)
    }

    /// While Active: an advert of another virtual router of this node, with this interval, leaves now. The next one here goes along if it
    /// is due within half of the interval, once: from then on both are due together.
    pub fn join_advert(&mut self, interval: Centis, now: Instant) {
        let steady = self.config.interval == interval && self.last_sent == Some(interval);
        let near = self.timers.get(Timer::Adver).is_some_and(|due| due <= now + interval.duration() / 2);
        if self.role == Role::Active && steady && near {
            self.timers.set(Timer::Adver, now);
        }
    }

    /// While Active: when the fence closes unless an advert leaves before.
    pub fn fence_deadline(&self) -> Option<Instant> {
        self.timers.get(Timer::Fence)
    }

    /// Skew_Time (RFC 9568 section 6.1), in full nanoseconds: ((256 - priority) * Active_Adver_Interval) / 256.
    pub fn skew(&self) -> Duration {
        self.active_interval.duration() * (256 - u32::from(self.config.priority)) / 256
    }

    /// Active_Down_Interval (RFC 9568 section 6.1): 3 * Active_Adver_Interval + Skew_Time.
    pub fn active_down_interval(&self) -> Duration {
        self.active_interval.duration() * 3 + self.skew()
    }

    /// Next time [`Self::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Next thing the caller owes.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Initialize -> Backup (section 6.4.1; priority 255 does not exist here).
    pub fn start(&mut self, now: Instant) {
        if self.role == Role::Initialize {
            self.active_interval = self.config.interval;
            self.enter_backup(Reason::Started, now);
        }
    }

    /// Leaves the election. `release` sends an advert of priority 0 first (section 6.4.3, Shutdown event).
    pub fn stop(&mut self, reason: Reason, release: bool) {
        if self.role == Role::Active && release {
            self.send(PRIORITY_RELEASE);
        }
        self.owner = None;
        self.leave(Role::Initialize, reason);
    }

    /// Applies a new configuration. Timers keep running; an Active tells the others at once.
    pub fn reconfigure(&mut self, config: VrrpConfig, now: Instant) {
        // A fence that became available is proven to at once.
        let changed = (self.config.priority, self.config.interval) != (config.priority, config.interval)
            || config.fenced && !self.config.fenced;
        let was_sick = self.config.priority < HEALTHY_MIN;
        self.config = config;
        if !self.config.fenced {
            self.timers.stop(Timer::Fence);
            self.fence_before = None;
        }
        if !changed {
            return;
        }
        match self.role {
            Role::Active => self.advertise(now),
            Role::Backup if was_sick && self.config.priority >= HEALTHY_MIN => {
                // Recovered while the Active is sick: the next advert would say the same, but "at once" is what is promised.
                if self.yielded.is_none() && self.owner.is_some_and(|o| o.priority < HEALTHY_MIN) {
                    self.hurry(Reason::SickActive, now);
                }
            }
            Role::Backup => {
                // A Backup that became sick must not carry out a take-over it had begun as a healthy one.
                if self.config.priority < HEALTHY_MIN && self.pending == Some(Reason::SickActive) {
                    self.pending = None;
                    self.timers.set(Timer::ActiveDown, now + self.active_down_interval());
                }
            }
            Role::Initialize => {}
        }
    }

    /// Another virtual router uses our VRID on this link: no claim while it is heard.
    pub fn hold_off(&mut self, interval: Centis, now: Instant) {
        if self.role == Role::Backup {
            self.pending = None;
            let at = now + interval.duration() * 3 + self.skew();
            // It says nothing about our own Active, whose interval may be longer.
            self.timers.set(Timer::ActiveDown, self.timers.get(Timer::ActiveDown).map_or(at, |armed| armed.max(at)));
        }
    }

    /// While Active: the fence drops the last advert if it leaves at or after this time; `None` without a fence. For the first advert
    /// of a claim it is the deadline of the claim itself.
    pub fn advert_deadline(&self) -> Option<Instant> {
        self.fence_before
    }

    /// The last advert did not leave: it extends nothing.
    pub fn advert_failed(&mut self) {
        if let Some(before) = self.fence_before.take() {
            self.timers.set(Timer::Fence, before);
        }
    }

    /// `granter` granted the group to us until `until`: claim without waiting. Our first advert must leave before.
    pub fn claim(&mut self, granter: Granter, until: Instant, now: Instant) {
        if self.role == Role::Backup && now < until {
            self.enter_active(Reason::Handover, until, now);
            self.grace = Some(Grace { granter, answered: false });
            let grace = (self.config.interval.duration() / 2).clamp(Duration::from_millis(5), GRACE_MAX);
            self.timers.set(Timer::Grace, now + grace);
        }
    }

    /// The owner that grants the group from this address, as far as its adverts tell.
    pub fn granter(&self, address: IpAddr) -> Granter {
        Granter { address, priority: self.owner.map(|o| o.priority) }
    }

    /// We granted the group and this is the successor's advert: go to Backup whatever the priorities are.
    pub fn handed_over(&mut self, successor: Heard, now: Instant) {
        if self.role == Role::Active {
            self.follow(successor, Reason::Handover, now);
        }
    }

    /// The fence was found closed or cannot be written.
    pub fn fence_closed(&mut self, now: Instant) {
        if self.role == Role::Active {
            self.enter_backup(Reason::FenceExpired, now);
        }
    }

    /// The kernel deposed us: its word goes, whatever we have heard so far. Except in the grace after a grant, where it may have met an
    /// advert of the granter: that lies in our socket by now, and is judged when it is read.
    pub fn overtaken(&mut self, now: Instant) {
        if self.role == Role::Active && self.grace.is_none() {
            self.enter_backup(Reason::Overtaken, now);
            self.deposed = true;
        }
    }

    /// Would the kernel depose us for this advert (RFC 9568 section 6.4.3)?
    pub fn is_outranked(&self, heard: &Heard) -> bool {
        let own = self.config.priority;
        heard.priority > own || heard.priority == own && heard.source > heard.own && self.is_main(heard.source)
    }

    /// An advert of this virtual router arrived.
    pub fn handle_advert(&mut self, heard: Heard, now: Instant) {
        self.expire_fence(now);
        match self.role {
            Role::Initialize => self.note_owner(heard, now),
            Role::Backup => self.advert_as_backup(heard, now),
            Role::Active => self.advert_as_active(heard, now),
        }
    }

    /// A deadline passed. The caller has drained its socket before.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_fence(now);
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Fence => self.enter_backup(Reason::FenceExpired, now),
                Timer::ActiveDown => {
                    let reason = self.pending.take().unwrap_or(Reason::ActiveDown);
                    self.enter_active(reason, now + fence::window(self.config.interval), now);
                }
                Timer::Adver => self.advertise(now),
                Timer::Yield => self.yield_if_unheard(now),
                Timer::Grace => self.grace = None,
            }
        }
    }

    fn is_main(&self, address: IpAddr) -> bool {
        Family::of(&address) == self.config.family
    }

    fn expire_fence(&mut self, now: Instant) {
        if self.role == Role::Active && self.timers.get(Timer::Fence).is_some_and(|at| at <= now) {
            self.enter_backup(Reason::FenceExpired, now);
        }
    }

    fn hurry(&mut self, reason: Reason, now: Instant) {
        let at = now + self.skew();
        let sooner = self.timers.get(Timer::ActiveDown).is_none_or(|armed| at < armed);
        if sooner || self.pending != Some(reason) {
            let at = self.timers.get(Timer::ActiveDown).map_or(at, |armed| armed.min(at));
            self.timers.set(Timer::ActiveDown, at);
            self.pending = Some(reason);
        }
    }

    /// `until` bounds the right to own before the first advert has left.
    fn enter_active(&mut self, reason: Reason, until: Instant, now: Instant) {
        self.leave(Role::Active, reason);
        self.owner = None;
        self.deposed = false;
        self.last_sent = None;
        if self.config.fenced {
            self.timers.set(Timer::Fence, until.min(now + fence::window(self.config.interval)));
        }
        self.advertise(now);
    }

    fn enter_backup(&mut self, reason: Reason, now: Instant) {
        if matches!(reason, Reason::FenceExpired | Reason::Overtaken) {
            self.active_interval = self.config.interval;
        }
        self.leave(Role::Backup, reason);
        self.timers.set(Timer::ActiveDown, now + self.active_down_interval());
    }

    fn leave(&mut self, to: Role, reason: Reason) {
        self.timers.clear();
        // A release that cannot be sent must not arm the fence of a claim that is over.
        self.fence_before = None;
        self.pending = None;
        self.rivals.clear();
        self.yielded = None;
        self.grace = None;
        let from = core::mem::replace(&mut self.role, to);
        if from != to {
            self.outputs.push_back(Output::Role { from, to, reason });
        }
    }

    /// Sends an advert and arms what follows from it.
    fn advertise(&mut self, now: Instant) {
        let effective = self.last_sent.map_or(self.config.interval, |last| last.min(self.config.interval));
        self.send(self.config.priority);
        // The first advert with a longer interval may be lost: the shorter one goes on binding the timer and the fence for a round.
        self.timers.set(Timer::Adver, now + effective.duration());
        if self.config.fenced {
            self.fence_before = self.timers.get(Timer::Fence);
            self.timers.set(Timer::Fence, now + fence::window(effective));
        }
    }

    fn send(&mut self, priority: u8) {
        let interval = self.config.interval;
        self.last_sent = Some(interval);
        self.outputs.push_back(Output::SendAdvert { priority, interval });
    }
}

#[cfg(test)]
#[path = "vrrp_tests/mod.rs"]
mod tests;
