//! Probers of this node: one for each other site.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::path::io::{Config, Evidence};
use bascule_core::wire::site::PairKeys;
use bascule_mesh::clock::Clock;
use bascule_mesh::path::{Command, PathConfig, PathStatus, Prober, flow_number, open};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::News;
use crate::config::{Site, Sites};

/// Ports of each node, so that a pair of nodes is seen over two of the network's links.
pub(super) const PORTS: u8 = 2;
/// Orders of a prober that wait: it takes them between two packets.
const ORDERS: usize = 16;
/// A prober that does not say how it is by then is asked again in the next slot.
const ANSWER: Duration = Duration::from_millis(200);

/// One flow: its number, and both ends.
pub(super) type Way = (u8, SocketAddr, SocketAddr);

/// Flows of this node to the gateways of a site, by number. Sites of different sizes have numbers without a node at the other end: the
/// smaller one's places beyond its last.
pub(super) fn ways(sites: &Sites, there: &Site) -> Vec<Way> {
    let own = &sites.own().gateways;
    let here = own.get(usize::from(sites.rank)).and_then(|node| node.addresses.first());
    let Some(here) = here else { return Vec::new() };
    let count = |nodes: usize| u8::try_from(nodes).unwrap_or(u8::MAX);
    let nodes = count(own.len().max(there.gateways.len()));
    let mut ways: Vec<Way> = (0u8..)
        .zip(&there.gateways)
        .filter_map(|(rank, node)| Some((rank, *node.addresses.first()?)))
        .flat_map(|(rank, address)| (0..PORTS).map(move |port| (rank, address, port)))
        .map(|(rank, address, port)| {
            let at = |address: IpAddr| SocketAddr::new(address, sites.path_port + u16::from(port));
            (flow_number(sites.rank, rank, port, nodes, PORTS), at(*here), at(address))
        })
        .collect();
    ways.sort_unstable();
    ways
}

/// Which flows go to which gateways of each site, for the machine that leaves out those that are silent (bit n: flow n).
pub(super) fn gateways(sites: &Sites) -> BTreeMap<SiteId, BTreeMap<u16, u32>> {
    let others = sites.all.iter().filter(|(site, there)| **site != sites.here && there.keys.is_some());
    let of = |there: &Site| {
        let ways = ways(sites, there);
        let flows = |address: Option<&IpAddr>| {
            let to = ways.iter().filter(|(.., to)| Some(&to.ip()) == address);
            to.fold(0, |all, (number, ..)| all | 1u32.checked_shl(u32::from(*number)).unwrap_or_default())
        };
        there.gateways.iter().map(|node| (node.id, flows(node.addresses.first()))).collect()
    };
    others.map(|(site, there)| (*site, of(there))).collect()
}

struct Running {
    ways: Vec<Way>,
    keys: PairKeys,
    commands: mpsc::Sender<Command>,
}

/// All of them.
pub(super) struct Paths {
    seed: u64,
    news: mpsc::Sender<News>,
    clock: Arc<dyn Clock>,
    all: BTreeMap<SiteId, Running>,
    /// The last answers.
    pub(super) status: BTreeMap<SiteId, PathStatus>,
    /// Why a site is not probed.
    pub(super) trouble: BTreeMap<SiteId, String>,
}

impl Paths {
    pub(super) fn new(seed: u64, news: mpsc::Sender<News>, clock: Arc<dyn Clock>) -> Self {
        let (all, status, trouble) = Default::default();
        Self { seed, news, clock, all, status, trouble }
    }

    /// Probes what shall be probed: other keys go to the prober that runs, other nodes need another one.
    pub(super) async fn fit(&mut self, sites: &Sites) {
        let gone = |site: &SiteId| !sites.all.contains_key(site) || *site == sites.here;
        self.all.retain(|site, _| !gone(site));
        self.status.retain(|site, _| !gone(site));
        self.trouble.retain(|site, _| !gone(site));
        for (id, site) in &sites.all {
            let Some(keys) = &site.keys else { continue };
            let ways = ways(sites, site);
            match self.all.get_mut(id) {
                Some(running) if running.ways == ways && !running.commands.is_closed() => {
                    if running.keys != *keys && running.commands.send(Command::Keys(keys.clone())).await.is_ok() {
                        running.keys = keys.clone();
                    }
                }
                _ => self.begin(*id, ways, keys),
            }
        }
    }

    fn begin(&mut self, site: SiteId, ways: Vec<Way>, keys: &PairKeys) {
        // Its sockets first: the next one takes their ports.
        self.all.remove(&site);
        let mut flows = Vec::new();
        for (number, here, there) in &ways {
            match open(*here, *there) {
                Ok(flow) => flows.push(bascule_mesh::path::Flow { number: Some(*number), ..flow }),
                Err(error) => {
                    self.trouble.insert(site, format!("no probes from {here} to {there}: {error}"));
                    return;
                }
            }
        }
        self.trouble.remove(&site);
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let mut machine = Config::new(keys.clone());
        // IP and UDP (RFC 791, RFC 8200, RFC 768).
        machine.overhead = if ways.first().is_some_and(|(_, here, _)| here.is_ipv6()) { 48 } else { 28 };
        let run = u32::try_from(self.seed >> 32).unwrap_or(1);
        let prober = Prober::new(PathConfig { machine, flows, run, seed: self.seed, clock: Arc::clone(&self.clock) });
        let (commands, orders) = mpsc::channel(ORDERS);
        let news = self.news.clone();
        // A full inbox loses the news, and the next look at the state finds what it was about.
        tokio::spawn(prober.run(orders, move |event| drop(news.try_send(News::Path(site, event)))));
        self.all.insert(site, Running { ways, keys: keys.clone(), commands });
    }

    /// What traffic says of a path. A prober that is busy does not hear it: it probes then.
    pub(super) fn tell(&self, site: SiteId, evidence: Evidence) {
        if let Some(running) = self.all.get(&site) {
            let _lost = running.commands.try_send(Command::Evidence(evidence));
        }
    }

    /// How a path is now.
    pub(super) async fn ask(&mut self, site: SiteId) -> Option<PathStatus> {
        let running = self.all.get(&site)?;
        let (ask, answer) = oneshot::channel();
        running.commands.send(Command::Status(ask)).await.ok()?;
        let status = timeout(ANSWER, answer).await.ok()?.ok()?;
        self.status.insert(site, status);
        Some(status)
    }

    /// How all of them are.
    pub(super) async fn ask_all(&mut self) -> Vec<(SiteId, PathStatus)> {
        let sites: Vec<SiteId> = self.all.keys().copied().collect();
        let mut all = Vec::new();
        for site in sites {
            all.extend(self.ask(site).await.map(|status| (site, status)));
        }
        all
    }
}
