//! One balancing node beside nftables DNAT and haproxy: the same namespaces, wires, servers and load, in turn. Issue 4, "Shows" 4.

mod arena;
mod load;
mod place;
mod tcp;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::forward::{BenchPrograms, Control, Hook};
use bascule_lab::{Netns, Report, Samples, Stamp, sleep_until, wait_for};

use super::frames::{addressed, client, packet, udp4};
use super::stats::{mean95, over};

pub use arena::{Arena, BULK, Balancer, ECHO, VIP};
pub use tcp::tcp;

/// Bound of Show 4 (i).
const UDP_FACTOR: f64 = 1.5;
/// UDP flows, and packets of one run.
const UDP_FLOWS: u32 = 1024;
const UDP_PACKETS: u32 = 1_000_000;
/// UDP payload of a 64-byte frame.
const UDP_PAYLOAD: usize = 22;
const UDP_KINDS: [Balancer; 4] =
    [Balancer::Nftables, Balancer::SentOn, Balancer::Local(Hook::Xdp), Balancer::Local(Hook::Tc)];
/// What every kind reached in one round, in the order of the kinds: a value a turn in which it had a slice, the first turn first.
type Round = Vec<Samples>;
type Rounds = Vec<Round>;

/// Packets per second that one balancing node forwards.
///
/// # Errors
/// When the ground cannot be made or nothing arrives.
pub fn udp(report: &mut Report, runs: usize) -> Result<()> {
    let mut rounds: Rounds = Vec::new();
    while rounds.len() < runs {
        let mut round = Vec::new();
        for kind in UDP_KINDS {
            round.push(udp_once(kind).with_context(|| kind.name())?);
        }
        eprintln!("udp: run {} of {runs}: {round:.0?} packets/s", rounds.len() + 1);
        rounds.push(round.into_iter().map(|value| Samples(vec![value])).collect());
    }
    let bounds = [(Balancer::SentOn, Balancer::Nftables, UDP_FACTOR)];
    let beside = [(Balancer::Local(Hook::Xdp), Balancer::Nftables), (Balancer::Local(Hook::Tc), Balancer::Nftables)];
    rows(report, "packets, 64-byte UDP", "1/s", &UDP_KINDS, &rounds, &bounds, &beside)
}

/// Packets that arrive at the backends, per second of sending.
fn udp_once(kind: Balancer) -> Result<f64> {
    let arena = Arena::new(kind)?;
    // The same end of the path for all: taken from the wire with NAPI, dropped before the stack.
    const SINK: &str = "table netdev sink { chain in { type filter hook ingress device eth0 priority 0; \
                        ip protocol udp drop; }; }";
    for backend in &arena.backends {
        backend.tool("nft", &[SINK])?;
        backend.tool("ethtool", &["-K", "eth0", "gro", "on"])?;
    }
    // A veth takes frames from XDP where its other end has NAPI or a program.
    arena.balancer.tool("ethtool", &["-K", "c0", "gro", "on"])?;
    let (to, from) = (arena.balancer.mac("c0")?, arena.client.mac("eth0")?);
    let mut generator = BenchPrograms::load(UDP_FLOWS)?;
    let frame = |flow| addressed(udp4(client(flow), (VIP, ECHO), UDP_PAYLOAD), to.0, from.0);
    generator.fill((0..UDP_FLOWS).map(|flow| packet(frame(flow))));
    let control = Control { ifindex: arena.client.ifindex("eth0")?, ..Control::default() };
    // Every flow once before it counts: conntrack knows them all, tables are warm.
    arena.client.run(|| generator.send(control, UDP_FLOWS * 2))?;
    let before = settled(&arena.backends)?;
    let begun = Stamp::now();
    arena.client.run(|| generator.send(control, UDP_PACKETS))?;
    let spent = Stamp::now().since(begun);
    let arrived = settled(&arena.backends)? - before;
    ensure!(
        arrived > 0,
        "nothing arrived: {}",
        arena.node.map(|n| n.tallies()).transpose()?.map_or_else(String::new, |t| t.describe())
    );
    ensure!(arrived <= u64::from(UDP_PACKETS) + 100, "{arrived} of {UDP_PACKETS} packets arrived");
    Ok(arrived as f64 / spent.as_secs_f64())
}

/// Packets the backends have received, once no more come.
fn settled(backends: &[Netns]) -> Result<u64> {
    let received = || -> Result<u64> {
        let mut sum = 0;
        for backend in backends {
            let json: serde_json::Value =
                serde_json::from_str(&backend.tool("ip", &["-j", "-s", "link", "show", "dev", "eth0"])?)?;
            sum += json[0]["stats64"]["rx"]["packets"].as_u64().context("no counter in ip -j -s link")?;
        }
        Ok(sum)
    };
    let mut last = received()?;
    Ok(wait_for(Duration::from_secs(10), "the last packet", || {
        sleep_until(Stamp::now() + Duration::from_millis(10));
        let now = received().ok()?;
        let same = now == last;
        last = now;
        same.then_some(now)
    })?)
}

/// Medians of every kind, and for every pair how many times the second the first reached. Of a round that is the median over its turns, slice
/// by slice: what the machine did meanwhile met both slices of a turn, and less so the others of the same kind.
fn rows(
    report: &mut Report,
    metric: &str,
    unit: &str,
    kinds: &[Balancer],
    rounds: &Rounds,
    bounds: &[(Balancer, Balancer, f64)],
    beside: &[(Balancer, Balancer)],
) -> Result<()> {
    let column = |kind: Balancer| -> Result<Vec<&Samples>> {
        let index = kinds.iter().position(|known| *known == kind).context("a kind that was measured")?;
        Ok(rounds.iter().map(|round| &round[index]).collect())
    };
    for kind in kinds {
        let medians: Option<Vec<f64>> = column(*kind)?.into_iter().map(Samples::median).collect();
        let median = Samples(medians.context("no slice")?).median().context("no round")?;
        report.note(kind.name(), metric, median, unit, rounds.len());
    }
    let ratio = |ours: Balancer, theirs: Balancer| -> Result<(f64, f64)> {
        let of_a_round = |(a, b): (&Samples, &Samples)| over(a, b).median();
        let ratios: Option<Vec<f64>> = column(ours)?.into_iter().zip(column(theirs)?).map(of_a_round).collect();
        let (mean, margin) = mean95(&ratios.context("no turn with both")?).context("two rounds at least")?;
        Ok((mean, mean - margin))
    };
    for (ours, theirs, factor) in bounds {
        let (mean, bound) = ratio(*ours, *theirs)?;
        let name = format!("{metric} over {}", theirs.name());
        report.note(ours.name(), &format!("{name}, mean"), mean, "x", rounds.len());
        report.at_least(ours.name(), &format!("{name}, lower 95 %"), bound, "x", *factor, rounds.len());
    }
    for (ours, theirs) in beside {
        let name = format!("{metric} over {}", theirs.name());
        let (mean, bound) = ratio(*ours, *theirs)?;
        report.note(ours.name(), &format!("{name}, mean"), mean, "x", rounds.len());
        report.note(ours.name(), &format!("{name}, lower 95 %"), bound, "x", rounds.len());
    }
    Ok(())
}
