//! Planted bugs: what the world must find, or it proves nothing. Each is one of a driver, beside machines as they are shipped.

use super::contract::Mutant;
use super::simulate::{FAULTS, timing_etcd, timing_kube};
use super::stores::{ApiServer, Etcd};
use super::world::World;
use super::*;

/// The first seed that shows two owners.
fn found(mut run: impl FnMut(u64) -> Option<String>) -> Option<(u64, String)> {
    (0..1_000).find_map(|seed| run(seed).map(|what| (seed, what.lines().next().unwrap_or_default().to_owned())))
}

#[test]
fn planted_bugs_of_a_driver_of_leases_are_found() {
    let planted = [
        Mutant::FromAnswer,
        Mutant::NoMargin,
        Mutant::Unversioned,
        Mutant::ReleasesFirst,
        Mutant::SuspendedClock,
        Mutant::ConflictIsSuccess,
        Mutant::ShortDuration,
    ];
    for mutant in planted {
        let run = |seed| World::new(ApiServer::new(timing_kube()), seed, Some(mutant)).with_faults(FAULTS).violation;
        let found = found(run);
        println!("{mutant:?}: {found:?}");
        assert!(found.is_some(), "{mutant:?} is not found");
    }
}

#[test]
fn planted_bugs_of_a_driver_of_etcd_are_found() {
    let planted =
        [Mutant::FromAnswer, Mutant::NoMargin, Mutant::ReleasesFirst, Mutant::SuspendedClock, Mutant::StaleStream];
    for mutant in planted {
        let store = || Etcd::new(timing_etcd(), Duration::ZERO);
        let found = found(|seed| World::new(store(), seed, Some(mutant)).with_faults(FAULTS).violation);
        println!("{mutant:?}: {found:?}");
        assert!(found.is_some(), "{mutant:?} is not found");
    }
    for mutant in planted.into_iter().chain([Mutant::LooksForNoShare, Mutant::LeavesAnyShare]) {
        let store = || Etcd::joint(timing_etcd(), Duration::ZERO);
        let found = found(|seed| World::new(store(), seed, Some(mutant)).with_faults(FAULTS).violation);
        println!("of a site, {mutant:?}: {found:?}");
        assert!(found.is_some(), "{mutant:?} is not found in an elector of a site");
    }
}
