//! Two sites of real daemons behind one router, which is the WAN between them and the edge before them, and a client.
//!
//! ```text
//!                          /-- LAN of dc-a -- a1 10.31.0.1 (relay), a2 10.31.0.2, ..
//!  client 10.8.0.2 -- router
//!                          \-- LAN of dc-b -- b1 10.32.0.1 (relay), b2 10.32.0.2, ..
//! ```
//! The router spreads flows to the VIP over the nodes of one site (dc-a first), as the routes of an anycast address would. Every node has an
//! endpoint of each service in its own namespace.

use std::net::SocketAddrV4;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::file::{DESK, FLOWS, NAMES, SHOP, Seat, Shared, VIP, config};
use super::{init, issue, page, secret_file, share};
use crate::audit::AuditServer;
use crate::bascule::Bascule;
use crate::{Bridge, BridgeOptions, Lab, LabError, Netns, Port, Responder, Result, wait_for};

/// Until a site has its whole share whose path was down when its first word came: 20 good slots of the path (10 s), 10 s on probation, a slow
/// start of 60 s, and what a busy machine adds to the start of all daemons.
const WHOLE: Duration = Duration::from_secs(140);
/// A share that is this near to what the file says is there: ten of a table's 1,021 slots.
const NEAR: f64 = 0.01;

/// A node.
pub struct SiteNode {
    /// Its name: `a1`.
    pub name: String,
    /// Its site, from 0.
    pub site: usize,
    /// Its number in audits and answers.
    pub number: u32,
    /// Its daemon.
    pub daemon: Bascule,
    seat: Seat,
    _flows: AuditServer,
    _answers: [Responder; 2],
    _netns: Netns,
    _port: Port,
}

/// The whole; dropped, it is gone.
pub struct SiteLab {
    /// Nodes of dc-a, then those of dc-b.
    pub nodes: Vec<SiteNode>,
    /// Where clients stand.
    pub client: Netns,
    count: u8,
    router: Netns,
    /// The router's ports in the LANs of the sites.
    uplinks: Vec<Port>,
    _lans: Vec<Bridge>,
    lab: Lab,
}

impl SiteLab {
    /// Builds two sites of `count` nodes each and starts the daemons. Returns when each node hears and reaches the other site, and half of all
    /// new connections go there.
    ///
    /// # Errors
    /// When a part of it cannot be made, or a node does not come so far; what it showed last is in the error.
    pub fn start(name: &str, count: u8) -> Result<Self> {
        let lab = Lab::new(name)?;
        let router = router(&lab)?;
        let edge = lab.bridge("edge", &BridgeOptions::default())?;
        let (client, _) = lab.host("client", &edge, &[net("10.8.0.2/24")])?;
        whole_checksums(&client)?;
        let _leg = edge.attach(&router, "edge", &[net("10.8.0.1/24")])?;
        client.route(4, "default via 10.8.0.1")?;
        let dir = lab.directory();
        let key = "00112233445566778899aabbccddeeff";
        secret_file(&dir.join("forward.keys"), &format!("0:{key}\nflow:{key}{key}\n"))?;
        secret_file(&dir.join("pair.key"), &format!("{key}{key}\n"))?;
        let authority = init(&dir.join("authority"))?;
        let (mut nodes, mut uplinks, mut lans) = (Vec::new(), Vec::new(), vec![edge]);
        for site in [0, 1] {
            let leg = NAMES[usize::from(site)];
            let lan = lab.bridge(leg, &BridgeOptions::default())?;
            let gateway = Seat { site, rank: 0 }.gateway();
            uplinks.push(lan.attach(&router, leg, &[net(&format!("{gateway}/24"))])?);
            for rank in 0..count {
                let seat = Seat { site, rank };
                issue(&authority, &(site + 1).to_string(), &seat.name(), seat.pki(dir).as_ref())?;
                nodes.push(node(&lab, &lan, seat, count)?);
            }
            lans.push(lan);
        }
        let lab = Self { nodes, client, count, router, uplinks, _lans: lans, lab };
        lab.shift(0)?;
        for service in [SHOP, FLOWS, DESK] {
            lab.wait_half(service)?;
        }
        Ok(lab)
    }

    /// Where clients of a service connect to.
    pub fn target(&self, service: Shared) -> SocketAddrV4 {
        SocketAddrV4::new(VIP, service.port)
    }

    /// Nodes of a site.
    pub fn of(&self, site: usize) -> impl Iterator<Item = &SiteNode> {
        self.nodes.iter().filter(move |node| node.site == site)
    }

    /// Numbers of the servers of a site.
    pub fn numbers(&self, site: usize) -> Vec<u32> {
        self.of(site).map(|node| node.number).collect()
    }

    /// The router's port in the LAN of a site: all that goes there or comes from there passes it.
    pub fn uplink(&self, site: usize) -> &Port {
        &self.uplinks[site]
    }

    /// The VIP's route leads to the nodes of this site from now on.
    ///
    /// # Errors
    /// When the router refuses.
    pub fn shift(&self, site: usize) -> Result<()> {
        let vip = format!("{VIP}/32");
        let hops: Vec<String> = self.of(site).map(|node| node.seat.address().to_string()).collect();
        let mut words = vec!["route", "replace", &vip];
        words.extend(hops.iter().flat_map(|hop| ["nexthop", "via", hop]));
        self.router.tool("ip", &words).map(drop)
    }

    /// Writes a new file for every node of a site: it takes nothing new of [`DESK`] and [`FLOWS`], or takes its part again.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn drain(&self, site: usize, draining: bool) -> Result<()> {
        let file = |seat| config(self.lab.directory(), seat, self.count, draining);
        self.of(site).try_for_each(|node| node.daemon.rewrite(&file(node.seat)))
    }

    /// Waits until each node sends half of a service's new connections to the other site, which it hears and reaches.
    ///
    /// # Errors
    /// When that does not come about; what the node showed last is in the error.
    pub fn wait_half(&self, service: Shared) -> Result<()> {
        for node in &self.nodes {
            let there = NAMES[1 - node.site];
            self.wait_page(node, &format!("half of {} at {there}", service.name), |page| {
                let site = &page["sites"][0];
                site["session"] == true
                    && site["path"]["path"]["carriage"] == "up"
                    && (share(page, service.name, there) - 0.5).abs() < NEAR
            })?;
        }
        Ok(())
    }

    /// Waits until what a node shows of sites is as wanted.
    ///
    /// # Errors
    /// When it is not in time; what it showed last is in the error.
    pub fn wait_page(&self, node: &SiteNode, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let mut last = Value::Null;
        let found = wait_for(WHOLE, what, || {
            last = page(&node.daemon)?;
            wanted(&last).then_some(())
        });
        let told = || format!("{}: {last:#}\n{}", node.name, node.daemon.process.tail());
        found.map_err(|error| LabError::answer(error.to_string(), told()))
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("an address with its length")
}

/// veth leaves checksums to a card that is not there, and a frame that goes on inside another has no card ahead.
fn whole_checksums(netns: &Netns) -> Result<()> {
    netns.tool("ethtool", &["-K", "eth0", "tx", "off"]).map(drop)
}

/// Answers come back by the site that has the flow, whichever way its request went.
fn router(lab: &Lab) -> Result<Netns> {
    let router = lab.netns("router")?;
    router.forward()?;
    router.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
    for tree in ["all", "default"] {
        router.sysctl(&format!("net/ipv4/conf/{tree}/rp_filter"), "0")?;
    }
    Ok(router)
}

fn node(lab: &Lab, lan: &Bridge, seat: Seat, count: u8) -> Result<SiteNode> {
    let (netns, port) = lab.host(&seat.name(), lan, &[net(&format!("{}/24", seat.address()))])?;
    whole_checksums(&netns)?;
    netns.route(4, &format!("default via {}", seat.gateway()))?;
    let number = u32::from(seat.id());
    let answers = [Responder::start(&netns, number, SHOP.shelf())?, Responder::start(&netns, number, DESK.shelf())?];
    let flows = AuditServer::start(&netns, number, FLOWS.shelf())?;
    let daemon = Bascule::start(lab, &netns, &config(lab.directory(), seat, count, false))?;
    let (name, site) = (seat.name(), usize::from(seat.site));
    Ok(SiteNode { name, site, number, daemon, seat, _flows: flows, _answers: answers, _netns: netns, _port: port })
}
