//! The order in which a speaker leaves, so that no packet is lost to a route that nobody serves any more.
//!
//! Shutdown: announce everything anew with GRACEFUL_SHUTDOWN (RFC 8326), wait while routers move traffic away, withdraw, wait until the
//! neighbor's kernel has acknowledged the withdrawals, then Cease. A planned restart keeps the routes of neighbors that are helpers
//! (RFC 4724) and closes those sessions without a NOTIFICATION; the others see a shutdown without a drain.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use crate::io::Conn;
use crate::time::Instant;

/// How long withdrawals may take to be acknowledged before the session ends anyway. Our choice: many round trips of a data center, and
/// far below the 30 s that Kubernetes grants a pod to end.
pub const FLUSH_CAP: Duration = Duration::from_secs(3);

/// How one session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Close the connection without a NOTIFICATION: the helper keeps the routes for Restart Time (RFC 4724 section 4).
    Silent,
    /// Cease, subcode 2 Administrative Shutdown, with text (RFC 9003).
    Cease,
    /// Hard Reset, subcode 9, that wraps the same Cease: with the N bit negotiated a plain Cease would keep stale routes (RFC 8538
    /// section 3).
    HardReset,
}

impl Ending {
    /// For good. `notification`: both sides set the N bit of the graceful restart capability.
    pub const fn of_shutdown(notification: bool) -> Self {
        if notification { Self::HardReset } else { Self::Cease }
    }

    /// To come back. `helper`: graceful restart was negotiated.
    pub const fn of_restart(helper: bool, notification: bool) -> Self {
        if helper { Self::Silent } else { Self::of_shutdown(notification) }
    }
}

/// What the speaker owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Step {
    /// Present every route as draining, to every neighbor.
    Drain,
    /// Withdraw everything from this session's neighbor (`OutQueue::retire`) and accept nothing new for it.
    Withdraw(Conn),
    /// Send what is queued and watch the acknowledgements; feed [`Leave::handle_written`].
    Flush(Conn),
    /// End the session so.
    Close(Conn, Ending),
    /// Every session is ended.
    Done,
}

/// The machine of one shutdown or planned restart.
///
/// Contract: made with the Established sessions (the others are ended by the caller, they have no routes to lose); then
/// [`Self::poll_step`] until `None` after every call; [`Self::handle_timeout`] at [`Self::poll_timeout`]; [`Self::handle_written`] and
/// [`Self::handle_gone`] as they happen. [`Step::Done`] comes exactly once and last.
#[derive(Debug)]
pub struct Leave {
    sessions: BTreeMap<Conn, Ending>,
    phase: Phase,
    steps: VecDeque<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Draining { until: Instant },
    Flushing { until: Instant },
    Done,
}

impl Leave {
    /// Ends these sessions; those that do not end silently are drained for `drain` first.
    pub fn new(sessions: impl IntoIterator<Item = (Conn, Ending)>, drain: Duration, now: Instant) -> Self {
        let sessions: BTreeMap<_, _> = sessions.into_iter().collect();
        let mut leave = Self { sessions, phase: Phase::Draining { until: now + drain }, steps: VecDeque::new() };
        let loses_routes = leave.sessions.values().any(|ending| *ending != Ending::Silent);
        if drain > Duration::ZERO && loses_routes {
            leave.steps.push_back(Step::Drain);
        } else {
            leave.flush(now);
        }
        leave
    }

    /// Takes what is owed next.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// When to come back; `None` when the machine is done.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining { until } | Phase::Flushing { until } => Some(until),
            Phase::Done => None,
        }
    }

    /// In words, for the log and the CLI.
    pub fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Draining { .. } => "draining: routes are announced with GRACEFUL_SHUTDOWN",
            Phase::Flushing { .. } => "flushing: withdrawals are on their way",
            Phase::Done => "done: every session is closed",
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Draining { until } if until <= now => self.flush(now),
            Phase::Flushing { until } if until <= now => {
                for conn in self.sessions.keys().copied().collect::<Vec<_>>() {
                    self.close(conn);
                }
            }
            Phase::Draining { .. } | Phase::Flushing { .. } | Phase::Done => {}
        }
    }

    /// How far a session's bytes are: `queued`: the speaker has more to encode; `pending`: bytes the kernel has not taken;
    /// `unacknowledged`: bytes the neighbor has not acknowledged, `None` when not known.
    pub fn handle_written(&mut self, conn: Conn, queued: bool, pending: usize, unacknowledged: Option<usize>) {
        let flushing = matches!(self.phase, Phase::Flushing { .. });
        if flushing && !queued && pending == 0 && unacknowledged == Some(0) {
            self.close(conn);
        }
    }

    /// A session ended by itself.
    pub fn handle_gone(&mut self, conn: Conn) {
        if self.sessions.remove(&conn).is_some() {
            self.finish_if_empty();
        }
    }

    fn flush(&mut self, now: Instant) {
        self.phase = Phase::Flushing { until: now + FLUSH_CAP };
        for (conn, ending) in &self.sessions {
            if *ending != Ending::Silent {
                self.steps.push_back(Step::Withdraw(*conn));
            }
            self.steps.push_back(Step::Flush(*conn));
        }
        self.finish_if_empty();
    }

    fn close(&mut self, conn: Conn) {
        if let Some(ending) = self.sessions.remove(&conn) {
            self.steps.push_back(Step::Close(conn, ending));
            self.finish_if_empty();
        }
    }

    fn finish_if_empty(&mut self) {
        if self.sessions.is_empty() && self.phase != Phase::Done {
            self.phase = Phase::Done;
            self.steps.push_back(Step::Done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Conn = Conn(1);
    const B: Conn = Conn(2);
    const NOW: Instant = Instant::from_nanos(1_000);
    const DRAIN: Duration = Duration::from_secs(5);

    fn steps(leave: &mut Leave) -> Vec<Step> {
        core::iter::from_fn(|| leave.poll_step()).collect()
    }

    #[test]
    fn drains_withdraws_flushes_ceases_in_this_order() {
        let mut leave = Leave::new([(A, Ending::Cease), (B, Ending::HardReset)], DRAIN, NOW);
        assert_eq!(steps(&mut leave), [Step::Drain]);
        leave.handle_written(A, false, 0, Some(0));
        leave.handle_timeout(NOW + DRAIN / 2);
        assert_eq!(steps(&mut leave), [], "an empty socket does not end the drain");

        let at = leave.poll_timeout().expect("drain time");
        assert_eq!(at, NOW + DRAIN);
        leave.handle_timeout(at);
        assert_eq!(steps(&mut leave), [Step::Withdraw(A), Step::Flush(A), Step::Withdraw(B), Step::Flush(B)]);

        leave.handle_written(A, true, 0, Some(0));
        leave.handle_written(A, false, 10, Some(0));
        leave.handle_written(A, false, 0, Some(10));
        leave.handle_written(A, false, 0, None);
        assert_eq!(steps(&mut leave), [], "queued, pending, unacknowledged or unknown is not flushed");
        leave.handle_written(A, false, 0, Some(0));
        assert_eq!(steps(&mut leave), [Step::Close(A, Ending::Cease)]);
        leave.handle_written(B, false, 0, Some(0));
        assert_eq!(steps(&mut leave), [Step::Close(B, Ending::HardReset), Step::Done]);
        assert_eq!(leave.poll_timeout(), None);
    }

    #[test]
    fn a_neighbor_that_acknowledges_nothing_is_left_behind_after_the_cap() {
        let mut leave = Leave::new([(A, Ending::Cease), (B, Ending::Cease)], Duration::ZERO, NOW);
        assert_eq!(steps(&mut leave).len(), 4, "no drain time, no drain");
        leave.handle_written(B, false, 0, Some(0));
        assert_eq!(steps(&mut leave), [Step::Close(B, Ending::Cease)], "who is flushed does not wait for the slow one");
        leave.handle_timeout(Instant::from_nanos((NOW + FLUSH_CAP).as_nanos() - 1));
        assert_eq!(steps(&mut leave), []);
        leave.handle_timeout(NOW + FLUSH_CAP);
        assert_eq!(steps(&mut leave), [Step::Close(A, Ending::Cease), Step::Done]);
        leave.handle_timeout(NOW + FLUSH_CAP * 2);
        leave.handle_gone(A);
        assert_eq!(steps(&mut leave), [], "done is said once");
    }

    #[test]
    fn a_planned_restart_keeps_the_routes_of_helpers_only() {
        let helper = (A, Ending::of_restart(true, true));
        let other = (B, Ending::of_restart(false, false));
        let mut leave = Leave::new([helper, other], Duration::ZERO, NOW);
        assert_eq!(steps(&mut leave), [Step::Flush(A), Step::Withdraw(B), Step::Flush(B)]);
        leave.handle_written(A, false, 0, Some(0));
        leave.handle_written(B, false, 0, Some(0));
        assert_eq!(steps(&mut leave), [Step::Close(A, Ending::Silent), Step::Close(B, Ending::Cease), Step::Done]);
    }

    #[test]
    fn only_helpers_means_nothing_to_drain() {
        let mut leave = Leave::new([(A, Ending::Silent)], DRAIN, NOW);
        assert_eq!(steps(&mut leave), [Step::Flush(A)]);
    }

    #[test]
    fn sessions_that_end_by_themselves_are_not_waited_for() {
        let mut leave = Leave::new([(A, Ending::Cease)], DRAIN, NOW);
        leave.handle_gone(A);
        leave.handle_gone(A);
        assert_eq!(steps(&mut leave), [Step::Drain, Step::Done]);
        assert_eq!(steps(&mut Leave::new([], DRAIN, NOW)), [Step::Done]);
    }

    #[test]
    fn s8538_3_with_the_n_bit_only_a_hard_reset_ends_for_good() {
        assert_eq!(Ending::of_shutdown(true), Ending::HardReset);
        assert_eq!(Ending::of_shutdown(false), Ending::Cease);
        assert_eq!(Ending::of_restart(true, true), Ending::Silent);
        assert_eq!(Ending::of_restart(false, true), Ending::HardReset);
    }
}
