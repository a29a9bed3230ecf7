//! Ids of nodes: each gets the smallest that is free, once, and keeps it as long as its object is there.
//!
//! What somebody has written by hand is not repaired: two nodes of one id, or an id that is none, are said in an event, for a node whose id
//! changes loses the connections that it carries.

use std::collections::{BTreeMap, BTreeSet};

use bascule_core::intent::NODE_ID_ANNOTATION;
use bascule_core::service::MAX_NODE_ID;
use serde_json::{Value, json};

use super::{About, Notice, Target, Write, is_older};
use crate::follow::Told;
use crate::object::node::Node;

/// Nodes by name.
#[derive(Default)]
pub(super) struct NodeBook {
    nodes: BTreeMap<String, Node>,
    /// Given, and not confirmed by the object yet.
    given: BTreeMap<String, u16>,
    /// Complaints that were made, by node.
    said: BTreeMap<String, String>,
    /// Nodes that the server refuses to write as they are.
    refused: BTreeSet<String>,
}

impl NodeBook {
    pub(super) fn take(&mut self, told: Told<Node>) {
        match told {
            Told::All(all) => self.nodes = all.into_iter().map(|((_, name), node)| (name, node)).collect(),
            Told::One((_, name), node) => {
                let known = self.nodes.get(&name).map(|known| &known.metadata.resource_version);
                if known.is_some_and(|known| is_older(&node.metadata.resource_version, known)) {
                    return;
                }
                let _was = self.refused.remove(&name);
                let _before = self.nodes.insert(name, node);
            }
            Told::Gone((_, name)) => drop(self.nodes.remove(&name)),
        }
        let nodes = &self.nodes;
        self.given.retain(|name, _| nodes.get(name).is_some_and(|node| text(node).is_none()));
        self.said.retain(|name, _| nodes.contains_key(name));
    }

    pub(super) fn version(&self, name: &str) -> Option<&str> {
        self.nodes.get(name).map(|node| node.metadata.resource_version.as_str())
    }

    pub(super) fn give_up(&mut self, target: &Target) {
        if let Target::Node(name) = target {
            let _new = self.refused.insert(name.clone());
        }
    }

    /// Nodes that need an id, or a word.
    pub(super) fn due(&self) -> Vec<Target> {
        let holders = self.holders();
        let due = |(name, node): &(&String, &Node)| match text(node) {
            None => !self.refused.contains(*name),
            Some(_) => complaint(name, node, &holders).as_ref() != self.said.get(*name),
        };
        self.nodes.iter().filter(due).map(|(name, _)| Target::Node(name.clone())).collect()
    }

    /// Who has which id; of two the first by name counts.
    fn holders(&self) -> BTreeMap<u16, &str> {
        let ids = self.nodes.iter().rev().filter_map(|(name, node)| Some((node.id()?, name.as_str())));
        ids.collect()
    }

    /// What is to be written; `None`: nothing. A word alone writes an event and no object.
    pub(super) fn write(&mut self, name: &str) -> Option<Write> {
        let node = self.nodes.get(name)?;
        let holders = self.holders();
        let words = if text(node).is_some() {
            complaint(name, node, &holders)
        } else {
            let taken: BTreeSet<u16> = holders.keys().chain(self.given.values()).copied().collect();
            let before = self.given.get(name).copied().filter(|id| !holders.contains_key(id));
            match before.or_else(|| (1..=MAX_NODE_ID).find(|id| !taken.contains(id))) {
                Some(id) => {
                    let _new = self.given.insert(name.to_owned(), id);
                    let annotations = json!({NODE_ID_ANNOTATION: id.to_string()});
                    let version = &node.metadata.resource_version;
                    let patch = json!({"metadata": {"resourceVersion": version, "annotations": annotations}});
                    return Some(Write { target: Target::Node(name.to_owned()), patch, event: None });
                }
                None => Some(format!("all {MAX_NODE_ID} ids of nodes are taken")),
            }
        };
        let before = match &words {
            Some(words) => self.said.insert(name.to_owned(), words.clone()),
            None => self.said.remove(name),
        };
        let message = words.filter(|words| before.as_ref() != Some(words))?;
        let uid = node.metadata.uid.clone();
        let about = About { kind: "Node", namespace: String::new(), name: name.to_owned(), uid };
        let event = Some(Notice { about, reason: "NodeId".to_owned(), message });
        Some(Write { target: Target::Node(name.to_owned()), patch: Value::Null, event })
    }
}

/// What stands where an id should.
fn text(node: &Node) -> Option<&String> {
    node.metadata.annotations.get(NODE_ID_ANNOTATION)
}

fn complaint(name: &str, node: &Node, holders: &BTreeMap<u16, &str>) -> Option<String> {
    let text = text(node)?;
    match node.id() {
        None => Some(format!("{NODE_ID_ANNOTATION}: {text:?} is no id (1 to {MAX_NODE_ID}); it is left as it is")),
        Some(id) => {
            let other = holders.get(&id).filter(|other| **other != name)?;
            Some(format!("{NODE_ID_ANNOTATION}: {id} is the id of node {other} as well; remove one of the two"))
        }
    }
}
