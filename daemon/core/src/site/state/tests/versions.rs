//! Peers of other versions (F32).

use core::time::Duration;

use super::{A, B, Pair, config, key, summary};
use crate::site::SiteId;
use crate::site::state::State;
use crate::site::state::io::{Action, CloseReason, Report};
use crate::site::state::message::{Cursor, LATER, MORE, Message};
use crate::site::state::record::Record;
use crate::site::state::version::Speaks;
use crate::time::Instant;

const NEXT: Speaks = Speaks { oldest: 1, newest: Speaks::OURS.newest + 1 };
const LAST: Speaks = Speaks { oldest: 1, newest: Speaks::OURS.newest - 1 };

/// A that is connected with a peer that the test plays.
struct Alone(State, u64);

impl Alone {
    fn new() -> Self {
        let mut state = State::new(config(A, 0xa1, 1), Instant::ZERO);
        state.handle_connected(B, Instant::ZERO);
        Self(state, 0)
    }

    fn hears(&mut self, bytes: &[u8]) {
        self.1 += 1;
        self.0.handle_bytes(B, bytes, Instant::from_nanos(self.1 * 100_000_000));
    }

    /// Says Hello as a peer that speaks this, with more bytes behind it.
    fn hello(&mut self, speaks: Speaks, more: &[u8]) {
        let own = Cursor { incarnation: 1, instance: 0xb1, seq: 1 };
        let hello = Message::Hello { own, read: Cursor::default(), speaks };
        self.hears(&[&hello.encode()[..], more].concat());
    }

    /// Everything up to here, so that what follows is taken.
    fn begins(&mut self) {
        let (incarnation, head) = (1, 1);
        self.hears(&Message::Snapshot { incarnation, head, part: 0, last: true, records: Vec::new() }.encode());
    }

    fn actions(&mut self) -> Vec<Action> {
        core::iter::from_fn(|| self.0.poll_action()).collect()
    }

    fn closed(&mut self) -> Option<CloseReason> {
        self.actions().into_iter().find_map(|action| match action {
            Action::Close(_, reason) => Some(reason),
            _ => None,
        })
    }

    fn unknown(&self) -> u64 {
        self.0.refused(B).unknown
    }
}

/// A delta of three records, of which the middle one is what `spoil` makes of a good one.
fn delta(spoil: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let one = |id: u8, seq| Record { key: key(id.into()), seq, age: Duration::ZERO, body: Some(summary(id.into(), 1)) };
    let whole = |records| Message::Delta { incarnation: 1, head: 9, records }.encode();
    // Tag, incarnation, head, count: a byte each.
    let (first, last) = (whole(vec![one(1, 7)]).split_off(4), whole(vec![one(3, 9)]).split_off(4));
    let middle = spoil(whole(vec![one(2, 8)]).split_off(4));
    [&[2, 1, 9, 3], &first[..], &middle, &last].concat()
}

/// The middle record otherwise: an unknown key, an unknown body, more behind its body.
fn later() -> [(Vec<u8>, bool); 3] {
    // Key 2 and its number; distance and age; body 2 and four numbers.
    let key = |good: Vec<u8>| [&[LATER, 3, 7, 7, 7], &good[2..]].concat();
    let body = |good: Vec<u8>| [&good[..4], &[LATER + 5, 2, 0xff, 0xff]].concat();
    let more = |mut good: Vec<u8>| {
        good[4] |= MORE;
        [&good[..], &[1, 42]].concat()
    };
    [(delta(key), false), (delta(body), false), (delta(more), true)]
}

#[test]
fn what_a_newer_peer_adds_is_left_out_and_counted() {
    let mut alone = Alone::new();
    alone.hello(NEXT, b"more");
    alone.begins();
    assert_eq!((alone.0.speaks(B).0, alone.unknown()), (Some(Speaks::OURS.newest), 1), "bytes behind Hello");
    for (at, bytes) in (2..).zip([&[200u8, 1, 2, 3][..], &[255], &[&Message::Resync.encode()[..], b"tail"].concat()]) {
        alone.hears(bytes);
        assert_eq!(alone.unknown(), at, "{bytes:?}");
    }
    for (at, (bytes, kept)) in (5..).zip(later()) {
        let _before = alone.actions();
        alone.hears(&bytes);
        let taken = |action: &Action| match action {
            Action::Record { key, body: Some(_), .. } => Some(*key),
            _ => None,
        };
        let all: Vec<_> = alone.actions().iter().filter_map(taken).collect();
        let known: Vec<_> = alone.0.records(B, Instant::ZERO).map(|(key, ..)| key).collect();
        assert_eq!((alone.unknown(), known.contains(&key(2))), (at, kept), "{all:?}");
        assert!(known.contains(&key(1)) && known.contains(&key(3)), "{known:?}");
    }
    assert_eq!((alone.closed(), alone.0.refused(B).closed), (None, 0));
}

#[test]
fn the_same_from_a_peer_that_is_not_newer_ends_the_session() {
    let bare = [vec![200u8, 1, 2, 3], [&Message::Resync.encode()[..], b"tail"].concat()];
    for bytes in bare.into_iter().chain(later().map(|(bytes, _)| bytes)) {
        for speaks in [Speaks::OURS, LAST] {
            let mut alone = Alone::new();
            alone.hello(speaks, b"");
            alone.begins();
            assert_eq!(alone.closed(), None);
            alone.hears(&bytes);
            assert_eq!((alone.closed(), alone.unknown()), (Some(CloseReason::Malformed), 0), "{bytes:?}");
        }
    }
    let mut alone = Alone::new();
    alone.hello(Speaks::OURS, b"more");
    assert_eq!(alone.closed(), Some(CloseReason::Malformed));
    for speaks in [Speaks { oldest: 0, newest: 2 }, Speaks { oldest: 3, newest: 2 }] {
        let mut alone = Alone::new();
        alone.hello(speaks, b"");
        assert_eq!(alone.closed(), Some(CloseReason::Malformed), "{speaks}");
    }
}

#[test]
fn a_peer_that_speaks_no_version_of_ours_is_refused_with_both_ranges() {
    let mut alone = Alone::new();
    let theirs = Speaks { oldest: 9, newest: 12 };
    alone.hello(theirs, b"whatever it may add");
    let all = alone.actions();
    let said = Action::Report(Report::Versions { site: B, theirs, ours: Speaks::OURS });
    assert!(all.contains(&said) && all.contains(&Action::Close(B, CloseReason::Version)), "{all:?}");
    assert!(!all.iter().any(|a| matches!(a, Action::Report(Report::Session { up: true, .. }))), "{all:?}");
    assert_eq!(alone.0.speaks(B), (None, None));
}

#[test]
fn an_older_peer_gets_what_it_knows_and_records_pass_both_ways() {
    for newest in 1..Speaks::OURS.newest {
        let mut pair = Pair::new();
        let mut older = config(B, 0xb1, 1);
        older.speaks = Speaks { oldest: 1, newest };
        pair.ends[1] = State::new(older, Instant::ZERO);
        pair.reach(0, &[(3, true)]);
        pair.run(11_000);
        let builds = [A, B].map(|site| (newest >= 2).then(|| format!("build of {site}")));
        let spoken = [pair.ends[1].speaks(A), pair.ends[0].speaks(B)];
        assert_eq!(spoken, builds.each_ref().map(|build| (Some(newest), build.as_deref())));
        pair.write(0, key(1), Some(summary(5, 1)));
        pair.write(1, key(2), Some(summary(6, 1)));
        pair.reach(0, &[(3, false)]);
        pair.run(60_000);
        assert!(pair.known[1].contains_key(&key(1)) && pair.known[0].contains_key(&key(2)));
        assert_eq!(pair.reached[1], [], "nobody there knows what that is");
        assert_eq!(
            (pair.closed.len(), pair.ends[0].refused(B), pair.ends[1].refused(A)),
            (0, Default::default(), Default::default())
        );
        // The upgrade: it speaks what we speak, says what it runs, and hears what we reach.
        pair.restart(1, 0xb2, 2);
        pair.run(60_000);
        let ours = Some(Speaks::OURS.newest);
        assert_eq!(pair.ends[0].speaks(B), (ours, Some(format!("build of {B}").as_str())));
        assert_eq!(pair.ends[1].speaks(A), (ours, Some(format!("build of {A}").as_str())));
        assert!(pair.reached[1].iter().all(|(_, sites)| *sites == [(SiteId(3), false)].into()));
        assert_eq!((pair.closed.len(), pair.reached[1].is_empty()), (0, false));
    }
}
