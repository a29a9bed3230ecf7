//! Many seeds: what held, what broke, and how to see one of them again.

use std::collections::BTreeMap;

use crate::mutant::Mutant;
use crate::scenario::{Class, Scenario};
use crate::violation::Violation;
use crate::world::{Outcome, World};

/// Runs one seed.
pub fn run_seed(seed: u64, class: Option<Class>, mutant: Option<Mutant>, trace: bool) -> (Class, Outcome) {
    let scenario = Scenario::new(seed, class);
    let class = scenario.class;
    (class, World::new(scenario, mutant, trace).run())
}

/// A seed that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Its class.
    pub class: Class,
    /// What broke.
    pub violation: Violation,
}

/// Sums of one class.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds that broke an invariant.
    pub broken: u64,
    /// Events handled.
    pub events: u64,
    /// Longest time with two owners, in nanoseconds.
    pub dual: u64,
    /// Longest time without an owner, in nanoseconds.
    pub gap: u64,
}

/// Result of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By class.
    pub classes: BTreeMap<Class, Sum>,
    /// In the order of the seeds.
    pub failures: Vec<Failure>,
}

impl Report {
    /// All classes together.
    pub fn total(&self) -> Sum {
        self.classes.values().fold(Sum::default(), |t, s| Sum {
            seeds: t.seeds + s.seeds,
            broken: t.broken + s.broken,
            events: t.events + s.events,
            dual: t.dual.max(s.dual),
            gap: t.gap.max(s.gap),
        })
    }
}

/// Runs seeds; `enough` is told of every failure and ends the campaign with `true`.
pub fn run_seeds(
    seeds: impl IntoIterator<Item = u64>,
    class: Option<Class>,
    mutant: Option<Mutant>,
    mut enough: impl FnMut(&Failure) -> bool,
) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        let (class, outcome) = run_seed(seed, class, mutant, false);
        let sum = report.classes.entry(class).or_default();
        sum.seeds += 1;
        sum.events += outcome.events;
        sum.dual = sum.dual.max(outcome.dual);
        sum.gap = sum.gap.max(outcome.gap);
        if let Some(violation) = outcome.violation {
            sum.broken += 1;
            let failure = Failure { seed, class, violation };
            let stop = enough(&failure);
            report.failures.push(failure);
            if stop {
                break;
            }
        }
    }
    report
}

/// The seed that first shows a planted bug, its violation, and how many seeds that took.
pub fn find(mutant: Mutant, class: Option<Class>, first: u64, seeds: u64) -> (u64, Option<Failure>) {
    let mut report = run_seeds(first..first + seeds, class, Some(mutant), |_| true);
    (report.total().seeds, report.failures.pop())
}
