//! A cluster's Services at scale: a real API server, real daemons, a client outside. Issue 5, "Shows" 2 and 6.
//!
//! Requests are counted in the API server's own audit log, by the address that they came from. The log has the daemons' account only, so
//! what the bench itself writes is not in it. Processor time and memory are /proc's, of the daemon alone.

mod flip;
mod floor;
mod growth;
mod many;
mod one;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use bascule_lab::Report;
use bascule_lab::scale::Scale;
use clap::Parser;

#[derive(Parser)]
#[command(name = "scale", about = "Measures what many Services cost, and how soon one is served")]
struct Args {
    /// `one`, `flip`, `many`, `growth`; all when not given.
    #[arg(long, value_delimiter = ',')]
    scene: Vec<String>,
    /// Services of the growth table.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 5000])]
    sizes: Vec<usize>,
    /// Each of those sizes is measured so many times, in rounds; rows are medians.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Write the result.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Nodes with a daemon.
const NODES: u8 = 3;
const SCENES: [&str; 4] = ["one", "flip", "many", "growth"];

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    if let Some(other) = args.scene.iter().find(|scene| !SCENES.contains(&scene.as_str())) {
        bail!("there is no scene {other}; there are: {}", SCENES.join(", "));
    }
    let wanted = |scene: &str| args.scene.is_empty() || args.scene.iter().any(|asked| asked == scene);
    let mut report = Report::new();
    report.note("machine", "load average of one minute at the start", load(), "threads", 1);
    if ["one", "flip", "many"].into_iter().any(wanted) {
        let mut scale = Scale::new("scale", NODES, NODES)?;
        println!("API server {}", scale.api.version());
        if wanted("one") {
            one::measure(&mut scale, &mut report)?;
        }
        if wanted("flip") {
            flip::measure(&mut scale, &mut report)?;
        }
        if wanted("many") {
            many::measure(&mut scale, &mut report)?;
        }
        scale.clean()?;
    }
    if wanted("growth") {
        growth::measure(&args.sizes, args.runs.max(1), &mut report)?;
    }
    report.note("machine", "load average of one minute at the end", load(), "threads", 1);
    Ok(report.finish(args.json.as_deref())?)
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
