//! What happens in a run: everything drawn from the seed before the run begins, so that a trace explains itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bascule_core::health::{GateConfig, ProbeKind};
use bascule_core::node::config::{FencePolicy, GroupConfig, NodeConfig, WhenAllFail};
use bascule_core::node::io::LinkInfo;
use bascule_core::types::{Centis, LinkId, Mac, rank_priority};
use bascule_core::wire::peer::Keys;

use crate::clock::Clock;
use crate::faults::{self, Planned};
use crate::rng::Rng;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const SEC: u64 = 1000 * MS;
/// The one link of every node.
pub const LINK: LinkId = LinkId(2);

/// What goes wrong in a run: one class each, so that each has its own bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Nothing; clocks differ all the same.
    Quiet,
    /// One node's daemon is killed, at any point between two actions; perhaps it comes back.
    Kill,
    /// One node's daemon is stopped for 0.1 to 8 s, at any point between two actions.
    Pause,
    /// One node's daemon is held up again and again for 5 to 200 ms.
    Stall,
    /// One node gives everything away and ends; perhaps it comes back.
    Stop,
    /// Moves, drains and undrains, with one node held up now and then.
    Move,
    /// One node's link is cut, both ways.
    Cut,
    /// Adverts are lost one way between one node and the others.
    OneWay,
    /// Random loss, duplicates, reordering.
    Loss,
    /// The LAN splits and rejoins.
    Partition,
    /// Gates flap.
    Gates,
    /// Configurations change.
    Reload,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Quiet,
        Self::Kill,
        Self::Pause,
        Self::Stall,
        Self::Stop,
        Self::Move,
        Self::Cut,
        Self::OneWay,
        Self::Loss,
        Self::Partition,
        Self::Gates,
        Self::Reload,
    ];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Stall => "stall",
            Self::Stop => "stop",
            Self::Move => "move",
            Self::Cut => "cut",
            Self::OneWay => "one-way",
            Self::Loss => "loss",
            Self::Partition => "partition",
            Self::Gates => "gates",
            Self::Reload => "reload",
        }
    }

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == name)
    }

    /// The fault is one of a single node: never two owners (design.md "The fence").
    pub const fn single_node(self) -> bool {
        !matches!(self, Self::OneWay | Self::Loss | Self::Partition)
    }
}

/// How the LAN behaves; times in nanoseconds, rates in permille.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Shortest way of a frame.
    pub latency: u64,
    /// Added to it at most; frames overtake one another by this.
    pub jitter: u64,
    /// Longest delay from a deadline or a packet to the turn that sees it.
    pub lateness: u64,
}

impl Net {
    /// Longest time from a frame's departure to its effect in a daemon that is not held up.
    pub const fn reach(&self) -> u64 {
        self.latency + self.jitter + self.lateness + 100_000
    }
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its clock.
    pub clock: Clock,
    /// When its daemon starts.
    pub start: u64,
    /// Its configuration.
    pub config: NodeConfig,
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed that made it.
    pub seed: u64,
    /// What goes wrong.
    pub class: Class,
    /// The LAN.
    pub net: Net,
    /// The nodes, best rank first for the first group.
    pub nodes: Vec<NodeSpec>,
    /// The advert interval of every group.
    pub interval: Centis,
    /// Faults in order.
    pub faults: Vec<Planned>,
    /// All nodes are up and settled by now: gaps count from here.
    pub settled: u64,
    /// The last fault is over.
    pub healed: u64,
    /// End of the run.
    pub end: u64,
}

/// IPv4 address of a node.
pub fn v4(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, octet(10 + node)))
}

/// Link-local address of a node.
pub fn v6(node: usize) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(octet(node))))
}

/// MAC of a port; clients come after the nodes.
pub fn mac(port: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, 10 + octet(port)])
}

fn octet(n: usize) -> u8 {
    u8::try_from(n).expect("a simulated LAN has few ports")
}

/// The link of a node as its kernel shows it.
pub fn link(node: usize, up: bool) -> LinkInfo {
    let global = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10 + u16::from(octet(node)));
    let nets = [(v4(node), 24), (v6(node), 64), (IpAddr::V6(global), 64)];
    let addresses =
        nets.iter().map(|(a, len)| ipnet::IpNet::new(*a, *len).expect("a prefix length of its family")).collect();
    LinkInfo { id: LINK, name: "eth0".to_owned(), mac: mac(node), up, addresses }
}

/// VIPs of a group: `v4s` IPv4 addresses and, with `dual`, one IPv6 address.
pub fn vips(group: usize, v4s: usize, dual: bool) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> =
        (0..v4s).map(|i| IpAddr::V4(Ipv4Addr::new(10, 9, 0, 100 + octet(group * 10 + i)))).collect();
    if dual {
        list.push(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100 + u16::from(octet(group)))));
    }
    list
}

impl Scenario {
    /// The scenario of a seed, in the class that the seed chooses or in a given one.
    pub fn new(seed: u64, class: Option<Class>) -> Self {
        let mut rng = Rng::new(seed ^ 0xba5c_01e0_0000_0000);
        let drawn = rng.pick(&Class::ALL);
        let class = class.unwrap_or(drawn);
        let interval = Centis::new(rng.pick(&[1, 2, 5, 10, 10, 10, 20, 50, 100])).expect("in range");
        let a = u64::from(interval.get()) * 10 * MS;
        let net = Net {
            latency: rng.between(20_000, 80_000),
            jitter: rng.between(0, 120_000),
            lateness: rng.between(10_000, 200_000),
        };
        // One node alone must find its way back by itself; where nodes are set against each other there are two at least.
        let alone = matches!(class, Class::Quiet | Class::Pause | Class::Stall) && rng.chance(150);
        let count = if alone { 1 } else { rng.index(5) + 2 };
        let configs = configs(&mut rng, count, interval, class);
        let nodes: Vec<NodeSpec> = configs
            .into_iter()
            .map(|config| NodeSpec {
                clock: Clock {
                    offset: rng.between(SEC, 1000 * SEC),
                    ppm: i64::try_from(rng.between(0, 2000)).expect("small") - 1000,
                },
                start: rng.between(0, 300 * MS),
                config,
            })
            .collect();
        // The last start, three conflict probes, Active_Down_Interval with its skew, and something to breathe.
        let settled = 300 * MS + 800 * MS + 5 * a + 200 * MS;
        let mut faults = faults::plan(&mut rng, class, &nodes, settled, a);
        faults.sort_by_key(|f| f.at);
        let healed = faults.iter().map(|f| f.at + f.lasts).max().unwrap_or(settled);
        // A node that met a frozen owner's answer while probing waits 5 s before it looks again.
        let end = healed + 7 * SEC + 12 * a;
        Self { seed, class, net, nodes, interval, faults, settled, healed, end }
    }
}

fn configs(rng: &mut Rng, count: usize, interval: Centis, class: Class) -> Vec<NodeConfig> {
    let keys = if rng.chance(600) { Keys::new(vec![vec![7; 32]]) } else { Keys::default() };
    let (preempt, accept) = (rng.chance(250), !rng.chance(100));
    let gated = class == Class::Gates || rng.chance(100);
    let release = rng.chance(300);
    // Equal priorities are for the classes in which two Actives are allowed to meet.
    let equal = !class.single_node() && rng.chance(300);
    let drain = Duration::from_millis(rng.pick(&[0, 200, 1000]));
    let groups: Vec<(usize, bool)> = (0..=rng.index(3)).map(|_| (rng.index(3) + 1, rng.chance(500))).collect();
    (0..count)
        .map(|node| {
            let group = |(g, (v4s, dual)): (usize, &(usize, bool))| {
                let vrid = 51 + octet(g);
                GroupConfig {
                    priority: if equal { 150 } else { rank_priority((node + g) % count) },
                    interval,
                    preempt,
                    accept,
                    when_all_fail: if release { WhenAllFail::Release } else { WhenAllFail::Keep },
                    gates: if gated { vec!["gate".to_owned()] } else { Vec::new() },
                    drain_time: drain,
                    ..GroupConfig::new(&format!("g{g}"), vrid, vips(g, *v4s, *dual))
                }
            };
            let gate = GateConfig {
                name: "gate".to_owned(),
                probe: ProbeKind::Tcp(([127, 0, 0, 1], 6443).into()),
                interval: Duration::from_millis(200),
                timeout: Duration::from_millis(100),
                rise: 2,
                fall: 2,
            };
            NodeConfig {
                node: format!("n{node}"),
                fence: FencePolicy::Required,
                keys: keys.clone(),
                gates: if gated { vec![gate] } else { Vec::new() },
                groups: groups.iter().enumerate().map(group).collect(),
                ..NodeConfig::default()
            }
        })
        .collect()
}
