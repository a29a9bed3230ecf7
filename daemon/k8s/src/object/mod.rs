//! Objects of the API as far as they matter. What is not named here is skipped while a body is read and takes no memory, managedFields
//! before all.

pub(crate) mod bgp;
pub(crate) mod l2_announcement;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod pool;
pub(crate) mod rule;
mod selector;
pub(crate) mod service;
pub(crate) mod site;
pub(crate) mod slice;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A kind that can be listed and watched.
pub(crate) trait Kind: DeserializeOwned + Send {
    /// Its collection.
    const PATH: &'static str;
    /// `kind` of a list of it.
    const LIST: &'static str;
    /// Objects in a page of a list: a page is in memory as a whole.
    const PAGE: u32;

    /// Its metadata.
    fn meta(&self) -> &Meta;
}

/// Namespace (empty for what has none) and name.
pub(crate) type Key = (String, String);

/// `metadata`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) generation: i64,
    pub(crate) creation_timestamp: Option<String>,
    pub(crate) deletion_timestamp: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Meta {
    pub(crate) fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }
}

/// A page of a list. What has no version, or another kind, is no list: a proxy's page must not empty anything.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<T> {
    #[serde(default)]
    pub(crate) kind: String,
    pub(crate) metadata: PageMeta,
    pub(crate) items: Vec<T>,
}

/// `metadata` of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageMeta {
    pub(crate) resource_version: String,
    #[serde(default)]
    pub(crate) r#continue: String,
}

#[cfg(test)]
mod tests {
    use super::service::Service;
    use super::*;

    #[test]
    fn what_is_no_list_is_not_taken_for_an_empty_one() {
        let read = |text: &str| serde_json::from_str::<Page<Service>>(text).map(|page| page.items.len());
        assert_eq!(read(r#"{"kind":"ServiceList","metadata":{"resourceVersion":"7"},"items":[]}"#).unwrap(), 0);
        for wrong in
            ["{}", r#"{"items":[]}"#, r#"{"metadata":{"resourceVersion":"7"}}"#, r#"{"metadata":{},"items":[]}"#]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
