//! Taking a group and giving it up: the order of effects.

use super::config::GroupConfig;
use super::harness::{LINK, Rig, START, at, group, ip, mac, node};
use super::*;
use crate::fence::{FenceCtl, FenceRole};
use crate::wire::arp::Arp;

fn ctls(rig: &Rig) -> Vec<FenceCtl> {
    let ctl = |a: &Action| match a {
        Action::Fence(FenceWrite::Ctl(_, ctl)) => Some(*ctl),
        _ => None,
    };
    rig.owed.iter().filter_map(ctl).collect()
}

#[test]
fn claim_is_fence_advert_install_then_announce_when_installed() {
    let mut rig = Rig::new(node(1, vec![group(254)]));
    let due = at(START) + Duration::from_nanos(300_781_250);
    rig.run_to(due);
    let [ctl] = ctls(&rig)[..] else { panic!("one fence write") };
    assert_eq!((ctl.role, ctl.deadline, ctl.handover), (FenceRole::Active, due + Duration::from_millis(275), false));
    assert!(ctl.term > Term(0) && ctl.accept);
    assert_eq!(rig.take(), ["fence active", "advert 254 10.9.0.1", "install 10.9.0.100", "active by active_down"]);
    rig.run_to(due + Duration::from_micros(400));
    rig.input(Input::Installed(Slot(0)));
    rig.run_to(due + Duration::from_micros(1_000));
    assert_eq!(rig.take(), Vec::<String>::new(), "the advert closes whoever is displaced before we speak");
    rig.run_to(due + Duration::from_micros(1_001));
    assert_eq!(rig.take(), ["first 10.9.0.100", "first 10.9.0.100", "Takeover"]);
    rig.run(6);
    assert_eq!(rig.take(), Vec::<String>::new(), "announced once");
}

#[test]
fn claim_announces_after_5_ms_when_the_addresses_are_late() {
    let mut rig = Rig::new(node(1, vec![group(254)]));
    rig.run(301);
    let _ = rig.take();
    rig.run_to(at(START) + Duration::from_nanos(305_781_249));
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.run_to(at(START) + Duration::from_nanos(305_781_250));
    let takeover = rig.owed.iter().find_map(|a| match a {
        Action::Report(Event::Takeover { detect, claim, announce, .. }) => Some((*detect, *claim, *announce)),
        _ => None,
    });
    assert_eq!(takeover, Some((None, None, 0.005)), "nobody was heard before, the addresses are not there yet");
    assert_eq!(rig.take(), ["first 10.9.0.100", "first 10.9.0.100", "Takeover"]);
    rig.input(Input::Installed(Slot(0)));
    assert_eq!(rig.take(), Vec::<String>::new());
}

#[test]
fn claim_measures_its_phases() {
    let mut rig = Rig::new(node(1, vec![group(206)]));
    rig.run(50);
    rig.hear(9, 254);
    rig.run(320);
    assert_eq!(rig.role(), Role::Active);
    rig.now = at(START + 50) + Duration::from_nanos(319_531_250 + 2_000_000);
    rig.owed.clear();
    rig.input(Input::Installed(Slot(0)));
    let takeover = rig.owed.iter().find_map(|a| match a {
        Action::Report(Event::Takeover { detect, claim, announce, .. }) => Some((*detect, *claim, *announce)),
        _ => None,
    });
    assert_eq!(takeover, Some((Some(0.319_531_25), Some(0.002), 0.002)));
}

#[test]
fn release_closes_the_answers_before_priority_0_leaves() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.run(30);
    rig.owed.clear();
    rig.command(7, Command::Drain);
    let [first, second] = ctls(&rig)[..] else { panic!("two fence writes") };
    assert_eq!((first.role, first.deadline), (FenceRole::Leaving, rig.now), "only the kernel's own deadline is left");
    assert_eq!(first.deliver_until, rig.now + Duration::from_secs(1));
    assert_eq!(second, first);
}

#[test]
fn release_delivers_nothing_that_accept_mode_refused() {
    let mut rig = Rig::active(node(1, vec![GroupConfig { accept: false, ..group(254) }]));
    rig.command(7, Command::Drain);
    assert!(ctls(&rig).iter().all(|ctl| !ctl.accept && ctl.deliver_until == Instant::ZERO));
}

#[test]
fn release_effects_are_in_order_and_end_after_the_drain_time() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    rig.command(7, Command::Drain);
    let order: Vec<String> =
        rig.take().into_iter().filter(|w| w.starts_with("fence") || w.starts_with("advert")).collect();
    assert_eq!(order, ["fence leaving", "advert 0 10.9.0.1", "fence leaving"]);
    assert_eq!(rig.role(), Role::Initialize);
    rig.run(999);
    assert_eq!(rig.take(), Vec::<String>::new());
    assert!(rig.node.status(rig.now).groups[0].draining);
    rig.run(1);
    assert_eq!(rig.take(), ["fence backup", "remove 10.9.0.100"]);
    assert!(!rig.node.status(rig.now).groups[0].draining);
}

#[test]
fn losing_to_a_higher_priority_says_so_and_closes_the_fence_before_the_addresses_go() {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    rig.hear(9, 254);
    assert_eq!(
        rig.take(),
        ["Rival", "advert 200 10.9.0.1", "fence backup", "remove 10.9.0.100", "backup by higher_priority"]
    );
    rig.run(200);
    assert_eq!(rig.take(), ["probe 10.9.0.100"], "no burst goes on; where is the winner's announcement?");
}

#[test]
fn a_lower_rival_is_answered_with_an_advert_and_an_announcement_at_once() {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    rig.run(50);
    let _ = rig.take();
    rig.hear(9, 110);
    assert_eq!(rig.take(), ["Rival", "advert 200 10.9.0.1", "burst 10.9.0.100", "burst 10.9.0.100"]);
}

#[test]
fn a_rival_that_stays_makes_us_yield_and_say_so() {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    for _ in 0..3 {
        rig.hear(9, 110);
        rig.run(100);
    }
    let owed = rig.take();
    let tail = ["fence backup", "remove 10.9.0.100", "OneWay", "backup by one_way"];
    let sorted: Vec<&String> = owed.iter().filter(|w| tail.contains(&w.as_str())).collect();
    assert_eq!(sorted.len(), 4, "{owed:?}");
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn rival_frames_are_reported_once_per_series_and_defended_at_most_once_a_second() {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    rig.run(500);
    rig.owed.clear();
    let frame = Arp::announcement(mac(9), "10.9.0.100".parse().expect("address")).encode(Mac::BROADCAST);
    let mut firsts = 0;
    for _ in 0..5 {
        rig.input(Input::Neighbor { link: LINK, frame: &frame });
        firsts += rig.owed.iter().filter(|a| matches!(a, Action::Report(Event::Rival { first: true, .. }))).count();
        let words = rig.take();
        assert_eq!(words.iter().filter(|w| *w == "Rival").count(), 1, "each is counted: {words:?}");
        rig.run(300);
        let _ = rig.take();
    }
    assert_eq!(firsts, 1);
    let own = Arp::announcement(mac(1), "10.9.0.100".parse().expect("address")).encode(Mac::BROADCAST);
    rig.input(Input::Neighbor { link: LINK, frame: &own });
    assert_eq!(rig.take(), Vec::<String>::new(), "our own frame, looped back");
}

#[test]
fn defended_at_once_then_once_a_second() {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    rig.run(500);
    let _ = rig.take();
    let frame = Arp::announcement(mac(9), "10.9.0.100".parse().expect("address")).encode(Mac::BROADCAST);
    let mut defended = Vec::new();
    for ms in [0, 500, 499] {
        rig.run(ms);
        let _ = rig.take();
        rig.input(Input::Neighbor { link: LINK, frame: &frame });
        defended.push(rig.take().iter().filter(|w| w.starts_with("defend")).count());
    }
    assert_eq!(defended, [2, 0, 0], "both ARP forms");
    // What came too soon is answered when the second is over.
    rig.run(1);
    assert_eq!(rig.take().iter().filter(|w| w.ends_with("10.9.0.100")).count(), 2);
}

#[test]
fn a_lost_address_is_restored_only_while_it_is_held() {
    let mut rig = Rig::active(node(1, vec![group(200)]));
    rig.input(Input::AddressLost { link: LINK, address: ip(100) });
    assert_eq!(rig.take(), ["install 10.9.0.100", "AddressRestored"]);
    rig.input(Input::AddressLost { link: LINK, address: ip(101) });
    rig.input(Input::AddressLost { link: LinkId(3), address: ip(100) });
    assert_eq!(rig.take(), Vec::<String>::new());
    rig.hear(9, 254);
    let _ = rig.take();
    rig.input(Input::AddressLost { link: LINK, address: ip(100) });
    assert_eq!(rig.take(), Vec::<String>::new(), "a Backup holds nothing");
}

#[test]
fn addresses_that_cannot_be_installed_are_given_up_and_tried_again() {
    let mut rig = Rig::new(node(1, vec![group(254)]));
    rig.run(301);
    let _ = rig.take();
    rig.input(Input::InstallFailed { slot: Slot(0), error: "no space".into() });
    let owed = rig.take();
    let order: Vec<&str> = owed.iter().map(String::as_str).collect();
    assert_eq!(
        order,
        [
            "InstallFailed",
            "Blocked",
            "fence leaving",
            "advert 0 10.9.0.1",
            "fence backup",
            "remove 10.9.0.100",
            "initialize by install_failed"
        ]
    );
    let condition = rig.node.status(rig.now).groups[0].condition.clone();
    assert_eq!(condition.as_deref(), Some("addresses cannot be installed: no space"));
    rig.run(4_999);
    assert_eq!(rig.role(), Role::Initialize);
    rig.run(1);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn held_addresses_are_renewed_in_one_batch_every_4_s() {
    let second = GroupConfig { name: "web".into(), vrid: 52, addresses: vec![ip(101), ip(102)], ..group(254) };
    let mut rig = Rig::active(node(1, vec![group(254), second]));
    rig.run(9_000);
    let renewals: Vec<String> = rig.take().into_iter().filter(|w| w.starts_with("renew")).collect();
    assert_eq!(renewals, ["renew 3 for 10s", "renew 3 for 10s"]);
}

#[test]
fn every_claim_has_a_higher_term_also_after_a_restart() {
    let mut rig = Rig::active(node(1, vec![group(254)]));
    let first = rig.node.groups[0].term;
    rig.hear(9, 255);
    rig.run(400);
    assert_eq!(rig.role(), Role::Active);
    let second = rig.node.groups[0].term;
    assert!(second > first);
    let mut again = Rig::bare(&NodeConfig::default(), 3);
    again.now = rig.now;
    again.input(Input::Fence(FenceState::Ready));
    again.input(Input::Link(super::harness::link(1)));
    again.reload(node(1, vec![group(254)]));
    again.run(301);
    assert!(again.node.groups[0].term > second, "a new process on the same clock");
}
