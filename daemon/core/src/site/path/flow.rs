//! One flow of a path: sequence numbers, the proof that its peer is of this run, and what became of each probe.

use core::time::Duration;
use std::collections::VecDeque;

use super::slots::Slots;
use crate::time::Instant;
use crate::wire::site::Probe;

/// Probes whose time of leaving is remembered: 12 s at full rate, a round trip beyond any.
const REMEMBERED: usize = 128;
/// Answers to a peer that has not proven itself: at most one in so long a time, and never more than what it sends.
const COURTESY: Duration = Duration::from_millis(50);

/// A new process of the peer proves itself by one of so many last probes: a second and a half at full rate.
const LATELY: u32 = 16;

/// What a packet of the peer turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// Evidence. The round trip, when it says something new about ours, and whether probes before it were lost.
    Fresh { rtt: Option<Duration>, lost: bool },
    /// Not proven to be of this run; answer it, if `answer`, so that it can prove itself.
    Stale { answer: bool },
    /// Seen before, or too old to know.
    Replayed,
}

/// A flow.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    next_seq: u32,
    sent: VecDeque<(u32, Instant)>,
    peer_run: u32,
    /// The run before it.
    retired: u32,
    window: Window,
    received: u32,
    /// When `window.highest` arrived.
    highest_at: Instant,
    /// When anything fresh was last heard.
    pub(super) heard: Option<Instant>,
    /// When the newest probe that the peer has acknowledged was sent.
    pub(super) acked: Option<Instant>,
    /// What the peer said last: highest sequence, count.
    said: (u32, u32),
    answered: Option<Instant>,
    pub(super) up: bool,
    /// The peer wants probes at full rate.
    pub(super) wants_full: bool,
    pub(super) next_at: Instant,
}

impl Flow {
    pub(super) fn new(first: Instant) -> Self {
        Self {
            next_seq: 1,
            sent: VecDeque::with_capacity(REMEMBERED),
            peer_run: 0,
            retired: 0,
            window: Window::default(),
            received: 0,
            highest_at: Instant::ZERO,
            heard: None,
            acked: None,
            said: (0, 0),
            answered: None,
            up: false,
            wants_full: false,
            next_at: first,
        }
    }

    /// Fields of the next packet: your run, sequence, echo, count, hold.
    pub(super) fn stamp(&mut self, now: Instant) -> (u32, u32, u32, u32, u32) {
        let seq = self.next_seq;
        self.next_seq = self.next_seq.wrapping_add(1).max(1);
        if self.sent.len() == REMEMBERED {
            let _old = self.sent.pop_front();
        }
        self.sent.push_back((seq, now));
        let hold = u32::try_from(now.since(self.highest_at).as_micros()).unwrap_or(u32::MAX);
        (self.peer_run, seq, self.window.highest, self.received, hold)
    }

    /// Sequence of the next probe.
    pub(super) const fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// Run of the peer; 0 while none has proven itself.
    pub(super) const fn peer_run(&self) -> u32 {
        self.peer_run
    }

    /// A genuine probe arrived. Its losses go to `inward` and `outward`.
    pub(super) fn hear(
        &mut self,
        probe: &Probe,
        run: u32,
        now: Instant,
        inward: &mut Slots,
        outward: &mut Slots,
    ) -> Heard {
        if probe.your_run != run || !self.proven(probe) {
            return Heard::Stale { answer: self.may_answer(now) };
        }
        self.adopt(probe.run);
        let before = self.window.highest;
        let mut lost = false;
        match self.window.take(probe.seq) {
            Seen::Again => return Heard::Replayed,
            Seen::Late => inward.found(back(now, probe.interval, before - probe.seq)),
            Seen::New => {
                self.highest_at = now;
                inward.note(now, false);
                let gap = if before == 0 { 0 } else { (probe.seq - before - 1).min(64) };
                (1..=gap).for_each(|i| inward.note(back(now, probe.interval, i), true));
                lost = gap > 0;
            }
        }
        self.received = self.received.wrapping_add(1);
        self.heard = Some(now);
        Heard::Fresh { rtt: self.acknowledge(probe, now, outward), lost }
    }

    /// The other end does not know us, or answers our question. True when it is to be answered.
    pub(super) fn greet(&mut self, hello: &Probe, now: Instant) -> bool {
        if self.proven(hello) {
            self.adopt(hello.run);
        }
        hello.echo == 0 && self.may_answer(now)
    }

    fn may_answer(&mut self, now: Instant) -> bool {
        let may = self.answered.is_none_or(|at| now.since(at) >= COURTESY);
        if may {
            self.answered = Some(now);
        }
        may
    }

    fn adopt(&mut self, run: u32) {
        if run != self.peer_run {
            self.retired = self.peer_run;
            self.peer_run = run;
            self.window = Window::default();
            self.received = 0;
            self.said = (0, 0);
        }
    }

    /// Is it of the peer's present run? Our own run is in packets that an earlier process of the peer made as well: another run than the
    /// known one has to name a probe that was sent a moment ago.
    fn proven(&self, probe: &Probe) -> bool {
        let known = probe.run == self.peer_run || self.peer_run == 0;
        let lately = probe.echo > 0 && probe.echo <= self.next_seq && self.next_seq - probe.echo <= LATELY;
        known || (lately && probe.run != self.retired)
    }

    /// What the peer says of our probes.
    fn acknowledge(&mut self, probe: &Probe, now: Instant, outward: &mut Slots) -> Option<Duration> {
        let (echo, count) = self.said;
        if probe.echo <= echo || probe.echo >= self.next_seq {
            return None;
        }
        self.said = (probe.echo, probe.received);
        let sent_at = |seq: u32| self.sent.iter().rev().find(|(s, _)| *s == seq).map(|(_, at)| *at);
        let at = sent_at(probe.echo)?;
        if echo > 0 {
            let (sent, arrived) = (probe.echo - echo, probe.received.wrapping_sub(count));
            let lost = sent.saturating_sub(arrived).min(sent - 1);
            // Which of them were lost is not said; the newest did arrive, so the ones before it are taken.
            for i in 0..sent.min(64) {
                if let Some(at) = sent_at(probe.echo - i) {
                    outward.note(at, i > 0 && i <= lost);
                }
            }
        }
        self.acked = self.acked.max(Some(at));
        now.since(at).checked_sub(Duration::from_micros(u64::from(probe.hold)))
    }
}

fn back(now: Instant, interval: Duration, times: u32) -> Instant {
    let back = u64::try_from((interval * times.min(64)).as_nanos()).unwrap_or(u64::MAX);
    Instant::from_nanos(now.as_nanos().saturating_sub(back))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    New,
    Late,
    Again,
}

/// The last 128 sequence numbers (RFC 4303 section 3.4.3 asks for 64 at least).
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    highest: u32,
    bits: u128,
}

impl Window {
    fn take(&mut self, seq: u32) -> Seen {
        if seq > self.highest {
            let by = seq - self.highest;
            self.bits = if by < 128 { self.bits << by | 1 } else { 1 };
            self.highest = seq;
            return Seen::New;
        }
        let bit = 1u128.checked_shl(self.highest - seq).unwrap_or(0);
        if bit == 0 || self.bits & bit != 0 {
            return Seen::Again;
        }
        self.bits |= bit;
        Seen::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_counts_once() {
        let mut window = Window::default();
        let seen = [1, 3, 2, 2, 3, 200, 199, 72, 73, 73].map(|seq| window.take(seq));
        use Seen::{Again, Late, New};
        assert_eq!(seen, [New, New, Late, Again, Again, New, Late, Again, Late, Again]);
    }
}
