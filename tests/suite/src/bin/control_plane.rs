//! The control plane's VIP beside real API servers, with the bounds of issue 5: `--runs N`, with `--json FILE` the result as rows.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bascule_lab::Report;
use bascule_suite::control_plane::ControlPlane;

/// How long the store stands still.
const OUTAGE: Duration = Duration::from_secs(60);
/// Issue 5, show 1: the VIP is up, and serves from elsewhere, within this.
const LIMIT: f64 = 2000.0;

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let (mut runs, mut json) = (5, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--runs" => runs = value.parse()?,
            "--json" => json = Some(value),
            other => bail!("no option {other}: there are --runs, --json"),
        }
    }
    let mut report = Report::new();
    let mut worst = (0f64, 0f64, 0, 0);
    for run in 1..=runs {
        let (mut control_plane, boot) = ControlPlane::boot(&format!("cp{run}"))?;
        let costs = control_plane.faults(boot, OUTAGE)?;
        println!("run {run}: {costs:?}");
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        worst = (
            worst.0.max(ms(costs.boot)),
            worst.1.max(ms(costs.takeover)),
            worst.2 + costs.moves,
            worst.3 + costs.refused,
        );
    }
    let scene = "control plane, worst run";
    report.at_most(scene, "cold boot without an API server: daemon started to VIP serves", worst.0, "ms", LIMIT, runs);
    report.at_most(scene, "owner's API server killed to an answer of another", worst.1, "ms", LIMIT, runs);
    report.at_most(scene, "moves of the VIP while etcd stands still for 60 s", count(worst.2), "moves", 0.0, runs);
    report.note(scene, "requests that failed meanwhile", count(worst.3), "requests", runs);
    Ok(report.finish(json.as_deref().map(std::path::Path::new))?)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}
