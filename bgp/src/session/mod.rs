//! One neighbor: the state machine of RFC 4271 section 8, with at most one connection of each direction while none is Established.
//!
//! It decides when to dial, what an OPEN says, which connection stays, when a session ends and how long it then rests. It asks its
//! owner, the [`crate::speaker`], for routes to write ([`Session::pump`]) and knows nothing of them.

pub mod backoff;
pub mod collision;
mod connections;
pub mod counters;
mod ending;
mod intake;
mod last_error;
mod link;
mod machine;
mod messages;
pub mod negotiate;
mod path;
pub mod status;

use serde::Serialize;

pub use connections::{Room, WRITE_MAX};
pub use ending::Stop;
pub use last_error::{LastError, NotificationError};
pub use link::LocalEnd;
pub use machine::{Effect, Session, external};

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

impl State {
    /// All of them, in the order of their progress.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Connect, Self::Active, Self::OpenSent, Self::OpenConfirm, Self::Established];

    /// As in metrics and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Active => "active",
            Self::OpenSent => "opensent",
            Self::OpenConfirm => "openconfirm",
            Self::Established => "established",
        }
    }
}

#[cfg(test)]
mod tests;
