//! How good a usable site is, 0 to 100 (sites.md 4.7): availability, path, quality of handshakes, each able to spoil it alone.

use super::facts::Facts;
use crate::site::path::io::Status;

/// Loss that costs nothing, and loss that costs all: TCP's throughput falls with the root of loss (Mathis et al. 1997), 1 % at 20 ms is
/// some 7 Mbit/s for each flow.
const LOSS: (f64, f64) = (0.005, 0.05);
/// Times the usual round trip that cost nothing, that cost most, and what is left then.
const RTT: (f64, f64, f64) = (1.5, 4.0, 0.3);
/// Share of failed handshakes that costs all.
const FAILURE: f64 = 0.2;

/// The part of the path. Loss counts only while the detector says that it is more than usual: a single burst is in the average of the
/// last 10 s as well, and must not move traffic.
pub fn path(status: &Status) -> f64 {
    let loss = status.alarmed_loss();
    let by_loss = 1.0 - ((loss - LOSS.0) / (LOSS.1 - LOSS.0)).clamp(0.0, 1.0);
    let over = ((status.rtt_factor - RTT.0) / (RTT.1 - RTT.0)).clamp(0.0, 1.0);
    by_loss * (1.0 - over * (1.0 - RTT.2))
}

/// The score. `path` is 1 for this site.
pub fn score(facts: &Facts, path: f64) -> f64 {
    let availability = facts.summary.map_or(0.0, |(summary, _)| summary.availability());
    let quality = 1.0 - (facts.observed.failure() / FAILURE).min(1.0);
    100.0 * availability.min(path).min(quality) * facts.freshness()
}
