use core::time::Duration;

use super::scripted::{Scripted, open, open_with};
use super::{START, neighbor, route, speaker};
use crate::config::NeighborConfig;
use crate::event::Event;
use crate::graceful::{FLUSH_CAP, FormerRun, RestartMarker};
use crate::io::{Action, Command, Conn, Input};
use crate::session::State;
use crate::speaker::Speaker;
use crate::wire::attr::community::GRACEFUL_SHUTDOWN;
use crate::wire::{Capability, FamilySet, Message};

const SECOND: Duration = Duration::from_secs(1);

fn graceful(notification: bool) -> Capability {
    Capability::GracefulRestart { restarting: false, notification, restart_time: 60, families: vec![(1, 1, true)] }
}

/// Established with one route; graceful restart offered by us, and by the neighbor as given.
fn running(theirs: Option<Capability>) -> (Scripted, Conn) {
    let config = NeighborConfig { graceful_restart: Some(120), ..neighbor(2) };
    let mut s = Scripted::new(speaker(1, vec![config]));
    s.input(Input::Announce(vec![route("10.9.0.1/32", START)]));
    let conn = s.establish_with(&theirs.map_or_else(open, open_with));
    (s, conn)
}

fn shut_down(s: &mut Scripted, drain: Duration) {
    s.input(Input::Command(Command::Shutdown { drain, text: "node n1 is drained".to_owned() }));
}

fn acknowledged(s: &mut Scripted, conn: Conn) {
    s.input(Input::Written { conn, pending: 0, unacknowledged: Some(0) });
}

fn stopped(s: &Scripted) -> bool {
    s.actions.last() == Some(&Action::Stopped)
}

#[test]
fn drains_withdraws_waits_for_the_acknowledgement_and_ceases_with_text() {
    let (mut s, conn) = running(None);
    let before = s.heard[&conn].len();
    shut_down(&mut s, SECOND * 5);
    let Message::Update(update) = &s.heard[&conn][before] else { panic!("{:?}", s.heard[&conn]) };
    assert!(update.attributes.communities.contains(&GRACEFUL_SHUTDOWN));
    s.advance(SECOND * 5 - Duration::from_millis(1));
    assert_eq!(s.heard[&conn].len(), before + 1);
    s.advance(Duration::from_millis(1));
    let Message::Update(update) = &s.heard[&conn][before + 1] else { panic!("{:?}", s.heard[&conn]) };
    assert_eq!(update.withdrawn().count(), 1);
    assert!(s.actions.contains(&Action::WatchAcknowledged { conn }));
    assert_eq!(s.state(), State::Established, "the withdrawal is not acknowledged");
    acknowledged(&mut s, conn);
    let Some(Message::Notification(cease)) = s.heard[&conn].last() else { panic!("{:?}", s.heard[&conn]) };
    assert_eq!(cease.shutdown_communication().as_deref(), Some("node n1 is drained"));
    assert!(s.closed(conn) && stopped(&s));
    assert_eq!(s.speaker.poll_timeout(), None);
    assert!(s.events.iter().any(|event| matches!(event, Event::Drain { .. })));
}

#[test]
fn a_neighbor_that_keeps_routes_through_a_cease_gets_a_hard_reset() {
    let (mut s, conn) = running(Some(graceful(true)));
    shut_down(&mut s, Duration::ZERO);
    acknowledged(&mut s, conn);
    let Some(Message::Notification(hard)) = s.heard[&conn].last() else { panic!("{:?}", s.heard[&conn]) };
    let inner = hard.hard_reset_reason().expect("6/9 wraps the reason");
    assert_eq!((inner.code.number(), inner.subcode), (6, 2));
}

#[test]
fn a_neighbor_that_acknowledges_nothing_holds_the_stop_up_only_for_the_flush() {
    let (mut s, conn) = running(None);
    shut_down(&mut s, Duration::ZERO);
    s.advance(FLUSH_CAP - Duration::from_millis(1));
    assert!(!stopped(&s));
    s.advance(Duration::from_millis(1));
    assert!(stopped(&s));
    assert_eq!(s.notified(conn), [(6, 2)]);
}

#[test]
fn a_planned_restart_is_silent_only_where_the_neighbor_helps() {
    let (mut s, conn) = running(Some(graceful(false)));
    let before = s.heard[&conn].len();
    s.input(Input::Command(Command::Restart));
    acknowledged(&mut s, conn);
    assert!(s.closed(conn) && stopped(&s));
    assert_eq!(s.heard[&conn].len(), before, "no withdrawal, no NOTIFICATION");

    let (mut s, conn) = running(None);
    s.input(Input::Command(Command::Restart));
    acknowledged(&mut s, conn);
    assert_eq!(s.notified(conn), [(6, 2)]);
    assert!(stopped(&s));
}

#[test]
fn a_session_that_ends_during_the_drain_is_not_tried_again() {
    let (mut s, conn) = running(None);
    shut_down(&mut s, SECOND * 60);
    s.input(Input::Closed { conn, error: None });
    assert!(stopped(&s), "nobody is left to drain for");
    s.advance(SECOND * 1000);
    assert_eq!((s.state(), s.dialled()), (State::Idle, None));
}

#[test]
fn what_is_not_established_stops_at_once_and_a_second_order_cuts_the_drain() {
    let mut s = Scripted::new(speaker(1, vec![neighbor(2), neighbor(3)]));
    shut_down(&mut s, SECOND * 60);
    assert!(stopped(&s));

    let (mut s, conn) = running(None);
    shut_down(&mut s, SECOND * 60);
    s.input(Input::Config(Box::new(speaker(1, vec![]))));
    assert_eq!(s.state(), State::Established, "what leaves takes no configuration");
    shut_down(&mut s, Duration::ZERO);
    acknowledged(&mut s, conn);
    assert!(stopped(&s));
    assert_eq!(s.actions.iter().filter(|action| **action == Action::Stopped).count(), 1);
}

/// RFC 4724 section 3: R within the restart time, F for what the driver found standing; afterwards F for all, since nothing stopped.
#[test]
fn the_run_after_a_restart_says_so() {
    let marker = RestartMarker { boot_id: "b".to_owned(), written: START, restart_time: 120, families: FamilySet::ALL };
    let bits = |s: &Scripted, conn: Conn| match &s.heard[&conn][0] {
        Message::Open(open) => open.capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart { restarting, families, .. } => Some((*restarting, families[0].2)),
            _ => None,
        }),
        other => panic!("{other:?}"),
    };
    for (after, first) in [(SECOND, (true, true)), (SECOND * 119, (true, true)), (SECOND * 121, (false, false))] {
        let mut s = Scripted::new(speaker(1, vec![]));
        s.speaker = Speaker::new(1, START);
        let former = FormerRun::new(&marker, "b", FamilySet::ALL, START + SECOND).expect("in time");
        s.input(Input::Restarted(former));
        s.now = START + after;
        let config = NeighborConfig { graceful_restart: Some(120), ..neighbor(2) };
        s.input(Input::Config(Box::new(speaker(1, vec![config]))));
        let conn = s.establish();
        assert_eq!(bits(&s, conn), Some(first), "{after:?}");
        s.input(Input::Closed { conn, error: None });
        s.advance(SECOND);
        let conn = s.connect();
        assert_eq!(bits(&s, conn), Some((false, true)), "the run itself is the proof");
    }
}

#[test]
fn nothing_that_ends_a_session_during_a_planned_restart_says_so() {
    let (mut s, conn) = running(Some(graceful(false)));
    s.advance(SECOND * 88);
    s.input(Input::Command(Command::Restart));
    assert_eq!(s.state(), State::Established, "not acknowledged yet");
    s.advance(SECOND * 2);
    assert!(s.closed(conn), "the hold timer");
    assert_eq!(s.notified(conn), []);
    assert!(stopped(&s));
}
