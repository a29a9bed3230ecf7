//! Endpoints of a service.

use std::net::{IpAddr, SocketAddr};

use bascule_core::service::{Delivery, EndpointSpec};

use super::super::nearest::nearest;
use super::super::read::{At, Map};
use super::super::values;
use super::check::Check;
use super::{Around, ENDPOINTS_MAX};

/// An endpoint as far as it could be read.
pub(super) struct Endpoint {
    pub(super) name: Option<At<String>>,
    pub(super) address: Option<At<IpAddr>>,
    pub(super) port: Option<At<u16>>,
    /// `None`: it could not be read.
    pub(super) node: Option<Option<String>>,
    pub(super) weight: Option<u16>,
    draining: Option<bool>,
}

impl Endpoint {
    /// The core's type; `None` when an error was noted.
    pub(super) fn spec(&self, check: Option<&Check>) -> Option<EndpointSpec> {
        let (address, port) = (self.address.as_ref()?.value, self.port.as_ref()?.value);
        let name = self.name.as_ref()?.value.clone();
        Some(EndpointSpec {
            check: check.map(|c| Box::new(c.of(&name, SocketAddr::new(address, port)))),
            name,
            address,
            port,
            node: self.node.clone()?.map(Into::into),
            weight: self.weight?,
            draining: self.draining?,
        })
    }
}

pub(super) fn read(map: &Map<'_>, port: Option<u16>, delivery: Option<Delivery>, around: &Around<'_>) -> Vec<Endpoint> {
    if !map.has("endpoints") {
        if delivery.is_some_and(|d| d != Delivery::None) {
            map.wrong("endpoints", "missing", "give 1 to 1024 endpoints, or delivery: none");
        }
        return Vec::new();
    }
    let Some(list) = map.sections("endpoints", ENDPOINTS_MAX) else { return Vec::new() };
    if list.value.is_empty() {
        around.errors.add(list.at, &list.path, "the list is empty", "give 1 to 1024 endpoints");
    }
    list.value.iter().flatten().map(|m| endpoint(m, port, around)).collect()
}

fn endpoint(map: &Map<'_>, service_port: Option<u16>, around: &Around<'_>) -> Endpoint {
    let address = map.text("address", values::global);
    let given = map.whole("port");
    let port = match (given, map.has("port")) {
        (Some(port), _) => Some(port),
        (None, true) => None,
        (None, false) => service_port.map(|value| At { value, at: map.at, path: map.path.clone() }),
    };
    let name = match (&address, &port) {
        _ if map.has("name") => map.text("name", values::name),
        (Some(address), Some(port)) => {
            let value = format!("{}-{}", address.value, port.value).replace(['.', ':'], "-");
            // `::1` would start with the separator.
            let value = value.trim_start_matches('-').to_owned();
            Some(At { value, at: address.at, path: map.path.clone() })
        }
        _ => None,
    };
    Endpoint {
        name,
        address,
        port,
        node: node(map, around),
        weight: map.whole("weight").map(|w| w.value),
        draining: map.flag("draining"),
    }
}

/// The name of a node that exists.
fn node(map: &Map<'_>, around: &Around<'_>) -> Option<Option<String>> {
    if !map.has("node") {
        return Some(None);
    }
    let node = map.text("node", values::node_name)?;
    if let Some(forwarding) = around.forwarding
        && !forwarding.open
        && !forwarding.names().any(|n| n == node.value)
    {
        let right = match nearest(&node.value, forwarding.names()) {
            Some(near) => format!("did you mean {near}?"),
            None => "use a name of forwarding.nodes".into(),
        };
        around.errors.add(node.at, &node.path, format!("no node is called {}", node.value), right);
    }
    Some(Some(node.value))
}
