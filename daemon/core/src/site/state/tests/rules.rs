//! One rule, one test.

use core::time::Duration;

use super::{A, B, Pair, config, key, summary};
use crate::site::state::State;
use crate::site::state::io::{CloseReason, Pass, Report};
use crate::site::state::message::{Cursor, MAX, Message};
use crate::site::state::record::{Body, Key, Record};
use crate::site::state::version::Speaks;
use crate::site::summary::ServiceId;
use crate::time::Instant;

#[test]
fn a_zero_crossing_goes_at_once_a_step_in_a_quarter_and_a_little_in_half_a_minute() {
    let mut pair = Pair::ready();
    pair.write(0, key(1), Some(summary(100, 500)));
    pair.run(1000);
    assert_eq!(pair.known[1].get(&key(1)).map(|k| k.0), Some(summary(100, 500)));
    let took = |pair: &mut Pair, body| {
        let from = pair.ms;
        pair.write(0, key(1), Some(body));
        while pair.known[1].get(&key(1)).map(|k| k.0) != Some(body) {
            pair.run(1);
            assert!(pair.ms < from + 60_000, "{body:?} never came");
        }
        pair.ms - from
    };
    let out = took(&mut pair, summary(0, 500));
    let back = took(&mut pair, summary(100, 500));
    let step = took(&mut pair, summary(90, 500));
    let little = took(&mut pair, summary(89, 510));
    assert!(out <= 12 && back <= 62, "{out} {back}: RTT/2 + 150 ms is the goal");
    assert!((250..=600).contains(&step) && (29_000..=32_000).contains(&little), "{step} {little}");
}

#[test]
fn what_is_due_goes_in_its_turn_however_often_something_else_is_written() {
    let mut pair = Pair::ready();
    pair.write(0, key(1), Some(summary(100, 500)));
    pair.write(0, key(2), Some(summary(100, 500)));
    pair.run(1000);
    pair.write(0, key(1), Some(summary(90, 500)));
    for turn in 0..60 {
        pair.write(0, key(2), Some(summary(50 + 10 * (turn % 2), 500)));
        pair.run(10);
    }
    assert_eq!(pair.known[1].get(&key(1)).map(|k| k.0), Some(summary(90, 500)));
}

#[test]
fn a_session_that_ends_is_looked_for_again_at_once() {
    let mut pair = Pair::ready();
    pair.up = false;
    pair.cut();
    // Another relay of the site begins to lead a little later.
    pair.run(300);
    pair.up = true;
    pair.run(250);
    assert!(pair.connected, "a quarter of a second from one call to the next, at most");
}

#[test]
fn a_reader_that_was_away_gets_what_it_lacks_and_no_more() {
    let mut pair = Pair::ready();
    (0..1000).for_each(|id| pair.write(0, key(id), Some(summary(50, id))));
    pair.run(60_000);
    assert_eq!(pair.known[1].len(), 1000);
    pair.up = false;
    pair.cut();
    pair.write(0, key(3), None);
    pair.write(0, key(4), Some(summary(10, 4)));
    pair.run(120_000);
    assert_eq!(pair.known[1].len(), 1000, "what was known stays");
    let before = pair.sent[0];
    pair.up = true;
    pair.run(61_000);
    assert_eq!((pair.known[1].get(&key(3)), pair.known[1].get(&key(4)).map(|k| k.0)), (None, Some(summary(10, 4))));
    assert!(pair.sent[0] - before < 500, "{} bytes", pair.sent[0] - before);
    // Away for longer than deletions are remembered: everything, and what is gone is gone.
    pair.up = false;
    pair.cut();
    pair.write(0, key(5), None);
    pair.run(620_000);
    pair.up = true;
    pair.run(70_000);
    assert_eq!(pair.known[1].len(), 998);
    assert!(pair.sent[0] - before > 10_000);
}

#[test]
fn ages_travel_and_a_beat_renews_them() {
    let mut pair = Pair::ready();
    pair.write(0, key(1), Some(summary(50, 1)));
    pair.run(1000);
    pair.up = false;
    pair.cut();
    pair.run(100_000);
    let age = |pair: &Pair| pair.ends[1].records(A, pair.now()).map(|(_, _, age)| age.as_secs()).max();
    assert_eq!(age(&pair), Some(100));
    // A reader that never had it gets it with its age.
    pair.restart(1, 0xb2, 2);
    pair.up = true;
    pair.run(5000);
    let (_, came) = pair.known[1][&key(1)];
    assert!((100..=106).contains(&came.as_secs()), "{came:?}");
    // Which is how long ago it was written: it is all there is, so it is true now.
    assert!(age(&pair).is_some_and(|age| age <= 5), "{:?}", age(&pair));
    pair.run(20_000);
    assert!(age(&pair).is_some_and(|age| age <= 10), "{:?}", age(&pair));
}

#[test]
fn a_wiped_disk_does_not_bring_back_old_times() {
    let mut pair = Pair::ready();
    pair.write(0, key(1), Some(summary(50, 1)));
    pair.write(0, key(2), Some(summary(50, 2)));
    pair.run(1000);
    let before = pair.ends[1].cursor(A);
    pair.restart(0, 0xa2, 1);
    pair.write(0, key(1), Some(summary(60, 1)));
    pair.run(30_000);
    let after = pair.ends[1].cursor(A);
    assert!(after.incarnation > before.incarnation, "{before:?} {after:?}");
    assert_eq!(pair.known[1].iter().map(|(k, v)| (*k, v.0)).collect::<Vec<_>>(), [(key(1), summary(60, 1))]);
    // A message of the old process, kept by the network.
    let old = Message::Delta {
        incarnation: before.incarnation,
        head: 99,
        records: vec![Record { key: key(1), seq: 99, age: Duration::ZERO, body: Some(summary(0, 0)) }],
    };
    pair.give(1, &old.encode());
    assert_eq!(pair.known[1][&key(1)].0, summary(60, 1));
    assert_eq!(pair.ends[1].refused(A).stale, 1);
}

#[test]
fn a_foreign_vip_is_refused_and_reported() {
    let mut pair = Pair::ready();
    let vip = |text: &str| Key::Vip(text.parse().expect("an address"));
    let body = Some(Body::Vip { service: ServiceId(1), term: 0 });
    pair.write(0, vip("10.1.0.9"), body);
    pair.write(0, vip("10.2.0.9"), body);
    pair.run(30_000);
    assert_eq!(pair.known[1].keys().copied().collect::<Vec<_>>(), [vip("10.1.0.9")]);
    let foreign = Report::ForeignVip { site: A, vip: "10.2.0.9".parse().expect("an address") };
    assert_eq!(pair.reports.iter().filter(|(_, r)| *r == foreign).count(), 1, "once, and no resync for it");
    assert_eq!(pair.ends[1].refused(A).foreign, 1);
}

#[test]
fn who_may_not_know_is_not_told_and_who_does_not_want_does_not_see() {
    let mut pair = Pair::new();
    let (mut a, mut b) = (config(A, 0xa1, 1), config(B, 0xb1, 1));
    a.peers.get_mut(&B).expect("a peer").export = Pass::Only([ServiceId(1), ServiceId(2)].into());
    b.peers.get_mut(&A).expect("a peer").import = Pass::Only([ServiceId(2), ServiceId(3)].into());
    pair.ends = [State::new(a, Instant::ZERO), State::new(b, Instant::ZERO)];
    pair.run(11_000);
    (1..=3).for_each(|id| pair.write(0, key(id), Some(summary(50, 1))));
    pair.run(100_000);
    assert_eq!(pair.known[1].keys().copied().collect::<Vec<_>>(), [key(2)]);
    assert_eq!(pair.ends[1].refused(A).unwanted, 1, "service 3 never left, service 1 came once");
}

#[test]
fn a_digest_that_differs_is_mended() {
    let mut pair = Pair::ready();
    pair.write(0, key(1), Some(summary(50, 1)));
    pair.run(1000);
    // A write that the origin never made, in its name and on its session: a bug somewhere.
    let cursor = pair.ends[1].cursor(A);
    let record = Record { key: key(1), seq: cursor.seq + 1, age: Duration::ZERO, body: Some(summary(1, 1)) };
    let bug = Message::Delta { incarnation: cursor.incarnation, head: cursor.seq, records: vec![record] };
    pair.give(1, &bug.encode());
    assert_eq!(pair.known[1][&key(1)].0, summary(1, 1));
    pair.write(0, key(2), Some(summary(50, 2)));
    pair.run(80_000);
    assert_eq!(pair.known[1][&key(1)].0, summary(50, 1));
}

#[test]
fn floods_bombs_and_nonsense_end_the_session_and_hold_little() {
    let mut pair = Pair::ready();
    pair.give(1, b"nonsense");
    assert_eq!(pair.closed.pop(), Some((1, CloseReason::Malformed)));
    pair.run(10_000);
    for _ in 0..500 {
        pair.give(1, &Message::Resync.encode());
    }
    assert_eq!(pair.closed.pop(), Some((1, CloseReason::Flood)));
    pair.run(30_000);
    let incarnation = pair.ends[1].cursor(A).incarnation;
    let mut held = 0;
    for part in 0..200 {
        let record =
            |i: u32| Record { key: key(part * 1000 + i), seq: 5, age: Duration::ZERO, body: Some(summary(1, 1)) };
        let records = (0..1000).map(record).collect();
        let bomb = Message::Snapshot { incarnation, head: 9, part, last: false, records };
        assert!(bomb.encode().len() <= MAX);
        pair.give(1, &bomb.encode());
        held = held.max(pair.ends[1].held(A));
        if !pair.closed.is_empty() {
            break;
        }
    }
    assert_eq!(pair.closed.pop(), Some((1, CloseReason::TooMany)));
    assert!(held <= 6280, "{held} records");
    assert_eq!(pair.ends[1].held(A), 0, "nothing of it stays");
}

/// A session of `a` with `b` until neither has anything to say; then `a` is cut off by the next one that comes.
fn converse(a: &mut State, b: &mut State, seconds: u64) -> Vec<Report> {
    let now = Instant::from_nanos(seconds * 1_000_000_000);
    let mut reports = Vec::new();
    for end in [&mut *a, &mut *b] {
        end.handle_expire(now);
        // What goes to the session before is lost with it.
        while end.poll_action().is_some() {}
    }
    a.handle_connected(B, now);
    b.handle_connected(A, now);
    loop {
        let mut idle = true;
        while let Some(action) = a.poll_action() {
            idle = false;
            match action {
                super::Action::Send(_, bytes) => b.handle_bytes(A, &bytes, now),
                super::Action::Report(report) => reports.push(report),
                _ => {}
            }
        }
        while let Some(action) = b.poll_action() {
            idle = false;
            if let super::Action::Send(_, bytes) = action {
                a.handle_bytes(B, &bytes, now);
            }
        }
        if idle {
            break;
        }
    }
    a.handle_disconnected(B, now);
    reports
}

#[test]
fn two_processes_that_write_as_one_site_both_stop() {
    let mut clones = [0xa1, 0xa9].map(|instance| State::new(config(A, instance, 1), Instant::ZERO));
    let mut b = State::new(config(B, 0xb1, 1), Instant::ZERO);
    let mut duplicates = Vec::new();
    for turn in 0..4u64 {
        let who = usize::from(turn % 2 == 1);
        let reports = converse(&mut clones[who], &mut b, 20 + turn);
        duplicates.push(reports.iter().any(|r| matches!(r, Report::DuplicateSite { .. })));
    }
    assert_eq!(duplicates, [false, false, false, true], "the second one to be outbid knows");
    let _ = converse(&mut clones[0], &mut b, 30);
    assert!(clones.iter().all(State::duplicate));
    // A restart, whose predecessor is dead, is no duplicate however often it happens.
    let mut b = State::new(config(B, 0xb1, 1), Instant::ZERO);
    for instance in 1..10 {
        let mut a = State::new(config(A, instance, 1), Instant::from_nanos(instance * 20_000_000_000));
        let _ = converse(&mut a, &mut b, instance * 20 + 11);
        assert!(!a.duplicate());
    }
}

#[test]
fn a_peer_that_is_silent_or_unknown_is_left() {
    let mut pair = Pair::ready();
    let now = pair.now();
    pair.ends[1].handle_connected(A, now);
    pair.give(1, &Message::Resync.encode());
    assert_eq!(pair.closed.pop(), Some((1, CloseReason::Order)), "no Hello");
    pair.run(20_000);
    let (own, read, speaks) = (Cursor::default(), Cursor::default(), Speaks::OURS);
    let hello = Message::Hello { own, read, speaks };
    let lonely = &mut State::new(config(B, 5, 1), Instant::ZERO);
    lonely.handle_connected(A, Instant::ZERO);
    lonely.handle_bytes(A, &hello.encode(), Instant::ZERO);
    let mut closed = false;
    for s in 1..50 {
        lonely.handle_expire(Instant::from_nanos(s * 1_000_000_000));
        while let Some(action) = lonely.poll_action() {
            closed |= matches!(action, super::Action::Close(_, CloseReason::Silent));
        }
    }
    assert!(closed);
}
