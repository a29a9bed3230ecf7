//! A VIP that a lease elects, under faults of its owner, over and over: frames of a second owner, and the take-over beside its bound.
//! Issue 5, "Shows" 5. Real daemons; a Lease of a real API server with the shipped role, and a key of an etcd with TLS.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_lab::Report;
use bascule_lab::leased::{Fault, Leased, Outcome, Store};
use clap::Parser;

/// One run in so many, and one at least, may be void and is repeated: of more, the machine is not fit.
const VOID: usize = 10;

#[derive(Parser)]
#[command(name = "lease", about = "Strikes the owner of a VIP on a lease, and counts frames of two owners")]
struct Args {
    /// Faults over all kinds and stores together; each gets an equal share.
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
    let share = args.runs.div_ceil(Fault::ALL.len() * Store::ALL.len());
    for store in Store::ALL {
        strikes(store, share, &mut report).with_context(|| store.as_str())?;
    }
    Ok(report.finish(args.json.as_deref())?)
}

/// `share` faults of every kind, with the lease in `store`.
fn strikes(store: Store, share: usize, report: &mut Report) -> Result<()> {
    let mut leased = Leased::on("lease-drill", store)?;
    leased.start(0)?;
    leased.start(1)?;
    let bound = leased.bound()?;
    let mut outcomes: [Vec<Outcome>; Fault::ALL.len()] = Default::default();
    for run in 0..share + share.div_ceil(VOID) {
        for (fault, seen) in Fault::ALL.into_iter().zip(&mut outcomes) {
            if seen.iter().filter(|outcome| !outcome.void()).count() >= share {
                continue;
            }
            let outcome = leased.strike(fault).with_context(|| format!("{} {run}", fault.as_str()))?;
            let (scene, fault) = (store.as_str(), fault.as_str());
            println!("{scene} {run} {fault}: {:?}, {} frames of the former owner", outcome.takeover, outcome.overlap);
            if outcome.void() {
                println!("void: the API server took {:?} for a write", outcome.store);
            }
            seen.push(outcome);
        }
    }
    for (fault, seen) in Fault::ALL.into_iter().zip(&outcomes) {
        let wanted = (store == Store::Kubernetes).then_some(share);
        rows(&format!("{}: {}", store.as_str(), fault.as_str()), seen, wanted, bound, report);
    }
    Ok(leased.clean()?)
}

/// Of the runs of one fault there must be `wanted` whose times count, where the API server decides that.
fn rows(scene: &str, outcomes: &[Outcome], wanted: Option<usize>, bound: Duration, report: &mut Report) {
    let runs = outcomes.len();
    let timed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.void()).collect();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let count = |of: usize| f64::from(u32::try_from(of).unwrap_or(u32::MAX));
    let total = |of: fn(&Outcome) -> usize| count(outcomes.iter().map(of).sum());
    let longest = timed.iter().map(|o| o.takeover).max().unwrap_or_default();
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
    if let Some(wanted) = wanted {
        report.at_least(
            scene,
            "runs in which the API server answered in time",
            count(timed.len()),
            "",
            count(wanted),
            runs,
        );
    }
    report.at_most(scene, "fault to the successor's announcement, maximum", ms(longest), "ms", ms(bound), timed.len());
    report.note(scene, "nobody's between the two owners, minimum", ms(shortest), "ms", runs);
}
