//! A flood of SYNs from ten million tuples beside a thousand live flows, through us and without us. Issue 4, "Shows" 5.
//!
//! Two sites stand side by side, one of them without programs. Each gets the flood in parts that alternate, at one rate; while one has its
//! part, the flows of the other are silent.

mod losses;
mod others;
mod side;

use anyhow::{Result, ensure};
use bascule_ebpf_common::forward::MAX_HALF;
use bascule_lab::Report;
use bascule_lab::forward::Hook;

use side::{LIVE, Part, Side};

/// SYNs of Show 5, each from another tuple.
pub const SYNS: u32 = 10_000_000;
/// SYNs a second, on both sides: two thirds of one of two processors, beside the live flows.
pub const RATE: u32 = 50_000;
/// Parts of each side.
const PARTS: u32 = 10;
/// Parts of a pair whose rates differ by more than this part of them say nothing together.
const APART: f64 = 0.02;
/// Goodput under flood with us, against the same flood without us.
const GOODPUT: f64 = 0.95;
/// Times that the parts lost on the way may be sent anew (from other tuples), until so many have arrived as were asked for.
const MORE: usize = 5;

/// One part of each side.
struct Pair {
    with: Part,
    without: Part,
}

impl Pair {
    fn apart(&self) -> f64 {
        (self.with.rate() / self.without.rate() - 1.0).abs()
    }
}

/// Floods with us and, in turn, without us; adds the rows.
///
/// # Errors
/// When a site cannot be built, flows do not open, or the machine cannot give both sides one rate.
pub fn measure(report: &mut Report, hook: Hook, syns: u32, rate: u32) -> Result<()> {
    ensure!(syns > 0 && rate > 0, "a flood of {syns} SYNs at {rate} a second");
    let (mut with, mut without) = (Side::new(hook, true)?, Side::new(hook, false)?);
    let (mut pairs, mut void) = (Vec::new(), 0);
    while pairs.len() < PARTS as usize {
        let part = (syns / PARTS + u32::from(pairs.len() < (syns % PARTS) as usize)).max(1);
        // Turned about, so that what grows over the run weighs on both alike.
        let pair = if pairs.len() % 2 == 0 {
            let with = with.part(part, rate)?;
            Pair { with, without: without.part(part, rate)? }
        } else {
            let without = without.part(part, rate)?;
            Pair { with: with.part(part, rate)?, without }
        };
        if pair.apart() > APART {
            void += 1;
            ensure!(
                void <= PARTS,
                "{void} pairs of parts had unequal rates: {rate} SYNs a second are too many for this machine"
            );
            continue;
        }
        pairs.push(pair);
    }
    for side in [&mut with, &mut without] {
        for _ in 0..MORE {
            let missing = u64::from(syns).saturating_sub(side.arrived()?);
            if missing > 0 {
                side.part(u32::try_from(missing)?, rate)?;
            }
        }
    }
    rows(report, hook, (syns, rate), &pairs, void)?;
    tables(report, &scene(hook), &with)?;
    for (side, name) in [(with, "through us"), (without, "without us")] {
        let scene = scene(hook);
        report.at_least(
            &scene,
            &format!("tuples that reached a server, {name}"),
            side.arrived()? as f64,
            "SYNs",
            f64::from(syns),
            1,
        );
        let broken = side.finish();
        report.at_most(&scene, &format!("live flows broken, {name}"), broken as f64, "flows", 0.0, 1);
    }
    Ok(())
}

fn scene(hook: Hook) -> String {
    format!("SYN flood, {}", if hook == Hook::Xdp { "XDP" } else { "tc" })
}

fn rows(report: &mut Report, hook: Hook, (syns, rate): (u32, u32), pairs: &[Pair], void: u32) -> Result<()> {
    let scene = &scene(hook);
    let parts = pairs.len();
    report.note(scene, "SYNs wanted on each side", f64::from(syns), "SYNs", parts);
    report.note(scene, "rate offered", f64::from(rate), "1/s", parts);
    report.note(scene, "void pairs of parts (rates apart)", f64::from(void), "pairs", parts);
    let apart = pairs.iter().map(Pair::apart).fold(0.0, f64::max);
    let mut goodput = [0.0; 2];
    let of = |pick: fn(&Pair) -> &Part| pairs.iter().map(pick).collect::<Vec<_>>();
    for (index, (name, parts)) in
        [("through us", of(|pair| &pair.with)), ("without us", of(|pair| &pair.without))].into_iter().enumerate()
    {
        let sum = |value: fn(&Part) -> f64| parts.iter().map(|part| value(part)).sum::<f64>();
        let (sent, spent) = (sum(|part| f64::from(part.sent)), sum(|part| part.spent.as_secs_f64()));
        report.note(scene, &format!("rate, {name}"), sent / spent, "1/s", parts.len());
        report.note(
            scene,
            &format!("SYNs lost on the way, {name}"),
            sent - sum(|part| part.arrived as f64),
            "SYNs",
            parts.len(),
        );
        goodput[index] = sum(|part| part.echoed as f64) / spent;
        report.note(scene, &format!("goodput, {name}"), goodput[index], "records/s", parts.len());
        let least = parts.iter().flat_map(|part| &part.seconds).copied().min();
        report.note(
            scene,
            &format!("goodput of the worst second, {name}"),
            least.unwrap_or_default() as f64,
            "records",
            parts.len(),
        );
        report.note(
            scene,
            &format!("goodput before the flood, {name}"),
            sum(|part| part.calm) / parts.len() as f64,
            "records/s",
            parts.len(),
        );
        let each = sum(|part| part.busy.as_secs_f64()) * 1e6 / sent;
        report.note(scene, &format!("sender's processor time of a SYN, {name}"), each, "us", parts.len());
        let others = sum(|part| part.others) / spent;
        report.note(scene, &format!("processors that other processes took, {name}"), others, "", parts.len());
        let stall = parts.iter().map(|part| part.stall).max().unwrap_or_default();
        report.note(
            scene,
            &format!("longest stall of a live flow, {name}"),
            stall.as_secs_f64() * 1e3,
            "ms",
            parts.len(),
        );
    }
    report.at_most(scene, "rates of a pair apart, at most", apart, "of the rate", APART, parts);
    report.at_least(scene, "goodput over that without us", goodput[0] / goodput[1], "x", GOODPUT, parts);
    Ok(())
}

/// What the flood left behind.
fn tables(report: &mut Report, scene: &str, side: &Side) -> Result<()> {
    let left = side.left()?;
    report.at_most(
        scene,
        "flow entries beyond the live flows",
        left.flows.saturating_sub(LIVE) as f64,
        "entries",
        0.0,
        1,
    );
    report.at_most(scene, "fragment entries", left.fragments as f64, "entries", 0.0, 1);
    report.at_most(scene, "half-open entries of a node", left.half as f64, "entries", f64::from(MAX_HALF), 1);
    // Not fewer than reached a server: the home's program saw every one of them as a SYN of a tuple it did not know.
    report.at_least(
        scene,
        "tuples that their home took for new flows",
        left.taken as f64,
        "SYNs",
        side.arrived()? as f64,
        1,
    );
    Ok(())
}
