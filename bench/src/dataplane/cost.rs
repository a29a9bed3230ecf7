//! What one packet costs: nanoseconds over the floor, by the number of flows and by what the packet is. Issue 4, "Shows" 4.
//!
//! The shim replays golden packets through the XDP program (dataplane.md 4a); the floor is the same replay with a program that only
//! returns. A run counts when the program's own tallies say that every packet took the way that is meant to be measured.
//!
//! A ratio is taken run by run, of two costs measured within seconds, and judged by its 95 % bound on the unfavourable side, as beside
//! the peers. The least of all runs is what a packet costs on a machine of one's own; two leasts are no ratio on a shared one, whose
//! clock and cache also change for the better: each comes of another moment (199 to 342 ns for the same code, and 0.90 to 1.29 for
//! one ratio).

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Config, DEFAULT_TUNNEL_PORT, ENDPOINT_READY, Endpoint, Flow, FlowKey, Key, NODE_RESOLVED, NODE_SELF, Node, Row,
    Service, ShimHead, Table, Tally, Tuple, entropy_port,
};
use bascule_lab::forward::{BUDGETS, BenchPrograms, NodePrograms, UnderTest, homes, v4};
use bascule_lab::{Lab, Netns, Report, Samples};
use nix::time::{ClockId, clock_gettime};

use super::frames::{ACK, SYN, Side, client, encapsulated, packet, tcp4, tcp6, udp4, v6};
use super::stats::{least, mean95, over};

/// Numbers of flows of Show 4.
const FLOWS: [u32; 4] = [1, 1024, 65_536, 1 << 20];
/// Packets of one run: each of a million flows once.
const REPEAT: u32 = 1 << 20;
/// Bounds of Show 4.
const FLAT: f64 = 1.25;
const NEW_FLOW: f64 = 1.3;
const NOT_A_VIP: f64 = 0.5;
/// Nodes beside this one, and rows of their table: a cluster of middling size (dataplane.md 4e).
const NODES: u16 = 40;
const ROWS: u16 = 4093;
/// This node.
const SELF: u16 = 1;
/// The loopback of a namespace, which test_run takes as the device.
const LOOPBACK: u32 = 1;
/// VIP whose rows name the other nodes, VIP whose rows all name this one, and an address that is none.
const AWAY: Side = (Ipv4Addr::new(10, 7, 0, 1), 80);
const HERE: Side = (Ipv4Addr::new(10, 7, 0, 2), 80);
const NOBODY: Side = (Ipv4Addr::new(10, 7, 0, 3), 80);
/// The endpoint behind HERE.
const ENDPOINT: Side = (Ipv4Addr::new(10, 20, 1, 2), 8080);
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Number of the service at HERE: the fourth that is added.
const HERE_SERVICE: u16 = 4;
/// Keys of the flow hash and of the tag.
const FLOW_KEY: [u64; 2] = [0x1716_1514_1312_1110, 0x1f1e_1d1c_1b1a_1918];
const TAG_KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

/// What is replayed.
struct Scene {
    name: &'static str,
    frame: fn(u32) -> Vec<u8>,
    /// Every packet is counted here.
    tally: Tally,
    /// Numbers of flows.
    flows: &'static [u32],
}

const ESTABLISHED: &str = "sent on: TCP established";
const OPENING: &str = "sent on: TCP SYN";
const UNKNOWN: &str = "not a VIP";
const DELIVERED: &str = "delivered: TCP established";

const SCENES: [Scene; 8] = [
    Scene { name: ESTABLISHED, frame: |f| tcp4(client(f), AWAY, ACK, 10), tally: Tally::Encapsulated, flows: &FLOWS },
    Scene { name: OPENING, frame: |f| tcp4(client(f), AWAY, SYN, 0), tally: Tally::Encapsulated, flows: &FLOWS },
    Scene { name: UNKNOWN, frame: |f| tcp4(client(f), NOBODY, ACK, 10), tally: Tally::Passed, flows: &FLOWS },
    Scene {
        name: "sent on: UDP",
        frame: |f| udp4(client(f), AWAY, 22),
        tally: Tally::Encapsulated,
        flows: &[1, 1 << 20],
    },
    Scene {
        name: "sent on: TCP over IPv6",
        frame: |f| tcp6(client(f), AWAY, ACK, 22),
        tally: Tally::Encapsulated,
        flows: &[1, 1 << 20],
    },
    Scene {
        name: "delivered: TCP SYN",
        frame: |f| tcp4(client(f + (1 << 20)), HERE, SYN, 0),
        tally: Tally::FlowNew,
        flows: &FLOWS,
    },
    Scene {
        name: "taken out and delivered: TCP established",
        frame: arriving,
        tally: Tally::Decapsulated,
        flows: &FLOWS,
    },
    Scene { name: DELIVERED, frame: |f| tcp4(client(f), HERE, ACK, 10), tally: Tally::FlowHit, flows: &FLOWS },
];

/// An established flow's packet as another node sends it here.
fn arriving(flow: u32) -> Vec<u8> {
    let frame = tcp4(client(flow), HERE, ACK, 10);
    let (source, port) = client(flow);
    let (client, vip) = (v4(source), v4(HERE.0));
    let tuple = Tuple { client, vip, client_port: port.to_be(), vip_port: HERE.1.to_be(), protocol: TCP };
    let hash = tuple.hash(FLOW_KEY);
    let head = ShimHead { service: HERE_SERVICE, epoch: 1, ..ShimHead::default() };
    let shim = head.seal(TAG_KEY, hash, SELF + 1, SELF);
    let hops = shim.hops.map(u16::to_ne_bytes).concat();
    let start = [shim.version_flags, shim.hops_used];
    let sites = [shim.origin_site, shim.second_site];
    let (service, epoch, tag) = (shim.service.to_ne_bytes(), shim.epoch.to_ne_bytes(), shim.tag.to_ne_bytes());
    let bytes = [&start[..], &service, &epoch, &sites, &hops, &tag].concat();
    encapsulated(&frame, (address(SELF + 1), entropy_port(hash)), (address(SELF), DEFAULT_TUNNEL_PORT), &bytes)
}

/// Address of a node.
fn address(id: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a09_0000 + u32::from(id))
}

/// Runs of one scene and number of flows.
#[derive(Default)]
struct Measured {
    gross: Vec<f64>,
    floor: Vec<f64>,
}

impl Measured {
    /// The least cost over the least floor: what is left when nothing else ran (dataplane.md 4a).
    fn least(&self) -> f64 {
        least(&self.gross) - least(&self.floor)
    }

    /// Cost over the floor, run by run.
    fn net(&self) -> Samples {
        Samples(self.gross.iter().zip(&self.floor).map(|(gross, floor)| gross - floor).collect())
    }
}

/// Measures and adds the rows.
///
/// # Errors
/// When the kernel refuses, or packets went another way than the one that is measured.
pub fn measure(report: &mut Report, runs: usize) -> Result<()> {
    let lab = Lab::new("cost")?;
    let netns = lab.netns("node")?;
    let mut node = NodePrograms::load(&netns, Some(2 << 20))?;
    for size in node.sizes()? {
        let budget = BUDGETS.iter().find(|(name, ..)| *name == size.name).context("a program without a budget")?;
        report.at_most("verifier", &size.name, f64::from(size.verified), "instructions", f64::from(budget.1), 1);
        report.note("verifier", &format!("{}, jited", size.name), f64::from(size.jited), "bytes", 1);
    }
    configure(&mut node)?;
    let mut bench = BenchPrograms::load(1 << 20)?;
    let mut all: Vec<Vec<Measured>> =
        SCENES.iter().map(|scene| scene.flows.iter().map(|_| Measured::default()).collect()).collect();
    for run in 0..runs.max(1) {
        for (scene, measured) in SCENES.iter().zip(&mut all) {
            bench.fill((0..1 << 20).map(|flow| packet((scene.frame)(flow))));
            for (&flows, cell) in scene.flows.iter().zip(measured) {
                once(&netns, &node, &mut bench, scene, flows, cell)?;
            }
        }
        eprintln!("cost: run {} of {runs}", run + 1);
    }
    rows(report, &all, runs)
}

fn once(
    netns: &Netns,
    node: &NodePrograms,
    bench: &mut BenchPrograms,
    scene: &Scene,
    flows: u32,
    cell: &mut Measured,
) -> Result<()> {
    bench.under_test(UnderTest::Floor)?;
    cell.floor.push(netns.run(|| bench.replay(flows, REPEAT))?.1);
    let xdp = node.xdp()?;
    bench.under_test(UnderTest::Program(&xdp))?;
    let before = node.tallies()?;
    let (_, ns) = netns.run(|| bench.replay(flows, REPEAT))?;
    let counted = node.tallies()?.since(&before);
    let (name, went) = (scene.name, counted.of(scene.tally));
    ensure!(went == u64::from(REPEAT), "{name}: {went} of {REPEAT} packets went that way: {}", counted.describe());
    cell.gross.push(ns);
    Ok(())
}

fn rows(report: &mut Report, all: &[Vec<Measured>], runs: usize) -> Result<()> {
    for (scene, measured) in SCENES.iter().zip(all) {
        for (flows, cell) in scene.flows.iter().zip(measured) {
            let median = cell.net().median().context("no run")?;
            report.note(scene.name, &format!("{flows} flows"), cell.least(), "ns over the floor", runs);
            report.note(scene.name, &format!("{flows} flows, median"), median, "ns over the floor", runs);
        }
        let floor = measured.first().map_or(0.0, |cell| least(&cell.floor));
        report.note(scene.name, "floor, 1 flow", floor, "ns", runs);
    }
    let net = |name: &str, index: usize| -> Result<Samples> {
        let found = SCENES.iter().zip(all).find(|(scene, _)| scene.name == name);
        Ok(found.and_then(|(_, cells)| cells.get(index)).context("a scene that was measured")?.net())
    };
    let last = FLOWS.len() - 1;
    let mut ratio =
        |scene: &str, what: &str, (over_what, under): (Samples, Samples), bound: Option<f64>| -> Result<()> {
            let (mean, margin) = mean95(&over(&over_what, &under).0).context("two runs at least")?;
            report.note(scene, &format!("{what}, mean"), mean, "x", runs);
            let metric = format!("{what}, upper 95 %");
            match bound {
                Some(bound) => report.at_most(scene, &metric, mean + margin, "x", bound, runs),
                None => report.note(scene, &metric, mean + margin, "x", runs),
            }
            Ok(())
        };
    let many = "1 M flows over 1 flow";
    ratio(ESTABLISHED, many, (net(ESTABLISHED, last)?, net(ESTABLISHED, 0)?), Some(FLAT))?;
    ratio(DELIVERED, many, (net(DELIVERED, last)?, net(DELIVERED, 0)?), None)?;
    for (index, flows) in FLOWS.iter().enumerate() {
        let what = format!("over established, {flows} flows");
        ratio(OPENING, &what, (net(OPENING, index)?, net(ESTABLISHED, index)?), Some(NEW_FLOW))?;
        let what = format!("over a VIP, {flows} flows");
        ratio(UNKNOWN, &what, (net(UNKNOWN, index)?, net(ESTABLISHED, index)?), Some(NOT_A_VIP))?;
    }
    Ok(())
}

/// A node among many: one VIP of theirs in both families and protocols, one of its own.
fn configure(node: &mut NodePrograms) -> Result<()> {
    node.key(0, &Key { key: TAG_KEY, valid: 1 })?;
    for id in SELF..=NODES {
        let flags = NODE_RESOLVED | if id == SELF { NODE_SELF } else { 0 };
        let (source_mac, next_mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, u8::try_from(id).context("a small id")?]);
        let (address, ifindex, mtu) = (v4(address(id)), LOOPBACK, 1500);
        node.node(id, &Node { address, flags, ifindex, source_mac, next_mac, mtu, ..Node::default() })?;
    }
    node.device(LOOPBACK)?;
    let others: Vec<(u16, u32)> = (SELF + 1..=NODES).map(|id| (id, 2)).collect();
    let row = |home| Row { home, ..Row::default() };
    let tables =
        [(0, homes(ROWS, &others)), (8192, vec![SELF; usize::from(ROWS)]), (16_384, vec![1; usize::from(ROWS)])];
    for (base, homes) in &tables {
        node.rows(*base, &homes.iter().copied().map(row).collect::<Vec<_>>());
    }
    let table = |base| Table { base, rows: ROWS, epoch: 1 }.word();
    let mut slot = 0;
    let mut add = |node: &mut NodePrograms, vip: VipKey, protocol: u8, nodes: u32, endpoints: u64| {
        slot += 1;
        let (number, port) = (u16::try_from(slot).context("a small slot")?, AWAY.1.to_be());
        let nodes = table(nodes);
        let service =
            Service { nodes, endpoints, number, port, protocol, drain_minutes: 60, vip, ..Service::default() };
        node.service(slot, &service).map_err(anyhow::Error::from).map(|()| number)
    };
    add(node, v4(AWAY.0), TCP, 0, 0)?;
    add(node, v4(AWAY.0), UDP, 0, 0)?;
    add(node, VipKey::v6(v6(AWAY.0)), TCP, 0, 0)?;
    let service = add(node, v4(HERE.0), TCP, 8192, table(16_384))?;
    ensure!(service == HERE_SERVICE, "the service at {} is number {service}", HERE.0);
    let endpoint = Endpoint {
        address: v4(ENDPOINT.0),
        port: ENDPOINT.1.to_be(),
        protocol: TCP,
        flags: ENDPOINT_READY,
        netns: -2,
        service,
        ..Endpoint::default()
    };
    node.endpoint(1, &endpoint)?;
    // As if the program had entered them when they were opened. (The SYNs that are delivered come from other clients.)
    let seen_s = u32::try_from(clock_gettime(ClockId::CLOCK_BOOTTIME)?.tv_sec())?;
    let flow = Flow {
        vip: v4(HERE.0),
        vip_port: HERE.1.to_be(),
        service,
        endpoint: 1,
        ingress: SELF,
        seen_s,
        ..Flow::default()
    };
    for number in 0..1 << 20 {
        let (source, port) = client(number);
        let key = FlowKey {
            client: v4(source),
            endpoint: endpoint.address,
            client_port: port.to_be(),
            endpoint_port: endpoint.port,
            protocol: TCP,
            pad: [0; 3],
        };
        node.flow(&key, &flow)?;
    }
    let config = Config {
        flow_key: FLOW_KEY,
        address4: v4(address(SELF)),
        node: SELF,
        tunnel_port: DEFAULT_TUNNEL_PORT.to_be(),
        orphan_rate: 1000,
        icmp_rate: 1000,
        remote_rate: 1000,
        udp_idle_s: 300,
        ..Config::default()
    };
    Ok(node.config(&config)?)
}
