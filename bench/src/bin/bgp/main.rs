//! How BGP on the nodes serves a client: Bascule beside the speakers of BIRD and FRR, against routers of both.

mod cut;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bascule_lab::Report;
use clap::{Parser, ValueEnum};

/// A scene of the bench.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scene {
    /// (a) The link of one of two nodes is cut, BFD 50 ms x 3.
    Cut,
}

/// BGP and BFD as a client sees them.
#[derive(Parser)]
struct Args {
    /// What to measure; everything when absent.
    #[arg(long, value_enum, value_delimiter = ',')]
    scene: Vec<Scene>,
    /// Valid runs of each kind.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Speakers on the nodes.
    #[arg(long, value_delimiter = ',', default_value = "bascule,bird,frr")]
    speaker: Vec<String>,
    /// Routers.
    #[arg(long, value_delimiter = ',', default_value = "frr,bird")]
    router: Vec<String>,
    /// Writes the result object here.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let mut report = Report::new();
    let wanted = |scene| args.scene.is_empty() || args.scene.contains(&scene);
    if wanted(Scene::Cut) {
        cut::measure(&mut report, &args.router, &args.speaker, args.runs)?;
    }
    print!("{}", report.table());
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    Ok(report.exit_code())
}
