use core::time::Duration;

use super::scripted::{Scripted, open, open_with};
use super::{START, neighbor, route, speaker};
use crate::config::{MaxPrefixAction, Mode, NeighborConfig, RemoteAs, Secret, Transport};
use crate::event::Event;
use crate::io::{Action, BfdState, Command, Conn, Input};
use crate::session::State;
use crate::session::negotiate::Rung;
use crate::wire::header::HEADER_LEN;
use crate::wire::notification::{Cease, open_error};
use crate::wire::{Capability, Family, Message, MessageType, Notification, NotificationCode, RouteRefresh};

const SECOND: Duration = Duration::from_secs(1);

fn scripted(config: NeighborConfig) -> Scripted {
    Scripted::new(speaker(1, vec![config]))
}

fn updates(heard: &[Message]) -> (usize, usize, usize) {
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

#[test]
fn maximum_prefixes_warns_or_holds_down_until_told_otherwise() {
    // ORIGIN, AS_PATH 65002, NEXT_HOP 192.0.2.2, two /32.
    let update = {
        let attributes =
            [&[0x40, 1, 1, 0][..], &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea], &[0x40, 3, 4, 192, 0, 2, 2]].concat();
        let nlri = [32, 10, 0, 0, 1, 32, 10, 0, 0, 2];
        let body = [&[0, 0, 0, u8::try_from(attributes.len()).expect("short")][..], &attributes, &nlri].concat();
        let length = u16::try_from(HEADER_LEN + body.len()).expect("short").to_be_bytes();
        [&[0xff; 16][..], &length, &[2], &body].concat()
    };
    let limited = |action| NeighborConfig { max_prefix: Some(1), max_prefix_action: action, ..neighbor(2) };
    let mut s = scripted(limited(MaxPrefixAction::Warn));
    let conn = s.establish();
    s.input(Input::Received { conn, bytes: &update });
    s.input(Input::Received { conn, bytes: &update });
    assert_eq!(s.state(), State::Established);
    let said =
        s.events.iter().filter(|event| matches!(event, Event::PrefixLimit { prefixes: 2, limit: 1, .. })).count();
    assert_eq!(said, 1);

    s.input(Input::Config(Box::new(speaker(1, vec![limited(MaxPrefixAction::Reset)]))));
    assert_eq!(s.state(), State::Established, "said before: the next session is held to it");
    s.input(Input::Command(Command::Reset { neighbor: "n2".to_owned() }));
    let conn = s.establish();
    s.input(Input::Received { conn, bytes: &update });
    assert_eq!(s.notified(conn), [(6, 1)]);
    s.advance(SECOND * 100_000);
    assert_eq!(s.state(), State::Idle);
    assert!(s.status().session.waiting.is_some_and(|why| why.contains("more than 1 prefixes")));
    s.input(Input::Command(Command::Reset { neighbor: "n2".to_owned() }));
    assert_eq!(s.state(), State::Connect);
}

#[test]
fn malformed_attributes_do_not_end_the_session() {
    let mut s = scripted(neighbor(2));
    let conn = s.establish();
    // ORIGIN 9: treat-as-withdraw (RFC 7606 section 7.1).
    let body = [0, 0, 0, 4, 0x40, 1, 1, 9, 32, 10, 0, 0, 1];
    let length = u16::try_from(HEADER_LEN + body.len()).expect("short").to_be_bytes();
    let update = [&[0xff; 16][..], &length, &[2], &body].concat();
    s.input(Input::Received { conn, bytes: &update });
    assert_eq!(s.state(), State::Established);
    assert!(s.events.iter().any(|event| matches!(event, Event::Malformed { .. })));
    assert_eq!(s.status().session.counters.malformed, 1);
}

#[test]
fn bfd_down_ends_the_session_with_6_10_until_it_is_up_again() {
    let mut s = scripted(NeighborConfig { bfd: true, ..neighbor(2) });
    let bfd = |s: &mut Scripted, state| s.input(Input::Bfd { neighbor: "n2".to_owned(), state });
    bfd(&mut s, BfdState::Down);
    let conn = s.establish();
    bfd(&mut s, BfdState::Down);
    assert_eq!(s.state(), State::Established, "never up: no opinion");
    bfd(&mut s, BfdState::Up);
    bfd(&mut s, BfdState::Down);
    assert_eq!((s.state(), s.notified(conn)), (State::Idle, vec![(6, 10)]));
    s.advance(SECOND * 30);
    assert_eq!(s.state(), State::Idle);
    assert_eq!(s.status().session.waiting.as_deref(), Some("BFD is down; dials when it is up again, or is reset"));
    bfd(&mut s, BfdState::Up);
    assert_eq!(s.state(), State::Connect);
    let conn = s.establish();
    bfd(&mut s, BfdState::AdminDown);
    assert_eq!(s.state(), State::Established);
    bfd(&mut s, BfdState::Up);
    bfd(&mut s, BfdState::Down);
    assert_eq!(s.notified(conn), [(6, 10)]);
    s.advance(SECOND * 86_400);
    assert_eq!(s.state(), State::Idle, "a path that fails for a day is not tried without BFD");
    assert_eq!(s.speaker.poll_timeout(), None, "and no timer runs");
    s.input(Input::Command(Command::Reset { neighbor: "n2".to_owned() }));
    assert_eq!(s.state(), State::Connect, "an operator may try");
    let conn = s.establish();
    bfd(&mut s, BfdState::Down);
    assert_eq!((s.state(), s.notified(conn)), (State::Established, vec![]), "until it is up, no opinion");
}

#[test]
fn configuration_is_a_difference() {
    let mut s = scripted(neighbor(2));
    let conn = s.establish();
    s.now = START + SECOND * 10;
    let mut other = neighbor(2);
    other.connect_retry = SECOND * 9;
    other.max_prefix = Some(5);
    s.input(Input::Config(Box::new(speaker(1, vec![other.clone(), neighbor(3)]))));
    assert_eq!((s.state(), s.status().session.uptime), (State::Established, SECOND * 10));
    assert!(s.dialled().is_some(), "the new one is dialled");
    other.hold_time = 30;
    s.input(Input::Config(Box::new(speaker(1, vec![other]))));
    assert_eq!(s.notified(conn), [(6, 6)]);
    assert_eq!(s.state(), State::Connect, "at once");
    let conn = s.establish();
    s.input(Input::Config(Box::new(speaker(1, vec![]))));
    assert_eq!(s.notified(conn), [(6, 3)]);
    assert!(s.speaker.status(s.now).neighbors.is_empty());
    assert_eq!(s.speaker.poll_timeout(), None, "no timer is left behind");
}

#[test]
fn a_rotated_key_is_taken_by_the_connection_that_stands() {
    let keyed = |key: Option<&str>| {
        let password = key.map(|key| Secret(key.into()));
        NeighborConfig { transport: Transport { password, ..Transport::default() }, ..neighbor(2) }
    };
    let mut s = scripted(keyed(Some("old")));
    let conn = s.establish();
    s.actions.clear();
    s.input(Input::Config(Box::new(speaker(1, vec![keyed(Some("new"))]))));
    assert_eq!((s.state(), s.notified(conn)), (State::Established, vec![]));
    assert_eq!(s.actions, [Action::Rekey { conn, password: Secret("new".into()) }]);
    // The same again is nothing; another TTL beside a new key, or no key any more, is another session.
    s.actions.clear();
    s.input(Input::Config(Box::new(speaker(1, vec![keyed(Some("new"))]))));
    assert_eq!(s.actions, []);
    s.input(Input::Config(Box::new(speaker(1, vec![keyed(None)]))));
    assert_eq!(s.notified(conn), [(6, 6)]);
}

#[test]
fn an_operators_reset_is_6_4() {
    let mut s = scripted(neighbor(2));
    let conn = s.establish();
    s.input(Input::Command(Command::Reset { neighbor: "n2".to_owned() }));
    assert_eq!((s.state(), s.notified(conn)), (State::Connect, vec![(6, 4)]));
}

#[test]
fn passive_listens_parks_in_idle_and_never_dials() {
    let mut s = scripted(NeighborConfig { mode: Mode::Passive, ..neighbor(2) });
    assert!(matches!(&s.actions[..], [Action::Listen { .. }]));
    assert_eq!(s.state(), State::Active);
    let conn = s.accept();
    s.send_open(conn, &open());
    s.keepalive(conn);
    assert_eq!(s.state(), State::Established);
    s.input(Input::Closed { conn, error: None });
    assert_eq!(s.state(), State::Idle);
    let early = s.accept();
    s.send_open(early, &open());
    assert_eq!(s.state(), State::Idle);
    assert!(!s.closed(early), "it is parked, not refused");
    s.advance(SECOND);
    assert_eq!(s.state(), State::OpenConfirm, "its OPEN was kept");
    assert_eq!(s.dialled(), None);
}

#[test]
fn nobody_else_is_let_in() {
    let mut s = scripted(neighbor(2));
    let conn = s.accept();
    assert!(s.closed(conn), "the neighbor is not expected to dial");
    let stranger = Conn(Conn::INBOUND + 99);
    let local = (super::address(1), 179).into();
    s.input(Input::Accepted { conn: stranger, remote: super::address(77), local, on_link: true, link_local: None });
    assert!(s.closed(stranger));
}

/// RFC 4271 section 6.8 with RFC 6286: 192.0.2.2 is higher than us, so the connection that it dialled stays.
#[test]
fn of_two_connections_the_one_of_the_higher_identifier_stays() {
    for (id, ours_stays) in [([192, 0, 2, 2], false), ([192, 0, 2, 0], true)] {
        for accepted_first in [true, false] {
            let mut s = scripted(NeighborConfig { mode: Mode::Both, ..neighbor(2) });
            let mut hello = open();
            hello.id = id.into();
            let accepted = s.accept();
            let dialled = s.connect();
            let order = if accepted_first { [accepted, dialled] } else { [dialled, accepted] };
            for conn in order {
                s.send_open(conn, &hello);
            }
            let (stays, goes) = if ours_stays { (dialled, accepted) } else { (accepted, dialled) };
            assert_eq!(s.notified(goes), [(6, 7)], "{id:?} {accepted_first}");
            assert!(s.closed(goes) && !s.closed(stays));
            s.keepalive(stays);
            assert_eq!(s.state(), State::Established);
        }
    }
}

#[test]
fn an_established_connection_wins_unless_the_neighbor_says_that_it_restarted() {
    let mut s = scripted(NeighborConfig { mode: Mode::Both, graceful_restart: Some(120), ..neighbor(2) });
    let graceful = |restarting| Capability::GracefulRestart {
        restarting,
        notification: true,
        restart_time: 60,
        families: vec![(1, 1, true)],
    };
    let old = s.establish_with(&open_with(graceful(false)));
    s.advance(SECOND * 10);
    let second = s.accept();
    s.send_open(second, &open_with(graceful(false)));
    assert_eq!(s.notified(second), [(6, 7)]);
    assert_eq!(s.state(), State::Established);
    let third = s.accept();
    s.send_open(third, &open_with(graceful(true)));
    assert!(s.closed(old) && s.notified(old).is_empty(), "the old connection goes without a word");
    s.keepalive(third);
    assert_eq!(s.state(), State::Established);
}

/// The neighbor saw the other connection confirmed first and follows section 6.8, while ours is Established already.
#[test]
fn a_young_established_connection_waits_before_it_kills_the_preferred_one() {
    let mut s = scripted(NeighborConfig { mode: Mode::Both, ..neighbor(2) });
    let theirs = s.accept();
    let ours = s.establish();
    assert!(!s.closed(theirs));
    s.send_open(theirs, &open());
    assert_eq!(s.state(), State::Established);
    s.notify(ours, &Notification::cease(Cease::ConnectionCollisionResolution, ""));
    assert_eq!(s.state(), State::OpenConfirm, "the preferred one carries on");
    s.keepalive(theirs);
    assert_eq!(s.state(), State::Established);

    let mut s = scripted(NeighborConfig { mode: Mode::Both, ..neighbor(2) });
    let theirs = s.accept();
    let _ours = s.establish();
    s.send_open(theirs, &open());
    s.advance(SECOND * 2);
    assert_eq!(s.notified(theirs), [(6, 7)], "the Established one stayed");
    assert_eq!(s.state(), State::Established);
}

#[test]
fn failures_back_off_to_a_minute_and_a_long_session_forgives_them() {
    let mut s = scripted(neighbor(2));
    let mut waits = Vec::new();
    for _ in 0..9 {
        let conn = s.establish();
        s.notify(conn, &Notification::new(NotificationCode::Cease, 0));
        let from = s.now;
        while s.state() == State::Idle {
            s.advance(Duration::from_millis(50));
        }
        waits.push(s.now.since(from));
    }
    assert!(waits[0] <= SECOND && waits[8] > SECOND * 40 && waits[8] <= SECOND * 61, "{waits:?}");
    let conn = s.establish();
    for _ in 0..3 {
        s.advance(SECOND * 30);
        s.keepalive(conn);
    }
    s.input(Input::Closed { conn, error: None });
    s.advance(SECOND);
    assert_eq!(s.state(), State::Connect);
}
