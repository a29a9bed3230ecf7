//! One slot of a table: who holds the flows that hash here now, and who held them before.

/// Largest node id. Ids start at 1.
pub const MAX_NODE_ID: u16 = 0x0fff;
/// "None" in a row and in a hop list.
pub const NO_NODE: u16 = 0;
/// First pseudo-node that stands for a site: `SITE_BASE | site`.
pub const SITE_BASE: u16 = 0x2000;

/// Does the id stand for a site?
#[inline(always)]
#[must_use]
pub const fn is_site(id: u16) -> bool {
    id & 0xff00 == SITE_BASE
}

/// The site that a pseudo-node stands for.
#[inline(always)]
#[must_use]
pub const fn site_of(id: u16) -> u8 {
    id as u8
}

/// A row in memory: one aligned 64-bit word, so that a reader sees an old row or a new one and nothing in between.
///
/// First level: ids are nodes (or sites). Second level: ids are slots of the endpoint array of this node. Bits 0-15 home, 16-31 the
/// one before, 32-47 the one before that, 48-63 the time of the last change of home in minutes of `CLOCK_BOOTTIME` modulo 2^16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Row {
    /// Holds the flows.
    pub home: u16,
    /// Held them before; [`NO_NODE`]: nobody, or long ago.
    pub previous: u16,
    /// Held them before that.
    pub older: u16,
    /// When home last changed, in minutes.
    pub stamp: u16,
}

impl Row {
    /// The row as it lies in the map.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.home as u64 | (self.previous as u64) << 16 | (self.older as u64) << 32 | (self.stamp as u64) << 48
    }

    /// A row from the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            home: word as u16,
            previous: (word >> 16) as u16,
            older: (word >> 32) as u16,
            stamp: (word >> 48) as u16,
        }
    }
}
