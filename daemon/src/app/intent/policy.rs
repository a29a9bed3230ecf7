//! What the configuration file says of the cluster's Services, in the words of the plan.

use bascule_core::node::config::Announce;
use bascule_core::service::NodeSpec;
use bascule_core::service::plan::{Limits, PlanPolicy, PlanSites};
use bascule_core::service::translate::Policy;
use bascule_core::shard::eligible::NodePolicy;
use bascule_ebpf_common::forward::{MAX_SERVICES, MAX_SOURCES};
use bascule_ebpf_common::{MAX_FORWARDED, MAX_VIPS};

use crate::config::Loaded;

/// Room among the source ranges for the networks inside, which share their map.
const INSIDE: u32 = 2048;

/// Room for what is on its way out: an address is guarded until it is off its link, a slot is used again after a second. A full map of
/// the fence would be the node's fault, and must not come about by Services that come and go.
const LEAVING: u32 = 512;

/// The sizes of the maps, as far as Services reach them.
fn limits() -> Limits {
    let size = |map: u32, reserve: u32| usize::try_from(map - reserve).unwrap_or(usize::MAX);
    Limits {
        addresses: size(MAX_VIPS, LEAVING),
        frames: size(MAX_FORWARDED, LEAVING),
        slots: size(MAX_SERVICES, LEAVING),
        sources: size(MAX_SOURCES, INSIDE),
    }
}

/// `None`: Services are left alone. `sites`: the file's and the cluster's.
pub(in crate::app) fn of(file: &Loaded, sites: Option<PlanSites>) -> Option<PlanPolicy> {
    let services = file.kubernetes.as_ref()?.services.as_ref()?;
    let forwarding = file.forwarding.iter();
    let groups = file.node.groups.iter().flat_map(|group| group.owned());
    let anycast = file.node.anycast.iter().flat_map(|vip| vip.addresses.iter().copied());
    Some(PlanPolicy {
        translate: Policy {
            classes: services.classes.clone(),
            unclassed: services.unclassed,
            node: file.node.node.clone(),
            everywhere: services.announce == Announce::Bgp,
            delivery: services.delivery,
            returns: services.returns,
            when_unplaced: services.when_unplaced,
            drain: services.drain,
        },
        nodes: NodePolicy {
            selector: services.selector.clone(),
            honour_exclude: services.honour_exclude,
            require_ready: services.require_ready,
        },
        cluster: services.cluster.clone(),
        shards: services.shards,
        announce: services.announce,
        interface: services.interface.clone(),
        taken: groups.chain(anycast).collect(),
        file_vrids: file.node.groups.iter().map(|group| (group.vrid, group.name.clone())).collect(),
        file_neighbors: file.bgp.as_ref().map(|bgp| bgp.speaker.neighbors.iter().map(|n| n.name.clone()).collect()),
        file_services: forwarding.clone().flat_map(|f| &f.config.services).map(|service| service.key()).collect(),
        file_nodes: forwarding.flat_map(|f| f.config.nodes.clone()).filter(|node| here(file, node)).collect(),
        sites,
        limits: limits(),
    })
}

/// Is it a node of this site?
pub(super) fn here(file: &Loaded, node: &NodeSpec) -> bool {
    file.sites.as_ref().is_none_or(|sites| node.site == sites.here.0)
}
