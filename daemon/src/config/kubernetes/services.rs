//! The section `kubernetes.services`: which Services are this daemon's, who may own their VIPs, and how these are announced and served.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bascule_core::node::config::{Announce, GroupConfig};
use bascule_core::service::{Delivery, Return, WhenUnplaced};
use bascule_core::shard::{ShardId, identity};

use super::super::forwarding::distinct;
use super::super::read::{At, Errors, Map};
use super::super::values;
use super::bfd::{self, ClusterBfd};

/// Where the intent comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The API server; the file keeps the last that was good.
    Api,
    /// The file, whoever writes it.
    File,
}

/// What is made of the cluster's Services.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterServices {
    /// Id of the cluster, of which the shards' identities are made.
    pub cluster: String,
    /// Where the intent comes from.
    pub source: Source,
    /// Classes that are ours.
    pub classes: BTreeSet<String>,
    /// Services without a class are ours.
    pub unclassed: bool,
    /// Link of the shards; `None`: that of this node's address.
    pub interface: Option<String>,
    /// Number of shards.
    pub shards: u8,
    /// How VIPs are announced; `Bgp`: by every node.
    pub announce: Announce,
    /// Who rewrites.
    pub delivery: Delivery,
    /// The way of replies.
    pub returns: Return,
    /// Who delivers to a pod whose network namespace is not found.
    pub when_unplaced: WhenUnplaced,
    /// How long a previous home is asked for flows.
    pub drain: Duration,
    /// BFD with the other nodes; `None`: none.
    pub bfd: Option<ClusterBfd>,
    /// Labels of the nodes that may own.
    pub selector: BTreeMap<String, String>,
    /// Only nodes whose condition Ready is True may own.
    pub require_ready: bool,
    /// The label that keeps load balancers off a node counts.
    pub honour_exclude: bool,
    /// This node may become the one that gives addresses and ids.
    pub allocator: bool,
    /// This node writes a VipStatus for each shard that it owns.
    pub report: bool,
    /// Namespace of the Lease of those that may.
    pub lease_namespace: String,
    /// The last good intent.
    pub intent_file: PathBuf,
}

impl ClusterServices {
    /// Rules that need the groups of the file.
    pub(in crate::config) fn against(&self, groups: &[GroupConfig], at: &Map<'_>) {
        for shard in (0..self.shards).map(ShardId) {
            let vrid = identity(&self.cluster, shard).vrid;
            for group in groups.iter().filter(|group| group.vrid == vrid) {
                let wrong = format!(
                    "{vrid} of VIP {} is also the VRID of shard {} of cluster {}",
                    group.name, shard.0, self.cluster
                );
                at.wrong("kubernetes.cluster", wrong, "give the VIP another vrid, or the cluster another id");
            }
        }
        let of_shard = |name: &str| name.strip_prefix("shard-").is_some_and(|n| n.parse::<u8>().is_ok());
        for group in groups.iter().filter(|group| of_shard(&group.name)) {
            at.wrong("vips", format!("{} is the name of a shard", group.name), "give the VIP another name");
        }
    }
}

pub(super) fn read(
    file: &Map<'_>,
    outer: &Map<'_>,
    cluster: Option<&Option<At<String>>>,
    base_dir: &Path,
    errors: &Errors,
) -> Option<ClusterServices> {
    let map = outer.section("services")?;
    if cluster.is_none() {
        outer.wrong("cluster", "missing, and services are given", "give the cluster an id, the same on all its nodes");
    }
    let source = map.word("source");
    let classes = map.texts("classes", values::load_balancer_class);
    if let Some(classes) = &classes {
        distinct(classes, "class", errors);
    }
    let unclassed = map.flag("unclassed");
    let interface = map.has("interface").then(|| map.text("interface", values::link_name));
    let shards = map.whole("shards");
    let (announce, delivery, returns) = (map.word_at("announce"), map.word_at("delivery"), map.word_at("return"));
    let when_unplaced = map.word("whenUnplaced");
    let drain = map.time("drain");
    let bfd = bfd::read(&map);
    let selector = map.texts("nodeSelector", values::label);
    let (require_ready, honour_exclude, allocator, report) =
        (map.flag("requireReady"), map.flag("honourExclude"), map.flag("allocator"), map.flag("report"));
    let lease_namespace = map.text("leaseNamespace", values::name);
    let intent_file = map.text("intentFile", values::path);
    if let Some(delivery) = delivery.as_ref().filter(|d| d.value != "none")
        && !file.has("forwarding")
    {
        let right = "add forwarding with its keyFile, or set delivery: none";
        errors.add(delivery.at, &delivery.path, format!("{} needs the data plane", delivery.value), right);
    }
    if let (Some(returns), Some(delivery)) = (&returns, &delivery)
        && returns.value == "viaIngress"
        && delivery.value != "direct"
    {
        let wrong = "viaIngress needs replies that are rewritten here";
        errors.add(returns.at, &returns.path, wrong, "use return: direct, or delivery: direct");
    }
    if let Some(announce) = announce.as_ref().filter(|a| a.value != "l2")
        && !file.has("bgp")
    {
        let wrong = format!("{} is given, but there is no bgp section", announce.value);
        errors.add(announce.at, &announce.path, wrong, "add bgp with its neighbors, or set announce: l2");
    }
    let mut labels = BTreeMap::new();
    for label in selector.iter().flat_map(|list| &list.items) {
        let (key, value) = label.value.clone();
        if labels.insert(key.clone(), value).is_some() {
            errors.add(label.at, &label.path, format!("label {key} is given twice"), "give each label once");
        }
    }
    let _complete = selector.as_ref()?;
    Some(ClusterServices {
        cluster: cluster?.as_ref()?.value.clone(),
        source: if source? == "file" { Source::File } else { Source::Api },
        classes: classes?.items.into_iter().map(|class| class.value).collect(),
        unclassed: unclassed?,
        interface: match interface {
            Some(interface) => Some(interface?.value),
            None => None,
        },
        shards: shards?.value,
        announce: match announce?.value {
            "bgp" => Announce::Bgp,
            "both" => Announce::Both,
            _ => Announce::L2,
        },
        delivery: match delivery?.value {
            "delegate" => Delivery::Delegate,
            "none" => Delivery::None,
            _ => Delivery::Direct,
        },
        returns: if returns?.value == "viaIngress" { Return::ViaIngress } else { Return::Direct },
        when_unplaced: if when_unplaced? == "direct" { WhenUnplaced::Direct } else { WhenUnplaced::Delegate },
        drain: drain?.value,
        bfd: bfd?,
        selector: labels,
        require_ready: require_ready?,
        honour_exclude: honour_exclude?,
        allocator: allocator?,
        report: report?,
        lease_namespace: lease_namespace?.value,
        intent_file: base_dir.join(intent_file?.value),
    })
}
