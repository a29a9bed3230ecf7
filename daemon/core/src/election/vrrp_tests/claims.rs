//! What the house adds to RFC 9568: claims that end with their fence, change of interval, grants, dual stack.

use super::harness::{active, advert, at, backup, centis, config, heard, ip, ip6, ns, role, run, take};
use super::*;

const A: Duration = Duration::from_millis(100);

#[test]
fn fence_deadline_follows_every_advert() {
    let (machine, start) = active(config(200));
    assert_eq!(machine.fence_deadline(), Some(start + Duration::from_millis(275)));
    let (unfenced, _) = active(VrrpConfig { fenced: false, ..config(200) });
    assert_eq!(unfenced.fence_deadline(), None);
}

#[test]
fn fence_expiry_steps_down_before_anything_else() {
    let late = Duration::from_millis(275);
    let step = role(Role::Active, Role::Backup, Reason::FenceExpired);
    // A late loop: the advert is overdue as well, and must not leave.
    let (mut machine, start) = active(config(200));
    machine.handle_timeout(start + late);
    assert_eq!(take(&mut machine), [step]);
    assert_eq!(machine.poll_timeout(), Some(start + late + machine.active_down_interval()));
    // An unread advert: it is heard as a Backup, so it is neither a rival nor answered.
    let (mut machine, start) = active(config(200));
    machine.handle_advert(heard(ip(9), 110), start + late);
    assert_eq!(take(&mut machine), [step]);
    assert_eq!(machine.owner().map(|o| o.address), Some(ip(9)));
    // One nanosecond earlier nothing is lost.
    let (mut machine, start) = active(config(200));
    machine.handle_timeout(ns((start + late).as_nanos() - 1));
    assert_eq!(take(&mut machine), [advert(200)]);
}

#[test]
fn fence_found_closed_steps_down() {
    let (mut machine, start) = active(config(200));
    machine.fence_closed(start + A);
    assert_eq!(take(&mut machine), [role(Role::Active, Role::Backup, Reason::FenceExpired)]);
    machine.fence_closed(start + A);
    assert_eq!(take(&mut machine), []);
}

#[test]
fn fence_that_goes_away_under_an_active_does_not_step_it_down() {
    let (mut machine, start) = active(config(200));
    machine.reconfigure(VrrpConfig { fenced: false, ..config(200) }, start + A / 2);
    let owed = run(&mut machine, start + A * 10);
    assert_eq!((machine.role(), machine.fence_deadline()), (Role::Active, None));
    assert!(owed.iter().all(|(_, o)| *o == advert(200)), "{owed:?}");
}

#[test]
fn fence_that_comes_under_an_active_is_proven_by_an_advert_at_once() {
    let (mut machine, start) = active(VrrpConfig { fenced: false, ..config(200) });
    machine.reconfigure(config(200), start + A / 2);
    assert_eq!(take(&mut machine).last(), Some(&advert(200)));
    assert_eq!(machine.fence_deadline(), Some(start + A / 2 + Duration::from_millis(275)));
}

#[test]
fn an_advert_that_did_not_leave_extends_nothing() {
    let (mut machine, start) = active(config(200));
    assert_eq!(run(&mut machine, start + A).len(), 1);
    assert_eq!(machine.fence_deadline(), Some(start + A + Duration::from_millis(275)));
    machine.advert_failed();
    assert_eq!(machine.fence_deadline(), Some(start + Duration::from_millis(275)));
    machine.advert_failed();
    assert_eq!(machine.fence_deadline(), Some(start + Duration::from_millis(275)), "the other family's failure");
    for i in [2, 3] {
        machine.handle_timeout(start + A * i);
        machine.advert_failed();
    }
    assert_eq!(machine.role(), Role::Backup, "275 ms without a single advert on the wire");
}

#[test]
fn a_longer_interval_binds_one_round_later() {
    let (mut machine, start) = active(config(200));
    let long = |cs| Output::SendAdvert { priority: 200, interval: centis(cs) };
    machine.reconfigure(VrrpConfig { interval: centis(100), ..config(200) }, start + A / 2);
    assert_eq!(take(&mut machine), [long(100)]);
    assert_eq!(machine.fence_deadline(), Some(start + A / 2 + Duration::from_millis(275)), "the shorter holds");
    assert_eq!(machine.advert_due(), Some(start + A / 2 + A));
    let owed = run(&mut machine, start + A / 2 + A);
    assert_eq!(owed, [(start + A / 2 + A, long(100))]);
    assert_eq!(machine.advert_due(), Some(start + A / 2 + A * 11));
    assert_eq!(machine.fence_deadline(), Some(start + A / 2 + A + Duration::from_millis(2750)));
    // The way back is immediate.
    machine.reconfigure(config(200), start + A * 3);
    assert_eq!(machine.fence_deadline(), Some(start + A * 3 + Duration::from_millis(275)));
    assert_eq!(machine.advert_due(), Some(start + A * 4));
}

#[test]
fn a_granted_claim_is_immediate_and_survives_the_advert_that_crosses_it() {
    let mut machine = backup(config(110));
    machine.handle_advert(heard(ip(9), 254), at(10));
    machine.claim(machine.granter(ip(9)), at(200), at(20));
    assert_eq!(take(&mut machine), [role(Role::Backup, Role::Active, Reason::Handover), advert(110)]);
    machine.handle_advert(heard(ip(9), 254), at(21));
    assert_eq!(take(&mut machine), [advert(110)], "said again, in case the first was lost");
    machine.handle_advert(heard(ip(9), 254), at(22));
    assert_eq!(take(&mut machine), [], "once: the granter answers each of ours");
    machine.handle_timeout(at(40));
    machine.handle_advert(heard(ip(9), 254), at(41));
    assert_eq!(machine.role(), Role::Backup, "the grace is as long as a frame may be under way");
}

#[test]
fn the_grace_after_a_grant_is_the_granters_alone() {
    for (source, priority, stays) in [
        (ip(9), 200, true),
        // The same node in the other family.
        (ip6(9), 206, true),
        // A third node preempts: whoever waits out the grace here answers beside it.
        (ip(4), 254, false),
        (ip6(4), 254, false),
    ] {
        let mut machine = backup(config(110));
        machine.handle_advert(heard(ip(9), 206), at(10));
        machine.claim(machine.granter(ip(9)), at(200), at(20));
        machine.handle_advert(heard(source, priority), at(21));
        assert_eq!(machine.role() == Role::Active, stays, "{source} with {priority}");
    }
}

#[test]
fn in_the_grace_a_fence_closed_by_the_granters_advert_ends_nothing() {
    let mut machine = backup(config(110));
    machine.handle_advert(heard(ip(9), 206), at(10));
    machine.claim(machine.granter(ip(9)), at(200), at(20));
    machine.overtaken(at(20));
    machine.handle_advert(heard(ip(9), 206), at(20));
    assert_eq!(machine.role(), Role::Active, "the advert was the granter's");
    machine.overtaken(at(20));
    machine.handle_advert(heard(ip(4), 254), at(20));
    assert_eq!(machine.role(), Role::Backup, "the advert was a third node's");
    let mut machine = backup(config(110));
    machine.claim(machine.granter(ip(9)), at(200), at(20));
    machine.handle_timeout(at(40));
    machine.overtaken(at(41));
    assert_eq!(machine.role(), Role::Backup, "an advert that never came through our socket");
}

#[test]
fn a_grant_counts_for_a_backup_only() {
    let mut machine = Vrrp::new(config(110));
    machine.claim(machine.granter(ip(9)), at(200), at(1));
    assert_eq!((machine.role(), take(&mut machine)), (Role::Initialize, vec![]));
}

#[test]
fn the_granter_follows_its_successor_whatever_the_priorities() {
    let (mut machine, start) = active(config(254));
    machine.handed_over(Heard { interval: centis(100), ..heard(ip(9), 110) }, start + A / 2);
    assert_eq!(take(&mut machine), [role(Role::Active, Role::Backup, Reason::Handover)]);
    assert_eq!(machine.owner().map(|o| (o.address, o.priority)), Some((ip(9), 110)));
    assert_eq!(machine.poll_timeout(), Some(start + A / 2 + Duration::from_nanos(3_007_812_500)), "by its interval");
}

#[test]
fn hold_off_only_postpones() {
    let mut machine = backup(config(200));
    machine.hold_off(centis(20), at(100));
    assert_eq!(machine.poll_timeout(), Some(ns(100_000_000 + 600_000_000 + 21_875_000)));
    // A fast foreign router must not shorten the wait for our own, slower Active.
    machine.handle_advert(Heard { interval: centis(100), ..heard(ip(9), 254) }, at(200));
    let before = machine.poll_timeout();
    machine.hold_off(centis(1), at(300));
    assert_eq!(machine.poll_timeout(), before);
    // It cancels a take-over that was under way.
    machine.handle_advert(heard(ip(9), 0), at(400));
    machine.hold_off(centis(100), at(401));
    let owed = run(&mut machine, at(9000));
    assert!(owed[0].0 > at(3400), "{owed:?}");
    assert_eq!(owed[0].1, role(Role::Backup, Role::Active, Reason::ActiveDown));
}

#[test]
fn dual_stack_owner_is_named_by_the_main_family() {
    let mut machine = backup(config(110));
    let owner = |m: &Vrrp| m.owner().map(|o| (o.address, o.priority));
    for i in 0..5 {
        machine.handle_advert(heard(ip6(9), 254), at(100 * i));
        machine.handle_advert(heard(ip(9), 254), at(100 * i));
        machine.handle_advert(heard(ip6(9), 253), at(100 * i + 1));
        assert_eq!(owner(&machine), Some((ip(9), 253)));
    }
    machine.handle_advert(heard(ip6(9), 0), at(500));
    assert_eq!(owner(&machine), None);
    let mut v6 = backup(VrrpConfig { family: Family::V6, ..config(110) });
    v6.handle_advert(heard(ip(9), 254), at(0));
    assert_eq!(owner(&v6), Some((ip(9), 254)), "better than nobody");
    v6.handle_advert(heard(ip6(9), 254), at(0));
    v6.handle_advert(heard(ip(9), 254), at(100));
    assert_eq!(owner(&v6), Some((ip6(9), 254)));
    // Its main family is silent: it is named by what is heard.
    for i in 2..6 {
        v6.handle_advert(heard(ip(9), 254), at(100 * i));
    }
    assert_eq!(owner(&v6), Some((ip(9), 254)));
}

#[test]
fn dual_stack_tie_is_settled_in_the_main_family_only() {
    // We are .5 in both families; the other is higher in IPv6 and lower in IPv4: it gives way, we do not.
    let (mut machine, start) = active(config(200));
    machine.handle_advert(heard(ip6(9), 200), start);
    assert_eq!(
        take(&mut machine),
        [Output::Rival { source: ip6(9), priority: 200 }, Output::Announce { settled: false }],
        "no answer that would be answered"
    );
    machine.handle_advert(heard(ip(4), 200), start);
    let rival = Output::Rival { source: ip(4), priority: 200 };
    assert_eq!(take(&mut machine), [rival, Output::Announce { settled: false }, advert(200)]);
    let owed = run(&mut machine, start + A * 10);
    let settled = Output::Announce { settled: true };
    assert!(owed.iter().all(|(_, o)| *o == advert(200) || *o == settled), "{owed:?}");
}

#[test]
fn dual_stack_tie_is_settled_in_the_other_family_when_the_main_one_is_silent() {
    for (last, stays) in [(9, false), (4, true)] {
        let (mut machine, start) = active(config(200));
        for i in 0..3 {
            let _ = run(&mut machine, start + A * i);
            machine.handle_advert(heard(ip6(last), 200), start + A * i);
        }
        let _ = run(&mut machine, start + A * 2);
        assert_eq!(machine.role() == Role::Active, stays, "fe80::{last}");
    }
}

#[test]
fn announces_at_once_when_contested_and_again_when_it_has_won() {
    let (mut machine, start) = active(config(206));
    machine.handle_advert(heard(ip(9), 110), start);
    machine.handle_advert(heard(ip(9), 110), start + A / 4);
    let contested = take(&mut machine).into_iter().filter(|o| *o == Output::Announce { settled: false }).count();
    assert_eq!(contested, 1, "once: a rival that cannot hear us will own, its announcements must be the last");
    let won = run(&mut machine, start + A * 5);
    let at: Vec<_> = won.iter().filter(|(_, o)| *o == Output::Announce { settled: true }).map(|(at, _)| *at).collect();
    assert_eq!(at, [start + A * 2]);
}

#[test]
fn a_failed_release_arms_nothing() {
    let (mut machine, start) = active(config(200));
    let _ = run(&mut machine, start + A * 3);
    assert_eq!(machine.advert_deadline(), Some(start + A * 2 + crate::fence::window(centis(10))));
    machine.stop(Reason::Stopped, true);
    assert_eq!(machine.advert_deadline(), None);
    machine.advert_failed();
    assert_eq!((machine.role(), machine.poll_timeout()), (Role::Initialize, None));
}

#[test]
fn a_granted_claim_lasts_until_its_time_unless_its_advert_leaves_before() {
    let mut machine = backup(config(110));
    machine.claim(machine.granter(ip(9)), at(20), at(20));
    assert_eq!(machine.role(), Role::Backup, "too late");
    machine.claim(machine.granter(ip(9)), at(200), at(20));
    assert_eq!(machine.advert_deadline(), Some(at(200)));
    assert_eq!(machine.fence_deadline(), Some(at(295)));
    // The driver was held up: the advert left after the time and was dropped.
    machine.advert_failed();
    let _ = take(&mut machine);
    machine.handle_timeout(at(310));
    assert_eq!(take(&mut machine), [role(Role::Active, Role::Backup, Reason::FenceExpired)]);
}
