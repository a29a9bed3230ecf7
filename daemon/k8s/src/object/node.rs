//! Nodes.

use bascule_core::intent::{NODE_ID_ANNOTATION, NodeIntent};
use bascule_core::service::MAX_NODE_ID;
use bascule_core::shard::eligible::{ConditionStatus, NodeFacts};
use serde::Deserialize;

use super::{Kind, Meta};

/// Of a node's annotations only ours are kept: others of a CNI or a cloud are long and change often.
const OURS: &str = "bascule.dev/";

/// A Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: Meta,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<Address>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

impl Kind for Node {
    const PATH: &'static str = "/api/v1/nodes";
    const LIST: &'static str = "NodeList";
    // With their images they take 20 KB each.
    const PAGE: u32 = 250;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Node {
    /// The id that it was given; `None` as long as there is none that makes sense.
    pub(crate) fn id(&self) -> Option<u16> {
        let text = self.metadata.annotations.get(NODE_ID_ANNOTATION)?;
        text.parse().ok().filter(|id| (1..=MAX_NODE_ID).contains(id))
    }

    /// What the intent keeps of it.
    pub(crate) fn intent(self) -> NodeIntent {
        let internal = self.status.addresses.iter().filter(|address| address.r#type == "InternalIP");
        NodeIntent {
            id: self.id(),
            addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
            facts: NodeFacts {
                ready: self.condition("Ready"),
                network_unavailable: self.condition("NetworkUnavailable"),
                deleting: self.metadata.deletion_timestamp.is_some(),
                labels: self.metadata.labels,
                annotations: self.metadata.annotations.into_iter().filter(|(key, _)| key.starts_with(OURS)).collect(),
            },
        }
    }

    fn condition(&self, wanted: &str) -> ConditionStatus {
        let found = self.status.conditions.iter().find(|condition| condition.r#type == wanted);
        match found.map(|condition| condition.status.as_str()) {
            Some("True") => ConditionStatus::True,
            Some("False") => ConditionStatus::False,
            _ => ConditionStatus::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read() {
        let node: Node = serde_json::from_str(
            r#"{"metadata":{"name":"n1","labels":{"zone":"a"},"deletionTimestamp":"2026-01-01T00:00:00Z",
                "annotations":{"bascule.dev/node-id":"17","bascule.dev/drain":"true","projectcalico.org/x":"y"}},
              "status":{"addresses":[{"type":"Hostname","address":"n1"},{"type":"InternalIP","address":"10.0.0.1"},
                {"type":"ExternalIP","address":"192.0.2.1"},{"type":"InternalIP","address":"2001:db8::1"}],
                "conditions":[{"type":"Ready","status":"True"},{"type":"NetworkUnavailable","status":"False"}],
                "images":[{"names":["a"]}]}}"#,
        )
        .unwrap();
        let intent = node.intent();
        assert_eq!((intent.id, intent.addresses.len(), intent.facts.deleting), (Some(17), 2, true));
        assert_eq!(
            (intent.facts.ready, intent.facts.network_unavailable),
            (ConditionStatus::True, ConditionStatus::False)
        );
        assert_eq!(intent.facts.annotations.keys().collect::<Vec<_>>(), ["bascule.dev/drain", "bascule.dev/node-id"]);
        assert_eq!(intent.facts.labels["zone"], "a");
    }

    #[test]
    fn ids_out_of_range_are_none() {
        for (text, id) in [("1", Some(1)), ("4095", Some(4095)), ("0", None), ("4096", None), ("x", None), ("", None)] {
            let mut node = Node::default();
            node.metadata.annotations.insert(NODE_ID_ANNOTATION.to_owned(), text.to_owned());
            assert_eq!(node.id(), id, "{text}");
        }
    }
}
