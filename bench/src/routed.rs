//! An anycast VIP on a routed network: nodes that announce it over BGP to routers, a client behind the routers, and what
//! the client misses when a node goes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::{BfdState, BfdTimers, Config, Family, Kind, Neighbor, Routed, Router, host};
use bascule_lab::{Lab, Probe, ProbeOptions, Process, Responder, Stamp, UdpProber, sleep_until, wait_for};
use serde_json::{Value, json};

use crate::node::SERVICE;

/// AS of the nodes, one for all of them.
pub const NODE_AS: u32 = 65010;
/// AS of the routers.
const ROUTER_AS: u32 = 65001;
/// Longest wait for sessions, routes and answers: FRR's daemons start one after another, and its dials are seconds apart.
const PATIENCE: Duration = Duration::from_secs(60);
/// Flows are tried until one is hashed to the wanted node; with two nodes this many never all miss.
const FLOWS: usize = 64;
/// What happens after the VIP is served again still belongs to the run.
const TAIL: Duration = Duration::from_millis(300);

/// Who speaks BGP on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The one under test.
    Bascule,
    /// An incumbent; the VIP is put on the node's loopback by hand.
    Foreign(Kind),
}

impl Speaker {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bascule => "Bascule",
            Self::Foreign(kind) => kind.name(),
        }
    }
}

/// What runs on a node.
pub enum Daemon {
    /// The one under test.
    Bascule(Bascule),
    /// An incumbent.
    Foreign(Box<dyn Router>),
}

impl Daemon {
    /// All its processes.
    pub fn processes(&mut self) -> Vec<&mut Process> {
        match self {
            Self::Bascule(daemon) => vec![&mut daemon.process],
            Self::Foreign(router) => router.processes(),
        }
    }
}

/// What a client missed.
#[derive(Debug, Clone, Copy)]
pub struct Missed {
    /// Longest time without an answer, ms.
    pub gap_ms: f64,
    /// Probes that were never answered.
    pub lost: usize,
    /// How late the prober and the services were, at most.
    pub late: Duration,
}

/// The network with everything that runs on it.
pub struct Anycast {
    /// Who speaks on the nodes.
    pub speaker: Speaker,
    /// What runs on each node; None while it is stopped.
    pub daemons: Vec<Option<Daemon>>,
    /// The routers.
    pub routers: Vec<Box<dyn Router>>,
    /// The network.
    pub net: Routed,
    /// The VIP, of each family.
    pub vips: [IpAddr; 2],
    responders: Vec<Responder>,
    bfd: BfdTimers,
    lab: Lab,
}

impl Anycast {
    /// Builds the network and starts everything; every router then shares the VIP among all nodes.
    ///
    /// # Errors
    /// When the lab refuses or a session does not come up.
    pub fn start(name: &str, nodes: u8, routers: &[Kind], speaker: Speaker, bfd: BfdTimers) -> Result<Self> {
        let lab = Lab::new(name)?;
        let count = u8::try_from(routers.len()).context("fewer than 16 routers")?;
        let net = Routed::build(&lab, nodes, count)?;
        let vips: [IpAddr; 2] = ["10.9.0.100".parse()?, "fd09::100".parse()?];
        let mut anycast =
            Self { speaker, daemons: Vec::new(), routers: Vec::new(), net, vips, responders: Vec::new(), bfd, lab };
        for (number, kind) in routers.iter().enumerate() {
            let config = anycast.router_config(number)?;
            anycast.routers.push(kind.start(&anycast.lab, &anycast.net.routers[number], &config)?);
        }
        for number in 0..usize::from(nodes) {
            let id = u32::try_from(number)? + 1;
            anycast.responders.push(Responder::start(&anycast.net.nodes[number], id, SERVICE)?);
            if speaker != Speaker::Bascule {
                vips.iter().try_for_each(|vip| anycast.net.add_vip(number, *vip))?;
            }
            anycast.daemons.push(None);
            anycast.start_node(number)?;
        }
        anycast.settle()?;
        Ok(anycast)
    }

    /// Starts a node's daemon, again or for the first time.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_node(&mut self, node: usize) -> Result<()> {
        self.daemons[node] = None;
        let (lab, netns) = (&self.lab, &self.net.nodes[node]);
        self.daemons[node] = Some(match self.speaker {
            Speaker::Bascule => Daemon::Bascule(Bascule::start(lab, netns, &self.bascule_config(node)?)?),
            Speaker::Foreign(kind) => Daemon::Foreign(kind.start(lab, netns, &self.foreign_config(node)?)?),
        });
        Ok(())
    }

    /// A node's daemon.
    ///
    /// # Errors
    /// While it is stopped.
    pub fn daemon(&mut self, node: usize) -> Result<&mut Daemon> {
        self.daemons[node].as_mut().with_context(|| format!("nothing runs on node {}", node + 1))
    }

    fn router_config(&self, router: usize) -> Result<Config> {
        let id = Ipv4Addr::new(10, 0, 0, 100 + u8::try_from(router)?);
        let mut config = Config::new(ROUTER_AS, id);
        for node in 0..self.net.nodes.len() {
            let link = self.net.link(node, router);
            for family in [Family::Ipv4, Family::Ipv6] {
                let mut neighbor = Neighbor::new(link.router_address(family), link.node_address(family), NODE_AS);
                neighbor.bfd = Some(self.bfd);
                neighbor.graceful_shutdown = true;
                config = config.neighbor(neighbor);
            }
        }
        Ok(config)
    }

    fn foreign_config(&self, node: usize) -> Result<Config> {
        let mut config = Config::new(NODE_AS, Ipv4Addr::new(10, 0, 0, 1 + u8::try_from(node)?));
        for router in 0..self.routers.len() {
            let link = self.net.link(node, router);
            for family in [Family::Ipv4, Family::Ipv6] {
                let mut neighbor = Neighbor::new(link.node_address(family), link.router_address(family), ROUTER_AS);
                neighbor.bfd = Some(self.bfd);
                config = config.neighbor(neighbor);
            }
        }
        Ok(self.vips.iter().fold(config, |config, vip| config.network(host(*vip))))
    }

    /// The same as [`Anycast::foreign_config`] says, in Bascule's words.
    fn bascule_config(&self, node: usize) -> Result<Value> {
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let mut neighbors = Vec::new();
        for router in 0..self.routers.len() {
            let link = self.net.link(node, router);
            for family in [Family::Ipv4, Family::Ipv6] {
                neighbors.push(json!({
                    "name": format!("r{}-{}", router + 1, family.word()),
                    "address": link.router_address(family), "remoteAs": ROUTER_AS,
                    "holdTime": "9s", "connectRetry": "1s",
                    "bfd": {
                        "transmitInterval": ms(self.bfd.transmit), "receiveInterval": ms(self.bfd.receive),
                        "multiplier": self.bfd.multiplier,
                    },
                }));
            }
        }
        let id = Ipv4Addr::new(10, 0, 0, 1 + u8::try_from(node)?);
        Ok(json!({
            "node": self.net.nodes[node].name(),
            "bgp": { "asn": NODE_AS, "routerId": id, "drainTime": "1s", "neighbors": neighbors },
            "vips": [{ "name": "anycast", "addresses": self.vips, "announce": "bgp", "scope": "all" }],
        }))
    }

    /// Nodes among which a router's kernel shares the VIP of one family.
    fn shares(&self, router: usize, vip: IpAddr) -> usize {
        let version = if vip.is_ipv4() { "-4" } else { "-6" };
        let text = self.net.routers[router].tool("ip", &[version, "route", "show", &host(vip).to_string()]);
        text.map_or(0, |text| text.matches(" via ").count())
    }

    /// Waits until every router's kernel shares both VIPs among all nodes that run, and BFD is up with each of them: a session comes up
    /// before its BFD, and a cut in between costs the hold time.
    ///
    /// # Errors
    /// When it does not in time; the ends of the routers' logs are in the error.
    pub fn settle(&self) -> Result<()> {
        let running = self.daemons.iter().flatten().count();
        for (number, router) in self.routers.iter().enumerate() {
            for vip in self.vips {
                let what = format!("{} to share {vip} among {running} nodes", router.kind().name());
                let waited = wait_for(PATIENCE, &what, || (self.shares(number, vip) == running).then_some(()));
                waited.with_context(|| {
                    let log = router.log();
                    let lines: Vec<&str> = log.lines().collect();
                    lines[lines.len().saturating_sub(30)..].join("\n")
                })?;
            }
            for node in (0..self.daemons.len()).filter(|node| self.daemons[*node].is_some()) {
                for family in [Family::Ipv4, Family::Ipv6] {
                    let peer = self.net.link(node, number).node_address(family);
                    router.wait_bfd(peer, PATIENCE, &|session| session.state == BfdState::Up)?;
                }
            }
        }
        Ok(())
    }

    /// A prober whose flow is hashed to this node.
    ///
    /// # Errors
    /// When no flow lands there.
    pub fn flow_on(&self, node: usize, vip: IpAddr) -> Result<UdpProber> {
        let id = u32::try_from(node)? + 1;
        for _ in 0..FLOWS {
            let prober = UdpProber::start(&self.net.client, vip, SERVICE, ProbeOptions::default())?;
            if prober.wait_answer(PATIENCE, Stamp::now(), None)? == id {
                return Ok(prober);
            }
        }
        anyhow::bail!("of {FLOWS} flows none is served by node {id}")
    }

    /// Forgets how late the services were until now.
    pub fn forget_lateness(&self) {
        for responder in &self.responders {
            responder.take_lateness();
        }
    }

    /// What the prober's client missed since `from`.
    pub fn missed(&self, prober: UdpProber, from: Stamp) -> Missed {
        let end = Stamp::now();
        let probe: Probe = prober.finish();
        let window = from - Duration::from_millis(20);
        let services = self.responders.iter().map(Responder::take_lateness).max().unwrap_or_default();
        Missed {
            gap_ms: probe.longest_gap(from, end).ms(),
            lost: probe.lost(window, end).1,
            late: probe.lateness(window, end).worst().max(services),
        }
    }

    /// Cuts the links between a node and its routers while a client asks it, waits until another one answers the client,
    /// and mends them again.
    ///
    /// # Errors
    /// When nobody else answers, or the cut dropped nothing.
    pub fn cut(&self, node: usize, vip: IpAddr) -> Result<Missed> {
        self.settle()?;
        let prober = self.flow_on(node, vip)?;
        self.forget_lateness();
        let all: Vec<usize> = (0..self.routers.len()).collect();
        let cut = self.net.cut(node, &all)?;
        self.moved(&prober, node, cut.in_force)?;
        sleep_until(Stamp::now() + TAIL);
        let missed = self.missed(prober, cut.since);
        ensure!(cut.dropped()? > 0, "the cut dropped nothing");
        Ok(missed)
    }

    /// Stops a node's daemon by SIGSTOP while a client asks the node, waits until the routers have moved the client to another one, and
    /// lets it go on.
    ///
    /// # Errors
    /// When nobody else answers.
    pub fn freeze(&mut self, node: usize, vip: IpAddr) -> Result<Missed> {
        self.settle()?;
        let prober = self.flow_on(node, vip)?;
        self.forget_lateness();
        let at = Stamp::now();
        self.daemon(node)?.processes().iter().for_each(|process| {
            process.stop();
        });
        let moved = self.moved(&prober, node, at);
        sleep_until(Stamp::now() + TAIL);
        let missed = self.missed(prober, at);
        self.daemon(node)?.processes().iter().for_each(|process| process.cont());
        moved?;
        Ok(missed)
    }

    /// Asks a node's daemon to end while a client asks the node, waits until it has ended and another one answers the client, and starts
    /// it again.
    ///
    /// # Errors
    /// When nobody else answers, or the daemon does not end.
    pub fn drain(&mut self, node: usize, vip: IpAddr) -> Result<Missed> {
        self.settle()?;
        let prober = self.flow_on(node, vip)?;
        self.forget_lateness();
        let at = Stamp::now();
        for process in self.daemon(node)?.processes() {
            process.sigterm()?;
        }
        self.moved(&prober, node, at)?;
        for process in self.daemon(node)?.processes() {
            process.wait(PATIENCE)?;
        }
        sleep_until(Stamp::now() + TAIL);
        let missed = self.missed(prober, at);
        self.start_node(node)?;
        Ok(missed)
    }

    /// Waits until another node than this one answers.
    fn moved(&self, prober: &UdpProber, node: usize, since: Stamp) -> Result<()> {
        let gone = u32::try_from(node)? + 1;
        let waited = wait_for(PATIENCE, "another node to answer", || {
            prober.last_answer().filter(|(by, at)| *by != gone && *at > since).map(drop)
        });
        waited.with_context(|| match &self.daemons[node] {
            Some(Daemon::Bascule(daemon)) => daemon.process.tail(),
            Some(Daemon::Foreign(router)) => router.log(),
            None => String::new(),
        })
    }
}
