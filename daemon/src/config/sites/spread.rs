//! How a service is spread over sites.

use std::collections::BTreeMap;

use bascule_core::service::{Return, ServiceKey, ServiceSpec};
use bascule_core::site::SiteId;
use bascule_core::site::join::io::Capacity;
use bascule_core::site::policy::io::{Failback, Mode, ServicePolicy};

use super::super::read::{Errors, Map};
use super::Sites;

/// Sites that take turns.
const ORDER: core::ops::RangeInclusive<usize> = 2..=3;

/// A service of several sites, as this one has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spread {
    /// Its name.
    pub name: String,
    /// What the balancer calls it.
    pub key: ServiceKey,
    /// How it is spread.
    pub policy: ServicePolicy,
    /// What it can carry here.
    pub capacity: Capacity,
    /// The way of replies.
    pub returns: Return,
}

/// What stands around a service.
pub(in crate::config) struct Around<'a> {
    /// `None`: there are none, or they are wrong.
    pub(in crate::config) sites: Option<&'a Sites>,
    /// There is a section, right or wrong.
    pub(in crate::config) given: bool,
    /// What this site is stands in the cluster, and not in the file.
    pub(in crate::config) elsewhere: bool,
    /// There is an authority over leases: a section `etcd`, right or wrong.
    pub(in crate::config) authority: bool,
    pub(in crate::config) errors: &'a Errors,
}

/// A mode and a capacity.
pub(in crate::config) type Policy = (ServicePolicy, Capacity);

impl Spread {
    /// One site at a time has it, by a lease.
    pub const fn is_passive(&self) -> bool {
        matches!(self.policy.mode, Mode::ActivePassive { .. })
    }

    pub(in crate::config) fn new(spec: &ServiceSpec, (policy, capacity): Policy) -> Self {
        Self { name: spec.name.clone(), key: spec.key(), policy, capacity, returns: spec.returns }
    }
}

/// Reads `services[].sites`: `Some(None)` without it, `None` when an error was noted.
#[expect(clippy::option_option, reason = "absent, wrong and given are three things")]
pub(in crate::config) fn read(
    service: &Map<'_>,
    vip: Option<std::net::IpAddr>,
    around: &Around<'_>,
) -> Option<Option<Policy>> {
    if !service.has("sites") {
        return Some(None);
    }
    let map = service.section("sites")?;
    if !around.given {
        map.wrong("", "there is no site section", "add site and sites");
        return None;
    }
    if around.elsewhere {
        let wrong = "what this site is stands in a Site of the cluster, and not in this file";
        map.wrong("", wrong, "add it to sites, or use a Service and a SiteTrafficPolicy");
        return None;
    }
    let mode = map.word_at("mode");
    let each = map.has("each").then(|| weights(&map, around));
    let capacity = capacity(&map);
    if let (Some(sites), Some(vip)) = (around.sites, vip)
        && !sites.own().prefixes.iter().any(|net| net.contains(&vip))
    {
        let wrong = format!("{vip} is in none of the prefixes of {}: other sites would refuse it", sites.own().name);
        map.wrong("", wrong, format!("add it to sites.{}.prefixes", sites.own().name));
        return None;
    }
    let word = mode?.value;
    // What belongs to another mode.
    for (key, of) in [("each", "weighted"), ("order", "activePassive"), ("failback", "activePassive")] {
        if let Some(at) = map.place_of(key).filter(|_| word != of) {
            around.errors.add(at, &map.path_of(key), format!("the mode is {word}"), format!("remove it, or use {of}"));
            return None;
        }
    }
    let mode = match word {
        "weighted" => {
            let Some(each) = each else {
                map.wrong("each", "missing", "give each site a weight");
                return None;
            };
            Mode::Weighted(each?)
        }
        "activePassive" => passive(&map, around)?,
        _ => Mode::LocalFirst,
    };
    Some(Some((ServicePolicy { mode, ..ServicePolicy::default() }, capacity?)))
}

fn passive(map: &Map<'_>, around: &Around<'_>) -> Option<Mode> {
    let failback = if map.word("failback")? == "auto" { Failback::Automatic } else { Failback::Manual };
    if !around.authority {
        let at = map.place_of("mode").unwrap_or(map.at);
        let right = "add etcd, with a member in a third place";
        around.errors.add(
            at,
            &map.path_of("mode"),
            "activePassive needs an authority: there is no etcd section",
            right,
        );
        return None;
    }
    if !map.has("order") {
        map.wrong("order", "missing", "give 2 or 3 names of sites, the best first");
        return None;
    }
    let names = map.texts("order", crate::config::values::name).filter(|names| names.complete)?;
    // A row remembers who had its flows before, and before that: of a fourth site it would wait.
    if !ORDER.contains(&names.items.len()) {
        let at = map.place_of("order").unwrap_or(map.at);
        let wrong = format!("{} given", names.items.len());
        around.errors.add(at, &map.path_of("order"), wrong, "give 2 or 3 names of sites, the best first");
        return None;
    }
    let (sites, mut order) = (around.sites?, Vec::new());
    for name in &names.items {
        let Some((id, _)) = sites.all.iter().find(|(_, site)| site.name == name.value) else {
            map.refuse(name, format!("{} is none of sites", name.value), "use a name of sites, or add it there");
            return None;
        };
        if order.contains(id) {
            map.refuse(name, format!("{} is given twice", name.value), "give each site once");
            return None;
        }
        order.push(*id);
    }
    Some(Mode::ActivePassive { order, failback })
}

fn weights(map: &Map<'_>, around: &Around<'_>) -> Option<BTreeMap<SiteId, u32>> {
    let each = map.named("each", super::SITES_MAX)?;
    let mut weights = Some(BTreeMap::new());
    for (name, inner) in &each.value {
        let weight = inner.whole::<u32>("weight");
        let Some(sites) = around.sites else { continue };
        let found = sites.all.iter().find(|(_, site)| site.name == name.value);
        if found.is_none() {
            inner.refuse(name, format!("{} is none of sites", name.value), "use a name of sites, or add it there");
        }
        match (found, weight) {
            (Some((id, _)), Some(weight)) => drop(weights.as_mut().map(|w| w.insert(*id, weight.value))),
            _ => weights = None,
        }
    }
    if weights.as_ref().is_some_and(|w| around.sites.is_some() && w.values().all(|weight| *weight == 0)) {
        around.errors.add(each.at, &each.path, "no site has a weight above 0", "give one at least a weight");
        return None;
    }
    weights
}

fn capacity(map: &Map<'_>) -> Option<Capacity> {
    let whole = map.has("capacity").then(|| map.whole("capacity"));
    let each = map.has("capacityPerEndpoint").then(|| map.whole("capacityPerEndpoint"));
    match (whole, each) {
        (None, None) => Some(Capacity::Unknown),
        (Some(whole), None) => Some(Capacity::Service(whole?.value)),
        (None, Some(each)) => Some(Capacity::Endpoint(each?.value)),
        (Some(_), Some(each)) => {
            map.refuse(&each?, "capacity is given, too", "remove one of the two");
            None
        }
    }
}
