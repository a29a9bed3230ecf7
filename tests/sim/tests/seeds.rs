//! The short run of `cargo xtask test`. Ten thousand seeds are a drill.

use bascule_sim::campaign::{run_seed, run_seeds};
use bascule_sim::scenario::Class;

/// Each class gets its share: a class drawn by the seed would leave it to chance.
#[test]
fn every_class_holds() {
    let share = 20;
    for (index, class) in Class::ALL.into_iter().enumerate() {
        let first = 1_000_000 + index as u64 * share;
        let report = run_seeds(first..first + share, Some(class), None, |_| false);
        let lines: Vec<String> = report
            .failures
            .iter()
            .map(|f| {
                format!(
                    "{}\n  cargo run -q -p bascule-sim -- replay {} --class {}",
                    f.violation,
                    f.seed,
                    class.as_str()
                )
            })
            .collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
        assert_eq!(report.total().seeds, share);
    }
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in [3, 11, 99] {
        let (one, two) = (run_seed(seed, None, None, false), run_seed(seed, None, None, false));
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
        assert!(one.1.events > 1000, "seed {seed}: a run in which nothing happens proves nothing");
    }
}
