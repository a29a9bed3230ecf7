//! Leaving and coming back without losing packets: the marker of a planned restart and the bits that follow from it (RFC 4724), the
//! gate before End-of-RIB, and the order of a shutdown (RFC 8326, RFC 8538, RFC 9003).
//!
//! Decides when; the session does it. Nothing here knows a message's bytes, a socket or a file.

mod gate;
mod leave;
mod marker;

pub use gate::EndOfRibGate;
pub use leave::{Ending, FLUSH_CAP, Leave, Step};
pub use marker::{FormerRun, MarkerError, RestartMarker};
