use core::time::Duration;

use super::scripted::{Scripted, open};
use super::{START, neighbor, route, speaker};
use crate::config::{NeighborConfig, RemoteAs};
use crate::event::Event;
use crate::io::{Conn, Input};
use crate::session::State;
use crate::session::negotiate::Rung;
use crate::wire::header::HEADER_LEN;
use crate::wire::notification::{Cease, open_error};
use crate::wire::{Capability, Family, Message, MessageType, Notification, RouteRefresh};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn scripted(config: NeighborConfig) -> Scripted {
    Scripted::new(speaker(1, vec![config]))
}

pub(super) fn updates(heard: &[Message]) -> (usize, usize, usize) {
    heard.iter().fold((0, 0, 0), |(announced, withdrawn, ends), message| match message {
        Message::Update(u) if u.end_of_rib.is_some() => (announced, withdrawn, ends + 1),
        Message::Update(u) => (announced + u.announced().count(), withdrawn + u.withdrawn().count(), ends),
        _ => (announced, withdrawn, ends),
    })
}

#[test]
fn dials_opens_confirms_and_sends_the_table_with_end_of_rib() {
    let mut s = scripted(neighbor(2));
    assert_eq!(s.state(), State::Connect);
    s.input(Input::Announce(vec![route("10.9.0.1/32", START), route("10.9.0.2/32", START)]));
    let conn = s.connect();
    assert_eq!(s.state(), State::OpenSent);
    assert!(matches!(&s.heard[&conn][..], [Message::Open(open)] if open.asn() == 65_001 && open.hold_time == 90));
    s.send_open(conn, &open());
    assert_eq!(s.state(), State::OpenConfirm);
    assert_eq!(s.heard[&conn].last(), Some(&Message::Keepalive));
    s.keepalive(conn);
    assert_eq!(s.state(), State::Established);
    assert_eq!(updates(&s.heard[&conn]), (2, 0, 1));
    let status = s.status();
    assert_eq!(status.prefixes_out[0], (Family::Ipv4, 2));
    assert_eq!(status.session.counters.sent.update, 2, "one UPDATE and End-of-RIB");
    assert_eq!(status.session.counters.transitions, 4);
    assert!(s.events.contains(&Event::EndOfRib { neighbor: "n2".to_owned(), family: Family::Ipv4 }));

    s.now = START + SECOND * 2;
    let since = START + SECOND;
    s.input(Input::Withdraw(vec!["10.9.0.1/32".parse().expect("a prefix")], since));
    assert_eq!(updates(&s.heard[&conn]), (2, 1, 1));
    let sent = Event::Sent { neighbor: "n2".to_owned(), announced: 0, withdrawn: 1, latency: SECOND };
    assert_eq!(s.events.last(), Some(&sent));
    assert_eq!(s.speaker.routes("n2").expect("it exists").len(), 1);
    assert_eq!(s.speaker.routes("nobody"), None);
}

#[test]
fn end_of_rib_waits_for_synced() {
    let mut s = Scripted::new(speaker(1, vec![]));
    s.speaker = crate::speaker::Speaker::new(1, s.now);
    s.input(Input::Config(Box::new(speaker(1, vec![neighbor(2)]))));
    let conn = s.establish();
    assert_eq!(updates(&s.heard[&conn]), (0, 0, 0));
    s.input(Input::Announce(vec![route("10.9.0.1/32", START)]));
    s.input(Input::Synced);
    assert_eq!(updates(&s.heard[&conn]), (1, 0, 1));
}

#[test]
fn a_silent_neighbor_is_told_4_0_after_the_hold_time_and_tried_again() {
    let mut s = scripted(neighbor(2));
    let conn = s.establish();
    s.advance(SECOND * 89);
    assert_eq!(s.state(), State::Established);
    let keepalives = s.heard[&conn].iter().filter(|m| **m == Message::Keepalive).count();
    assert!((3..=5).contains(&keepalives), "{keepalives} in 89 s with hold time 90");
    s.advance(SECOND);
    assert_eq!(s.notified(conn), [(4, 0)]);
    assert!(s.closed(conn));
    assert_eq!(s.state(), State::Idle);
    s.advance(SECOND);
    assert_eq!(s.state(), State::Connect);
    assert!(s.dialled().is_some());
}

#[test]
fn hold_time_0_means_no_keepalive_and_no_hold_timer() {
    let mut s = scripted(NeighborConfig { hold_time: 0, ..neighbor(2) });
    let conn = s.establish();
    let heard = s.heard[&conn].len();
    s.advance(SECOND * 100_000);
    assert_eq!(s.state(), State::Established);
    assert_eq!(s.heard[&conn].len(), heard);
}

#[test]
fn openconfirm_keeps_the_hold_timer_and_opensent_waits_240_seconds() {
    let mut s = scripted(neighbor(2));
    let conn = s.connect();
    s.advance(SECOND * 239);
    assert_eq!(s.state(), State::OpenSent);
    s.advance(SECOND);
    assert_eq!((s.state(), s.notified(conn)), (State::Idle, vec![(4, 0)]));
    s.advance(SECOND);
    let conn = s.connect();
    s.send_open(conn, &open());
    s.advance(SECOND * 90);
    assert_eq!((s.state(), s.notified(conn)), (State::Idle, vec![(4, 0)]));
}

#[test]
fn a_neighbor_that_reads_nothing_is_left_with_8_0() {
    let mut s = scripted(NeighborConfig { hold_time: 300, ..neighbor(2) });
    let mut hello = open();
    hello.hold_time = 300;
    let conn = s.establish_with(&hello);
    s.window_open = false;
    s.input(Input::Announce(vec![route("10.9.0.1/32", START)]));
    let heard = s.heard[&conn].len();
    for _ in 0..5 {
        s.advance(SECOND * 100);
        s.keepalive(conn);
    }
    assert_eq!(s.state(), State::Established, "2 x hold is 600");
    assert_eq!(s.heard[&conn].len(), heard, "one write in flight, nothing behind it");
    // Some progress restarts the timer.
    s.input(Input::Written { conn, pending: 10, unacknowledged: None });
    for _ in 0..5 {
        s.advance(SECOND * 100);
        s.keepalive(conn);
    }
    assert_eq!(s.state(), State::Established);
    s.advance(SECOND * 100);
    assert_eq!((s.state(), s.notified(conn)), (State::Idle, vec![(8, 0)]));
}

#[test]
fn one_write_is_in_flight_and_a_shut_window_holds_one_keepalive() {
    let mut s = scripted(neighbor(2));
    let conn = s.establish();
    s.window_open = false;
    s.input(Input::Announce(vec![route("10.9.0.1/32", START)]));
    s.input(Input::Announce(vec![route("10.9.0.2/32", START)]));
    s.input(Input::Withdraw(vec!["10.9.0.2/32".parse().expect("a prefix")], START));
    for _ in 0..3 {
        s.advance(SECOND * 60);
        s.keepalive(conn);
    }
    assert_eq!(updates(&s.heard[&conn]).0, 1, "the second never left and costs nothing");
    let before = s.heard[&conn].len();
    s.window_open = true;
    s.input(Input::Written { conn, pending: 0, unacknowledged: None });
    assert_eq!(s.heard[&conn][before..], [Message::Keepalive]);
}

#[test]
fn a_wrong_as_is_refused_with_2_2_and_not_bothered_for_a_while() {
    let mut s = scripted(NeighborConfig { remote_as: RemoteAs::Is(65_099), ..neighbor(2) });
    let conn = s.connect();
    s.send_open(conn, &open());
    assert_eq!((s.state(), s.notified(conn)), (State::Idle, vec![(2, 2)]));
    assert!(s.last_error().contains("65002"), "{}", s.last_error());
    s.advance(SECOND * 44);
    assert_eq!(s.state(), State::Idle);
    s.advance(SECOND * 17);
    assert_eq!(s.state(), State::Connect);
}

#[test]
fn a_refusal_is_named_as_such_and_not_repeated_at_once() {
    let refusals = [
        (Notification::bad_peer_as(65_001), "peer refused our AS number 65001"),
        (Notification::unacceptable_hold_time(90), "peer refused our hold time 90 s"),
        (Notification::open(open_error::BAD_BGP_IDENTIFIER), "peer refused our BGP identifier 192.0.2.1"),
        (Notification::cease(Cease::ConnectionRejected, ""), "peer refused the connection"),
        (Notification::cease(Cease::PeerDeconfigured, ""), "not configured there"),
    ];
    for (refusal, words) in refusals {
        let mut s = scripted(neighbor(2));
        let conn = s.connect();
        s.notify(conn, &refusal);
        assert_eq!(s.state(), State::Idle);
        assert!(s.last_error().contains(words), "{}", s.last_error());
        assert!(s.closed(conn) && s.notified(conn).is_empty(), "a NOTIFICATION is not answered");
        let shown = s.status().session.last_error.and_then(|e| e.notification).expect("in numbers too");
        assert_eq!((shown.code, shown.subcode, shown.sent), (refusal.code.number(), refusal.subcode, false));
        s.advance(SECOND * 44);
        assert_eq!(s.state(), State::Idle);
    }
}

#[test]
fn refused_capabilities_are_left_out_rung_by_rung_and_come_back() {
    let mut s = scripted(neighbor(2));
    let unsupported = Notification::open(open_error::UNSUPPORTED_CAPABILITY);
    let codes = |s: &Scripted, conn: Conn| match &s.heard[&conn][0] {
        Message::Open(open) => open.capabilities.iter().map(Capability::code).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let full = s.connect();
    assert_eq!(codes(&s, full), [1, 65, 2, 70, 6]);
    s.notify(full, &unsupported);
    s.advance(SECOND);
    let basic = s.connect();
    assert_eq!(codes(&s, basic), [1, 65]);
    s.notify(basic, &unsupported);
    s.advance(SECOND * 2);
    let bare = s.connect();
    assert_eq!(codes(&s, bare), [0_u8; 0]);
    let reduced = s.events.iter().filter(|event| matches!(event, Event::CapabilitiesReduced { .. })).count();
    assert_eq!(reduced, 2);
    s.send_open(bare, &open());
    s.keepalive(bare);
    assert_eq!(s.state(), State::Established);
    assert_eq!(s.status().session.offer, Rung::Bare);
    s.input(Input::Closed { conn: bare, error: None });
    s.advance(SECOND * 4);
    let again = s.connect();
    assert_eq!(codes(&s, again), [1, 65, 2, 70, 6], "a new session begins at the top");
}

#[test]
fn a_neighbor_that_cannot_be_reached_is_said_once_and_dialled_by_connect_retry() {
    let mut s = scripted(neighbor(2));
    let mut dials = 0;
    while s.now < START + SECOND * 100 {
        if let Some(conn) = s.dialled() {
            dials += 1;
            s.input(Input::ConnectFailed { conn, error: "Connection refused".to_owned() });
            assert_eq!(s.state(), State::Active);
        }
        s.advance(Duration::from_millis(10));
    }
    assert!((20..=27).contains(&dials), "{dials} in 100 s with a retry of 3.75 to 5 s");
    let said = s.events.iter().filter(|event| matches!(event, Event::Unreachable { .. })).count();
    assert_eq!(said, 1);
    assert_eq!(s.last_error(), "Connection refused");
}

#[test]
fn an_attempt_without_an_answer_is_given_up_and_says_what_it_may_mean() {
    let mut s = scripted(neighbor(2));
    let first = s.dialled().expect("it dials");
    s.advance(SECOND * 5);
    assert!(s.closed(first));
    assert!(s.dialled().is_some_and(|second| second != first));
    assert!(s.last_error().contains("password"), "{}", s.last_error());
}

#[test]
fn framing_and_decoding_errors_are_answered_as_rfc_4271_says() {
    let mut bad_marker = Vec::new();
    crate::wire::encode_keepalive(&mut bad_marker);
    let good = bad_marker.clone();
    bad_marker[3] = 0;
    let mut bad_length = good.clone();
    bad_length[17] = 18;
    let mut bad_type = good;
    bad_type[18] = 9;
    for (bytes, expected) in [(bad_marker, (1, 1)), (bad_length, (1, 2)), (bad_type, (1, 3))] {
        let mut s = scripted(neighbor(2));
        let conn = s.establish();
        s.input(Input::Received { conn, bytes: &bytes });
        assert_eq!((s.state(), s.notified(conn)), (State::Idle, vec![expected]));
        assert_eq!(bytes.len(), HEADER_LEN);
    }
}

#[test]
fn route_refresh_is_answered_with_the_table_between_its_marks_and_not_too_often() {
    let mut s = scripted(neighbor(2));
    s.input(Input::Announce(vec![route("10.9.0.1/32", START)]));
    let conn = s.establish();
    let request = RouteRefresh::new(Family::Ipv4, RouteRefresh::REQUEST);
    let before = s.heard[&conn].len();
    s.send(conn, |out| request.encode(out));
    let answer: Vec<_> = s.heard[&conn][before..].iter().map(Message::kind).collect();
    assert_eq!(answer, [MessageType::RouteRefresh, MessageType::Update, MessageType::RouteRefresh]);
    let before = s.heard[&conn].len();
    for _ in 0..10 {
        s.send(conn, |out| request.encode(out));
    }
    assert_eq!(s.heard[&conn].len(), before);
    s.advance(SECOND / 2);
    assert_eq!(s.heard[&conn].len(), before + 3, "ten requests, one answer");
    s.advance(SECOND * 20);
    assert_eq!(s.heard[&conn].iter().filter(|m| m.kind() == MessageType::RouteRefresh).count(), 4);
    // A subtype of the future, and a family that is not exchanged.
    s.send(conn, |out| RouteRefresh::new(Family::Ipv4, 77).encode(out));
    s.send(conn, |out| RouteRefresh::new(Family::Ipv6, RouteRefresh::REQUEST).encode(out));
    assert_eq!(s.heard[&conn].iter().filter(|m| m.kind() == MessageType::RouteRefresh).count(), 4);
    assert_eq!(s.state(), State::Established);
}

#[test]
fn unexpected_messages_are_5_1_to_5_3() {
    let mut s = scripted(neighbor(2));
    let conn = s.connect();
    s.keepalive(conn);
    assert_eq!(s.notified(conn), [(5, 1)]);
    s.advance(SECOND);
    let conn = s.connect();
    s.send_open(conn, &open());
    s.send_open(conn, &open());
    assert_eq!(s.notified(conn), [(5, 2)]);
    s.advance(SECOND * 2);
    let conn = s.establish();
    s.send_open(conn, &open());
    assert_eq!(s.notified(conn), [(5, 3)]);
}
