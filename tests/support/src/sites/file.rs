//! The files of the nodes of [`super::SiteLab`].

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ground::{NODE_AS, ROUTER_AS};

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
/// At one site at a time, dc-b first.
pub const BASE: Shared = Shared { name: "base", port: 7004, number: 4 };
/// Between routers and nodes, and between the nodes of a site: silence of three is a death.
const BFD: &str = "50ms";
/// Between nodes of different sites: 400 ms of silence, so that a path that loses a tenth takes no gateway away.
const FAR_BFD: (&str, u8) = ("100ms", 4);
/// Of the endpoints of [`SHOP`]: two failures in a row are a death.
const CHECK: &str = "250ms";

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

    /// The address of its endpoint of [`BASE`], which no other service has.
    pub(super) fn base(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.site, self.rank + 1)
    }

    /// The router's leg in its LAN.
    pub(super) fn gateway(self) -> Ipv4Addr {
        gateway(self.site)
    }

    /// Where its certificate is.
    pub(super) fn pki(self, dir: &Path) -> String {
        dir.join(format!("pki-{}", self.name())).display().to_string()
    }
}

/// The leg of a site's router in its LAN.
pub(super) fn gateway(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 31 + site, 0, 254)
}

/// All nodes of a site.
pub(super) fn seats(site: u8, count: u8) -> impl Iterator<Item = Seat> {
    (0..count).map(move |rank| Seat { site, rank })
}

/// What the files of all nodes have in common.
pub(super) struct Files {
    /// Where keys and certificates are.
    pub(super) dir: PathBuf,
    /// Nodes of each site.
    pub(super) count: u8,
    /// The section `etcd`.
    pub(super) etcd: Value,
}

impl Files {
    /// The file of a node. The first of each site is the relay.
    pub(super) fn of(&self, seat: Seat) -> Value {
        let own_site = || seats(seat.site, self.count);
        let member = |node: Seat| json!({ "name": node.name(), "id": node.id(), "addresses": [node.address()] });
        let bfd = |node: Seat| json!({ "address": node.address(), "transmitInterval": BFD, "receiveInterval": BFD });
        // Only a session tells that a gateway of another site is dead while its path and its site are well.
        let far = |node: Seat| {
            json!({
                "address": node.address(), "multihop": 8, "transmitInterval": FAR_BFD.0, "receiveInterval": FAR_BFD.0,
                "multiplier": FAR_BFD.1,
            })
        };
        let near_peers = own_site().filter(|node| *node != seat).map(bfd);
        let peers: Vec<Value> = near_peers.chain(seats(1 - seat.site, self.count).map(far)).collect();
        json!({
            "node": seat.name(),
            // XDP on veth wants checksums that the lab leaves to cards.
            "forwarding": {
                "nodes": own_site().map(member).collect::<Vec<_>>(), "keyFile": self.dir.join("forward.keys"), "hook": "tc",
            },
            "bfd": { "peers": peers },
            "bgp": {
                "asn": NODE_AS, "routerId": seat.address(), "drainTime": "1s",
                "neighbors": [{
                    "name": "router", "address": seat.gateway(), "remoteAs": ROUTER_AS, "holdTime": "9s", "connectRetry": "1s",
                    "bfd": { "transmitInterval": BFD, "receiveInterval": BFD },
                }],
            },
            "vips": [{ "name": "anycast", "addresses": [VIP], "announce": "bgp", "scope": "all" }],
            "site": self.site(seat),
            "sites": self.sites(seat),
            "etcd": self.etcd,
            "services": [
                self.shared(SHOP, seat), self.shared(FLOWS, seat), self.shared(DESK, seat), self.one_at_a_time(seat),
            ],
        })
    }

    fn site(&self, seat: Seat) -> Value {
        let mut own = json!({
            "name": NAMES[usize::from(seat.site)], "domain": "sites.test", "certificates": seat.pki(&self.dir),
            "terms": self.dir.join(format!("terms-{}", seat.name())),
        });
        if seat.rank == 0 {
            own["relay"] = json!(seat.name());
            own["incarnation"] = json!(self.dir.join(format!("incarnation-{}", seat.name())));
        }
        own
    }

    fn sites(&self, seat: Seat) -> Value {
        let gateway = |node: Seat| json!({ "name": node.name(), "id": node.id(), "address": node.address() });
        let mut sites = json!({});
        for (number, name) in (0u8..).zip(NAMES) {
            let relay = Seat { site: number, rank: 0 };
            sites[name] = json!({
                "id": number + 1, "prefixes": ["10.9.7.0/24"],
                "relays": [{ "name": relay.name(), "address": format!("{}:7845", relay.address()) }],
                "gateways": seats(number, self.count).map(gateway).collect::<Vec<_>>(),
            });
        }
        sites[NAMES[1 - usize::from(seat.site)]]["secretFile"] = json!(self.dir.join("pair.key"));
        sites
    }

    /// A service whose new connections both sites share.
    fn shared(&self, service: Shared, seat: Seat) -> Value {
        let half = json!({ "weight": 50 });
        let mut file = self.service(service, seat, Seat::address);
        file["sites"] = json!({ "mode": "weighted", "each": { NAMES[0]: half, NAMES[1]: half } });
        if service == SHOP {
            file["check"] = json!({ "tcp": {}, "interval": CHECK, "timeout": CHECK, "rise": 1, "fall": 2 });
        }
        file
    }

    fn one_at_a_time(&self, seat: Seat) -> Value {
        let mut file = self.service(BASE, seat, Seat::base);
        file["sites"] = json!({ "mode": "activePassive", "order": [NAMES[1], NAMES[0]] });
        file
    }

    fn service(&self, service: Shared, seat: Seat, address: impl Fn(Seat) -> Ipv4Addr) -> Value {
        let endpoint = |node: Seat| {
            json!({
                "name": format!("{}-{}", service.name, node.name()), "address": address(node), "port": service.shelf(),
                "node": node.name(),
            })
        };
        json!({
            "name": service.name, "number": service.number, "vip": VIP, "port": service.port, "protocol": "tcp",
            "endpoints": seats(seat.site, self.count).map(endpoint).collect::<Vec<_>>(),
        })
    }
}
