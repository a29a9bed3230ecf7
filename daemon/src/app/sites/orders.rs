//! Orders of operators: what becomes of them, in words.

use bascule_core::site::join::Join;
use bascule_core::site::join::drain::{Drain, Refused};
use bascule_core::site::orders::Target;
use bascule_core::time::Instant;

use super::super::forward::Endpoints;
use super::{Room, now};
use crate::config::Sites;
use crate::handle::sites::{DrainView, OrderRequest, Wanted};

/// What an order is about, for people. Nodes that are no gateways have a number only.
pub(super) fn words(sites: &Sites, target: &Target) -> String {
    let service = |id| super::tell::service_name(sites, id);
    match target {
        Target::Site => "the site".to_owned(),
        Target::Service(id) => format!("service {}", service(*id)),
        Target::Vip(vip) => format!("vip {vip}"),
        Target::Node(id) => {
            let node = sites.own().gateways.iter().find(|node| node.id == *id);
            node.map_or_else(|| format!("node {id}"), |node| format!("node {}", node.name))
        }
        Target::Endpoint(id, address, port) => {
            format!("endpoint {} of {}", std::net::SocketAddr::new(*address, *port), service(*id))
        }
    }
}

/// Why nothing became of an order, in one line.
fn refusal(sites: &Sites, what: &str, refused: &Refused) -> String {
    match refused {
        Refused::Elsewhere { leader: Some(leader) } => format!("{refused}: ask on {leader}"),
        Refused::Elsewhere { leader: None } => format!("{refused}, and none leads now"),
        Refused::Nothing | Refused::None => format!("{what}: {refused}"),
        Refused::Short(short) => {
            let service = super::tell::service_name(sites, short.service());
            format!("{what} is not drained: of {service} {short}; --force drains all the same")
        }
    }
}

impl Room {
    /// What the balancer calls it; `None`: a service that is none any more, or no matter of the balancer.
    pub(super) fn endpoints(&self, target: &Target) -> Option<Endpoints> {
        match target {
            Target::Node(id) => Some(Endpoints::Node(*id)),
            Target::Endpoint(id, address, port) => {
                self.sites.services.get(id).map(|spread| Endpoints::One(spread.key, *address, *port))
            }
            Target::Site | Target::Service(_) | Target::Vip(_) => None,
        }
    }

    pub(super) fn order(&mut self, request: OrderRequest) {
        let OrderRequest { target, wanted, reply } = request;
        let what = words(&self.sites, &target);
        self.changed = true;
        let (done, said) = match wanted {
            Wanted::Drain { within, parts, force } => {
                let done = self.join.handle_drain(target, within, &parts, force, now());
                (done, format!("{what} is drained; connections that exist have {} s", within.as_secs()))
            }
            Wanted::Undrain => {
                (self.join.handle_undrain(target, now()), format!("{what} is drained no more, and returns slowly"))
            }
        };
        // Who asked may have gone: what was done is done.
        let _gone = reply.send(done.map(|()| said).map_err(|refused| refusal(&self.sites, &what, &refused)));
    }
}

/// Drains in force, for people and metrics.
pub(super) fn views(sites: &Sites, join: &Join, now: Instant) -> Vec<DrainView> {
    let view = |drain: &Drain| {
        let left = drain.until.since(now);
        DrainView {
            site: sites.name_of(drain.site),
            what: words(sites, &drain.target),
            services: join.concerned(&drain.target).map(|id| super::tell::service_name(sites, id)).collect(),
            seconds: left.as_secs() + u64::from(left.subsec_nanos() > 0),
        }
    };
    join.drains().iter().map(view).collect()
}
