//! The tables of 1,000 services of 20 endpoints through the balancer alone: CPU of building and swapping all, and rows. Issue 4, "Shows" 6.
//!
//! Timed, on the thread's own clock, is what a daemon does between an event and the last swap: the machine's decisions, taking every
//! action, and copying rows as words into the slab (memory here, a mapped array there). Rows are checked afterwards, untimed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_core::balance::io::{Report as Told, ServiceSlot, Table};
use bascule_core::balance::{Action, Balancer, Config, GRACE, Limits};
use bascule_core::service::{
    Affinity, Delivery, EndpointSpec, NodeSpec, Protocol, Return, ServiceSpec, WhenAllFail, WhenUnplaced, number_of,
};
use bascule_core::time::Instant;
use bascule_lab::Report;
use nix::time::{ClockId, clock_gettime};

/// Bounds of the issue, for 1,000 services of 20 endpoints.
const REBUILD_MS: f64 = 150.0;
const TABLES_MIB: f64 = 16.0;
/// Nodes: what two racks hold.
const NODES: u16 = 5;
const ENDPOINTS: usize = 20;
/// Bytes of a row.
const ROW: f64 = 8.0;
const MIB: f64 = 1_048_576.0;

/// Measures and adds the rows; `services` is 1,000 for the bounds to mean something.
///
/// # Errors
/// A table is not what it must be, or the kernel does not tell CPU time.
pub fn measure(report: &mut Report, services: u16, runs: usize) -> Result<()> {
    let mut worst: BTreeMap<&str, f64> = BTreeMap::new();
    for _ in 0..runs.max(1) {
        for (metric, value) in one(services)? {
            let worst = worst.entry(metric).or_default();
            *worst = worst.max(value);
        }
    }
    let scene = format!("{services} services x {ENDPOINTS} endpoints, {NODES} nodes");
    let value = |metric: &str| worst.get(metric).copied().unwrap_or(f64::NAN);
    report.at_most(&scene, FIRST, value(FIRST), "ms CPU", REBUILD_MS, runs);
    report.at_most(&scene, NODE_DIES, value(NODE_DIES), "ms CPU", REBUILD_MS, runs);
    report.at_most(&scene, NODE_BACK, value(NODE_BACK), "ms CPU", REBUILD_MS, runs);
    report.note(&scene, FORGET, value(FORGET), "ms CPU", runs);
    report.note(&scene, STEADY, value(STEADY), "MiB", runs);
    report.at_most(&scene, PEAK, value(PEAK), "MiB", TABLES_MIB, runs);
    Ok(())
}

const FIRST: &str = "all built and swapped, first time";
const NODE_DIES: &str = "a node dies: all rebuilt and swapped";
const NODE_BACK: &str = "it comes back: all rebuilt and swapped";
const FORGET: &str = "drain time over: all rewritten";
const STEADY: &str = "tables";
const PEAK: &str = "tables, old and new during the swap";

/// The maps.
struct Maps {
    slab: Vec<u64>,
    nodes: Vec<Table>,
    swaps: usize,
}

impl Maps {
    fn take(&mut self, balancer: &mut Balancer) -> Result<()> {
        while let Some(action) = balancer.poll_action() {
            match action {
                Action::WriteRows { base, rows } => {
                    let base = usize::try_from(base)?;
                    for (word, row) in self.slab[base..].iter_mut().zip(rows.iter()) {
                        *word = u64::from(row.home)
                            | u64::from(row.previous) << 16
                            | u64::from(row.older) << 32
                            | u64::from(row.stamp) << 48;
                    }
                }
                Action::SwapNodes { slot: ServiceSlot(slot), table } => {
                    self.nodes[usize::from(slot)] = table;
                    self.swaps += 1;
                }
                // The bench itself takes a node away.
                Action::Report(Told::Node { .. }) => {}
                Action::Report(report) => ensure!(false, "{report:?}"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every table names `homes` nodes, each with its share to within a row.
    fn check(&self, services: u16, homes: usize) -> Result<()> {
        let tables: Vec<&Table> = self.nodes.iter().filter(|t| t.rows > 0).collect();
        ensure!(tables.len() == usize::from(services), "{} tables", tables.len());
        for table in tables {
            let base = usize::try_from(table.base)?;
            let mut count: BTreeMap<u64, usize> = BTreeMap::new();
            for word in &self.slab[base..base + usize::from(table.rows)] {
                *count.entry(word & 0xffff).or_default() += 1;
            }
            let (least, most) = (count.values().min(), count.values().max());
            let even = most.zip(least).is_some_and(|(most, least)| most - least <= 2);
            ensure!(count.len() == homes && even, "{count:?}");
        }
        Ok(())
    }
}

fn one(services: u16) -> Result<Vec<(&'static str, f64)>> {
    let limits = Limits::default();
    let mut maps = Maps {
        slab: vec![0; usize::try_from(limits.rows)?],
        nodes: vec![Table::default(); usize::from(limits.services)],
        swaps: 0,
    };
    let mut balancer = Balancer::new(limits);
    let config = config(services);
    let mut now = Instant::from_nanos(600_000_000_000);
    let mut shown = Vec::new();

    let spent = timed(|| {
        balancer.handle_config(config, now);
        settle(&mut balancer, &mut maps, &mut now)
    })?;
    shown.push((FIRST, spent));
    maps.check(services, usize::from(NODES))?;
    let used = |balancer: &Balancer| f64::from(balancer.status().slab_used) * ROW / MIB;
    shown.push((STEADY, used(&balancer)));

    for (metric, up, homes) in [(NODE_DIES, false, NODES - 1), (NODE_BACK, true, NODES)] {
        let before = maps.swaps;
        let spent = timed(|| {
            balancer.handle_node("n5", up, now);
            settle(&mut balancer, &mut maps, &mut now)
        })?;
        ensure!(maps.swaps - before == usize::from(services), "{} swaps", maps.swaps - before);
        shown.push((metric, spent));
        shown.push((PEAK, used(&balancer)));
        maps.check(services, usize::from(homes))?;
        // What was unlinked comes back.
        now = now + GRACE;
        balancer.handle_expire(now);
        maps.take(&mut balancer)?;
    }
    let at = balancer.poll_timeout().context("rows remember who held flows")?;
    now = at;
    let spent = timed(|| {
        balancer.handle_expire(now);
        maps.take(&mut balancer)
    })?;
    shown.push((FORGET, spent));
    Ok(shown)
}

/// Meets the next deadline.
fn settle(balancer: &mut Balancer, maps: &mut Maps, now: &mut Instant) -> Result<()> {
    maps.take(balancer)?;
    *now = balancer.poll_timeout().context("something is to be built")?;
    balancer.handle_expire(*now);
    maps.take(balancer)
}

/// CPU time of this thread in milliseconds.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let clock = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let before = clock()?;
    work()?;
    Ok((clock()? - before).as_secs_f64() * 1e3)
}

fn config(services: u16) -> Config {
    let node = |id: u16| NodeSpec {
        name: format!("n{id}"),
        id,
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::from(id)))],
        site: 1,
        draining: false,
    };
    Config {
        node: Some("n1".into()),
        nodes: (1..=NODES).map(node).collect(),
        services: (0..services).map(|number| Arc::new(service(number))).collect(),
    }
}

fn service(number: u16) -> ServiceSpec {
    let name = format!("s{number}");
    let endpoint = |i: usize| EndpointSpec {
        name: format!("e{i}"),
        address: IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + u32::from(number) * 32 + u32::try_from(i).unwrap_or(0))),
        port: 8080,
        node: Some(format!("n{}", i % usize::from(NODES) + 1).into()),
        weight: 1,
        draining: false,
        check: None,
    };
    ServiceSpec {
        number: number_of(&name),
        name,
        vip: IpAddr::V4(Ipv4Addr::from(0x0a09_0000 + u32::from(number))),
        port: 443,
        protocol: Protocol::Tcp,
        delivery: Delivery::Direct,
        returns: Return::Direct,
        affinity: Affinity::None,
        sources: Vec::new(),
        drain: Duration::from_secs(3600),
        ask: false,
        quic: false,
        when_all_fail: WhenAllFail::Keep,
        when_unplaced: WhenUnplaced::Direct,
        draining: false,
        elsewhere: false,
        endpoints: Arc::new((0..ENDPOINTS).map(endpoint).collect()),
    }
}
