//! What the plane is told of sites: whose flows are where, what is taken out of use, and what one site at a time has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_core::balance::{DrainTarget, SiteSpec};
use bascule_core::node::io::LinkInfo;
use bascule_core::service::{EndpointId, ServiceKey};
use bascule_core::site::SiteId;
use bascule_core::site::handshakes::Totals;
use bascule_core::time::Instant;
use bascule_core::types::LinkId;
use tracing::info;

use super::super::Endpoints;
use super::super::terms::Ground;
use super::super::wanted::devices;
use super::Plane;
use crate::config::Forwarding;

type Links = BTreeMap<LinkId, LinkInfo>;

/// Addresses of a service's endpoints on this node.
fn endpoints(config: Option<&Forwarding>, key: &ServiceKey) -> Vec<IpAddr> {
    let of = |config: &Forwarding| {
        let this = config.config.node.as_deref();
        let service = config.config.services.iter().find(|service| service.key() == *key);
        let here =
            service.into_iter().flat_map(|service| service.endpoints.iter()).filter(|e| e.node.as_deref() == this);
        here.map(|endpoint| endpoint.address).collect()
    };
    config.map(of).unwrap_or_default()
}

impl Plane {
    /// A service is spread over sites otherwise.
    pub(in super::super) fn sites(&mut self, key: ServiceKey, slots: Vec<SiteId>, links: &Links, now: Instant) {
        self.balancer.handle_sites(&key, &slots, now);
        self.sites.insert(key, slots);
        self.turn(now, links);
    }

    /// Other sites are worth something else to packets.
    pub(in super::super) fn neighbours(&mut self, specs: Vec<SiteSpec>, links: &Links, now: Instant) {
        for spec in specs.iter().filter(|spec| !self.neighbours.contains(spec)) {
            let SiteSpec { site, reachable, lost, mtu, .. } = spec;
            info!(%site, reachable, lost, mtu, "what packets know of another site");
        }
        self.neighbours = specs;
        self.balancer.handle_neighbours(&self.neighbours, now);
        self.turn(now, links);
    }

    /// Probes do not reach these gateways of a site.
    pub(in super::super) fn silent(&mut self, site: SiteId, gateways: BTreeSet<u16>, links: &Links, now: Instant) {
        self.balancer.handle_silent(site, gateways.clone(), now);
        self.silent.insert(site, gateways);
        self.turn(now, links);
    }

    /// Endpoints are taken out of use, or put back.
    pub(in super::super) fn drain(&mut self, endpoints: Endpoints, on: bool, links: &Links, now: Instant) {
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
        for (site, gateways) in &self.silent {
            self.balancer.handle_silent(*site, gateways.clone(), now);
        }
        self.balancer.handle_neighbours(&self.neighbours, now);
        if self.sites.is_empty() {
            return;
        }
        let services = self.config.iter().flat_map(|config| &config.config.services);
        let keys: BTreeSet<ServiceKey> = services.map(|service| service.key()).collect();
        self.sites.retain(|key, _| keys.contains(key));
        for (key, slots) in &self.sites {
            self.balancer.handle_sites(key, slots, now);
        }
    }

    /// Which services one site at a time has. Before the configuration that has them.
    pub(in super::super) fn passive(&mut self, passive: &BTreeSet<ServiceKey>, now: Instant) {
        self.terms.configure(passive, &mut self.balancer, now);
    }

    /// This site has it.
    pub(in super::super) fn grant(
        &mut self,
        key: ServiceKey,
        grant: (u64, Instant),
        links: &Links,
        now: Instant,
    ) -> Result<(), String> {
        let Self { terms, balancer, config, .. } = self;
        let config = config.as_deref();
        let devices = config.map(|config| devices(config, links)).unwrap_or_default();
        let ground = Ground { endpoints: &|key| endpoints(config, key), devices: &devices };
        let granted = terms.grant(key, grant, &ground, balancer, now);
        self.turn(now, links);
        granted
    }

    /// What clients asked for here since the counter began; `None`: there is no such service, or it cannot be read.
    pub(in super::super) fn demand(&self, key: &ServiceKey) -> Option<u64> {
        let slot = self.balancer.slot(key)?;
        // A map that cannot be read is said where all counters are shown.
        self.forward.as_ref()?.service_stats(slot.0).ok().map(|stats| stats.asked)
    }

    /// What became of handshakes of clients here, by service and site. The places are looked at once.
    pub(in super::super) fn handshakes(&mut self, keys: &[ServiceKey], now: Instant) -> Vec<Vec<(SiteId, Totals)>> {
        let Self { forward, balancer, .. } = self;
        let Some(forward) = forward else { return keys.iter().map(|_| Vec::new()).collect() };
        forward.look_at_handshakes(now);
        let of = |key| balancer.slot(key).map_or_else(Vec::new, |slot| forward.handshakes(slot.0));
        keys.iter().map(of).collect()
    }

    /// This site does not have it any more. False: nothing could silence its endpoints here before the deadline.
    pub(in super::super) fn revoke(&mut self, key: &ServiceKey, links: &Links, now: Instant) -> bool {
        let silent = self.terms.revoke(key, &mut self.balancer, now);
        self.turn(now, links);
        silent
    }

    pub(super) fn refit(&mut self, links: &Links) {
        let Self { terms, config, .. } = self;
        let config = config.as_deref();
        let devices = config.map(|config| devices(config, links)).unwrap_or_default();
        terms.refit(&Ground { endpoints: &|key| endpoints(config, key), devices: &devices });
    }

    pub(super) fn end_terms(&mut self, links: &Links) {
        let Self { terms, config, forward: Some(forward), balancer, swept, .. } = self else { return };
        let config = config.as_deref();
        let devices = config.map(|config| devices(config, links)).unwrap_or_default();
        let ground = Ground { endpoints: &|key| endpoints(config, key), devices: &devices };
        terms.tick(forward, balancer, *swept, &ground);
    }
}
