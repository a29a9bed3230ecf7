//! BFD sessions: those of the section `bfd`, and the list that other sections add theirs to.

use bascule_core::bfd::config::{PeerConfig, min_ttl};
use std::net::IpAddr;

use super::read::{At, Errors, Map};
use super::values;

/// Most sessions of the section, and of a cluster's nodes: each is a row of the machine that every packet and every turn looks at.
pub(super) const PEERS_MAX: usize = 256;

/// Reads the section and adds its sessions to those that BGP neighbors ask for. No two may be mistaken for each other.
pub(super) fn read(file: &Map<'_>, of_neighbors: Vec<PeerConfig>, errors: &Errors) -> Vec<PeerConfig> {
    let mut all = of_neighbors;
    // Where each session of this section stands; those of neighbors come before.
    let neighbors = all.len();
    let mut lines = Vec::new();
    let Some(section) = file.has("bfd").then(|| file.section("bfd")).flatten() else { return all };
    let Some(list) = section.sections("peers", PEERS_MAX) else { return all };
    for map in list.value.iter().flatten() {
        let Some(peer) = peer(map) else { continue };
        match all.iter().position(|p| p.collides(&peer.value) || p.name == peer.value.name) {
            None => {
                all.push(peer.value);
                lines.push(peer.at.line);
            }
            Some(earlier) => {
                let place = match earlier.checked_sub(neighbors).and_then(|i| lines.get(i)) {
                    Some(line) => format!("at line {line}"),
                    None => format!("of the BGP neighbor {}", all[earlier].name),
                };
                let wrong = format!("there is a BFD session to {} {place}", peer.value.remote);
                errors.add(peer.at, &peer.path, wrong, "keep one of them, or give both another source or interface");
            }
        }
    }
    all
}

fn peer(map: &Map<'_>) -> Option<At<PeerConfig>> {
    let address = map.text("address", values::unicast);
    let interface = map.has("interface").then(|| map.text("interface", values::link_name));
    let source = map.has("source").then(|| map.text("source", values::unicast));
    let hops = map.has("multihop").then(|| map.whole::<u8>("multihop"));
    let minimum = minimum_ttl(map, map.has("multihop"));
    let (transmit, receive) = (map.time("transmitInterval"), map.time("receiveInterval"));
    let (multiplier, passive) = (map.whole::<u8>("multiplier"), map.flag("passive"));
    // What is absent is fine, what is wrong was noted.
    let (address, interface, source, hops) = (address?, whole(interface)?, whole(source)?, whole(hops)?);
    let right = check(map, &address, interface.as_ref(), source.as_ref(), hops.as_ref());
    let interface = interface.map(|i| i.value);
    let name = PeerConfig::default_name(address.value, interface.as_deref());
    let config = PeerConfig {
        local: source.map(|s| s.value),
        interface,
        multihop: least_ttl(hops.map(|h| h.value), minimum?),
        desired_min_tx: transmit?.value,
        required_min_rx: receive?.value,
        multiplier: multiplier?.value,
        passive: passive?,
        ..PeerConfig::new(&name, address.value)
    };
    right.then_some(At { value: config, at: address.at, path: address.path })
}

/// The field `minimumTtl`: `Some(None)` when it is not given, `None` when an error was noted.
pub(super) fn minimum_ttl(map: &Map<'_>, multihop: bool) -> Option<Option<u8>> {
    if !map.has("minimumTtl") {
        return Some(None);
    }
    let minimum = map.whole("minimumTtl")?;
    if !multihop {
        map.refuse(&minimum, "without multihop every packet must arrive with 255", "add multihop, or remove it");
        return None;
    }
    Some(Some(minimum.value))
}

/// What the core is told of a multihop session: the TTL given, or the one that follows from the hops.
pub(super) fn least_ttl(hops: Option<u8>, minimum: Option<u8>) -> Option<u8> {
    hops.map(|hops| minimum.unwrap_or_else(|| min_ttl(hops)))
}

/// An optional field: `None` when an error was noted for it.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
fn whole<T>(field: Option<Option<T>>) -> Option<Option<T>> {
    match field {
        None => Some(None),
        Some(None) => None,
        Some(given) => Some(given),
    }
}

/// Rules between the fields of one session.
fn check(
    map: &Map<'_>,
    address: &At<IpAddr>,
    interface: Option<&At<String>>,
    source: Option<&At<IpAddr>>,
    hops: Option<&At<u8>>,
) -> bool {
    let scoped = matches!(address.value, IpAddr::V6(a) if a.is_unicast_link_local());
    let mut right = true;
    let mut wrong = |field: &str, what: String, better: &str| {
        map.wrong(field, what, better);
        right = false;
    };
    match (hops, interface) {
        (Some(_), Some(_)) => {
            wrong("interface", "a multihop session is routed, not bound to a link".into(), "remove one of the two");
        }
        (Some(_), None) if scoped => {
            wrong("multihop", format!("{} is on the link itself", address.value), "use its global address");
        }
        (None, None) if scoped => {
            wrong("interface", format!("missing, and {} is on every link", address.value), "name the link");
        }
        (Some(_) | None, _) => {}
    }
    if let Some(source) = source.filter(|s| s.value.is_ipv4() != address.value.is_ipv4()) {
        let what = format!("{} is of another family than {}", source.value, address.value);
        wrong("source", what, "use an own address of the peer's family");
    }
    right
}
