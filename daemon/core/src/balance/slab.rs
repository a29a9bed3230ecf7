//! Room for tables in one array of rows.

use std::collections::{BTreeMap, BTreeSet};

/// An allocator: the smallest free stretch that fits, the first of several. Tables come in few sizes that mostly come back, so what is
/// freed by one is taken whole by the next, and neighbors that are free are one stretch again.
#[derive(Clone, Debug)]
pub struct Slab {
    /// Free stretches by first row.
    by_base: BTreeMap<u32, u32>,
    /// The same by length.
    by_length: BTreeSet<(u32, u32)>,
    rows: u32,
    used: u32,
}

impl Slab {
    /// A slab of `rows` rows, all free.
    pub fn new(rows: u32) -> Self {
        let mut slab = Self { by_base: BTreeMap::new(), by_length: BTreeSet::new(), rows, used: 0 };
        slab.add(0, rows);
        slab
    }

    /// How many rows there are.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// How many are taken.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// The longest table that fits.
    pub fn longest(&self) -> u32 {
        self.by_length.last().map_or(0, |(length, _)| *length)
    }

    /// Takes `count` rows; `None`, and nothing taken, when no stretch is long enough.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        let (length, base) = *self.by_length.range((count.max(1), 0)..).next()?;
        self.remove(base, length);
        self.add(base + count, length - count);
        self.used += count;
        Some(base)
    }

    /// Takes exactly these rows; false, and nothing taken, when not all are free.
    #[must_use]
    pub fn claim(&mut self, base: u32, count: u32) -> bool {
        let Some((&start, &length)) = self.by_base.range(..=base).next_back() else { return false };
        let end = start + length;
        let Some(until) = base.checked_add(count).filter(|until| *until <= end && count > 0) else { return false };
        self.remove(start, length);
        self.add(start, base - start);
        self.add(until, end - until);
        self.used += count;
        true
    }

    /// Gives rows back that were taken.
    pub fn free(&mut self, base: u32, count: u32) {
        let (mut start, mut end) = (base, base + count);
        if let Some((&before, &length)) = self.by_base.range(..base).next_back()
            && before + length == base
        {
            self.remove(before, length);
            start = before;
        }
        if let Some(&length) = self.by_base.get(&end) {
            self.remove(end, length);
            end += length;
        }
        self.add(start, end - start);
        self.used -= count;
    }

    fn add(&mut self, base: u32, length: u32) {
        if length > 0 {
            let _none = self.by_base.insert(base, length);
            let _new = self.by_length.insert((length, base));
        }
    }

    fn remove(&mut self, base: u32, length: u32) {
        let _length = self.by_base.remove(&base);
        let _there = self.by_length.remove(&(length, base));
    }
}
