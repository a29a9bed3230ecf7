//! Tables: from a hash to the ids that may hold the flow, newest first.

use bascule_ebpf_common::forward::{Row, Table, fast_range};

use crate::clock;
use crate::maps;

/// The ids of one row in their order, 16 bits each from the lowest: home, previous, older. Zero: none, too long ago, or named before.
///
/// A word and not an array: a loop may shift it by a number the verifier does not know.
#[derive(Clone, Copy)]
pub(crate) struct Ids(pub(crate) u64);

impl Ids {
    /// The id at `place` 0, 1 or 2.
    #[inline(always)]
    pub(crate) fn at(self, place: u32) -> u16 {
        (self.0 >> (16 * (place & 3))) as u16
    }
}

/// Where in a table a hash falls.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) table: Table,
    index: u32,
}

impl Place {
    /// The place of `hash32` in the table that `word` describes; the word is read once, so table and epoch belong together.
    #[inline(always)]
    pub(crate) fn new(word: *const u64, hash32: u32) -> Self {
        // SAFETY: a field of a map value; written by user space with one aligned store.
        let table = Table::from_word(unsafe { word.read_volatile() });
        Self { table, index: fast_range(hash32, u32::from(table.rows)) }
    }

    /// The row; without a table none.
    #[inline(always)]
    pub(crate) fn row(&self) -> Row {
        self.row_after(0)
    }

    /// The row `further` rows on, around the end of the table.
    #[inline(always)]
    pub(crate) fn row_after(&self, further: u32) -> Row {
        let rows = u32::from(self.table.rows);
        if rows == 0 {
            return Row::default();
        }
        self.at(if further == 0 { self.index } else { (self.index + further) % rows })
    }

    /// The row at the other end of the table, as far from there as this one is from here: the last one to leave a site when this is the first.
    #[inline(always)]
    pub(crate) fn opposite(&self) -> Row {
        let rows = u32::from(self.table.rows);
        if rows == 0 { Row::default() } else { self.at(rows - 1 - self.index) }
    }

    #[inline(always)]
    fn at(&self, index: u32) -> Row {
        match maps::ROWS.get_ptr(self.table.base.wrapping_add(index)) {
            // SAFETY: a valid map value; written by user space with one aligned store.
            Some(row) => Row::from_word(unsafe { row.read_volatile() }),
            None => Row::default(),
        }
    }
}

/// The ids of a row that count now. The clock is read only if there is more than a home.
#[inline(always)]
pub(crate) fn current(row: Row, drain_minutes: u16) -> Ids {
    let mut ids = u64::from(row.home);
    if row.previous | row.older != 0 && clock::boot_minutes().wrapping_sub(row.stamp) < drain_minutes {
        if row.previous != row.home {
            ids |= u64::from(row.previous) << 16;
        }
        if row.older != row.home && row.older != row.previous {
            ids |= u64::from(row.older) << 32;
        }
    }
    Ids(ids)
}
