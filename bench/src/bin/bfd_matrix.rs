//! BFD with FRR's bfdd and with BIRD: both families, on a link and through a router, four sets of intervals. A cell holds when both sides
//! show exactly what the arithmetic of RFC 5880 gives, and stay Up.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use bascule_lab::Report;
use bascule_lab::router::Kind;
use bascule_lab::router::bfd_pair::{BfdPair, Place, SETS};
use clap::Parser;

/// The live matrix of BFD.
#[derive(Parser)]
struct Args {
    /// Only peers whose name holds one of these.
    #[arg(long, value_delimiter = ',')]
    peer: Vec<String>,
    /// Cells at once. More than one costs a busy machine packets, and with them cells.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Writes the result object here.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Who, where, and which of the sets.
type Cell = (Kind, Place, usize);

fn run(number: usize, (kind, place, set): Cell) -> bascule_lab::Result<f64> {
    let (_, ours, theirs) = SETS[set];
    let started = Instant::now();
    BfdPair::start(&format!("bfdm{number}"), kind, place, ours, theirs)?.hold(ours, theirs)?;
    Ok(started.elapsed().as_secs_f64())
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let named = |kind: &Kind| {
        let name = kind.name().to_lowercase();
        args.peer.is_empty() || args.peer.iter().any(|word| name.contains(&word.to_lowercase()))
    };
    let kinds = [Kind::Frr, Kind::Bird].into_iter().filter(named);
    let cells: Vec<Cell> = kinds
        .flat_map(|kind| {
            Place::ALL.into_iter().flat_map(move |place| (0..SETS.len()).map(move |set| (kind, place, set)))
        })
        .collect();
    anyhow::ensure!(!cells.is_empty(), "no peer has such a name");
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(number) else { return };
                    let outcome = run(number, *cell);
                    let (kind, place, set) = *cell;
                    let name = format!("{} {} {}", kind.name(), place.name(), SETS[set].0);
                    match &outcome {
                        Ok(seconds) => println!("{name}: as the arithmetic has it, {seconds:.1} s"),
                        Err(error) => println!("{name}: DOES NOT HOLD: {error}"),
                    }
                    done.lock().expect("no cell panics while it holds this").push((number, outcome.is_ok()));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("all threads have ended");
    done.sort_unstable();
    let mut report = Report::new();
    for (number, holds) in done {
        let (kind, place, set) = cells[number];
        let metric = format!("{}, {}", place.name(), SETS[set].0);
        report.at_least(kind.name(), &metric, f64::from(u8::from(holds)), "holds", 1.0, 1);
    }
    Ok(report.finish(args.json.as_deref())?)
}
