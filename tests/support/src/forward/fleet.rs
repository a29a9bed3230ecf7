//! Nodes that run the real daemon with its data plane, and a client that spreads its flows over all of them.
//!
//! ```text
//!  client 10.9.0.200, a route to the VIP by every node -- LAN 10.9.0.0/24 -- nodes 10.9.0.1.., each with a UDP and a TCP server of its own
//! ```
//! Every node balances and is home of the endpoints beside it, so half of what arrives at one of two nodes goes on to the other one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::entries::net;
use super::links::{DeviceLink, links_in};
use super::rotation::tag_key;
use super::{BenchPrograms, Sinks};
use crate::audit::{AuditServer, Flows, Load};
use crate::bascule::Bascule;
use crate::command::ip;
use crate::{
    Bridge, BridgeOptions, Lab, LabError, Netns, Port, ProbeOptions, Responder, Result, Stamp, UdpProber, leftovers,
    queues, wait_for,
};

/// The VIP of both services.
pub const FLEET_VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 7, 100);
/// Ports of the UDP service and of its endpoints, of the TCP service and of its.
const UDP: (u16, u16) = (7000, 7100);
const TCP: (u16, u16) = (7001, 7101);
/// Number of the UDP service in the encapsulation.
pub const FLEET_NUMBER: u16 = 7;
/// What steers flows: hexadecimal, as in the key file.
pub const FLEET_FLOW_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
/// A daemon is up by then: it loads programs of 200,000 verified instructions, in a debug build, on a busy machine.
const UP: Duration = Duration::from_secs(60);

/// One node.
pub struct FleetHost {
    /// Its namespace.
    pub netns: Netns,
    /// Its port on the LAN.
    pub port: Port,
    /// The daemon, while it was started and not killed.
    pub daemon: Option<Bascule>,
    /// The TCP server beside it.
    pub audit: AuditServer,
    keys: PathBuf,
    _echo: Responder,
}

/// The whole.
pub struct Fleet {
    /// Nodes `n1`, `n2`, ..., all of them homes.
    pub hosts: Vec<FleetHost>,
    /// Where the client stands.
    pub client: Netns,
    /// `forwarding.hook`.
    hook: &'static str,
    /// On the switch's ports towards XDP: see `Site`.
    _passing: Option<BenchPrograms>,
    /// The switch.
    pub lan: Bridge,
    /// The lab; last, so that it goes after all that stands in it.
    pub lab: Lab,
}

/// Traffic that must not lose anything.
pub struct Traffic {
    probers: Vec<UdpProber>,
    flows: Flows,
    /// What runs through the lab's own queues, and what they had dropped as it began.
    netns: Vec<Netns>,
    dropped: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Toll {
    /// Datagrams sent, and those whose answer never came.
    pub datagrams: (usize, usize),
    /// When the lost ones were due.
    pub lost_at: Vec<Stamp>,
    /// The longest time in which one prober heard nothing, milliseconds.
    pub gap_ms: f64,
    /// TCP flows that ended, and why.
    pub broken: Vec<String>,
    /// Records that came back over them.
    pub echoed: u64,
    /// The longest stall of a TCP flow, milliseconds. A lost segment costs 200 ms at least (RFC 6298 with Linux' minimum).
    pub stall_ms: f64,
    /// How late the probers and the TCP client were themselves, milliseconds.
    pub late_ms: f64,
    /// Packets of anybody that full queues of the lab and of the machine dropped meanwhile.
    pub queue_drops: u64,
}

impl Toll {
    /// Whether datagrams were lost while queues of the lab overflowed: no verdict then, the run is to be repeated.
    pub fn void(&self) -> bool {
        self.datagrams.1 > 0 && self.queue_drops > 0
    }
}

impl Fleet {
    /// `count` nodes without daemons; their tag key is [`tag_key`] 0 under label 0.
    ///
    /// # Errors
    /// When the lab cannot be built.
    pub fn new(name: &str, count: u8, hook: &'static str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let lan = lab.bridge("lan", &BridgeOptions::default())?;
        let (client, port) = lab.host("client", &lan, &[net(Ipv4Addr::new(10, 9, 0, 200), 24)])?;
        let mut passing = if hook == "tc" { None } else { Some(BenchPrograms::load(1)?) };
        // Veth leaves checksums to a card that is not there, and XDP sends into a veth only where a program stands at its other end.
        client.tool("ethtool", &["-K", "eth0", "tx", "off"])?;
        lan.netns().tool("ethtool", &["-K", port.name(), "tx", "off"])?;
        let mut hosts = Vec::new();
        for n in 1..=count {
            let (netns, port) = lab.host(&format!("n{n}"), &lan, &[net(Ipv4Addr::new(10, 9, 0, n), 24)])?;
            netns.tool("ethtool", &["-K", "eth0", "tx", "off"])?;
            if let Some(passing) = &mut passing {
                lan.netns().tool("ethtool", &["-K", port.name(), "tx", "off"])?;
                passing.attach(lan.netns(), port.name(), Sinks::Pass)?;
            }
            let echo = Responder::start(&netns, u32::from(n), UDP.1)?;
            let audit = AuditServer::start(&netns, u32::from(n), TCP.1)?;
            let keys = lab.directory().join(format!("n{n}.keys"));
            hosts.push(FleetHost { netns, port, daemon: None, audit, keys, _echo: echo });
        }
        let by: Vec<String> = (1..=count).map(|n| format!("nexthop via 10.9.0.{n}")).collect();
        client.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
        ip(&client, &format!("route add {FLEET_VIP}/32 {}", by.join(" ")))?;
        let fleet = Self { hosts, client, hook, _passing: passing, lan, lab };
        for n in 1..=fleet.hosts.len() {
            fleet.write_keys(n, &[(0, &tag_key(0))])?;
        }
        Ok(fleet)
    }

    /// Writes the key file of node `n` (from 1): labelled tag keys, the first of which signs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_keys(&self, n: usize, tags: &[(u8, &str)]) -> Result<()> {
        let path = &self.hosts[n - 1].keys;
        let mut text = String::new();
        for (label, key) in tags {
            writeln!(text, "{label}:{key}").expect("writing to a string does not fail");
        }
        writeln!(text, "flow:{FLEET_FLOW_KEY}").expect("writing to a string does not fail");
        // As an operator should: whoever reads meanwhile reads one file or the other.
        let new = path.with_extension("new");
        let written = std::fs::write(&new, text)
            .and_then(|()| std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)))
            .and_then(|()| std::fs::rename(&new, path));
        written.map_err(LabError::io(path.display().to_string()))
    }

    /// The configuration of node `n` (from 1).
    pub fn config(&self, n: usize, flows: u32) -> Value {
        let each = 1..=self.hosts.len();
        let nodes: Vec<Value> = each
            .clone()
            .map(|n| json!({ "name": format!("n{n}"), "id": n, "addresses": [format!("10.9.0.{n}")] }))
            .collect();
        let endpoints = |port: u16| -> Vec<Value> {
            let one = |n: usize| json!({ "name": format!("e{n}"), "address": format!("10.9.0.{n}"), "port": port, "node": format!("n{n}") });
            each.clone().map(one).collect()
        };
        json!({
            "node": format!("n{n}"),
            "forwarding": { "nodes": nodes, "keyFile": self.hosts[n - 1].keys, "hook": self.hook, "flows": flows },
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
    pub fn start(&mut self, n: usize, flows: u32) -> Result<()> {
        let config = self.config(n, flows);
        self.start_with(n, &config)
    }

    /// Starts the daemon of node `n` (from 1) with a configuration of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(&mut self, n: usize, config: &Value) -> Result<()> {
        self.hosts[n - 1].daemon = Some(Bascule::start(&self.lab, &self.hosts[n - 1].netns, config)?);
        Ok(())
    }

    /// The daemon of node `n` (from 1).
    ///
    /// # Panics
    /// When it was not started: a fault of the test.
    pub fn daemon(&mut self, n: usize) -> &mut Bascule {
        self.hosts[n - 1].daemon.as_mut().expect("the daemon was started")
    }

    /// Waits until node `n`'s programs stand on its device with tables, and it knows the way to every other node.
    ///
    /// # Errors
    /// When that does not come about; what it shows is in the error.
    pub fn wait_on(&mut self, n: usize) -> Result<Value> {
        let daemon = self.daemon(n);
        let mut last = Value::Null;
        let on = wait_for(UP, "the data plane", || {
            let (status, body) = daemon.get("/services").ok()?;
            last = (status == 200).then(|| serde_json::from_str(&body).ok())??;
            let services = last["balance"]["services"].as_array()?;
            let built = services.len() >= 2 && services.iter().all(|s| s["nodes"]["rows"].as_u64() > Some(0));
            let said = last["conditions"].as_array()?;
            let lost = said.iter().any(|c| c.as_str().is_some_and(|c| c.contains("no way to")));
            (last["on"] == true && built && last["devices"][0]["device"] == "eth0" && !lost).then(|| last.clone())
        });
        on.map_err(|error| LabError::answer(format!("n{n}"), format!("{error}; {last:#}; {}", daemon.process.tail())))
    }

    /// Starts every daemon and waits for all.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_all(&mut self, flows: u32) -> Result<()> {
        for n in 1..=self.hosts.len() {
            self.start(n, flows)?;
        }
        for n in 1..=self.hosts.len() {
            self.wait_on(n)?;
        }
        Ok(())
    }

    /// Waits until node `n`'s programs sign with the key `signs` and verify with those labelled `verify`.
    ///
    /// # Errors
    /// When they do not in time; what they have is in the error.
    pub fn wait_keys(&mut self, n: usize, signs: u64, verify: &BTreeSet<u64>) -> Result<()> {
        let daemon = self.daemon(n);
        let mut last = Value::Null;
        let found = wait_for(Duration::from_secs(15), "the keys", || {
            last = serde_json::from_str::<Value>(&daemon.get("/services").ok()?.1).ok()?["keys"].clone();
            let has: BTreeSet<u64> = last["verify"].as_array()?.iter().filter_map(Value::as_u64).collect();
            (last["signs"].as_u64() == Some(signs) && has == *verify).then_some(())
        });
        found.map_err(|error| LabError::answer(format!("keys of n{n}"), format!("{error}; they are {last}")))
    }

    /// Waits for a metric of node `n` to satisfy `wanted`.
    ///
    /// # Errors
    /// When it does not in time; the last value is in the error.
    pub fn wait_metric(&mut self, n: usize, line: &str, wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let daemon = self.daemon(n);
        let mut last = None;
        let found = wait_for(Duration::from_secs(15), line, || {
            last = daemon.metric(line);
            last.filter(|value| wanted(*value))
        });
        found.map_err(|error| LabError::answer(format!("{line} of n{n}"), format!("{error}; it is {last:?}")))
    }

    /// What node `n`'s programs dropped since their maps were made, by reason, in words.
    ///
    /// # Errors
    /// When its daemon does not answer.
    pub fn drops(&mut self, n: usize) -> Result<String> {
        let (_, body) = self.daemon(n).get("/metrics")?;
        let dropped = |line: &&str| line.starts_with("bascule_forward_drops_total{") && !line.ends_with(" 0");
        Ok(body.lines().filter(dropped).collect::<Vec<_>>().join("; "))
    }

    /// The links of our programs on node `n`'s device.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn links(&self, n: usize) -> Result<Vec<DeviceLink>> {
        links_in(&self.hosts[n - 1].netns, "eth0")
    }

    /// Names in the folder of pins of node `n`'s data plane.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pins(&self, n: usize) -> Result<Vec<String>> {
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
    pub fn pin_dir(&self, n: usize) -> Result<PathBuf> {
        let handle = format!("/run/netns/{}", self.hosts[n - 1].netns.full_name());
        let inode = std::fs::metadata(&handle).map_err(LabError::io(handle))?.ino();
        Ok(leftovers::pins(inode).join("forward-v1"))
    }

    /// Starts `probers` UDP probers, a datagram each 5 ms, and `flows` TCP flows, a record each 100 ms, and one more at full speed. All of them are answered before
    /// this returns.
    ///
    /// # Errors
    /// When a flow does not open.
    pub fn traffic(&self, probers: usize, flows: usize) -> Result<Traffic> {
        let options = ProbeOptions { interval: Duration::from_millis(5), grace: Duration::from_secs(1) };
        let hosts = self.hosts.iter().map(|host| host.netns.clone());
        let netns: Vec<Netns> = hosts.chain([self.client.clone(), self.lan.netns().clone()]).collect();
        let dropped = queues::dropped(&netns)?;
        let probers: Vec<UdpProber> = (0..probers)
            .map(|_| UdpProber::start(&self.client, IpAddr::V4(FLEET_VIP), UDP.0, options))
            .collect::<Result<_>>()?;
        for prober in &probers {
            prober.wait_answer(Duration::from_secs(10), Stamp(0), None)?;
        }
        let load = self.load(flows);
        let running = Flows::start(&self.client, load)?;
        let open = running.wait_open(Duration::from_secs(30))?;
        if open != load.paced + load.full_speed {
            return Err(LabError::answer("flows of the audit", format!("{open} of {flows} opened")));
        }
        Ok(Traffic { probers, flows: running, netns, dropped })
    }

    fn load(&self, paced: usize) -> Load {
        let target = SocketAddrV4::new(FLEET_VIP, TCP.0);
        Load { target, paced, every: Duration::from_millis(100), full_speed: 1, window: 1 }
    }

    /// Opens `count` new TCP connections and closes them; gives how many had an answer.
    ///
    /// # Errors
    /// When the event queue cannot be made.
    pub fn fresh(&self, count: usize) -> Result<usize> {
        let load = Load { full_speed: 0, ..self.load(count) };
        let flows = Flows::start(&self.client, load)?;
        match flows.wait_open(Duration::from_secs(10)) {
            Ok(open) => Ok(open),
            Err(_) => Ok(flows.alive()),
        }
    }
}

/// Runs again what was void, twice at most; then the last toll counts as it is. What else a run gives comes back beside its toll.
///
/// # Errors
/// Those of `run`.
pub fn unless_void<T, E>(
    mut run: impl FnMut() -> std::result::Result<(T, Toll), E>,
) -> std::result::Result<(T, Toll), E> {
    for _ in 0..2 {
        let (found, toll) = run()?;
        if !toll.void() {
            return Ok((found, toll));
        }
        println!("void, again: {toll:?}");
    }
    run()
}

impl Traffic {
    /// Ends it and counts.
    ///
    /// # Errors
    /// When the counters of the machine's queues cannot be read.
    pub fn finish(self) -> Result<Toll> {
        let mut toll = Toll {
            datagrams: (0, 0),
            lost_at: Vec::new(),
            gap_ms: 0.0,
            broken: Vec::new(),
            echoed: 0,
            stall_ms: 0.0,
            late_ms: 0.0,
            queue_drops: 0,
        };
        let audit = self.flows.finish();
        let ends = (Stamp(0), Stamp(u64::MAX));
        for prober in self.probers {
            let probe = prober.finish();
            let (sent, lost) = probe.lost(ends.0, ends.1);
            toll.datagrams = (toll.datagrams.0 + sent, toll.datagrams.1 + lost);
            toll.lost_at
                .extend(probe.records.iter().filter(|record| record.answered.is_none()).map(|record| record.due));
            let heard = || probe.records.iter().filter_map(|record| Some(record.answered?.0));
            if let (Some(first), Some(last)) = (heard().min(), heard().max()) {
                toll.gap_ms = toll.gap_ms.max(probe.longest_gap(first, last).ms());
            }
            toll.late_ms = toll.late_ms.max(probe.lateness(ends.0, ends.1).worst().as_secs_f64() * 1e3);
        }
        toll.broken = audit.broken(&[]).iter().map(|(index, flow)| format!("{index}: {:?}", flow.end)).collect();
        toll.echoed = audit.echoed();
        toll.stall_ms = audit.longest_stall(&[]).as_secs_f64() * 1e3;
        toll.late_ms = toll.late_ms.max(audit.late.as_secs_f64() * 1e3);
        toll.queue_drops = queues::dropped(&self.netns)? - self.dropped;
        Ok(toll)
    }
}
