//! (a) Two nodes announce one address to one router; the link of the one that a client's flow is hashed to is cut.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bascule_bench::routed::{Anycast, Missed, Speaker};
use bascule_bench::run::ALLOWANCE;
use bascule_lab::router::{BfdTimers, Kind};
use bascule_lab::{Report, Samples};

/// Of the median of Bascule's gaps, beside those of each other speaker in the same run.
const RATIO: f64 = 1.05;
/// What the issue names: 50 ms, lost after three.
const BFD: (Duration, u8) = (Duration::from_millis(50), 3);
/// Attempts per wanted run, void ones included.
const ATTEMPTS: usize = 4;

/// Gaps of one speaker; void runs only counted.
#[derive(Default)]
struct Series {
    valid: Vec<Missed>,
    void: usize,
}

/// For each router: all speakers in turn, run after run, so that a busy moment meets all of them.
pub(crate) fn measure(report: &mut Report, routers: &[Kind], speakers: &[String], runs: usize) -> Result<()> {
    for router in routers.iter().copied() {
        let mut arenas = Vec::new();
        for name in speakers {
            let speaker = if name == "bascule" { Speaker::Bascule } else { Speaker::Foreign(kind(name)?) };
            let bfd = BfdTimers::symmetric(BFD.0, BFD.1);
            arenas.push((Anycast::start(&format!("cut-{name}"), 2, &[router], speaker, bfd)?, Series::default()));
        }
        for run in 0..runs {
            for (arena, series) in &mut arenas {
                // Each node in turn, so that no difference between the two remains.
                one(arena, series, router, run % 2, runs)?;
            }
        }
        rows(report, router, &arenas);
    }
    Ok(())
}

/// A router by its name, of those that write the kernel's routes and speak BFD.
pub(crate) fn kind(name: &str) -> Result<Kind> {
    let found = [Kind::Bird, Kind::Frr].into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
    let Some(kind) = found else { bail!("{name:?} is neither bird nor frr") };
    Ok(kind)
}

/// Repeats until a run is valid.
fn one(arena: &Anycast, series: &mut Series, router: Kind, node: usize, runs: usize) -> Result<()> {
    loop {
        let missed = arena.cut(node, arena.vips[0])?;
        let void = missed.late > ALLOWANCE;
        eprintln!(
            "{} to {}: gap {:.1} ms, lost {}, late {:.1} ms{}",
            arena.speaker.name(),
            router.name(),
            missed.gap_ms,
            missed.lost,
            missed.late.as_secs_f64() * 1e3,
            if void { ": void" } else { "" }
        );
        if !void {
            series.valid.push(missed);
            return Ok(());
        }
        series.void += 1;
        ensure!(series.void <= runs * ATTEMPTS, "{} void runs: the machine is too busy to measure on", series.void);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of runs")]
fn rows(report: &mut Report, router: Kind, arenas: &[(Anycast, Series)]) {
    let scene = format!("link cut, BFD {} ms x {}, router {}", BFD.0.as_millis(), BFD.1, router.name());
    let mut medians = Vec::new();
    for (arena, series) in arenas {
        let (name, runs) = (arena.speaker.name(), series.valid.len());
        let gaps = Samples(series.valid.iter().map(|m| m.gap_ms).collect());
        let median = gaps.median().unwrap_or(f64::MAX);
        medians.push((arena.speaker, median, runs));
        report.note(&scene, &format!("{name}: gap, median"), median, "ms", runs);
        report.note(&scene, &format!("{name}: gap, maximum"), gaps.max().unwrap_or(f64::MAX), "ms", runs);
        let late = series.valid.iter().map(|m| m.late.as_secs_f64() * 1e3).fold(0.0, f64::max);
        let limit = ALLOWANCE.as_secs_f64() * 1e3;
        report.at_most(&scene, &format!("{name}: lateness of the prober"), late, "ms", limit, runs);
        report.note(&scene, &format!("{name}: void runs"), series.void as f64, "runs", runs + series.void);
    }
    let ours = medians.iter().find(|(speaker, ..)| *speaker == Speaker::Bascule);
    for (speaker, theirs, _) in medians.iter().filter(|(speaker, ..)| *speaker != Speaker::Bascule) {
        if let Some((_, ours, runs)) = ours {
            let name = speaker.name();
            report.at_most(
                &scene,
                &format!("ratio of medians, Bascule to {name}"),
                ours / theirs,
                "ratio",
                RATIO,
                *runs,
            );
        }
    }
}
