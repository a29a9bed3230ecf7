//! One rule, one test.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{API, DOWN, HERE, World, status, summary};
use crate::site::SiteId;
use crate::site::path::detector::Scale;
use crate::site::path::io::{Carriage, Status};
use crate::site::policy::Policy;
use crate::site::policy::facts::{Observed, Verdict};
use crate::site::policy::io::{Action, DrainError, Failback, Mode, Report, Takes, Unit};
use crate::site::policy::standing::State;
use crate::site::summary::Summary;
use crate::site::timeline::Rule;

/// So many handshakes, none of which was answered.
fn lost(handshakes: u32) -> Observed {
    Observed { handshakes, failed: handshakes, ..Observed::default() }
}

fn even() -> Mode {
    Mode::Weighted((1..=4).map(|s| (SiteId(s), 25)).collect())
}

#[test]
fn local_first_stays_here_and_goes_nearby_when_nothing_is_ready() {
    let mut world = World::new(Mode::LocalFirst);
    assert_eq!(world.shares(), [1.0, 0.0, 0.0, 0.0]);
    let before = world.now;
    world.say(1, summary(0, 0, 30));
    assert_eq!(world.tables.last().map(|(at, _)| *at), Some(before), "at once");
    assert_eq!(world.shares(), [0.0, 1.0, 0.0, 0.0], "site 2 has room for all and is in the region");
    world.say(1, summary(0, 0, 60));
    world.run(500);
    let [here, near, south, far] = world.shares();
    assert!(here == 0.0 && near > 0.5 && south > 0.1 && far > 0.1, "{:?}", world.shares());
}

#[test]
fn a_dead_path_is_acted_on_at_once_and_its_timeline_says_why() {
    let mut world = World::new(even());
    assert_eq!(world.shares(), [0.25; 4]);
    let cause = world.now;
    world.now = world.now + Duration::from_millis(520);
    world.policy.handle_path(SiteId(3), status(DOWN), cause, world.now);
    world.drain();
    assert_eq!(world.shares(), [0.333, 0.333, 0.0, 0.333]);
    let (_, table) = world.tables.last().cloned().expect("a table");
    assert!(table.slots.len() == 1021 && !table.slots.contains(&SiteId(3)));
    let applied = world.now + Duration::from_millis(3);
    world.policy.handle_applied(API, table.generation, applied);
    let Some(Action::Timeline(line)) = world.policy.poll_action() else { panic!("no timeline") };
    assert_eq!(line.why, Rule::Facts { site: SiteId(3), verdict: Verdict::PathDown });
    assert_eq!((line.cause, line.detected, line.decided, line.applied), (cause, world.now, world.now, Some(applied)));
    assert!((line.moved - 0.25).abs() < 1e-9);
    assert!(world.policy.poll_action().is_none());
}

#[test]
fn a_node_that_begins_waits_for_what_its_own_site_serves_before_it_sends_anything_away() {
    let begin = || {
        let mut world = World::new(even());
        // The same node begins anew and is told of others first.
        world.policy = Policy::new(world.policy.config.clone(), world.now);
        (world.tables, world.actions) = Default::default();
        world.said.clear();
        for site in 2..=4 {
            world.policy.handle_session(SiteId(site), true);
            world.path(site, status(Carriage::Up));
            world.say(site, summary(10, 100, 60));
        }
        world
    };
    let mut world = begin();
    world.run(1500);
    assert!(world.tables.is_empty(), "{:?}", world.tables);
    world.say(1, summary(10, 100, 60));
    assert_eq!((world.tables.len(), world.shares()), (1, [0.25; 4]), "and then all of it at once");
    // Nobody ever says it: who is there serves.
    let mut world = begin();
    world.run(9_900);
    assert!(world.tables.is_empty());
    world.run(1_000);
    assert_eq!((world.tables.len(), world.share(1)), (1, 0.0));
}

#[test]
fn what_others_reach_names_the_fault_in_a_slot_and_moves_nothing() {
    let mut world = World::new(even());
    world.path(3, status(DOWN));
    world.policy.handle_session(SiteId(3), false);
    world.run(600);
    let verdict = |world: &World| {
        let all = world.policy.opinions(API, world.now);
        all.iter().find(|opinion| opinion.site == SiteId(3)).map(|opinion| opinion.verdict)
    };
    assert_eq!(verdict(&world), Some(Verdict::PathDown), "nobody can say");
    world.actions.clear();
    for (session, others, wanted) in [
        (false, Some(false), Verdict::SiteDead),
        (false, Some(true), Verdict::PathDown),
        (false, Some(false), Verdict::SiteDead),
        (true, Some(false), Verdict::PathDown),
        (false, Some(false), Verdict::SiteDead),
        (false, None, Verdict::PathDown),
    ] {
        world.policy.handle_others(SiteId(3), others);
        world.policy.handle_session(SiteId(3), session);
        world.run(500);
        assert_eq!(verdict(&world), Some(wanted), "session {session}, others {others:?}");
    }
    assert!(
        !world.actions.iter().any(|(_, a)| matches!(a, Action::Table(_) | Action::Report(_))),
        "{:?}",
        world.actions
    );
    // A path that comes back is as good from either, and the site is held as long as after any death.
    world.policy.handle_others(SiteId(3), Some(false));
    world.run(500);
    world.path(3, status(Carriage::Up));
    world.run(10_000);
    assert_eq!((verdict(&world), world.standings(3)), (Some(Verdict::Blind), vec![State::Probing]));
}

#[test]
fn a_return_is_on_probation_and_then_grows() {
    let mut world = World::new(even());
    world.path(3, status(DOWN));
    world.run(30_000);
    world.path(3, status(Carriage::Up));
    world.run(1000);
    assert!((0.001..0.006).contains(&world.share(3)), "{:?}", world.shares());
    world.run(15_000);
    let young = world.share(3);
    world.run(30_000);
    let grown = world.share(3);
    assert!(young < 0.06 && (0.1..0.24).contains(&grown), "{young} {grown}");
    world.run(40_000);
    assert_eq!(world.shares(), [0.25; 4]);
    assert_eq!(world.standings(3), [State::Down, State::Probing, State::Up]);
}

#[test]
fn loss_lowers_a_share_slowly_and_a_single_bad_slot_does_nothing() {
    let mut world = World::new(even());
    let lossy = Status { brownout_in: Some(Scale::Light), loss_in: 0.025, ..status(Carriage::Up) };
    world.path(2, lossy);
    world.run(500);
    assert_eq!(world.shares(), [0.25; 4]);
    world.run(500);
    assert!((0.19..0.21).contains(&world.share(2)), "10 % of the traffic in a second at most: {:?}", world.shares());
    world.run(5000);
    let share = world.share(2);
    assert!((0.14..0.17).contains(&share), "5/9 of its share: {share}");
    // The same loss without an alarm is this path's usual.
    world.path(2, Status { brownout_in: None, ..lossy });
    world.run(15_000);
    assert_eq!(world.shares(), [0.25; 4]);
}

#[test]
fn flapping_is_held_back_but_never_the_last_site() {
    let mut world = World::new(even());
    let before = world.tables.len();
    for _ in 0..300 {
        world.path(3, status(DOWN));
        world.run(500);
        world.path(3, status(Carriage::Up));
        world.run(500);
    }
    let share_changes: Vec<f64> = world.tables[before..]
        .windows(2)
        .map(|w| {
            let of = |t: &super::Table| t.shares.get(&SiteId(3)).copied().unwrap_or(0.0);
            (of(&w[0].1) - of(&w[1].1)).abs()
        })
        .filter(|d| *d > 0.0)
        .collect();
    assert!(share_changes.len() <= 12, "{share_changes:?}");
    let mut alone = World::new(Mode::LocalFirst);
    (2..=4).for_each(|site| alone.path(site, status(DOWN)));
    for _ in 0..50 {
        alone.say(1, summary(0, 0, 60));
        alone.run(500);
        alone.say(1, summary(10, 100, 60));
        alone.run(1000);
        assert!(alone.share(1) == 1.0, "{:?}", alone.shares());
    }
}

#[test]
fn a_site_whose_word_the_data_path_contradicts_is_ejected_for_longer_each_time() {
    let mut world = World::new(even());
    let mut out = Vec::new();
    for _ in 0..2 {
        world.policy.handle_observed(SiteId(4), API, lost(150), world.now);
        world.drain();
        assert!(world.share(4) == 0.0, "{:?}", world.shares());
        world.policy.handle_observed(SiteId(4), API, Observed::default(), world.now);
        let start = world.now;
        while world.share(4) == 0.0 {
            world.run(500);
        }
        out.push(world.now.since(start).as_secs());
        world.run(120_000);
    }
    assert_eq!(out, [30, 60]);
    let of = |a: &Action| match a {
        Action::Report(Report::Mismatch { site, observed, seconds, .. }) => Some((site.0, observed.failed, *seconds)),
        _ => None,
    };
    let said: Vec<_> = world.actions.iter().filter_map(|(_, a)| of(a)).collect();
    assert_eq!(said, [(4, 150, 30), (4, 150, 60)], "once each time");
    let seen = |world: &World| world.policy.opinions(API, world.now).into_iter().find(|o| o.site == SiteId(4));
    assert_eq!(seen(&world).map(|o| (o.ejected, o.ejections)), Some((None, 2)));
    // A quarter of an hour later two of them are forgiven.
    world.run(900_000);
    world.policy.handle_observed(SiteId(4), API, lost(64), world.now);
    world.drain();
    assert_eq!(seen(&world).map(|o| (o.ejected, o.ejections)), Some((Some(30.0), 3)));
    assert!(world.share(4) == 0.0, "{:?}", world.shares());
}

#[test]
fn an_ejection_is_not_prolonged_by_what_was_sent_before_it() {
    let mut world = World::new(even());
    for observed in [lost(64), Observed::default(), lost(64), Observed::default()] {
        world.policy.handle_observed(SiteId(4), API, observed, world.now);
        world.run(500);
    }
    let four = world.policy.opinions(API, world.now).into_iter().find(|o| o.site == SiteId(4)).expect("known");
    assert_eq!((four.ejections, four.ejected), (1, Some(28.0)));
}

#[test]
fn the_last_site_is_never_ejected_and_no_lease_follows_what_clients_do() {
    let mut world = World::new(Mode::LocalFirst);
    world.say(1, summary(0, 0, 60));
    (3..=4).for_each(|site| world.path(site, status(DOWN)));
    assert_eq!(world.shares(), [0.0, 1.0, 0.0, 0.0]);
    world.policy.handle_observed(SiteId(2), API, lost(150), world.now);
    world.drain();
    world.run(5_000);
    assert_eq!(world.shares(), [0.0, 1.0, 0.0, 0.0], "who has nobody else is asked all the same");

    let mut world = World::new(Mode::ActivePassive { order: vec![HERE, SiteId(2)], failback: Failback::Manual });
    world.policy.handle_lease(API, Some(SiteId(2)), world.now);
    world.policy.handle_observed(SiteId(2), API, lost(150), world.now);
    world.drain();
    assert_eq!(world.shares(), [0.0, 1.0, 0.0, 0.0]);
    let two = world.policy.opinions(API, world.now).into_iter().find(|o| o.site == SiteId(2)).expect("known");
    assert_eq!((two.verdict, two.ejections, two.observed.failed), (Verdict::Normal, 0, 150), "shown, and not judged");
}

#[test]
fn flows_leave_home_by_the_data_path_only_where_others_do_better() {
    for (compared, share) in [(false, 0.25), (true, 0.0)] {
        let mut world = World::new(even());
        world.policy.handle_observed(HERE, API, Observed { compared, ..lost(150) }, world.now);
        world.drain();
        assert_eq!(world.share(1), share, "compared: {compared}");
    }
}

#[test]
fn soft_judgements_leave_half_of_the_sites_and_hard_ones_none() {
    let mut world = World::new(even());
    let sick = Status { brownout_in: Some(Scale::Heavy), loss_in: 0.2, ..status(Carriage::Up) };
    (2..=4).for_each(|site| world.path(site, sick));
    world.run(20_000);
    let [here, rest @ ..] = world.shares();
    assert!(here > 0.9 && rest.iter().filter(|s| **s > 0.0).count() == 1, "{:?}", world.shares());
    // The only good one dies: whoever is there takes all, however bad.
    world.say(1, summary(0, 0, 60));
    assert!(world.share(1) == 0.0 && world.share(2) > 0.3 && world.share(4) > 0.3, "{:?}", world.shares());
    assert!(world.actions.iter().any(|(_, a)| matches!(a, Action::Report(Report::Panic { on: true, .. }))));
}

#[test]
fn an_excess_waits_for_a_loan_and_goes_no_further_than_it() {
    let mut world = World::new(Mode::LocalFirst);
    world.say(1, summary(10, 100, 130));
    world.run(1500);
    assert_eq!(world.shares(), [1.0, 0.0, 0.0, 0.0], "nobody lent anything");
    let asked: Vec<_> = world
        .actions
        .iter()
        .filter_map(|(_, a)| match a {
            Action::Ask { to, excess, .. } => Some((to.0, *excess)),
            _ => None,
        })
        .collect();
    assert_eq!(asked[..3], [(2, 35), (3, 35), (4, 35)]);
    world.policy.handle_loan(SiteId(2), API, 13, world.now);
    world.policy.handle_loan(SiteId(3), API, 13, world.now);
    world.run(500);
    assert_eq!(world.shares(), [0.8, 0.1, 0.1, 0.0]);
    let last = world.tables.last().map(|(_, t)| t.clone()).expect("a table");
    assert!(last.slots[..204].iter().all(|s| *s != HERE) && last.slots[205..].iter().all(|s| *s == HERE));
    world.run(3000);
    assert_eq!(world.shares(), [1.0, 0.0, 0.0, 0.0], "loans end");
}

#[test]
fn room_is_lent_to_those_who_ask_and_own_demand_comes_first() {
    let mut world = World::new(Mode::LocalFirst);
    world.policy.handle_ask(SiteId(2), API, 60, world.now);
    world.policy.handle_ask(SiteId(3), API, 20, world.now);
    world.run(1000);
    let lent = |world: &World| -> Vec<(u8, u32)> {
        world
            .actions
            .iter()
            .filter_map(|(_, a)| match a {
                Action::Lend { to, amount, .. } => Some((to.0, *amount)),
                _ => None,
            })
            .collect()
    };
    assert_eq!(lent(&world), [(2, 26), (3, 8)], "35 are free");
    world.say(1, summary(10, 100, 96));
    world.actions.clear();
    world.run(1000);
    assert_eq!(lent(&world), [(2, 0), (3, 0)]);
}

#[test]
fn a_site_that_drains_gets_nothing_new_at_once_and_returns_slowly() {
    let mut world = World::new(even());
    let draining = |on| Summary { draining: on, ..summary(10, 100, 60) };
    world.say(2, draining(true));
    assert_eq!(world.shares(), [0.333, 0.0, 0.333, 0.333]);
    world.run(600_000);
    assert_eq!(world.share(2), 0.0);
    world.say(2, draining(false));
    world.run(1000);
    assert!((0.001..0.06).contains(&world.share(2)), "{:?}", world.shares());
    world.run(61_000);
    assert!(world.share(2) > 0.2, "{:?}", world.shares());
}

#[test]
fn a_drain_that_leaves_too_little_is_not_spared() {
    let mut world = World::new(even());
    let spares = |world: &World, takes| world.policy.spares(&BTreeMap::from([(API, takes)]), world.now);
    // Of four sites with 10 endpoints for 100 units each, and a demand of 80 at each: 110 % of 320 must be left.
    (1..=4).for_each(|site| world.say(site, summary(10, 100, 80)));
    let short = DrainError::Capacity { service: API, left: 300, demand: 320, needed: 352 };
    assert_eq!(spares(&world, Takes::All), Err(short));
    assert_eq!(spares(&world, Takes::Endpoints(4)), Ok(()), "360 are left");
    let short = DrainError::Capacity { service: API, left: 350, demand: 320, needed: 352 };
    assert_eq!(spares(&world, Takes::Endpoints(5)), Err(short));
    assert_eq!(short.to_string(), "a capacity of 350 would be left for a demand of 320, 352 are needed");
    // The demand is not known: half of what there shall be, in capacity where all have one, else in endpoints.
    (1..=4).for_each(|site| world.say(site, summary(10, 100, 0)));
    assert_eq!(spares(&world, Takes::All), Ok(()), "300 of 400");
    (2..=3).for_each(|site| world.path(site, status(DOWN)));
    let short = DrainError::Half { service: API, left: 100, all: 400, needed: 200, unit: Unit::Capacity };
    assert_eq!(spares(&world, Takes::All), Err(short));
    assert_eq!(spares(&world, Takes::Endpoints(0)), Ok(()), "nothing is taken");
    world.say(4, summary(10, 0, 0));
    let short = DrainError::Half { service: API, left: 10, all: 40, needed: 20, unit: Unit::Endpoints };
    assert_eq!(spares(&world, Takes::All), Err(short));
    assert_eq!(short.to_string(), "10 of 40 endpoints would be left, 20 are needed");
    world.path(4, status(DOWN));
    assert_eq!(spares(&world, Takes::All), Err(DrainError::Last { service: API }));
    assert_eq!(spares(&world, Takes::Endpoints(10)), Err(DrainError::Last { service: API }));
    world.say(1, summary(0, 0, 0));
    assert_eq!(spares(&world, Takes::All), Ok(()), "nobody is served here: nobody misses it");
}

#[test]
fn a_cut_off_site_serves_its_own() {
    let mut local = World::new(Mode::LocalFirst);
    for site in 2..=4 {
        local.policy.handle_session(SiteId(site), false);
        local.path(site, status(DOWN));
    }
    local.run(1000);
    assert!(local.policy.isolated());
    assert_eq!(local.shares(), [1.0, 0.0, 0.0, 0.0]);
    assert!(!local.actions.iter().any(|(_, a)| matches!(a, Action::Announce { .. })));
}

#[test]
fn two_nodes_of_a_site_come_to_the_same_table_in_any_order() {
    let tables: Vec<_> = [[2u8, 3, 4], [4, 2, 3]]
        .map(|order| {
            let mut world = World::new(even());
            order.iter().for_each(|site| world.path(*site, status(if *site == 3 { DOWN } else { Carriage::Up })));
            order.iter().for_each(|site| world.say(*site, summary(10, 100, 50 + u32::from(*site))));
            world.run(60_000);
            world.tables.last().map(|(_, t)| t.slots.clone()).expect("a table")
        })
        .into();
    assert!(tables[0] == tables[1]);
}
