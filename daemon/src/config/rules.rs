//! Rules over several fields and over several VIPs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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

/// Most addresses of all VIPs: the fence's map.
const OWNED_MAX: usize = bascule_ebpf_common::MAX_VIPS as usize;

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
    let mut seen: HashMap<IpAddr, &At<IpAddr>> = HashMap::new();
    for address in vips.iter().filter_map(|v| v.addresses.as_ref()).flat_map(|a| &a.items) {
        match seen.entry(address.value) {
            Entry::Occupied(earlier) => {
                let wrong = format!("{} is already given at {}", address.value, earlier.get().path);
                errors.add(address.at, &address.path, wrong, "give each address once");
            }
            Entry::Vacant(free) => {
                let _address = free.insert(address);
            }
        }
    }
    if let Some(too_many) =
        vips.iter().scan(0, |sum, v| Some((v, add(sum, v.owned())))).find(|(_, sum)| *sum > OWNED_MAX)
    {
        let wrong = format!("more than {OWNED_MAX} addresses up to here, link-local ones counted");
        errors.add(too_many.0.at, &too_many.0.path, wrong, format!("use at most {OWNED_MAX} on a node"));
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
    if let (Some(a), Some(b)) = (&earlier.lease, &vip.lease)
        && a.value.store == b.value.store
    {
        let wrong = format!("{} is also the lease of {}", b.value.store, earlier.path);
        errors.add(b.at, &b.path, wrong, "put the addresses into one VIP, or name another lease");
    }
    let (link_a, link_b) = (earlier.link(), vip.link());
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

fn add(sum: &mut usize, more: usize) -> usize {
    *sum += more;
    *sum
}
