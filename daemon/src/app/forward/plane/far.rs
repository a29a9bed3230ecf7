//! What the balancer is told beside its configuration: tables and paths of other sites, and what operators took out of use. Kept for a balancer that
//! begins anew.

use std::collections::{BTreeMap, BTreeSet};

use bascule_core::balance::{DrainTarget, SiteSpec};
use bascule_core::node::io::LinkInfo;
use bascule_core::service::{EndpointId, ServiceKey};
use bascule_core::site::SiteId;
use bascule_core::time::Instant;
use bascule_core::types::LinkId;
use tracing::info;

use super::Plane;
use crate::app::forward::Endpoints;

impl Plane {
    /// A service is spread over sites otherwise.
    pub(in crate::app::forward) fn sites(
        &mut self,
        key: ServiceKey,
        slots: Vec<SiteId>,
        links: &BTreeMap<LinkId, LinkInfo>,
        now: Instant,
    ) {
        self.balancer.handle_sites(&key, &slots, now);
        self.sites.insert(key, slots);
        self.turn(now, links);
    }

    /// Other sites are worth something else to packets.
    pub(in crate::app::forward) fn neighbours(
        &mut self,
        specs: Vec<SiteSpec>,
        links: &BTreeMap<LinkId, LinkInfo>,
        now: Instant,
    ) {
        for spec in specs.iter().filter(|spec| !self.neighbours.contains(spec)) {
            let SiteSpec { site, reachable, mtu, .. } = spec;
            info!(%site, reachable, mtu, "what packets know of another site");
        }
        self.neighbours = specs;
        self.balancer.handle_neighbours(&self.neighbours, now);
        self.turn(now, links);
    }

    /// Endpoints are taken out of use, or put back.
    pub(in crate::app::forward) fn drain(
        &mut self,
        endpoints: Endpoints,
        on: bool,
        links: &BTreeMap<LinkId, LinkInfo>,
        now: Instant,
    ) {
        if on {
            self.drained.insert(endpoints);
        } else {
            self.drained.remove(&endpoints);
        }
        if let Some(target) = self.named(&endpoints) {
            self.balancer.handle_drain(target, on, now);
        }
        self.turn(now, links);
    }

    /// What the balancer calls them; `None`: the configuration does not have them.
    fn named(&self, endpoints: &Endpoints) -> Option<DrainTarget> {
        let config = &self.config.as_ref()?.config;
        match *endpoints {
            Endpoints::Node(id) => {
                let node = config.nodes.iter().find(|node| node.id == id)?;
                Some(DrainTarget::Node(node.name.clone()))
            }
            Endpoints::One(key, address, port) => {
                let service = config.services.iter().find(|service| service.key() == key)?;
                let found = service.endpoints.iter().find(|e| (e.address, e.port) == (address, port))?;
                Some(DrainTarget::Endpoint(EndpointId { service: key, endpoint: found.name.clone() }))
            }
        }
    }

    pub(super) fn tell_sites(&mut self, now: Instant) {
        for target in self.drained.iter().filter_map(|endpoints| self.named(endpoints)).collect::<Vec<_>>() {
            self.balancer.handle_drain(target, true, now);
        }
        self.balancer.handle_neighbours(&self.neighbours, now);
        let services = self.config.iter().flat_map(|config| &config.config.services);
        let keys: BTreeSet<ServiceKey> = services.map(|service| service.key()).collect();
        self.sites.retain(|key, _| keys.contains(key));
        for (key, slots) in &self.sites {
            self.balancer.handle_sites(key, slots, now);
        }
    }
}
