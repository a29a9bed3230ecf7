//! What a site reaches, as the other one hears it.

use std::collections::BTreeMap;

use super::{A, Pair};
use crate::site::SiteId;
use crate::site::state::message::Message;

/// Bytes of a message around its own.
const FRAME: usize = 200;

fn sites(list: &[(u8, bool)]) -> BTreeMap<SiteId, bool> {
    list.iter().map(|(site, reached)| (SiteId(*site), *reached)).collect()
}

impl Pair {
    pub(super) fn reach(&mut self, end: usize, list: &[(u8, bool)]) {
        let now = self.now();
        self.ends[end].handle_reach(sites(list), now);
        self.drain();
    }
}

#[test]
fn a_change_is_said_at_once_and_who_hears_it_is_not_told_of_itself() {
    let mut pair = Pair::ready();
    let begun = pair.ms;
    pair.reach(0, &[(2, true), (3, true), (4, false)]);
    pair.run(12);
    assert_eq!(pair.reached, [vec![], vec![(begun + 10, sites(&[(3, true), (4, false)]))]]);
    // The same again is none.
    pair.reach(0, &[(2, false), (3, true), (4, false)]);
    pair.run(100);
    assert_eq!(pair.reached[1].len(), 1);
    // What is not known any more is said once.
    pair.run(1000);
    pair.reach(0, &[]);
    pair.run(60_000);
    assert_eq!(pair.reached[1].last().map(|(_, sites)| sites.clone()), Some(BTreeMap::new()));
    let empty = pair.reached[1].iter().filter(|(_, sites)| sites.is_empty()).count();
    assert_eq!(empty, 1, "{:?}", pair.reached[1]);
}

#[test]
fn a_path_that_flaps_is_said_once_a_second_and_its_last_state_is_known() {
    let mut pair = Pair::ready();
    pair.reach(0, &[(3, true)]);
    pair.run(2000);
    let (before, from) = (pair.reached[1].len(), pair.ms);
    for turn in 0..99 {
        pair.reach(0, &[(3, turn % 2 == 1)]);
        pair.run(100);
    }
    let said = pair.reached[1].len() - before;
    let seconds = usize::try_from((pair.ms - from).div_ceil(1000)).expect("short");
    assert!((seconds / 2..=seconds + 1).contains(&said), "{said} in {seconds} s, of which one is a beat's");
    pair.run(1000);
    assert_eq!(pair.reached[1].last().map(|(_, last)| last.clone()), Some(sites(&[(3, false)])));
}

#[test]
fn it_is_said_with_each_beat_and_when_a_session_begins() {
    let mut pair = Pair::ready();
    pair.reach(0, &[(3, true)]);
    pair.run(60_000);
    assert_eq!(pair.reached[1].len(), 1 + 6, "{:?}", pair.reached[1]);
    pair.cut();
    let (before, cut) = (pair.reached[1].len(), pair.ms);
    pair.run(1000);
    let again = pair.reached[1].get(before).cloned();
    assert!(again.as_ref().is_some_and(|(at, last)| *at < cut + 500 && *last == sites(&[(3, true)])), "{again:?}");
}

#[test]
fn two_sites_have_nobody_to_speak_of() {
    let (mut one, mut other) = (Pair::ready(), Pair::ready());
    one.reach(0, &[(2, true)]);
    one.reach(1, &[(1, true)]);
    [&mut one, &mut other].into_iter().for_each(|pair| pair.run(60_000));
    assert_eq!((one.sent, one.reached), (other.sent, Default::default()));
}

#[test]
fn words_that_come_too_fast_are_dropped_and_counted() {
    let mut pair = Pair::ready();
    for turn in 0..60 {
        pair.give(1, &Message::Reach { sites: sites(&[(3, turn % 2 == 0)]) }.encode());
    }
    assert_eq!((pair.reached[1].len(), pair.ends[1].refused(A).surplus), (20, 40));
    pair.run(2000);
    pair.give(1, &Message::Reach { sites: sites(&[(3, true)]) }.encode());
    assert_eq!((pair.reached[1].len(), pair.closed.len()), (21, 0), "the session stands");
}

/// What they cost is taken from what records may cost, which wait.
#[test]
fn it_costs_no_more_than_records_alone() {
    let minute = |flaps: bool| {
        let mut pair = Pair::ready();
        // As the machine reckons: what stands around a message on the wire is most of it.
        let cost = |pair: &Pair| pair.sent[0] + FRAME * pair.messages[0];
        let before = cost(&pair);
        for turn in 0..6000u32 {
            // Each of a thousand services changes once a second, one after the other: more than the rate has room for.
            for id in (0..10).map(|n| (turn * 10 + n) % 1000) {
                let ready = 50 + 40 * u16::from(turn / 100 % 2 == 0);
                pair.write(0, super::key(id), Some(super::summary(ready, id)));
            }
            if flaps && turn % 10 == 0 {
                let all: Vec<(u8, bool)> = (3..=18).map(|site| (site, turn % 20 == 0)).collect();
                pair.reach(0, &all);
            }
            pair.run(10);
        }
        (cost(&pair) - before, pair.reached[1].len())
    };
    let ((without, none), (with, said)) = (minute(false), minute(true));
    assert!(none == 0 && said >= 50, "{said} words in a minute");
    // 1,500 bytes a second, and what the last message of each has to do with it.
    assert!(without > 80_000 && with <= without + 3 * FRAME, "{with} bytes, {without} without");
}
