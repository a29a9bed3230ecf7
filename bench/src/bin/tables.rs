//! Tables of the data plane: what [`bascule_bench::tables`] measures, without maps or packets.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bascule_lab::Report;
use clap::Parser;

#[derive(Parser)]
#[command(name = "tables", about = "CPU and memory of building and swapping the tables of all services")]
struct Args {
    /// Services.
    #[arg(long, default_value_t = 1000)]
    services: u16,
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
    bascule_bench::tables::measure(&mut report, args.services, args.runs)?;
    Ok(report.finish(args.json.as_deref())?)
}
