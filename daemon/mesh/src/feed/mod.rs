//! What each relay of a site knows of other sites, to every node of its own (ADR 0031, 0043).
//!
//! A relay serves ([`Server`]); every other node of the site listens to each relay ([`listen`]) over TLS 1.3 with the same certificates as
//! between sites, here both of one site. Words go down: beats, which say that a relay lives, whether it leads and when it stops, and facts.
//! Counts go up: what clients bring to a node. What is made of them is [`bascule_core::site::join`]'s.
//!
//! Bounds: a frame by its header, greetings by number and time, what is not sent to one listener yet by a queue. Whoever cannot follow is
//! let go, calls again and is told everything; nobody else waits for it. A node may say so many frames a second; one that says more, or what
//! is no count, is let go and counted. Counts that find no room, at either end, are dropped: they are said again within a second.

mod listen;
mod serve;
mod wire;

use std::collections::BTreeMap;

use serde::Serialize;

pub use listen::{Heard, Listener, listen};
pub use serve::{Order, Server};
pub use wire::Word;

use crate::tls::Refusal;

/// How a relay's feed is, since start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Nodes that listen now, by their certificates.
    pub listeners: Vec<String>,
    /// Listeners that could not follow and were let go.
    pub slow: u64,
    /// Sent away by reason, when they called or later.
    pub sent_away: BTreeMap<Refusal, u64>,
    /// Frames of counts that nodes have said.
    pub said: u64,
}
