//! What the house adds to RFC 9568: the sick band and the one-way rule.

use super::harness::{active, advert, at, backup, centis, config, heard, ip, ip6, ns, role, run, take};
use super::*;

const A: Duration = Duration::from_millis(100);

/// (own priority, heard priority) -> takes over after skew, whatever Preempt_Mode says.
const SICK: [(u8, u8, bool); 6] =
    [(200, 60, true), (100, 99, true), (254, 1, true), (60, 50, false), (99, 1, false), (200, 100, false)];

#[test]
fn sick_band_only_the_healthy_take_from_the_sick_and_only_after_skew() {
    for (own, other, takes) in SICK {
        for preempt in [false, true] {
            if preempt && other >= HEALTHY_MIN {
                continue;
            }
            let mut machine = backup(VrrpConfig { preempt, ..config(own) });
            machine.handle_advert(heard(ip(9), other), at(10));
            let wait = if takes { machine.skew() } else { machine.active_down_interval() };
            assert_eq!(machine.poll_timeout(), Some(at(10) + wait), "own {own}, heard {other}, preempt {preempt}");
            // Each further advert of the sick Active changes nothing for one that takes, and all for one that does not.
            machine.handle_advert(heard(ip(9), other), at(10) + wait / 2);
            let want = if takes { at(10) + wait } else { at(10) + wait / 2 + wait };
            assert_eq!(machine.poll_timeout(), Some(want), "own {own}, heard {other}, preempt {preempt}");
            let owed = run(&mut machine, want);
            let reason = if takes { Reason::SickActive } else { Reason::ActiveDown };
            assert_eq!(owed[0].1, role(Role::Backup, Role::Active, reason));
        }
    }
}

#[test]
fn sick_band_best_healthy_backup_is_first() {
    let due = |p: u8| {
        let mut machine = backup(config(p));
        machine.handle_advert(heard(ip(9), 60), at(10));
        machine.poll_timeout().expect("armed")
    };
    assert!(due(254) < due(206) && due(206) < due(158) && due(158) < due(110));
}

#[test]
fn sick_band_pending_takeover_is_cancelled_by_another_healthy_owner() {
    let mut machine = backup(config(158));
    machine.handle_advert(heard(ip(9), 60), at(10));
    machine.handle_advert(heard(ip(8), 206), at(20));
    assert_eq!(machine.poll_timeout(), Some(at(20) + machine.active_down_interval()));
    let owed = run(&mut machine, at(2000));
    assert_eq!(owed[0].1, role(Role::Backup, Role::Active, Reason::ActiveDown), "the pending reason is gone too");
}

#[test]
fn sick_band_a_displaced_owner_is_not_taken_over_from() {
    let mut machine = backup(config(110));
    machine.handle_advert(heard(ip(8), 206), at(10));
    let due = at(10) + machine.active_down_interval();
    machine.handle_advert(heard(ip(9), 60), at(20));
    assert_eq!((machine.poll_timeout(), machine.owner().map(|o| o.address)), (Some(due), Some(ip(8))));
    // Once the fence of the healthy one has closed, the sick one that advertises is the owner.
    machine.handle_advert(heard(ip(9), 60), at(10) + fence::window(centis(10)));
    assert_eq!(machine.poll_timeout(), Some(at(10) + fence::window(centis(10)) + machine.skew()));
}

#[test]
fn fence_that_was_taken_by_another_node_makes_a_backup() {
    let (mut machine, now) = active(config(60));
    machine.overtaken(now);
    assert_eq!(take(&mut machine), [role(Role::Active, Role::Backup, Reason::Overtaken)]);
    assert_eq!(machine.poll_timeout(), Some(now + machine.active_down_interval()));
    machine.overtaken(now);
    assert_eq!(take(&mut machine), [], "a Backup is not deposed");
    machine.handle_advert(heard(ip(9), 200), now);
    assert_eq!(take(&mut machine), [Output::Rival { source: ip(9), priority: 200 }], "whose advert it was is told");
    machine.handle_advert(heard(ip(9), 200), now);
    assert_eq!(take(&mut machine), [], "once");
}

#[test]
fn sick_band_recovery_while_the_active_is_sick_takes_over() {
    let mut machine = backup(config(60));
    machine.handle_advert(heard(ip(9), 50), at(10));
    machine.reconfigure(config(200), at(40));
    assert_eq!(machine.poll_timeout(), Some(ns(40_000_000 + 21_875_000)));
    // Not when the Active is healthy.
    let mut other = backup(config(60));
    other.handle_advert(heard(ip(9), 110), at(10));
    let before = other.poll_timeout();
    other.reconfigure(config(200), at(40));
    assert_eq!(other.poll_timeout(), before);
}

#[test]
fn sick_band_a_backup_that_falls_sick_drops_its_takeover() {
    let mut machine = backup(config(200));
    machine.handle_advert(heard(ip(9), 50), at(10));
    machine.reconfigure(config(60), at(15));
    assert_eq!(machine.poll_timeout(), Some(at(15) + machine.active_down_interval()));
}

#[test]
fn sick_band_active_tells_its_new_priority_at_once() {
    let (mut machine, start) = active(config(200));
    machine.reconfigure(config(60), start + A / 4);
    assert_eq!(take(&mut machine), [advert(60)]);
    machine.reconfigure(config(60), start + A / 2);
    assert_eq!(take(&mut machine), [], "the same again is no change");
}

/// Adverts of a lower-priority rival from `start` every `A`, until `n` were heard; deadlines in between are served.
fn rival_persists(machine: &mut Vrrp, sources: &[IpAddr], start: Instant, n: u32) -> Vec<(Instant, Output)> {
    let mut owed = Vec::new();
    for i in 0..n {
        let now = start + A * i;
        owed.extend(run(machine, Instant::from_nanos(now.as_nanos() - 1)));
        for source in sources {
            machine.handle_advert(heard(*source, 110), now);
        }
        owed.extend(take(machine).into_iter().map(|o| (now, o)));
        machine.handle_timeout(now);
        owed.extend(take(machine).into_iter().map(|o| (now, o)));
    }
    owed
}

fn one_way_at(owed: &[(Instant, Output)]) -> Option<Instant> {
    owed.iter().find(|(_, o)| *o == role(Role::Active, Role::Backup, Reason::OneWay)).map(|(at, _)| *at)
}

#[test]
fn one_way_yields_at_two_intervals_and_not_before() {
    let (mut machine, start) = active(config(200));
    let first = start + A / 3;
    let owed = rival_persists(&mut machine, &[ip(9)], first, 3);
    assert_eq!(one_way_at(&owed), Some(first + A * 2));
    assert_eq!(machine.owner().map(|o| o.address), Some(ip(9)));
}

#[test]
fn one_way_counts_a_dual_stack_rival_once() {
    let (mut machine, start) = active(config(200));
    let first = start + A / 3;
    let owed = rival_persists(&mut machine, &[ip(9), ip6(9)], first, 3);
    assert_eq!(one_way_at(&owed), Some(first + A * 2));
    let mut v6_first = active(config(200)).0;
    let owed = rival_persists(&mut v6_first, &[ip6(9), ip(9)], first, 3);
    assert_eq!(one_way_at(&owed), Some(first + A * 2));
}

#[test]
fn one_way_a_second_rival_does_not_keep_the_first_one_alive() {
    let (mut machine, start) = active(config(200));
    let first = start + A / 3;
    let owed = rival_persists(&mut machine, &[ip(9), ip(8)], first, 3);
    assert_eq!(one_way_at(&owed), Some(first + A * 2));
}

#[test]
fn one_way_a_first_rival_that_gives_way_does_not_delay_the_second() {
    let (mut machine, start) = active(config(200));
    let first = start + A / 3;
    // Two others claimed at once: one hears the other and gives way, the one that is left does not hear us.
    machine.handle_advert(heard(ip(8), 110), first);
    let owed = rival_persists(&mut machine, &[ip(9)], first, 3);
    assert_eq!(one_way_at(&owed), Some(first + A * 2));
    assert_eq!(machine.owner().map(|o| o.address), Some(ip(9)));
}

#[test]
fn one_way_not_for_a_rival_that_heard_us() {
    let (mut machine, start) = active(config(200));
    // Its advert crossed ours, one more was on the way, then it is quiet.
    machine.handle_advert(heard(ip(9), 110), start + A / 3);
    machine.handle_advert(heard(ip(9), 110), start + A / 3 + A / 4);
    let owed = run(&mut machine, start + A * 20);
    assert_eq!((one_way_at(&owed), machine.role()), (None, Role::Active));
}

#[test]
fn one_way_waits_two_intervals_of_a_slower_rival() {
    let (mut machine, start) = active(config(200));
    let slow = |last| Heard { interval: centis(100), ..heard(ip(last), 110) };
    machine.handle_advert(slow(9), start);
    let mut owed = run(&mut machine, start + A * 10);
    machine.handle_advert(slow(9), start + A * 10);
    owed.extend(run(&mut machine, start + A * 20));
    assert_eq!(one_way_at(&owed), Some(start + A * 20));
    assert_eq!(machine.poll_timeout(), Some(start + A * 20 + machine.active_down_interval()));
    assert_eq!(machine.active_down_interval(), Duration::from_nanos(3_218_750_000), "its interval is learned");
}

#[test]
fn one_way_never_with_strict_rfc() {
    let (mut machine, start) = active(VrrpConfig { strict_rfc: true, ..config(200) });
    let owed = rival_persists(&mut machine, &[ip(9)], start + A / 3, 50);
    assert_eq!((one_way_at(&owed), machine.role()), (None, Role::Active));
    let asserted = owed.iter().filter(|(_, o)| *o == advert(200)).count();
    assert!(asserted >= 50, "every advert of the rival is answered: {asserted}");
}

/// Yielded to 10.9.0.9; returns when.
fn yielded(config: VrrpConfig, sources: &[IpAddr]) -> (Vrrp, Instant) {
    let (mut machine, start) = active(config);
    let first = start + A / 3;
    let owed = rival_persists(&mut machine, sources, first, 3);
    (machine, one_way_at(&owed).expect("yields"))
}

#[test]
fn one_way_stays_backup_while_it_hears_the_rival_even_with_preempt() {
    for sources in [&[ip(9)][..], &[ip(9), ip6(9)], &[ip6(9), ip(9)]] {
        let (mut machine, start) = yielded(VrrpConfig { preempt: true, ..config(200) }, sources);
        for i in 1..100 {
            let now = start + A * i;
            assert_eq!(run(&mut machine, now), [], "round {i}");
            for source in sources {
                machine.handle_advert(heard(*source, 60), now);
            }
        }
        assert_eq!(machine.role(), Role::Backup);
    }
}

#[test]
fn one_way_takes_over_again_when_the_rival_is_silent() {
    let (mut machine, start) = yielded(config(200), &[ip(9)]);
    let owed = run(&mut machine, start + A * 4);
    assert_eq!(
        owed[0],
        (start + Duration::from_nanos(321_875_000), role(Role::Backup, Role::Active, Reason::ActiveDown))
    );
}

#[test]
fn one_way_preempts_the_rival_again_after_a_break() {
    let (mut machine, start) = yielded(VrrpConfig { preempt: true, ..config(200) }, &[ip(9)]);
    // A higher node owns for a while, then the former rival again: now it is one like others.
    let mut now = start;
    for _ in 0..10 {
        now = now + A;
        assert_eq!(run(&mut machine, now), []);
        machine.handle_advert(heard(ip(7), 254), now);
    }
    for _ in 0..3 {
        now = now + A;
        machine.handle_advert(heard(ip(9), 110), now);
    }
    let owed = run(&mut machine, now + A);
    assert_eq!(owed.first().map(|(_, o)| *o), Some(role(Role::Backup, Role::Active, Reason::ActiveDown)));
}
