//! VIPs, one by one. What concerns several of them is checked in [`super::rules`].

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use bascule_core::announce::l2::AnnounceConfig;
use bascule_core::node::config::{Announce, AnycastConfig, GroupConfig, LeaseConfig, WhenAllFail};
use bascule_core::types::{Centis, Family, HEALTHY_MIN, rank_priority};

mod anycast;
mod lease;

use super::error::Pos;
use super::etcd::Etcd;
use super::gates::Gate;
use super::nearest::nearest;
use super::read::{At, Errors, Items, Map};
use super::{rules, values};

/// Most addresses of one family: what fits an advert that every peer accepts (issue: 1 to 20).
const ADDRESSES_MAX: usize = 20;
/// Most VIPs: each takes a shard of the fence.
const VIPS_MAX: usize = bascule_ebpf_common::MAX_SHARDS as usize;
/// Ageing time of a bridge's table by default (IEEE 802.1Q table 8-4; Linux bridges the same).
const AGEING: Duration = Duration::from_secs(300);
/// Ranks with a priority of their own: four 48 apart, then 109 down to 100 ([`rank_priority`]).
const RANKS: usize = 14;

/// A VIP as far as it could be read.
pub(super) struct Vip {
    pub(super) at: Pos,
    pub(super) path: String,
    pub(super) name: Option<At<String>>,
    pub(super) addresses: Option<Items<IpAddr>>,
    pub(super) link_local: Option<At<Ipv6Addr>>,
    pub(super) interface: Option<At<String>>,
    pub(super) vrid: Option<At<u8>>,
    pub(super) lease: Option<At<LeaseConfig>>,
    /// VRRP elects it: said, or not said otherwise.
    by_vrrp: bool,
    pub(super) peers: Option<Items<IpAddr>>,
    announce: Option<At<&'static str>>,
    scope: Option<At<&'static str>>,
    /// What the core is told of it; `None` when an error was noted.
    made: Option<Made>,
}

/// What the core is told of a VIP.
enum Made {
    /// By `scope: owner`.
    Group(Box<GroupConfig>),
    /// By `scope: all`.
    Anycast(AnycastConfig),
}

/// Every VIP of the file.
pub(super) struct Vips(Vec<Vip>);

impl Vips {
    /// What the core is told; `None` when an error was noted.
    pub(super) fn finish(self) -> Option<(Vec<GroupConfig>, Vec<AnycastConfig>)> {
        let (mut groups, mut anycast) = (Vec::new(), Vec::new());
        for vip in self.0 {
            match vip.made? {
                Made::Group(group) => groups.push(*group),
                Made::Anycast(vip) => anycast.push(vip),
            }
        }
        Some((groups, anycast))
    }

    /// The field `announce` of each VIP with routes, as far as it could be read.
    pub(super) fn announced_over_bgp(&self) -> impl Iterator<Item = &At<&'static str>> {
        self.0.iter().filter_map(|v| v.announce.as_ref()).filter(|a| a.value != "l2")
    }

    /// The name of each VIP, and whether it has routes.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().filter_map(|v| Some((v.name.as_ref()?.value.as_str(), v.is_routed())))
    }

    /// True when a VIP has this address.
    pub(super) fn has_address(&self, address: &IpAddr) -> bool {
        self.0.iter().filter_map(|v| v.addresses.as_ref()).any(|a| a.items.iter().any(|a| a.value == *address))
    }

    /// True when a VIP with routes has an address of this family.
    pub(super) fn routed(&self, family: Family) -> bool {
        let addresses = self.0.iter().filter(|v| v.is_routed()).filter_map(|v| v.addresses.as_ref());
        addresses.flat_map(|a| &a.items).any(|a| Family::of(&a.value) == family)
    }
}

impl Vip {
    fn is_routed(&self) -> bool {
        self.announce.as_ref().is_some_and(|a| a.value != "l2")
    }

    fn is_anycast(&self) -> bool {
        self.scope.as_ref().is_some_and(|s| s.value == "all")
    }

    /// Addresses that the fence must know, the link-local one counted.
    pub(super) fn owned(&self) -> usize {
        if self.is_anycast() {
            return 0;
        }
        let addresses = self.addresses.as_ref().map_or(&[][..], |a| &a.items);
        // The link-local address of the IPv6 router comes on top.
        addresses.len() + usize::from(self.lease.is_none() && addresses.iter().any(|a| a.value.is_ipv6()))
    }

    /// The link, where it is named.
    pub(super) fn link(&self) -> Option<&str> {
        self.interface.as_ref().map(|i| i.value.as_str())
    }
}

/// What the rest of the file says that VIPs refer to.
pub(super) struct Known<'a> {
    pub(super) node: Option<&'a At<String>>,
    pub(super) gates: &'a [Gate],
    pub(super) etcd: Option<&'a Etcd>,
    /// Services of a cluster bring VIPs, too.
    pub(super) cluster: bool,
}

/// Reads the VIPs and applies every rule.
pub(super) fn read(file: &Map<'_>, known: &Known<'_>, errors: &Errors, warnings: &mut Vec<String>) -> Option<Vips> {
    let carries = known.cluster || file.has("forwarding");
    if !file.has("vips") {
        if carries {
            // A node that only balances, only carries endpoints, or owns what its cluster asks for.
            return Some(Vips(Vec::new()));
        }
        file.wrong("vips", "missing", "use a list of mappings");
        return None;
    }
    let list = file.sections("vips", VIPS_MAX)?;
    if list.value.is_empty() && !carries {
        errors.add(list.at, &list.path, "the list is empty", "give at least one VIP");
    }
    let vips: Vec<Vip> = list.value.iter().flatten().map(|m| vip(m, known, errors, warnings)).collect();
    for vip in &vips {
        rules::within(vip, errors);
    }
    rules::across(&vips, errors, warnings);
    // What is not a mapping was noted as such.
    Some(Vips(vips))
}

fn vip(map: &Map<'_>, known: &Known<'_>, errors: &Errors, warnings: &mut Vec<String>) -> Vip {
    let mut vip = Vip {
        at: map.at,
        path: map.path.clone(),
        name: map.text("name", values::name),
        addresses: map.texts("addresses", values::vip_address),
        link_local: map.text("linkLocal", values::link_local),
        interface: map.text("interface", values::link_name),
        vrid: None,
        lease: None,
        by_vrrp: false,
        peers: map.texts("unicastPeers", values::unicast),
        announce: map.word_at("announce"),
        scope: map.word_at("scope"),
        made: None,
    };
    if vip.is_anycast() {
        if let (Some(scope), Some("l2" | "both")) = (&vip.scope, vip.announce.as_ref().map(|a| a.value)) {
            let wrong = "all nodes cannot answer for one address by ARP and NDP";
            errors.add(scope.at, &scope.path, wrong, "set announce: bgp, or scope: owner");
        }
        vip.made = anycast::read(map, &vip, known.gates, errors);
        return vip;
    }
    let elects = lease::read(map, known.etcd, errors);
    match elects {
        Some(lease::Elects::Vrrp) => vip.by_vrrp = true,
        Some(lease::Elects::Lease(lease)) => vip.lease = Some(lease),
        None => {}
    }
    vip.vrid = if map.has("vrid") {
        map.whole("vrid")
    } else {
        if vip.by_vrrp {
            map.wrong("vrid", "missing", "use 1 to 255");
        }
        None
    };
    if let Some(addresses) = &vip.addresses {
        count(addresses, errors);
    }
    vip.made = group(map, &vip, known, errors, warnings).map(|group| Made::Group(Box::new(group)));
    vip
}

fn count(addresses: &Items<IpAddr>, errors: &Errors) {
    if addresses.items.is_empty() && addresses.complete {
        errors.add(addresses.at, &addresses.path, "the list is empty", "give 1 to 20 addresses of a family");
    }
    for family in [Family::V4, Family::V6] {
        let of_family = addresses.items.iter().filter(|a| Family::of(&a.value) == family);
        let number = of_family.clone().count();
        if let Some(first_too_many) = of_family.clone().nth(ADDRESSES_MAX) {
            let wrong = format!("{number} {} addresses", rules::family_name(family));
            errors.add(first_too_many.at, &addresses.path, wrong, "use at most 20 of a family, and more VIPs");
        }
    }
}

fn group(
    map: &Map<'_>,
    vip: &Vip,
    known: &Known<'_>,
    errors: &Errors,
    warnings: &mut Vec<String>,
) -> Option<GroupConfig> {
    // Everything is read before the first `?`, so that every error of this VIP is noted.
    let lease = vip.lease.as_ref().map(|lease| lease.value.clone());
    let (priority, vrid) = match &lease {
        // What belongs to VRRP means nothing.
        Some(_) => (Some(HEALTHY_MIN), Some(0)),
        None if vip.by_vrrp => (priority(map, known.node, errors, warnings), vip.vrid.as_ref().map(|v| v.value)),
        // Who elects is not known: the error for that was noted.
        None => (None, None),
    };
    let interval = map.time("advertInterval");
    let (preempt, accept, strict_rfc) = (map.flag("preempt"), map.flag("accept"), map.flag("strictRfc"));
    let conflict_probe = map.flag("conflictProbe");
    let gates = used_gates(map, known.gates, errors);
    let when_all_fail = map.word("whenAllFail");
    let l2 = if map.has("l2") { schedule(map, warnings) } else { Some(AnnounceConfig::default()) };
    if vip.announce.as_ref().is_some_and(|a| a.value == "bgp") {
        for key in ["l2", "conflictProbe"].into_iter().filter(|key| map.has(key)) {
            warnings.push(format!("{}: has no effect with announce: bgp", map.path_of(key)));
        }
    }
    let drain_time = map.time("drainTime");
    if when_all_fail == Some("release") && gates.as_ref().is_some_and(Vec::is_empty) {
        warnings.push(format!("{}.whenAllFail: release has no effect without gates", map.path));
    }
    let centis = u16::try_from(interval?.value.as_millis() / 10).ok().and_then(Centis::new);
    let group = GroupConfig {
        name: vip.name.as_ref()?.value.clone(),
        addresses: vip.addresses.as_ref()?.items.iter().map(|a| a.value).collect(),
        link_local: vip.link_local.as_ref().map(|l| l.value),
        interface: vip.interface.as_ref().map(|i| i.value.clone()),
        further_interfaces: Vec::new(),
        lease,
        vrid: vrid?,
        priority: priority?,
        interval: centis.expect("the table holds the interval within 10ms to 40950ms"),
        preempt: preempt?,
        accept: accept?,
        strict_rfc: strict_rfc?,
        unicast_peers: vip.peers.as_ref()?.items.iter().map(|p| p.value).collect(),
        conflict_probe: conflict_probe?,
        gates: gates?,
        when_all_fail: if when_all_fail? == "release" { WhenAllFail::Release } else { WhenAllFail::Keep },
        announce: match vip.announce.as_ref()?.value {
            "bgp" => Announce::Bgp,
            "both" => Announce::Both,
            _ => Announce::L2,
        },
        l2: l2?,
        drain_time: drain_time?.value,
        shard: None,
        barred: None,
    };
    Some(group)
}

/// The priority itself, or the one of this node's rank.
fn priority(map: &Map<'_>, node: Option<&At<String>>, errors: &Errors, warnings: &mut Vec<String>) -> Option<u8> {
    let own = map.has("priority").then(|| map.whole("priority")).flatten();
    let nodes = map.has("nodes").then(|| map.texts("nodes", values::node_name)).flatten();
    match (map.has("priority"), map.has("nodes")) {
        (true, true) => {
            map.wrong("", "both priority and nodes are given", "use one of them");
            return None;
        }
        (false, false) => {
            map.wrong(
                "",
                "neither priority nor nodes is given",
                "use priority: 100 to 254, or nodes: the names by rank",
            );
            return None;
        }
        (true, false) => return own.map(|p| p.value),
        (false, true) => {}
    }
    let nodes = nodes?;
    if nodes.items.is_empty() && nodes.complete {
        errors.add(nodes.at, &nodes.path, "the list is empty", "list the nodes by rank");
        return None;
    }
    for (i, name) in nodes.items.iter().enumerate() {
        if nodes.items[..i].iter().any(|n| n.value == name.value) {
            errors.add(name.at, &name.path, format!("{} is listed twice", name.value), "list each node once");
        }
    }
    if nodes.items.len() > RANKS {
        warnings.push(format!("{}: the nodes after the 14th share priority 100", nodes.path));
    }
    let node = node?;
    match nodes.items.iter().position(|n| n.value == node.value) {
        Some(rank) => Some(rank_priority(rank)),
        None if nodes.complete => {
            let wrong = format!("this node, {}, is not in the list", node.value);
            errors.add(nodes.at, &nodes.path, wrong, "add it, or set node to a name of the list");
            None
        }
        None => None,
    }
}

/// Names of gates that exist.
fn used_gates(map: &Map<'_>, gates: &[Gate], errors: &Errors) -> Option<Vec<String>> {
    let used = map.texts("gates", values::name)?;
    let known = || gates.iter().filter_map(|g| g.name.as_ref()).map(|n| n.value.as_str());
    for (i, gate) in used.items.iter().enumerate() {
        if used.items[..i].iter().any(|g| g.value == gate.value) {
            errors.add(gate.at, &gate.path, format!("{} is listed twice", gate.value), "list each gate once");
        } else if !known().any(|k| k == gate.value) {
            let right = match nearest(&gate.value, known()) {
                Some(near) => format!("did you mean {near}?"),
                None if known().next().is_none() => "define it under gates".into(),
                None => format!("use {}", known().collect::<Vec<_>>().join(", ")),
            };
            errors.add(gate.at, &gate.path, format!("no gate is called {}", gate.value), right);
        }
    }
    Some(used.items.into_iter().map(|g| g.value).collect())
}

fn schedule(map: &Map<'_>, warnings: &mut Vec<String>) -> Option<AnnounceConfig> {
    let map = map.section("l2")?;
    let (burst, burst_interval, refresh) = (map.whole("burst"), map.time("burstInterval"), map.time("refresh"));
    if refresh.as_ref().is_some_and(|r| r.value > AGEING) {
        let path = map.path_of("refresh");
        warnings.push(format!("{path}: longer than 300s, after which a switch forgets where the addresses are"));
    }
    Some(AnnounceConfig { burst: burst?.value, burst_interval: burst_interval?.value, refresh: refresh?.value })
}
