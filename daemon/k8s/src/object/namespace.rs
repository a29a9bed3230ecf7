//! Namespaces: only their labels matter, for the selectors of pools.

use serde::Deserialize;

use super::{Kind, Meta};

/// A Namespace.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    pub(crate) metadata: Meta,
}

impl Kind for Namespace {
    const PATH: &'static str = "/api/v1/namespaces";
    const LIST: &'static str = "NamespaceList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
