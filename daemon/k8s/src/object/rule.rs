//! What objects about announcements and sites have in common.

use std::collections::BTreeSet;

use bascule_core::intent::rules::Choice;
use bascule_core::ipam::{Block, Selector};

use super::Kind;
use super::pool::VipPool;
use super::selector::RawSelector;

/// Judges the words of an object that are those of the configuration file: its kind, its name and the words, as one JSON object; gives
/// the field, and what is wrong with it.
pub type Check = fn(&str, &str, &str) -> Result<(), String>;

/// A kind of object that says how VIPs are announced, or which sites serve them.
pub(crate) trait Rule: Kind {
    /// `kind`.
    const NAME: &'static str;
    /// What is kept of one.
    type Good: PartialEq + Clone + Send;

    /// As the core has it.
    ///
    /// # Errors
    /// In words: the field, and what is wrong with it. The schema refuses most of it before.
    fn read(self, check: Check) -> Result<Self::Good, String>;
}

impl Rule for VipPool {
    const NAME: &'static str = "VipPool";
    type Good = Vec<Block>;

    fn read(self, _: Check) -> Result<Vec<Block>, String> {
        Ok(self.blocks())
    }
}

/// Which VIPs are meant.
pub(super) struct RawChoice {
    pub(super) pools: BTreeSet<String>,
    pub(super) namespaces: BTreeSet<String>,
    pub(super) service_selector: Option<RawSelector>,
}

impl RawChoice {
    pub(super) fn choice(self) -> Result<Choice, String> {
        let services = selector("serviceSelector", self.service_selector.as_ref())?;
        Ok(Choice { pools: self.pools, namespaces: self.namespaces, services })
    }
}

/// A selector; without one everything is taken.
pub(super) fn selector(field: &str, raw: Option<&RawSelector>) -> Result<Selector, String> {
    let selector = raw.map(RawSelector::selector).transpose();
    Ok(selector.map_err(|why| format!("spec.{field}: {why}"))?.unwrap_or_default())
}
