//! What one cell runs: a node with Bascule, a router, one link.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bascule::Bascule;
use crate::router::{Capabilities, Config, Family, Kind, Neighbor, Routed, Router, Session, host};
use crate::{Lab, LabError, Result};

/// The node's AS and the router's, which needs four octets.
pub(super) const NODE: u32 = 65010;
pub(super) const ROUTER: u32 = 4_200_000_001;
/// Longest wait for a session or a route. OpenBGPD and GoBGP sit out an idle hold time after a failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);

/// A cell's setting.
pub(super) struct Subject {
    /// The router; None while it is killed.
    pub(super) router: Option<Box<dyn Router>>,
    /// The daemon; None while it is stopped.
    pub(super) bascule: Option<Bascule>,
    /// What the daemon is told.
    pub(super) daemon: Value,
    /// What the router is told.
    pub(super) config: Config,
    pub(super) kind: Kind,
    pub(super) family: Family,
    pub(super) net: Routed,
    pub(super) lab: Lab,
}

/// VIPs of one family.
pub(super) fn vip(family: Family, number: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(10, 9, 0, number).into(),
        Family::Ipv6 => IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}

impl Subject {
    /// One link, both sides configured for a session of `family`; nothing runs yet.
    pub(super) fn new(kind: Kind, family: Family) -> Result<Self> {
        let lab = Lab::new("matrix")?;
        let net = Routed::build(&lab, 1, 1)?;
        let link = net.link(0, 0);
        let (near, far) = (link.node_address(family), link.router_address(family));
        let mut neighbor = Neighbor::new(far, near, NODE);
        neighbor.graceful_shutdown = kind != Kind::ExaBgp;
        // Bascule dials and does not listen: a router that dials too is refused, and some sit out a penalty for it.
        neighbor.passive = true;
        let config = Config::new(ROUTER, Ipv4Addr::new(10, 0, 0, 9)).neighbor(neighbor);
        let daemon = json!({
            "node": "n1",
            "bgp": {
                "asn": NODE, "routerId": "10.0.0.1", "drainTime": "2s",
                "neighbors": [{
                    "name": "tor", "address": far, "remoteAs": "external", "holdTime": "9s", "connectRetry": "1s",
                    "export": {
                        "communities": ["65010:7", "65010:8"], "largeCommunities": ["65010:1:2"], "med": 5,
                    },
                }],
            },
            "vips": [{ "name": "web", "addresses": [vip(family, 100)], "announce": "bgp", "scope": "all" }],
        });
        Ok(Self { router: None, bascule: None, daemon, config, kind, family, net, lab })
    }

    /// The router's neighbour.
    pub(super) fn peer(&mut self) -> &mut Neighbor {
        &mut self.config.neighbors[0]
    }

    /// The daemon's neighbour.
    pub(super) fn tor(&mut self) -> &mut Value {
        &mut self.daemon["bgp"]["neighbors"][0]
    }

    /// The router dials and Bascule waits, for what a router can only do on connections of its own.
    pub(super) fn let_router_dial(&mut self) {
        self.peer().passive = false;
        self.tor()["mode"] = json!("passive");
    }

    /// The node's address on the link.
    pub(super) fn near(&self) -> IpAddr {
        self.net.link(0, 0).node_address(self.family)
    }

    pub(super) fn start_router(&mut self) -> Result<()> {
        self.router = None;
        self.router = Some(self.kind.start(&self.lab, &self.net.routers[0], &self.config)?);
        Ok(())
    }

    pub(super) fn start_daemon(&mut self) -> Result<()> {
        self.bascule = None;
        self.bascule = Some(Bascule::start_keeping_run(&self.lab, &self.net.nodes[0], &self.daemon)?);
        Ok(())
    }

    pub(super) fn router(&self) -> Result<&dyn Router> {
        self.router.as_deref().ok_or_else(|| LabError::answer("matrix", "the router is not running"))
    }

    pub(super) fn bascule(&mut self) -> Result<&mut Bascule> {
        self.bascule.as_mut().ok_or_else(|| LabError::answer("matrix", "the daemon is not running"))
    }

    /// Starts both, and waits for the session.
    pub(super) fn up(&mut self) -> Result<Session> {
        self.start_router()?;
        self.start_daemon()?;
        self.established()
    }

    /// Waits for the session as the router sees it.
    pub(super) fn established(&self) -> Result<Session> {
        self.router()?.wait_established(self.near(), PATIENCE).map_err(|error| self.explain(error))
    }

    /// Waits for the VIP's route, and checks its attributes: all those of the daemon's export policy.
    pub(super) fn route(&self) -> Result<String> {
        let prefix = host(vip(self.family, 100));
        let there = |r: Option<&super::super::Route>| r.is_some_and(|r| !r.stale);
        let found = self.router()?.wait_route(prefix, PATIENCE, "to come", &there);
        let route = found.map_err(|error| self.explain(error))?.expect("waited for");
        let expected = (vec![self.near()], vec![NODE], vec![(65010, 7), (65010, 8)], vec![(65010, 1, 2)], Some(5));
        let seen =
            (route.next_hops.clone(), route.as_path.clone(), route.communities.clone(), route.large.clone(), route.med);
        demand(seen == expected, || format!("the route is {route:?}"))?;
        Ok(format!("{prefix} via {} MED 5, 65010:7 65010:8, 65010:1:2", self.near()))
    }

    /// Adds what the daemon wrote last to an error.
    pub(super) fn explain(&self, error: LabError) -> LabError {
        match &self.bascule {
            Some(daemon) => LabError::answer("matrix", format!("{error}\n--- the daemon:\n{}", daemon.process.tail())),
            None => error,
        }
    }
}

/// An error unless `holds`.
pub(super) fn demand(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(LabError::answer("matrix", otherwise())) }
}

/// What the daemon offers by default, as the router understood it.
pub(super) fn check_capabilities(offered: &Capabilities, family: Family) -> Result<()> {
    let said = |value: Option<bool>| value != Some(false);
    let right = offered.families == [family]
        && said(offered.four_octet_as)
        && said(offered.route_refresh)
        && said(offered.enhanced_refresh)
        && said(offered.extended_message);
    demand(right, || format!("the router understood {offered:?}"))
}
