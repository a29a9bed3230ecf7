//! `bascule-sim sites`: the machines between sites.

use std::collections::BTreeMap;

use anyhow::Result;
use bascule_sim::sites::link::SEC;
use bascule_sim::sites::mutant::Mutant;
use bascule_sim::sites::scene::Class;
use bascule_sim::sites::{find, run_long, run_off, run_seed};
use clap::Subcommand;

use crate::sites_tables;
use crate::verbs::{Hunt, Rows, Seeds, broken_row, each, judge, report, row};

const SIM: &str = "sites ";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// How soon loss is seen, how often none is: issue 6, Shows 4.
    Brownout {
        /// Runs of each scene.
        #[arg(long, default_value_t = 1000)]
        runs: u64,
        #[command(flatten)]
        rows: Rows,
    },
    /// A quiet link, packet by packet, with 0.05 % of the time in bursts.
    Quiet {
        /// Days.
        #[arg(long, default_value_t = 30)]
        days: u64,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        rows: Rows,
    },
    /// Run seeds of the fault matrix and check every invariant after every event.
    Run {
        #[command(flatten)]
        seeds: Seeds,
        /// Only this row (F3, F14, ...).
        #[arg(long, value_parser = class)]
        class: Option<Class>,
        /// With a planted bug.
        #[arg(long)]
        mutant: Option<Mutant>,
        /// Each run goes on for so many hours after its first fault.
        #[arg(long, requires = "class")]
        hours: Option<u64>,
        #[command(flatten)]
        rows: Rows,
    },
    /// Run the same seeds with the policy off: those of rows that it is for must miss their bound.
    Off {
        #[command(flatten)]
        seeds: Seeds,
        #[command(flatten)]
        rows: Rows,
    },
    /// Run one seed and print everything that happens.
    Replay {
        /// The seed.
        seed: u64,
        /// The row it was run with, if one was given.
        #[arg(long, value_parser = class)]
        class: Option<Class>,
        /// The planted bug it was run with.
        #[arg(long)]
        mutant: Option<Mutant>,
    },
    /// Look for each planted bug; every one must be found.
    Mutations(Hunt),
    /// 100,000 endpoint changes a minute, as a peer pays for them: F19, issue 6, Shows 6.
    Churn {
        /// Seconds.
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        #[command(flatten)]
        rows: Rows,
    },
    /// Four of eight sites overloaded at once, with the policy and without: issue 6, Shows 5 (F16, F17).
    Overload {
        /// Seeds.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        #[command(flatten)]
        rows: Rows,
    },
}

pub(crate) fn work(verb: &Verb) -> Result<bool> {
    match verb {
        Verb::Brownout { runs, rows } => sites_tables::brownout(*runs, rows),
        Verb::Quiet { days, seed, rows } => sites_tables::quiet_link(*days, *seed, rows),
        Verb::Run { seeds, class, mutant, hours, rows } => run(seeds.range()?, *class, *mutant, *hours, rows),
        Verb::Off { seeds, rows } => off(seeds.range()?, rows),
        Verb::Replay { seed, class, mutant } => {
            let (class, outcome) = run_seed(*seed, *class, *mutant, true);
            Ok(judge(&format!("seed {seed} ({class})"), outcome.violation.as_ref(), outcome.events))
        }
        Verb::Mutations(hunt) => hunt.all(SIM, &Mutant::ALL, "row  broken invariant", |mutant, seeds| {
            let (took, failure) = find(mutant, None, 0, seeds);
            (took, failure.map(|(_, class, violation)| format!("{:4} {violation}", class.to_string())))
        }),
        Verb::Churn { seconds, rows } => sites_tables::churn(*seconds, rows),
        Verb::Overload { seeds, rows } => sites_tables::overloads(*seeds, rows),
    }
}

fn class(name: &str) -> Result<Class, String> {
    Class::parse(name).ok_or_else(|| format!("rows: {}", Class::ALL.map(|c| c.to_string()).join(", ")))
}

/// Seeds, broken ones, events, longest time without service, oldest that was known, most tables of one run.
#[derive(Default)]
struct Sum {
    seeds: u64,
    broken: u64,
    events: u64,
    longest: u64,
    oldest: u64,
    tables: u64,
}

fn run(
    seeds: std::ops::Range<u64>,
    only: Option<Class>,
    mutant: Option<Mutant>,
    hours: Option<u64>,
    file: &Rows,
) -> Result<bool> {
    let mut classes: BTreeMap<Class, Sum> = BTreeMap::new();
    let outcomes = each(seeds.clone(), |seed| match hours {
        None => run_seed(seed, only, mutant, false),
        Some(hours) => run_long(seed, only, mutant, hours * 3600 * SEC),
    });
    for (seed, (class, outcome)) in seeds.clone().zip(outcomes) {
        let sum = classes.entry(class).or_default();
        sum.seeds += 1;
        sum.events += outcome.events;
        sum.longest = sum.longest.max(outcome.longest);
        sum.oldest = sum.oldest.max(outcome.oldest);
        sum.tables = sum.tables.max(outcome.tables);
        if let Some(violation) = outcome.violation {
            sum.broken += 1;
            report(SIM, &format!("seed {seed}"), seed, &violation, only, mutant);
        }
    }
    println!(
        "{:4} {:30} {:>6} {:>7} {:>10} {:>12} {:>8} {:>8}",
        "row", "fault", "seeds", "broken", "events", "unserved s", "known s", "tables"
    );
    let mut rows = Vec::new();
    for (class, sum) in &classes {
        let [unserved, known] = [sum.longest, sum.oldest].map(|nanos| nanos as f64 / 1e9);
        println!(
            "{:4} {:30} {:>6} {:>7} {:>10} {unserved:>12.3} {known:>8.3} {:>8}",
            class.to_string(),
            class.words(),
            sum.seeds,
            sum.broken,
            sum.events,
            sum.tables
        );
        let long = hours.map(|hours| format!(" for {hours} h")).unwrap_or_default();
        let scene = format!("{class} {}{long} {}..{}", class.words(), seeds.start, seeds.end);
        rows.push(broken_row(&scene, sum.broken, sum.seeds));
        rows.push(row(&scene, "longest time of new flows not served", unserved, "s", None, true, sum.seeds));
        rows.push(row(&scene, "oldest that is known while there is a session", known, "s", None, true, sum.seeds));
        rows.push(row(&scene, "most tables after the first fault", sum.tables as f64, "", None, true, sum.seeds));
    }
    file.write(rows)?;
    let broken: u64 = classes.values().map(|s| s.broken).sum();
    println!("{} seeds, {broken} broken", seeds.end - seeds.start);
    Ok(broken == 0)
}

fn off(seeds: std::ops::Range<u64>, file: &Rows) -> Result<bool> {
    let mut classes: BTreeMap<Class, (u64, u64)> = BTreeMap::new();
    for (class, outcome) in each(seeds.clone(), |seed| run_off(seed, None)) {
        let Some(outcome) = outcome else { continue };
        let (all, met) = classes.entry(class).or_default();
        *all += 1;
        *met += u64::from(outcome.violation.is_none_or(|violation| violation.rule != "no black hole"));
    }
    println!("{:4} {:30} {:>6} {:>22}", "row", "fault, policy off", "seeds", "met their bound anyway");
    let mut rows = Vec::new();
    for (class, (all, met)) in &classes {
        println!("{:4} {:30} {all:>6} {met:>22}", class.to_string(), class.words());
        let scene = format!("{class} {}, policy off, {}..{}", class.words(), seeds.start, seeds.end);
        rows.push(row(
            &scene,
            "seeds that meet the bound all the same",
            *met as f64,
            "seeds",
            Some(0.0),
            *met == 0,
            *all,
        ));
    }
    file.write(rows)?;
    Ok(classes.values().all(|(_, met)| *met == 0))
}
