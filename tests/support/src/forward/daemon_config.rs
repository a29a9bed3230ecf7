//! What the daemons of a site are told: the files an operator would write.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Hook;
use super::entries::{SERVICE_PORT, address};
use crate::{Lab, LabError, Result};

/// The VIP: on the LAN, so that one node can own it by ARP.
pub(super) const DAEMON_VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// Its group, which the balancers own in turn.
pub(super) const GROUP: &str = "web";

/// An endpoint as the files have it.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    pub(super) node: u16,
    pub(super) draining: bool,
}

/// Key files, the same on all nodes.
pub(super) struct Keys {
    peer: PathBuf,
    forward: PathBuf,
}

impl Keys {
    pub(super) fn write(lab: &Lab) -> Result<Self> {
        let file = |name: &str, text: String| {
            let path = lab.directory().join(name);
            let written = std::fs::write(&path, text);
            let written = written.and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o600)));
            written.map(|()| path).map_err(LabError::io(name.to_owned()))
        };
        let key = "00112233445566778899aabbccddeeff";
        Ok(Self {
            peer: file("peer.key", format!("{key}{key}\n"))?,
            forward: file("forward.keys", format!("0:{key}\nflow:{key}{key}\n"))?,
        })
    }
}

/// The name of a node.
pub(super) fn name(id: u16) -> String {
    format!("n{id}")
}

/// The file of node `id` among `nodes`, of which `balancers` may own the VIP.
pub(super) fn file(id: u16, nodes: &[u16], balancers: &[u16], listed: &[Listed], hook: Hook, keys: &Keys) -> Value {
    let node = |id: &u16| json!({ "name": name(*id), "id": id, "addresses": [address(*id)] });
    // Long enough that two busy cores make no node look dead, short beside the pauses between events.
    let session = |other: &u16| json!({ "address": address(*other), "transmitInterval": "300ms", "receiveInterval": "300ms", "multiplier": 5 });
    let endpoint = |e: &Listed| {
        json!({
            "name": e.name, "address": e.address, "port": SERVICE_PORT, "node": name(e.node), "draining": e.draining,
        })
    };
    let mut file = json!({
        "node": name(id),
        "peers": { "keyFile": keys.peer },
        "bfd": { "peers": nodes.iter().filter(|other| **other != id).map(session).collect::<Vec<_>>() },
        "forwarding": {
            "keyFile": keys.forward,
            "hook": if hook == Hook::Xdp { "xdp" } else { "tc" },
            "nodes": nodes.iter().map(node).collect::<Vec<_>>(),
        },
        "services": [{
            "name": GROUP, "vip": DAEMON_VIP, "port": SERVICE_PORT, "protocol": "tcp", "drainTime": "1h",
            "check": { "tcp": { "port": SERVICE_PORT }, "interval": "1s", "timeout": "1s", "rise": 1, "fall": 3 },
            "endpoints": listed.iter().map(endpoint).collect::<Vec<_>>(),
        }],
    });
    if balancers.contains(&id) {
        let names: Vec<String> = balancers.iter().map(|id| name(*id)).collect();
        file["vips"] = json!([{
            "name": GROUP, "addresses": [DAEMON_VIP], "interface": "eth0", "vrid": 51, "nodes": names,
            "conflictProbe": false,
        }]);
    }
    file
}
