//! `bascule-sim bgp`: the same verbs for two speakers.

use std::path::PathBuf;

use anyhow::Result;
use bascule_sim::bgp::mutant::Mutant;
use bascule_sim::bgp::{find, run_seed};
use clap::Subcommand;

use crate::{range, row, write};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run seeds and check every invariant after every turn.
    Run {
        /// `A..B`, or a count from 0.
        #[arg(long, default_value = "1000")]
        seeds: String,
        /// With a planted bug.
        #[arg(long, value_parser = mutant)]
        mutant: Option<Mutant>,
        /// Write the rows as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Run one seed and print everything that happens.
    Replay {
        /// The seed.
        seed: u64,
        /// The planted bug it was run with.
        #[arg(long, value_parser = mutant)]
        mutant: Option<Mutant>,
    },
    /// Look for each planted bug; every one must be found.
    Mutations {
        /// Seeds per bug at most.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// Write the rows as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn mutant(name: &str) -> Result<Mutant, String> {
    Mutant::parse(name).ok_or_else(|| format!("planted bugs: {}", Mutant::ALL.map(Mutant::as_str).join(", ")))
}

pub(crate) fn work(verb: &Verb) -> Result<bool> {
    match verb {
        Verb::Run { seeds, mutant, json } => run(range(seeds, 0)?, *mutant, json.as_ref()),
        Verb::Replay { seed, mutant } => {
            let outcome = run_seed(*seed, *mutant, true);
            match &outcome.violation {
                Some(violation) => println!("seed {seed}: {violation}"),
                None => println!("seed {seed}: every invariant held over {} events", outcome.events),
            }
            Ok(outcome.violation.is_none())
        }
        Verb::Mutations { seeds, json } => mutations(*seeds, json.as_ref()),
    }
}

fn run(seeds: std::ops::Range<u64>, mutant: Option<Mutant>, json: Option<&PathBuf>) -> Result<bool> {
    let (mut events, mut sessions, mut broken) = (0, 0, 0);
    let runs = seeds.end - seeds.start;
    let scene = format!("bgp {}..{}", seeds.start, seeds.end);
    for seed in seeds {
        let outcome = run_seed(seed, mutant, false);
        events += outcome.events;
        sessions += outcome.sessions;
        if let Some(violation) = outcome.violation {
            broken += 1;
            let mutant = mutant.map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
            println!("seed {seed}: {violation}");
            println!("    cargo run -q -p bascule-sim -- bgp replay {seed}{mutant}");
        }
    }
    let metric = "seeds with a broken invariant";
    write(json, vec![row(&scene, metric, f64::from(broken), "seeds", Some(0.0), broken == 0, runs)])?;
    println!("{runs} seeds, {events} events, {sessions} sessions, {broken} broken");
    Ok(broken == 0)
}

fn mutations(seeds: u64, json: Option<&PathBuf>) -> Result<bool> {
    println!("{:22} {:>6}  broken invariant", "planted bug", "seeds");
    let (mut rows, mut found) = (Vec::new(), 0);
    for mutant in Mutant::ALL {
        let (took, failure) = find(mutant, 0, seeds);
        let text = failure.as_ref().map_or_else(|| "NOT FOUND".to_owned(), |(_, violation)| violation.to_string());
        println!("{:22} {took:>6}  {text}", mutant.as_str());
        found += usize::from(failure.is_some());
        let (scene, bound) = (format!("bgp {mutant}"), Some(seeds as f64));
        rows.push(row(&scene, "seeds until found", took as f64, "seeds", bound, failure.is_some(), took));
    }
    write(json, rows)?;
    println!("{found} of {} planted bugs found within {seeds} seeds", Mutant::ALL.len());
    Ok(found == Mutant::ALL.len())
}
