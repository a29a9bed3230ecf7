//! Bascule beside every foreign router: which feature holds with which peer, judged by the peer's own command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bascule_lab::Report;
use bascule_lab::router::Kind;
use bascule_lab::router::matrix::{Cell, Feature, Outcome};
use clap::Parser;

/// The live matrix of BGP.
#[derive(Parser)]
struct Args {
    /// Only peers whose name holds one of these.
    #[arg(long, value_delimiter = ',')]
    peer: Vec<String>,
    /// Only features whose name holds one of these.
    #[arg(long, value_delimiter = ',')]
    feature: Vec<String>,
    /// Cells at once.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Writes the result object here.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn chosen(wanted: &[String], name: &str) -> bool {
    let name = name.to_lowercase();
    wanted.is_empty() || wanted.iter().any(|word| name.contains(&word.to_lowercase()))
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let all = Cell::all().into_iter();
    let cells: Vec<Cell> =
        all.filter(|c| chosen(&args.peer, c.peer.name()) && chosen(&args.feature, c.feature.name())).collect();
    anyhow::ensure!(!cells.is_empty(), "no cell has such a name");
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = cell.run();
                    say(*cell, &outcome);
                    done.lock().expect("no cell panics while it holds this").push((*cell, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("all threads have ended");
    done.sort_by_key(|(cell, _)| *cell);
    let mut report = Report::new();
    for (cell, outcome) in &done {
        let (peer, feature) = (cell.peer.name(), cell.feature.name());
        match outcome {
            Ok(Outcome::Holds(_)) => report.at_least(peer, feature, 1.0, "holds", 1.0, 1),
            Ok(Outcome::Cannot(reason)) => report.note(peer, &format!("{feature}: {reason}"), 0.0, "cannot", 0),
            Err(_) => report.at_least(peer, feature, 0.0, "holds", 1.0, 1),
        }
    }
    println!("\n{}", table(&done));
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    Ok(report.exit_code())
}

fn say(cell: Cell, outcome: &bascule_lab::Result<Outcome>) {
    match outcome {
        Ok(Outcome::Holds(said)) => println!("{cell}: {said}"),
        Ok(Outcome::Cannot(reason)) => println!("{cell}: cannot: {reason}"),
        Err(error) => println!("{cell}: DOES NOT HOLD: {error}"),
    }
}

/// Features down, peers across, and why a cell is empty.
fn table(done: &[(Cell, bascule_lab::Result<Outcome>)]) -> String {
    let found = |peer: Kind, feature: Feature| done.iter().find(|(c, _)| c.peer == peer && c.feature == feature);
    let mut text = format!("{:<18}", "");
    for peer in Kind::ALL {
        text += &format!("{:<10}", peer.name());
    }
    text.push('\n');
    let mut reasons = String::new();
    for feature in Feature::ALL {
        text += &format!("{:<18}", feature.name());
        for peer in Kind::ALL {
            let word = match found(peer, feature) {
                None => "",
                Some((_, Ok(Outcome::Holds(_)))) => "yes",
                Some((_, Err(_))) => "NO",
                Some((cell, Ok(Outcome::Cannot(reason)))) => {
                    reasons += &format!("{cell}: {reason}\n");
                    "-"
                }
            };
            text += &format!("{word:<10}");
        }
        text = text.trim_end().to_owned() + "\n";
    }
    text + &reasons
}
