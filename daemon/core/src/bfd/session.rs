//! One BFD session: RFC 5880 section 6.8 without authentication, Echo and Demand of our own.
//!
//! Decides state, what is sent and when, and when the peer is gone. Which packets belong to it, where they go and what a change means
//! for others is [`super::Bfd`]'s.
//!
//! Contract: one call at a time with a `now` that never goes back; after each call take [`Session::poll_packet`] and
//! [`Session::poll_change`] until `None`; call [`Session::handle_timeout`] at or after [`Session::poll_timeout`], with a `now` taken
//! before a look at the socket that found nothing for this session.

use core::hash::Hasher;
use core::time::Duration;
use std::collections::VecDeque;

use siphasher::sip::SipHasher13;

use super::timing::{Timers, Timing};
use crate::time::{Instant, TimerTable};
use crate::wire::bfd::{Control, Diag, Discard, State};

/// Jitter takes up to this many thousandths off every transmit interval (RFC 5880 section 6.8.7: 0 to 25 %).
const JITTER_MAX: u64 = 250;
/// With a multiplier of 1 the interval is reduced by at least this many thousandths (RFC 5880 section 6.8.7: to 90 % at most; one more
/// covers the rounding up to whole microseconds).
const JITTER_MIN_MULT_1: u64 = 101;

/// What a session is made of.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Intervals.
    pub timers: Timers,
    /// Sends nothing before the peer was heard (RFC 5880 section 6.1).
    pub passive: bool,
    /// bfd.LocalDiscr: not 0, unique among the sessions of the machine.
    pub local_discr: u32,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What the last packet said about the peer. Forgotten when nothing came for a detection time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Its discriminator.
    pub discr: u32,
    /// Desired Min TX Interval, in microseconds.
    pub desired_min_tx: u32,
    /// Required Min RX Interval, in microseconds.
    pub required_min_rx: u32,
    /// Detect Mult.
    pub multiplier: u8,
    /// It wants us silent while both are Up.
    pub demand: bool,
}

/// A change of state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Before.
    pub from: State,
    /// Now.
    pub to: State,
    /// Our reason.
    pub diag: Diag,
    /// The peer's state, as last heard.
    pub remote_state: State,
    /// The peer's reason, as last heard.
    pub remote_diag: Diag,
    /// Set when the detection time expired.
    pub expiry: Option<Expiry>,
}

/// An expired detection time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// The detection time that was in force.
    pub detection: Duration,
    /// How long after the deadline it was declared.
    pub late: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    Detect,
    Transmit,
}

/// One session.
#[derive(Clone, Debug)]
pub struct Session {
    passive: bool,
    local_discr: u32,
    seed: u64,
    drawn: u64,
    state: State,
    diag: Diag,
    remote_state: State,
    remote_diag: Diag,
    remote: Option<Remote>,
    timing: Timing,
    timers: TimerTable<Timer>,
    heard: Option<Instant>,
    /// The last periodic packet, and the thousandths that jitter takes off the interval after it.
    sent: Option<(Instant, u64)>,
    /// What the peer was told last, without Poll and Final.
    told: Option<Control>,
    packets: VecDeque<Control>,
    changes: VecDeque<Change>,
}

impl Session {
    /// A session in state Down. Unless it is passive, its first packet is ready at once.
    pub fn new(params: Params, now: Instant) -> Self {
        let mut session = Self {
            passive: params.passive,
            local_discr: params.local_discr,
            seed: params.seed,
            drawn: 0,
            state: State::Down,
            diag: Diag::NONE,
            remote_state: State::Down,
            remote_diag: Diag::NONE,
            remote: None,
            timing: Timing::new(params.timers),
            timers: TimerTable::default(),
            heard: None,
            sent: None,
            told: None,
            packets: VecDeque::new(),
            changes: VecDeque::new(),
        };
        session.settle(now);
        session
    }

    /// bfd.SessionState.
    pub fn state(&self) -> State {
        self.state
    }

    /// bfd.LocalDiag.
    pub fn diag(&self) -> Diag {
        self.diag
    }

    /// bfd.RemoteSessionState.
    pub fn remote_state(&self) -> State {
        self.remote_state
    }

    /// The peer's diagnostic, as last heard.
    pub fn remote_diag(&self) -> Diag {
        self.remote_diag
    }

    /// bfd.LocalDiscr.
    pub fn local_discr(&self) -> u32 {
        self.local_discr
    }

    /// What is known of the peer.
    pub fn remote(&self) -> Option<Remote> {
        self.remote
    }

    /// What the operator wants.
    pub fn wanted(&self) -> Timers {
        self.timing.wanted()
    }

    /// A Poll Sequence is under way.
    pub fn polling(&self) -> bool {
        self.timing.polling()
    }

    /// The transmit interval in force, before jitter; `None` while nothing is sent periodically.
    pub fn transmit_interval(&self) -> Option<Duration> {
        self.periodic().then(|| self.interval())
    }

    /// The detection time in force; `None` while the peer is unknown.
    pub fn detection_time(&self) -> Option<Duration> {
        self.remote.map(|r| self.timing.detection(r.multiplier, r.desired_min_tx))
    }

    /// The peer's detection time for us, as far as it can be known.
    pub fn detection_of_peer(&self) -> Duration {
        self.timing.detection_of_peer(self.remote.map_or(0, |r| r.required_min_rx))
    }

    /// New intervals; a Poll Sequence follows where one is due.
    pub fn set_timers(&mut self, timers: Timers, now: Instant) {
        self.timing.want(timers, self.state == State::Up, self.remote.is_some());
        self.settle(now);
    }

    /// Takes the session down for good (RFC 5880 section 6.8.16), and polls: a Final proves that the peer knows.
    pub fn admin_down(&mut self, now: Instant) {
        self.enter(State::AdminDown, Diag::ADMIN_DOWN, None);
        if self.remote.is_some() {
            self.timing.poll_now();
        }
        self.settle(now);
    }

    /// Tells the peer everything anew and at once: a way to it has just been found.
    pub fn repeat(&mut self, now: Instant) {
        self.told = None;
        self.settle(now);
    }

    /// A packet that was found to belong to this session (RFC 5880 section 6.8.6, from "Set bfd.RemoteDiscr").
    ///
    /// # Errors
    /// [`Discard::AdminDown`] in that state: the packet proves nothing, though a Final ends the Poll Sequence.
    pub fn handle_packet(&mut self, packet: &Control, now: Instant) -> Result<(), Discard> {
        self.remote = Some(Remote {
            discr: packet.my_discr,
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
            multiplier: packet.detect_mult,
            demand: packet.demand,
        });
        (self.remote_state, self.remote_diag) = (packet.state, packet.diag);
        self.timing.heard(packet.is_final, self.state == State::Up);
        if self.state == State::AdminDown {
            self.settle(now);
            return Err(Discard::AdminDown);
        }
        self.heard = Some(now);
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.enter(State::Down, Diag::NEIGHBOR_DOWN, None);
            }
            (State::Down, State::Down) => self.enter(State::Init, self.diag, None),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(State::Up, Diag::NONE, None);
            }
            // Nothing new; and AdminDown was dealt with above.
            (State::Down, State::AdminDown | State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init | State::Up)
            | (State::AdminDown, _) => {}
        }
        if packet.poll {
            // Without respect to timers, state or the receiver's wishes (section 6.8.7).
            let answer = Control { poll: false, is_final: true, ..self.content() };
            self.push(answer);
        }
        self.settle(now);
        Ok(())
    }

    /// A deadline passed; see the contract above for what must have been done before.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Detect => self.expire(now),
                Timer::Transmit => self.transmit(now),
            }
        }
        self.settle(now);
    }

    /// Next packet to send.
    pub fn poll_packet(&mut self) -> Option<Control> {
        self.packets.pop_front()
    }

    /// Next change of state, in the order they happened.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Next time [`Self::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Nothing was heard for the detection time. Whatever the state, the peer's discriminator is forgotten (section 6.8.1), and with it
    /// all that was learned of it: who comes back may be another one.
    fn expire(&mut self, now: Instant) {
        let (Some(heard), Some(detection)) = (self.heard, self.detection_time()) else { return };
        let expiry = Expiry { detection, late: now.since(heard + detection) };
        self.heard = None;
        self.remote = None;
        match self.state {
            State::Init | State::Up => {
                self.remote_state = State::Down;
                self.enter(State::Down, Diag::DETECTION_EXPIRED, Some(expiry));
            }
            State::Down | State::AdminDown => {}
        }
        self.timing.peer_gone();
    }

    fn enter(&mut self, to: State, diag: Diag, expiry: Option<Expiry>) {
        let from = self.state;
        if from == to {
            return;
        }
        (self.state, self.diag) = (to, diag);
        if from == State::Up || to == State::Up {
            self.timing.crossed(to == State::Up, self.remote.is_some());
        }
        let (remote_state, remote_diag) = (self.remote_state, self.remote_diag);
        self.changes.push_back(Change { from, to, diag, remote_state, remote_diag, expiry });
    }

    /// After whatever happened: tell the peer what it does not know yet, and set the timers anew.
    fn settle(&mut self, now: Instant) {
        let polls = self.timing.start_poll();
        if !self.waits_for_peer() && (polls || self.told != Some(self.content())) {
            self.transmit(now);
        }
        match self.sent.filter(|_| self.periodic()) {
            Some((at, off)) => self.timers.set(Timer::Transmit, at + jittered(self.interval(), off)),
            None => self.timers.stop(Timer::Transmit),
        }
        match (self.heard, self.detection_time()) {
            (Some(at), Some(detection)) => self.timers.set(Timer::Detect, at + detection),
            _ => self.timers.stop(Timer::Detect),
        }
    }

    /// A passive session that has heard nobody (section 6.8.7).
    fn waits_for_peer(&self) -> bool {
        self.passive && self.remote.is_none()
    }

    /// Whether packets leave periodically (section 6.8.7).
    fn periodic(&self) -> bool {
        let both_up = self.state == State::Up && self.remote_state == State::Up;
        let unwanted = self.remote.is_some_and(|r| {
            let silenced = r.demand && both_up && !self.timing.polling();
            r.required_min_rx == 0 || silenced
        });
        !unwanted && !self.waits_for_peer()
    }

    fn interval(&self) -> Duration {
        let remote_min_rx = self.remote.map_or(0, |r| r.required_min_rx);
        Duration::from_micros(u64::from(self.timing.tx_interval(remote_min_rx)))
    }

    fn transmit(&mut self, now: Instant) {
        let packet = self.content();
        self.push(Control { poll: self.timing.polling(), ..packet });
        let least = if self.timing.wanted().multiplier == 1 { JITTER_MIN_MULT_1 } else { 0 };
        self.sent = Some((now, least + self.draw() % (JITTER_MAX - least + 1)));
    }

    fn push(&mut self, packet: Control) {
        self.told = Some(Control { poll: false, is_final: false, ..packet });
        self.packets.push_back(packet);
    }

    fn content(&self) -> Control {
        Control {
            diag: self.diag,
            state: self.state,
            poll: false,
            is_final: false,
            // We share the fate of the daemon: nothing would send after its end.
            control_plane_independent: false,
            demand: false,
            detect_mult: self.timing.wanted().multiplier,
            my_discr: self.local_discr,
            your_discr: self.remote.map_or(0, |r| r.discr),
            desired_min_tx: self.timing.desired_min_tx(),
            required_min_rx: self.timing.required_min_rx(),
            required_min_echo_rx: 0,
        }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let mut hasher = SipHasher13::new_with_keys(self.seed, u64::from(self.local_discr));
        hasher.write_u64(self.drawn);
        hasher.finish()
    }
}

/// An interval less `off` thousandths of it.
fn jittered(interval: Duration, off: u64) -> Duration {
    let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
    // Rounded up, because 75 % is a bound from below.
    Duration::from_micros((micros * (1000 - off)).div_ceil(1000))
}
