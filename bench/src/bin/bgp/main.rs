//! How BGP on the nodes serves a client: Bascule beside the speakers of BIRD and FRR, against routers of both.

mod cut;
mod drain;
mod gate;
mod live;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bascule_lab::Report;
use bascule_lab::router::Kind;
use clap::{Parser, ValueEnum};

/// VIPs of the large table.
const TABLE: usize = 10_000;

/// A scene of the bench.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scene {
    /// (a) The link of one of two nodes is cut, BFD 50 ms x 3.
    Cut,
    /// (b, c) A health gate fails and is ready again, 200 times.
    Gate,
    /// (d) 10,000 VIPs to four neighbors: the speaker alone.
    Table,
    /// (d) The same through the whole daemon and its sockets.
    Live,
    /// (e) A node is drained under 1,000 packets a second.
    Drain,
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
    /// Failures of the health gate; a 99th percentile needs 200.
    #[arg(long, default_value_t = 200)]
    samples: usize,
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
    let routers: Vec<Kind> = args.router.iter().map(|name| cut::kind(name)).collect::<Result<_>>()?;
    // First: its memory is this process's own, before anything else has taken and freed some.
    if wanted(Scene::Table) {
        bascule_bench::bgp_table::measure(&mut report, TABLE, args.runs)?;
    }
    if wanted(Scene::Cut) {
        cut::measure(&mut report, &routers, &args.speaker, args.runs)?;
    }
    if wanted(Scene::Gate) {
        routers.iter().try_for_each(|router| gate::measure(&mut report, *router, args.samples))?;
    }
    if wanted(Scene::Live) {
        live::measure(&mut report, TABLE, args.runs)?;
    }
    if wanted(Scene::Drain) {
        routers.iter().try_for_each(|router| drain::measure(&mut report, *router, args.runs))?;
    }
    Ok(report.finish(args.json.as_deref())?)
}
