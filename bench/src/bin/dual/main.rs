//! Dual ownership, counted: seeded runs of every fault on dual-stack groups, so that each run stands for both families.
//! Issue 2, "Shows" 4. Each run has daemons, LANs and client of its own.

mod faults;
mod seed;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bascule_bench::run::ALLOWANCE;
use bascule_lab::Report;
use clap::Parser;

use faults::{BOUND, Fault, Outcome};
use seed::Seed;

/// So often is a void run repeated before it counts as failed.
const REPEATS: u64 = 5;

#[derive(Parser)]
#[command(name = "dual", about = "Counts frames by which two nodes answer for one VIP, over seeded faults")]
struct Args {
    /// Runs over all faults together; each fault gets an equal share.
    #[arg(long, default_value_t = 220)]
    runs: u64,
    /// Only faults whose scene contains this.
    #[arg(long)]
    scene: Option<String>,
    /// The first run's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the result.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let mut report = Report::new();
    let wanted = |fault: &Fault| args.scene.as_ref().is_none_or(|part| fault.scene().contains(part.as_str()));
    let share = args.runs.div_ceil(BOUND.len() as u64);
    for fault in BOUND.into_iter().chain([Fault::StopUnfenced]).filter(wanted) {
        scene(fault, share, args.seed, &mut report);
    }
    Ok(report.finish(args.json.as_deref())?)
}

/// All runs of one fault, and its rows.
fn scene(fault: Fault, runs: u64, first: u64, report: &mut Report) {
    let (mut outcomes, mut failed, mut void) = (Vec::new(), 0_u32, 0_u32);
    for number in first..first + runs {
        match one(fault, number, &mut void) {
            Ok(outcome) => {
                println!("{} seed {number}: {} frames, last {:.1} ms", fault.scene(), outcome.frames, outcome.last_ms);
                outcomes.push(outcome);
            }
            Err(error) => {
                println!("{} seed {number}: FAILED: {error:#}", fault.scene());
                failed += 1;
            }
        }
    }
    let name = fault.scene();
    let count = outcomes.len();
    let worst = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).fold(0.0, f64::max);
    let frames: usize = outcomes.iter().map(|outcome| outcome.frames).sum();
    let moved = outcomes.iter().filter(|outcome| outcome.moved).count();
    report.at_most(name, "runs that failed", f64::from(failed), "runs", 0.0, count);
    let told: usize = outcomes.iter().map(|outcome| outcome.told).sum();
    report.note(
        name,
        "of the frames of a second owner: to a group (the others no switch shows to the rival)",
        small(told),
        "frames",
        count,
    );
    report.at_most(name, "of these not in rival_claims_total", worst(|o| o.uncounted), "frames", 0.0, count);
    report.note(name, "runs in which the owner changed", small(moved), "runs", count);
    report.note(name, "void runs repeated", f64::from(void), "runs", count);
    report.note(name, "lateness of the prober, maximum", worst(|o| o.late.as_secs_f64() * 1000.0), "ms", count);
    if fault == Fault::StopUnfenced {
        report.at_least(name, "frames of a second owner", small(frames), "frames", 1.0, count);
    } else if fault.bound_ms() == 0.0 {
        report.at_most(name, "frames of a second owner", small(frames), "frames", 0.0, count);
    } else {
        report.note(name, "frames of a second owner", small(frames), "frames", count);
        report.at_most(name, "two owners, maximum", worst(|o| o.last_ms), "ms", fault.bound_ms(), count);
    }
}

/// A run, repeated while it is void.
fn one(fault: Fault, number: u64, void: &mut u32) -> Result<Outcome> {
    for repeat in 0..REPEATS {
        let outcome = faults::run(fault, &mut Seed::new(number * REPEATS + repeat))?;
        if outcome.late <= ALLOWANCE {
            return Ok(outcome);
        }
        *void += 1;
    }
    anyhow::bail!("{REPEATS} runs in turn were void: the prober was later than {} ms", ALLOWANCE.as_millis())
}

/// Counts here are far below 2^32.
fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
