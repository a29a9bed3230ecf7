//! activePassive: who asks for the lease, when, and where flows go meanwhile.

use core::time::Duration;

use proptest::prelude::*;

use super::{API, DOWN, HERE, World, status, summary};
use crate::site::SiteId;
use crate::site::path::io::Carriage;
use crate::site::policy::active_passive::{COURTESY, RETURNED};
use crate::site::policy::io::{Action, Failback, Mode, ReleaseReason, Report};
use crate::site::policy::{FAILBACK, LEARN};
use crate::site::summary::Summary;
use crate::time::Instant;

const B: SiteId = SiteId(2);
const C: SiteId = SiteId(3);

fn world(order: &[SiteId], failback: Failback) -> World {
    World::new(Mode::ActivePassive { order: order.to_vec(), failback })
}

fn hold(world: &mut World, holder: Option<SiteId>) {
    world.policy.handle_lease(API, holder, world.now);
    world.drain();
}

/// What is said of the lease since the last call.
fn said(world: &mut World) -> Vec<Action> {
    let of = |a: &&Action| matches!(a, Action::Claim(_) | Action::Release(..) | Action::Announce { .. });
    let all = world.actions.iter().map(|(_, a)| a).filter(of).cloned().collect();
    world.actions.clear();
    all
}

fn claim() -> Vec<Action> {
    vec![Action::Claim(API)]
}

fn release(reason: ReleaseReason) -> Vec<Action> {
    vec![Action::Release(API, reason)]
}

#[test]
fn flows_follow_the_lease_at_once_and_whole() {
    let mut world = world(&[B, HERE, C], Failback::Manual);
    assert!(world.tables.is_empty(), "nobody is known to have it");
    for site in [B, HERE, C, HERE] {
        hold(&mut world, Some(site));
        let one = [1, 2, 3, 4].map(|s| if SiteId(s) == site { 1.0 } else { 0.0 });
        assert_eq!(world.shares(), one, "{site}");
    }
    let tables = world.tables.len();
    hold(&mut world, None);
    world.run(10_000);
    assert_eq!((world.shares(), world.tables.len()), ([0.0; 4], tables + 1), "said once");
}

#[test]
fn a_vacancy_is_left_to_the_last_holder_then_to_the_best() {
    let wait = |failback: Failback, last: SiteId, down: Option<u8>| {
        let mut world = world(&[B, HERE, C], failback);
        hold(&mut world, Some(last));
        if let Some(site) = down {
            world.path(site, status(DOWN));
        }
        world.run(1_000);
        let _before = said(&mut world);
        let start = world.now;
        hold(&mut world, None);
        while said(&mut world) != claim() {
            world.run(10);
            assert!(world.now.since(start) < Duration::from_secs(5));
        }
        world.now.since(start)
    };
    let about = |took: Duration, courtesies: u32| {
        let early = COURTESY * courtesies;
        assert!((early..early + Duration::from_millis(20)).contains(&took), "{took:?}, not {courtesies} courtesies");
    };
    about(wait(Failback::Manual, B, None), 1);
    about(wait(Failback::Manual, B, Some(2)), 0);
    about(wait(Failback::Manual, C, None), 2);
    about(wait(Failback::Manual, C, Some(3)), 1);
    about(wait(Failback::Automatic, C, None), 1);
    about(wait(Failback::Automatic, HERE, None), 1);
    let mut own = world(&[B, HERE, C], Failback::Manual);
    hold(&mut own, Some(HERE));
    let _before = said(&mut own);
    hold(&mut own, None);
    own.run(10_000);
    assert_eq!(said(&mut own), [], "who had it asks on");
}

#[test]
fn an_authority_that_was_away_moves_nothing_by_coming_back_sooner_here() {
    let mut world = world(&[B, HERE, C], Failback::Manual);
    hold(&mut world, Some(B));
    world.policy.handle_authority(false, world.now);
    world.run(30_000);
    let _before = said(&mut world);
    world.policy.handle_authority(true, world.now);
    let back = world.now;
    hold(&mut world, None);
    while said(&mut world) != claim() {
        world.run(10);
        assert!(world.now.since(back) < Duration::from_secs(5));
    }
    let took = world.now.since(back);
    assert!((RETURNED..RETURNED + Duration::from_millis(20)).contains(&took), "{took:?}");
}

#[test]
fn who_does_not_serve_gives_it_up_if_another_one_does() {
    let mut world = world(&[HERE, B], Failback::Manual);
    hold(&mut world, Some(HERE));
    let _before = said(&mut world);
    world.say(1, summary(0, 0, 0));
    assert_eq!(said(&mut world), release(ReleaseReason::NotServing));
    world.say(1, summary(10, 100, 0));
    world.run(30_000);
    assert_eq!(said(&mut world), claim(), "it has it still, and serves again");
    world.path(2, status(DOWN));
    world.say(1, summary(0, 0, 0));
    world.run(5_000);
    assert_eq!(said(&mut world), [], "nobody is better off elsewhere");
}

/// All endpoints are ready, and the site takes nothing new.
fn drained() -> Summary {
    Summary { draining: true, ..summary(10, 100, 0) }
}

#[test]
fn a_drain_is_handed_over_at_once_if_another_one_can_take_it_and_else_waits_for_one() {
    let mut world = world(&[HERE, B], Failback::Manual);
    hold(&mut world, Some(HERE));
    let _before = said(&mut world);
    world.say(1, drained());
    assert_eq!(said(&mut world), release(ReleaseReason::Draining), "in the step in which the order is heard");
    // Taken back before anybody has it.
    world.say(1, summary(10, 100, 0));
    assert_eq!(said(&mut world), claim());
    // The other one drains too, has nothing ready, or is away: it stays. C is well and may not have it.
    let unable: [fn(&mut World); 3] = [
        |world| world.say(2, drained()),
        |world| world.say(2, summary(0, 100, 0)),
        |world| world.path(2, status(DOWN)),
    ];
    for make in unable {
        let mut world = self::world(&[HERE, B], Failback::Manual);
        hold(&mut world, Some(HERE));
        make(&mut world);
        world.say(1, drained());
        world.run(5_000);
        assert_eq!(said(&mut world).into_iter().find(|action| matches!(action, Action::Release(..))), None);
        world.path(2, status(Carriage::Up));
        world.say(2, summary(10, 100, 0));
        world.run(60_000);
        assert_eq!(said(&mut world), release(ReleaseReason::Draining), "as soon as one can");
    }
}

#[test]
fn what_is_handed_over_and_not_taken_comes_back_and_is_not_offered_again_at_once() {
    let mut world = world(&[HERE, B, C], Failback::Manual);
    hold(&mut world, Some(HERE));
    let _before = said(&mut world);
    world.say(1, drained());
    assert_eq!(said(&mut world), release(ReleaseReason::Draining));
    hold(&mut world, None);
    let free = world.now;
    while said(&mut world) != claim() {
        world.run(10);
        assert!(world.now.since(free) < Duration::from_secs(5));
    }
    let waited = world.now.since(free);
    assert!((RETURNED..RETURNED + Duration::from_millis(20)).contains(&waited), "after the others: {waited:?}");
    hold(&mut world, Some(HERE));
    let kept = |(_, action): &(Instant, Action)| matches!(action, Action::Report(Report::Kept { service: API, .. }));
    assert!(world.actions.iter().any(kept), "it is said");
    let back = world.now;
    let mut again = said(&mut world);
    while again.is_empty() {
        world.run(1_000);
        again = said(&mut world);
        assert!(world.now.since(back) < FAILBACK * 2);
    }
    assert_eq!(again, release(ReleaseReason::Draining));
    assert!(world.now.since(back) >= FAILBACK, "{:?}", world.now.since(back));
    // Once another one had it, a further order is a further one.
    hold(&mut world, Some(B));
    world.say(1, summary(10, 100, 0));
    hold(&mut world, None);
    hold(&mut world, Some(HERE));
    world.run(1_000);
    let _before = said(&mut world);
    world.say(1, drained());
    assert_eq!(said(&mut world), release(ReleaseReason::Draining));
}

#[test]
fn a_site_that_drains_takes_what_nobody_has_after_all_others() {
    let mut world = world(&[HERE, B], Failback::Manual);
    hold(&mut world, Some(B));
    world.say(1, drained());
    world.path(2, status(DOWN));
    world.run(1_000);
    let _before = said(&mut world);
    hold(&mut world, None);
    world.run(1_900);
    assert_eq!(said(&mut world), []);
    world.run(200);
    assert_eq!(said(&mut world), claim(), "it is better than nobody");
    hold(&mut world, Some(HERE));
    world.run(30_000);
    assert_eq!(said(&mut world), [], "and keeps it while there is nobody else");
}

#[test]
fn another_order_of_sites_by_a_reload_moves_it_only_where_that_is_wanted() {
    for (failback, wanted) in [(Failback::Manual, false), (Failback::Automatic, true)] {
        let mut world = world(&[HERE, B], failback);
        hold(&mut world, Some(HERE));
        let mut config = world.policy.config.clone();
        let mode = Mode::ActivePassive { order: vec![B, HERE], failback };
        config.services.get_mut(&API).expect("a service").mode = mode;
        let _before = said(&mut world);
        world.policy.handle_config(config, world.now);
        world.drain();
        world.run(290_000);
        assert_eq!(said(&mut world), []);
        world.run(60_000);
        let expected = if wanted { release(ReleaseReason::Failback) } else { vec![] };
        assert_eq!(said(&mut world), expected, "{failback:?}");
    }
    let planned = |reason: &ReleaseReason| reason.is_planned();
    assert!(ReleaseReason::PLANNED.iter().all(planned) && !ReleaseReason::NotServing.is_planned());
}

#[test]
fn it_goes_back_to_a_better_site_only_where_that_is_wanted_and_after_five_minutes() {
    for (failback, wanted) in [(Failback::Manual, false), (Failback::Automatic, true)] {
        let mut world = world(&[B, HERE], failback);
        hold(&mut world, Some(HERE));
        let start = world.now;
        let _before = said(&mut world);
        world.run(290_000);
        assert_eq!(said(&mut world), []);
        world.run(60_000);
        let expected = if wanted { release(ReleaseReason::Failback) } else { vec![] };
        assert_eq!(said(&mut world), expected, "{failback:?} since {start:?}");
    }
}

#[test]
fn a_site_that_hears_nobody_keeps_it_while_the_authority_answers() {
    let mut world = world(&[HERE, B], Failback::Manual);
    hold(&mut world, Some(HERE));
    for site in 2..=4 {
        world.policy.handle_session(SiteId(site), false);
        world.path(site, status(DOWN));
    }
    world.run(1_000);
    assert!(world.policy.isolated());
    let _before = said(&mut world);
    world.policy.handle_authority(false, world.now);
    world.run(1_000);
    let gone = [Action::Announce { service: API, announce: false }, Action::Release(API, ReleaseReason::Isolated)];
    assert_eq!(said(&mut world), gone);
    hold(&mut world, None);
    world.run(60_000);
    assert_eq!(said(&mut world), [], "who reaches nobody asks for nothing");
    world.policy.handle_authority(true, world.now);
    world.run(1_000);
    let back = [Action::Announce { service: API, announce: true }, Action::Claim(API)];
    assert_eq!(said(&mut world), back);
}

#[test]
fn who_begins_learns_before_it_asks_and_the_best_asks_first() {
    for (order, courtesies) in [([HERE, B], 0), ([B, HERE], 1)] {
        let world = world(&order, Failback::Manual);
        let first = world.actions.iter().find(|(_, a)| matches!(a, Action::Claim(_))).map(|(at, _)| *at);
        let waited = first.expect("it asks").since(crate::time::Instant::from_nanos(1_000_000_000));
        assert_eq!(waited, LEARN + COURTESY * courtesies);
    }
}

proptest! {
    /// Whatever happens: all flows go to the holder that was named last, or to nobody; what is said of the lease alternates; nothing is asked
    /// for while another one has it; nothing is handed over while no other one serves.
    #[test]
    fn flows_are_never_at_two_sites(steps in proptest::collection::vec((0u8..6, 1u8..5, 0u64..3_000), 1..60)) {
        let mut world = world(&[B, HERE, C], Failback::Automatic);
        let (mut holder, mut wants) = (None, said(&mut world).last().is_some_and(|a| matches!(a, Action::Claim(_))));
        for (what, site, ms) in steps {
            match what {
                0 => { holder = Some(SiteId(site)); hold(&mut world, holder); }
                1 => { holder = None; hold(&mut world, None); }
                2 => world.path(site.max(2), status(if ms % 2 == 0 { DOWN } else { Carriage::Up })),
                3 => world.say(site, summary(if ms % 2 == 0 { 0 } else { 10 }, 100, 60)),
                4 => world.policy.handle_authority(ms % 2 == 0, world.now),
                _ => world.run(ms),
            }
            let one = [1, 2, 3, 4].map(|s| if Some(SiteId(s)) == holder { 1.0 } else { 0.0 });
            prop_assert_eq!(world.shares(), one);
            for action in said(&mut world) {
                let claims = match action { Action::Claim(_) => true, Action::Release(..) => false, _ => continue };
                prop_assert_ne!(claims, wants);
                prop_assert!(!claims || holder.is_none_or(|h| h == HERE));
                wants = claims;
            }
        }
    }
}
