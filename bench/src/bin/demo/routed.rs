//! The routed scene: an anycast address announced by two nodes to two routers, FRR and BIRD, and every way a node can go.

use std::time::Duration;

use anyhow::Result;
use bascule_bench::routed::{Anycast, Missed, Speaker};
use bascule_bench::run::ALLOWANCE;
use bascule_lab::router::{BfdTimers, Kind};
use bascule_lab::{Report, Stamp};

use crate::{ATTEMPTS, GAP_MS};

/// What happens to the node that serves the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Its links to both routers are cut silently.
    Cut,
    /// Its daemon is stopped by SIGSTOP; its services go on.
    Frozen,
    /// It is told to leave.
    Drain,
}

/// In the order they are shown.
const FAULTS: [Fault; 3] = [Fault::Cut, Fault::Frozen, Fault::Drain];

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "routed: links cut, BFD",
            Self::Frozen => "routed: frozen daemon",
            Self::Drain => "routed: drain",
        }
    }
}

/// Names of its scenes, for who asks for one that does not exist.
pub(crate) fn names() -> Vec<String> {
    FAULTS.iter().map(|fault| fault.name().to_owned()).collect()
}

/// Plays the scenes whose name is wanted; without one the network is not built.
pub(crate) fn play(report: &mut Report, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let faults: Vec<Fault> = FAULTS.into_iter().filter(|fault| wanted(fault.name())).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let begun = Stamp::now();
    println!(
        "Two nodes n1, n2 announce 10.9.0.100 over BGP with BFD 50 ms x 3 to two routers, FRR and BIRD; a client is behind them."
    );
    let bfd = BfdTimers::symmetric(Duration::from_millis(50), 3);
    let mut arena = Anycast::start("demo-routed", 2, &[Kind::Frr, Kind::Bird], Speaker::Bascule, bfd)?;
    println!("Both routers share the address among both nodes ({:.1} s).\n", Stamp::now().since(begun).as_secs_f64());
    let mut text = format!("{:<24} {:>14} {:>14} {:>14}\n", "fault", "client gap ms", "packets lost", "prober late ms");
    for fault in faults {
        let missed = one(&mut arena, fault)?;
        rows(report, fault, &missed);
        let late = missed.late.as_secs_f64() * 1e3;
        text += &format!("{:<24} {:>14.1} {:>14} {late:>14.1}\n", fault.name(), missed.gap_ms, missed.lost);
    }
    println!(
        "{text}A frozen daemon's node serves until BFD has moved its clients; a drained one until its routers have.\n"
    );
    Ok(())
}

/// Plays a scene until the prober was on time; the last attempt stands.
fn one(arena: &mut Anycast, fault: Fault) -> Result<Missed> {
    let mut attempt = 1;
    loop {
        let missed = match fault {
            Fault::Cut => arena.cut(0, arena.vips[0])?,
            Fault::Frozen => arena.freeze(0, arena.vips[0])?,
            Fault::Drain => arena.drain(0, arena.vips[0])?,
        };
        if missed.late <= ALLOWANCE || attempt == ATTEMPTS {
            return Ok(missed);
        }
        println!("{:<24} void: the prober was {:.1} ms late; again", fault.name(), missed.late.as_secs_f64() * 1e3);
        attempt += 1;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of packets")]
fn rows(report: &mut Report, fault: Fault, missed: &Missed) {
    let (scene, late) = (fault.name(), missed.late.as_secs_f64() * 1e3);
    report.at_most(scene, "client gap", missed.gap_ms, "ms", GAP_MS, 1);
    match fault {
        Fault::Drain => report.at_most(scene, "packets lost", missed.lost as f64, "packets", 0.0, 1),
        Fault::Cut | Fault::Frozen => report.note(scene, "packets lost", missed.lost as f64, "packets", 1),
    }
    report.at_most(scene, "lateness of the prober", late, "ms", ALLOWANCE.as_secs_f64() * 1e3, 1);
}
