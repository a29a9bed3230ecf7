//! One rule, one test.

use super::super::Path;
use super::super::io::{Carriage, Direction, Event, Evidence, Silence};
use super::{MS, Pair, config, second};
use crate::site::policy::score;

/// A pair that is up, ten seconds old.
fn up(delay: u64) -> Pair {
    let mut pair = Pair::new(delay);
    pair.run(10_000);
    assert!(pair.ends.iter().all(|p| p.status().carriage == Carriage::Up && p.status().flows_up == 6));
    pair
}

#[test]
fn total_loss_is_down_within_600_ms_and_ten_good_seconds_are_up() {
    for cut in [10_000, 10_033, 10_090] {
        let mut pair = up(10);
        pair.passes = Box::new(move |_, _, _, t| !(cut..cut + 5000).contains(&t));
        pair.run(30_000);
        for end in 0..2 {
            let events: Vec<_> = pair.since(10_000).into_iter().filter(|e| e.1 == end).collect();
            let [(down, _, Event::Down { silence: Silence::In, silent }), (again, _, Event::Up)] = events[..] else {
                panic!("{events:?}")
            };
            assert!((450..=600).contains(&(down - cut)), "{down}");
            assert!((0.5..0.6).contains(&silent), "{silent}");
            assert!((14_500..=16_500).contains(&(again - cut)), "{again}");
        }
    }
}

#[test]
fn what_exists_is_carried_again_a_second_after_a_cut_and_not_while_one_way_is_silent() {
    let mut pair = up(10);
    // 3 s without anything, 3 s with loss of a third, 3 s with nothing from one to the other, and then all.
    pair.passes = Box::new(|from, _, flow, t| match t {
        10_000..13_000 => false,
        13_000..16_000 => flow % 3 != 0,
        16_000..19_000 => from == 1,
        _ => true,
    });
    let seen = |pair: &Pair| {
        pair.ends.each_ref().map(|end| (matches!(end.status().carriage, Carriage::Down(_)), end.status().returning))
    };
    pair.run(2_900);
    assert_eq!(seen(&pair), [(true, false); 2]);
    pair.run(2_000);
    assert_eq!(seen(&pair), [(true, true); 2], "1.9 s after the cut");
    pair.run(1_000);
    assert_eq!(seen(&pair), [(true, true); 2]);
    pair.run(2_500);
    assert_eq!(seen(&pair), [(true, false); 2], "each end knows of the other's silence");
    pair.run(5_000);
    assert_eq!(seen(&pair), [(true, true); 2]);
    pair.run(10_000);
    assert_eq!(seen(&pair), [(false, false); 2], "it is up");
}

#[test]
fn loss_one_way_is_named_by_both_ends() {
    let mut pair = up(10);
    pair.passes = Box::new(|from, _, _, t| from == 0 || t < 10_000);
    pair.run(2000);
    let down: Vec<_> = pair.since(10_000);
    let [(a, x, Event::Down { silence: s, .. }), (b, y, Event::Down { silence: r, .. })] = down[..] else {
        panic!("{down:?}")
    };
    assert!(a <= 10_600 && b <= 10_600, "{down:?}");
    let mut named = [(x, s), (y, r)];
    named.sort_by_key(|(end, _)| *end);
    assert_eq!(named, [(0, Silence::In), (1, Silence::Out)], "nothing of end 1 arrives");
}

#[test]
fn one_silent_flow_is_a_flow_and_not_a_path() {
    let mut pair = up(10);
    pair.passes = Box::new(|_, _, flow, _| flow != 3);
    pair.run(3000);
    assert!(pair.since(10_000).iter().all(|(_, _, e)| !matches!(e, Event::Down { .. })));
    // Five intervals of silence, the interval in which it is looked at, and the way.
    assert!(pair.events.iter().any(|(at, end, e)| *at < 10_650 && *end == 0 && *e == Event::FlowDown { flow: 3 }));
    assert_eq!((pair.ends[0].status().flows_up, pair.ends[0].status().flows), (5, 0b11_0111));
}

#[test]
fn loss_on_the_way_out_is_seen_by_the_end_that_sends() {
    let mut pair = up(10);
    // Each fifth 17 ms of end 0 is lost: 20 % in short holes, one direction only.
    pair.passes = Box::new(|from, _, _, t| from == 1 || t / 17 % 5 != 0);
    pair.run(8000);
    let raised: Vec<_> = pair.since(10_000);
    let seen = |end, way| {
        raised
            .iter()
            .any(|(_, e, event)| *e == end && matches!(event, Event::Brownout { direction, .. } if *direction == way))
    };
    assert!(seen(0, Direction::Out) && seen(1, Direction::In), "{raised:?}");
    assert!(!seen(0, Direction::In) && !seen(1, Direction::Out), "{raised:?}");
    let loss = pair.ends[0].status().loss_out;
    assert!((0.1..0.3).contains(&loss), "{loss}");
    assert!(pair.ends[0].status().loss_in == 0.0);
}

#[test]
fn nothing_recorded_counts_after_a_restart_or_twice() {
    let mut pair = up(10);
    let tape = pair.tape.clone();
    let before = pair.ends[1].status();
    // The same run: every copy is known.
    for (flow, payload) in &tape[tape.len() - 60..] {
        let now = pair.at();
        pair.ends[1].handle_packet(*flow, payload, now);
    }
    let after = pair.ends[1].status();
    assert_eq!(after.refused.replayed - before.refused.replayed, 60);
    // End 1 starts again while end 0 is gone: its tape must not make a path.
    pair.ends[1] = Path::new(config(2, 1), 0xcccc, 9, pair.at());
    pair.passes = Box::new(|_, _, _, _| false);
    for (flow, payload) in &tape {
        pair.run(5);
        let now = pair.at();
        pair.ends[1].handle_packet(*flow, payload, now);
    }
    let status = pair.ends[1].status();
    assert_eq!(status.carriage, Carriage::Unknown);
    assert_eq!((status.flows_up, status.refused.stale), (0, tape.len() as u64));
}

#[test]
fn recorded_packets_of_an_old_run_do_not_disturb_a_living_path() {
    let mut pair = Pair::new(10);
    pair.run(5000);
    let tape = pair.tape.clone();
    pair.ends[0] = Path::new(config(1, 2), 0xdddd, 3, pair.at());
    pair.run(20_000);
    let from = pair.now / MS;
    for (flow, payload) in tape.iter().cycle().take(4000) {
        pair.run(3);
        let now = pair.at();
        pair.ends[1].handle_packet(*flow, payload, now);
    }
    assert_eq!(pair.since(from), []);
    assert!(pair.ends.iter().all(|p| p.status().loss_in == 0.0 && p.status().loss_out == 0.0));
}

#[test]
fn a_restart_of_one_end_does_not_look_like_loss() {
    let mut pair = up(10);
    pair.ends[0] = Path::new(config(1, 2), 0xeeee, 3, pair.at());
    pair.run(20_000);
    assert_eq!(pair.since(10_000), [(pair.since(10_000)[0].0, 0, Event::Up)], "the new process alone has news");
}

#[test]
fn traffic_slows_probes_and_its_end_brings_them_back() {
    let mut pair = up(10);
    pair.traffic = Some(Evidence { acknowledged: 200, again: 1 });
    pair.run(4000);
    assert!(pair.ends.iter().all(|p| p.status().suppressed));
    let before = pair.sent;
    pair.run(30_000);
    let rate = (pair.sent[0] - before[0]) as f64 / 30.0;
    assert!((0.8..1.6).contains(&rate), "{rate} probes a second");
    pair.traffic = None;
    pair.run(1000);
    assert!(pair.ends.iter().all(|p| !p.status().suppressed));
    pair.run(20_000);
    assert_eq!(pair.since(10_000), [], "a pause in traffic is no news");
}

#[test]
fn an_end_that_has_not_heard_that_the_other_one_rests_does_not_take_it_for_silence() {
    let mut pair = up(10);
    pair.traffic = Some(Evidence { acknowledged: 200, again: 0 });
    // Both could rest from 12.0 s on, and end 1 does. That it does not want the probes of end 0 any more is lost on one flow.
    pair.passes = Box::new(|from, _, flow, t| !(from == 1 && flow == 3 && (12_000..12_400).contains(&t)));
    pair.run(3000);
    assert_eq!([0, 1].map(|end: usize| pair.ends[end].status().suppressed), [false, true]);
    pair.run(7000);
    assert!(pair.ends.iter().all(|p| p.status().suppressed));
    assert_eq!(pair.since(10_000), []);
}

#[test]
fn a_probe_that_is_lost_while_they_are_few_or_silence_brings_all_back_whatever_traffic_says() {
    let mut pair = up(10);
    pair.traffic = Some(Evidence { acknowledged: 200, again: 0 });
    pair.run(10_000);
    assert!(pair.ends.iter().all(|p| p.status().suppressed));
    // One probe of end 0 each second: one is lost.
    pair.passes = Box::new(|from, len, _, t| from == 1 || len > 100 || !(20_000..21_000).contains(&t));
    pair.run(5000);
    assert!(pair.ends.iter().all(|p| p.status().suppressed), "the next one of its flow will tell");
    pair.run(7000);
    assert!(pair.ends.iter().all(|p| !p.status().suppressed));
    pair.run(11_000);
    assert!(pair.ends.iter().all(|p| p.status().suppressed));
    let cut = pair.now / MS;
    pair.passes = Box::new(|_, _, _, _| false);
    pair.run(4000);
    let down = pair.since(10_000);
    assert!(down.iter().all(|(at, _, e)| at - cut <= 3200 && matches!(e, Event::Down { .. })), "{down:?}");
    assert_eq!(down.len(), 2, "{down:?}");
}

#[test]
fn a_cut_under_traffic_is_down_within_700_ms_and_bad_traffic_wakes_the_probes() {
    let mut pair = up(10);
    pair.traffic = Some(Evidence { acknowledged: 200, again: 0 });
    pair.run(10_000);
    pair.traffic = Some(Evidence { acknowledged: 200, again: 20 });
    pair.run(300);
    assert!(!pair.ends[0].status().suppressed, "10 % sent again");
    pair.traffic = Some(Evidence { acknowledged: 200, again: 0 });
    pair.run(20_000);
    assert!(pair.ends[0].status().suppressed);
    let cut = pair.now / MS;
    pair.traffic = None;
    pair.passes = Box::new(|_, _, _, _| false);
    pair.run(1000);
    let down: Vec<_> = pair.since(cut);
    assert_eq!(down.len(), 2, "{down:?}");
    assert!(down.iter().all(|(at, _, e)| at - cut <= 700 && matches!(e, Event::Down { .. })), "{down:?}");
}

#[test]
fn a_black_hole_for_large_packets_is_found_and_is_not_loss() {
    let mut pair = up(10);
    pair.passes = Box::new(|_, len, _, _| len + 28 <= 1400);
    pair.run(40_000);
    let events = pair.since(10_000);
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events.iter().all(|(_, _, e)| *e == Event::Mtu { from: 1500, to: 1400 }), "{events:?}");
    assert!(events.iter().all(|(at, _, _)| *at <= 45_000), "F13: 35 s");
    assert_eq!(pair.ends[0].status().mtu, 1400);
}

#[test]
fn a_longer_round_trip_is_inflation_and_never_down() {
    for later in (0..5000).step_by(500) {
        let mut pair = up(10);
        pair.run(60_000 + later);
        let from = pair.now / MS;
        pair.delay = 40;
        pair.run(60_000);
        let events = pair.since(from);
        assert_eq!(events.len(), 2, "{events:?}");
        let inflated = |e: &Event| matches!(e, Event::Inflated { factor } if *factor > 3.99);
        assert!(events.iter().all(|(at, _, e)| *at <= from + 15_000 && inflated(e)), "F12: {from}: {events:?}");
        assert!(pair.ends.iter().all(|p| score::path(&p.status()) < 0.301), "F12: what it weighs");
    }
}

#[test]
fn forged_datagrams_are_counted_and_change_nothing() {
    let mut pair = up(10);
    let now = pair.at() + second() / 100;
    pair.ends[0].handle_packet(0, &[0; 44], now);
    pair.ends[0].handle_packet(0, b"short", now);
    let (flow, own) = pair.tape.last().cloned().expect("it sent");
    pair.ends[0].handle_packet(flow, &own, now);
    pair.ends[1].handle_packet(flow + 1, &own, now);
    let (a, b) = (pair.ends[0].status().refused, pair.ends[1].status().refused);
    assert_eq!((a.tag, a.malformed, b.flow), (2, 1, 1));
}
