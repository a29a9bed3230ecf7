//! L2Announcements. How one is written stands in [`crate::crd`].

use std::collections::BTreeSet;

use bascule_core::intent::rules::{L2Rule, RULE_SHARDS, RULE_SHARDS_MAX};
use bascule_core::types::link_name_fault;
use serde::Deserialize;

use super::rule::{Check, RawChoice, Rule, selector};
use super::selector::RawSelector;
use super::{Kind, Meta};

/// An L2Announcement.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct L2Announcement {
    metadata: Meta,
    spec: Spec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    pools: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    service_selector: Option<RawSelector>,
    node_selector: Option<RawSelector>,
    interfaces: Vec<String>,
    shards: Option<i64>,
}

impl Kind for L2Announcement {
    const PATH: &'static str = "/apis/bascule.dev/v1alpha1/l2announcements";
    const LIST: &'static str = "L2AnnouncementList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Rule for L2Announcement {
    const NAME: &'static str = "L2Announcement";
    type Good = L2Rule;

    fn read(self, _: Check) -> Result<L2Rule, String> {
        let Spec { pools, namespaces, service_selector, node_selector, interfaces, shards } = self.spec;
        for (at, name) in interfaces.iter().enumerate() {
            if let Some(fault) = link_name_fault(name) {
                return Err(format!("spec.interfaces[{at}]: {name:?} {fault}"));
            }
        }
        let shards = shards.unwrap_or(RULE_SHARDS.into());
        let within = u8::try_from(shards).ok().filter(|count| (1..=RULE_SHARDS_MAX).contains(count));
        Ok(L2Rule {
            created: self.metadata.creation_timestamp.unwrap_or_default(),
            choice: RawChoice { pools, namespaces, service_selector }.choice()?,
            nodes: selector("nodeSelector", node_selector.as_ref())?,
            interfaces,
            shards: within.ok_or_else(|| format!("spec.shards: {shards} is not within 1 to {RULE_SHARDS_MAX}"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<L2Rule, String> {
        let text = format!(r#"{{"metadata":{{"name":"a","creationTimestamp":"2026-01-01T00:00:00Z"}},"spec":{spec}}}"#);
        serde_json::from_str::<L2Announcement>(&text).unwrap().read(|_, _, _| Ok(()))
    }

    #[test]
    fn every_field_is_read_and_what_is_absent_selects_all() {
        let all = read(
            r#"{"pools":["edge"],"namespaces":["shop"],"serviceSelector":{"matchLabels":{"tier":"edge"}},
               "nodeSelector":{"matchExpressions":[{"key":"rack","operator":"In","values":["a"]}]},
               "interfaces":["eth1","bond0.7"],"shards":2}"#,
        )
        .unwrap();
        assert!(all.is_apart() && all.created.starts_with("2026"));
        assert_eq!((all.interfaces.as_slice(), all.shards), (["eth1".to_owned(), "bond0.7".to_owned()].as_slice(), 2));
        assert!(all.choice.pools.contains("edge") && all.choice.namespaces.contains("shop"));
        assert_eq!(all.choice.services.labels["tier"], "edge");
        assert!(all.includes(&[("rack".to_owned(), "a".to_owned())].into()) && !all.includes(&Default::default()));
        let bare = read("{}").unwrap();
        assert!(!bare.is_apart() && bare.choice == Default::default());
        assert_eq!(bare.shards, RULE_SHARDS);
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_field() {
        for (spec, why) in [
            (r#"{"interfaces":["eth0","a/b"]}"#, "spec.interfaces[1]: \"a/b\" contains '/'"),
            (r#"{"interfaces":[""]}"#, "spec.interfaces[0]: \"\" is no link name"),
            (r#"{"interfaces":["sixteen-bytes-xx"]}"#, "spec.interfaces[0]: \"sixteen-bytes-xx\" is 16 bytes long"),
            (r#"{"shards":0}"#, "spec.shards: 0 is not within 1 to 32"),
            (r#"{"shards":33}"#, "spec.shards: 33 is not within 1 to 32"),
            (
                r#"{"nodeSelector":{"matchExpressions":[{"key":"k","operator":"Near"}]}}"#,
                "spec.nodeSelector: \"Near\" is no operator of a selector",
            ),
        ] {
            assert_eq!(read(spec).unwrap_err(), why);
        }
    }
}
