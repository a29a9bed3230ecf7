//! A large table through the speaker alone: what [`bascule_bench::bgp_table`] measures, without routers or namespaces.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bascule_lab::Report;
use clap::Parser;

#[derive(Parser)]
#[command(name = "bgp_table", about = "CPU and memory of the BGP speaker with a large table")]
struct Args {
    /// Virtual IPs.
    #[arg(long, default_value_t = 10_000)]
    vips: usize,
    /// How often; the slowest counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Write the result.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut report = Report::new();
    bascule_bench::bgp_table::measure(&mut report, args.vips, args.runs)?;
    Ok(report.finish(args.json.as_deref())?)
}
