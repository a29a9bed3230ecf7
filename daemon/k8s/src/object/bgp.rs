//! BgpPeers and BgpAnnouncements. How they are written stands in [`crate::crd`]. What they say of a session and of routes are the words of
//! the configuration file, and are read by who reads that.

use std::collections::BTreeSet;

use bascule_core::intent::rules::{BgpRule, PeerRule};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::rule::{Check, RawChoice, Rule, selector};
use super::selector::RawSelector;
use super::{Kind, Meta};

/// A BgpPeer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BgpPeer {
    metadata: Meta,
    spec: PeerSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PeerSpec {
    node_selector: Option<RawSelector>,
    #[serde(flatten)]
    words: Map<String, Value>,
}

impl Kind for BgpPeer {
    const PATH: &'static str = "/apis/bascule.dev/v1alpha1/bgppeers";
    const LIST: &'static str = "BgpPeerList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Rule for BgpPeer {
    const NAME: &'static str = "BgpPeer";
    type Good = PeerRule;

    fn read(self, check: Check) -> Result<PeerRule, String> {
        let PeerSpec { node_selector, words } = self.spec;
        let words = Value::Object(words).to_string();
        check(Self::NAME, &self.metadata.name, &words)?;
        Ok(PeerRule { nodes: selector("nodeSelector", node_selector.as_ref())?, words })
    }
}

/// A BgpAnnouncement.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BgpAnnouncement {
    metadata: Meta,
    spec: AnnouncementSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AnnouncementSpec {
    pools: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    service_selector: Option<RawSelector>,
    node_selector: Option<RawSelector>,
    peers: BTreeSet<String>,
    #[serde(flatten)]
    words: Map<String, Value>,
}

impl Kind for BgpAnnouncement {
    const PATH: &'static str = "/apis/bascule.dev/v1alpha1/bgpannouncements";
    const LIST: &'static str = "BgpAnnouncementList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Rule for BgpAnnouncement {
    const NAME: &'static str = "BgpAnnouncement";
    type Good = BgpRule;

    fn read(self, check: Check) -> Result<BgpRule, String> {
        let AnnouncementSpec { pools, namespaces, service_selector, node_selector, peers, words } = self.spec;
        let words = Value::Object(words).to_string();
        check(Self::NAME, &self.metadata.name, &words)?;
        Ok(BgpRule {
            choice: RawChoice { pools, namespaces, service_selector }.choice()?,
            nodes: selector("nodeSelector", node_selector.as_ref())?,
            peers,
            words,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, name: &str, words: &str) -> Result<(), String> {
        if words.contains("bad") { Err(format!("{kind} {name}")) } else { Ok(()) }
    }

    #[test]
    fn what_is_not_ours_to_read_goes_along_as_it_is() {
        let peer = r#"{"metadata":{"name":"tor"},"spec":{"address":"10.0.0.1","remoteAs":65100,"bfd":{},
            "nodeSelector":{"matchLabels":{"rack":"a"}}}}"#;
        let read = serde_json::from_str::<BgpPeer>(peer).unwrap().read(check).unwrap();
        assert_eq!(read.words, r#"{"address":"10.0.0.1","bfd":{},"remoteAs":65100}"#);
        assert_eq!(read.nodes.labels["rack"], "a");
        let announcement = r#"{"metadata":{"name":"edge"},"spec":{"pools":["p"],"namespaces":["shop"],"peers":["tor"],
            "serviceSelector":{"matchLabels":{"tier":"edge"}},"communities":["65001:1"],"localPref":200}}"#;
        let read = serde_json::from_str::<BgpAnnouncement>(announcement).unwrap().read(check).unwrap();
        assert_eq!(read.words, r#"{"communities":["65001:1"],"localPref":200}"#);
        assert!(
            read.choice.pools.contains("p") && read.choice.namespaces.contains("shop") && read.peers.contains("tor")
        );
        assert_eq!(read.choice.services.labels["tier"], "edge");
        let bad = r#"{"metadata":{"name":"tor"},"spec":{"address":"bad"}}"#;
        assert_eq!(serde_json::from_str::<BgpPeer>(bad).unwrap().read(check).unwrap_err(), "BgpPeer tor");
    }
}
