//! (e) The node that a client's flow is hashed to is told to stop: no packet of 1,000 a second may be lost.

use anyhow::{Result, ensure};
use bascule_bench::routed::{Anycast, Speaker};
use bascule_bench::run::ALLOWANCE;
use bascule_lab::router::{BfdTimers, Kind};
use bascule_lab::{Report, Samples};

/// Attempts per wanted run, void ones included.
const ATTEMPTS: usize = 4;

#[expect(clippy::cast_precision_loss, reason = "counts of packets and runs")]
pub(crate) fn measure(report: &mut Report, router: Kind, runs: usize) -> Result<()> {
    let bfd = BfdTimers::symmetric(std::time::Duration::from_millis(50), 3);
    let mut arena = Anycast::start("drain", 2, &[router], Speaker::Bascule, bfd)?;
    let (mut lost, mut gaps, mut void) = (Vec::new(), Vec::new(), 0);
    while lost.len() < runs {
        let missed = arena.drain(lost.len() % 2, arena.vips[0])?;
        let late = missed.late > ALLOWANCE;
        eprintln!(
            "drain, {}: lost {}, gap {:.1} ms{}",
            router.name(),
            missed.lost,
            missed.gap_ms,
            if late { ": void" } else { "" }
        );
        if late {
            void += 1;
            ensure!(void <= runs * ATTEMPTS, "{void} void runs: the machine is too busy to measure on");
            continue;
        }
        lost.push(missed.lost as f64);
        gaps.push(missed.gap_ms);
    }
    let scene = format!("drain, router {}", router.name());
    report.at_most(&scene, "lost, maximum", Samples(lost).max().unwrap_or(f64::MAX), "packets", 0.0, runs);
    report.note(&scene, "gap, maximum", Samples(gaps).max().unwrap_or(f64::MAX), "ms", runs);
    report.note(&scene, "void runs", void as f64, "runs", runs + void);
    Ok(())
}
