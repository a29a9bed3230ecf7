//! Intervals of one session: what is wanted, what is announced, what is in force, and the Poll Sequence between them
//! (RFC 5880 sections 6.5 and 6.8.2 to 6.8.4).
//!
//! All times are in microseconds, the unit of the packets.

use core::time::Duration;

/// Floor of Desired Min TX Interval while a session is not Up, in microseconds (RFC 5880 section 6.8.3).
pub const SLOW: u32 = 1_000_000;

/// What the operator wants of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// Shortest interval at which we send, in microseconds, not 0.
    pub desired_min_tx: u32,
    /// Shortest interval at which we want to receive, in microseconds, not 0.
    pub required_min_rx: u32,
    /// The peer declares us gone after this many of our intervals; 1..=255.
    pub multiplier: u8,
}

/// A Poll Sequence. A second one may only begin when a packet with Final clear was heard after the end of the first, or the meaning of
/// a Final would be ambiguous (RFC 5880 section 6.8.3, the third choice).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Poll {
    /// Packets carry the Poll bit.
    active: bool,
    /// Another one is owed.
    wanted: bool,
    /// No Final can be on its way.
    settled: bool,
}

/// Intervals of one session and their changes.
#[derive(Clone, Debug)]
pub(super) struct Timing {
    wanted: Timers,
    announced_tx: u32,
    announced_rx: u32,
    tx_in_force: u32,
    rx_in_force: u32,
    poll: Poll,
}

impl Timing {
    /// Of a session that is not Up.
    pub(super) fn new(wanted: Timers) -> Self {
        let tx = wanted.desired_min_tx.max(SLOW);
        Self {
            wanted,
            announced_tx: tx,
            announced_rx: wanted.required_min_rx,
            tx_in_force: tx,
            rx_in_force: wanted.required_min_rx,
            poll: Poll { active: false, wanted: false, settled: true },
        }
    }

    /// What the operator wants.
    pub(super) fn wanted(&self) -> Timers {
        self.wanted
    }

    /// bfd.DesiredMinTxInterval, as sent.
    pub(super) fn desired_min_tx(&self) -> u32 {
        self.announced_tx
    }

    /// bfd.RequiredMinRxInterval, as sent.
    pub(super) fn required_min_rx(&self) -> u32 {
        self.announced_rx
    }

    /// Packets carry the Poll bit.
    pub(super) fn polling(&self) -> bool {
        self.poll.active
    }

    /// The agreed transmit interval before jitter, in microseconds (RFC 5880 section 6.8.7).
    pub(super) fn tx_interval(&self, remote_min_rx: u32) -> u32 {
        self.tx_in_force.max(remote_min_rx)
    }

    /// Detection time (RFC 5880 section 6.8.4): the peer's multiplier times its agreed transmit interval.
    pub(super) fn detection(&self, remote_mult: u8, remote_desired_tx: u32) -> Duration {
        Duration::from_micros(u64::from(remote_mult) * u64::from(self.rx_in_force.max(remote_desired_tx)))
    }

    /// The peer's detection time for us, as far as its packets tell.
    pub(super) fn detection_of_peer(&self, remote_min_rx: u32) -> Duration {
        Duration::from_micros(u64::from(self.wanted.multiplier) * u64::from(self.announced_tx.max(remote_min_rx)))
    }

    /// The operator changed his mind. `peer_known` is whether there is a discriminator to poll.
    pub(super) fn want(&mut self, wanted: Timers, up: bool, peer_known: bool) {
        self.wanted = wanted;
        self.apply(up, peer_known);
    }

    /// The session entered or left Up.
    pub(super) fn crossed(&mut self, up: bool, peer_known: bool) {
        if self.poll.active {
            // Its Final may still come: the sequence begins anew when that cannot be any more.
            self.poll = Poll { active: false, wanted: true, settled: false };
        }
        self.apply(up, peer_known);
    }

    /// A packet was received.
    pub(super) fn heard(&mut self, is_final: bool, up: bool) {
        if !is_final {
            self.poll.settled = true;
        } else if self.poll.active {
            self.poll = Poll { active: false, wanted: self.poll.wanted, settled: false };
            self.commit();
        }
        self.apply(up, true);
    }

    /// The peer is gone: there is nobody to poll, and whoever comes back starts afresh.
    pub(super) fn peer_gone(&mut self) {
        self.poll = Poll { active: false, wanted: false, settled: true };
        self.commit();
    }

    /// Begins the Poll Sequence that is owed, if it may begin. True when it did: its first packet should leave at once.
    pub(super) fn start_poll(&mut self) -> bool {
        let start = self.poll.wanted && self.poll.settled && !self.poll.active;
        if start {
            self.poll = Poll { active: true, wanted: false, settled: true };
        }
        start
    }

    /// Polls without a change: the Final proves that the peer heard what we say.
    pub(super) fn poll_now(&mut self) {
        self.poll.active = true;
    }

    fn apply(&mut self, up: bool, peer_known: bool) {
        let tx = if up { self.wanted.desired_min_tx } else { self.wanted.desired_min_tx.max(SLOW) };
        let rx = self.wanted.required_min_rx;
        if (tx, rx) != (self.announced_tx, self.announced_rx) {
            if up && self.poll.active {
                // Two changes in one sequence would make its Final ambiguous: this one waits for it.
                return;
            }
            (self.announced_tx, self.announced_rx) = (tx, rx);
            // Not Up, a sequence under way is replaced: nothing waits for its Final.
            self.poll = Poll { active: false, wanted: peer_known, settled: self.poll.settled && !self.poll.active };
        }
        if up {
            // Slower sending, and the shorter detection time that goes with faster receiving, wait for the Final (section 6.8.3).
            self.tx_in_force = self.tx_in_force.min(self.announced_tx);
            self.rx_in_force = self.rx_in_force.max(self.announced_rx);
        } else {
            self.commit();
        }
    }

    fn commit(&mut self) {
        self.tx_in_force = self.announced_tx;
        self.rx_in_force = self.announced_rx;
    }
}
