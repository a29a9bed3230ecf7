//! One neighbor: the state machine of RFC 4271 section 8.

use serde::Serialize;

/// State of a session (RFC 4271 section 8.2.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is tried.
    Idle,
    /// A connection is being made.
    Connect,
    /// Waiting for the neighbor to dial, or for the next attempt.
    Active,
    /// OPEN is sent.
    OpenSent,
    /// OPEN was accepted; the neighbor's KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes flow.
    Established,
}
