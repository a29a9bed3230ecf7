//! A flood of SYNs from ten million tuples beside a thousand live flows. Issue 4, "Shows" 5.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_ebpf_common::forward::{MAX_HALF, Tally};
use bascule_lab::audit::{Flows, Load};
use bascule_lab::forward::{BenchPrograms, Control, Hook, Layout, SERVICE_PORT, Site};
use bascule_lab::{Report, Stamp, sleep_until};

use super::frames::{ETHERNET, SYN, add, addressed, tcp4};

/// SYNs of Show 5, each from another tuple.
pub const SYNS: u32 = 10_000_000;
/// Live flows, and how often each sends: their goodput is what they ask for, as long as nothing is lost.
const LIVE: usize = 1000;
const EVERY: Duration = Duration::from_millis(100);
/// SYNs per burst, and time from burst to burst: 100,000 a second. A burst must fit the queues between veths (netdev_max_backlog: 1000),
/// or it is the queue that is measured.
const BURST: u32 = 250;
const PAUSE: Duration = Duration::from_micros(2500);
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
    /// SYNs that balancers took for the service.
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
    report.at_least(&scene, "SYNs that reached the balancers", with.taken as f64 / f64::from(syns), "x", 0.9, 1);
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
    let frame = tcp4((std::net::Ipv4Addr::from_bits(SOURCE), 1024), (*target.ip(), target.port()), SYN, 0);
    let frame = addressed(frame, site.router.mac("eth1")?.0, site.client.mac("eth0")?.0);
    let mut generator = BenchPrograms::load(1)?;
    let (ip_sum, tcp_sum) = sums(&frame);
    let ifindex = site.client.ifindex("eth0")?;
    generator.control(Control { ifindex, ip_sum, tcp_sum, source: SOURCE, ..Control::default() })?;
    let (begun, before) = (Stamp::now(), flows.echoed());
    let mut sent = 0;
    let mut next = begun;
    while sent < syns {
        let burst = BURST.min(syns - sent);
        site.client.run(|| generator.flood(&frame, burst))?;
        sent += burst;
        next = (next + PAUSE).max(Stamp::now());
        sleep_until(next);
    }
    let (spent, echoed) = (Stamp::now().since(begun).as_secs_f64(), flows.echoed() - before);
    let (mut entries, mut half, mut taken) = (0, 0, 0);
    for member in &site.members {
        if let Some(programs) = &member.programs {
            entries += programs.flows()?;
            half = half.max(programs.half_open()?);
            taken +=
                if site.balancers().contains(&member.id) { programs.tallies()?.of(Tally::Encapsulated) } else { 0 };
        }
    }
    let broken = flows.finish().broken(&[]).len();
    let (goodput, rate) = (echoed as f64 / spent, f64::from(syns) / spent);
    Ok(Outcome { goodput, broken, rate, extra: entries.saturating_sub(LIVE), half, taken })
}

/// What the generator adds source and port to: the sums of the IPv4 header, and of pseudo header and TCP, without what it writes itself.
fn sums(frame: &[u8]) -> (u32, u32) {
    let mut bytes = frame[ETHERNET..].to_vec();
    // IPv4 checksum and source, TCP source port and checksum.
    for range in [10..16, 20..22, 36..38] {
        bytes[range].fill(0);
    }
    let (ip, tcp) = bytes.split_at(20);
    let length = u32::try_from(tcp.len()).expect("a small segment");
    // Destination, protocol 6 and length stand in the pseudo header too (RFC 9293 section 3.1).
    (add(ip), add(&ip[16..20]) + 6 + length + add(tcp))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::frames::{ETHERNET, SYN, add, fold, tcp4};
    use super::sums;

    #[test]
    fn the_generators_sums_give_the_checksums_of_a_whole_packet() {
        let source = Ipv4Addr::new(10, 128, 7, 9);
        let frame = tcp4((source, 4711), (Ipv4Addr::new(10, 7, 0, 1), 80), SYN, 0);
        let (ip, tcp) = sums(&frame);
        let halves = add(&source.octets());
        let at = |offset: usize| u16::from_be_bytes([frame[ETHERNET + offset], frame[ETHERNET + offset + 1]]);
        assert_eq!((fold(ip + halves), fold(tcp + halves + 4711)), (at(10), at(36)));
    }
}
