//! Two sites of real daemons, each behind a router that spreads flows over its nodes, a WAN that takes time, a witness, and clients.
//!
//! ```text
//!  client 10.8.0.2 ------.      cable      /-- dc-a router, BGP and BFD -- a1 10.31.0.1 (relay), a2, a3, etcd
//!                         WAN ------------<
//!  far client 10.8.0.3 --'  \              \-- dc-b router, BGP and BFD -- b1 10.32.0.1 (relay), b2, b3, etcd
//!                            `-- witness, etcd
//! ```
//! The VIP is an anycast address: nodes announce it to the router of their site. The WAN sends the flows of the client to one of the two sites
//! (dc-a first), those of the far client to dc-b always. Every node has an endpoint of each service in its own namespace.

use std::net::SocketAddrV4;
use std::time::Duration;

use serde_json::Value;

use super::file::{BASE, DESK, FLOWS, Files, NAMES, SHOP, Shared, VIP, seats};
use super::ground::Ground;
use super::node::SiteNode;
use super::store::Store;
use super::{init, page, secret_file, share};
use crate::router::RouteWatch;
use crate::{Lab, LabError, LongCable, Netns, Result, wait_for};

/// Until a site has its whole share whose path was down when its first word came: 20 good slots of the path (10 s), 10 s on probation, a slow
/// start of 60 s, and what a busy machine adds to the start of all daemons.
const WHOLE: Duration = Duration::from_secs(160);
/// A share that is this near to what the file says is there: ten of a table's 1,021 slots.
const NEAR: f64 = 0.01;

/// The whole; dropped, it is gone.
pub struct SiteLab {
    /// Nodes of dc-a, then those of dc-b.
    pub nodes: Vec<SiteNode>,
    _store: Store,
    ground: Ground,
    // Last: what stands in it goes before it.
    _lab: Lab,
}

impl SiteLab {
    /// Builds two sites of `count` nodes each and starts the daemons. Returns when each router spreads the VIP over its nodes, half of all new
    /// connections go to each site, and dc-b has [`BASE`].
    ///
    /// # Errors
    /// When a part of it cannot be made, or a node does not come so far; what it showed last is in the error.
    pub fn start(name: &str, count: u8) -> Result<Self> {
        let lab = Lab::new(name)?;
        let ground = Ground::build(&lab, count)?;
        let mut store = Store::start(&lab, &ground)?;
        let dir = lab.directory().to_owned();
        let key = "00112233445566778899aabbccddeeff";
        secret_file(&dir.join("forward.keys"), &format!("0:{key}\nflow:{key}{key}\n"))?;
        secret_file(&dir.join("pair.key"), &format!("{key}{key}\n"))?;
        init(&dir.join("authority"))?;
        let files = Files { dir, count, etcd: store.section.clone() };
        let mut nodes = Vec::new();
        // dc-b first: it is to have what one site has at a time.
        for (site, place) in (0u8..2).zip(&ground.places).rev() {
            for seat in seats(site, count) {
                nodes.push(SiteNode::start(&lab, &place.lan, seat, &files)?);
            }
        }
        nodes.sort_by_key(|node| node.site);
        store.lead_by_witness()?;
        let lab = Self { nodes, _store: store, ground, _lab: lab };
        for (place, name) in lab.ground.places.iter().zip(NAMES) {
            let spread = wait_for(WHOLE, &format!("the router of {name} to spread the VIP"), || {
                (place.hops() == usize::from(count)).then_some(())
            });
            spread.map_err(|error| LabError::answer(error.to_string(), place.log()))?;
        }
        for service in [SHOP, FLOWS, DESK] {
            lab.wait_half(service)?;
        }
        lab.wait_holder(1)?;
        Ok(lab)
    }

    /// Where clients of a service connect to.
    pub fn target(&self, service: Shared) -> SocketAddrV4 {
        SocketAddrV4::new(VIP, service.port)
    }

    /// Where clients stand whose flows come in where the VIP's route leads.
    pub fn client(&self) -> &Netns {
        &self.ground.client
    }

    /// Where clients stand whose flows come in at dc-b.
    pub fn far_client(&self) -> &Netns {
        &self.ground.far_client
    }

    /// Living nodes of a site.
    pub fn of(&self, site: usize) -> impl Iterator<Item = &SiteNode> {
        self.nodes.iter().filter(move |node| node.site == site && node.alive)
    }

    /// The node of a site with this rank, from 0.
    ///
    /// # Panics
    /// When there is none.
    pub fn node_mut(&mut self, site: usize, rank: usize) -> &mut SiteNode {
        self.nodes.iter_mut().filter(|node| node.site == site).nth(rank).expect("a node with this rank")
    }

    /// Numbers of the servers of a site.
    pub fn numbers(&self, site: usize) -> Vec<u32> {
        self.nodes.iter().filter(|node| node.site == site).map(|node| node.number).collect()
    }

    /// All that goes to a site or comes from it passes here.
    pub fn uplink(&self, site: usize) -> &LongCable {
        &self.ground.places[site].cable
    }

    /// How late the WAN was with a frame since the last call.
    pub fn take_lateness(&self) -> Duration {
        self.ground.places.iter().map(|place| place.cable.take_lateness()).max().unwrap_or_default()
    }

    /// Watches the routes of the router of a site.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn watch_routes(&self, site: usize) -> Result<RouteWatch> {
        self.ground.places[site].watch()
    }

    /// The VIP's route leads to this site from now on.
    ///
    /// # Errors
    /// When the router refuses.
    pub fn shift(&self, site: usize) -> Result<()> {
        self.ground.shift(u8::try_from(site).unwrap_or(u8::MAX))
    }

    /// An operator orders that a site takes nothing new of [`DESK`] and [`FLOWS`], or that it takes its part again.
    ///
    /// # Errors
    /// When the relay of the site refuses.
    pub fn drain(&self, site: usize, draining: bool) -> Result<()> {
        let relay = self.of(site).next().ok_or_else(|| LabError::answer(NAMES[site], "no node of it lives"))?;
        for service in [DESK, FLOWS] {
            let words = ["drain", "service", service.name, "--off"];
            relay.daemon.ctl(&words[..if draining { 3 } else { 4 }])?;
        }
        Ok(())
    }

    /// Waits until each living node sends half of a service's new connections to the other site, which it hears and reaches.
    ///
    /// # Errors
    /// When that does not come about; what the node showed last is in the error.
    pub fn wait_half(&self, service: Shared) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.alive) {
            let there = NAMES[1 - node.site];
            self.wait_page(node, &format!("half of {} there", service.name), |page| {
                let other = &page["sites"][0];
                let well = page["leader"].is_string() && other["path"]["path"]["carriage"] == "up";
                well && (share(page, service.name, there) - 0.5).abs() < NEAR
            })?;
        }
        Ok(())
    }

    /// Waits until each living node says that this site has [`BASE`], and sends there.
    ///
    /// # Errors
    /// When that does not come about; what the node showed last is in the error.
    pub fn wait_holder(&self, site: usize) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.alive) {
            self.wait_page(node, &format!("{} to have {}", NAMES[site], BASE.name), |page| {
                share(page, BASE.name, NAMES[site]) > 1.0 - NEAR
            })?;
        }
        Ok(())
    }

    /// Waits until what a node shows of sites is as `wanted`.
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
