//! Sections 6.1, 6.2, 6.6 and 6.8 without Poll Sequences.

use super::{Alone, OURS, PEER, ms, timers};
use crate::bfd::session::{Expiry, Params};
use crate::wire::bfd::{Diag, Discard, State};

/// A session brought into `state`.
fn in_state(state: State) -> Alone {
    let mut alone = Alone::new(timers(300, 300, 3));
    match state {
        State::Down => {}
        State::Init => alone.hear(State::Down),
        State::Up => alone.hear(State::Init),
        State::AdminDown => alone.session.admin_down(alone.now),
    }
    alone.gather();
    assert_eq!(alone.session.state(), state);
    alone.changes.clear();
    alone
}

#[test]
fn s6_8_6_state_machine_in_full() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
    ];
    for (before, heard, after) in table {
        let mut alone = in_state(before);
        alone.hear(heard);
        assert_eq!(alone.session.state(), after, "{before} hears {heard}");
        assert_eq!(alone.changes.len(), usize::from(before != after), "{before} hears {heard}");
        if after == Down && before != Down {
            assert_eq!(alone.session.diag(), Diag::NEIGHBOR_DOWN, "{before} hears {heard}");
            assert_eq!(alone.changes[0].remote_state, heard);
        }
        if after == Up {
            assert_eq!(alone.session.diag(), Diag::NONE);
        }
    }
}

#[test]
fn s6_8_6_admin_down_hears_nothing_and_answers_no_poll() {
    for heard in State::ALL {
        let mut alone = in_state(State::AdminDown);
        alone.sent.clear();
        alone.peer.state = heard;
        let poll = crate::wire::bfd::Control { poll: true, your_discr: OURS, ..alone.peer };
        assert_eq!(alone.try_say(&poll), Err(Discard::AdminDown), "{heard}");
        assert_eq!(alone.session.state(), State::AdminDown);
        assert!(alone.sent.iter().all(|(_, p)| !p.is_final), "{heard}");
    }
}

#[test]
fn s6_8_1_first_packet_says_nothing_learned() {
    let alone = Alone::new(timers(300, 50, 5));
    assert_eq!(alone.sent.len(), 1, "at once");
    let first = alone.last();
    assert_eq!((first.state, first.diag), (State::Down, Diag::NONE));
    assert_eq!((first.my_discr, first.your_discr), (OURS, 0));
    assert_eq!((first.desired_min_tx, first.required_min_rx, first.required_min_echo_rx), (1_000_000, 50_000, 0));
    assert_eq!(first.detect_mult, 5);
    assert!(!first.poll && !first.is_final && !first.demand && !first.control_plane_independent);
}

#[test]
fn s6_8_3_slower_than_a_second_while_not_up() {
    let mut alone = Alone::new(timers(10, 10, 3));
    alone.run(ms(60_000));
    let gaps = alone.gaps();
    assert!(gaps.iter().all(|g| (750_000..=1_000_000).contains(g)), "{gaps:?}");
    assert!((60..=80).contains(&gaps.len()), "{}", gaps.len());
    assert!(alone.sent.iter().all(|(_, p)| p.desired_min_tx == 1_000_000));
    // A wish above a second is kept.
    assert_eq!(Alone::new(timers(2500, 10, 3)).last().desired_min_tx, 2_500_000);
}

#[test]
fn s6_8_7_interval_is_the_larger_of_ours_and_the_peers_less_jitter() {
    for (ours, theirs, agreed) in [(50, 100, 100_000), (300, 100, 300_000), (100, 100, 100_000)] {
        let mut alone = Alone::up(timers(ours, 100, 3));
        alone.peer.required_min_rx = theirs * 1000;
        alone.hear(State::Up);
        alone.sent.clear();
        alone.run_alive(ms(60_000), ms(90));
        let gaps = alone.gaps();
        let (low, high) = (agreed * 3 / 4, agreed);
        assert!(gaps.iter().all(|g| (low..=high).contains(g)), "{ours}/{theirs}: {gaps:?}");
        let (least, most) = (gaps.iter().min().expect("some"), gaps.iter().max().expect("some"));
        // Every packet draws anew, over the whole range.
        assert!(*least < agreed * 76 / 100 && *most > agreed * 99 / 100, "{least} {most}");
        assert_eq!(alone.session.transmit_interval(), Some(ms(agreed / 1000)));
    }
}

#[test]
fn s6_8_7_multiplier_one_leaves_a_tenth() {
    let mut alone = Alone::up(timers(100, 100, 1));
    alone.run_alive(ms(60_000), ms(90));
    let gaps = alone.gaps();
    assert!(gaps.iter().all(|g| (75_000..=90_000).contains(g)), "{gaps:?}");
    assert!(gaps.iter().any(|g| *g < 76_000) && gaps.iter().any(|g| *g > 89_000));
}

#[test]
fn s6_8_4_detection_is_the_peers_multiplier_times_the_larger_interval() {
    for (ours, theirs, mult, detection) in [(100, 50, 3, 300), (50, 100, 3, 300), (50, 50, 5, 250), (1000, 10, 1, 1000)]
    {
        let mut alone = Alone::up(timers(50, ours, 3));
        (alone.peer.desired_min_tx, alone.peer.detect_mult) = (theirs * 1000, mult);
        alone.hear(State::Up);
        assert_eq!(alone.session.detection_time(), Some(ms(detection)));
        let heard = alone.now;
        alone.run(ms(detection) - core::time::Duration::from_nanos(1));
        assert_eq!(alone.session.state(), State::Up, "not a nanosecond early");
        alone.now = heard + ms(detection + 7);
        alone.session.handle_timeout(alone.now);
        alone.gather();
        let change = alone.changes[0];
        assert_eq!((change.from, change.to, change.diag), (State::Up, State::Down, Diag::DETECTION_EXPIRED));
        assert_eq!(change.expiry, Some(Expiry { detection: ms(detection), late: ms(7) }));
        // The peer is told at once, though no longer by its discriminator.
        assert_eq!((alone.last().state, alone.last().diag), (State::Down, Diag::DETECTION_EXPIRED));
        assert_eq!(alone.last().your_discr, 0);
        assert_eq!(alone.sent.last().expect("a packet").0, alone.now);
    }
}

#[test]
fn s6_8_4_init_expires_too() {
    let mut alone = Alone::new(timers(50, 100, 3));
    alone.hear(State::Down);
    assert_eq!(alone.session.state(), State::Init);
    alone.run(ms(300));
    assert_eq!((alone.session.state(), alone.session.diag()), (State::Down, Diag::DETECTION_EXPIRED));
}

#[test]
fn s6_8_1_discriminator_is_forgotten_after_a_detection_time_in_any_state() {
    let mut alone = Alone::up(timers(50, 100, 3));
    alone.hear(State::Down);
    assert_eq!(alone.session.state(), State::Down);
    assert_eq!(alone.last().your_discr, PEER, "kept: the peer was just heard");
    alone.run(ms(299));
    assert!(alone.session.remote().is_some());
    alone.run(ms(1));
    assert_eq!(alone.session.remote(), None);
    assert_eq!(alone.last().your_discr, 0);
    assert_eq!(alone.session.diag(), Diag::NEIGHBOR_DOWN, "still the reason why it went down");
}

#[test]
fn s6_8_7_zero_required_min_rx_stops_what_is_periodic_only() {
    let mut alone = Alone::up(timers(50, 100, 3));
    alone.peer.required_min_rx = 0;
    alone.hear(State::Up);
    alone.sent.clear();
    alone.run_alive(ms(10_000), ms(90));
    assert_eq!(alone.sent.len(), 0);
    assert_eq!(alone.session.transmit_interval(), None);
    alone.say(|c| c.poll = true);
    assert!(alone.last().is_final);
    alone.hear(State::Down);
    assert_eq!(alone.last().state, State::Down, "a change is told");
    alone.peer.required_min_rx = 100_000;
    alone.hear(State::Init);
    alone.sent.clear();
    alone.run_alive(ms(1_000), ms(90));
    assert!(alone.sent.len() >= 9, "sends again");
}

#[test]
fn s6_8_3_a_shorter_wish_of_the_peer_is_honored_at_once() {
    let mut alone = Alone::up(timers(50, 100, 3));
    alone.peer.required_min_rx = 2_000_000;
    alone.hear(State::Up);
    alone.run_alive(ms(3_000), ms(90));
    let last = alone.sent.last().expect("a packet").0;
    alone.run_alive(ms(270), ms(90));
    alone.sent.clear();
    alone.peer.required_min_rx = 100_000;
    alone.say(|_| {});
    assert!(alone.now.since(last) > ms(100));
    assert_eq!(alone.session.poll_timeout().map(|at| at <= alone.now), Some(true), "overdue by the new interval");
    alone.run(ms(0));
    assert_eq!(alone.sent.len(), 1);
}

#[test]
fn s6_6_a_peer_in_demand_mode_is_left_in_peace_while_both_are_up() {
    let mut alone = Alone::up(timers(50, 100, 3));
    alone.peer.demand = true;
    alone.hear(State::Up);
    alone.sent.clear();
    alone.run_alive(ms(5_000), ms(90));
    assert_eq!(alone.sent.len(), 0);
    // Our own poll still goes out, periodically, until it is answered.
    alone.set(timers(80, 100, 3));
    alone.run_alive(ms(1_000), ms(90));
    assert!(alone.sent.len() > 8 && alone.sent.iter().all(|(_, p)| p.poll));
    alone.say(|c| c.is_final = true);
    alone.sent.clear();
    alone.run_alive(ms(1_000), ms(90));
    assert_eq!(alone.sent.len(), 0);
    // Silent, but not deaf.
    alone.run(ms(300));
    assert_eq!(alone.session.state(), State::Down);
}

#[test]
fn s6_1_a_passive_session_waits_to_be_spoken_to() {
    let params = Params { timers: timers(50, 100, 3), passive: true, local_discr: OURS, seed: 3 };
    let mut alone = Alone::with(params);
    alone.run(ms(10_000));
    assert_eq!(alone.sent.len(), 0);
    alone.hear(State::Down);
    assert_eq!((alone.sent.len(), alone.last().state, alone.last().your_discr), (1, State::Init, PEER));
    alone.run(ms(300));
    alone.sent.clear();
    alone.run(ms(10_000));
    assert_eq!(alone.sent.len(), 0, "the peer is gone: silent again");
}

#[test]
fn s6_8_7_a_change_is_told_at_once_and_only_once() {
    let mut alone = Alone::new(timers(300, 300, 3));
    alone.run(ms(100));
    alone.sent.clear();
    alone.hear(State::Down);
    assert_eq!(alone.sent.len(), 1);
    alone.hear(State::Down);
    assert_eq!(alone.sent.len(), 1, "nothing new, nothing sent");
    alone.hear(State::Init);
    assert_eq!((alone.sent.len(), alone.last().state), (2, State::Up));
}

#[test]
fn s6_8_6_a_restarted_peer_is_followed() {
    let mut alone = Alone::up(timers(50, 100, 3));
    alone.peer.my_discr = 0x5eed;
    alone.hear(State::Down);
    assert_eq!((alone.session.state(), alone.session.diag()), (State::Down, Diag::NEIGHBOR_DOWN));
    assert_eq!(alone.last().your_discr, 0x5eed);
    alone.hear(State::Init);
    assert_eq!(alone.session.state(), State::Up);
}

#[test]
fn s6_8_16_admin_down_is_told_with_its_reason_and_repeated() {
    let mut alone = Alone::up(timers(50, 100, 3));
    alone.session.admin_down(alone.now);
    alone.gather();
    let first = alone.last();
    assert_eq!((first.state, first.diag, first.poll), (State::AdminDown, Diag::ADMIN_DOWN, true));
    assert_eq!(first.desired_min_tx, 1_000_000);
    alone.run(ms(5_000));
    let gaps = alone.gaps();
    assert!(alone.sent.len() > 4 && alone.sent.iter().all(|(_, p)| p.state == State::AdminDown));
    assert!(gaps.iter().skip(1).all(|g| *g >= 750_000), "{gaps:?}");
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let run = |seed| {
        let params = Params { timers: timers(50, 50, 3), passive: false, local_discr: OURS, seed };
        let mut alone = Alone::with(params);
        alone.hear(State::Init);
        alone.run_alive(ms(5_000), ms(60));
        alone.sent
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_stalled_driver_does_not_catch_up_with_a_burst() {
    let mut alone = Alone::up(timers(100, 100, 3));
    alone.peer.detect_mult = 255;
    alone.hear(State::Up);
    alone.sent.clear();
    alone.now = alone.now + ms(2_000);
    alone.session.handle_timeout(alone.now);
    alone.gather();
    assert_eq!(alone.sent.len(), 1);
    assert!(alone.session.poll_timeout().expect("armed") >= alone.now + ms(75));
}
