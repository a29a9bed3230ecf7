//! What an activePassive service must be, so that a node without the lease can fall silent for it and for nothing else.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use bascule_core::service::Delivery;
use bascule_core::site::policy::io::Mode;

use super::super::error::Pos;
use super::{Around, Service};

/// Most of them: each is an elector of its own on every node, and a slot of its own in the kernel.
pub(super) const MAX: usize = 64;

/// Rules of activePassive services.
pub(super) fn across(services: &[Service], around: &Around<'_>) {
    let passive = |service: &&Service| {
        let policy = service.spread.as_ref().and_then(Option::as_ref);
        policy.is_some_and(|(policy, _)| matches!(policy.mode, Mode::ActivePassive { .. }))
    };
    let mut users: HashMap<IpAddr, usize> = HashMap::new();
    for service in services {
        let addresses = service.endpoints.iter().filter_map(|e| e.address.as_ref()).map(|address| address.value);
        for address in addresses.collect::<BTreeSet<IpAddr>>() {
            *users.entry(address).or_default() += 1;
        }
    }
    for (number, service) in services.iter().filter(passive).enumerate() {
        let mode = format!("{}.sites.mode", service.path);
        let at = service.name.as_ref().map_or(Pos::START, |name| name.at);
        let refuse = |wrong: String, right: &str| around.errors.add(at, &mode, wrong, right);
        if number == MAX {
            refuse(format!("more than {MAX} services are activePassive"), "share a VIP's port between fewer of them");
        }
        if service.delivery.is_some_and(|delivery| delivery != Delivery::Direct) {
            refuse(
                "activePassive needs replies that are rewritten here".to_owned(),
                "use delivery: direct, or another mode",
            );
        }
        for endpoint in &service.endpoints {
            if let (Some(None), Some(address)) = (&endpoint.node, &endpoint.address) {
                around.errors.add(
                    address.at,
                    &address.path,
                    "an endpoint of an activePassive service is on a node: behind a router nothing can silence it",
                    "give its node",
                );
            }
            let Some(address) = &endpoint.address else { continue };
            let nodes = around.forwarding.iter().flat_map(|f| &f.nodes);
            if nodes.flat_map(|n| &n.addresses).flat_map(|a| &a.items).any(|a| a.value == address.value) {
                let wrong = format!("{} is an address of a node, which would be cut off with it", address.value);
                around.errors.add(address.at, &address.path, wrong, "give the endpoint an address of its own");
            } else if users.get(&address.value).is_some_and(|users| *users > 1) {
                let wrong = format!("{} is an endpoint of another service, too, which would be cut off", address.value);
                around.errors.add(address.at, &address.path, wrong, "give the endpoint an address of its own");
            }
        }
    }
}
