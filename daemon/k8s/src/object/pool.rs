//! VipPools: how one is read, and what makes one unusable. How one is written stands in [`crate::crd`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bascule_core::ipam::{Block, Namespaces, PoolSpec};
use ipnet::IpNet;
use serde::Deserialize;

use super::selector::RawSelector;
use super::service::StatusCondition;
use super::{Kind, Meta};

/// A VipPool.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VipPool {
    pub(crate) metadata: Meta,
    spec: Spec,
    pub(crate) status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    blocks: BTreeMap<String, RawBlock>,
    namespaces: BTreeSet<String>,
    namespace_selector: Option<RawSelector>,
    service_selector: Option<RawSelector>,
    priority: i32,
    auto_assign: Option<bool>,
    avoid_ends: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawBlock {
    cidr: Option<String>,
    range: Option<RawRange>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawRange {
    first: String,
    last: String,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) used: i64,
    pub(crate) free: i64,
    pub(crate) conditions: Vec<StatusCondition>,
}

impl Kind for VipPool {
    const PATH: &'static str = "/apis/bascule.dev/v1alpha1/vippools";
    const LIST: &'static str = "VipPoolList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl VipPool {
    /// Its parts, for announcements, as far as they make sense: the allocator says what does not.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        self.spec.blocks.values().filter_map(|block| block.block().ok()).collect()
    }

    /// As the allocator has it. The schema refuses what would be an error here, as far as its language goes.
    pub(crate) fn spec(&self) -> Result<PoolSpec, String> {
        let spec = &self.spec;
        let mut blocks = BTreeMap::new();
        for (name, raw) in &spec.blocks {
            let block = raw.block().map_err(|why| format!("block {name}: {why}"))?;
            let _unique = blocks.insert(name.clone(), block);
        }
        if let Some((one, other)) = first_overlap(&blocks, &blocks, |one, other| one < other) {
            return Err(format!("block {one} overlaps block {other}"));
        }
        let selector = |raw: &Option<RawSelector>| raw.as_ref().map(RawSelector::selector).transpose();
        Ok(PoolSpec {
            name: self.metadata.name.clone(),
            blocks,
            namespaces: Namespaces { names: spec.namespaces.clone(), selector: selector(&spec.namespace_selector)? },
            services: selector(&spec.service_selector)?.unwrap_or_default(),
            priority: spec.priority,
            auto_assign: spec.auto_assign.unwrap_or(true),
            avoid_ends: spec.avoid_ends.unwrap_or(true),
        })
    }
}

impl RawBlock {
    fn block(&self) -> Result<Block, String> {
        let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no address"));
        match (&self.cidr, &self.range) {
            (Some(cidr), None) => {
                cidr.parse::<IpNet>().map(|net| Block::Cidr(net.trunc())).map_err(|_| format!("{cidr:?} is no prefix"))
            }
            (None, Some(RawRange { first, last })) => {
                let (first, last) = (address(first)?, address(last)?);
                if first.is_ipv4() != last.is_ipv4() || first > last {
                    return Err(format!("{first} does not come before {last}"));
                }
                Ok(Block::Range(first, last))
            }
            _ => Err("exactly one of cidr and range must be there".to_owned()),
        }
    }
}

/// The first pair of blocks that have an address in common, of those whose names `wanted` takes.
fn first_overlap<'a>(
    a: &'a BTreeMap<String, Block>,
    b: &'a BTreeMap<String, Block>,
    wanted: impl Fn(&str, &str) -> bool,
) -> Option<(&'a String, &'a String)> {
    let ends = |block: &Block| match *block {
        Block::Cidr(net) => (net.network(), net.broadcast()),
        Block::Range(first, last) => (first, last),
    };
    let pairs = a.iter().flat_map(|one| b.iter().map(move |other| (one, other)));
    let mut common = pairs.filter(|((name, one), (other_name, other))| {
        let ((a, b), (c, d)) = (ends(one), ends(other));
        wanted(name, other_name) && a.is_ipv4() == c.is_ipv4() && a <= d && c <= b
    });
    common.next().map(|((one, _), (other, _))| (one, other))
}

/// Where two pools have an address in common.
pub(crate) fn overlap(a: &PoolSpec, b: &PoolSpec) -> Option<String> {
    let (one, other) = first_overlap(&a.blocks, &b.blocks, |_, _| true)?;
    Some(format!("block {one} overlaps block {other} of pool {}", b.name))
}

#[cfg(test)]
mod tests {
    use bascule_core::ipam::Labels;

    use super::*;

    fn pool(spec: &str) -> Result<PoolSpec, String> {
        let pool: VipPool = serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#)).unwrap();
        pool.spec()
    }

    #[test]
    fn a_pool_is_read() {
        let spec = pool(
            r#"{"blocks":{"a":{"cidr":"192.0.2.7/24"},"b":{"range":{"first":"2001:db8::1","last":"2001:db8::9"}}},
               "namespaces":["shop"],"namespaceSelector":{"matchExpressions":[{"key":"k","operator":"NotIn","values":["x"]}]},
               "serviceSelector":{"matchLabels":{"tier":"edge"}},"priority":7,"autoAssign":false,"avoidEnds":false}"#,
        )
        .unwrap();
        assert_eq!(spec.blocks["a"], Block::Cidr("192.0.2.0/24".parse().unwrap()));
        assert!(matches!(spec.blocks["b"], Block::Range(first, _) if first.is_ipv6()));
        assert_eq!((spec.priority, spec.auto_assign, spec.avoid_ends), (7, false, false));
        assert!(spec.namespaces.include("shop", &Labels::new()) && spec.services.labels["tier"] == "edge");
        let bare = pool(r#"{"blocks":{"a":{"cidr":"192.0.2.0/24"}}}"#).unwrap();
        assert_eq!((bare.priority, bare.auto_assign, bare.avoid_ends), (0, true, true));
    }

    #[test]
    fn what_the_schema_cannot_refuse_is_refused_here() {
        for (block, why) in [
            (r#"{"range":{"first":"2001:db8::9","last":"2001:db8::1"}}"#, "does not come before"),
            (r#"{"range":{"first":"192.0.2.1","last":"2001:db8::1"}}"#, "does not come before"),
            (r#"{"cidr":"192.0.2.0/33"}"#, "no prefix"),
            (r#"{}"#, "exactly one"),
        ] {
            let said = pool(&format!(r#"{{"blocks":{{"a":{block}}}}}"#)).unwrap_err();
            assert!(said.contains(why) && said.contains("block a"), "{said}");
        }
        let twice = r#"{"a":{"cidr":"192.0.2.0/24"},"b":{"range":{"first":"192.0.1.0","last":"192.0.3.0"}}}"#;
        assert_eq!(pool(&format!(r#"{{"blocks":{twice}}}"#)).unwrap_err(), "block a overlaps block b");
        assert!(pool(r#"{"serviceSelector":{"matchExpressions":[{"key":"k","operator":"Near"}]}}"#).is_err());
    }

    #[test]
    fn pools_with_an_address_in_common_are_found() {
        let range = |first: &str, last: &str| {
            pool(&format!(r#"{{"blocks":{{"r":{{"range":{{"first":"{first}","last":"{last}"}}}}}}}}"#)).unwrap()
        };
        let net = pool(r#"{"blocks":{"n":{"cidr":"192.0.2.0/24"}}}"#).unwrap();
        assert_eq!(overlap(&range("192.0.1.9", "192.0.2.0"), &net).unwrap(), "block r overlaps block n of pool p");
        assert!(overlap(&net, &range("192.0.2.255", "192.0.3.0")).is_some());
        assert_eq!(overlap(&net, &range("192.0.3.0", "192.0.3.9")), None);
        assert_eq!(overlap(&net, &range("::", "ffff::")), None);
    }
}
