//! Rules over several fields and over several VIPs.

use std::net::IpAddr;

use bascule_core::types::Family;

use super::read::{At, Errors};
use super::vips::Vip;

/// The family as people call it.
pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Rules within one VIP.
pub(super) fn within(vip: &Vip, errors: &Errors) {
    let Some(addresses) = &vip.addresses else { return };
    let has = |family| addresses.items.iter().any(|a| Family::of(&a.value) == family);
    if let Some(link_local) = &vip.link_local
        && addresses.complete
        && !has(Family::V6)
    {
        let wrong = format!("{} is given, but the VIP has no IPv6 address", link_local.value);
        errors.add(link_local.at, &link_local.path, wrong, "remove it, or add an IPv6 address");
    }
    let Some(peers) = &vip.peers else { return };
    for (i, peer) in peers.items.iter().enumerate() {
        if peers.items[..i].iter().any(|p| p.value == peer.value) {
            errors.add(peer.at, &peer.path, format!("{} is listed twice", peer.value), "list each peer once");
        }
        if addresses.items.iter().any(|a| a.value == peer.value) {
            let wrong = format!("{} is an address of this VIP", peer.value);
            errors.add(peer.at, &peer.path, wrong, "use the peer's own address");
        }
        let family = Family::of(&peer.value);
        if addresses.complete && !addresses.items.is_empty() && !has(family) {
            let name = family_name(family);
            let wrong = format!("{} is {name}, but the VIP has no {name} address", peer.value);
            errors.add(peer.at, &peer.path, wrong, "remove it");
        }
    }
    if peers.items.is_empty() || !peers.complete {
        return;
    }
    for family in [Family::V4, Family::V6] {
        if has(family) && !peers.items.iter().any(|p| Family::of(&p.value) == family) {
            let name = family_name(family);
            errors.add(
                peers.at,
                &peers.path,
                format!("no {name} peer, but the VIP has {name} addresses"),
                format!("add the {name} addresses of the peers"),
            );
        }
    }
}

/// Rules across VIPs.
pub(super) fn across(vips: &[Vip], errors: &Errors, warnings: &mut Vec<String>) {
    let mut seen: Vec<&At<IpAddr>> = Vec::new();
    for address in vips.iter().filter_map(|v| v.addresses.as_ref()).flat_map(|a| &a.items) {
        match seen.iter().find(|s| s.value == address.value) {
            Some(earlier) => {
                let wrong = format!("{} is already given at {}", address.value, earlier.path);
                errors.add(address.at, &address.path, wrong, "give each address once");
            }
            None => seen.push(address),
        }
    }
    for (i, vip) in vips.iter().enumerate() {
        for earlier in &vips[..i] {
            pair(earlier, vip, errors, warnings);
        }
    }
}

fn pair(earlier: &Vip, vip: &Vip, errors: &Errors, warnings: &mut Vec<String>) {
    if let (Some(a), Some(b)) = (&earlier.name, &vip.name)
        && a.value == b.value
    {
        errors.add(
            b.at,
            &b.path,
            format!("{} is also the name at line {}", b.value, a.at.line),
            "give each VIP its own",
        );
    }
    let link = |v: &Vip| v.interface.as_ref().map(|i| i.value.clone());
    let (link_a, link_b) = (link(earlier), link(vip));
    let maybe_same = link_a.is_none() || link_b.is_none() || link_a == link_b;
    if let (Some(a), Some(b)) = (&earlier.vrid, &vip.vrid)
        && a.value == b.value
        && maybe_same
    {
        if link_a == link_b {
            let wrong = format!("{} is also the VRID of {} on the same interface", b.value, earlier.path);
            let right =
                if link_a.is_none() { "give each its own, or set interface on both" } else { "give each its own" };
            errors.add(b.at, &b.path, wrong, right);
        } else {
            warnings.push(format!(
                "{}: {} is also the VRID of {}; this is refused if both are on one interface",
                b.path, b.value, earlier.path
            ));
        }
    }
    if let (Some(a), Some(b)) = (&earlier.link_local, &vip.link_local)
        && a.value == b.value
        && link_a == link_b
    {
        let wrong = format!("{} is already given at {}", b.value, a.path);
        errors.add(b.at, &b.path, wrong, "give each virtual router its own");
    }
}
