//! A large table through the real speaker: 10,000 virtual IPs to four neighbors, CPU and memory. Issue 3, "Shows" 3 (d).
//!
//! Only calls into the speaker are timed. The neighbors here decode what it writes and must hold exactly the table in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_bgp::config::{
    ExportAction, ExportPolicy, ExportRule, MaxPrefixAction, Mode, NeighborConfig, NextHopMode, RemoteAs,
    RouteAttributes, SpeakerConfig, Transport,
};
use bascule_bgp::io::{Action, Conn, Input, Route};
use bascule_bgp::speaker::Speaker;
use bascule_bgp::time::Instant;
use bascule_bgp::wire::header::MAX_LEN_EXTENDED;
use bascule_bgp::wire::{Capability, DecodeContext, Family, FamilySet, Framer, Message, Open, encode_keepalive};
use bascule_lab::Report;
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};

/// Wishes in one input, as the driver's loop gives them to the room.
const BATCH: usize = 256;
/// Own AS.
const ASN: u32 = 65001;
/// Virtual IPs with attributes of their own, by rules; the rest takes the default.
const NAMED: usize = 100;
/// Bounds of the issue, for 10,000 virtual IPs and four neighbors.
const FULL_TABLE_MS: f64 = 200.0;
const WITHDRAW_ALL_MS: f64 = 100.0;
/// Bound of bgp.md section 4.3, for 10,000 virtual IPs and eight neighbors.
const MEMORY_MB: f64 = 15.0;

/// Measures and adds the rows; `vips` is 10,000 for the bounds to mean something.
///
/// # Errors
/// A neighbor does not hold what was announced, or the kernel does not tell CPU time or memory.
pub fn measure(report: &mut Report, vips: usize, runs: usize) -> Result<()> {
    // First, while nothing that was freed hides what is taken.
    let memory = memory(vips, 8)?;
    let mut shown: HashMap<&str, Vec<f64>> = HashMap::new();
    for _ in 0..runs.max(1) {
        for (metric, spent) in one(vips, 4)? {
            shown.entry(metric).or_default().push(spent.as_secs_f64() * 1e3);
        }
    }
    let scene = format!("{vips} VIPs, 4 peers");
    let mut worst = |metric: &str, limit: Option<f64>| {
        let value = shown.get(metric).into_iter().flatten().copied().fold(0.0, f64::max);
        match limit {
            Some(limit) => report.at_most(&scene, metric, value, "ms CPU", limit, runs),
            None => report.note(&scene, metric, value, "ms CPU", runs),
        }
    };
    worst(FULL_TABLE, Some(FULL_TABLE_MS));
    worst(ANNOUNCE_ALL, Some(FULL_TABLE_MS));
    worst(ANNOUNCE_EACH, None);
    worst(REFRESH_ALL, None);
    worst(WITHDRAW_ALL, Some(WITHDRAW_ALL_MS));
    worst(WITHDRAW_EACH, None);
    worst(LONGEST, None);
    let scene = format!("{vips} VIPs, 8 peers");
    report.at_most(&scene, "memory of speaker and table", memory.grown, "MB", MEMORY_MB, 1);
    report.note(&scene, "RSS of the process", memory.resident, "MB", 1);
    Ok(())
}

const FULL_TABLE: &str = "sessions come up: full table";
const ANNOUNCE_ALL: &str = "announce-all";
const ANNOUNCE_EACH: &str = "announce-all one by one";
const REFRESH_ALL: &str = "route refresh from all";
const WITHDRAW_ALL: &str = "withdraw-all";
const WITHDRAW_EACH: &str = "withdraw-all one by one";
const LONGEST: &str = "longest single call";

/// Every phase once.
fn one(vips: usize, peers: usize) -> Result<Vec<(&'static str, Duration)>> {
    let table = routes(vips);
    let prefixes: Vec<IpNet> = table.iter().map(|route| route.prefix).collect();
    let mut world = World::new(peers, true);
    for some in table.chunks(BATCH) {
        world.feed(Input::Announce(some.to_vec()))?;
    }
    world.feed(Input::Synced)?;
    let mut phases = Vec::new();
    let mut phase = |world: &mut World, name, held: usize| {
        phases.push((name, core::mem::take(&mut world.spent)));
        world.check(held)
    };

    world.spent = Duration::ZERO;
    world.feed(Input::Config(Box::new(config(peers))))?;
    phase(&mut world, FULL_TABLE, vips)?;
    world.refresh()?;
    phase(&mut world, REFRESH_ALL, vips)?;
    for some in prefixes.chunks(BATCH) {
        world.feed(Input::Withdraw(some.to_vec(), world.now))?;
    }
    phase(&mut world, WITHDRAW_ALL, 0)?;
    for some in table.chunks(BATCH) {
        world.feed(Input::Announce(some.to_vec()))?;
    }
    phase(&mut world, ANNOUNCE_ALL, vips)?;
    for prefix in prefixes {
        world.feed(Input::Withdraw(vec![prefix], world.now))?;
    }
    phase(&mut world, WITHDRAW_EACH, 0)?;
    for route in table {
        world.feed(Input::Announce(vec![route]))?;
    }
    phase(&mut world, ANNOUNCE_EACH, vips)?;
    phases.push((LONGEST, world.longest));
    Ok(phases)
}

struct Memory {
    /// MB that the process grew by.
    grown: f64,
    /// MB it has.
    resident: f64,
}

fn memory(vips: usize, peers: usize) -> Result<Memory> {
    let before = resident()?;
    let mut world = World::new(peers, false);
    world.feed(Input::Announce(routes(vips)))?;
    world.feed(Input::Synced)?;
    world.feed(Input::Config(Box::new(config(peers))))?;
    for peer in world.peers.values() {
        ensure!(peer.announced == vips, "a neighbor was told {} of {vips} prefixes", peer.announced);
    }
    let after = resident()?;
    Ok(Memory { grown: after - before, resident: after })
}

/// MB of this process in memory.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is not a number of kB")?;
    Ok(kib / 1024.0)
}

/// Half of them IPv4, half IPv6.
fn routes(vips: usize) -> Vec<Route> {
    let route = |index: usize| {
        let number = u32::try_from(index / 2).expect("a few thousand");
        let prefix = if index.is_multiple_of(2) {
            IpNet::from(IpAddr::V4(Ipv4Addr::from_bits(0x0a09_0000 + number)))
        } else {
            IpNet::from(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_0009_u128 << 80) + u128::from(number))))
        };
        Route { prefix, vip: format!("vip-{index}"), draining: false, since: Instant::ZERO }
    };
    (0..vips).map(route).collect()
}

fn config(peers: usize) -> SpeakerConfig {
    SpeakerConfig { asn: ASN, router_id: Ipv4Addr::new(10, 0, 0, 11), neighbors: (0..peers).map(neighbor).collect() }
}

/// The first is internal, the others are external.
fn neighbor(index: usize) -> NeighborConfig {
    let number = u16::try_from(index).expect("a few neighbors");
    let action = |community, med| ExportAction {
        attributes: RouteAttributes {
            communities: vec![(ASN << 16) | community],
            large_communities: vec![[ASN, 1, community]],
            med,
            ..RouteAttributes::default()
        },
        next_hop: NextHopMode::Address { v4: Some(Ipv4Addr::new(10, 0, 0, 11)), v6: None },
        ..ExportAction::default()
    };
    let rule = |rest: usize, med| {
        let vips = (0..NAMED).filter(|vip| vip % 2 == rest).map(|vip| format!("vip-{vip}")).collect();
        ExportRule { vips, prefixes: Default::default(), action: action(7, Some(med)) }
    };
    NeighborConfig {
        name: format!("tor{index}"),
        address: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number)),
        port: 179,
        remote_as: if index == 0 { RemoteAs::Internal } else { RemoteAs::External },
        local_as: None,
        mode: Mode::Active,
        families: Family::ALL.into_iter().collect(),
        hold_time: 90,
        connect_retry: Duration::from_secs(5),
        send_hold: None,
        graceful_restart: Some(120),
        max_prefix: None,
        max_prefix_action: MaxPrefixAction::default(),
        bfd: false,
        export: ExportPolicy { default: action(1, None), rules: vec![rule(0, 10), rule(1, 20)] },
        transport: Transport::default(),
    }
}

/// A neighbor that takes everything at once and keeps what it is told.
struct Peer {
    internal: bool,
    framer: Framer,
    /// `None`: it only counts.
    holds: Option<BTreeSet<IpNet>>,
    announced: usize,
    refreshed: bool,
}

/// The speaker, its neighbors and the time spent in it.
struct World {
    speaker: Speaker,
    peers: BTreeMap<Conn, Peer>,
    keeping: bool,
    now: Instant,
    spent: Duration,
    longest: Duration,
    expected: usize,
}

impl World {
    fn new(expected: usize, keeping: bool) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let (spent, longest) = (Duration::ZERO, Duration::ZERO);
        Self { speaker: Speaker::new(1, now), peers: BTreeMap::new(), keeping, now, spent, longest, expected }
    }

    /// One input, and everything that follows from it.
    fn feed(&mut self, input: Input<'_>) -> Result<()> {
        self.call(|speaker, now| speaker.handle_input(input, now))?;
        self.follow()
    }

    fn refresh(&mut self) -> Result<()> {
        let mut request = Vec::new();
        for family in Family::ALL {
            bascule_bgp::wire::RouteRefresh::new(family, 0).encode(&mut request);
        }
        for conn in self.peers.keys().copied().collect::<Vec<_>>() {
            self.feed(Input::Received { conn, bytes: &request })?;
        }
        for peer in self.peers.values() {
            ensure!(peer.refreshed, "a refresh was not answered");
        }
        Ok(())
    }

    /// Every neighbor is there and holds so many prefixes, and the speaker believes the same.
    fn check(&self, held: usize) -> Result<()> {
        ensure!(self.peers.len() == self.expected, "{} of {} neighbors came up", self.peers.len(), self.expected);
        for peer in self.peers.values() {
            let holds = peer.holds.as_ref().map_or(0, BTreeSet::len);
            ensure!(holds == held, "a neighbor holds {holds} prefixes, not {held}");
        }
        for neighbor in self.speaker.status(self.now).neighbors {
            let told: usize = neighbor.prefixes_out.iter().map(|(_, count)| count).sum();
            ensure!(told == held && neighbor.queue_depth == 0, "the speaker believes {told}, not {held}");
        }
        Ok(())
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Speaker, Instant) -> T) -> Result<T> {
        let before = thread_time()?;
        let result = call(&mut self.speaker, self.now);
        let spent = thread_time()?.saturating_sub(before);
        self.spent += spent;
        self.longest = self.longest.max(spent);
        Ok(result)
    }

    fn follow(&mut self) -> Result<()> {
        while let Some(action) = self.call(|speaker, _| speaker.poll_action())? {
            match action {
                Action::Connect { conn, external, .. } => {
                    let holds = self.keeping.then(BTreeSet::new);
                    let peer =
                        Peer { internal: !external, framer: Framer::new(), holds, announced: 0, refreshed: false };
                    self.peers.insert(conn, peer);
                    let local = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11), 40_000));
                    let connected = Input::Connected { conn, local, on_link: false, link_local: None };
                    self.call(|speaker, now| speaker.handle_input(connected, now))?;
                }
                Action::Write { conn, bytes } => {
                    let reply = self.peers.get_mut(&conn).context("a write to nobody")?.hear(&bytes)?;
                    let written = Input::Written { conn, pending: 0, unacknowledged: None };
                    self.call(|speaker, now| speaker.handle_input(written, now))?;
                    if !reply.is_empty() {
                        let received = Input::Received { conn, bytes: &reply };
                        self.call(|speaker, now| speaker.handle_input(received, now))?;
                    }
                }
                Action::Close { conn } => anyhow::bail!("the speaker closed connection {}", conn.0),
                Action::Report(_)
                | Action::Listen { .. }
                | Action::Unlisten { .. }
                | Action::WatchAcknowledged { .. }
                | Action::Rekey { .. }
                | Action::Stopped => {}
            }
        }
        Ok(())
    }
}

impl Peer {
    /// Reads, and answers the OPEN.
    fn hear(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let families: FamilySet = Family::ALL.into_iter().collect();
        let context = DecodeContext { four_octet_as: true, families, ibgp: self.internal, ..DecodeContext::default() };
        let mut reply = Vec::new();
        self.framer.push(bytes);
        while let Some(frame) = self.framer.next(MAX_LEN_EXTENDED).map_err(|n| anyhow::anyhow!(n.describe()))? {
            match Message::decode(&frame, &context).map_err(|n| anyhow::anyhow!(n.describe()))? {
                Message::Open(_) => {
                    let asn = if self.internal { ASN } else { 65010 };
                    let mut capabilities: Vec<_> = Family::ALL.into_iter().map(Capability::multi_protocol).collect();
                    capabilities.extend([
                        Capability::RouteRefresh,
                        Capability::EnhancedRouteRefresh,
                        Capability::FourOctetAs(asn),
                    ]);
                    Open::new(asn, 90, Ipv4Addr::new(10, 0, 0, 1), capabilities).encode(&mut reply)?;
                    encode_keepalive(&mut reply);
                }
                Message::Update(update) => {
                    ensure!(update.errors.is_empty(), "an UPDATE with errors: {:?}", update.errors);
                    let reach = update.mp_reach.into_iter().flat_map(|reach| reach.prefixes);
                    let unreach = update.mp_unreach.into_iter().flat_map(|unreach| unreach.prefixes);
                    let withdrawn = update.withdrawn_v4.into_iter().map(IpNet::V4).chain(unreach);
                    let announced: Vec<_> = update.announced_v4.into_iter().map(IpNet::V4).chain(reach).collect();
                    self.announced += announced.len();
                    if let Some(holds) = &mut self.holds {
                        for prefix in withdrawn {
                            ensure!(holds.remove(&prefix), "{prefix} was withdrawn and never announced");
                        }
                        holds.extend(announced);
                    }
                }
                Message::RouteRefresh(_) => self.refreshed = true,
                Message::Keepalive => {}
                Message::Notification(notification) => anyhow::bail!(notification.describe()),
            }
        }
        Ok(reply)
    }
}

/// CPU time of this thread.
fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read this thread's CPU time")?.into())
}
