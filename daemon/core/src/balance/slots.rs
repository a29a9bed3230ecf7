//! Numbers that are lent and come back.

use std::collections::BTreeSet;

/// Slots 1 to a limit. The lowest free one is lent, so that equal events make equal slots.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    free: BTreeSet<u16>,
}

impl Slots {
    /// Slots 1..`count`; slot 0 stands for "none".
    pub(super) fn new(count: u16) -> Self {
        Self { free: (1..count).collect() }
    }

    /// Lends the lowest free slot.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop_first()
    }

    /// Lends this slot; false when it is lent already or out of range.
    #[must_use]
    pub(super) fn claim(&mut self, slot: u16) -> bool {
        self.free.remove(&slot)
    }

    /// Takes a slot back.
    pub(super) fn give(&mut self, slot: u16) {
        let _was_lent = self.free.insert(slot);
    }

    /// How many are free.
    pub(super) fn left(&self) -> usize {
        self.free.len()
    }
}
