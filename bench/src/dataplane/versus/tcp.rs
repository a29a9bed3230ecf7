//! TCP through one balancing node, all kinds side by side: short slices in turn, so that what the machine does meanwhile meets all alike.
//!
//! A round has its own namespaces. In it every measurement is taken of one kind after the other, several times, each time in the opposite
//! order; the first part of a slice, in which windows and tables grow, does not count. What is judged is the ratio of two kinds, turn by turn,
//! and its median of every round.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::audit::{Flows, Load};
use bascule_lab::forward::Hook;
use bascule_lab::{Report, Samples, Stamp, sleep_until};

use super::load::{SETTLE, bulk, connections};
use super::{Arena, BULK, Balancer, ECHO, Round, Rounds, place, rows};

/// Bounds of Show 4 (ii): not below nftables, ahead of haproxy.
const FACTOR: f64 = 1.0;
/// Of each slice, without what comes before it counts.
const TIME: Duration = Duration::from_millis(500);
/// Slices of ours and of nftables in a round. Of throughput more: there the two are closest, and a slice says least.
const SLICES: [usize; METRICS.len()] = [6, 6, 16];
/// Slices of haproxy, which is far behind.
const FAR: usize = 4;
/// Slices of those that nothing is judged by.
const BESIDE: usize = 2;
/// Connections at once while connections are counted, kept connections while requests are, streams of bulk.
const WORKERS: usize = 32;
const KEPT: usize = 64;
const STREAMS: usize = 4;
/// A slice that ended later than this was cut off from the processor: its turn is void (platform.md: stalls of 40-600 ms).
const ALLOWANCE: Duration = Duration::from_millis(30);
const OURS: Balancer = Balancer::Local(Hook::Tc);
/// Ours and nftables next to one another.
const KINDS: [Balancer; 5] =
    [Balancer::Nftables, OURS, Balancer::Haproxy, Balancer::Routed, Balancer::Local(Hook::Xdp)];
/// How many of [`KINDS`] have a slice in turn `turn`.
const fn kinds_in(turn: usize) -> usize {
    match turn {
        0..BESIDE => KINDS.len(),
        BESIDE..FAR => 3,
        _ => 2,
    }
}

/// What is measured.
#[derive(Clone, Copy)]
enum Metric {
    Connections,
    Requests,
    Throughput,
}

const METRICS: [(Metric, &str, &str); 3] = [
    (Metric::Connections, "connections", "1/s"),
    (Metric::Requests, "requests", "1/s"),
    (Metric::Throughput, "throughput", "Gbit/s"),
];

/// Connections, requests and bits per second through one balancing node.
///
/// # Errors
/// When the ground cannot be made or a connection fails.
pub fn tcp(report: &mut Report, runs: usize) -> Result<()> {
    let mut rounds: [Rounds; METRICS.len()] = Default::default();
    let mut void = 0;
    for run in 0..runs {
        let arenas: Vec<Arena> =
            KINDS.iter().map(|kind| Arena::new(*kind).with_context(|| kind.name())).collect::<Result<_>>()?;
        for (((metric, name, unit), slices), all) in METRICS.iter().zip(SLICES).zip(&mut rounds) {
            let (taken, late) = round(*metric, slices, &arenas).with_context(|| *name)?;
            let medians: Vec<f64> = taken.iter().filter_map(Samples::median).collect();
            eprintln!("tcp: run {} of {runs}: {name} {medians:.2?} {unit}, {late} void turns", run + 1);
            void += late;
            all.push(taken);
        }
    }
    report.note("TCP", "void turns", void as f64, "", runs);
    for ((_, metric, unit), rounds) in METRICS.iter().zip(&rounds) {
        let bounds = [(OURS, Balancer::Nftables, FACTOR), (OURS, Balancer::Haproxy, FACTOR)];
        let beside = [
            (OURS, Balancer::Routed),
            (Balancer::Local(Hook::Xdp), Balancer::Nftables),
            (Balancer::Nftables, Balancer::Routed),
        ];
        rows(report, metric, unit, &KINDS, rounds, &bounds, &beside)?;
    }
    Ok(())
}

/// The slices of every kind, and how many turns were void.
fn round(metric: Metric, most: usize, arenas: &[Arena]) -> Result<(Round, usize)> {
    let mut slices: Vec<Samples> = vec![Samples::default(); arenas.len()];
    let (mut turns, mut void) = (0, 0);
    while turns < most {
        let mut order: Vec<usize> = (0..kinds_in(turns)).collect();
        if turns % 2 == 1 {
            order.reverse();
        }
        let mut taken = Vec::new();
        let mut late = Duration::ZERO;
        for index in order {
            let (value, behind) = slice(metric, &arenas[index]).with_context(|| KINDS[index].name())?;
            taken.push((index, value));
            late = late.max(behind);
        }
        if late > ALLOWANCE && void < most {
            void += 1;
            continue;
        }
        taken.into_iter().for_each(|(index, value)| slices[index].0.push(value));
        turns += 1;
    }
    Ok((slices, void))
}

/// One slice of one kind, and by how much it ended late.
fn slice(metric: Metric, arena: &Arena) -> Result<(f64, Duration)> {
    let _clients = place::Place::Clients.take()?;
    match metric {
        Metric::Connections => connections(&arena.client, arena.target(ECHO), WORKERS, TIME),
        Metric::Requests => requests(arena),
        Metric::Throughput => {
            let (bits, late) = bulk(&arena.client, arena.target(BULK), STREAMS, TIME, &arena.sinks)?;
            Ok((bits / 1e9, late))
        }
    }
}

/// Questions answered a second over kept connections.
fn requests(arena: &Arena) -> Result<(f64, Duration)> {
    let load = Load { target: arena.target(ECHO), paced: 0, every: TIME, full_speed: KEPT, window: 1 };
    let flows = Flows::start(&arena.client, load)?;
    let open = flows.wait_open(Duration::from_secs(10))?;
    ensure!(open == KEPT, "{open} of {KEPT} connections opened");
    sleep_until(Stamp::now() + SETTLE);
    let (begun, before) = (Stamp::now(), flows.echoed());
    sleep_until(begun + TIME);
    let (answered, spent) = (flows.echoed() - before, Stamp::now().since(begun));
    let audit = flows.finish();
    ensure!(audit.broken(&[]).is_empty(), "{}", audit.describe(&[]));
    Ok((answered as f64 / spent.as_secs_f64(), spent.saturating_sub(TIME)))
}
