//! Which nodes may own VIPs, and why not: never in silence.

use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Label of well-known meaning: load balancers outside leave the node alone. kubeadm and others set it on control-plane nodes.
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Annotation of ours: `true` drains the node of VIPs. Cordoning does not: it says that no new pods shall come, and clusters are cordoned
/// node by node during upgrades.
pub const DRAIN_ANNOTATION: &str = "bascule.dev/drain";

/// A condition of a node, as the API has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`, or no such condition.
    #[default]
    Unknown,
}

/// What is known of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Condition `Ready`.
    pub ready: ConditionStatus,
    /// Condition `NetworkUnavailable`.
    pub network_unavailable: ConditionStatus,
    /// It is being deleted.
    pub deleting: bool,
}

/// What is asked of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePolicy {
    /// Labels that it must have, with these values; empty: any node.
    pub selector: BTreeMap<String, String>,
    /// [`EXCLUDE_LABEL`] counts.
    pub honour_exclude: bool,
    /// `Ready` must be `True`. Off by default: the kubelet's silence says little about the network, and who is dead is the election's to find.
    pub require_ready: bool,
}

impl Default for NodePolicy {
    fn default() -> Self {
        Self { selector: BTreeMap::new(), honour_exclude: true, require_ready: false }
    }
}

/// Why a node may not own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Ineligible {
    /// The selector asks for another value of this label.
    NotSelected {
        /// The label.
        label: String,
    },
    /// [`EXCLUDE_LABEL`].
    Excluded,
    /// [`DRAIN_ANNOTATION`].
    Drained,
    /// Condition `NetworkUnavailable` is `True`.
    NetworkUnavailable,
    /// Condition `Ready` is not `True`, and must be.
    NotReady,
    /// It is being deleted.
    Deleting,
}

impl Ineligible {
    /// Lasting reasons take the node out of the list, which ranks the nodes anew. With a passing one it stays in the list and gives up
    /// what it has, so that nothing else moves.
    pub const fn is_lasting(&self) -> bool {
        match self {
            Self::NotSelected { .. } | Self::Excluded => true,
            Self::Drained | Self::NetworkUnavailable | Self::NotReady | Self::Deleting => false,
        }
    }
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSelected { label } => write!(f, "the node selector asks for another value of label {label}"),
            Self::Excluded => write!(f, "label {EXCLUDE_LABEL} is set"),
            Self::Drained => write!(f, "annotation {DRAIN_ANNOTATION} is true"),
            Self::NetworkUnavailable => f.write_str("condition NetworkUnavailable is True"),
            Self::NotReady => f.write_str("condition Ready is not True"),
            Self::Deleting => f.write_str("the node is being deleted"),
        }
    }
}

/// Every reason why the node may not own; none: it may.
pub fn reasons(node: &NodeFacts, policy: &NodePolicy) -> Vec<Ineligible> {
    let unselected = policy.selector.iter().filter(|(label, value)| node.labels.get(*label) != Some(value));
    let mut reasons: Vec<_> = unselected.map(|(label, _)| Ineligible::NotSelected { label: label.clone() }).collect();
    let drained = node.annotations.get(DRAIN_ANNOTATION).is_some_and(|value| value == "true");
    // The label's presence counts, as for every implementation of cloud load balancers: also with the value "false".
    let rules = [
        (policy.honour_exclude && node.labels.contains_key(EXCLUDE_LABEL), Ineligible::Excluded),
        (drained, Ineligible::Drained),
        (node.network_unavailable == ConditionStatus::True, Ineligible::NetworkUnavailable),
        (policy.require_ready && node.ready != ConditionStatus::True, Ineligible::NotReady),
        (node.deleting, Ineligible::Deleting),
    ];
    reasons.extend(rules.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason));
    reasons
}
