//! What a seed decides beforehand: two configurations, the path between them, and when what goes wrong.

use core::net::{IpAddr, Ipv4Addr};

use bascule_bgp::config::{
    ExportAction, ExportPolicy, MaxPrefixAction, Mode, NeighborConfig, NextHopMode, RemoteAs, RouteAttributes,
    SpeakerConfig,
};
use bascule_bgp::wire::{Family, FamilySet};

use crate::rng::Rng;

/// One millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// One second in nanoseconds.
pub const SECOND: u64 = 1000 * MS;

/// What goes wrong, or changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No segment passes for so long, ns.
    LinkDown(u64),
    /// This node does not read for so long.
    WindowShut(u64),
    /// Its driver does not run for so long.
    Frozen(u64),
    /// Its process dies and is back after so long; the kernel closes its connections.
    Killed(u64),
    /// Its power fails for so long: the neighbor's connections are half-open.
    PowerLoss(u64),
    /// A planned restart, back after so long.
    Restart(u64),
    /// Shutdown with this drain time, back after a second.
    Shutdown(u64),
    /// A middlebox forgets the connections: both ends are half-open.
    Forgotten,
    /// Connections are reset.
    Reset,
    /// An operator resets the session.
    OperatorReset,
    /// BFD goes down and comes back after so long.
    BfdDown(u64),
    /// A change that must not be noticed.
    Unrelated,
    /// A new MED for every route.
    Policy,
    /// A new hold time: the session restarts.
    HoldTime(u16),
    /// Routes come, go and drain.
    Routes,
}

/// A fault of one node at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Virtual nanoseconds.
    pub at: u64,
    /// Which node.
    pub node: usize,
    /// What.
    pub fault: Fault,
}

/// Everything a seed decides.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Both speakers.
    pub configs: [SpeakerConfig; 2],
    /// Parts per million that each clock runs fast.
    pub clock_ppm: [i64; 2],
    /// One way, ns.
    pub latency: u64,
    /// Segments per thousand that are lost and come after a retransmission time-out.
    pub loss: u64,
    /// Bytes that a kernel takes beyond what is acknowledged.
    pub send_buffer: usize,
    /// When each node starts.
    pub start: [u64; 2],
    /// In order of time.
    pub faults: Vec<Event>,
    /// When the last of them is over.
    pub calm: u64,
}

/// Address of a node.
pub const fn address(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, if node == 0 { 1 } else { 2 }))
}

impl Scenario {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0b67_0000);
        let hold = rng.pick(&[0, 3, 9, 30, 90]);
        let bfd = rng.chance(300);
        let configs = configs(&mut rng, hold, bfd);
        let simultaneous = rng.chance(500);
        let start = [SECOND, SECOND + if simultaneous { rng.below(20 * MS) } else { rng.below(10 * SECOND) }];
        let mut faults = Vec::new();
        let mut at = 2 * SECOND;
        for _ in 0..rng.below(12) {
            at += rng.between(10 * MS, 15 * SECOND);
            let node = rng.index(2);
            faults.push(Event { at, node, fault: fault(&mut rng, hold == 0, bfd) });
        }
        Self {
            seed,
            configs,
            clock_ppm: [offset(&mut rng), offset(&mut rng)],
            latency: rng.pick(&[50_000, MS, 5 * MS, 40 * MS]),
            loss: rng.pick(&[0, 0, 5, 50]),
            send_buffer: rng.pick(&[300, 4096, 65_536]),
            start,
            faults,
            // The longest fault is a minute.
            calm: at + 61 * SECOND,
        }
    }
}

fn offset(rng: &mut Rng) -> i64 {
    i64::try_from(rng.below(400)).expect("small") - 200
}

fn configs(rng: &mut Rng, hold_time: u16, bfd: bool) -> [SpeakerConfig; 2] {
    let modes = rng.pick(&[
        (Mode::Active, Mode::Passive),
        (Mode::Passive, Mode::Active),
        (Mode::Both, Mode::Both),
        (Mode::Both, Mode::Both),
    ]);
    let internal = rng.chance(300);
    let asns = if internal { [65_001, 65_001] } else { rng.pick(&[[65_001, 65_002], [4_200_000_000, 65_001]]) };
    // RFC 6286: only external neighbors may share an identifier.
    let ids = if !internal && rng.chance(200) { [1, 1] } else { rng.pick(&[[1, 2], [2, 1], [200, 7]]) };
    let both = FamilySet::ALL;
    let families = rng.pick(&[FamilySet::EMPTY.with(Family::Ipv4), both, both]);
    let graceful = [rng.chance(500), rng.chance(500)].map(|offered| offered.then_some(120));
    let config = |node: usize, mode, graceful_restart| SpeakerConfig {
        asn: asns[node],
        router_id: Ipv4Addr::new(10, 0, 0, ids[node]),
        neighbors: vec![NeighborConfig {
            remote_as: if internal { RemoteAs::Internal } else { RemoteAs::External },
            mode,
            families,
            hold_time,
            graceful_restart,
            max_prefix: Some(1000),
            max_prefix_action: MaxPrefixAction::Reset,
            bfd,
            export: policy(node, None),
            ..NeighborConfig::external("peer", address(1 - node))
        }],
    };
    [config(0, modes.0, graceful[0]), config(1, modes.1, graceful[1])]
}

/// The export policy of a node with this MED.
pub fn policy(node: usize, med: Option<u32>) -> ExportPolicy {
    let v6 = format!("2001:db8::{}", node + 1).parse().ok();
    ExportPolicy {
        default: ExportAction {
            attributes: RouteAttributes { med, ..RouteAttributes::default() },
            next_hop: NextHopMode::Address { v4: None, v6 },
            ..ExportAction::default()
        },
        rules: Vec::new(),
    }
}

fn fault(rng: &mut Rng, no_hold_timer: bool, bfd: bool) -> Fault {
    let short = |rng: &mut Rng| rng.between(100 * MS, 8 * SECOND);
    let long = |rng: &mut Rng| rng.between(SECOND, 60 * SECOND);
    loop {
        let fault = match rng.below(18) {
            0 => Fault::LinkDown(short(rng)),
            1 => Fault::LinkDown(long(rng)),
            2 => Fault::WindowShut(long(rng)),
            3 | 4 => Fault::Frozen(short(rng)),
            5 => Fault::Killed(short(rng)),
            6 => Fault::PowerLoss(long(rng)),
            7 | 8 => Fault::Restart(short(rng)),
            9 => Fault::Shutdown(rng.pick(&[0, 2 * SECOND])),
            10 => Fault::Forgotten,
            11 => Fault::Reset,
            12 => Fault::OperatorReset,
            13 if bfd => Fault::BfdDown(long(rng)),
            14 => Fault::Unrelated,
            15 => Fault::Policy,
            16 if !no_hold_timer => Fault::HoldTime(rng.pick(&[3, 9, 30])),
            _ => Fault::Routes,
        };
        // Without a hold timer nothing ever notices a connection that died silently: that is what hold time 0 means.
        if !(no_hold_timer && matches!(fault, Fault::PowerLoss(_) | Fault::Forgotten)) {
            return fault;
        }
    }
}
