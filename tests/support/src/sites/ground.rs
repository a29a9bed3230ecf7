//! What the two sites stand on: a LAN each behind a router of its own, and the WAN between them, which takes time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::file::{NAMES, Seat, VIP, gateway, seats};
use crate::router::{BfdTimers, Config, Kind, Neighbor, RouteWatch, Router};
use crate::{Bridge, BridgeOptions, CableEnd, Lab, LongCable, Netns, Port, Result};

/// AS of all nodes, and of the routers of both sites.
pub(super) const NODE_AS: u32 = 65010;
pub(super) const ROUTER_AS: u32 = 65001;
/// From site to site and back.
pub const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Of the routers' sessions: 150 ms of silence.
const BFD: (Duration, u8) = (Duration::from_millis(50), 3);
/// The table of the client that comes in at dc-b, whatever the route of all others says.
const FAR_TABLE: &str = "77";

/// A site without its nodes.
pub(super) struct Place {
    /// Its LAN.
    pub(super) lan: Bridge,
    /// Its way to everything else.
    pub(super) cable: LongCable,
    router: Netns,
    bird: Box<dyn Router>,
    _leg: Port,
}

/// All of it; dropped, it is gone.
pub(super) struct Ground {
    /// Comes in where the route of the VIP leads.
    pub(super) client: Netns,
    /// Comes in at dc-b always.
    pub(super) far_client: Netns,
    /// Where the third member of etcd is.
    pub(super) witness: Netns,
    /// The sites.
    pub(super) places: Vec<Place>,
    wan: Netns,
    _witness_cable: LongCable,
    _edge: Bridge,
}

impl Ground {
    /// Builds it for sites of `count` nodes, whose routers wait for their sessions.
    pub(super) fn build(lab: &Lab, count: u8) -> Result<Self> {
        let wan = router(lab, "wan")?;
        let edge = lab.bridge("edge", &BridgeOptions::default())?;
        let client = |name: &str, address: &str| -> Result<Netns> {
            let (netns, _) = lab.host(name, &edge, &[net(address)])?;
            whole_checksums(&netns)?;
            netns.route(4, "default via 10.8.0.1")?;
            Ok(netns)
        };
        let (near, far) = (client("client", "10.8.0.2/24")?, client("far-client", "10.8.0.3/24")?);
        let _leg = edge.attach(&wan, "edge", &[net("10.8.0.1/24")])?;
        let places = (0..2).map(|site| place(lab, &wan, site, count)).collect::<Result<Vec<_>>>()?;
        let witness = lab.netns("witness")?;
        let ends = [
            CableEnd { netns: &wan, link: "witness", address: net("10.33.0.254/24") },
            CableEnd { netns: &witness, link: "eth0", address: net("10.33.0.1/24") },
        ];
        let cable = LongCable::lay(ends, ROUND_TRIP / 4)?;
        witness.route(4, "default via 10.33.0.254")?;
        wan.tool("ip", &["rule", "add", "from", "10.8.0.3", "lookup", FAR_TABLE])?;
        wan.route(4, &format!("{VIP}/32 via {} table {FAR_TABLE}", outside(1, 2)))?;
        let ground = Self { client: near, far_client: far, witness, places, wan, _witness_cable: cable, _edge: edge };
        ground.shift(0)?;
        Ok(ground)
    }

    /// The route of the VIP leads to the router of this site from now on.
    pub(super) fn shift(&self, site: u8) -> Result<()> {
        let (vip, router) = (format!("{VIP}/32"), outside(site, 2).to_string());
        self.wan.tool("ip", &["route", "replace", &vip, "via", &router]).map(drop)
    }
}

impl Place {
    /// Nodes among which its router spreads the VIP's flows.
    pub(super) fn hops(&self) -> usize {
        let text = self.router.tool("ip", &["-4", "route", "show", &format!("{VIP}/32")]);
        text.map_or(0, |text| text.matches(" via ").count())
    }

    /// Watches the routes of its router.
    pub(super) fn watch(&self) -> Result<RouteWatch> {
        RouteWatch::start(&self.router)
    }

    /// What its router wrote.
    pub(super) fn log(&self) -> String {
        self.bird.log()
    }
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().expect("an address with its length")
}

/// veth leaves checksums to a card that is not there, and a frame that goes on inside another has no card ahead.
pub(super) fn whole_checksums(netns: &Netns) -> Result<()> {
    netns.tool("ethtool", &["-K", "eth0", "tx", "off"]).map(drop)
}

/// The WAN's end (1) and the router's (2) of the cable of a site.
fn outside(site: u8, end: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 30, site, end)
}

/// Answers come back by the site that has the flow, whichever way its request went.
fn router(lab: &Lab, name: &str) -> Result<Netns> {
    let router = lab.netns(name)?;
    router.forward()?;
    router.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
    for tree in ["all", "default"] {
        router.sysctl(&format!("net/ipv4/conf/{tree}/rp_filter"), "0")?;
    }
    Ok(router)
}

fn place(lab: &Lab, wan: &Netns, site: u8, count: u8) -> Result<Place> {
    let name = NAMES[usize::from(site)];
    let router = router(lab, &format!("router-{name}"))?;
    let end = |address: Ipv4Addr| net(&format!("{address}/24"));
    let ends = [
        CableEnd { netns: wan, link: name, address: end(outside(site, 1)) },
        CableEnd { netns: &router, link: "wan", address: end(outside(site, 2)) },
    ];
    let cable = LongCable::lay(ends, ROUND_TRIP / 4)?;
    let lan = lab.bridge(name, &BridgeOptions::default())?;
    let leg = lan.attach(&router, "lan", &[end(gateway(site))])?;
    router.tool("ethtool", &["-K", "lan", "tx", "off"])?;
    router.route(4, &format!("default via {}", outside(site, 1)))?;
    wan.route(4, &format!("10.{}.0.0/24 via {}", 31 + site, outside(site, 2)))?;
    let mut config = Config::new(ROUTER_AS, gateway(site));
    for node in seats(site, count) {
        config = config.neighbor(neighbor(node));
    }
    let bird = Kind::Bird.start(lab, &router, &config)?;
    Ok(Place { lan, cable, router, bird, _leg: leg })
}

fn neighbor(node: Seat) -> Neighbor {
    let mut neighbor = Neighbor::new(IpAddr::V4(node.gateway()), IpAddr::V4(node.address()), NODE_AS);
    neighbor.bfd = Some(BfdTimers::symmetric(BFD.0, BFD.1));
    neighbor.graceful_shutdown = true;
    neighbor
}
