//! `bascule-sim`: run seeds, replay one, prove the checker by planted bugs.

mod bgp_cli;
mod sites_cli;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use bascule_sim::campaign::{Failure, find, run_seed, run_seeds};
use bascule_sim::mutant::Mutant;
use bascule_sim::scenario::Class;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Dozens of Bascule nodes on a virtual LAN, from a seed", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run seeds and check every invariant after every event.
    Run {
        /// `A..B`, or a count that begins at `--first`.
        #[arg(long, default_value = "1000")]
        seeds: String,
        /// First seed of a count.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Only this class of fault.
        #[arg(long, value_parser = class)]
        class: Option<Class>,
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
        /// The class it was run with, if one was given.
        #[arg(long, value_parser = class)]
        class: Option<Class>,
        /// The planted bug it was run with.
        #[arg(long, value_parser = mutant)]
        mutant: Option<Mutant>,
    },
    /// Two BGP speakers on a virtual TCP.
    Bgp {
        #[command(subcommand)]
        verb: bgp_cli::Verb,
    },
    /// The machines between sites: paths, policies, records.
    Sites {
        #[command(subcommand)]
        verb: sites_cli::Verb,
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

fn class(name: &str) -> Result<Class, String> {
    Class::parse(name).ok_or_else(|| format!("classes: {}", Class::ALL.map(Class::as_str).join(", ")))
}

fn mutant(name: &str) -> Result<Mutant, String> {
    Mutant::parse(name).ok_or_else(|| format!("planted bugs: {}", Mutant::ALL.map(Mutant::as_str).join(", ")))
}

fn main() -> ExitCode {
    match work(&Cli::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bascule-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn work(verb: &Verb) -> Result<bool> {
    match verb {
        Verb::Run { seeds, first, class, mutant, json } => run(range(seeds, *first)?, *class, *mutant, json.as_ref()),
        Verb::Replay { seed, class, mutant } => {
            let (class, outcome) = run_seed(*seed, *class, *mutant, true);
            match &outcome.violation {
                Some(v) => println!("seed {seed} ({}): {v}", class.as_str()),
                None => {
                    println!("seed {seed} ({}): every invariant held over {} events", class.as_str(), outcome.events)
                }
            }
            Ok(outcome.violation.is_none())
        }
        Verb::Bgp { verb } => bgp_cli::work(verb),
        Verb::Sites { verb } => sites_cli::work(verb),
        Verb::Mutations { seeds, json } => mutations(*seeds, json.as_ref()),
    }
}

fn range(text: &str, first: u64) -> Result<std::ops::Range<u64>> {
    let range = match text.split_once("..") {
        Some((a, b)) => a.parse().context("first seed")?..b.parse().context("last seed")?,
        None => first..first + text.parse::<u64>().context("--seeds takes a count or A..B")?,
    };
    if range.is_empty() {
        bail!("no seed in {text}");
    }
    Ok(range)
}

fn replay(failure: &Failure, class: Option<Class>, mutant: Option<Mutant>) -> String {
    let class = class.map(|c| format!(" --class {}", c.as_str())).unwrap_or_default();
    let mutant = mutant.map(|m| format!(" --mutant {m}")).unwrap_or_default();
    format!("cargo run -q -p bascule-sim -- replay {}{class}{mutant}", failure.seed)
}

fn run(
    seeds: std::ops::Range<u64>,
    class: Option<Class>,
    mutant: Option<Mutant>,
    json: Option<&PathBuf>,
) -> Result<bool> {
    let report = run_seeds(seeds.clone(), class, mutant, |failure| {
        println!("seed {} ({}): {}", failure.seed, failure.class.as_str(), failure.violation);
        println!("    {}", replay(failure, class, mutant));
        false
    });
    println!(
        "{:10} {:>7} {:>7} {:>12} {:>14} {:>12}",
        "class", "seeds", "broken", "events", "two owners ms", "no owner ms"
    );
    let mut rows = Vec::new();
    for (class, sum) in &report.classes {
        let (dual, gap) = (sum.dual as f64 / 1e6, sum.gap as f64 / 1e6);
        println!(
            "{:10} {:>7} {:>7} {:>12} {dual:>14.3} {gap:>12.1}",
            class.as_str(),
            sum.seeds,
            sum.broken,
            sum.events
        );
        let scene = format!("{} {}..{}", class.as_str(), seeds.start, seeds.end);
        rows.push(row(
            &scene,
            "seeds with a broken invariant",
            sum.broken as f64,
            "seeds",
            Some(0.0),
            sum.broken == 0,
            sum.seeds,
        ));
        rows.push(row(&scene, "longest time with two owners", dual, "ms", None, true, sum.seeds));
    }
    write(json, rows)?;
    let total = report.total();
    println!("{} seeds, {} events, {} broken", total.seeds, total.events, total.broken);
    Ok(total.broken == 0)
}

fn mutations(seeds: u64, json: Option<&PathBuf>) -> Result<bool> {
    println!("{:22} {:>6}  {:10} broken invariant", "planted bug", "seeds", "class");
    let (mut rows, mut found) = (Vec::new(), 0);
    for mutant in Mutant::ALL {
        let (took, failure) = find(mutant, None, 0, seeds);
        let (class, text) = match &failure {
            Some(f) => (f.class.as_str(), f.violation.to_string()),
            None => ("-", "NOT FOUND".to_owned()),
        };
        println!("{:22} {took:>6}  {class:10} {text}", mutant.as_str());
        found += usize::from(failure.is_some());
        rows.push(row(
            mutant.as_str(),
            "seeds until found",
            took as f64,
            "seeds",
            Some(seeds as f64),
            failure.is_some(),
            took,
        ));
    }
    write(json, rows)?;
    println!("{found} of {} planted bugs found within {seeds} seeds", Mutant::ALL.len());
    Ok(found == Mutant::ALL.len())
}

fn row(scene: &str, metric: &str, value: f64, unit: &str, bound: Option<f64>, ok: bool, runs: u64) -> Value {
    json!({ "scene": scene, "metric": metric, "value": value, "unit": unit, "bound": bound, "ok": ok, "runs": runs })
}

fn write(file: Option<&PathBuf>, rows: Vec<Value>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(&json!({ "rows": rows })).context("JSON")? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
