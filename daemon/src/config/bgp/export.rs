//! How routes are presented to a neighbor.

use std::collections::BTreeSet;

use bascule_bgp::config::{ExportAction, ExportPolicy, ExportRule, NextHopMode, RouteAttributes};

use super::super::nearest::nearest;
use super::super::read::{Errors, Items, Map};
use super::super::values;
use super::super::vips::Vips;
use super::community;

/// Most rules: each VIP stands in one at most, and policies are compared route by route.
const RULES_MAX: usize = 256;

/// Reads `export` of a neighbor; the next hop holds for every route.
pub(super) fn read(
    neighbor: &Map<'_>,
    next_hop: NextHopMode,
    internal: Option<bool>,
    vips: Option<&Vips>,
    errors: &Errors,
    warnings: &mut Vec<String>,
) -> Option<ExportPolicy> {
    if !neighbor.has("export") {
        return Some(ExportPolicy { default: ExportAction { next_hop, ..ExportAction::default() }, rules: Vec::new() });
    }
    let map = neighbor.section("export")?;
    let default = action(&map, next_hop, internal, warnings);
    if !map.has("rules") {
        return Some(ExportPolicy { default: default?, rules: Vec::new() });
    }
    let list = map.sections("rules", RULES_MAX)?;
    let mut named: Vec<(String, u64)> = Vec::new();
    let mut rules = Vec::new();
    for rule in list.value.iter().flatten() {
        let action = action(rule, next_hop, internal, warnings);
        let names = rule.texts("vips", values::name);
        if let Some(names) = &names {
            check_names(names, vips, &mut named, errors);
        }
        rules.push(action.zip(names).map(|(action, names)| {
            let vips = names.items.into_iter().map(|n| n.value).collect();
            ExportRule { vips, prefixes: BTreeSet::new(), action }
        }));
    }
    let complete = rules.len() == list.value.len();
    let rules: Option<Vec<ExportRule>> = rules.into_iter().collect();
    Some(ExportPolicy { default: default?, rules: rules.filter(|_| complete)? })
}

pub(super) fn action(
    map: &Map<'_>,
    next_hop: NextHopMode,
    internal: Option<bool>,
    warnings: &mut Vec<String>,
) -> Option<ExportAction> {
    let deny = map.flag("deny");
    let communities = map.texts("communities", community::standard);
    let large_communities = map.texts("largeCommunities", community::large);
    let extended_communities = map.texts("extendedCommunities", community::extended);
    let number = |key| if map.has(key) { map.whole(key).map(|n| Some(n.value)) } else { Some(None) };
    let (med, local_pref) = (number("med"), number("localPref"));
    let prepend = map.whole("prepend");
    if map.has("localPref") && internal == Some(false) {
        warnings.push(format!("{}: is not sent to an external neighbor", map.path_of("localPref")));
    }
    if deny == Some(true) {
        for key in ["communities", "largeCommunities", "extendedCommunities", "med", "localPref", "prepend"] {
            if map.has(key) {
                warnings.push(format!("{}: has no effect with deny: true", map.path_of(key)));
            }
        }
    }
    Some(ExportAction {
        deny: deny?,
        attributes: RouteAttributes {
            communities: values_of(communities?),
            large_communities: values_of(large_communities?),
            extended_communities: values_of(extended_communities?),
            med: med?,
            local_pref: local_pref?,
        },
        prepend: prepend?.value,
        next_hop,
    })
}

fn values_of<T>(items: Items<T>) -> Vec<T> {
    items.items.into_iter().map(|i| i.value).collect()
}

/// VIPs that exist, are announced over BGP, and stand in no earlier rule. `named`: those of the rules so far, with their lines.
fn check_names(names: &Items<String>, vips: Option<&Vips>, named: &mut Vec<(String, u64)>, errors: &Errors) {
    if names.items.is_empty() && names.complete {
        errors.add(names.at, &names.path, "the list is empty", "name at least one VIP");
    }
    for name in &names.items {
        if let Some((_, line)) = named.iter().find(|(n, _)| *n == name.value) {
            let wrong = format!("{} stands at line {line} already, and the first rule holds", name.value);
            errors.add(name.at, &name.path, wrong, "name each VIP once");
        }
        named.push((name.value.clone(), name.at.line));
        let Some(vips) = vips else { continue };
        let known = || vips.names().filter(|(_, routed)| *routed).map(|(n, _)| n);
        match vips.names().find(|(n, _)| *n == name.value) {
            Some((_, true)) => {}
            Some((_, false)) => {
                let wrong = format!("{} is not announced over BGP", name.value);
                errors.add(name.at, &name.path, wrong, "remove it, or set announce: bgp on the VIP");
            }
            None => {
                let right = match nearest(&name.value, known()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => "use the name of a VIP announced over BGP".into(),
                };
                errors.add(name.at, &name.path, format!("no VIP is called {}", name.value), right);
            }
        }
    }
}
