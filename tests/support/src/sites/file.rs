//! The files of the nodes of [`super::SiteLab`].

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};

/// The VIP of all services, which both sites serve.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 7, 100);
/// Names of the sites.
pub(super) const NAMES: [&str; 2] = ["dc-a", "dc-b"];

/// A service of both sites, half of its new connections to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Its name.
    pub name: &'static str,
    /// Its port on the VIP.
    pub port: u16,
    /// Its number in both sites.
    number: u32,
}

impl Shared {
    /// Where its endpoints listen.
    pub(super) fn shelf(self) -> u16 {
        self.port + 100
    }
}

/// Connections that are opened anew all the time.
pub const SHOP: Shared = Shared { name: "shop", port: 7001, number: 1 };
/// Flows that live, every byte audited.
pub const FLOWS: Shared = Shared { name: "flows", port: 7002, number: 2 };
/// Like [`SHOP`]; the one that a site drains.
pub const DESK: Shared = Shared { name: "desk", port: 7003, number: 3 };

/// A node's place: its site, and its rank in it, both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) site: u8,
    pub(super) rank: u8,
}

impl Seat {
    /// Ids of nodes are one space over all sites.
    pub(super) fn id(self) -> u16 {
        u16::from(self.site) * 10 + u16::from(self.rank) + 1
    }

    pub(super) fn name(self) -> String {
        format!("{}{}", ["a", "b"][usize::from(self.site)], self.rank + 1)
    }

    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 31 + self.site, 0, self.rank + 1)
    }

    /// The router's leg in its LAN.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 31 + self.site, 0, 254)
    }

    /// Where its certificate is.
    pub(super) fn pki(self, dir: &Path) -> String {
        dir.join(format!("pki-{}", self.name())).display().to_string()
    }
}

/// All nodes of a site.
fn seats(site: u8, count: u8) -> impl Iterator<Item = Seat> {
    (0..count).map(move |rank| Seat { site, rank })
}

/// The file of a node of two sites of `count` nodes each. The first of each is the relay; `draining`: its site takes nothing new of [`DESK`]
/// and [`FLOWS`].
pub(super) fn config(dir: &Path, seat: Seat, count: u8, draining: bool) -> Value {
    let gateway = |node: Seat| json!({ "name": node.name(), "id": node.id(), "address": node.address() });
    let mut sites = json!({});
    for (number, name) in (0u8..).zip(NAMES) {
        let relay = Seat { site: number, rank: 0 };
        sites[name] = json!({
            "id": number + 1, "prefixes": ["10.9.7.0/24"],
            "relays": [{ "name": relay.name(), "address": format!("{}:7845", relay.address()) }],
            "gateways": seats(number, count).map(gateway).collect::<Vec<_>>(),
        });
    }
    let here = usize::from(seat.site);
    sites[NAMES[1 - here]]["secretFile"] = json!(dir.join("pair.key"));
    let mut own = json!({ "name": NAMES[here], "domain": "sites.test", "certificates": seat.pki(dir) });
    if seat.rank == 0 {
        own["relay"] = json!(seat.name());
        own["incarnation"] = json!(dir.join(format!("incarnation-{}", seat.name())));
    }
    let member = |node: Seat| json!({ "name": node.name(), "id": node.id(), "addresses": [node.address()] });
    let half = json!({ "weight": 50 });
    let service = |service: Shared| {
        let endpoint = |node: Seat| {
            json!({
                "name": format!("{}-{}", service.name, node.name()), "address": node.address(),
                "port": service.shelf(), "node": node.name(),
            })
        };
        json!({
            "name": service.name, "number": service.number, "vip": VIP, "port": service.port, "protocol": "tcp",
            "endpoints": seats(seat.site, count).map(endpoint).collect::<Vec<_>>(),
            "draining": draining && service != SHOP,
            "sites": { "mode": "weighted", "each": { NAMES[0]: half, NAMES[1]: half } },
        })
    };
    json!({
        "node": seat.name(),
        // XDP on veth wants checksums that the lab leaves to cards.
        "forwarding": {
            "nodes": seats(seat.site, count).map(member).collect::<Vec<_>>(), "keyFile": dir.join("forward.keys"), "hook": "tc",
        },
        "site": own,
        "sites": sites,
        "services": [service(SHOP), service(FLOWS), service(DESK)],
    })
}
