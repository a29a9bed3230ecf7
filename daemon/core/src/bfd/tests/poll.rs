//! Poll Sequences: sections 6.5 and 6.8.3.

use super::{Alone, OURS, ms, timers};
use crate::wire::bfd::State;

#[test]
fn s6_5_every_poll_is_answered_at_once_in_every_state() {
    for state in [State::Down, State::Init, State::Up] {
        let mut alone = Alone::new(timers(300, 300, 3));
        match state {
            State::Init => alone.hear(State::Down),
            State::Up => alone.hear(State::Init),
            State::Down | State::AdminDown => {}
        }
        // What keeps each state as it is.
        let keeps = match state {
            State::Down => State::AdminDown,
            State::Init => State::Down,
            State::Up | State::AdminDown => State::Up,
        };
        alone.sent.clear();
        alone.peer.state = keeps;
        alone.peer.your_discr = OURS;
        alone.say(|c| c.poll = true);
        let answers: Vec<_> = alone.sent.iter().filter(|(_, p)| p.is_final).collect();
        assert_eq!(answers.len(), 1, "{state}");
        assert!(!answers[0].1.poll, "never both (section 6.5)");
        assert_eq!(answers[0].1.state, state);
    }
}

#[test]
fn s6_8_3_up_polls_for_the_faster_interval_until_the_final() {
    let mut alone = Alone::new(timers(50, 50, 3));
    alone.hear(State::Init);
    let first = alone.last();
    assert_eq!((first.state, first.poll, first.desired_min_tx), (State::Up, true, 50_000));
    alone.peer.state = State::Up;
    alone.run_alive(ms(900), ms(90));
    assert!(alone.sent.iter().filter(|(_, p)| p.state == State::Up).all(|(_, p)| p.poll));
    // Faster sending does not wait for the Final.
    assert_eq!(alone.session.transmit_interval(), Some(ms(100)));
    alone.say(|c| c.is_final = true);
    alone.sent.clear();
    alone.run_alive(ms(900), ms(90));
    assert!(!alone.sent.is_empty() && alone.sent.iter().all(|(_, p)| !p.poll));
}

#[test]
fn s6_8_3_slower_sending_waits_for_the_final() {
    let mut alone = Alone::up(timers(100, 100, 3));
    alone.set(timers(400, 100, 3));
    assert_eq!((alone.last().desired_min_tx, alone.last().poll), (400_000, true), "announced at once");
    alone.run_alive(ms(1_800), ms(90));
    assert_eq!(alone.session.transmit_interval(), Some(ms(100)), "and not in force");
    assert!(alone.gaps().iter().all(|g| *g <= 100_000), "{:?}", alone.gaps());
    alone.say(|c| c.is_final = true);
    assert_eq!(alone.session.transmit_interval(), Some(ms(400)));
}

#[test]
fn s6_8_3_faster_sending_is_in_force_at_once() {
    let mut alone = Alone::up(timers(400, 100, 3));
    alone.set(timers(150, 100, 3));
    assert!(alone.last().poll);
    assert_eq!(alone.session.transmit_interval(), Some(ms(150)));
}

#[test]
fn s6_8_3_a_shorter_detection_time_waits_for_the_final() {
    let mut alone = Alone::up(timers(100, 400, 3));
    alone.peer.desired_min_tx = 50_000;
    alone.hear(State::Up);
    assert_eq!(alone.session.detection_time(), Some(ms(1200)));
    alone.set(timers(100, 50, 3));
    assert_eq!((alone.last().required_min_rx, alone.last().poll), (50_000, true));
    alone.say(|_| {});
    assert_eq!(alone.session.detection_time(), Some(ms(1200)));
    alone.run(ms(1199));
    assert_eq!(alone.session.state(), State::Up, "the peer may still send at the old pace");
    alone.say(|c| c.is_final = true);
    assert_eq!(alone.session.detection_time(), Some(ms(150)));
}

#[test]
fn s6_8_3_a_longer_detection_time_is_in_force_at_once() {
    let mut alone = Alone::up(timers(100, 100, 3));
    alone.set(timers(100, 400, 3));
    assert!(alone.last().poll);
    assert_eq!(alone.session.detection_time(), Some(ms(1200)));
    alone.run(ms(1199));
    assert_eq!(alone.session.state(), State::Up);
    alone.run(ms(1));
    assert_eq!(alone.session.state(), State::Down);
}

#[test]
fn s6_8_3_a_second_change_waits_for_the_end_of_the_first_and_a_packet_without_final() {
    let mut alone = Alone::up(timers(100, 100, 3));
    alone.set(timers(400, 100, 3));
    alone.set(timers(200, 100, 3));
    assert_eq!(alone.last().desired_min_tx, 400_000, "one change per sequence");
    alone.say(|c| c.is_final = true);
    assert_eq!((alone.last().desired_min_tx, alone.last().poll), (200_000, false), "announced, and no poll yet");
    assert!(!alone.session.polling());
    alone.say(|c| c.is_final = true);
    assert!(!alone.session.polling(), "a late Final of the first sequence");
    alone.say(|_| {});
    assert_eq!((alone.last().desired_min_tx, alone.last().poll), (200_000, true));
    alone.say(|c| c.is_final = true);
    assert_eq!(alone.session.transmit_interval(), Some(ms(200)));
}

#[test]
fn s6_8_3_a_final_that_nobody_asked_for_changes_nothing() {
    let mut alone = Alone::up(timers(100, 100, 3));
    alone.sent.clear();
    alone.say(|c| c.is_final = true);
    assert!(alone.sent.is_empty() && alone.changes.is_empty());
}

#[test]
fn s6_8_12_a_new_multiplier_is_told_without_a_poll() {
    let mut alone = Alone::up(timers(100, 100, 3));
    alone.set(timers(100, 100, 5));
    assert_eq!((alone.last().detect_mult, alone.last().poll), (5, false));
    assert_eq!(alone.sent.len(), 1);
}

#[test]
fn s6_8_3_leaving_up_ends_what_waited() {
    let mut alone = Alone::up(timers(100, 400, 3));
    alone.set(timers(400, 100, 3));
    assert!(alone.session.polling());
    alone.hear(State::Down);
    assert_eq!((alone.last().state, alone.last().desired_min_tx), (State::Down, 1_000_000));
    assert_eq!(alone.session.transmit_interval(), Some(ms(1000)), "in force without a Final");
    assert_eq!(alone.session.detection_time(), Some(ms(300)));
    alone.hear(State::Init);
    assert_eq!((alone.last().state, alone.last().desired_min_tx), (State::Up, 400_000));
}

#[test]
fn a_poll_that_is_never_answered_holds_up_no_handshake() {
    // A peer that ignores Poll: Down polls for its second, Up must still come and be fast.
    let mut alone = Alone::up(timers(50, 100, 3));
    alone.hear(State::Down);
    alone.hear(State::Down);
    alone.hear(State::Init);
    assert_eq!(alone.session.state(), State::Up);
    assert_eq!(alone.last().desired_min_tx, 50_000);
    alone.hear(State::Up);
    assert_eq!(alone.session.transmit_interval(), Some(ms(100)));
}
