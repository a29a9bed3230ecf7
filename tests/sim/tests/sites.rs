//! The short run of `cargo xtask test` for the machines between sites. Distributions over 1,000 runs are drills.

use bascule_sim::sites::brownout::{SCENES, Times, quiet, quiet_detectors};
use bascule_sim::sites::churn::run as churn;
use bascule_sim::sites::link::{Loss, SEC};
use bascule_sim::sites::mutant::Mutant;
use bascule_sim::sites::overload::{Spill, run};
use bascule_sim::sites::scene::{Class, Fault, START, Scene};
use bascule_sim::sites::wan::World;
use bascule_sim::sites::{find, run_off, run_seed};

#[test]
fn loss_is_seen_within_the_bounds() {
    for scene in &SCENES {
        let times = Times::of(scene, 5000..5040);
        let p95 = times.percentile(95);
        assert!(scene.bound.is_none_or(|bound| p95 <= bound), "{}: p95 {p95} s", scene.name);
        assert!(times.percentile(100) < 60.0, "{}: never seen", scene.name);
    }
}

#[test]
fn a_quiet_link_is_left_alone() {
    let alarms: u64 = (0..3).map(|seed| quiet_detectors(Loss::bursts(0.0005), seed, 30)).sum();
    assert!(alarms <= 30, "{alarms} false alarms in 90 days");
    let real = quiet(Loss::bursts(0.0005), 7, 1);
    assert!(real.brownouts <= 1 && real.downs == 0, "{real:?} in an hour, packet by packet");
}

#[test]
fn four_of_eight_sites_overloaded_are_relieved_and_without_the_policy_are_not() {
    for seed in 900..910 {
        let on = run(seed, Spill::Credits);
        assert!(on.highest <= 1.05 && on.swing <= 0.05 && on.settled <= 4.0, "seed {seed}: {on:?}");
        let off = run(seed, Spill::Off);
        assert!(off.highest > 1.05, "seed {seed}: {off:?}");
    }
}

#[test]
fn a_hundred_thousand_changes_a_minute_are_two_kilobytes_a_second() {
    let cost = churn(3, 60);
    assert!(cost.changes > 99_000, "{cost:?}");
    assert!(cost.bytes <= 2000.0 && cost.crossing <= 1.0, "{cost:?}");
}

/// One seed of each row; F22 is eleven minutes of three sites, and the drill's.
#[test]
fn every_row_holds() {
    let rows = Class::ALL.into_iter().cycle().zip(3_000_000u64..).take(Class::ALL.len() * 3);
    for (class, seed) in rows {
        let (_, outcome) = run_seed(seed, Some(class), None, false);
        if let Some(violation) = outcome.violation {
            panic!("{class}: {violation}\n  cargo run -q -p bascule-sim -- sites replay {seed} --class {class}");
        }
        assert!(outcome.events > 1000, "{class}: a run in which nothing happens proves nothing");
    }
}

/// Each relay has sessions of its own (ADR 0043): while a site has one relay, nothing moves for the other, and what is known stays young.
#[test]
fn a_relay_that_dies_stops_or_stands_still_beside_another_costs_no_word_and_no_table() {
    let mut ran = [0; 2];
    for seed in 3_000_500..3_000_516 {
        let scene = Scene::new(seed, Some(Class::F4));
        let alone = |fault: &Fault| matches!(fault, Fault::Relay(..) | Fault::Stop(..) | Fault::Freeze(..));
        let news = usize::from(scene.news);
        assert!(scene.news || scene.tables == Some(0), "what the checker holds the run to");
        ran[news] += usize::from(scene.faults.iter().any(|(_, fault)| alone(fault)));
        let outcome = World::new(scene, None, false).run();
        if let Some(violation) = outcome.violation {
            panic!("{violation}\n  cargo run -q -p bascule-sim -- sites replay {seed} --class F4");
        }
        assert!(outcome.sessions >= 2, "seed {seed}: {outcome:?}");
    }
    assert!(ran.iter().all(|ran| *ran > 0), "{ran:?}");
}

/// Show 2: what holds the bounds is the policy. Each row that it is for misses them without it, and by traffic and not by two owners.
#[test]
fn with_the_policy_off_the_bounds_are_missed() {
    for (class, seed) in Class::STEERED.into_iter().cycle().zip(3_000_000u64..).take(Class::STEERED.len() * 3) {
        let (_, outcome) = run_off(seed, Some(class));
        let violation = outcome.and_then(|outcome| outcome.violation);
        assert!(violation.as_ref().is_some_and(|v| v.rule == "no black hole"), "{class}, seed {seed}: {violation:?}");
    }
}

/// Show 8 of the sites issue: a site says nothing new of itself for an hour, as without its API server, and five minutes more.
#[test]
fn an_hour_without_the_api_of_a_site_moves_nothing() {
    let mut scene = Scene::new(3_000_100, Some(Class::F22));
    scene.end = START + 3900 * SEC;
    assert_eq!((scene.tables, scene.moves), (Some(0), Some(0)), "what the checker holds the run to");
    let outcome = World::new(scene, None, false).run();
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    assert!(outcome.tables == 0 && outcome.events > 1_000_000, "{outcome:?}");
}

/// F9: the drill `site-witness` takes 24 hours of it.
#[test]
fn minutes_without_the_witness_move_nothing() {
    let scene = |span| Scene::new(3_000_200, Some(Class::F9)).lasting(span);
    let long = scene(900 * SEC);
    assert_eq!(
        (long.tables, long.moves, long.vacant),
        (Some(0), Some(0), Some(0)),
        "what the checker holds the run to"
    );
    let outcome = World::new(long, None, false).run();
    assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    assert!(outcome.tables == 0 && outcome.events > 500_000, "{outcome:?}");
    // It is watched to its end: what happens late is seen.
    let mut late = scene(200 * SEC);
    late.faults.push((late.end - 5 * SEC, Fault::Ready(2, false)));
    let (end, violation) = (late.end, World::new(late, None, false).run().violation);
    assert!(violation.as_ref().is_some_and(|v| v.rule == "traffic stays" && v.at >= end - 5 * SEC), "{violation:?}");
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [3, 11] {
        let (one, two) = (run_seed(seed, None, None, false), run_seed(seed, None, None, false));
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
    }
}

/// In which row a planted bug shows soonest.
const fn stage(mutant: Mutant) -> Class {
    match mutant {
        Mutant::DownUnsaid | Mutant::ReachDenied => Class::F7,
        Mutant::ReturnsAtOnce => Class::F18,
        Mutant::WitnessNeeded => Class::F9,
        Mutant::NewerUnsaid | Mutant::OlderUnheard => Class::F32,
        Mutant::SlownessUnsaid => Class::F12,
        Mutant::OutIgnored => Class::F14,
        Mutant::DeltaLost | Mutant::ZeroUnsaid | Mutant::ReadUnsaid => Class::F25,
        Mutant::AgesUnsaid => Class::F22,
        Mutant::PrefixesIgnored | Mutant::FactsUnsaid => Class::F23,
        Mutant::TableLost | Mutant::ReachUnsaid => Class::F3,
        Mutant::LeaseOutlived | Mutant::NoAuthority => Class::F8,
        Mutant::ObservedUnsaid => Class::F15,
        Mutant::SessionDownIsSiteDown | Mutant::DeadWordCounts | Mutant::StaleWord | Mutant::RankUnsaid => Class::F4,
    }
}

#[test]
fn every_planted_bug_is_found() {
    for mutant in Mutant::ALL {
        let (took, failure) = find(mutant, Some(stage(mutant)), 0, 100);
        let (seed, _, violation) = failure.unwrap_or_else(|| panic!("{mutant}: not found in {took} seeds"));
        println!("{mutant}: {took} seeds, seed {seed}: {violation}");
    }
}
