//! What goes into the machine and what comes out of it.

use core::time::Duration;

use serde::Serialize;

use super::detector::Scale;
use crate::wire::site::PairKeys;

/// What a path is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Keys of the pair of sites.
    pub keys: PairKeys,
    /// Flows: node pairs and source ports that the network may send over different links. sites.md 4.6: three nodes, two ports each.
    pub flows: u8,
    /// How far apart each flow probes at full rate.
    pub interval: Duration,
    /// Intervals of silence that make the path down.
    pub multiplier: u8,
    /// MTU of the local link, in bytes of an IP packet.
    pub mtu: u16,
    /// Bytes of IP and UDP header before a probe: 28 or 48.
    pub overhead: u16,
}

impl Config {
    /// Six flows every 100 ms, down after 5 x 100 ms (sites.md 4.6, core sites).
    pub const fn new(keys: PairKeys) -> Self {
        let interval = Duration::from_millis(100);
        Self { keys, flows: 6, interval, multiplier: 5, mtu: super::TRIED, overhead: 28 }
    }
}

/// What the data path saw of a peer site since the last report. All zero is no evidence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// How often something of ours got there and its answer came back over this path a moment ago: handshakes ([`crate::site::evidence`]).
    pub acknowledged: u32,
    /// How often an answer that should have come did not, either way.
    pub again: u32,
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub enum Action {
    /// Send a datagram on a flow, DF set.
    Send {
        /// The flow.
        flow: u8,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// Log it, count it, show it, and give it to the policy.
    Report(Event),
}

/// A direction, seen from here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the other site to here.
    In,
    /// From here to the other site.
    Out,
}

/// Why a path carries nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Silence {
    /// Nothing arrives; whether anything leaves cannot be known.
    In,
    /// The other site is heard and says that it hears nothing.
    Out,
}

/// Whether a path carries packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carriage {
    /// Never heard since start.
    Unknown,
    /// Both directions carry packets.
    Up,
    /// One does not.
    Down(Silence),
}

/// Something changed. Times lie in the past by as much as the machine needed to be sure.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Event {
    /// The path carries nothing any more.
    Down {
        /// Which way.
        silence: Silence,
        /// How long before this event the last packet got through, in seconds: when the cause began, at the latest.
        silent: f64,
    },
    /// It carries packets again (or for the first time).
    Up,
    /// One flow of several carries nothing.
    FlowDown {
        /// Which.
        flow: u8,
    },
    /// It does again.
    FlowUp {
        /// Which.
        flow: u8,
    },
    /// Loss is above this path's usual.
    Brownout {
        /// Which way.
        direction: Direction,
        /// By which sum.
        scale: Scale,
        /// Share lost over the last 10 s.
        loss: f64,
        /// Events a slot that are usual here.
        learned: f64,
    },
    /// Loss is as usual.
    Cleared {
        /// Which way.
        direction: Direction,
    },
    /// The round trip is longer than usual.
    Inflated {
        /// Times the usual.
        factor: f64,
    },
    /// It is as usual.
    Deflated,
    /// Packets above a size vanish, or do not any more.
    Mtu {
        /// Before, in bytes of an IP packet.
        from: u16,
        /// Now.
        to: u16,
    },
}

/// What the policy and the operator want to know of a path.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether it carries packets.
    pub carriage: Carriage,
    /// Alarm of loss on the way in.
    pub brownout_in: Option<Scale>,
    /// Alarm of loss on the way out.
    pub brownout_out: Option<Scale>,
    /// Share lost on the way in over the last 10 s.
    pub loss_in: f64,
    /// Share lost on the way out over the last 10 s.
    pub loss_out: f64,
    /// Median round trip of the last 5 s, in seconds.
    pub rtt: Option<f64>,
    /// Usual round trip, in seconds.
    pub rtt_usual: Option<f64>,
    /// Times the usual while inflated, else 1.
    pub rtt_factor: f64,
    /// Largest packet that gets through, in bytes of an IP packet.
    pub mtu: u16,
    /// Flows that carry packets.
    pub flows_up: u8,
    /// Which: bit n is flow n. There are at most two for each of eight gateways.
    pub flows: u32,
    /// It is down, and something gets through both ways again, for a second at least: flows that live there may be looked for, new ones wait.
    pub returning: bool,
    /// Traffic speaks for the path: probes are few, one a second.
    pub suppressed: bool,
    /// Datagrams refused, by reason.
    pub refused: Refused,
}

/// Datagrams refused since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Not a probe.
    pub malformed: u64,
    /// Signed with no key of ours.
    pub tag: u64,
    /// Of an earlier run of one of the two ends, or not proven to be of this one.
    pub stale: u64,
    /// Seen before, or too old to know.
    pub replayed: u64,
    /// A flow that does not exist.
    pub flow: u64,
    /// Of another version of all packets: the other end must be upgraded, or we.
    pub version: u64,
    /// Of a kind that only later versions have.
    pub unknown: u64,
}

impl Status {
    /// The larger loss of the two ways that are under an alarm; 0 without one.
    pub fn alarmed_loss(&self) -> f64 {
        let of = |alarm: Option<Scale>, loss: f64| if alarm.is_some() { loss } else { 0.0 };
        of(self.brownout_in, self.loss_in).max(of(self.brownout_out, self.loss_out))
    }
}
