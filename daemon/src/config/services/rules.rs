//! Rules within a service and across services.

use std::collections::HashMap;

use bascule_core::service::{Delivery, Protocol};
use bascule_core::types::Family;

use super::super::read::{At, Errors, Map};
use super::super::rules::family_name;
use super::{Around, Service};

/// The words that rules point at.
type Words<'a> = (&'a Option<At<Protocol>>, &'a Option<At<Delivery>>, &'a Option<At<&'static str>>);

/// Rules within one service.
pub(super) fn within(
    map: &Map<'_>,
    service: &Service,
    (protocol, delivery, returns): Words<'_>,
    around: &Around<'_>,
    warnings: &mut Vec<String>,
) {
    let errors = around.errors;
    if let (Some(protocol), Some(delivery)) = (protocol, delivery)
        && (protocol.value, delivery.value) == (Protocol::Sctp, Delivery::Direct)
    {
        let at = map.place_of("delivery").unwrap_or(protocol.at);
        let right = "use delivery: delegate or none";
        errors.add(at, &delivery.path, "sctp cannot be rewritten: it carries addresses inside", right);
    }
    if let Some(protocol) = protocol.as_ref().filter(|p| p.value != Protocol::Udp) {
        for key in ["quic", "stateful"] {
            if let Some(at) = map.place_of(key) {
                errors.add(
                    at,
                    &map.path_of(key),
                    format!("the protocol is {}", protocol.value),
                    "remove it, or set protocol: udp",
                );
            }
        }
    }
    if map.flag("quic") == Some(true) && map.has("stateful") {
        warnings.push(format!("{}: has no effect with quic", map.path_of("stateful")));
    }
    if let (Some(returns), Some(delivery)) = (returns, delivery)
        && returns.value == "viaIngress"
        && delivery.value != Delivery::Direct
    {
        let wrong = "viaIngress needs replies that are rewritten here";
        errors.add(returns.at, &returns.path, wrong, "use return: direct, or delivery: direct");
    }
    if service.delivery == Some(Delivery::None) {
        for key in ["endpoints", "check", "sources"].into_iter().filter(|key| map.has(key)) {
            warnings.push(format!("{}: has no effect with delivery: none", map.path_of(key)));
        }
    }
    addresses(service, around, warnings);
    endpoints(service, errors);
    let weights = || service.endpoints.iter().map(|e| e.weight);
    if weights().next().is_some() && weights().all(|w| w == Some(0)) {
        warnings.push(format!("{}.endpoints: every weight is 0, so that no connection is taken", service.path));
    }
}

/// The VIP and what must be of its family.
fn addresses(service: &Service, around: &Around<'_>, warnings: &mut Vec<String>) {
    let Some(vip) = &service.vip else { return };
    let errors = around.errors;
    let family = Family::of(&vip.value);
    let nodes = around.forwarding.iter().flat_map(|f| &f.nodes);
    if nodes.flat_map(|n| &n.addresses).flat_map(|a| &a.items).any(|a| a.value == vip.value) {
        errors.add(vip.at, &vip.path, format!("{} is an address of a node", vip.value), "use an address of its own");
    } else if around.vips.is_some_and(|v| !v.has_address(&vip.value)) {
        // Not an error: a router may lead it here, or another announcer.
        warnings.push(format!("{}: {} is no address of vips, so somebody else must announce it", vip.path, vip.value));
    }
    for network in service.sources.iter().flat_map(|s| &s.items) {
        let other = Family::of(&network.value.addr());
        if other != family {
            let wrong = format!("{} is {}, the VIP is {}", network.value, family_name(other), family_name(family));
            errors.add(network.at, &network.path, wrong, "remove it");
        }
    }
    for address in service.endpoints.iter().filter_map(|e| e.address.as_ref()) {
        let other = Family::of(&address.value);
        if address.value == vip.value || around.vips.is_some_and(|v| v.has_address(&address.value)) {
            let wrong = format!("{} is an address of a VIP", address.value);
            errors.add(address.at, &address.path, wrong, "use the endpoint's own address");
        } else if other != family {
            let wrong = format!("{} is {}, the VIP is {}", address.value, family_name(other), family_name(family));
            errors.add(address.at, &address.path, wrong, "give each family a service of its own");
        }
    }
}

/// Names and places of endpoints differ.
fn endpoints(service: &Service, errors: &Errors) {
    let (mut names, mut places) = (HashMap::new(), HashMap::new());
    for endpoint in &service.endpoints {
        let mut same_place = false;
        if let (Some(address), Some(port)) = (&endpoint.address, &endpoint.port)
            && let Some(line) = places.insert((address.value, port.value), address.at.line)
        {
            let wrong = format!("{} port {} is also the endpoint at line {line}", address.value, port.value);
            errors.add(address.at, &address.path, wrong, "give each endpoint once");
            same_place = true;
        }
        if let Some(name) = &endpoint.name
            && let Some(line) = names.insert(&name.value, name.at.line)
            && !same_place
        {
            let wrong = format!("{} is also the name at line {line}", name.value);
            errors.add(name.at, &name.path, wrong, "give each endpoint its own");
        }
    }
}

/// Rules across services.
pub(super) fn across(services: &[Service], errors: &Errors) {
    let (mut names, mut numbers, mut keys) = (HashMap::new(), HashMap::new(), HashMap::new());
    for service in services {
        if let Some(name) = &service.name
            && let Some(line) = names.insert(&name.value, name.at.line)
        {
            let wrong = format!("{} is also the name at line {line}", name.value);
            errors.add(name.at, &name.path, wrong, "give each service its own");
        }
        if let Some(number) = &service.number
            && let Some(path) = numbers.insert(number.value, &service.path)
        {
            let wrong = format!("{} is also the number of {path}", number.value);
            errors.add(number.at, &number.path, wrong, "give each service its own");
        }
        if let (Some(vip), Some(port), Some(protocol)) = (&service.vip, &service.port, service.protocol)
            && let Some(path) = keys.insert((vip.value, port.value, protocol), &service.path)
        {
            let wrong = format!("{} {} {protocol} is also {path}", vip.value, port.value);
            errors.add(port.at, &port.path, wrong, "use another port, VIP or protocol");
        }
    }
}
