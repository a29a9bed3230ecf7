//! A LAN with a client and some nodes that run the real daemon: what most functional tests begin with.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_lab::bascule::Bascule;
use bascule_lab::{Bridge, BridgeOptions, Lab, Netns, Port, ProbeOptions, Responder, UdpProber, wait_for};
use serde_json::{Value, json};

/// Port of the echo service behind every VIP of the tests.
pub const PORT: u16 = 7777;
/// The IPv4 VIP of [`Cluster::group`].
pub const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 100));
/// The IPv6 VIP of [`Cluster::group`].
pub const VIP6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 0x100));
/// How long a state may take that protocol arithmetic puts below two seconds, on a machine that does other things too.
pub const SOON: Duration = Duration::from_secs(15);

/// One node.
pub struct Host {
    /// Its namespace.
    pub netns: Netns,
    /// Its port on the LAN.
    pub port: Port,
    /// The echo service, numbered from 1.
    pub responder: Responder,
    /// The daemon, while it runs.
    pub daemon: Option<Bascule>,
}

/// The LAN.
pub struct Cluster {
    /// Nodes `n1`, `n2`, ...
    pub hosts: Vec<Host>,
    /// The client.
    pub client: Netns,
    /// The client's port.
    pub client_port: Port,
    /// The switch.
    pub lan: Bridge,
    /// The lab; last, so that it goes after all that stands in it.
    pub lab: Lab,
}

impl Cluster {
    /// `count` nodes without daemons, at 10.9.0.N and fd09::N, and a client at .200.
    ///
    /// # Errors
    /// When the lab cannot be built.
    pub fn new(name: &str, count: u8) -> Result<Self> {
        let lab = Lab::new(name)?;
        let lan = lab.bridge("lan", &BridgeOptions::default())?;
        let (client, client_port) = lab.host("client", &lan, &nets(200))?;
        let mut hosts = Vec::new();
        for n in 1..=count {
            let (netns, port) = lab.host(&format!("n{n}"), &lan, &nets(n))?;
            let responder = Responder::start(&netns, u32::from(n), PORT)?;
            hosts.push(Host { netns, port, responder, daemon: None });
        }
        Ok(Self { hosts, client, client_port, lan, lab })
    }

    /// The stanza of the group `web` with both families: node `n1` first, 100 ms.
    pub fn group(&self) -> Value {
        let nodes: Vec<String> = (1..=self.hosts.len()).map(|n| format!("n{n}")).collect();
        json!({ "name": "web", "addresses": [VIP, VIP6], "vrid": 51, "nodes": nodes, "conflictProbe": false })
    }

    /// Configuration of node `n` (from 1) with these groups and a peer key.
    ///
    /// # Errors
    /// When the key file cannot be written.
    pub fn config(&self, n: usize, groups: &[Value]) -> Result<Value> {
        let key = self.lab.directory().join("peer.key");
        if !key.exists() {
            std::fs::write(&key, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")?;
            std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        Ok(json!({ "node": format!("n{n}"), "peers": { "keyFile": key }, "vips": groups }))
    }

    /// Starts the daemon of node `n` (from 1).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, n: usize, config: &Value) -> Result<()> {
        let daemon = Bascule::start(&self.lab, &self.hosts[n - 1].netns, config)?;
        self.hosts[n - 1].daemon = Some(daemon);
        Ok(())
    }

    /// Starts every node with the group of [`Cluster::group`], `n1` first: nobody preempts, so the first to wait out its
    /// Active_Down_Interval owns. Returns when `n1` is Active and the others are Backup.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn start_all(&mut self) -> Result<()> {
        let group = self.group();
        for n in 1..=self.hosts.len() {
            let config = self.config(n, std::slice::from_ref(&group))?;
            self.start(n, &config)?;
            let role = if n == 1 { "active" } else { "backup" };
            self.daemon(n).wait_role(SOON, "web", role)?;
        }
        Ok(())
    }

    /// The daemon of node `n` (from 1).
    ///
    /// # Panics
    /// When it was not started: a fault of the test.
    pub fn daemon(&mut self, n: usize) -> &mut Bascule {
        self.hosts[n - 1].daemon.as_mut().expect("the daemon was started")
    }

    /// A prober of a VIP from the client.
    ///
    /// # Errors
    /// When its socket cannot be made.
    pub fn probe(&self, vip: IpAddr) -> Result<UdpProber> {
        let options = ProbeOptions { interval: Duration::from_millis(5), ..ProbeOptions::default() };
        Ok(UdpProber::start(&self.client, vip, PORT, options)?)
    }

    /// Waits for a metric of a node to satisfy `wanted`.
    ///
    /// # Errors
    /// When it does not in time; the last value is in the error.
    pub fn wait_metric(&mut self, n: usize, line: &str, wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let daemon = self.daemon(n);
        let mut last = None;
        let found = wait_for(SOON, line, || {
            last = daemon.metric(line);
            last.filter(|v| wanted(*v))
        });
        found.with_context(|| format!("{line} of n{n} is {last:?}"))
    }

    /// Waits until the owner n`n` has sent 20 adverts more (ten intervals of a group of both families): long enough for whatever an advert
    /// could cause elsewhere to have happened.
    ///
    /// # Errors
    /// When it does not send them.
    pub fn wait_adverts(&mut self, n: usize) -> Result<()> {
        const SENT: &str = "bascule_adverts_sent_total";
        let before = self.wait_metric(n, SENT, |_| true)?;
        self.wait_metric(n, SENT, |sent| sent >= before + 20.0).map(drop)
    }
}

fn nets(last: u8) -> [ipnet::IpNet; 2] {
    [
        ipnet::IpNet::new([10, 9, 0, last].into(), 24).expect("a prefix of 24 bits"),
        ipnet::IpNet::new([0xfd09, 0, 0, 0, 0, 0, 0, u16::from(last)].into(), 64).expect("a prefix of 64 bits"),
    ]
}
