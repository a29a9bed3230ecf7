//! A VIP that a Lease elects, under faults of its owner, over and over: frames of a second owner, and the take-over beside its bound.
//! Issue 5, "Shows" 5. Real daemons, a real API server, the shipped role.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_lab::Report;
use bascule_lab::leased::{Fault, Leased, Outcome};
use clap::Parser;

#[derive(Parser)]
#[command(name = "lease", about = "Strikes the owner of a VIP on a Lease, and counts frames of two owners")]
struct Args {
    /// Faults over all kinds together; each kind gets an equal share.
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// Write the result.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let mut report = Report::new();
    let mut leased = Leased::new("lease-drill")?;
    leased.start(0)?;
    leased.start(1)?;
    let bound = leased.bound()?;
    let share = args.runs.div_ceil(Fault::ALL.len());
    let mut outcomes: [Vec<Outcome>; Fault::ALL.len()] = Default::default();
    for run in 0..share {
        for (fault, seen) in Fault::ALL.into_iter().zip(&mut outcomes) {
            let outcome = leased.strike(fault).with_context(|| format!("{} {run}", fault.as_str()))?;
            println!(
                "{run} {}: {:?}, {} frames of the former owner",
                fault.as_str(),
                outcome.takeover,
                outcome.overlap
            );
            seen.push(outcome);
        }
    }
    for (fault, seen) in Fault::ALL.into_iter().zip(&outcomes) {
        rows(fault, seen, bound, &mut report);
    }
    leased.clean()?;
    Ok(report.finish(args.json.as_deref())?)
}

fn rows(fault: Fault, outcomes: &[Outcome], bound: Duration, report: &mut Report) {
    let (scene, runs) = (fault.as_str(), outcomes.len());
    let total = |of: fn(&Outcome) -> usize| {
        f64::from(u32::try_from(outcomes.iter().map(of).sum::<usize>()).unwrap_or(u32::MAX))
    };
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let longest = outcomes.iter().map(|o| o.takeover).max().unwrap_or_default();
    let shortest = outcomes.iter().map(|o| o.silence).min().unwrap_or_default();
    report.at_most(
        scene,
        "frames of the former owner after the successor's first",
        total(|o| o.overlap),
        "frames",
        0.0,
        runs,
    );
    report.at_most(scene, "adverts", total(|o| o.adverts), "frames", 0.0, runs);
    report.at_most(scene, "fault to the successor's announcement, maximum", ms(longest), "ms", ms(bound), runs);
    report.note(scene, "nobody's between the two owners, minimum", ms(shortest), "ms", runs);
}
