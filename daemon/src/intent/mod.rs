//! The last good intent of a cluster: where it comes from, and how it is kept over starts without an API server.
//!
//! Nothing is decided here. What an intent means for this node is `bascule_core::service::plan`'s, who must hear of it the app's.

pub mod file;
mod keeper;
mod ports;

use std::sync::Arc;
use std::time::SystemTime;

use bascule_core::intent::Intent;

pub use keeper::Keeper;
pub use ports::Ports;

/// Where an intent was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From the API server.
    Api,
    /// From the file.
    File,
}

impl Origin {
    /// Every origin.
    pub const ALL: [Self; 2] = [Self::Api, Self::File];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::File => "file",
        }
    }
}

/// An intent, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The intent.
    pub intent: Arc<Intent>,
    /// Where it was read.
    pub origin: Origin,
    /// When it was the API server's word.
    pub at: SystemTime,
}
