//! Rules within a site and across sites.

use std::collections::HashMap;
use std::net::SocketAddr;

use bascule_core::types::Family;

use super::super::read::{At, Errors, Map};
use super::super::rules::family_name;
use super::{Around, Gateway, Read};

/// A list that must not be empty.
pub(super) fn some<T>(list: &At<Vec<T>>, right: &str, errors: &Errors) -> Option<()> {
    if list.value.is_empty() {
        errors.add(list.at, &list.path, "the list is empty", right);
        return None;
    }
    Some(())
}

/// Ids of sites, names of relays, and names, ids and addresses of gateways differ; addresses are of one family. False: one does not.
pub(super) fn across(sites: &[Read], errors: &Errors) -> bool {
    let mut good = true;
    let mut twice = |at: &At<String>, line: Option<u64>, what: &str, right: &str| {
        if let Some(line) = line {
            errors.add(at.at, &at.path, format!("{} is also the {what} at line {line}", at.value), right);
            good = false;
        }
    };
    let (mut ids, mut addresses, mut numbers) = (HashMap::new(), HashMap::new(), HashMap::new());
    let named = |value: String, of: (super::super::error::Pos, &str)| At { value, at: of.0, path: of.1.to_owned() };
    for site in sites {
        if let Some(id) = &site.id {
            let shown = named(id.value.to_string(), (id.at, &id.path));
            twice(&shown, ids.insert(id.value, id.at.line), "id", "give each site its own");
        }
        let mut relays = HashMap::new();
        for (name, _) in site.relays.iter().flatten() {
            twice(name, relays.insert(&name.value, name.at.line), "name", "give each relay its own");
        }
        let mut names = HashMap::new();
        for gateway in site.gateways.iter().flatten() {
            let (name, id, address) = (&gateway.name, &gateway.id, &gateway.address);
            twice(name, names.insert(&name.value, name.at.line), "name", "give each gateway its own");
            let shown = named(id.value.to_string(), (id.at, &id.path));
            twice(&shown, numbers.insert(id.value, id.at.line), "id", "give each gateway its own");
            let shown = named(address.value.to_string(), (address.at, &address.path));
            twice(&shown, addresses.insert(address.value, address.at.line), "address", "give each address once");
        }
    }
    let mut gateways = sites.iter().flat_map(|site| site.gateways.iter().flatten());
    if let Some(first) = gateways.next() {
        let family = Family::of(&first.address.value);
        for other in gateways.filter(|g| Family::of(&g.address.value) != family) {
            let (address, other_family) = (&other.address, Family::of(&other.address.value));
            let wrong =
                format!("{} is {}, others are {}", address.value, family_name(other_family), family_name(family));
            errors.add(address.at, &address.path, wrong, "give all gateways an address of one family");
            good = false;
        }
    }
    good
}

/// Gateways of this site are nodes of `forwarding.nodes`, or of the cluster; those of others have ids that none of these has.
pub(super) fn nodes(sites: &[Read], here: &Read, around: &Around<'_>) -> bool {
    let mut good = true;
    let mut wrong = |id: &At<u16>, wrong: String, right: &str| {
        around.errors.add(id.at, &id.path, wrong, right);
        good = false;
    };
    for site in sites {
        for Gateway { name, id, .. } in site.gateways.iter().flatten() {
            let same_id = around.nodes.iter().find(|(_, of)| *of == id.value);
            // What two gateways share is told already.
            let told = || here.gateways.iter().flatten().any(|own| own.id.value == id.value);
            if site.name.value != here.name.value {
                if let Some((node, _)) = same_id.filter(|_| !told()) {
                    let text = format!("{} is also the id of node {node} here", id.value);
                    wrong(id, text, "give the nodes of all sites ids of their own");
                }
                continue;
            }
            // A node that the file does not know may be the cluster's.
            let known = around.nodes.iter().any(|(node, _)| *node == name.value);
            let other = match same_id {
                Some((node, _)) => *node != name.value,
                None => known || !around.cluster,
            };
            if other {
                let text = format!("{} is not the id of node {} in forwarding.nodes", id.value, name.value);
                wrong(id, text, "use the id that it has there");
            }
        }
    }
    good
}

/// This node's relay: one of its site's. `None` when an error was noted.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
pub(super) fn relay(
    site: &Map<'_>,
    relay: Option<Option<At<String>>>,
    listen: Option<Option<At<SocketAddr>>>,
    here: &Read,
) -> Option<Option<(String, SocketAddr)>> {
    let Some(relay) = relay else {
        if let Some(listen) = listen {
            site.refuse(&listen?, "this node is no relay", "add relay, or remove it");
            return None;
        }
        return Some(None);
    };
    let relay = relay?;
    let relays = here.relays.as_ref()?;
    let Some((_, address)) = relays.iter().find(|(name, _)| name.value == relay.value) else {
        let wrong = format!("{} is no relay of {}", relay.value, here.name.value);
        site.refuse(&relay, wrong, format!("add it to sites.{}.relays, or use a name of those", here.name.value));
        return None;
    };
    let listen = match listen {
        Some(listen) => listen?.value,
        None => address.value,
    };
    Some(Some((relay.value, listen)))
}

/// Where this node stands among the gateways of its site.
pub(super) fn rank(here: &Read, around: &Around<'_>) -> Option<u8> {
    let (this, gateways) = (around.this?, here.gateways.as_ref()?);
    let place = gateways.iter().position(|gateway| gateway.name.value == this.value);
    if place.is_none() {
        let wrong = format!("this node, {}, is not in the list", this.value);
        let path = format!("{}.gateways", here.name.path);
        around.errors.add(here.name.at, &path, wrong, "add it, or set node to a name of the list");
    }
    u8::try_from(place?).ok()
}

/// Ports that one node opens differ.
pub(super) fn ports(site: &Map<'_>, path: Option<&At<u16>>, nodes: Option<&At<u16>>, here: &Read, around: &Around<'_>) {
    for (port, of) in &around.taken {
        if let Some(path) = path.filter(|path| *port == path.value || *port == path.value + 1) {
            site.refuse(path, format!("{port} is the port of {of}"), "use two others");
        }
    }
    if let Some(nodes) = nodes
        && here.relays.iter().flatten().any(|(_, address)| address.value.port() == nodes.value)
    {
        let wrong = format!("{} is the port of a relay of {}", nodes.value, here.name.value);
        site.refuse(nodes, wrong, "use another one");
    }
}
