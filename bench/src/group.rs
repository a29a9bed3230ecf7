//! Nodes of one kind that hold one VIP on a LAN.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::keepalived::KeepalivedConfig;
use bascule_lab::{Bridge, Lab, Mac, Sniffer, Stamp, wait_for};
use serde_json::{Value, json};

use crate::node::{Config, Kind, Node};

/// Priority of the first node (the owner), and of the second: the same for either kind of daemon. 48 points apart and more; the
/// second's skew (106/256 of an interval) is the one of platform.md's figures.
const PRIORITIES: [u8; 2] = [200, 150];
/// Real-time priority both daemons ask for.
const RT_PRIORITY: u8 = 50;
/// Longest wait for a state that protocol arithmetic puts below four intervals.
const PATIENCE: Duration = Duration::from_secs(10);

/// A group of nodes of one kind.
pub struct Group {
    /// Which daemon.
    pub kind: Kind,
    /// The address they hold.
    pub vip: IpAddr,
    /// Their virtual router.
    pub vrid: u8,
    /// Time between adverts.
    pub interval: Duration,
    /// The nodes by rank: the first one owns the VIP when nothing is wrong.
    pub nodes: Vec<Node>,
}

/// How Bascule nodes are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settings {
    /// As a user would who writes only what must be written: priorities by rank, every default.
    Default,
    /// As its peer: equal numbers.
    Equal,
}

impl Group {
    /// Two nodes of `kind`, daemons not started. Kinds differ in their addresses and virtual router, so that a group of each can stand
    /// on one LAN.
    ///
    /// # Errors
    /// When the lab refuses.
    pub fn pair(lab: &Lab, lan: &Bridge, kind: Kind, interval: Duration, settings: Settings) -> Result<Self> {
        let names = ["1", "2"].map(|n| format!("{}{n}", &kind.name()[..1]));
        let (base, last, vrid) = match kind {
            Kind::Bascule => (0, 100, 51),
            Kind::Keepalived => (10, 101, 52),
        };
        let vip = IpAddr::V4(Ipv4Addr::new(10, 9, 0, last));
        let mut nodes = Vec::new();
        for ((n, name), priority) in (1..).zip(&names).zip(PRIORITIES) {
            let config = match kind {
                Kind::Bascule => {
                    let mut group = json!({ "name": "vip", "addresses": [vip], "vrid": vrid });
                    match settings {
                        Settings::Default => group["nodes"] = json!(names),
                        Settings::Equal => {
                            group["priority"] = json!(priority);
                            group["advertInterval"] = json!(format!("{}ms", interval.as_millis()));
                        }
                    }
                    Config::Bascule(node_config(lab, name, &[group])?)
                }
                Kind::Keepalived => Config::Keepalived(KeepalivedConfig {
                    interface: "eth0".to_owned(),
                    vrid,
                    priority,
                    advert_interval: interval,
                    vips: vec![vip],
                    rt_priority: Some(RT_PRIORITY),
                    preempt: false,
                }),
            };
            nodes.push(Node::new(lab, lan, name, base + n, "vip", config)?);
        }
        Ok(Self { kind, vip, vrid, interval, nodes })
    }

    /// Starts every node: the first one, when it is Active the others.
    ///
    /// # Errors
    /// When a role does not come.
    pub fn start(&mut self, lab: &Lab) -> Result<()> {
        for n in 0..self.nodes.len() {
            self.nodes[n].start(lab)?;
            self.wait_role(n, if n == 0 { "active" } else { "backup" })?;
        }
        Ok(())
    }

    /// Waits until node `n` has `role`.
    ///
    /// # Errors
    /// When it does not come; with the end of the daemon's output.
    pub fn wait_role(&mut self, n: usize, role: &str) -> Result<()> {
        let node = &mut self.nodes[n];
        let deadline = PATIENCE + self.interval * 5;
        let waited = wait_for(deadline, role, || (node.role().as_deref() == Some(role)).then_some(()));
        waited.with_context(|| {
            format!("{} is {:?}, not {role}; its output ends:\n{}", node.netns.name(), node.role(), node.tail())
        })
    }

    /// Waits until only node `n` has sent adverts for three intervals, and its role says so.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn wait_owner(&mut self, sniffer: &Sniffer, n: usize) -> Result<()> {
        let (mac, vrid, quiet) = (self.nodes[n].port.mac(), self.vrid, self.interval * 3 + Duration::from_millis(50));
        let alone = || {
            let adverts = sniffer.adverts(vrid, Stamp::now() - quiet);
            (adverts.len() >= 2 && adverts.iter().all(|f| f.src == mac)).then_some(())
        };
        wait_for(PATIENCE + self.interval * 10, "one owner", alone).with_context(|| {
            let seen: Vec<Mac> = sniffer.adverts(vrid, Stamp::now() - quiet).iter().map(|f| f.src).collect();
            let tails: Vec<_> =
                self.nodes.iter().map(|n| format!("--- {} {mac}:\n{}", n.netns.name(), n.tail())).collect();
            format!(
                "{}: adverts of the last {quiet:?} are from {seen:?}, not {mac}\n{}",
                self.kind.name(),
                tails.join("\n")
            )
        })?;
        for other in 0..self.nodes.len() {
            self.wait_role(other, if other == n { "active" } else { "backup" })?;
        }
        Ok(())
    }

    /// The scheduling class of each node's most privileged thread: (policy, priority).
    ///
    /// # Errors
    /// When a daemon does not run.
    pub fn scheduling(&mut self) -> Result<Vec<(u32, u32)>> {
        let best = |node: &mut Node| {
            let threads = node.process()?.scheduling();
            ensure!(!threads.is_empty(), "{} has no threads", node.netns.name());
            Ok(threads.iter().map(|t| (t.policy, t.priority)).max_by_key(|(_, p)| *p).unwrap_or_default())
        };
        self.nodes.iter_mut().map(best).collect()
    }
}

/// A Bascule node's configuration: the groups, a key shared by all nodes of the lab, a log that a program can read.
///
/// # Errors
/// When the key file cannot be written.
pub fn node_config(lab: &Lab, name: &str, groups: &[Value]) -> Result<Value> {
    let key = lab.directory().join("peer.key");
    if !key.exists() {
        std::fs::write(&key, "6b0f5a1c9d3e47728899aabbccddeeff00112233445566778899aabbccddeeff\n")?;
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    Ok(json!({ "node": name, "log": { "format": "json" }, "peers": { "keyFile": key }, "vips": groups }))
}
