//! SIGKILL of the daemon at random points of upgrades of its data plane, and rotation of its tag keys, under traffic whose every packet
//! is accounted for. Issue 4, "Shows" 6 and 7.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bascule_bench::run::ALLOWANCE;
use bascule_lab::Report;
use bascule_lab::forward::{Dice, Fleet, KillPlan, KillReport, Toll, kills, rotate};
use clap::Parser;

/// Size of the map of flows while keys rotate.
const FLOWS: u32 = 16_384;
/// UDP probers and TCP flows.
const TRAFFIC: (usize, usize) = (6, 40);

/// F6: a successor has adopted what there is within this time, milliseconds.
const ADOPTED: f64 = 2000.0;

#[derive(Parser)]
#[command(name = "forward_kills", about = "kills daemons during upgrades, and rotates keys, under audited traffic")]
struct Args {
    /// Kills.
    #[arg(long, default_value_t = 200)]
    runs: u32,
    /// Kills of a daemon that runs, whose successor takes over what there is (F6).
    #[arg(long, default_value_t = 50)]
    adoptions: u32,
    /// Rotations of the keys on every node.
    #[arg(long, default_value_t = 10)]
    rotations: u32,
    /// Makes points, victims and pauses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where packets are taken: auto (XDP) or tc.
    #[arg(long, default_value = "auto", value_parser = ["auto", "tc"])]
    hook: String,
    /// Nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Write the result.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    bascule_lab::clean_on_signals();
    let args = Args::parse();
    let hook = if args.hook == "tc" { "tc" } else { "auto" };
    let mut report = Report::new();
    if args.runs > 0 {
        killing(&args, hook, &mut report)?;
    }
    if args.rotations > 0 {
        rotating(&args, hook, &mut report)?;
    }
    print!("{}", report.table());
    if let Some(file) = &args.json {
        report.write(file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report.exit_code())
}

fn killing(args: &Args, hook: &'static str, report: &mut Report) -> Result<()> {
    let mut fleet = Fleet::new("fkills", args.nodes, hook)?;
    let plan = KillPlan {
        seed: args.seed,
        kills: args.runs,
        traffic: TRAFFIC,
        fresh: 4,
        adoptions: args.adoptions,
        allowance: ALLOWANCE,
    };
    let found = kills(&mut fleet, plan, |line| println!("{line}"))?;
    let scene = format!("SIGKILL during an upgrade, {}, seed {}", way(hook), args.seed);
    let runs = args.runs as usize;
    report.note(&scene, "an undisturbed start, longest", found.start_ms, "ms", args.nodes.into());
    for text in found.links.iter().chain(&found.leftovers).chain(&found.traces) {
        eprintln!("{text}");
    }
    report.at_most(&scene, "kills after which links were not the same", count(found.links.len()), "kills", 0.0, runs);
    report.at_most(&scene, "pins left over", count(found.leftovers.len()), "pins", 0.0, runs);
    adopting(args, way(hook), &found, report);
    let (lost, of) = found.refused;
    report.at_most(&scene, "new connections that did not open", count(lost), "connections", 0.0, of);
    toll(&scene, &found.toll, runs, report);
    Ok(())
}

/// F6: how soon a successor has what there is. What was measured while the machine was late counts for nothing, and too few that count are a
/// failure: then nothing is known.
fn adopting(args: &Args, way: &str, found: &KillReport, report: &mut Report) {
    let scene = format!("SIGKILL and a successor at once, {way}, seed {}", args.seed);
    let runs = found.adopt_ms.len();
    report.note(&scene, "successors that do not count, a prober was late", f64::from(found.void), "", runs);
    report.at_least(&scene, "successors that count", count(runs), "", f64::from(args.adoptions), runs);
    if let (Some(longest), Some(median)) = (found.adopt_ms.last(), found.adopt_ms.get(runs / 2)) {
        report.note(&scene, "its programs and tables are its own, median", *median, "ms", runs);
        report.at_most(&scene, "its programs and tables are its own, longest", *longest, "ms", ADOPTED, runs);
    }
}

fn rotating(args: &Args, hook: &'static str, report: &mut Report) -> Result<()> {
    let mut fleet = Fleet::new("frotate", args.nodes, hook)?;
    fleet.start_all(FLOWS)?;
    let traffic = fleet.traffic(TRAFFIC.0, TRAFFIC.1)?;
    let mut dice = Dice::new(args.seed);
    let mut steps = 0;
    for rotation in 0..args.rotations {
        steps += rotate(&mut fleet, rotation, u8::from(rotation % 2 == 1), &mut dice)?.steps;
        println!("rotation {rotation}: {steps} key files so far");
    }
    let scene = format!("tag keys rotate, {}, seed {}", way(hook), args.seed);
    let runs = args.rotations as usize;
    report.note(&scene, "key files taken over", count(steps), "files", runs);
    let mut tunnelled = 0.0;
    let mut refused = 0.0;
    for n in 1..=args.nodes.into() {
        let daemon = fleet.daemon(n);
        tunnelled += daemon.metric("bascule_forward_verdicts_total{verdict=\"decapsulated\"}").context("a metric")?;
        refused += daemon.metric("bascule_forward_drops_total{reason=\"encap_tag\"}").context("a metric")?;
    }
    report.at_least(&scene, "packets through the tunnel", tunnelled, "packets", 1000.0, runs);
    report.at_most(&scene, "packets with a tag that was not accepted", refused, "packets", 0.0, runs);
    toll(&scene, &traffic.finish()?, runs, report);
    Ok(())
}

fn toll(scene: &str, toll: &Toll, runs: usize, report: &mut Report) {
    for text in &toll.broken {
        eprintln!("flow {text}");
    }
    if toll.void() {
        eprintln!("void: {} packets were dropped by full queues of the lab", toll.queue_drops);
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    report.note(scene, "packets that full queues of the lab dropped", toll.queue_drops as f64, "packets", runs);
    report.note(scene, "datagrams sent", count(toll.datagrams.0), "datagrams", runs);
    report.at_most(scene, "datagrams lost", count(toll.datagrams.1), "datagrams", 0.0, runs);
    report.at_most(scene, "TCP flows broken", count(toll.broken.len()), "flows", 0.0, runs);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    report.note(scene, "records over TCP, each in its order", toll.echoed as f64, "records", runs);
    report.note(scene, "longest silence of a prober", toll.gap_ms, "ms", runs);
    report.note(scene, "longest stall of a TCP flow", toll.stall_ms, "ms", runs);
    report.note(scene, "probers and TCP client late, at most", toll.late_ms, "ms", runs);
}

fn way(hook: &str) -> &'static str {
    if hook == "tc" { "tc" } else { "XDP" }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
