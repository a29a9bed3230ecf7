//! The invariants, as what is said when one breaks.

use bascule_bgp::io::Conn;
use bascule_bgp::wire::Family;

/// A broken invariant. Nodes are 0 and 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at_ms} ms, node {node}: {what}")]
pub struct Violation {
    /// Virtual time, milliseconds.
    pub at_ms: u64,
    /// Which node.
    pub node: usize,
    /// What broke.
    pub what: Broken,
}

/// What broke.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// RFC 4271 section 6.8.
    #[error("connections {0:?} and {1:?} are both established")]
    TwoEstablished(Conn, Conn),
    /// More than once per family and session.
    #[error("End-of-RIB of {family:?} {times} times on {conn:?}")]
    EndOfRib {
        /// Which.
        family: Family,
        /// How often.
        times: u32,
        /// On which.
        conn: Conn,
    },
    /// It says that the start is known.
    #[error("End-of-RIB on {0:?} before the routes of the start were known")]
    EndOfRibEarly(Conn),
    /// A NOTIFICATION is the last message.
    #[error("something is written on {0:?} after its NOTIFICATION or its end")]
    AfterTheEnd(Conn),
    /// One write at a time.
    #[error("a write on {0:?} while another is in flight")]
    WriteInFlight(Conn),
    /// We encode what we cannot decode.
    #[error("{conn:?} carries what does not decode: {error}")]
    Undecodable {
        /// On which.
        conn: Conn,
        /// Why.
        error: String,
    },
    /// The socket takes bytes and the neighbor is not told.
    #[error("{conn:?} could be written, and the neighbor was told {told} while {wanted} is wanted")]
    Untold {
        /// On which.
        conn: Conn,
        /// Last told.
        told: String,
        /// Wanted.
        wanted: String,
    },
    /// Our own stall is not the neighbor's silence.
    #[error("hold timer on {conn:?} {silence_ms} ms after bytes arrived, hold time {hold_ms} ms")]
    HoldTooEarly {
        /// On which.
        conn: Conn,
        /// Since the last arrival in the kernel.
        silence_ms: u64,
        /// Agreed.
        hold_ms: u64,
    },
    /// The session did not change.
    #[error("an unrelated configuration ended {0:?}")]
    Reset(Conn),
    /// RFC 4724: the neighbor would drop the routes.
    #[error("a planned restart with graceful restart agreed said something on {0:?}")]
    RestartSpoke(Conn),
    /// RFC 4724 section 3.
    #[error("the first OPEN after a planned restart lacks the R bit")]
    RestartUnsaid,
    /// Packets go to a node that is gone.
    #[error("the session on {0:?} ends for good with {1} routes not withdrawn")]
    ShutdownWithRoutes(Conn, usize),
    /// A stop has an end.
    #[error("a shutdown took longer than its drain and flush")]
    ShutdownSlow,
    /// A turn must make progress.
    #[error("a timer fires again and again at one moment")]
    BusyLoop,
    /// For a connection that does not exist.
    #[error("an action for {0:?}, which is not open")]
    NoSuchConnection(Conn),
    /// After the quiet time.
    #[error("no session although nothing is wrong any more; {0}")]
    NoSession(String),
    /// After the quiet time.
    #[error("connections left open after the quiet time: {0}")]
    Leak(usize),
    /// After the quiet time.
    #[error("a session ended although nothing was wrong")]
    Flap,
    /// After the quiet time.
    #[error("the neighbor holds {held} while {wanted} is wanted")]
    Rib {
        /// By what it received.
        held: String,
        /// Wanted.
        wanted: String,
    },
    /// Without neighbors.
    #[error("a timer is armed although there is no neighbor")]
    TimerLeak,
}
