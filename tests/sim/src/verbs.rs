//! What the verbs of every simulator share: arguments, what they print, and the rows they write.
//!
//! `sim` is the word that names a simulator on the command line and in the rows, with a space behind it; empty for the LAN.

use std::fmt::Display;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

/// Where rows go.
#[derive(Args)]
pub(crate) struct Rows {
    /// Write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Rows {
    pub(crate) fn write(&self, rows: Vec<Value>) -> Result<()> {
        let Some(file) = &self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(&json!({ "rows": rows })).context("JSON")? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// Which seeds.
#[derive(Args)]
pub(crate) struct Seeds {
    /// `A..B`, or a count that begins at `--first`.
    #[arg(long, default_value = "1000")]
    seeds: String,
    /// First seed of a count.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

impl Seeds {
    pub(crate) fn range(&self) -> Result<Range<u64>> {
        let (text, first) = (&self.seeds, self.first);
        let range = match text.split_once("..") {
            Some((a, b)) => a.parse().context("first seed")?..b.parse().context("last seed")?,
            None => first..first + text.parse::<u64>().context("--seeds takes a count or A..B")?,
        };
        if range.is_empty() {
            bail!("no seed in {text}");
        }
        Ok(range)
    }
}

/// Runs every seed, on all processors, and gives what came of them in the order of the seeds.
pub(crate) fn each<T: Send>(seeds: Range<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return done;
            }
            done.push((seed, run(seed)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(u64, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a seed that panics ends the run")).collect()
    });
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, result)| result).collect()
}

/// Looking for planted bugs.
#[derive(Args)]
pub(crate) struct Hunt {
    /// Seeds per bug at most.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    #[command(flatten)]
    rows: Rows,
}

impl Hunt {
    /// Looks for every bug of `all`. `find` runs up to so many seeds; it gives their number and, if the bug shows, `columns` of that seed.
    pub(crate) fn all<M: Copy + Display>(
        &self,
        sim: &str,
        all: &[M],
        columns: &str,
        find: impl Fn(M, u64) -> (u64, Option<String>),
    ) -> Result<bool> {
        println!("{:26} {:>6}  {columns}", "planted bug", "seeds");
        let (mut rows, mut found) = (Vec::new(), 0);
        for mutant in all {
            let (took, failure) = find(*mutant, self.seeds);
            println!("{mutant:26} {took:>6}  {}", failure.as_deref().unwrap_or("NOT FOUND"));
            found += usize::from(failure.is_some());
            let (scene, bound) = (format!("{sim}{mutant}"), Some(self.seeds as f64));
            rows.push(row(&scene, "seeds until found", took as f64, "seeds", bound, failure.is_some(), took));
        }
        self.rows.write(rows)?;
        println!("{found} of {} planted bugs found within {} seeds", all.len(), self.seeds);
        Ok(found == all.len())
    }
}

/// Prints what came of one seed that was run again; whether all held.
pub(crate) fn judge(run: &str, violation: Option<&impl Display>, events: u64) -> bool {
    match violation {
        Some(violation) => println!("{run}: {violation}"),
        None => println!("{run}: every invariant held over {events} events"),
    }
    violation.is_none()
}

/// Prints a seed that broke something, and how to see it again.
pub(crate) fn report(
    sim: &str,
    run: &str,
    seed: u64,
    violation: &impl Display,
    class: Option<impl Display>,
    mutant: Option<impl Display>,
) {
    let class = class.map(|class| format!(" --class {class}")).unwrap_or_default();
    let mutant = mutant.map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
    println!("{run}: {violation}");
    println!("    cargo run -q -p bascule-sim -- {sim}replay {seed}{class}{mutant}");
}

/// One row.
pub(crate) fn row(scene: &str, metric: &str, value: f64, unit: &str, bound: Option<f64>, ok: bool, runs: u64) -> Value {
    json!({ "scene": scene, "metric": metric, "value": value, "unit": unit, "bound": bound, "ok": ok, "runs": runs })
}

/// How many of `runs` seeds broke an invariant: none may.
pub(crate) fn broken_row(scene: &str, broken: u64, runs: u64) -> Value {
    row(scene, "seeds with a broken invariant", broken as f64, "seeds", Some(0.0), broken == 0, runs)
}
