//! Rules over several neighbors, and between neighbors and VIPs.

use bascule_bgp::config::NeighborConfig;
use bascule_core::types::Family as AddressFamily;

use super::super::read::Errors;
use super::super::rules::family_name;
use super::super::vips::Vips;
use super::neighbor::Neighbor;

/// VIPs with routes need a speaker.
pub(super) fn without_speaker(vips: &Vips, errors: &Errors) {
    for announce in vips.announced_over_bgp() {
        errors.add(
            announce.at,
            &announce.path,
            format!("{}, but there is no bgp section", announce.value),
            "add bgp with its neighbors",
        );
    }
}

/// Rules across neighbors.
pub(super) fn across(neighbors: &[Neighbor], vips: Option<&Vips>, errors: &Errors) {
    for (i, neighbor) in neighbors.iter().enumerate() {
        for earlier in &neighbors[..i] {
            pair(earlier, neighbor, errors);
        }
        let own = [neighbor.address.as_ref(), neighbor.source.as_ref()];
        for address in own.into_iter().flatten() {
            if vips.is_some_and(|v| v.has_address(&address.value)) {
                let wrong = format!("{} is an address of a VIP", address.value);
                errors.add(address.at, &address.path, wrong, "use an address that does not move");
            }
        }
    }
}

fn pair(earlier: &Neighbor, neighbor: &Neighbor, errors: &Errors) {
    if let (Some(a), Some(b)) = (&earlier.name, &neighbor.name)
        && a.value == b.value
    {
        let wrong = format!("{} is also the name at line {}", b.value, a.at.line);
        errors.add(b.at, &b.path, wrong, "give each neighbor its own");
    }
    let link = |n: &Neighbor| n.interface.as_ref().map(|i| i.value.clone());
    if let (Some(a), Some(b)) = (&earlier.address, &neighbor.address)
        && a.value == b.value
        && link(earlier) == link(neighbor)
    {
        // A neighbor that dials is known by its address alone.
        let wrong = format!("{} is already given at {}", b.value, a.path);
        errors.add(b.at, &b.path, wrong, "use one session for both families (families: [ipv4, ipv6])");
    }
}

/// What would be announced to nobody.
pub(super) fn unused(vips: &Vips, neighbors: &[NeighborConfig], warnings: &mut Vec<String>) {
    if vips.announced_over_bgp().next().is_none() {
        warnings.push("bgp: no VIP is announced over it; set announce: bgp or both on one".into());
    }
    for family in [AddressFamily::V4, AddressFamily::V6] {
        let bgp = match family {
            AddressFamily::V4 => bascule_bgp::wire::Family::Ipv4,
            AddressFamily::V6 => bascule_bgp::wire::Family::Ipv6,
        };
        if vips.routed(family) && !neighbors.iter().any(|n| n.offers(bgp)) {
            let name = family_name(family);
            warnings.push(format!(
                "bgp.neighbors: no neighbor has the family {}, and VIPs have {name} addresses",
                bgp.as_str()
            ));
        }
    }
}
