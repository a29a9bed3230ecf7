//! The short run of `cargo xtask test` for two BGP speakers. Ten thousand seeds are a drill.

use bascule_sim::bgp::mutant::Mutant;
use bascule_sim::bgp::{find, run_seed};

#[test]
fn every_invariant_holds() {
    let mut sessions = 0;
    for seed in 2_000_000..2_000_200 {
        let outcome = run_seed(seed, None, false);
        sessions += outcome.sessions;
        if let Some(violation) = outcome.violation {
            panic!("{violation}\n  cargo run -q -p bascule-sim -- bgp replay {seed}");
        }
    }
    assert!(sessions > 800, "{sessions} sessions: seeds in which nothing happens prove nothing");
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [3, 11, 99] {
        let (one, two) = (run_seed(seed, None, false), run_seed(seed, None, false));
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
    }
}

#[test]
fn every_planted_bug_is_found() {
    for mutant in Mutant::ALL {
        let (took, failure) = find(mutant, 0, 400);
        let (seed, violation) = failure.unwrap_or_else(|| panic!("{mutant}: not found in {took} seeds"));
        println!("{mutant}: {took} seeds, seed {seed}: {violation}");
    }
}
