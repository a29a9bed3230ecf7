//! Planted bugs: what the simulator must find, or it proves nothing. None is a path in the shipped code: each alters what stands around
//! the speaker in the way that a wrong line inside it would show on the wire.

use crate::planted::planted;

planted! {
    /// Every third withdrawal is forgotten.
    WithdrawForgotten = "withdraw-forgotten",
    /// Withdrawals wait a second.
    WithdrawLate = "withdraw-late",
    /// A second End-of-RIB follows the next KEEPALIVE.
    EndOfRibTwice = "end-of-rib-twice",
    /// What waited is written after the NOTIFICATION.
    UpdateAfterCease = "update-after-cease",
    /// Timers expire before the sockets are read.
    ExpiresBeforeRead = "expires-before-read",
    /// KEEPALIVEs are not written.
    NoKeepalive = "no-keepalive",
    /// One end reads the neighbor's identifier in the wrong byte order: both take themselves for the winner, or for the loser.
    IdentifierReversed = "identifier-reversed",
    /// A planned restart says Cease.
    RestartCeases = "restart-ceases",
    /// The run after a planned restart does not say so.
    RestartUnsaid = "restart-unsaid",
    /// An unrelated change of configuration resets the session.
    ConfigResets = "config-resets",
    /// End-of-RIB is allowed before the routes of the start are known.
    SyncedEarly = "synced-early",
    /// A shutdown does not withdraw first.
    ShutdownKeepsRoutes = "shutdown-keeps-routes",
}
