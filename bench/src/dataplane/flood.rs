//! A flood of SYNs from ten million tuples beside a thousand live flows. Issue 4, "Shows" 5.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_ebpf_common::forward::{MAX_HALF, Tally};
use bascule_lab::audit::{Flows, Load};
use bascule_lab::forward::{Hook, Layout, SERVICE_PORT, Site};
use bascule_lab::{Report, Stamp, sleep_until};

use super::frames::{SYN, addressed, tcp4};
use super::sender::{Sender, Syns};

/// SYNs of Show 5, each from another tuple.
pub const SYNS: u32 = 10_000_000;
/// Live flows, and how often each sends: their goodput is what they ask for, as long as nothing is lost.
const LIVE: usize = 1000;
const EVERY: Duration = Duration::from_millis(100);
/// SYNs per burst, and time from burst to burst: 50,000 a second, what the whole lab carries on one of two processors. A burst must fit
/// the queues between veths (netdev_max_backlog: 1000, ring of a veth: 256), or it is the queue that is measured.
const BURST: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);
/// Goodput under flood with us, against the same flood without us.
const GOODPUT: f64 = 0.95;
/// First source of the flood, 10.128.0.0/10: nobody has it, and the router throws answers away.
const SOURCE: u32 = 0x0a80_0000;
const NOBODY: &str = "10.128.0.0/10";

/// What the live flows noticed.
struct Outcome {
    /// Records a second that came back while the flood ran.
    goodput: f64,
    broken: usize,
    /// SYNs a second that were sent.
    rate: f64,
    /// Entries of all flow tables that are not live flows, and of the fullest half-open table.
    extra: usize,
    half: usize,
    /// SYNs that nodes took for new flows.
    taken: u64,
}

/// Floods with us and, in turn, without us; adds the rows.
///
/// # Errors
/// When the site cannot be built or flows do not open.
pub fn measure(report: &mut Report, hook: Hook, syns: u32) -> Result<()> {
    let without = run(hook, syns, false)?;
    let with = run(hook, syns, true)?;
    let scene = format!("SYN flood, {}", if hook == Hook::Xdp { "XDP" } else { "tc" });
    report.note(&scene, "SYNs sent", f64::from(syns), "SYNs", 1);
    report.note(&scene, "rate, through us", with.rate, "1/s", 1);
    report.note(&scene, "rate, without us", without.rate, "1/s", 1);
    report.at_least(
        &scene,
        "SYNs that their home took for new flows",
        with.taken as f64 / f64::from(syns),
        "x",
        0.9,
        1,
    );
    report.at_most(&scene, "flow entries beyond the live flows", with.extra as f64, "entries", 0.0, 1);
    report.at_most(&scene, "half-open entries of a node", with.half as f64, "entries", f64::from(MAX_HALF), 1);
    report.at_most(&scene, "live flows broken", with.broken as f64, "flows", 0.0, 1);
    report.note(&scene, "goodput, through us", with.goodput, "records/s", 1);
    report.note(&scene, "goodput, without us", without.goodput, "records/s", 1);
    report.at_least(&scene, "goodput over that without us", with.goodput / without.goodput, "x", GOODPUT, 1);
    Ok(())
}

fn run(hook: Hook, syns: u32, through_us: bool) -> Result<Outcome> {
    let mut site = Site::new("flood", Layout { balancers: 1, homes: 2, pods: 1, hook })?;
    if !through_us {
        site.unload();
    }
    site.router.tool("ip", &["route", "add", "blackhole", NOBODY])?;
    site.router.tool("ethtool", &["-K", "eth1", "gro", "on"])?;
    // Without us clients speak to one pod, as the router knows the way to it.
    let direct = site.member(11).pods[0].address;
    let target = if through_us { site.target() } else { SocketAddrV4::new(direct, SERVICE_PORT) };
    let load = Load { target, paced: LIVE, every: EVERY, full_speed: 0, window: 1 };
    let flows = Flows::start(&site.client, load)?;
    let open = flows.wait_open(Duration::from_secs(60)).unwrap_or_else(|_| flows.alive());
    ensure!(open == LIVE, "{open} of {LIVE} flows opened\n{}", site.describe()?);
    let frame = tcp4((Ipv4Addr::from_bits(SOURCE), 1024), (*target.ip(), target.port()), SYN, 0);
    let frame = addressed(frame, site.router.mac("eth1")?.0, site.client.mac("eth0")?.0);
    let sender = Sender::new(&site.client, "eth0")?;
    let mut flood = Syns::new(frame, SOURCE);
    let opened = taken(&site)?;
    let (begun, before) = (Stamp::now(), flows.echoed());
    let (mut sent, mut refused, mut next) = (0, 0u32, begun);
    while sent < syns {
        let burst = BURST.min(syns - sent);
        for _ in 0..burst {
            refused += u32::from(!sender.send(flood.make())?);
        }
        sent += burst;
        next = (next + PAUSE).max(Stamp::now());
        sleep_until(next);
    }
    let (spent, echoed) = (Stamp::now().since(begun).as_secs_f64(), flows.echoed() - before);
    let taken = taken(&site)? - opened;
    let (mut entries, mut half) = (0, 0);
    for programs in site.members.iter().filter_map(|member| member.programs.as_ref()) {
        entries += programs.flows()?;
        half = half.max(programs.half_open()?);
    }
    ensure!(refused < syns / 100, "{refused} of {syns} SYNs did not leave the client");
    let broken = flows.finish().broken(&[]).len();
    let (goodput, rate) = (echoed as f64 / spent, f64::from(syns) / spent);
    Ok(Outcome { goodput, broken, rate, extra: entries.saturating_sub(LIVE), half, taken })
}

/// New flows at all nodes: a SYN of the flood is one, where its home takes it for the service.
fn taken(site: &Site) -> Result<u64> {
    let mut sum = 0;
    for programs in site.members.iter().filter_map(|member| member.programs.as_ref()) {
        sum += programs.tallies()?.of(Tally::FlowNew);
    }
    Ok(sum)
}
