//! What a cluster wants, in plain types: what is left of Services, EndpointSlices and Nodes once the API server's words are read.
//!
//! The reader (`bascule-k8s`) makes it, the daemon keeps the last one on disk and starts from it when the API server is away, and
//! [`crate::service::translate`] and [`crate::shard`] make wishes of it. Nothing here is decided: foreign classes are in it as well.

pub mod rules;

use core::hash::Hasher as _;
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip::SipHasher13;

use crate::service::translate::{KubeService, Slice};
use crate::shard::eligible::NodeFacts;
use rules::Rules;

/// Annotation of a Node: its id in rows and hop lists, 1..=4095, given once by the allocator and kept for the node's life.
pub const NODE_ID_ANNOTATION: &str = "bascule.dev/node-id";

/// A cluster as it was seen at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Services of type LoadBalancer, by namespace and name, each once. Those that did not change are shared with the intent before.
    #[serde(serialize_with = "write_shared", deserialize_with = "read_shared")]
    pub services: Vec<Arc<ServiceIntent>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeIntent>,
    /// How VIPs are announced, where the cluster says so.
    #[serde(default, skip_serializing_if = "Rules::is_empty")]
    pub rules: Rules,
}

/// A Service with its slices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceIntent {
    /// The Service. Its VIPs are those of `status.loadBalancer.ingress`.
    pub service: KubeService,
    /// Its slices, in the order of their names. Those that did not change are shared with the intent before.
    #[serde(serialize_with = "write_shared", deserialize_with = "read_shared")]
    pub slices: Vec<Arc<Slice>>,
}

/// A Node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeIntent {
    /// [`NODE_ID_ANNOTATION`]; `None` as long as there is none that makes sense.
    pub id: Option<u16>,
    /// `status.addresses` of type InternalIP, in their order.
    pub addresses: Vec<IpAddr>,
    /// What its eligibility depends on.
    pub facts: NodeFacts,
}

fn write_shared<T: Serialize, S: Serializer>(things: &[Arc<T>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(things.iter().map(Arc::as_ref))
}

fn read_shared<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Arc<T>>, D::Error> {
    let things = Vec::<T>::deserialize(deserializer)?;
    Ok(things.into_iter().map(Arc::new).collect())
}

/// The sum by which a kept intent is known to be whole, taken piece by piece. Finds damage, not malice.
#[derive(Clone, Debug)]
pub struct Checksum(SipHasher13);

impl Default for Checksum {
    fn default() -> Self {
        Self(SipHasher13::new_with_keys(0x6b65_7074, 0x696e_7465_6e74))
    }
}

impl Checksum {
    /// The next piece.
    pub fn write(&mut self, piece: &[u8]) {
        self.0.write(piece);
    }

    /// The sum of all pieces so far, however they were cut.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// [`Checksum`] of a whole text.
pub fn checksum(text: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    sum.write(text);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_that_of_the_text_however_it_was_cut() {
        let text: Vec<u8> = (0..=255).collect();
        for cut in [1, 3, 7, 8, 9, 100] {
            let mut sum = Checksum::default();
            text.chunks(cut).for_each(|piece| sum.write(piece));
            assert_eq!(sum.finish(), checksum(&text), "pieces of {cut}");
        }
    }
}
