//! A thousand seeds of each elector, and the bounds of take-over.

use super::stores::{ApiServer, Etcd};
use super::world::{Outcome, World};
use super::*;

const SEEDS: u64 = 1_000;
/// Faults of a run, in two minutes.
pub(super) const FAULTS: u64 = 20;

pub(super) fn timing_kube() -> Timing {
    // A renew deadline as long as is allowed, so that the margin is what keeps two apart.
    Timing::kubernetes(ms(5_000), ms(4_999), ms(1_000)).expect("valid")
}

pub(super) fn timing_etcd() -> Timing {
    Timing::etcd(ms(5_000)).expect("valid")
}

fn judge(outcomes: impl Iterator<Item = (u64, Outcome)>) {
    let (mut claims, mut requests) = (0, 0);
    for (seed, outcome) in outcomes {
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.owned, "seed {seed}: nobody owns after the faults");
        claims += u64::from(outcome.claims);
        requests += outcome.requests;
    }
    assert!(claims > 5 * SEEDS, "the faults move the lease: {claims} claims");
    println!("{claims} claims, {requests} requests in {SEEDS} runs");
}

#[test]
fn kubernetes_never_has_two_owners_and_gets_one_back() {
    let run = |seed| (seed, World::new(ApiServer::new(timing_kube()), seed, None).with_faults(FAULTS));
    judge((0..SEEDS).map(run));
}

#[test]
fn etcd_never_has_two_owners_and_gets_one_back() {
    let lag = |seed| if seed % 2 == 0 { Duration::ZERO } else { ms(500) };
    let run = |seed| (seed, World::new(Etcd::new(timing_etcd(), lag(seed)), seed, None).with_faults(FAULTS));
    judge((0..SEEDS).map(run));
}

fn worst(outcomes: impl Iterator<Item = Outcome>) -> Duration {
    let times: Vec<Duration> = outcomes.map(|o| o.takeover.expect("a successor")).collect();
    let worst = times.iter().copied().max().expect("runs");
    println!("take-over: at most {worst:?} in {} runs", times.len());
    worst
}

#[test]
fn etcd_takes_over_within_ttl_and_a_half_second_and_one() {
    let worst = worst((0..300).map(|seed| World::new(Etcd::new(timing_etcd(), ms(500)), seed, None).with_a_death()));
    assert!(worst <= ms(5_000) + ms(1_500), "{worst:?}");
    assert!(worst > ms(4_900), "a death just after a keep-alive is among them: {worst:?}");
}

/// The arithmetic of ADR 0042, with the longest ordinary delay of a message (20.2 ms) each time. At the last node that leaves: the answer that it
/// waits for (2), its driver's closing (50 ms), Leave (2), Free (1). At the next one: the watch (1), an answer that it waits for (2), Grant (2),
/// Campaign (2). The lease of 5 s plays no part in it.
#[test]
fn a_hand_over_takes_some_messages_and_no_lease() {
    for (apart, seeds) in [(Duration::ZERO, 0..300), (ms(400), 300..600)] {
        let run = |seed| World::new(Etcd::joint(timing_etcd(), ms(500)), seed, None).with_a_hand_over(apart);
        let worst = worst(seeds.map(run).inspect(|outcome| assert_eq!(outcome.violation, None)));
        assert!(worst <= ms(50) + Duration::from_micros(20_200) * 12, "{worst:?}");
    }
}

#[test]
fn kubernetes_takes_over_within_its_stated_bound() {
    let timing = timing_kube();
    let worst = worst((0..300).map(|seed| World::new(ApiServer::new(timing), seed, None).with_a_death()));
    // A watch tells within 21 ms, a request with its answer takes up to 42 ms, and the second one may be needed after a lost race.
    assert!(worst <= timing.kubernetes_takeover(ms(21), ms(84)), "{worst:?}");
    assert!(worst > ms(4_900), "a death just after a renewal is among them: {worst:?}");
}

#[test]
fn two_nodes_of_one_site_own_together_and_never_with_another_site() {
    let lag = |seed| if seed % 2 == 0 { Duration::ZERO } else { ms(500) };
    let run = |seed| (seed, World::new(Etcd::joint(timing_etcd(), lag(seed)), seed, None).with_faults(FAULTS));
    judge((0..SEEDS).map(run));
}
