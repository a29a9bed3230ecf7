//! A VIP that every eligible node announces (`scope: all`): what it has, and what it cannot have.

use bascule_core::node::config::AnycastConfig;

use super::super::gates::Gate;
use super::super::read::{Errors, Map};
use super::{Made, Vip, used_gates};

/// Fields of an election, which there is none of.
const ELECTION: [&str; 16] = [
    "ownership",
    "elector",
    "lease",
    "linkLocal",
    "interface",
    "vrid",
    "priority",
    "nodes",
    "advertInterval",
    "preempt",
    "accept",
    "strictRfc",
    "unicastPeers",
    "conflictProbe",
    "whenAllFail",
    "l2",
];

pub(super) fn read(map: &Map<'_>, vip: &Vip, gates: &[Gate], errors: &Errors) -> Option<Made> {
    for key in ELECTION.into_iter().chain(["drainTime"]) {
        let Some(at) = map.place_of(key) else { continue };
        let right = if key == "drainTime" { "remove it; bgp.drainTime holds" } else { "remove it" };
        errors.add(at, &map.path_of(key), "belongs to an election, which scope: all has not", right);
    }
    if let Some(addresses) = vip.addresses.as_ref().filter(|a| a.items.is_empty() && a.complete) {
        errors.add(addresses.at, &addresses.path, "the list is empty", "give at least one address");
    }
    let gates = used_gates(map, gates, errors);
    Some(Made::Anycast(AnycastConfig {
        name: vip.name.as_ref()?.value.clone(),
        addresses: vip.addresses.as_ref()?.items.iter().map(|a| a.value).collect(),
        gates: gates?,
    }))
}
