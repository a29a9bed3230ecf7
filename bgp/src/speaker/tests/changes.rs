//! What changes under a session, and which of two connections stays: limits, BFD, configuration, an operator, collisions.

use core::time::Duration;

use super::scripted::{Scripted, open, open_with};
use super::sequences::{SECOND, scripted};
use super::{START, neighbor, speaker};
use crate::config::{MaxPrefixAction, Mode, NeighborConfig, Secret, Transport};
use crate::event::Event;
use crate::io::{Action, BfdState, Command, Conn, Input};
use crate::session::State;
use crate::wire::header::HEADER_LEN;
use crate::wire::notification::Cease;
use crate::wire::{Capability, Notification, NotificationCode};

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
