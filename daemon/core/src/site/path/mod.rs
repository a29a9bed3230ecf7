//! The path from this node to another site: does it carry packets, how well, and how large.
//!
//! Contract: feed `handle_*` with a `now` that never goes back; after every call take [`Path::poll_action`] until `None` and carry out each
//! action in order; call [`Path::handle_expire`] at or after [`Path::poll_timeout`]. The `now` of a packet is taken after it was read; the `now`
//! of an expiry before the look at the sockets that found them empty, as for BFD.
//!
//! Both ends send on every flow at their own pace; each packet is probe and echo. Down is silence of all flows ([`io::Config::multiplier`]
//! intervals), in either direction: the other end says what it hears. Loss within that is judged for each direction by
//! [`detector`], round trips by `rtt`, sizes by `mtu`. While traffic speaks for the path probes are few; traffic that goes silent
//! or bad brings them back at once, and the wish is in every packet, so that the other end does the same.
//!
//! One `Path` is what one node thinks of one site. What several nodes or sites think is joined by the policy.

mod baseline;
pub mod detector;
mod flow;
pub mod io;
mod mtu;
mod pace;
mod rtt;
pub mod slots;
#[cfg(test)]
pub(in crate::site) mod tests;

use core::hash::Hasher as _;
use core::time::Duration;
use std::collections::VecDeque;

use siphasher::sip::SipHasher13;

use crate::time::{Instant, TimerTable};
use crate::wire::site::{Kind, Probe, ProbeError};
use detector::{Detector, Verdict};
use flow::{Flow, Heard};
use io::{Action, Carriage, Config, Direction, Event, Refused, Silence, Status};
pub use pace::{ENOUGH, SPOKEN, TRUST};
use slots::{SLOT, Slots};

/// Largest packet that is tried, in bytes of an IP packet: what an Ethernet without jumbo frames carries (RFC 894).
pub const TRIED: u16 = 1500;
/// A path that was down is up after so many good slots: 10 s (sites.md 4.6).
const RETURN: u32 = 20;
/// It carries what exists again, which would be lost without it, after these: 1 s. Well before any node sends new flows there, so that no node is asked
/// for one of another node's that it cannot look for itself.
const ASKED: u32 = 2;
/// One that was never heard, after these: 2 s. Nothing depends on it yet, and learning comes before speaking anyway.
const FIRST: u32 = 4;
/// News of our own probes is waited for at most so long.
const DELAY_MAX: Duration = Duration::from_millis(500);
/// The random part of each interval, in per cent taken off (RFC 5880 section 6.8.7 takes 0 to 25).
const JITTER: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Timer {
    Send,
    Slot,
    Silence,
    Flow,
    Window,
    Mtu,
    Pace,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Path {
    config: Config,
    run: u32,
    seed: u64,
    drawn: u64,
    flows: Vec<Flow>,
    inward: (Slots, Detector),
    outward: (Slots, Detector),
    rtt: rtt::Rtt,
    /// Round trip for waiting, smoothed by an eighth (RFC 6298 section 2).
    srtt: Duration,
    mtu: mtu::Mtu,
    carriage: Carriage,
    /// Good slots in a row.
    good: u32,
    /// It is down, and has carried something both ways since [`ASKED`] good slots.
    returning: bool,
    /// Since when traffic has spoken for the path, and when last.
    spoken: Option<(Instant, Instant)>,
    /// When traffic that is trusted last proved that both directions carry anything. Without trust probes alone say so: traffic can be forged.
    alive: Option<Instant>,
    /// Until when traffic is not believed.
    doubt: Instant,
    suppressed: bool,
    /// Since when probes are sent and wanted at full rate, to half a second.
    full_since: Instant,
    /// Numbers of the large probes of this round, and the last one given.
    large: (Vec<u32>, u32),
    timers: TimerTable<Timer>,
    actions: VecDeque<Action>,
    refused: Refused,
}

impl Path {
    /// A path of which nothing is known. `run` is a random number that no earlier process used; `seed` gives the jitter.
    pub fn new(config: Config, run: u32, seed: u64, now: Instant) -> Self {
        let count = u32::from(config.flows.max(1));
        // Flows are spread over the interval, so that something arrives every sixth of it.
        let flows = (0..count).map(|i| Flow::new(now + config.interval * i / count)).collect();
        let mut timers = TimerTable::default();
        timers.set(Timer::Send, now);
        timers.set(Timer::Slot, now + SLOT);
        timers.set(Timer::Window, now + rtt::STEP);
        let mtu = mtu::Mtu::new(config.mtu, now);
        Self {
            run: run.max(1),
            seed,
            drawn: 0,
            flows,
            inward: Default::default(),
            outward: Default::default(),
            rtt: rtt::Rtt::default(),
            srtt: Duration::ZERO,
            mtu,
            carriage: Carriage::Unknown,
            good: 0,
            returning: false,
            spoken: None,
            alive: None,
            doubt: now,
            suppressed: false,
            full_since: now,
            large: (Vec::new(), 0),
            timers,
            actions: VecDeque::new(),
            refused: Refused::default(),
            config,
        }
    }

    /// Other keys, the first to sign with. The path stands.
    pub fn handle_keys(&mut self, keys: crate::wire::site::PairKeys) {
        self.config.keys = keys;
    }

    /// A datagram arrived on a flow.
    pub fn handle_packet(&mut self, flow: u8, datagram: &[u8], now: Instant) {
        let probe = match Probe::parse(datagram, &self.config.keys) {
            Ok(probe) => probe,
            Err(ProbeError::Malformed { .. }) => return self.refused.malformed += 1,
            Err(ProbeError::Version { .. }) => return self.refused.version += 1,
            Err(ProbeError::Unknown { .. }) => return self.refused.unknown += 1,
            Err(ProbeError::Tag { .. }) => return self.refused.tag += 1,
        };
        if probe.flow != flow || usize::from(flow) >= self.flows.len() {
            return self.refused.flow += 1;
        }
        match probe.kind {
            Kind::Probe => self.hear(&probe, now),
            Kind::Hello => {
                let state = &mut self.flows[usize::from(flow)];
                if probe.your_run != self.run {
                    self.refused.stale += 1;
                } else if state.greet(&probe, now) {
                    self.hello(flow, probe.run, probe.seq);
                }
            }
            Kind::Large | Kind::LargeAck if probe.your_run != self.run => self.refused.stale += 1,
            Kind::Large => self.send(flow, Kind::LargeAck, probe.seq, probe.received, now),
            Kind::LargeAck if !self.large.0.contains(&probe.echo) => self.refused.replayed += 1,
            Kind::LargeAck => {
                self.large.0.retain(|id| *id != probe.echo);
                let size = u16::try_from(probe.received).unwrap_or(u16::MAX).saturating_add(self.config.overhead);
                self.mtu.arrived(size, now);
                self.timers.set(Timer::Mtu, self.mtu.at);
            }
        }
    }

    /// Deadlines passed.
    pub fn handle_expire(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Send => self.send_due(now),
                Timer::Slot => self.slot(now),
                Timer::Silence => self.silence(now),
                Timer::Flow => self.flow_states(now),
                Timer::Window => self.window(now),
                Timer::Mtu => self.measure(now),
                Timer::Pace => self.pace(now),
            }
        }
    }

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Next time [`Self::handle_expire`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What is known.
    pub fn status(&self) -> Status {
        let up = (0..u32::BITS).zip(&self.flows).filter(|(_, flow)| flow.up);
        Status {
            carriage: self.carriage,
            brownout_in: self.inward.1.alarm(),
            brownout_out: self.outward.1.alarm(),
            loss_in: self.inward.1.loss(),
            loss_out: self.outward.1.loss(),
            rtt: self.rtt.last().map(|d| d.as_secs_f64()),
            rtt_usual: self.rtt.usual().map(|d| d.as_secs_f64()),
            rtt_factor: self.rtt.factor(),
            mtu: self.mtu.confirmed(),
            flows_up: u8::try_from(self.flows.iter().filter(|f| f.up).count()).unwrap_or(u8::MAX),
            flows: up.fold(0, |all, (number, _)| all | 1 << number),
            returning: self.returning,
            suppressed: self.suppressed,
            refused: self.refused,
        }
    }

    fn hear(&mut self, probe: &Probe, now: Instant) {
        let flow = &mut self.flows[usize::from(probe.flow)];
        match flow.hear(probe, self.run, now, &mut self.inward.0, &mut self.outward.0) {
            Heard::Replayed => self.refused.replayed += 1,
            Heard::Stale { answer } => {
                self.refused.stale += 1;
                if answer {
                    self.hello(probe.flow, probe.run, 0);
                }
            }
            Heard::Fresh { rtt, lost } => {
                flow.wants_full = probe.wants_full;
                if let Some(rtt) = rtt {
                    self.rtt.sample(rtt);
                    self.srtt = if self.srtt.is_zero() { rtt } else { (self.srtt * 7 + rtt) / 8 };
                }
                if !flow.up {
                    flow.up = true;
                    self.actions.push_back(Action::Report(Event::FlowUp { flow: probe.flow }));
                    self.timers.set(Timer::Flow, now + self.config.interval);
                }
                if self.suppressed && (probe.wants_full || lost) {
                    self.wake(lost, now);
                }
                self.watch(now);
            }
        }
    }

    fn send_due(&mut self, now: Instant) {
        self.pace(now);
        for index in 0..self.flows.len() {
            if self.flows[index].next_at <= now {
                let off = self.draw() % (JITTER + 1);
                let off = u32::try_from(off).unwrap_or(0);
                self.flows[index].next_at = self.turn(index, now, 100 - off);
                self.send(u8::try_from(index).unwrap_or(u8::MAX), Kind::Probe, 0, 0, now);
            }
        }
        if let Some(next) = self.flows.iter().map(|f| f.next_at).min() {
            self.timers.set(Timer::Send, next);
        }
    }

    /// `echo` and `received` are those of a large probe or its answer; a small one carries the flow's.
    fn send(&mut self, flow: u8, kind: Kind, echo: u32, received: u32, now: Instant) {
        let interval = self.interval();
        let wants_full = !self.trusts(now);
        let state = &mut self.flows[usize::from(flow)];
        let small = kind == Kind::Probe;
        let (your_run, seq, own_echo, own_received, hold) = if small {
            state.stamp(now)
        } else {
            // Not one of the sequence: a large probe that is lost says nothing about small ones.
            (state.peer_run(), self.large.1.max(1), 0, 0, 0)
        };
        let (echo, received) = if small { (own_echo, own_received) } else { (echo, received) };
        let probe = Probe { kind, wants_full, flow, interval, run: self.run, your_run, seq, echo, received, hold };
        self.owe(flow, &probe);
    }

    /// Lets a peer that has not proven itself do so. It takes no number of the sequence: recorded packets, sent again and answered, must not
    /// look like loss to the true peer.
    fn hello(&mut self, flow: u8, run: u32, echo: u32) {
        let interval = self.interval();
        let seq = self.flows[usize::from(flow)].next_seq();
        let (kind, wants_full, your_run) = (Kind::Hello, true, run);
        let run = self.run;
        let probe = Probe { kind, wants_full, flow, interval, run, your_run, seq, echo, received: 0, hold: 0 };
        self.owe(flow, &probe);
    }

    fn owe(&mut self, flow: u8, probe: &Probe) {
        if let Some(payload) = probe.encode(&self.config.keys) {
            self.actions.push_back(Action::Send { flow, payload });
        }
    }

    fn slot(&mut self, now: Instant) {
        self.timers.set(Timer::Slot, now + SLOT);
        let delay = self.srtt.min(DELAY_MAX);
        let mut good = None;
        while let Some(slot) = self.inward.0.close(now, Duration::ZERO) {
            good = Some(slot.good());
            self.judge(Direction::In, slot);
        }
        while let Some(slot) = self.outward.0.close(now, delay) {
            good = Some(good.unwrap_or(true) && slot.good());
            self.judge(Direction::Out, slot);
        }
        if self.carriage == Carriage::Up {
            return;
        }
        let heard = self.silent(now).is_none();
        self.good = if heard && good == Some(true) { self.good + 1 } else { 0 };
        // One bad slot does not end it: packets of flows that exist lose nothing by trying.
        self.returning = heard && (self.returning || self.good >= ASKED) && self.carriage != Carriage::Unknown;
        if self.good >= if self.carriage == Carriage::Unknown { FIRST } else { RETURN } {
            (self.carriage, self.returning) = (Carriage::Up, false);
            self.actions.push_back(Action::Report(Event::Up));
            self.mtu.path_changed(now);
            self.timers.set(Timer::Mtu, now);
            self.watch(now);
        }
    }

    fn judge(&mut self, direction: Direction, slot: slots::Slot) {
        // Silence is the other rule's; a slot in it would teach the detector that this is loss.
        if !matches!(self.carriage, Carriage::Up) {
            return;
        }
        let detector = match direction {
            Direction::In => &mut self.inward.1,
            Direction::Out => &mut self.outward.1,
        };
        let event = match detector.slot(slot) {
            Verdict::Same => return,
            Verdict::Raised(scale) => {
                Event::Brownout { direction, scale, loss: detector.loss(), learned: detector.learned() }
            }
            Verdict::Cleared => Event::Cleared { direction },
        };
        self.actions.push_back(Action::Report(event));
    }

    /// A single flow that is silent while others are not: one of several equal links, or the node at its end. Looked at in each interval, so that
    /// it is known as soon as a path's silence.
    fn flow_states(&mut self, now: Instant) {
        if self.flows.iter().any(|flow| flow.up) {
            self.timers.set(Timer::Flow, now + self.config.interval);
        }
        let limit = self.limit();
        if self.suppressed || self.trusts(now) {
            // Probes of the other end may be few.
            self.full_since = now;
        }
        if now.since(self.full_since) <= limit + self.srtt {
            return;
        }
        let silent = |at: Option<Instant>, more: Duration| at.is_none_or(|at| now.since(at) > limit + more);
        for (index, flow) in (0u8..).zip(&mut self.flows) {
            if flow.up && (silent(flow.heard, Duration::ZERO) || silent(flow.acked, self.srtt)) {
                flow.up = false;
                self.actions.push_back(Action::Report(Event::FlowDown { flow: index }));
            }
        }
    }

    /// Silence that makes a path or a flow down.
    fn limit(&self) -> Duration {
        self.config.interval * u32::from(self.config.multiplier)
    }

    /// When nothing will have arrived for too long, and when nothing of ours will have been acknowledged for too long. `None`: never heard.
    fn deadlines(&self, now: Instant) -> Option<[(Silence, Instant, Instant); 2]> {
        let heard = self.flows.iter().filter_map(|f| f.heard).max().max(self.alive)?;
        let acked = self.flows.iter().filter_map(|f| f.acked).max().max(self.alive)?;
        // Probes were few until now: the other end has to be woken first, which takes a round trip.
        let woken = now.since(self.full_since) > self.limit() * 2 + self.srtt;
        let limit = self.limit() + if woken { Duration::ZERO } else { self.srtt };
        // Nobody acknowledges who is not heard: only while the other end is heard does its silence about us mean something.
        let due = acked + limit + self.srtt;
        let due = if due > heard + self.config.interval * 2 { due.max(heard + limit) } else { due };
        Some([(Silence::In, heard, heard + limit), (Silence::Out, acked, due)])
    }

    /// Which way the path is silent for too long, and for how long.
    fn silent(&self, now: Instant) -> Option<(Silence, Duration)> {
        let late = self.deadlines(now)?.into_iter().find(|(_, _, due)| *due <= now)?;
        Some((late.0, now.since(late.1)))
    }

    fn silence(&mut self, now: Instant) {
        if self.carriage != Carriage::Up {
            return;
        }
        match self.silent(now) {
            Some((silence, silent)) => {
                self.carriage = Carriage::Down(silence);
                self.good = 0;
                if self.suppressed {
                    self.suppress(false, now);
                }
                self.actions.push_back(Action::Report(Event::Down { silence, silent: silent.as_secs_f64() }));
            }
            None => self.watch(now),
        }
    }

    /// Sets the time at which the path will have been silent for too long.
    fn watch(&mut self, now: Instant) {
        if self.carriage != Carriage::Up {
            return;
        }
        let due = self.deadlines(now).and_then(|all| all.into_iter().map(|(_, _, due)| due).min());
        self.timers.set(Timer::Silence, due.unwrap_or(now + self.limit()));
    }

    fn window(&mut self, now: Instant) {
        self.timers.set(Timer::Window, now + rtt::STEP);
        if self.rtt.close() {
            let factor = self.rtt.factor();
            let event = if factor > 1.0 { Event::Inflated { factor } } else { Event::Deflated };
            self.actions.push_back(Action::Report(event));
        }
    }

    fn measure(&mut self, now: Instant) {
        if self.carriage != Carriage::Up {
            return;
        }
        if self.inward.1.alarm().is_some() || self.outward.1.alarm().is_some() {
            // What is lost now is lost for another reason than its size.
            return self.timers.set(Timer::Mtu, now + rtt::WINDOW);
        }
        let mut sizes = Vec::new();
        let change = self.mtu.expire(now, self.srtt, &mut |size| sizes.push(size));
        self.large.0.clear();
        for (i, size) in sizes.into_iter().enumerate() {
            // Spread over the flows that are up: one bad link of several must not look like a small path.
            let up: Vec<usize> = (0..self.flows.len()).filter(|f| self.flows[*f].up).collect();
            let Some(flow) = up.get(i % up.len().max(1)) else { break };
            let payload = u32::from(size.saturating_sub(self.config.overhead));
            self.large.1 = self.large.1.wrapping_add(1).max(1);
            self.large.0.push(self.large.1);
            self.send(u8::try_from(*flow).unwrap_or(0), Kind::Large, 0, payload, now);
        }
        if let Some(mtu::Change { from, to }) = change {
            self.actions.push_back(Action::Report(Event::Mtu { from, to }));
        }
        self.timers.set(Timer::Mtu, self.mtu.at.max(now + Duration::from_millis(1)));
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let mut hasher = SipHasher13::new_with_keys(self.seed, u64::from(self.run));
        hasher.write_u64(self.drawn);
        hasher.finish()
    }
}
