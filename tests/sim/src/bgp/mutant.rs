//! Planted bugs: what the simulator must find, or it proves nothing. None is a path in the shipped code: each alters what stands around
//! the speaker in the way that a wrong line inside it would show on the wire.

use std::fmt;

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Every third withdrawal is forgotten.
    WithdrawForgotten,
    /// Withdrawals wait a second.
    WithdrawLate,
    /// A second End-of-RIB follows the next KEEPALIVE.
    EndOfRibTwice,
    /// What waited is written after the NOTIFICATION.
    UpdateAfterCease,
    /// Timers expire before the sockets are read.
    ExpiresBeforeRead,
    /// KEEPALIVEs are not written.
    NoKeepalive,
    /// One end reads the neighbor's identifier in the wrong byte order: both take themselves for the winner, or for the loser.
    IdentifierReversed,
    /// A planned restart says Cease.
    RestartCeases,
    /// The run after a planned restart does not say so.
    RestartUnsaid,
    /// An unrelated change of configuration resets the session.
    ConfigResets,
    /// End-of-RIB is allowed before the routes of the start are known.
    SyncedEarly,
    /// A shutdown does not withdraw first.
    ShutdownKeepsRoutes,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::WithdrawForgotten,
        Self::WithdrawLate,
        Self::EndOfRibTwice,
        Self::UpdateAfterCease,
        Self::ExpiresBeforeRead,
        Self::NoKeepalive,
        Self::IdentifierReversed,
        Self::RestartCeases,
        Self::RestartUnsaid,
        Self::ConfigResets,
        Self::SyncedEarly,
        Self::ShutdownKeepsRoutes,
    ];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WithdrawForgotten => "withdraw-forgotten",
            Self::WithdrawLate => "withdraw-late",
            Self::EndOfRibTwice => "end-of-rib-twice",
            Self::UpdateAfterCease => "update-after-cease",
            Self::ExpiresBeforeRead => "expires-before-read",
            Self::NoKeepalive => "no-keepalive",
            Self::IdentifierReversed => "identifier-reversed",
            Self::RestartCeases => "restart-ceases",
            Self::RestartUnsaid => "restart-unsaid",
            Self::ConfigResets => "config-resets",
            Self::SyncedEarly => "synced-early",
            Self::ShutdownKeepsRoutes => "shutdown-keeps-routes",
        }
    }

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.as_str() == name)
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
