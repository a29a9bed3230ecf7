//! The machine itself: what it remembers, its timers, and when it tries.

use core::time::Duration;
use std::collections::VecDeque;

use crate::config::{Mode, NeighborConfig};
use crate::event::Event;
use crate::graceful::FormerRun;
use crate::io::{Action, BfdState, Conn};
use crate::session::State;
use crate::session::backoff::Backoff;
use crate::session::collision::Identity;
use crate::session::counters::Counters;
use crate::session::ending::{Last, Next, Stop};
use crate::session::intake::Intake;
use crate::session::last_error::LastError;
use crate::session::link::{Link, Phase};
use crate::session::negotiate::{Negotiated, Rung};
use crate::session::path::{Path, Verdict};
use crate::time::{Instant, Jitter, TimerTable};
use crate::wire::notification::Cease;
use crate::wire::{Family, Notification};

/// What a session tells its speaker.
#[derive(Debug)]
#[must_use]
pub enum Effect {
    /// The driver owes this.
    Act(Action),
    /// Established on this connection: routes may be written.
    Up(Conn),
    /// No longer.
    Down(Conn),
    /// The neighbor wants this family again.
    Refresh(Family),
}

/// Every timer of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timer {
    /// Leaves Idle (RFC 4271 event 13).
    IdleHold,
    /// Dials (again); while a connection is being made, gives it up (event 9).
    ConnectRetry,
    /// Nothing was heard (event 10).
    Hold(Conn),
    /// A KEEPALIVE is due (event 11).
    Keepalive(Conn),
    /// Nothing could be sent (RFC 9687).
    SendHold(Conn),
    /// The Established connection beside this one stays: this one goes.
    Collision(Conn),
    /// The next refresh of this family may be answered.
    Refresh(Family),
}

/// Whether the session is tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Run {
    /// Not before an operator or a new configuration says so; why.
    Stopped(String),
    /// Idle, until IdleHold and until BFD lets it.
    Resting,
    /// All other states.
    Trying,
}

/// One neighbor.
///
/// Contract: every `handle_*` with the driver's `now`, never going back; bytes that arrived are fed before
/// [`Self::handle_timeout`] of the same moment, or our own stall would end the session; then [`Self::pump`], then
/// [`Self::poll_effect`] until `None`. [`Self::poll_timeout`] is valid until the next call.
#[derive(Debug)]
pub struct Session {
    pub(super) config: NeighborConfig,
    /// Own end towards this neighbor, local AS included.
    pub(super) local: Identity,
    pub(super) jitter: Jitter,
    pub(super) timers: TimerTable<Timer>,
    pub(super) links: Vec<Link>,
    pub(super) effects: VecDeque<Effect>,
    pub(super) run: Run,
    pub(super) rung: Rung,
    pub(super) backoff: Backoff,
    next_conn: u64,
    pub(super) path: Path,
    pub(super) former: Option<FormerRun>,
    /// Was Established in this run: its forwarding never stopped since.
    pub(super) lived: bool,
    /// A planned restart has begun: whatever ends the session now, the neighbor shall keep its routes.
    pub(super) hushed: bool,
    pub(super) shown: State,
    pub(super) since: Instant,
    pub(super) counters: Counters,
    pub(super) last_error: Option<LastError>,
    pub(super) unreachable_said: bool,
    pub(super) intake: Intake,
    /// Families asked for while their last refresh is too young.
    pub(super) refresh_again: Vec<Family>,
}

impl Session {
    /// A session at rest. Connections that it dials are numbered from `first_conn`, of which 2^32 numbers are its own.
    pub fn new(
        config: NeighborConfig,
        local: Identity,
        former: Option<FormerRun>,
        first_conn: u64,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            config,
            local,
            jitter: Jitter::new(seed),
            timers: TimerTable::default(),
            links: Vec::new(),
            effects: VecDeque::new(),
            run: Run::Stopped("not started".to_owned()),
            rung: Rung::Full,
            backoff: Backoff::default(),
            next_conn: first_conn,
            path: Path::default(),
            former,
            lived: false,
            hushed: false,
            shown: State::Idle,
            since: now,
            counters: Counters::default(),
            last_error: None,
            unreachable_said: false,
            intake: Intake::default(),
            refresh_again: Vec::new(),
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &NeighborConfig {
        &self.config
    }

    /// Own AS towards this neighbor.
    pub fn own_as(&self) -> u32 {
        self.local.asn
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.shown
    }

    /// Is this connection its own?
    pub fn has(&self, conn: Conn) -> bool {
        self.links.iter().any(|link| link.conn == conn)
    }

    /// The connection on which routes flow.
    pub fn established(&self) -> Option<Conn> {
        self.established_link().map(|link| link.conn)
    }

    /// What was negotiated there.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.established_link().and_then(|link| link.agreed.as_ref())
    }

    pub(super) fn established_link(&self) -> Option<&Link> {
        self.links.iter().find(|link| link.phase == Phase::Established)
    }

    pub(super) fn link(&mut self, conn: Conn) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.conn == conn)
    }

    /// Takes the next effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to come back.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Starts (RFC 4271 event 1 or 3), forgetting what failed before. Ignored in every state but Idle.
    pub fn start(&mut self, now: Instant) {
        if self.run == Run::Trying {
            return;
        }
        self.backoff.forget();
        self.rung = Rung::Full;
        self.begin("started", now);
    }

    /// Leaves Idle, if BFD lets it.
    pub(super) fn begin(&mut self, reason: &str, now: Instant) {
        self.timers.stop(Timer::IdleHold);
        if self.path.blocks() {
            self.run = Run::Resting;
            return;
        }
        self.run = Run::Trying;
        if self.config.mode != Mode::Passive {
            self.dial(now);
        }
        if let Some(conn) = self.links.iter().find(|link| link.phase == Phase::Parked).map(|link| link.conn) {
            self.unpark(conn, now);
        }
        self.settle(reason, now);
    }

    pub(super) fn dial(&mut self, now: Instant) {
        let conn = Conn(self.next_conn);
        self.next_conn += 1;
        self.links.push(Link::new(conn, true, Phase::Connecting, None));
        self.arm_connect_retry(now);
        self.act(Action::Connect {
            conn,
            remote: (self.config.address, self.config.port).into(),
            transport: self.config.transport.clone(),
            external: external(&self.config, self.local.asn),
        });
    }

    pub(super) fn arm_connect_retry(&mut self, now: Instant) {
        let wait = self.jitter.three_quarters(self.config.connect_retry);
        self.timers.set(Timer::ConnectRetry, now + wait);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::IdleHold => self.begin("IdleHold is over", now),
                Timer::ConnectRetry => self.connect_retry(now),
                Timer::Hold(conn) => {
                    self.end(conn, Last::Say(Notification::hold_timer_expired()), Next::Fail, "hold timer", now);
                }
                Timer::Keepalive(conn) => {
                    if let Some(link) = self.link(conn) {
                        link.queue_keepalive();
                    }
                    // Armed again here too: behind a shut window nothing is written that would arm it.
                    self.arm_keepalive(conn, now);
                }
                Timer::SendHold(conn) => {
                    let last = Last::Say(Notification::send_hold_timer_expired());
                    self.end(conn, last, Next::Fail, "the neighbor reads nothing", now);
                }
                Timer::Collision(conn) => self.lose(conn, now),
                Timer::Refresh(family) => {
                    if self.refresh_again.contains(&family) {
                        self.refresh_again.retain(|f| *f != family);
                        self.refresh(family, now);
                    }
                }
            }
        }
    }

    /// RFC 4271 event 9.
    fn connect_retry(&mut self, now: Instant) {
        if let Some(conn) = self.links.iter().find(|link| link.phase == Phase::Connecting).map(|link| link.conn) {
            self.links.retain(|link| link.conn != conn);
            self.act(Action::Close { conn });
            // A segment with a wrong MD5 digest is dropped unanswered (RFC 2385 section 2): nothing but silence tells.
            let hint = match self.config.transport.password {
                Some(_) => " (a password that is not the neighbor's, or that it lacks, shows like this)",
                None => " (a neighbor that wants a TCP MD5 password shows like this)",
            };
            let error = format!("no answer from {} port {}{hint}", self.config.address, self.config.port);
            self.unreachable(&error, now);
        }
        if self.links.iter().any(Link::is_open) {
            // The neighbor's own connection is being opened: a second one would only collide.
            self.arm_connect_retry(now);
        } else {
            self.dial(now);
        }
        self.settle("connect retry", now);
    }

    pub(super) fn begin_unless_held(&mut self, reason: &str, now: Instant) {
        if self.run == Run::Resting && self.timers.get(Timer::IdleHold).is_none() {
            self.begin(reason, now);
        }
    }

    /// BFD's opinion changed. Ignored when the neighbor is configured without it.
    pub fn handle_bfd(&mut self, state: BfdState, now: Instant) {
        if !self.config.bfd {
            return;
        }
        match self.path.handle(state, now) {
            Verdict::Nothing => {}
            Verdict::Back => self.begin_unless_held("BFD is up", now),
            Verdict::Lost { flapping } => {
                if self.run != Run::Trying {
                    return;
                }
                let next = if flapping { Next::Refused } else { Next::Fail };
                let reason = if flapping { "BFD is down, for the third time in a minute" } else { "BFD is down" };
                // Routes kept by graceful restart would lead into the dead path: a Hard Reset drops them (RFC 8538 section 3).
                self.end_all(&Notification::cease(Cease::BfdDown, ""), true, next, reason, now);
            }
        }
    }

    /// Restarts a session: Cease, subcode 4.
    pub fn reset(&mut self, now: Instant) {
        let cease = Notification::cease(Cease::AdministrativeReset, "");
        self.end_all(&cease, false, Next::Rest(Duration::ZERO), "reset by the operator", now);
        self.path.lift();
        self.unreachable_said = false;
        self.start(now);
    }

    /// Ends the session for good, or until [`Self::start`].
    pub fn stop(&mut self, stop: &Stop, now: Instant) {
        let (notification, hard, reason) = stop.words();
        match notification {
            Some(notification) => self.end_all(&notification, hard, Next::Stop(reason.clone()), &reason, now),
            None => self.end_all_silently(Next::Stop(reason.clone()), &reason, now),
        }
    }

    /// From now on the Established session ends without a NOTIFICATION, or (`false`) with one again.
    pub fn hush(&mut self, hushed: bool) {
        self.hushed = hushed;
    }

    /// A new configuration, or a new own identity.
    pub fn reconfigure(&mut self, config: NeighborConfig, local: Identity, now: Instant) {
        if config == self.config && local == self.local {
            return;
        }
        let old = core::mem::replace(&mut self.config, config);
        let renamed = core::mem::replace(&mut self.local, local) != local;
        let reset = renamed || old.needs_reset(&self.config);
        if reset {
            // Another address is another neighbor: this one must not keep routes for us.
            let (cease, hard) = if old.address == self.config.address {
                (Cease::OtherConfigurationChange, false)
            } else {
                (Cease::PeerDeconfigured, true)
            };
            let reason = "its configuration changed";
            self.end_all(&Notification::cease(cease, ""), hard, Next::Rest(Duration::ZERO), reason, now);
        }
        if let Some(password) = self.config.transport.password.clone().filter(|_| !reset)
            && old.transport.password.as_ref() != Some(&password)
        {
            for conn in self.links.iter().map(|link| link.conn).collect::<Vec<_>>() {
                self.act(Action::Rekey { conn, password: password.clone() });
            }
        }
        if old.bfd != self.config.bfd || reset {
            self.path = Path::default();
        }
        self.unreachable_said = false;
        if reset || matches!(self.run, Run::Stopped(_)) || !self.path.blocks() && self.run == Run::Resting {
            self.start(now);
            return;
        }
        if self.run == Run::Trying {
            self.follow_mode(now);
        }
        let limit = self.intake.judge(self.config.max_prefix, self.config.max_prefix_action);
        self.apply_limit(limit, now);
    }

    /// Connections of a direction that is not wanted any more, unless routes flow on them.
    fn follow_mode(&mut self, now: Instant) {
        let mode = self.config.mode;
        let unwanted = |link: &&Link| {
            link.phase != Phase::Established
                && ((link.dialled && mode == Mode::Passive) || (!link.dialled && mode == Mode::Active))
        };
        for conn in self.links.iter().filter(unwanted).map(|link| link.conn).collect::<Vec<_>>() {
            self.lose(conn, now);
        }
        if mode == Mode::Passive {
            self.timers.stop(Timer::ConnectRetry);
        } else if self.run == Run::Trying && self.links.is_empty() {
            self.dial(now);
        }
        self.settle("the mode changed", now);
    }

    pub(super) fn act(&mut self, action: Action) {
        self.effects.push_back(Effect::Act(action));
    }

    pub(super) fn report(&mut self, event: Event) {
        self.act(Action::Report(event));
    }

    /// The only place where the shown state changes.
    pub(super) fn settle(&mut self, reason: &str, now: Instant) {
        let to = match self.run {
            Run::Stopped(_) | Run::Resting => State::Idle,
            Run::Trying => {
                let links = self.links.iter().map(Link::state).max();
                links.filter(|state| *state >= State::Connect).unwrap_or(State::Active)
            }
        };
        if to == self.shown {
            return;
        }
        let from = core::mem::replace(&mut self.shown, to);
        self.since = now;
        self.counters.transitions += 1;
        self.report(Event::State { neighbor: self.config.name.clone(), from, to, reason: reason.to_owned() });
    }
}

/// Whether the neighbor is of another AS, as far as the configuration tells.
pub fn external(config: &NeighborConfig, asn: u32) -> bool {
    match config.remote_as {
        crate::config::RemoteAs::External => true,
        crate::config::RemoteAs::Internal => false,
        crate::config::RemoteAs::Is(remote) => remote != asn,
    }
}
