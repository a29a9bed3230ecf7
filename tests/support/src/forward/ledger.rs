//! Who says what to whom on a site's LAN: every frame that a node sends, counted by what it is.
//!
//! Counted by the switch, at the ingress of each node's port, once for each frame (IP header and what follows). A frame belongs to the
//! first class that fits it; what fits none is [`OTHER`], so that nothing can go between nodes unseen.

use serde_json::Value;

use super::entries::LAN;
use crate::command::nft;
use crate::{Bridge, LabError, Netns, Port, Result};

/// Frames of no class.
pub const OTHER: &str = "other";
/// Packets of clients, as they came or as they go back.
pub const CLIENTS: &str = "clients";
/// Packets of clients from node to node.
pub const ENCAPSULATION: &str = "encapsulation";
/// The table on the switch.
const TABLE: &str = "ledger";

/// A class of frames: its name and an nft expression. Several entries may have one name.
pub(super) type Class = (&'static str, String);

/// What a class came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Its name.
    pub class: String,
    /// Frames.
    pub packets: u64,
    /// Bytes from the IP header on (of ARP: from the ARP header on).
    pub bytes: u64,
}

/// A running count; it ends with the switch.
#[derive(Debug)]
pub(super) struct Ledger {
    switch: Netns,
}

/// The classes every site has: clients on `client_net` ask for `vip`, nodes encapsulate to UDP port `tunnel`.
pub(super) fn classes(vip: std::net::Ipv4Addr, client_net: &str, tunnel: u16) -> Vec<Class> {
    vec![
        (ENCAPSULATION, format!("ip saddr {LAN} ip daddr {LAN} udp dport {tunnel}")),
        (CLIENTS, format!("ip saddr {vip}")),
        (CLIENTS, format!("ip daddr {vip}")),
        (CLIENTS, format!("ip daddr {client_net}")),
        ("neighbours", "ether type arp".to_owned()),
        ("neighbours", "meta protocol ip6 meta l4proto ipv6-icmp".to_owned()),
        ("neighbours", "ip protocol igmp".to_owned()),
    ]
}

impl Ledger {
    /// Counts what comes in by `ports`.
    pub(super) fn start(lan: &Bridge, ports: &[&Port], classes: &[Class]) -> Result<Self> {
        let devices: Vec<String> = ports.iter().map(|port| format!("\"{}\"", port.name())).collect();
        let mut script = format!("table netdev {TABLE} {{\n");
        let mut names: Vec<&str> = classes.iter().map(|(name, _)| *name).chain([OTHER]).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().for_each(|name| script += &format!(" counter {name} {{ }}\n"));
        script += &format!(
            " chain sent {{\n  type filter hook ingress devices = {{ {} }} priority -400;\n",
            devices.join(", ")
        );
        for (name, matched) in classes {
            script += &format!("  {matched} counter name {name} accept\n");
        }
        script += &format!("  counter name {OTHER}\n }}\n}}\n");
        nft(lan.netns(), &script)?;
        Ok(Self { switch: lan.netns().clone() })
    }

    /// All classes, by name.
    pub(super) fn read(&self) -> Result<Vec<Counted>> {
        let text = self.switch.tool("nft", &["-j", "list", "counters", "table", "netdev", TABLE])?;
        let json: Value = serde_json::from_str(&text).map_err(|e| LabError::answer("nft -j", e.to_string()))?;
        let items = json["nftables"].as_array().cloned().unwrap_or_default();
        let counted = |item: &Value| {
            let counter = item.get("counter")?;
            let class = counter["name"].as_str()?.to_owned();
            Some(Counted { class, packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? })
        };
        let mut all: Vec<Counted> = items.iter().filter_map(counted).collect();
        if all.is_empty() {
            return Err(LabError::answer("nft -j", format!("no counter in {text}")));
        }
        all.sort_by(|a, b| a.class.cmp(&b.class));
        Ok(all)
    }
}
