//! Nodes that run the real daemon with its data plane, and a client that spreads its flows over all of them.
//!
//! ```text
//!  client 10.9.0.200, a route to the VIP by every node -- LAN 10.9.0.0/24 -- nodes 10.9.0.1.., each with a UDP and a TCP server of its own
//! ```
//! Every node balances and is home of the endpoints beside it, so half of what arrives at one of two nodes goes on to the other one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::crew::{Crew, stands, write_secret};
use super::entries::{address, net};
use super::ground::Ground;
use super::links::{DeviceLink, links_in};
use super::rotation::tag_key;
use crate::audit::AuditServer;
use crate::bascule::Bascule;
use crate::command::ip;
use crate::{LabError, Netns, Responder, Result, leftovers};

/// The VIP of both services.
pub const FLEET_VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 7, 100);
/// Ports of the UDP service and of its endpoints, of the TCP service and of its.
pub(super) const UDP: (u16, u16) = (7000, 7100);
pub(super) const TCP: (u16, u16) = (7001, 7101);
/// Number of the UDP service in the encapsulation.
pub const FLEET_NUMBER: u16 = 7;
/// What steers flows: hexadecimal, as in the key file.
pub const FLEET_FLOW_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
/// A daemon is up by then: it loads programs of 200,000 verified instructions, in a debug build, on a busy machine.
const UP: Duration = Duration::from_secs(60);

/// Servers beside a node.
struct Servers {
    _tcp: AuditServer,
    _udp: Responder,
}

/// The whole.
pub struct Fleet {
    _servers: Vec<Servers>,
    /// Where the client stands.
    pub client: Netns,
    /// `forwarding.hook`.
    hook: &'static str,
    /// Nodes 1, 2, ..., all of them homes.
    pub crew: Crew,
}

impl Fleet {
    /// `count` nodes without daemons; their tag key is [`tag_key`] 0 under label 0.
    ///
    /// # Errors
    /// When the lab cannot be built.
    pub fn new(name: &str, count: u8, hook: &'static str) -> Result<Self> {
        let ground = Ground::new(name, hook != "tc")?;
        let (client, port) = ground.lab.host("client", &ground.lan, &[net(Ipv4Addr::new(10, 9, 0, 200), 24)])?;
        // Veth leaves checksums to a card that is not there.
        client.tool("ethtool", &["-K", "eth0", "tx", "off"])?;
        ground.lan.netns().tool("ethtool", &["-K", port.name(), "tx", "off"])?;
        let (mut crew, mut servers) = (Crew::new(ground), Vec::new());
        for n in 1..=count {
            let id = u16::from(n);
            crew.add(id, &[net(address(id), 24)])?;
            let netns = &crew.node(id).netns;
            netns.tool("ethtool", &["-K", "eth0", "tx", "off"])?;
            let udp = Responder::start(netns, u32::from(n), UDP.1)?;
            servers.push(Servers { _tcp: AuditServer::start(netns, u32::from(n), TCP.1)?, _udp: udp });
        }
        let by: Vec<String> = (1..=count).map(|n| format!("nexthop via {}", address(n.into()))).collect();
        client.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
        ip(&client, &format!("route add {FLEET_VIP}/32 {}", by.join(" ")))?;
        let fleet = Self { _servers: servers, client, hook, crew };
        for n in fleet.ids() {
            fleet.write_keys(n, &[(0, &tag_key(0))])?;
        }
        Ok(fleet)
    }

    /// Numbers of the nodes.
    pub fn ids(&self) -> impl Iterator<Item = u16> + use<> {
        1..=u16::try_from(self.crew.nodes.len()).expect("a small number of nodes")
    }

    fn keys(&self, n: u16) -> PathBuf {
        self.crew.ground.lab.directory().join(format!("n{n}.keys"))
    }

    /// Writes the key file of node `n` (from 1): labelled tag keys, the first of which signs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_keys(&self, n: u16, tags: &[(u8, &str)]) -> Result<()> {
        let mut text = String::new();
        for (label, key) in tags {
            writeln!(text, "{label}:{key}").expect("writing to a string does not fail");
        }
        writeln!(text, "flow:{FLEET_FLOW_KEY}").expect("writing to a string does not fail");
        write_secret(&self.keys(n), &text)
    }

    /// The configuration of node `n` (from 1).
    pub fn config(&self, n: u16, flows: u32) -> Value {
        let each = || self.ids();
        let node = |id: u16| json!({ "name": format!("n{id}"), "id": id, "addresses": [address(id)] });
        let nodes: Vec<Value> = each().map(node).collect();
        let endpoints = |port: u16| -> Vec<Value> {
            let one = |id: u16| json!({ "name": format!("e{id}"), "address": address(id), "port": port, "node": format!("n{id}") });
            each().map(one).collect()
        };
        json!({
            "node": format!("n{n}"),
            "forwarding": { "nodes": nodes, "keyFile": self.keys(n), "hook": self.hook, "flows": flows },
            "services": [
                { "name": "echo", "number": FLEET_NUMBER, "vip": FLEET_VIP, "port": UDP.0, "protocol": "udp", "endpoints": endpoints(UDP.1) },
                { "name": "audit", "vip": FLEET_VIP, "port": TCP.0, "endpoints": endpoints(TCP.1) },
            ],
        })
    }

    /// Starts the daemon of node `n` (from 1), and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, n: u16, flows: u32) -> Result<()> {
        let config = self.config(n, flows);
        self.crew.start(n, &config)
    }

    /// The daemon of node `n` (from 1).
    pub fn daemon(&mut self, n: u16) -> &mut Bascule {
        self.crew.daemon_mut(n)
    }

    /// Waits until node `n`'s programs stand on its device with tables, and it knows the way to every other node.
    ///
    /// # Errors
    /// When that does not come about; what it shows is in the error.
    pub fn wait_on(&self, n: u16) -> Result<Value> {
        self.crew.wait_page(n, UP, "the data plane", |page| {
            let services = page["balance"]["services"].as_array();
            let built = |s: &Vec<Value>| s.len() >= 2 && s.iter().all(|s| s["nodes"]["rows"].as_u64() > Some(0));
            stands(page) && services.is_some_and(built)
        })
    }

    /// Starts every daemon and waits for all.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_all(&mut self, flows: u32) -> Result<()> {
        for n in self.ids() {
            self.start(n, flows)?;
        }
        for n in self.ids() {
            self.wait_on(n)?;
        }
        Ok(())
    }

    /// Waits until node `n`'s programs sign with the key `signs` and verify with those labelled `verify`.
    ///
    /// # Errors
    /// When they do not in time; what they have is in the error.
    pub fn wait_keys(&self, n: u16, signs: u64, verify: &BTreeSet<u64>) -> Result<()> {
        let wanted = |page: &Value| {
            let keys = &page["keys"];
            let has = |all: &Vec<Value>| all.iter().filter_map(Value::as_u64).collect::<BTreeSet<_>>() == *verify;
            keys["signs"].as_u64() == Some(signs) && keys["verify"].as_array().is_some_and(has)
        };
        self.crew.wait_page(n, Duration::from_secs(15), "the keys", wanted).map(drop)
    }

    /// What node `n`'s programs dropped since their maps were made, by reason, in words.
    ///
    /// # Errors
    /// When its daemon does not answer.
    pub fn drops(&self, n: u16) -> Result<String> {
        let (_, body) = self.crew.daemon(n).get("/metrics")?;
        let dropped = |line: &&str| line.starts_with("bascule_forward_drops_total{") && !line.ends_with(" 0");
        Ok(body.lines().filter(dropped).collect::<Vec<_>>().join("; "))
    }

    /// The links of our programs on node `n`'s device.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn links(&self, n: u16) -> Result<Vec<DeviceLink>> {
        links_in(&self.crew.node(n).netns, "eth0")
    }

    /// Names in the folder of pins of node `n`'s data plane.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pins(&self, n: u16) -> Result<Vec<String>> {
        let dir = self.pin_dir(n)?;
        let shown = dir.display().to_string();
        let entries = std::fs::read_dir(&dir).map_err(LabError::io(shown))?;
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// The folder of pins of node `n`'s data plane.
    ///
    /// # Errors
    /// When the namespace cannot be looked at.
    pub fn pin_dir(&self, n: u16) -> Result<PathBuf> {
        let handle = format!("/run/netns/{}", self.crew.node(n).netns.full_name());
        let inode = std::fs::metadata(&handle).map_err(LabError::io(handle))?.ino();
        Ok(leftovers::pins(inode).join("forward-v1"))
    }
}
