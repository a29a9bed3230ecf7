//! One slot of a table.

use serde::Serialize;

/// "None" in a row.
pub const NOBODY: u16 = 0;

/// Who holds the flows that hash here now, and who held them before. Ids are nodes (first level) or endpoint slots (second level).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
pub struct Row {
    /// Holds the flows.
    pub home: u16,
    /// Held them before.
    pub previous: u16,
    /// Held them before that.
    pub older: u16,
    /// When home last changed: minutes of the driver's clock modulo 2^16.
    pub stamp: u16,
}
