//! What a speaker tells about itself: one event per change of state, and counters for the rest.

use core::time::Duration;

use serde::Serialize;

use crate::session::State;
use crate::wire::Family;

/// A change, named once at its only point of mutation. In JSON every name begins with `bgp_`: the stream has events of other rooms too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event")]
pub enum Event {
    /// A session changed its state.
    #[serde(rename = "bgp_state")]
    State {
        /// Neighbor.
        neighbor: String,
        /// Before.
        from: State,
        /// After.
        to: State,
        /// In words: the NOTIFICATION, the kernel's error, the timer, the operator.
        reason: String,
    },
    /// A NOTIFICATION was sent or received.
    #[serde(rename = "bgp_notification")]
    Notification {
        /// Neighbor.
        neighbor: String,
        /// Sent by us?
        sent: bool,
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
        /// In words, with data and shutdown text; names the refused AS number, password or hold time as such.
        text: String,
    },
    /// A connection could not be made or was refused before OPEN; said once per series.
    #[serde(rename = "bgp_unreachable")]
    Unreachable {
        /// Neighbor.
        neighbor: String,
        /// The kernel's words, and what they often mean (a wrong password shows as a time-out).
        reason: String,
    },
    /// An attempt with fewer capabilities follows, since the neighbor refused these.
    #[serde(rename = "bgp_capabilities_reduced")]
    CapabilitiesReduced {
        /// Neighbor.
        neighbor: String,
        /// What is left out.
        without: String,
    },
    /// End-of-RIB was sent.
    #[serde(rename = "bgp_end_of_rib")]
    EndOfRib {
        /// Neighbor.
        neighbor: String,
        /// Which family.
        family: Family,
    },
    /// Announced or withdrawn routes are on the wire; `latency` counts from the oldest decision among them.
    #[serde(rename = "bgp_sent")]
    Sent {
        /// Neighbor.
        neighbor: String,
        /// How many prefixes were announced.
        announced: usize,
        /// How many were withdrawn.
        withdrawn: usize,
        /// From decision to the write of the last byte.
        latency: Duration,
    },
    /// The neighbor sent more prefixes than its limit.
    #[serde(rename = "bgp_prefix_limit")]
    PrefixLimit {
        /// Neighbor.
        neighbor: String,
        /// How many.
        prefixes: u32,
        /// The limit.
        limit: u32,
    },
    /// An UPDATE was malformed, and what RFC 7606 asks for.
    #[serde(rename = "bgp_malformed")]
    Malformed {
        /// Neighbor.
        neighbor: String,
        /// Attribute and disposition in words.
        reason: String,
    },
    /// A step of the drain was reached.
    #[serde(rename = "bgp_drain")]
    Drain {
        /// In words.
        step: String,
    },
}
