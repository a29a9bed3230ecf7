//! A client, one balancing node, four backends behind it; made anew for every run, so that no run meets the conntrack entries,
//! TIME_WAIT sockets or neighbours of another.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use anyhow::{Context, Result};
use bascule_ebpf_common::forward::{
    Config, DEFAULT_TUNNEL_PORT, ENDPOINT_READY, Endpoint, Key, NODE_RESOLVED, NODE_SELF, Node, ReverseEntry,
    ReverseKey, Row, Service, Table,
};
use bascule_lab::audit::AuditServer;
use bascule_lab::forward::{Hook, NodePrograms, cable, homes, nsid, v4};
use bascule_lab::{Lab, Netns, Process};

use super::load::Discard;
use super::place::Place;

/// The VIP, its echo port (TCP and UDP) and its bulk port.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// See [`VIP`].
pub const ECHO: u16 = 80;
/// See [`VIP`].
pub const BULK: u16 = 81;
/// Backends, as in the configurations under bench/configs.
pub(super) const BACKENDS: u8 = 4;
const ROWS: u16 = 1021;
const SELF: u16 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Who balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancer {
    /// Nobody: the client speaks to the first backend through the node.
    Routed,
    /// nftables DNAT.
    Nftables,
    /// haproxy, TCP mode.
    Haproxy,
    /// Ours, endpoints behind this node.
    Local(Hook),
    /// Ours, every backend a node of its own: encapsulated and sent on by XDP.
    SentOn,
}

impl Balancer {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed, no balancer",
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::Local(Hook::Xdp) => "bascule XDP, delivering",
            Self::Local(Hook::Tc) => "bascule tc",
            Self::SentOn => "bascule XDP, sending on",
        }
    }
}

/// The ground of one run. Fields in the order in which they go.
pub struct Arena {
    /// Bulk servers.
    pub sinks: Vec<Discard>,
    /// Echo servers.
    pub servers: Vec<AuditServer>,
    /// haproxy.
    _process: Option<Process>,
    /// Ours.
    pub node: Option<NodePrograms>,
    /// Backends' namespaces.
    pub backends: Vec<Netns>,
    /// The client's.
    pub client: Netns,
    /// The balancing node's.
    pub balancer: Netns,
    kind: Balancer,
    _lab: Lab,
}

impl Arena {
    /// Builds it, with `kind` balancing.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn new(kind: Balancer) -> Result<Self> {
        let lab = Lab::new("versus")?;
        // Threads inherit it.
        let servers = Place::Servers.take()?;
        let balancer = lab.netns("lb")?;
        balancer.forward()?;
        let client = lab.netns("client")?;
        cable(&balancer, "c0", Ipv4Addr::new(10, 8, 0, 1), &client, Ipv4Addr::new(10, 8, 0, 2))?;
        let mut arena = Self {
            sinks: Vec::new(),
            servers: Vec::new(),
            _process: None,
            node: None,
            backends: Vec::new(),
            client,
            balancer,
            kind,
            _lab: lab,
        };
        for index in 1..=BACKENDS {
            let netns = arena._lab.netns(&format!("b{index}"))?;
            let (near, far) = (Ipv4Addr::new(10, 30, index, 1), backend(index));
            cable(&arena.balancer, &format!("b{index}"), near, &netns, far)?;
            // A warm neighbour: the first packet of a run is like the others.
            arena.balancer.tool("ping", &["-c", "1", "-W", "2", &far.to_string()])?;
            arena.servers.push(AuditServer::start(&netns, u32::from(index), ECHO)?);
            arena.sinks.push(Discard::start(&netns, far, BULK)?);
            arena.backends.push(netns);
        }
        drop(servers);
        arena.client.tool("ping", &["-c", "1", "-W", "2", "10.8.0.1"])?;
        for netns in arena.backends.iter().chain([&arena.client, &arena.balancer]) {
            netns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
            // Or sockets that wait decide the rate (platform.md).
            netns.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
        }
        arena.balance()?;
        Ok(arena)
    }

    /// Where the client connects to for `port`.
    pub fn target(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(if self.kind == Balancer::Routed { backend(1) } else { VIP }, port)
    }

    fn balance(&mut self) -> Result<()> {
        match self.kind {
            Balancer::Routed => Ok(()),
            Balancer::Nftables => {
                self.balancer.tool("nft", &["-f", &configuration("nftables.nft")?])?;
                // Or connections that wait fill its table (platform.md).
                Ok(self.balancer.sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")?)
            }
            Balancer::Haproxy => {
                self.balancer.tool("ip", &["addr", "add", &format!("{VIP}/32"), "dev", "lo"])?;
                let args = ["-db", "-f", &configuration("haproxy.cfg")?].map(str::to_owned);
                let process = self._lab.process("haproxy", &self.balancer, "haproxy").args(args).spawn()?;
                self._process = Some(process);
                let (client, to) = (&self.client, self.target(ECHO));
                bascule_lab::wait_for(std::time::Duration::from_secs(5), "haproxy to listen", || {
                    client.run(|| std::net::TcpStream::connect(to)).ok()
                })?;
                Ok(())
            }
            Balancer::Local(hook) => {
                let mut node = NodePrograms::load(&self.balancer, None)?;
                self.deliver(&mut node)?;
                node.attach("c0", hook)?;
                if hook == Hook::Xdp {
                    self.client.tool("ethtool", &["-K", "eth0", "tx", "off", "gro", "on"])?;
                }
                self.node = Some(node);
                Ok(())
            }
            Balancer::SentOn => {
                let mut node = NodePrograms::load(&self.balancer, None)?;
                self.send_on(&mut node)?;
                node.attach("c0", Hook::Xdp)?;
                self.node = Some(node);
                Ok(())
            }
        }
    }

    /// Every row names this node, and its endpoints are the backends.
    fn deliver(&self, node: &mut NodePrograms) -> Result<()> {
        configure(node)?;
        node.rows(0, &vec![Row { home: SELF, ..Row::default() }; usize::from(ROWS)]);
        for (slot, port, protocol) in [(1u16, ECHO, TCP), (2, BULK, TCP), (3, ECHO, UDP)] {
            let base = 2048 * u32::from(slot);
            let mut members = Vec::new();
            for index in 1..=BACKENDS {
                let endpoint_slot = u16::from(BACKENDS) * (slot - 1) + u16::from(index);
                members.push((endpoint_slot, 1));
                let netns = if protocol == TCP { nsid(&self.balancer, &format!("b{index}"))? } else { -2 };
                let (address, port) = (v4(backend(index)), port.to_be());
                let endpoint = Endpoint {
                    address,
                    port,
                    protocol,
                    flags: ENDPOINT_READY,
                    netns,
                    service: slot,
                    ..Endpoint::default()
                };
                node.endpoint(endpoint_slot, &endpoint)?;
                let entry = ReverseEntry { vip: v4(VIP), port, service: slot, pad: 0 };
                node.reverse(&ReverseKey { address, port, protocol, pad: [0; 5] }, &entry)?;
            }
            let rows: Vec<Row> = homes(ROWS, &members).into_iter().map(|home| Row { home, ..Row::default() }).collect();
            node.rows(base, &rows);
            node.service(u32::from(slot), &service(slot, port, protocol, table(0), table(base)))?;
        }
        Ok(())
    }

    /// Every row names one of the backends as a node.
    fn send_on(&self, node: &mut NodePrograms) -> Result<()> {
        configure(node)?;
        let mut members = Vec::new();
        for index in 1..=BACKENDS {
            let (id, device) = (SELF + u16::from(index), format!("b{index}"));
            let netns = &self.backends[usize::from(index) - 1];
            // What XDP sends into a veth needs NAPI at its other end.
            netns.tool("ethtool", &["-K", "eth0", "gro", "on"])?;
            let ifindex = self.balancer.ifindex(&device)?;
            let (source_mac, next_mac) = (self.balancer.mac(&device)?.0, netns.mac("eth0")?.0);
            let (address, flags) = (v4(backend(index)), NODE_RESOLVED);
            node.node(id, &Node { address, flags, ifindex, source_mac, next_mac, mtu: 1500, ..Node::default() })?;
            node.device(ifindex)?;
            members.push((id, 1));
        }
        let rows: Vec<Row> = homes(ROWS, &members).into_iter().map(|home| Row { home, ..Row::default() }).collect();
        node.rows(0, &rows);
        Ok(node.service(1, &service(1, ECHO, UDP, table(0), 0))?)
    }
}

/// Address of a backend.
pub(super) fn backend(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 30, index, 2)
}

fn table(base: u32) -> u64 {
    Table { base, rows: ROWS, epoch: 1 }.word()
}

fn service(number: u16, port: u16, protocol: u8, nodes: u64, endpoints: u64) -> Service {
    let (port, vip) = (port.to_be(), v4(VIP));
    Service { nodes, endpoints, number, port, protocol, drain_minutes: 60, vip, ..Service::default() }
}

fn configure(node: &mut NodePrograms) -> Result<()> {
    node.key(0, &Key { key: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908], valid: 1 })?;
    let own = v4(Ipv4Addr::new(10, 8, 0, 1));
    node.node(
        SELF,
        &Node { address: own, flags: NODE_RESOLVED | NODE_SELF, ifindex: 1, mtu: 1500, ..Node::default() },
    )?;
    let config = Config {
        flow_key: [0x1716_1514_1312_1110, 0x1f1e_1d1c_1b1a_1918],
        address4: own,
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

/// A file of bench/configs.
fn configuration(name: &str) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
    path.to_str().map(str::to_owned).context("a path that is no UTF-8")
}
