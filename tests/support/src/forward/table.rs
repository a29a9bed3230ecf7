//! The lab's tables: rendezvous hashing per row, and the rule by which a row changes.

use bascule_ebpf_common::forward::{NO_NODE, Row};

/// Home of each of `rows` rows among `members` (id and weight): the highest hash of row and id wins, so that one member more or
/// less moves only the rows it gains or loses. Members of weight 0 get no row.
pub fn homes(rows: u16, members: &[(u16, u32)]) -> Vec<u16> {
    let best = |row: u16| {
        let tickets = members.iter().flat_map(|&(id, weight)| (0..weight).map(move |ticket| (id, ticket)));
        tickets.max_by_key(|&(id, ticket)| mix(u64::from(row) << 40 | u64::from(id) << 20 | u64::from(ticket)))
    };
    (0..rows).map(|row| best(row).map_or(NO_NODE, |(id, _)| id)).collect()
}

/// The finalizer of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The rows after a change of homes: a row whose home changes remembers the one it had and the one before, and when. `dead` members
/// are remembered by no row.
pub fn push(old: &[Row], homes: &[u16], dead: &[u16], now_minutes: u16) -> Vec<Row> {
    let alive = |id: u16| if dead.contains(&id) { NO_NODE } else { id };
    let row = |(index, &home): (usize, &u16)| match old.get(index) {
        Some(row) if row.home == home => Row { previous: alive(row.previous), older: alive(row.older), ..*row },
        Some(row) if row.home != NO_NODE => {
            let mut before: Vec<u16> = [row.home, row.previous, row.older].into_iter().map(alive).collect();
            before.retain(|&id| id != NO_NODE && id != home);
            let at = |n: usize| before.get(n).copied().unwrap_or(NO_NODE);
            Row { home, previous: at(0), older: at(1), stamp: now_minutes }
        }
        _ => Row { home, stamp: now_minutes, ..Row::default() },
    };
    homes.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::{homes, push};
    use bascule_ebpf_common::forward::Row;

    #[test]
    fn a_member_less_moves_its_own_rows_only() {
        let before = homes(1021, &[(1, 2), (2, 2), (3, 2)]);
        let after = homes(1021, &[(1, 2), (3, 2)]);
        assert!(before.iter().zip(&after).all(|(b, a)| b == a || *b == 2));
        let mine = before.iter().filter(|id| **id == 2).count();
        assert!((250..450).contains(&mine), "{mine} of 1021 rows");
    }

    #[test]
    fn a_row_remembers_two_homes_and_no_dead_one() {
        let row = |home, previous, older, stamp| Row { home, previous, older, stamp };
        let first = push(&[], &[1], &[], 7);
        assert_eq!(first, [row(1, 0, 0, 7)]);
        let second = push(&first, &[2], &[], 8);
        assert_eq!(second, [row(2, 1, 0, 8)]);
        let third = push(&second, &[3], &[], 9);
        assert_eq!(third, [row(3, 2, 1, 9)]);
        assert_eq!(push(&third, &[3], &[2], 10), [row(3, 0, 1, 9)]);
        assert_eq!(push(&third, &[1], &[3], 10), [row(1, 2, 0, 10)]);
    }
}
