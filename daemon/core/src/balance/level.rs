//! One table of a service: what it holds, what it should hold, and the way from one to the other.

use core::time::Duration;
use std::sync::Arc;

use super::io::Table;
use super::maglev::{self, Member};
use super::rows::{Change, NOBODY, Row, Standing, parents, resize};
use super::sites::Split;
use crate::time::Instant;

/// Unit of stamps.
const MINUTE_NS: u64 = 60_000_000_000;

/// Minutes of the driver's clock modulo 2^16.
pub fn minute(now: Instant) -> u16 {
    u16::try_from((now.as_nanos() / MINUTE_NS) & 0xffff).unwrap_or_default()
}

/// Drain time in minutes as rows count it. A stamp is cut down to a minute and so is the present, which together may shorten an age
/// by almost one: one more is waited for.
pub fn drain_minutes(drain: Duration) -> u16 {
    u16::try_from(drain.as_secs().div_ceil(60) + 1).unwrap_or(u16::MAX / 2).min(u16::MAX / 2)
}

/// A table and what it was computed from.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub(super) table: Table,
    pub(super) rows: Arc<[Row]>,
    /// Members of the last computation, and its result for as many rows as there are; none while the rows in force say the same.
    members: Vec<Member>,
    filled: Vec<u16>,
    /// What the rows shall say in the end, where other sites are homes too; none: what was filled.
    targets: Option<Vec<u16>>,
    /// The slab holds other rows than `rows`: they are to be written.
    stale: bool,
}

/// A table that should replace the one in force.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) rows: Arc<[Row]>,
    /// Rows with another home.
    pub(super) moved: u64,
    /// Rows that forgot a holder which packets still asked: see [`Row::forgets`].
    pub(super) forgot: u64,
}

/// What a build found.
#[derive(Debug)]
pub(super) struct Outcome {
    /// `None`: the rows stay as they are.
    pub(super) built: Option<Built>,
    /// When to look again: a row that waits has expired, or the last one has and can forget its history.
    pub(super) again: Option<Instant>,
}

impl Level {
    /// A table found in the slab. Rows that name an id which is not `known` forget it: it may soon be somebody else's.
    pub(super) fn recovered(table: Table, rows: &[Row], known: impl Fn(u16) -> bool) -> Self {
        let cleaned: Arc<[Row]> = rows.iter().map(|row| row.without(|id| !known(id))).collect();
        Self { table, stale: *cleaned != *rows, rows: cleaned, ..Self::default() }
    }

    /// Nothing is in force. Takes it that `others` served until now; what they may hold is looked for from the first table on.
    pub(super) fn suppose(&mut self, seed: u64, others: Vec<Member>, size: u16, now: Instant) {
        if others.iter().all(|m| m.weight == 0) {
            return;
        }
        let stamp = minute(now);
        let homes = maglev::fill(seed, &others, size).into_iter();
        self.rows = homes.map(|home| Row { home, stamp, ..Row::default() }).collect();
        self.stale = true;
    }

    /// The rows in force are these, at this place.
    pub(super) fn install(&mut self, table: Table, rows: Arc<[Row]>) {
        (self.table, self.rows, self.stale) = (table, rows, false);
        self.forget_filled();
    }

    /// Of thousands of tables nearly all are as they were computed.
    fn forget_filled(&mut self) {
        if self.targets.is_none() && self.rows.iter().map(|row| row.home).eq(self.filled.iter().copied()) {
            self.filled = Vec::new();
        }
    }

    /// No table any more; the next one goes on counting.
    pub(super) fn dropped(&self) -> Self {
        Self { table: Table { base: 0, rows: 0, epoch: self.table.epoch.wrapping_add(1) }, ..Self::default() }
    }

    /// Compares the table with what `members` and the sites ask for. Tables never shrink: see [`resize`]. Without members with weight the homes
    /// stay where no other site is the home.
    pub(super) fn build(
        &mut self,
        seed: u64,
        members: Vec<Member>,
        size: u16,
        (drain, split): (u16, &Split<'_>),
        standing: impl Fn(u16) -> Standing,
        now: Instant,
    ) -> Outcome {
        let size = size.max(self.table.rows);
        let some = members.iter().any(|m| m.weight > 0);
        if self.rows.is_empty() && !some && !split.has_others() {
            return Outcome { built: None, again: None };
        }
        if self.filled.is_empty() && self.members.iter().any(|m| m.weight > 0) {
            self.filled = self.rows.iter().map(|row| row.home).collect();
        }
        if members != self.members || self.filled.len() != usize::from(size) {
            self.filled = if some { maglev::fill(seed, &members, size) } else { vec![NOBODY; usize::from(size)] };
            self.members = members;
        }
        self.targets = split.targets(&self.filled, &self.rows);
        let targets = self.targets.as_deref().unwrap_or(&self.filled);
        let change = Change { now: minute(now), drain, standing };
        let resized = (self.rows.len() != usize::from(size)).then(|| resize(&self.rows, size, change.now));
        let before = resized.as_deref().unwrap_or(&self.rows);
        let (mut moved, mut forgot, mut differs) = (0, 0, self.stale || resized.is_some());
        // Ages at which something is to do, relative to now.
        let (mut waits, mut forgets): (Option<u16>, Option<u16>) = (None, None);
        let old = &self.rows;
        let grows = resized.is_some();
        let one = |(j, (row, target)): (u16, (&Row, &u16))| {
            let (after, waiting) = row.change(*target, &change);
            let left = drain.saturating_sub(change.now.wrapping_sub(after.stamp));
            if waiting {
                waits = Some(waits.map_or(left, |w| w.min(left)));
            }
            if after.previous != NOBODY || after.older != NOBODY {
                forgets = Some(forgets.map_or(left, |f| f.max(left)));
            }
            moved += u64::from(after.home != row.home);
            // A larger table gathers what several rows named, of which a row has room for three.
            let was = if grows { parents(old, size, j) } else { core::slice::from_ref(row) };
            let same = !grows && row.names_as(&after);
            forgot += u64::from(!same && was.iter().any(|row| row.forgets(&after, &change).is_some()));
            differs |= after != *row;
            after
        };
        let rows: Arc<[Row]> = (0..).zip(before.iter().zip(targets)).map(one).collect();
        let minutes_on = |minutes: u16| {
            let minute = now.as_nanos() / MINUTE_NS + u64::from(minutes.max(1));
            Instant::from_nanos(minute * MINUTE_NS)
        };
        let again = [waits, forgets].into_iter().flatten().min().map(minutes_on);
        if !differs {
            self.forget_filled();
        }
        Outcome { built: differs.then_some(Built { rows, moved, forgot }), again }
    }

    /// Does a row name this id?
    pub(super) fn names(&self, id: u16) -> bool {
        self.rows.iter().any(|r| r.holders().any(|h| h == id))
    }

    /// Rows that would have another home if none waited.
    pub(super) fn waiting(&self) -> u64 {
        let differs = |(row, target): (&Row, &u16)| u64::from(*target != NOBODY && row.home != *target);
        let targets = self.targets.as_deref().unwrap_or(&self.filled);
        self.rows.iter().zip(targets).map(differs).sum()
    }
}
