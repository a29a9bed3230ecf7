//! The growth table: 10, 100, 1,000, 5,000 Services of 20 endpoints each, in a new cluster each time.
//!
//! The cluster has 16 nodes, three of them with a daemon, so that no node has more endpoints than it has room for: a quarter of all
//! Services have five endpoints there.
//!
//! One Service is made each [`PACE`], whatever the size, so that a cluster of five times the Services takes five times as long to make: what a
//! daemon does by the second is in its costs. Made as fast as the API server takes them, 5,000 took twelve times as long as 1,000
//! and most of that was the API server's own (kube-apiserver 1.35 lists all addresses of Services for each new one: `ipallocator.Allocator.Used`,
//! half of its processor time at 4,000 by its profile), which says nothing of the daemon.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_lab::scale::{Made, Scale, Usage, asked, endpoint, usage, writes};
use bascule_lab::{Report, Stamp, sleep_until};

use super::floor::Floor;
use super::{NODES, count};

const LISTED: u8 = 16;
/// Endpoints of a Service.
const ENDPOINTS: usize = 20;
/// Nodes that these lie on.
const ON: usize = 4;
/// The last few have all their endpoints on nodes with a daemon: a client outside asks them.
const ASKED: usize = 5;
/// From one Service to the next: slower than the API server of a slow machine is at 5,000.
const PACE: Duration = Duration::from_millis(25);
/// The writes may take so much longer than the pace says; beyond, the machine was too slow for this table.
const BEHIND: f64 = 0.1;
const RSS_MIB: f64 = 150.0;
const IDLE_CPU: f64 = 1.0;
/// Up to this many Services the bound of an idle daemon holds.
const IDLE_UP_TO: usize = 1000;
const CALM: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(30);

/// What one cluster cost. Daemons' processor time and memory are those of the busiest and of the largest.
struct Cost {
    /// The bench's own writes, and the last of them to all announced and served, seconds.
    writes: f64,
    served: f64,
    /// Seconds of a core.
    cpu: f64,
    /// One piece of the [`Floor`]'s work beside it, milliseconds.
    piece: f64,
    /// API calls of all daemons.
    calls: f64,
    /// API writes for each Service.
    written: f64,
    /// Percent of a core of an idle daemon.
    idle: f64,
    /// MiB.
    rss: f64,
}

pub(super) fn measure(sizes: &[usize], runs: usize, report: &mut Report) -> Result<()> {
    let mut costs: Vec<Vec<Cost>> = sizes.iter().map(|_| Vec::new()).collect();
    // In rounds, or an hour in which the machine is slow would be one size's alone.
    for run in 1..=runs {
        for (services, costs) in sizes.iter().zip(&mut costs) {
            let cost = grow(*services).with_context(|| format!("{services} Services"))?;
            let Cost { writes, served, cpu, piece, calls, written, idle, rss } = &cost;
            println!(
                "{services} Services, run {run}: written {writes:.1} s, served {served:.1} s, busy {cpu:.2} s, piece {piece:.2} ms, {calls:.0} calls, \
                 {written:.2} writes each, idle {idle:.2} %, {rss:.1} MiB"
            );
            costs.push(cost);
        }
    }
    for (services, costs) in sizes.iter().zip(&costs) {
        rows(*services, costs, runs, report);
    }
    for (sizes, costs) in sizes.windows(2).zip(costs.windows(2)) {
        let ([fewer, more], [of_fewer, of_more]) = (sizes, costs) else { continue };
        let scene = format!("{fewer} to {more} Services");
        let steps = (count(*more) / count(*fewer)).ln();
        // 1: linear; what a daemon costs without any Service is in both.
        let exponent = |of: fn(&Cost) -> f64| (median(of_more, of) / median(of_fewer, of).max(0.01)).ln() / steps;
        let floor = exponent(|cost| cost.cpu / cost.piece);
        report.at_most(&scene, "exponent of processor time over the floor", floor, "", 1.0, runs);
        report.note(&scene, "exponent of processor time as it was", exponent(|cost| cost.cpu), "", runs);
        report.at_most(&scene, "exponent of API calls", exponent(|cost| cost.calls), "", 1.0, runs);
    }
    Ok(())
}

/// Of an even number the worse one of the two in the middle.
fn median(costs: &[Cost], of: fn(&Cost) -> f64) -> f64 {
    let mut all: Vec<f64> = costs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn rows(services: usize, costs: &[Cost], runs: usize, report: &mut Report) {
    let scene = format!("{services} Services x {ENDPOINTS} endpoints");
    let of = |of| median(costs, of);
    let piece = "a fixed piece of work beside it";
    let paced = PACE.as_secs_f64() * count(services);
    report.at_most(
        &scene,
        "the bench's own writes, at its pace",
        of(|cost| cost.writes),
        "s",
        paced * (1.0 + BEHIND) + 1.0,
        runs,
    );
    report.note(&scene, "last write to all announced and served", of(|cost| cost.served), "s", runs);
    report.note(&scene, "processor time of the busiest daemon", of(|cost| cost.cpu), "s", runs);
    report.note(&scene, piece, of(|cost| cost.piece), "ms", runs);
    report.note(&scene, "API calls of all daemons", of(|cost| cost.calls), "calls", runs);
    report.note(&scene, "API writes per Service", of(|cost| cost.written), "writes", runs);
    let idle = "idle, processor time of the busiest daemon";
    if services <= IDLE_UP_TO {
        report.at_most(&scene, idle, of(|cost| cost.idle), "% of a core", IDLE_CPU, runs);
    } else {
        report.note(&scene, idle, of(|cost| cost.idle), "% of a core", runs);
    }
    report.at_most(&scene, "resident memory of the largest daemon", of(|cost| cost.rss), "MiB", RSS_MIB, runs);
}

fn made(services: usize) -> Vec<Made> {
    let mut next = [0_usize; LISTED as usize];
    let mut one = |node: usize| {
        let n = u8::try_from(node + 1).unwrap_or(LISTED);
        next[node] += 1;
        (n, endpoint(n, next[node] - 1), true)
    };
    (0..services)
        .map(|i| {
            let asked = i + ASKED >= services;
            let node = |k: usize| {
                if asked {
                    k % usize::from(NODES)
                } else {
                    (i + k % ON * (usize::from(LISTED) / ON)) % usize::from(LISTED)
                }
            };
            Made { name: format!("grow-{i:04}"), endpoints: (0..ENDPOINTS).map(|k| one(node(k))).collect() }
        })
        .collect()
}

fn grow(services: usize) -> Result<Cost> {
    let mut scale = Scale::new("grow", NODES, LISTED)?;
    let made = made(services);
    let alive = scale.alive();
    let of_each =
        |scale: &Scale| alive.iter().map(|n| Ok(usage(&scale.daemon(*n).process)?)).collect::<Result<Vec<_>>>();
    let (before, from) = (of_each(&scale)?, scale.audit()?.len());
    let floor = Floor::start();
    let (began, written) = scale.make_paced(&made, PACE)?;
    let given = scale.addresses(began, &made)?;
    let vips: Vec<Ipv4Addr> = made.iter().filter_map(|service| given.get(&service.name).map(|(_, vip)| *vip)).collect();
    let announced = scale.wait_announced(began, &vips)?;
    let (_, answered) = scale.knock_all(&vips[vips.len().saturating_sub(ASKED)..])?;
    let last = announced.values().map(|(at, _)| *at).chain([answered]).max().unwrap_or(answered);
    scale.refresh()?;
    sleep_until(Stamp::now() + CALM);
    let calm = of_each(&scale)?;
    let piece = floor.stop()?;
    let cpu = |now: &[Usage], then: &[Usage]| {
        let used = now.iter().zip(then).map(|(now, then)| now.cpu.saturating_sub(then.cpu));
        used.max().unwrap_or_default().as_secs_f64()
    };
    let busy = cpu(&calm, &before);
    let events = scale.audit()?;
    let calls = count(alive.iter().map(|n| asked(&events[from..], &scale.source(*n))).sum());
    let each = count(writes(&events[from..])) / count(services);
    scale.work_apart(true)?;
    let calm = of_each(&scale)?;
    let quiet = Stamp::now();
    sleep_until(quiet + IDLE);
    let end = of_each(&scale)?;
    let idle = cpu(&end, &calm) / Stamp::now().since(quiet).as_secs_f64() * 100.0;
    let rss = end.iter().map(|usage| usage.rss).fold(0.0, f64::max);
    scale.clean()?;
    Ok(Cost {
        writes: written.since(began).as_secs_f64(),
        served: last.since(written).as_secs_f64(),
        cpu: busy,
        piece: piece * 1e3,
        calls,
        written: each,
        idle,
        rss,
    })
}
