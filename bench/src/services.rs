//! Three nodes that own a VIP together and steer its packets to six pods, with the real daemon on each, and clients that keep score.
//!
//! ```text
//!  client 10.9.0.200 --- LAN 10.9.0.0/24 --- n1 10.9.0.1 -- pods 10.21.1.2, 10.21.2.2
//!                          VIP 10.9.0.100 \- n2 10.9.0.2 -- pods 10.22.1.2, 10.22.2.2
//!                                          \- n3 10.9.0.3 -- pods 10.23.1.2, 10.23.2.2
//! ```
//! One service carries audited TCP flows, one UDP streams, one connections that are opened anew all the time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_lab::audit::AuditServer;
use bascule_lab::bascule::Bascule;
use bascule_lab::forward::cable;
use bascule_lab::{Bridge, BridgeOptions, Lab, Netns, Port, Responder, Stamp, wait_for};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::group::node_config;

/// The VIP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// Port of the audited flows.
pub const FLOWS: u16 = 80;
/// Port of the UDP streams, and of the connections that are opened anew.
pub const PROBES: u16 = 7777;
/// Name of the VIP's group.
const GROUP: &str = "vip";
/// Nodes, and pods on each.
const NODES: u8 = 3;
const PODS: u8 = 2;
/// BFD between the nodes: a dead node is known after three of these.
const BFD: &str = "50ms";
/// From one check of an endpoint to the next, and what it may take. Two in a row must fail: 750 ms after its death at the latest no
/// endpoint of a node passes.
const CHECK: &str = "250ms";
/// Longest wait for a state. Three daemons load and verify their programs at once, which takes seconds on a machine without load.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pod.
pub struct Pod {
    /// Its number in audits and answers, from 1.
    pub number: u32,
    /// The end of the audited flows.
    pub server: AuditServer,
    name: String,
    address: Ipv4Addr,
    node: usize,
    draining: bool,
    _responder: Responder,
    _netns: Netns,
}

/// A node.
pub struct Member {
    /// Its namespace.
    pub netns: Netns,
    /// Its port on the LAN.
    pub port: Port,
    /// Its daemon, while it has one.
    pub daemon: Option<Bascule>,
}

/// The whole; dropped, it is gone.
pub struct Services {
    /// Nodes n1, n2, n3.
    pub nodes: Vec<Member>,
    /// Pods, two of each node after another.
    pub pods: Vec<Pod>,
    /// Where clients stand.
    pub client: Netns,
    hook: &'static str,
    _lan: Bridge,
    lab: Lab,
}

impl Services {
    /// Builds it and starts the daemons. Returns when n1 owns the VIP and every node has all six pods in its tables.
    ///
    /// # Errors
    /// When a part of it cannot be made, or a daemon does not come so far.
    pub fn start(name: &str, hook: &'static str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let lan = lab.bridge("lan", &BridgeOptions::default())?;
        let (client, _) = lab.host("client", &lan, &[net(Ipv4Addr::new(10, 9, 0, 200))?])?;
        whole_checksums(&client, "eth0")?;
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for n in 1..=NODES {
            let (netns, port) = lab.host(&format!("n{n}"), &lan, &[net(node_address(n))?])?;
            whole_checksums(&netns, "eth0")?;
            netns.forward()?;
            for other in (1..=NODES).filter(|other| *other != n) {
                netns.route(4, &format!("10.{}.0.0/16 via {}", 20 + other, node_address(other)))?;
            }
            for index in 1..=PODS {
                pods.push(pod(&lab, &netns, n, index)?);
            }
            nodes.push(Member { netns, port, daemon: None });
        }
        let mut services = Self { nodes, pods, client, hook, _lan: lan, lab };
        for n in 0..services.nodes.len() {
            services.start_daemon(n)?;
            services.wait_role(n, if n == 0 { "active" } else { "backup" })?;
        }
        for n in 0..services.nodes.len() {
            services.wait_ready(n, services.pods.len())?;
        }
        Ok(services)
    }

    /// Where audited flows connect to.
    pub fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(VIP, FLOWS)
    }

    /// Starts a node's daemon, as at boot or after the last one ended: its /run stays.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_daemon(&mut self, n: usize) -> Result<()> {
        self.nodes[n].daemon = None;
        let config = self.config(n)?;
        self.nodes[n].daemon = Some(Bascule::start_keeping_run(&self.lab, &self.nodes[n].netns, &config)?);
        Ok(())
    }

    /// A node's daemon.
    ///
    /// # Errors
    /// While it has none.
    pub fn daemon(&mut self, n: usize) -> Result<&mut Bascule> {
        self.nodes[n].daemon.as_mut().with_context(|| format!("no daemon runs on n{}", n + 1))
    }

    /// The one node that says it owns the VIP.
    pub fn owner(&self) -> Option<usize> {
        let active =
            |n: &usize| self.nodes[*n].daemon.as_ref().is_some_and(|d| d.role(GROUP).as_deref() == Some("active"));
        let found: Vec<usize> = (0..self.nodes.len()).filter(active).collect();
        if let [one] = found[..] { Some(one) } else { None }
    }

    /// Waits until one node owns the VIP, and it is not `old`.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn wait_owner(&self, old: Option<usize>) -> Result<usize> {
        let found = wait_for(PATIENCE, "an owner of the VIP", || self.owner().filter(|n| Some(*n) != old));
        found.with_context(|| self.tails())
    }

    /// Waits for a role of a node.
    ///
    /// # Errors
    /// When it does not take it.
    pub fn wait_role(&mut self, n: usize, role: &str) -> Result<()> {
        Ok(self.daemon(n)?.wait_role(PATIENCE, GROUP, role)?)
    }

    /// Waits until the tables of a node spread new flows over `serving` endpoints of each service, and it knows its way to the others.
    ///
    /// # Errors
    /// When that does not come about; the last that it showed is in the error.
    pub fn wait_tables(&mut self, n: usize, serving: usize) -> Result<()> {
        let mut last = Value::Null;
        let daemon = self.daemon(n)?;
        let done = wait_for(PATIENCE, "the tables", || {
            last = serde_json::from_str(&daemon.get("/services").ok()?.1).ok()?;
            let lost = last["conditions"].as_array()?.iter().any(|c| c.as_str().is_some_and(|c| c.contains("no way")));
            let services = last["balance"]["services"].as_array()?;
            let full = |service: &Value| {
                let endpoints = service["endpoints"].as_array().into_iter().flatten();
                endpoints.filter(|e| e["serving"] == true).count() == serving
            };
            (last["on"] == true && !lost && !services.is_empty() && services.iter().all(full)).then_some(())
        });
        done.with_context(|| format!("n{}: {last:#}\n{}", n + 1, self.tails()))
    }

    /// Waits until a node has its tables, and hears the other two by BFD.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn wait_ready(&mut self, n: usize, serving: usize) -> Result<()> {
        self.wait_tables(n, serving)?;
        let daemon = self.daemon(n)?;
        let up =
            |text: String| text.lines().filter(|l| l.starts_with("bascule_bfd_state{") && l.ends_with(" 3")).count();
        let heard = wait_for(PATIENCE, "the other nodes by BFD", || {
            (up(daemon.get("/metrics").ok()?.1) == usize::from(NODES) - 1).then_some(())
        });
        heard.with_context(|| self.tails())
    }

    /// Moves the VIP to another node, as an operator does.
    ///
    /// # Errors
    /// When nobody owns it or the daemon refuses.
    pub fn move_vip(&mut self, to: usize) -> Result<()> {
        let owner = self.owner().context("nobody owns the VIP")?;
        let name = self.nodes[to].netns.name().to_owned();
        self.daemon(owner)?.ctl(&["move", GROUP, "--to", &name])?;
        self.wait_role(to, "active")
    }

    /// Lets a pod take no new flows, by a new configuration of every node; returns when it is in all tables. Gives the pod's number.
    ///
    /// # Errors
    /// When a node does not take it over.
    pub fn drain(&mut self, pod: usize) -> Result<u32> {
        self.pods[pod].draining = true;
        for n in 0..self.nodes.len() {
            let config = self.config(n)?;
            self.daemon(n)?.rewrite(&config)?;
        }
        for n in 0..self.nodes.len() {
            self.wait_tables(n, self.pods.len() - 1)?;
        }
        Ok(self.pods[pod].number)
    }

    /// A node loses its power: no frame passes its port, and its daemon is gone. Gives the moment.
    ///
    /// # Errors
    /// When its port is gone.
    pub fn kill_node(&mut self, n: usize) -> Result<Stamp> {
        let at = Stamp::now();
        self.nodes[n].port.set_up(false)?;
        self.daemon(n)?.process.sigkill()?;
        self.nodes[n].daemon = None;
        Ok(at)
    }

    /// Numbers of the pods of a node.
    pub fn pods_of(&self, n: usize) -> Vec<u32> {
        self.pods.iter().filter(|pod| pod.node == n).map(|pod| pod.number).collect()
    }

    /// Ends of what the daemons wrote, for a report of what went wrong.
    fn tails(&self) -> String {
        let running = self.nodes.iter().filter_map(|node| node.daemon.as_ref());
        running.map(|daemon| format!("--- {}:\n{}\n", daemon.process.name(), daemon.process.tail())).collect()
    }

    fn config(&self, n: usize) -> Result<Value> {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.netns.name()).collect();
        let group = json!({ "name": GROUP, "addresses": [VIP], "vrid": 51, "nodes": ["n1", "n2", "n3"] });
        let mut config = node_config(&self.lab, names[n], &[group])?;
        let addresses: Vec<Ipv4Addr> = (1..=NODES).map(node_address).collect();
        let bfd = |address: &Ipv4Addr| json!({ "address": address, "transmitInterval": BFD, "receiveInterval": BFD });
        let peers: Vec<Value> = addresses.iter().filter(|a| **a != addresses[n]).map(bfd).collect();
        config["bfd"] = json!({ "peers": peers });
        let members: Vec<Value> = (1..=NODES)
            .map(|id| json!({ "name": format!("n{id}"), "id": id, "addresses": [node_address(id)] }))
            .collect();
        config["forwarding"] = json!({ "keyFile": forward_keys(&self.lab)?, "hook": self.hook, "nodes": members });
        let service = |name: &str, port: u16, protocol: &str| {
            let endpoints: Vec<Value> = self.pods.iter().map(|pod| endpoint(pod, port)).collect();
            json!({
                "name": name, "vip": VIP, "port": port, "protocol": protocol, "endpoints": endpoints,
                "check": {
                    "tcp": { "port": port }, "interval": CHECK, "timeout": CHECK, "rise": 1, "fall": 2,
                },
            })
        };
        config["services"] =
            json!(
                [service("flows", FLOWS, "tcp"), service("fresh", PROBES, "tcp"), service("streams", PROBES, "udp"),]
            );
        Ok(config)
    }
}

fn endpoint(pod: &Pod, port: u16) -> Value {
    json!({
        "name": pod.name, "address": pod.address, "port": port, "node": format!("n{}", pod.node + 1),
        "draining": pod.draining,
    })
}

fn node_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, n)
}

fn net(address: Ipv4Addr) -> Result<IpNet> {
    Ok(IpNet::new(address.into(), 24)?)
}

/// veth leaves checksums to a card that is not there, and a frame that goes on inside another has no card ahead.
fn whole_checksums(netns: &Netns, device: &str) -> Result<()> {
    netns.tool("ethtool", &["-K", device, "tx", "off"])?;
    Ok(())
}

fn pod(lab: &Lab, node: &Netns, n: u8, index: u8) -> Result<Pod> {
    let number = u32::from((n - 1) * PODS + index);
    let name = format!("pod{number}");
    let netns = lab.netns(&name)?;
    let (gateway, address) = (Ipv4Addr::new(10, 20 + n, index, 1), Ipv4Addr::new(10, 20 + n, index, 2));
    let device = format!("v{index}");
    cable(node, &device, gateway, &netns, address)?;
    whole_checksums(&netns, "eth0")?;
    let server = AuditServer::start(&netns, number, FLOWS)?;
    let responder = Responder::start(&netns, number, PROBES)?;
    let node = usize::from(n - 1);
    Ok(Pod { number, server, name, address, node, draining: false, _responder: responder, _netns: netns })
}

/// The keys of the data plane, the same for all nodes of the lab.
fn forward_keys(lab: &Lab) -> Result<String> {
    let path = lab.directory().join("forward.key");
    if !path.exists() {
        let (tag, flow) = ("3c1f".repeat(16), "a95e".repeat(16));
        std::fs::write(&path, format!("0:{tag}\nflow:{flow}\n"))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    Ok(path.display().to_string())
}
