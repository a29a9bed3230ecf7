//! Three daemons on two joined LANs, a client that asks all the time, and a sniffer on every port.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_lab::bascule::{Bascule, config, vip};
use bascule_lab::{
    Bridge, BridgeOptions, Lab, Mac, Netns, Port, ProbeOptions, Responder, Sniffer, Stamp, TcpProber, Trunk, UdpProber,
};
use serde_json::{Value, json};

/// The group's name and VRID.
pub const GROUP: &str = "api";
const VRID: u8 = 51;
/// Ranks of three nodes, 48 apart (the daemon's own ranks for a list of nodes).
const PRIORITIES: [u8; 3] = [254, 206, 158];
const PORT: u16 = 7000;
/// How often each prober asks: enough that no state of a few milliseconds goes unseen.
const ASK: ProbeOptions = ProbeOptions { interval: Duration::from_millis(5), grace: Duration::ZERO };
/// Roles must have settled by then: conflict probe 0.6 s, Active_Down_Interval, and a slow machine.
const SETTLE: Duration = Duration::from_secs(15);

/// One node.
pub struct Node {
    /// Its name, as `bascule move --to` takes it.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its port on the switch.
    pub port: Port,
    /// Its daemon.
    pub daemon: Bascule,
    file: Value,
    _responder: Responder,
}

impl Node {
    /// What it sends from.
    pub fn mac(&self) -> Mac {
        self.port.mac()
    }

    /// Its own count of claims by others.
    pub fn rivals(&self) -> f64 {
        self.daemon.metric("bascule_rival_claims_total").unwrap_or_default()
    }
}

/// Everything of one run; dropped, it is gone.
pub struct Trio {
    /// The owner-to-be on the near LAN, the two others on the far one.
    pub nodes: Vec<Node>,
    /// The cable between the LANs.
    pub trunk: Trunk,
    /// Watches both LANs.
    pub sniffer: Sniffer,
    /// One address of each family.
    pub vips: [IpAddr; 2],
    probers: Vec<UdpProber>,
    _connects: Vec<TcpProber>,
    _clients: Vec<Netns>,
    lab: Lab,
}

impl Trio {
    /// Starts three daemons with this interval and waits until the first owns and the others know.
    ///
    /// # Errors
    /// When a part of it cannot be made or the roles do not settle.
    pub fn start(interval: Duration, fence: &str) -> Result<Self> {
        let lab = Lab::new("dual")?;
        let near = lab.bridge("near", &BridgeOptions::default())?;
        let far = lab.bridge("far", &BridgeOptions::default())?;
        let trunk = near.join(&far)?;
        let vips: [IpAddr; 2] = [[10, 9, 0, 100].into(), "2001:db8::100".parse().context("an address")?];
        let sniffer = Sniffer::start(&[&near, &far], &vips)?;

        let key = lab.directory().join("peer.key");
        std::fs::write(&key, "5f".repeat(32) + "\n").context("the key file")?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).context("the key file")?;

        let mut nodes = Vec::new();
        for (index, priority) in PRIORITIES.into_iter().enumerate() {
            let name = format!("n{}", index + 1);
            let lan = if index == 0 { &near } else { &far };
            let (netns, port) = host(&lab, lan, &name, index + 1)?;
            let mut group = vip(GROUP, &vips, VRID, priority, interval);
            group["interface"] = json!("eth0");
            let mut file = config(&name, &[group]);
            file["fence"] = json!(fence);
            file["peers"] = json!({ "keyFile": key });
            nodes.push(start(&lab, name, netns, port, &file)?);
            if index == 0 {
                nodes[0].daemon.wait_role(SETTLE, GROUP, "active")?;
            }
        }
        for node in &mut nodes[1..] {
            node.daemon.wait_role(SETTLE, GROUP, "backup")?;
        }

        let (asker, _) = host(&lab, &near, "asker", 11)?;
        ask_all_the_time(&asker)?;
        let (caller, _) = host(&lab, &near, "caller", 12)?;
        let (mut probers, mut connects) = (Vec::new(), Vec::new());
        for vip in vips {
            probers.push(UdpProber::start(&asker, vip, PORT, ASK)?);
            connects.push(TcpProber::start(&caller, vip, PORT, ASK)?);
        }
        let begun = Stamp::now();
        for prober in &probers {
            prober.wait_answer(SETTLE, begun, Some(1)).context("the client is served by n1 before the fault")?;
        }
        let clients = vec![asker, caller];
        Ok(Self { nodes, trunk, sniffer, vips, probers, _connects: connects, _clients: clients, lab })
    }

    /// Starts the daemon of a node again, with the same file, after it has ended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        node.daemon = Bascule::start(&self.lab, &node.netns, &node.file)?;
        Ok(())
    }

    /// Makes a node sick: its file gets a gate that nobody answers, and a gate is closed until it is known to be open.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sicken(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let mut file = node.file.clone();
        file["gates"] = json!([{ "name": "nobody", "tcp": { "address": "127.0.0.1:9" } }]);
        file["vips"][0]["gates"] = json!(["nobody"]);
        Ok(node.daemon.rewrite(&file)?)
    }

    /// How late the probers themselves were: a run on a machine that stood still proves nothing.
    pub fn lateness(&self, from: Stamp, until: Stamp) -> Duration {
        let late = |prober: &UdpProber| prober.snapshot(from).lateness(from, until).worst();
        self.probers.iter().map(late).max().unwrap_or_default()
    }
}

fn start(lab: &Lab, name: String, netns: Netns, port: Port, file: &Value) -> Result<Node> {
    let number = name[1..].parse().context("nodes are n1, n2, n3")?;
    let responder = Responder::start(&netns, number, PORT)?;
    let daemon = Bascule::start(lab, &netns, file)?;
    Ok(Node { name, netns, port, daemon, file: file.clone(), _responder: responder })
}

fn host(lab: &Lab, lan: &Bridge, name: &str, number: usize) -> Result<(Netns, Port)> {
    let v4 = format!("10.9.0.{number}/24").parse().context("an address")?;
    let v6 = format!("2001:db8::{number:x}/64").parse().context("an address")?;
    Ok(lab.host(name, lan, &[v4, v6])?)
}

/// The kernel of this client forgets at once who has an address, and asks by broadcast and multicast: every node is asked many
/// times a second, so that an answer of a wrong one is seen.
fn ask_all_the_time(client: &Netns) -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        let key = |name: &str| format!("net/{family}/neigh/eth0/{name}");
        client.sysctl(&key("base_reachable_time_ms"), "20")?;
        client.sysctl(&key("delay_first_probe_time"), "0")?;
        client.sysctl(&key("retrans_time_ms"), "20")?;
        client.sysctl(&key("ucast_solicit"), "0")?;
        client.sysctl(&key("mcast_resolicit"), "3")?;
    }
    Ok(())
}
