//! One slot of a table, and what becomes of it when the table names another home.

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

/// What an id is worth at the time of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// A member of the new table: takes new flows.
    Member,
    /// Takes no new flows, but may hold old ones.
    Holder,
    /// Its flows are out of reach, perhaps for good.
    Dead,
    /// Not known any more.
    Gone,
}

/// What each of a few ids is worth: asked for every row of a table, by ids of which there are as many as nodes or endpoints here.
#[derive(Clone, Debug, Default)]
pub(super) struct Standings(Vec<(u16, Standing)>);

impl FromIterator<(u16, Standing)> for Standings {
    /// Of one id twice the last counts.
    fn from_iter<I: IntoIterator<Item = (u16, Standing)>>(of: I) -> Self {
        let mut all: Vec<_> = of.into_iter().collect();
        all.reverse();
        all.sort_by_key(|(id, _)| *id);
        all.dedup_by_key(|(id, _)| *id);
        Self(all)
    }
}

impl Standings {
    /// What `id` is worth; `None`: it is not among them.
    pub(super) fn of(&self, id: u16) -> Option<Standing> {
        let at = self.0.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        self.0.get(at).map(|(_, standing)| *standing)
    }
}

/// A change of a table, as each row sees it.
#[derive(Clone, Copy, Debug)]
pub struct Change<F> {
    /// Minutes of the driver's clock modulo 2^16.
    pub now: u16,
    /// How long previous homes are asked, in minutes.
    pub drain: u16,
    /// What each id is worth.
    pub standing: F,
}

impl Row {
    /// Is it so long since the last change that nobody asks previous homes?
    pub const fn expired(&self, now: u16, drain: u16) -> bool {
        now.wrapping_sub(self.stamp) >= drain
    }

    /// The ids that may hold flows, the likeliest first.
    pub fn holders(&self) -> impl Iterator<Item = u16> {
        [self.home, self.previous, self.older].into_iter().filter(|id| *id != NOBODY)
    }

    /// The row without the ids that are `wrong`.
    pub fn without(self, wrong: impl Fn(u16) -> bool) -> Self {
        let right = |id: u16| if id == NOBODY || wrong(id) { NOBODY } else { id };
        let mut history = [right(self.previous), right(self.older)].into_iter().filter(|id| *id != NOBODY);
        let (previous, older) = (history.next().unwrap_or(NOBODY), history.next().unwrap_or(NOBODY));
        Self { home: right(self.home), previous, older, ..self }
    }

    /// The row after a change of the table that wants `target` as home, and whether the change must wait.
    ///
    /// The old home becomes the previous one, that one the older one. A target that is in the row already only changes its place. When
    /// both slots are taken within the drain time, a dead holder makes room first. When none is dead: a row whose home still is a
    /// member keeps it (the change is voluntary and waits until the row has expired); one whose home is not pushes the oldest out.
    ///
    /// A dead holder keeps its slot while nobody needs it: whoever comes back within the drain time comes back to its flows, and
    /// packets skip it meanwhile.
    pub fn change(self, target: u16, by: &Change<impl Fn(u16) -> Standing>) -> (Self, bool) {
        let kept = self.settle(by);
        if kept.home == target || target == NOBODY {
            return (kept, false);
        }
        let standing = |id: u16| (by.standing)(id);
        let leaving = (kept.home != NOBODY && standing(kept.home) != Standing::Gone).then_some(kept.home);
        let before = [kept.previous, kept.older].into_iter().filter(|id| *id != NOBODY && *id != target);
        let mut history = leaving.into_iter().chain(before);
        let (first, second, third) = (history.next(), history.next(), history.next());
        let dead = |id: Option<u16>| id.is_some_and(|id| standing(id) == Standing::Dead);
        let (previous, older) = match third {
            None => (first, second),
            Some(_) if dead(third) => (first, second),
            Some(_) if dead(second) => (first, third),
            Some(_) if dead(first) => (second, third),
            Some(_) if standing(kept.home) == Standing::Member => return (kept, true),
            Some(_) => (first, second),
        };
        let slot = |id: Option<u16>| id.unwrap_or(NOBODY);
        (Self { home: target, previous: slot(previous), older: slot(older), stamp: by.now }, false)
    }

    /// The holder that this change pushes out although it lives and packets still asked it: its flows are lost to whoever comes by this row.
    pub fn forgets(&self, after: &Self, by: &Change<impl Fn(u16) -> Standing>) -> Option<u16> {
        let alive = |id: &u16| matches!((by.standing)(*id), Standing::Member | Standing::Holder);
        self.settle(by).holders().filter(alive).find(|id| after.holders().all(|kept| kept != *id))
    }

    /// Does it name the same ids, in the same places?
    pub(super) const fn names_as(&self, other: &Self) -> bool {
        self.home == other.home && self.previous == other.previous && self.older == other.older
    }

    /// The row without what nobody asks any more.
    fn settle(self, by: &Change<impl Fn(u16) -> Standing>) -> Self {
        if self.previous == NOBODY && self.older == NOBODY {
            return self;
        }
        if self.expired(by.now, by.drain) {
            return Self { previous: NOBODY, older: NOBODY, ..self };
        }
        let known = |id: u16| id != NOBODY && id != self.home && (by.standing)(id) != Standing::Gone;
        let mut history = [self.previous, self.older].into_iter().filter(|id| known(*id));
        let previous = history.next().unwrap_or(NOBODY);
        let older = history.find(|id| *id != previous).unwrap_or(NOBODY);
        Self { previous, older, ..self }
    }
}

/// `rows` spread over `size` rows, so that every hash finds in its new row whoever its old row named.
///
/// A hash `h` of 32 bits goes to row `h * m >> 32`: each new row stands for a range of hashes, which lies in one old row or reaches into
/// others. What several old rows named is gathered, homes first, as far as three slots go; such a row counts as changed `now`. Growing is
/// lossless for homes, as a smaller range reaches into two old rows at most.
pub fn resize(rows: &[Row], size: u16, now: u16) -> Vec<Row> {
    let merge = |j: u16| match parents(rows, size, j) {
        [] => Row::default(),
        [only] => *only,
        several => gather(several, now),
    };
    (0..size).map(merge).collect()
}

/// The rows that stood for the hashes of row `j` of `size` rows.
pub fn parents(rows: &[Row], size: u16, j: u16) -> &[Row] {
    let (old, new) = (u64::try_from(rows.len()).unwrap_or(0), u64::from(size));
    let first = |j: u64| (j << 32).div_ceil(new);
    let parent = |h: u64| usize::try_from((h * old) >> 32).unwrap_or(usize::MAX);
    rows.get(parent(first(u64::from(j)))..=parent(first(u64::from(j) + 1) - 1)).unwrap_or_default()
}

fn gather(rows: &[Row], now: u16) -> Row {
    let mut ids: Vec<u16> = Vec::new();
    for slot in [|r: &Row| r.home, |r: &Row| r.previous, |r: &Row| r.older] {
        for id in rows.iter().map(slot) {
            if id != NOBODY && !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    let slot = |i: usize| ids.get(i).copied().unwrap_or(NOBODY);
    let latest = rows.iter().map(|r| r.stamp).min_by_key(|s| now.wrapping_sub(*s)).unwrap_or(now);
    let stamp = if ids.len() > 1 { now } else { latest };
    Row { home: slot(0), previous: slot(1), older: slot(2), stamp }
}
