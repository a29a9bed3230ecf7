//! Health of one endpoint over time: what counts, and how long one that changes its mind must wait.

use core::time::Duration;

use super::io::Health;
use crate::time::Instant;

/// Falls that are forgiven: the third within [`MEMORY`] makes the endpoint wait.
const FORGIVEN: u32 = 2;
/// The first wait; each further fall doubles it.
const HOLD: Duration = Duration::from_secs(5);
/// The longest wait.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Falls are forgotten after so long without one.
const MEMORY: Duration = Duration::from_secs(120);

/// What is known of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No check has come to a conclusion yet.
    Unknown,
    /// Takes new connections.
    Ready,
    /// Passes its check, but fell too often: used only when nobody else is ready.
    Held(Instant),
    /// Fails its check.
    Unready,
    /// Is about to stop.
    Draining,
}

/// An endpoint's health.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damped {
    pub(super) state: State,
    /// How long its checks take when they pass; `None`: none has.
    pub(super) takes: Option<Duration>,
    falls: u32,
    last_fall: Instant,
}

impl Damped {
    /// Starts in `state`.
    pub(super) fn new(state: State) -> Self {
        Self { state, takes: None, falls: 0, last_fall: Instant::ZERO }
    }

    /// A check passed within this time. A single slow one says more about the machine than about the endpoint: it may double the figure.
    pub(super) fn answered_within(&mut self, took: Duration) {
        self.takes = Some(self.takes.map_or(took, |before| took.min(before * 2)));
    }

    /// Takes a conclusion; true when the state changed.
    pub(super) fn hear(&mut self, health: Health, now: Instant) -> bool {
        let before = self.state;
        if now.since(self.last_fall) >= MEMORY {
            self.falls = 0;
        }
        self.state = match (health, before) {
            (Health::Ready, State::Ready | State::Held(_)) => before,
            (Health::Ready, _) if self.falls > FORGIVEN => State::Held(now + self.hold()),
            (Health::Ready, _) => State::Ready,
            (Health::Unready, _) => {
                if matches!(before, State::Ready | State::Held(_)) {
                    self.falls += 1;
                    self.last_fall = now;
                }
                State::Unready
            }
            (Health::Draining, _) => State::Draining,
        };
        self.state != before
    }

    /// Ends a wait that is over; true when the state changed.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let over = matches!(self.state, State::Held(until) if until <= now);
        if over {
            self.state = State::Ready;
        }
        over
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Held(until) => Some(until),
            State::Unknown | State::Ready | State::Unready | State::Draining => None,
        }
    }

    fn hold(&self) -> Duration {
        let doubled = self.falls.saturating_sub(FORGIVEN + 1).min(8);
        (HOLD * (1 << doubled)).min(HOLD_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_nanos(s * 1_000_000_000)
    }

    /// Falls and rises at one-second steps; gives the wait after the last rise, in seconds.
    fn wait_after(falls: u64, start: u64) -> Option<u64> {
        let mut e = Damped::new(State::Ready);
        for i in 0..falls {
            assert!(e.hear(Health::Unready, at(start + 2 * i)));
            assert!(e.hear(Health::Ready, at(start + 2 * i + 1)));
        }
        let last = at(start + 2 * falls - 1);
        e.poll_timeout().map(|t| t.since(last).as_secs())
    }

    #[test]
    fn two_falls_are_forgiven_then_waits_double() {
        let waits: Vec<_> = (1..=8).map(|n| wait_after(n, 1000)).collect();
        assert_eq!(waits, [None, None, Some(5), Some(10), Some(20), Some(40), Some(60), Some(60)]);
    }

    #[test]
    fn a_wait_ends_by_time_and_a_fall_in_it_counts() {
        let mut e = Damped::new(State::Ready);
        for i in 0..3 {
            let _ = e.hear(Health::Unready, at(1000 + i));
            let _ = e.hear(Health::Ready, at(1000 + i));
        }
        assert_eq!(e.state, State::Held(at(1007)));
        assert!(!e.hear(Health::Ready, at(1003)), "more of the same changes nothing");
        assert!(e.hear(Health::Unready, at(1004)));
        assert!(e.hear(Health::Ready, at(1005)));
        assert_eq!(e.state, State::Held(at(1015)), "the fall in between doubled the wait");
        assert!(!e.expire(at(1014)));
        assert!(e.expire(at(1015)));
        assert_eq!(e.state, State::Ready);
    }

    #[test]
    fn falls_are_forgotten() {
        let mut e = Damped::new(State::Ready);
        for i in 0..10 {
            let _ = e.hear(Health::Unready, at(1000 + i));
            let _ = e.hear(Health::Ready, at(1000 + i));
        }
        assert!(e.hear(Health::Unready, at(1200)));
        assert!(e.hear(Health::Ready, at(1201)));
        assert_eq!(e.state, State::Ready, "one fall after two quiet minutes");
    }

    #[test]
    fn the_first_conclusion_counts_at_once() {
        let mut e = Damped::new(State::Unknown);
        assert!(e.hear(Health::Ready, at(1)));
        assert_eq!(e.state, State::Ready);
        assert!(e.hear(Health::Draining, at(2)));
        assert_eq!(e.state, State::Draining);
    }
}
