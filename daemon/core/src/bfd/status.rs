//! A snapshot of the machine for `/state`, `bascule bfd` and metrics.

use core::net::IpAddr;

use serde::Serialize;

use crate::wire::bfd::{Diag, State};

/// All sessions.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdStatus {
    /// Sessions in the order of the configuration.
    pub peers: Vec<PeerStatus>,
    /// Why packets cannot be heard, one line for each socket that could not be opened. The driver fills it in.
    pub errors: Vec<String>,
    /// Packets sent since start.
    pub sent: u64,
    /// Packets accepted since start.
    pub received: u64,
    /// Packets discarded since start, by reason; every reason is listed.
    pub discards: Vec<DiscardCount>,
}

/// Packets discarded for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscardCount {
    /// Why.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

/// One session. Times are in milliseconds with fractions unless the name says otherwise.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Name.
    pub name: String,
    /// The peer.
    pub remote: IpAddr,
    /// Our address, when known.
    pub local: Option<IpAddr>,
    /// Link of a single-hop session, when found.
    pub interface: Option<String>,
    /// Smallest TTL accepted, of a multihop session.
    pub min_ttl: Option<u8>,
    /// Our state.
    pub state: State,
    /// Seconds in it.
    pub since_seconds: f64,
    /// Why we last left Up; none while Up.
    pub diag: Diag,
    /// The peer's state, as last heard.
    pub remote_state: State,
    /// The peer's reason, as last heard.
    pub remote_diag: Diag,
    /// Our discriminator.
    pub local_discriminator: u32,
    /// The peer's, when known.
    pub remote_discriminator: Option<u32>,
    /// UDP port we send from.
    pub source_port: u16,
    /// Transmit interval in force before jitter; absent while nothing is sent periodically.
    pub transmit_interval_ms: Option<f64>,
    /// Detection time in force; absent while the peer is unknown.
    pub detection_time_ms: Option<f64>,
    /// What we want.
    pub wanted: Intervals,
    /// What the peer announced last, when known.
    pub announced_by_peer: Option<Intervals>,
    /// A change of intervals waits for the peer's confirmation.
    pub polling: bool,
    /// The peer wants us silent while both are Up.
    pub remote_demand: bool,
    /// How often the session left Up for another reason than an operator's.
    pub failures: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets accepted.
    pub received: u64,
    /// Why it cannot work.
    pub condition: Option<String>,
}

/// Intervals of one side.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Intervals {
    /// Desired Min TX Interval.
    pub desired_min_tx_ms: f64,
    /// Required Min RX Interval.
    pub required_min_rx_ms: f64,
    /// Detect Mult.
    pub multiplier: u8,
}
