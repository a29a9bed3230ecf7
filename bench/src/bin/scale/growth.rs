//! The growth table: 10, 100, 1,000, 5,000 Services of 20 endpoints each, in a new cluster each time.
//!
//! The cluster has 16 nodes, three of them with a daemon, so that no node has more endpoints than it has room for: a quarter of all
//! Services have five endpoints there.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_lab::scale::{Made, Scale, asked, endpoint, usage, writes};
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
const RSS_MIB: f64 = 150.0;
const IDLE_CPU: f64 = 1.0;
/// Up to this many Services the bound of an idle daemon holds.
const IDLE_UP_TO: usize = 1000;
const CALM: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(30);

struct Cost {
    services: usize,
    /// Of the busiest daemon, seconds of a core.
    cpu: f64,
    /// The same in pieces of the [`Floor`]'s work.
    pieces: f64,
    /// API calls of all daemons.
    calls: f64,
}

pub(super) fn measure(sizes: &[usize], report: &mut Report) -> Result<()> {
    let mut costs = Vec::new();
    for services in sizes {
        costs.push(grow(*services, report).with_context(|| format!("{services} Services"))?);
    }
    for pair in costs.windows(2) {
        let [less, more] = pair else { continue };
        let scene = format!("{} to {} Services", less.services, more.services);
        let steps = count(more.services) / count(less.services);
        // 1: linear; what a daemon costs without any Service is in both.
        let exponent = |of: fn(&Cost) -> f64| (of(more) / of(less).max(0.01)).ln() / steps.ln();
        report.at_most(&scene, "exponent of processor time over the floor", exponent(|cost| cost.pieces), "", 1.0, 1);
        report.note(&scene, "exponent of processor time as it was", exponent(|cost| cost.cpu), "", 1);
        report.at_most(&scene, "exponent of API calls", exponent(|cost| cost.calls), "", 1.0, 1);
    }
    Ok(())
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

fn grow(services: usize, report: &mut Report) -> Result<Cost> {
    let scene = format!("{services} Services x {ENDPOINTS} endpoints");
    let mut scale = Scale::new("grow", NODES, LISTED)?;
    let made = made(services);
    let alive = scale.alive();
    let of_each =
        |scale: &Scale| alive.iter().map(|n| Ok(usage(&scale.daemon(*n).process)?)).collect::<Result<Vec<_>>>();
    let (before, from) = (of_each(&scale)?, scale.audit()?.len());
    let floor = Floor::start();
    let began = scale.make(&made)?;
    let written = Stamp::now();
    let given = scale.addresses(began, &made)?;
    let vips: Vec<Ipv4Addr> = made.iter().filter_map(|service| given.get(&service.name).map(|(_, vip)| *vip)).collect();
    let announced = scale.wait_announced(began, &vips)?;
    let (_, answered) = scale.knock_all(&vips[vips.len().saturating_sub(ASKED)..])?;
    let last = announced.values().map(|(at, _)| *at).chain([answered]).max().unwrap_or(answered);
    scale.refresh()?;
    report.note(&scene, "the bench's own writes", written.since(began).as_secs_f64(), "s", 1);
    report.note(&scene, "first write to all announced and served", last.since(began).as_secs_f64(), "s", 1);
    sleep_until(Stamp::now() + CALM);
    let calm = of_each(&scale)?;
    let piece = floor.stop()?;
    let cpu = |now: &[bascule_lab::scale::Usage], then: &[bascule_lab::scale::Usage]| {
        let used = now.iter().zip(then).map(|(now, then)| now.cpu.saturating_sub(then.cpu));
        used.max().unwrap_or_default().as_secs_f64()
    };
    let busy = cpu(&calm, &before);
    report.note(&scene, "processor time of the busiest daemon", busy, "s", 1);
    report.note(&scene, "a fixed piece of work beside it", piece * 1e3, "ms", 1);
    let events = scale.audit()?;
    let calls = count(alive.iter().map(|n| asked(&events[from..], &scale.source(*n))).sum());
    report.note(&scene, "API calls of all daemons", calls, "calls", 1);
    report.note(&scene, "API writes per Service", count(writes(&events[from..])) / count(services), "writes", 1);
    scale.work_apart(true)?;
    let calm = of_each(&scale)?;
    let quiet = Stamp::now();
    sleep_until(quiet + IDLE);
    let end = of_each(&scale)?;
    let idle = cpu(&end, &calm) / Stamp::now().since(quiet).as_secs_f64() * 100.0;
    if services <= IDLE_UP_TO {
        report.at_most(&scene, "idle, processor time of the busiest daemon", idle, "% of a core", IDLE_CPU, 1);
    } else {
        report.note(&scene, "idle, processor time of the busiest daemon", idle, "% of a core", 1);
    }
    let rss = end.iter().map(|usage| usage.rss).fold(0.0, f64::max);
    report.at_most(&scene, "resident memory of the largest daemon", rss, "MiB", RSS_MIB, 1);
    for row in &report.rows[report.rows.len() - 8..] {
        println!("{}: {} {:.2} {}", row.scene, row.metric, row.value, row.unit);
    }
    scale.clean()?;
    Ok(Cost { services, cpu: busy, pieces: busy / piece, calls })
}
