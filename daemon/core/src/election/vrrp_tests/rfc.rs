//! RFC 9568, section by section.

use super::harness::{active, advert, at, backup, centis, config, heard, ip, ip6, ns, role, run, take};
use super::*;

/// (priority, Active_Adver_Interval in cs) -> Skew_Time in nanoseconds, computed by hand from ((256 - p) * A) / 256.
const SKEWS: [(u8, u16, u64); 8] = [
    (254, 10, 781_250),
    (206, 10, 19_531_250),
    (158, 10, 38_281_250),
    (110, 10, 57_031_250),
    (100, 10, 60_937_500),
    (1, 10, 99_609_375),
    (254, 1, 78_125),
    (200, 100, 218_750_000),
];

#[test]
fn s6_1_skew_time_in_nanoseconds() {
    for (priority, interval, want) in SKEWS {
        let machine = Vrrp::new(VrrpConfig { interval: centis(interval), ..config(priority) });
        assert_eq!(machine.skew(), Duration::from_nanos(want), "priority {priority}, {interval} cs");
    }
}

#[test]
fn s6_1_active_down_interval_is_three_intervals_and_skew() {
    for (priority, interval, skew) in SKEWS {
        let machine = Vrrp::new(VrrpConfig { interval: centis(interval), ..config(priority) });
        let want = Duration::from_nanos(3 * 10_000_000 * u64::from(interval) + skew);
        assert_eq!(machine.active_down_interval(), want, "priority {priority}, {interval} cs");
    }
}

#[test]
fn s6_1_higher_priority_is_always_earlier() {
    for interval in [1, 10, 100, 4095] {
        let down = |p: u8| Vrrp::new(VrrpConfig { interval: centis(interval), ..config(p) }).active_down_interval();
        assert!((1..254).all(|p| down(p + 1) < down(p)), "{interval} cs");
        assert!(down(1) < centis(interval).duration() * 4, "skew is below one interval");
    }
}

#[test]
fn s6_4_1_initialize_starts_as_backup_with_its_own_interval() {
    let mut machine = Vrrp::new(config(200));
    assert_eq!((machine.role(), machine.poll_timeout()), (Role::Initialize, None));
    machine.start(at(7));
    assert_eq!(take(&mut machine), [role(Role::Initialize, Role::Backup, Reason::Started)]);
    assert_eq!(machine.poll_timeout(), Some(ns(7_000_000 + 300_000_000 + 21_875_000)));
    machine.start(at(8));
    assert_eq!(take(&mut machine), [], "a second start is none");
}

#[test]
fn s6_4_1_initialize_only_listens() {
    let mut machine = Vrrp::new(config(200));
    machine.handle_advert(heard(ip(9), 254), at(1));
    assert_eq!((take(&mut machine), machine.poll_timeout()), (vec![], None));
    assert_eq!(machine.owner().map(|o| (o.address, o.priority)), Some((ip(9), 254)));
    machine.handle_advert(heard(ip(9), 0), at(2));
    assert_eq!(machine.owner(), None);
}

#[test]
fn s6_4_2_backup_becomes_active_when_the_timer_fires_and_not_before() {
    let mut machine = backup(config(200));
    machine.handle_timeout(ns(321_874_999));
    assert_eq!((take(&mut machine), machine.role()), (vec![], Role::Backup));
    machine.handle_timeout(ns(321_875_000));
    assert_eq!(take(&mut machine), [role(Role::Backup, Role::Active, Reason::ActiveDown), advert(200)]);
    assert_eq!(machine.advert_due(), Some(ns(421_875_000)));
}

#[test]
fn s6_4_2_backup_waits_only_skew_after_priority_0() {
    let mut machine = backup(config(200));
    machine.handle_advert(heard(ip(9), 254), at(100));
    machine.handle_advert(heard(ip(9), 0), at(150));
    assert_eq!((machine.poll_timeout(), machine.owner()), (Some(ns(171_875_000)), None));
    // A repeated release (the other family's) does not postpone.
    machine.handle_advert(heard(ip6(9), 0), at(151));
    let owed = run(&mut machine, at(172));
    assert_eq!(owed[0], (ns(171_875_000), role(Role::Backup, Role::Active, Reason::PeerReleased)));
}

#[test]
fn s6_4_2_backup_skews_by_the_interval_of_the_active_that_released() {
    let mut machine = backup(config(206));
    machine.handle_advert(Heard { interval: centis(100), ..heard(ip(9), 254) }, at(0));
    machine.handle_advert(Heard { interval: centis(100), ..heard(ip(9), 0) }, at(500));
    assert_eq!(machine.poll_timeout(), Some(ns(500_000_000 + 195_312_500)));
}

/// (preempt, own priority, heard priority) -> the Active_Down_Timer is set again.
const BACKUP_HEARS: [(bool, u8, u8, bool); 8] = [
    (false, 200, 110, true),
    (false, 200, 200, true),
    (false, 200, 254, true),
    (true, 200, 110, false),
    (true, 200, 199, false),
    (true, 200, 200, true),
    (true, 200, 254, true),
    (true, 200, 255, true),
];

#[test]
fn s6_4_2_backup_follows_or_discards_by_preempt_mode_and_priority() {
    for (preempt, own, other, follows) in BACKUP_HEARS {
        let mut machine = backup(VrrpConfig { preempt, ..config(own) });
        let before = machine.poll_timeout();
        machine.handle_advert(heard(ip(9), other), at(100));
        let want = if follows { Some(at(100) + machine.active_down_interval()) } else { before };
        assert_eq!(machine.poll_timeout(), want, "preempt {preempt}, own {own}, heard {other}");
        assert_eq!((machine.role(), take(&mut machine)), (Role::Backup, vec![]));
    }
}

#[test]
fn s6_4_2_backup_with_preempt_takes_over_from_a_lower_active() {
    let mut machine = backup(VrrpConfig { preempt: true, ..config(200) });
    for ms in [50, 150, 250] {
        machine.handle_advert(heard(ip(9), 110), at(ms));
    }
    let owed = run(&mut machine, at(322));
    assert_eq!(owed[0], (ns(321_875_000), role(Role::Backup, Role::Active, Reason::ActiveDown)));
}

#[test]
fn s6_4_2_backup_learns_the_interval_and_computes_skew_and_down_from_it() {
    let mut machine = backup(config(206));
    machine.handle_advert(Heard { interval: centis(100), ..heard(ip(9), 254) }, at(0));
    assert_eq!(machine.skew(), Duration::from_nanos(195_312_500));
    assert_eq!(machine.poll_timeout(), Some(ns(3_195_312_500)));
    // As Active it advertises its own.
    let owed = run(&mut machine, ns(3_195_312_500));
    assert_eq!(owed[1].1, advert(206));
    assert_eq!(machine.advert_due(), Some(ns(3_295_312_500)));
}

#[test]
fn s6_4_2_backup_that_discards_learns_no_interval() {
    let mut machine = backup(VrrpConfig { preempt: true, ..config(200) });
    machine.handle_advert(Heard { interval: centis(100), ..heard(ip(9), 110) }, at(0));
    assert_eq!(machine.active_down_interval(), Duration::from_nanos(321_875_000));
}

#[test]
fn s6_4_2_backup_that_shuts_down_says_nothing() {
    let mut machine = backup(config(200));
    machine.stop(Reason::Stopped, true);
    assert_eq!(take(&mut machine), [role(Role::Backup, Role::Initialize, Reason::Stopped)]);
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn s6_4_3_active_advertises_every_interval() {
    let (mut machine, start) = active(config(200));
    let owed = run(&mut machine, start + Duration::from_millis(300));
    let want: Vec<_> = (1..=3).map(|i| (start + Duration::from_millis(100 * i), advert(200))).collect();
    assert_eq!(owed, want);
}

#[test]
fn s6_4_3_active_shuts_down_with_priority_0() {
    let (mut machine, _) = active(config(200));
    machine.stop(Reason::Stopped, true);
    assert_eq!(take(&mut machine), [advert(0), role(Role::Active, Role::Initialize, Reason::Stopped)]);
    assert_eq!(machine.poll_timeout(), None);
    let (mut dead_link, _) = active(config(200));
    dead_link.stop(Reason::LinkDown, false);
    assert_eq!(take(&mut dead_link), [role(Role::Active, Role::Initialize, Reason::LinkDown)]);
}

#[test]
fn s6_4_3_active_answers_priority_0_with_an_advert_and_resets_its_timer() {
    let (mut machine, start) = active(config(200));
    let now = start + Duration::from_millis(40);
    machine.handle_advert(heard(ip(9), 0), now);
    assert_eq!(take(&mut machine), [advert(200)]);
    assert_eq!(machine.advert_due(), Some(now + Duration::from_millis(100)));
}

/// (own priority, heard priority, sender, we stay Active); we are 10.9.0.5.
const ACTIVE_HEARS: [(u8, u8, u8, bool); 8] = [
    (200, 201, 1, false),
    (200, 255, 1, false),
    (200, 254, 9, false),
    (200, 200, 9, false),
    (200, 200, 4, true),
    (200, 199, 9, true),
    (200, 1, 9, true),
    (50, 100, 1, false),
];

#[test]
fn s6_4_3_active_gives_way_to_higher_priority_and_to_the_higher_address() {
    for (own, other, last, stays) in ACTIVE_HEARS {
        let (mut machine, start) = active(config(own));
        let now = start + Duration::from_millis(40);
        machine.handle_advert(heard(ip(last), other), now);
        let rival = Output::Rival { source: ip(last), priority: other };
        let case = format!("own {own}, heard {other} from .{last}");
        if stays {
            // Re-asserts at once and counts the interval from there.
            let announce = Output::Announce { settled: false };
            assert_eq!(take(&mut machine), [rival, announce, advert(own)], "{case}");
            assert_eq!(machine.advert_due(), Some(now + Duration::from_millis(100)), "{case}");
        } else {
            let step = role(Role::Active, Role::Backup, Reason::HigherPriority);
            // One advert more than the RFC asks for: the winner may not know that there was a rival.
            assert_eq!(take(&mut machine), [rival, advert(own), step], "{case}");
            assert_eq!(machine.poll_timeout(), Some(now + machine.active_down_interval()), "{case}");
            assert_eq!(machine.owner().map(|o| (o.address, o.priority)), Some((ip(last), other)), "{case}");
        }
    }
}

#[test]
fn s6_4_3_addresses_compare_as_unsigned_numbers_in_network_order() {
    let low = IpAddr::from([10, 9, 0, 200]);
    let high = IpAddr::from([200, 9, 0, 1]);
    for (source, own, stays) in [(low, high, true), (high, low, false)] {
        let (mut machine, start) = active(config(200));
        machine.handle_advert(Heard { source, own, priority: 200, interval: centis(10) }, start);
        assert_eq!(machine.role() == Role::Active, stays, "{source} against {own}");
    }
}

#[test]
fn s6_4_3_active_learns_the_interval_of_the_one_it_follows() {
    let (mut machine, start) = active(config(206));
    machine.handle_advert(Heard { interval: centis(100), ..heard(ip(9), 254) }, start);
    assert_eq!(machine.poll_timeout(), Some(start + Duration::from_nanos(3_195_312_500)));
}
