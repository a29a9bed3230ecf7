//! `bascule-sim bgp`: the same verbs for two speakers.

use anyhow::Result;
use bascule_sim::bgp::mutant::Mutant;
use bascule_sim::bgp::{find, run_seed};
use clap::Subcommand;

use crate::verbs::{Hunt, Rows, Seeds, broken_row, judge, report};

const SIM: &str = "bgp ";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run seeds and check every invariant after every turn.
    Run {
        #[command(flatten)]
        seeds: Seeds,
        /// With a planted bug.
        #[arg(long)]
        mutant: Option<Mutant>,
        #[command(flatten)]
        rows: Rows,
    },
    /// Run one seed and print everything that happens.
    Replay {
        /// The seed.
        seed: u64,
        /// The planted bug it was run with.
        #[arg(long)]
        mutant: Option<Mutant>,
    },
    /// Look for each planted bug; every one must be found.
    Mutations(Hunt),
}

pub(crate) fn work(verb: &Verb) -> Result<bool> {
    match verb {
        Verb::Run { seeds, mutant, rows } => run(seeds.range()?, *mutant, rows),
        Verb::Replay { seed, mutant } => {
            let outcome = run_seed(*seed, *mutant, true);
            Ok(judge(&format!("seed {seed}"), outcome.violation.as_ref(), outcome.events))
        }
        Verb::Mutations(hunt) => hunt.all(SIM, &Mutant::ALL, "broken invariant", |mutant, seeds| {
            let (took, failure) = find(mutant, 0, seeds);
            (took, failure.map(|(_, violation)| violation.to_string()))
        }),
    }
}

fn run(seeds: std::ops::Range<u64>, mutant: Option<Mutant>, rows: &Rows) -> Result<bool> {
    let (mut events, mut sessions, mut broken) = (0, 0, 0);
    let runs = seeds.end - seeds.start;
    let scene = format!("{SIM}{}..{}", seeds.start, seeds.end);
    for seed in seeds {
        let outcome = run_seed(seed, mutant, false);
        events += outcome.events;
        sessions += outcome.sessions;
        if let Some(violation) = outcome.violation {
            broken += 1;
            report(SIM, &format!("seed {seed}"), seed, &violation, None::<&str>, mutant);
        }
    }
    rows.write(vec![broken_row(&scene, broken, runs)])?;
    println!("{runs} seeds, {events} events, {sessions} sessions, {broken} broken");
    Ok(broken == 0)
}
