//! What becomes of a row, and of a table that grows.

use proptest::prelude::*;

use super::super::io::Table;
use super::super::level::Level;
use super::super::maglev::{self, SIZES};
use super::super::rows::{Change, Row, Standing, parents, resize};
use super::super::sites::Split;
use super::super::{drain_minutes, minute};
use crate::time::Instant;

use Standing::{Dead, Gone, Holder, Member};

/// The row after a change to `target` at minute `now`, drain 10, and whether it waits. `who` tells the standing of ids.
fn change(row: [u16; 4], target: u16, now: u16, who: &[(u16, Standing)]) -> ([u16; 4], bool) {
    let standing = |id: u16| who.iter().find(|(i, _)| *i == id).map_or(Gone, |(_, s)| *s);
    let [home, previous, older, stamp] = row;
    let (row, waits) = Row { home, previous, older, stamp }.change(target, &Change { now, drain: 10, standing });
    ([row.home, row.previous, row.older, row.stamp], waits)
}

const ALL: [(u16, Standing); 4] = [(1, Member), (2, Member), (3, Member), (4, Member)];

#[test]
fn homes_are_pushed_down() {
    assert_eq!(change([0, 0, 0, 0], 1, 100, &ALL), ([1, 0, 0, 100], false), "nobody was home");
    assert_eq!(change([1, 0, 0, 100], 2, 101, &ALL), ([2, 1, 0, 101], false));
    assert_eq!(change([2, 1, 0, 101], 3, 102, &ALL), ([3, 2, 1, 102], false));
    assert_eq!(change([3, 2, 1, 102], 3, 103, &ALL), ([3, 2, 1, 102], false), "no change, no stamp");
}

#[test]
fn a_voluntary_third_change_waits_for_the_drain_time() {
    assert_eq!(change([3, 2, 1, 102], 4, 111, &ALL), ([3, 2, 1, 102], true));
    assert_eq!(change([3, 2, 1, 102], 4, 112, &ALL), ([4, 3, 0, 112], false), "the row has expired");
}

#[test]
fn a_forced_third_change_pushes_the_oldest_out() {
    let who = [(1, Member), (2, Member), (3, Holder), (4, Member)];
    assert_eq!(change([3, 2, 1, 102], 4, 103, &who), ([4, 3, 2, 103], false));
}

/// Rows that forgot somebody when a table of two kinds of rows in turn, last changed at minute `stamp`, grew at minute 100.
fn forgotten_by_growth(stamp: u16) -> (u64, usize) {
    let kinds = [Row { home: 1, previous: 2, older: 3, stamp }, Row { home: 4, previous: 0, older: 0, stamp }];
    let rows: Vec<Row> = kinds.into_iter().cycle().take(61).collect();
    let mut level = Level::recovered(Table { base: 0, rows: 61, epoch: 1 }, &rows, |_| true);
    let members = (1..=4).map(|id| maglev::Member { name: format!("n{id}"), id, weight: 1 }).collect();
    let now = Instant::from_nanos(100 * 60_000_000_000);
    let built = level.build(7, members, SIZES[1], (10, &Split::none()), |_| Member, now).built.expect("another size");
    let two = (0..SIZES[1]).filter(|j| parents(&rows, SIZES[1], *j).len() == 2).count();
    (built.forgot, two)
}

#[test]
fn growth_counts_the_rows_that_have_no_room_for_all_that_two_named() {
    let (forgot, two) = forgotten_by_growth(95);
    assert!(two > 50, "{two} rows reach into two");
    assert_eq!(usize::try_from(forgot).unwrap(), two, "3 falls out wherever 1, 2, 3 and 4 meet");
    assert_eq!(forgotten_by_growth(80).0, 0, "nobody asks the former homes any more");
}

/// What a change from the row to `target` at minute `now` pushes out.
fn forgets(row: [u16; 4], target: u16, now: u16, who: &[(u16, Standing)]) -> Option<u16> {
    let standing = |id: u16| who.iter().find(|(i, _)| *i == id).map_or(Gone, |(_, s)| *s);
    let [home, previous, older, stamp] = row;
    let (row, by) = (Row { home, previous, older, stamp }, Change { now, drain: 10, standing });
    row.forgets(&row.change(target, &by).0, &by)
}

#[test]
fn only_a_living_holder_that_was_still_asked_is_forgotten() {
    let forced = [(1, Member), (2, Member), (3, Holder), (4, Member)];
    assert_eq!(forgets([3, 2, 1, 102], 4, 103, &forced), Some(1));
    assert_eq!(forgets([3, 2, 1, 102], 4, 103, &ALL), None, "a voluntary change waits");
    assert_eq!(forgets([3, 2, 1, 102], 4, 112, &ALL), None, "the drain time is over");
    assert_eq!(forgets([3, 2, 1, 102], 1, 103, &forced), None, "a return keeps all");
    assert_eq!(forgets([2, 1, 0, 102], 4, 103, &forced), None, "there is room");
    let oldest_dead = [(1, Dead), (2, Member), (3, Holder), (4, Member)];
    assert_eq!(forgets([3, 2, 1, 102], 4, 103, &oldest_dead), None, "the dead has nothing to lose");
    let home_dead = [(1, Member), (2, Member), (3, Dead), (4, Member)];
    assert_eq!(forgets([3, 2, 1, 102], 4, 103, &home_dead), None, "the living keep their slots");
}

#[test]
fn a_return_within_the_row_loses_nobody_and_never_waits() {
    assert_eq!(change([3, 2, 1, 102], 2, 103, &ALL), ([2, 3, 1, 103], false));
    assert_eq!(change([3, 2, 1, 102], 1, 103, &ALL), ([1, 3, 2, 103], false));
}

#[test]
fn dead_holders_make_room_but_only_when_it_is_needed() {
    let who = [(1, Member), (2, Dead), (3, Member), (4, Member)];
    assert_eq!(change([3, 2, 1, 102], 4, 103, &who), ([4, 3, 1, 103], false), "voluntary, yet 2 makes room");
    assert_eq!(change([2, 0, 0, 102], 4, 103, &who), ([4, 2, 0, 103], false), "2 may come back to its flows");
    let home_dead = [(1, Member), (2, Member), (3, Dead), (4, Member)];
    assert_eq!(change([3, 2, 1, 102], 4, 103, &home_dead), ([4, 2, 1, 103], false), "the living keep their slots");
}

#[test]
fn strangers_and_the_expired_are_forgotten() {
    let who = [(1, Member), (3, Member)];
    assert_eq!(change([1, 2, 3, 102], 1, 103, &who), ([1, 3, 0, 102], false));
    assert_eq!(change([2, 1, 0, 102], 3, 103, &who), ([3, 1, 0, 103], false), "home is not known any more");
    assert_eq!(change([1, 3, 2, 102], 1, 112, &ALL), ([1, 0, 0, 102], false));
    assert_eq!(
        change([1, 3, 2, 65_530], 1, 3, &ALL),
        ([1, 3, 2, 65_530], false),
        "9 minutes over the end of the count"
    );
    assert_eq!(change([1, 3, 2, 65_530], 1, 4, &ALL), ([1, 0, 0, 65_530], false));
}

#[test]
fn minutes_never_cut_the_drain_time_short() {
    let s = |s: u64| Instant::from_nanos(s * 1_000_000_000);
    let drain = drain_minutes(core::time::Duration::from_secs(300));
    assert_eq!(drain, 6);
    let row = Row { home: 1, previous: 2, older: 0, stamp: minute(s(59)) };
    assert!(!row.expired(minute(s(59 + 300)), drain), "stamped at the end of a minute");
    assert!(row.expired(minute(s(60 + 360)), drain));
    assert_eq!(drain_minutes(core::time::Duration::from_secs(1)), 2);
}

/// The row that a hash meets.
fn meet(rows: &[Row], hash: u32) -> Row {
    rows[usize::try_from((u64::from(hash) * u64::try_from(rows.len()).unwrap()) >> 32).unwrap()]
}

fn row() -> impl Strategy<Value = Row> {
    (1_u16..9, 0_u16..9, 0_u16..9, 90_u16..100).prop_map(|(home, p, o, stamp)| {
        let previous = if p == home { 0 } else { p };
        let older = if o == home || o == previous || previous == 0 { 0 } else { o };
        Row { home, previous, older, stamp }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After any two changes within the drain time, whatever their cause, everybody who was home is still asked, unless dead or gone.
    #[test]
    fn two_changes_lose_nobody(
        first in 1_u16..6, targets in proptest::collection::vec(1_u16..6, 2),
        standings in proptest::collection::vec(prop_oneof![Just(Member), Just(Holder), Just(Dead)], 6),
    ) {
        let mut row = Row { home: first, previous: 0, older: 0, stamp: 100 };
        let mut homes = vec![first];
        for (i, target) in targets.into_iter().enumerate() {
            let by = Change { now: 101 + u16::try_from(i).unwrap(), drain: 10, standing: |id| standings[usize::from(id)] };
            let (next, waits) = row.change(target, &by);
            prop_assert!(!waits, "room was left");
            row = next;
            homes.push(row.home);
        }
        for home in homes {
            prop_assert!(row.holders().any(|h| h == home), "{home} is lost: {row:?}");
        }
    }

    /// The living are never dropped for the dead, nobody stands in a row twice, and history has no holes.
    #[test]
    fn a_row_is_always_in_order(
        start in row(), steps in proptest::collection::vec((1_u16..9, 0_u16..4), 1..20),
        standings in proptest::collection::vec(prop_oneof![Just(Member), Just(Holder), Just(Dead), Just(Gone)], 9),
    ) {
        let (mut row, mut now) = (start, 100);
        for (target, minutes) in steps {
            now += minutes;
            let by = Change { now, drain: 10, standing: |id| standings[usize::from(id)] };
            let (next, waits) = row.change(target, &by);
            let ids: Vec<u16> = next.holders().collect();
            prop_assert!(ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id)), "{next:?}");
            prop_assert!(next.previous != 0 || next.older == 0);
            prop_assert!(waits || next.home == target);
            if waits {
                prop_assert_eq!(next.home, row.home);
                prop_assert!([next.home, next.previous, next.older].iter().all(|id| !matches!(standings[usize::from(*id)], Gone)));
                prop_assert!([next.previous, next.older].iter().all(|id| standings[usize::from(*id)] != Dead));
            }
            row = next;
        }
    }

    /// A table that grows: every hash finds its home, and where its new row lies within an old one, all that was known.
    #[test]
    fn growth_loses_no_home(rows in proptest::collection::vec(row(), 61), to in 1_usize..4, hashes in proptest::collection::vec(any::<u32>(), 400)) {
        let grown = resize(&rows, SIZES[to], 100);
        prop_assert_eq!(grown.len(), usize::from(SIZES[to]));
        let mut whole = 0;
        for hash in &hashes {
            let (old, new) = (meet(&rows, *hash), meet(&grown, *hash));
            prop_assert!(new.holders().any(|h| h == old.home), "{old:?} {new:?}");
            whole += usize::from(old == new);
            let j = u16::try_from((u64::from(*hash) * u64::from(SIZES[to])) >> 32).unwrap();
            prop_assert!(parents(&rows, SIZES[to], j).contains(&old));
        }
        // 61 of the new rows at most reach into two old ones.
        prop_assert!(whole >= hashes.len() / 4, "{whole}");
    }
}
