//! Which sites there are: those of the file, and those that the cluster adds.

use std::collections::BTreeMap;

use bascule_core::service::NodeSpec;
use bascule_core::service::plan::{Plan, PlanSites};
use tracing::{info, warn};

use super::super::sites::fixed;
use crate::config::{Joined, Loaded, Sites, Spread};

/// What is known of them.
#[derive(Default)]
pub(super) struct Known {
    /// Those in force, with the file's services of several sites.
    sites: Option<Sites>,
    /// What file and objects came to, and of which objects that was made.
    joined: Option<(BTreeMap<String, String>, Joined)>,
    /// A change waits for the next start.
    waits: bool,
}

impl Known {
    /// What the file and these Sites come to; true when others are in force. Secrets are read where one of the two is another one.
    pub(super) fn take(&mut self, file: &Loaded, objects: &BTreeMap<String, String>) -> bool {
        if self.joined.as_ref().is_some_and(|(of, _)| of == objects) {
            return false;
        }
        let nothing = BTreeMap::new();
        let before = self.joined.as_ref().map_or(&nothing, |(_, joined)| &joined.words);
        let joined = match &file.site_file {
            Some(of) => of.with_cluster(file.sites.as_ref(), objects, before),
            None => {
                let why = "has no effect: the configuration file has no section `site`";
                let refused = objects.keys().map(|name| ("Site", name.clone(), why.to_owned())).collect();
                Joined { sites: file.sites.clone(), refused, ..Joined::default() }
            }
        };
        let next = joined.sites.clone();
        self.joined = Some((objects.clone(), joined));
        let other = self.sites.is_some() && fixed(self.sites.as_ref()) != fixed(next.as_ref());
        if std::mem::replace(&mut self.waits, other) != other {
            if other {
                warn!(
                    "what this site is has changed: that takes effect with the next start, and what else changed of sites with it"
                );
            } else {
                info!("this site is what it was at the start");
            }
        }
        if other || self.sites == next {
            return false;
        }
        self.sites = next;
        true
    }

    /// Another file: whatever it reads is read anew.
    pub(super) fn forget(&mut self) {
        if let Some((of, _)) = &mut self.joined {
            // No object has such a name.
            let _none = of.insert(String::new(), String::new());
        }
    }

    /// Names of the objects that are in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.joined.iter().flat_map(|(_, joined)| joined.words.keys())
    }

    /// Sites that cannot be had as they are.
    pub(super) fn refused(&self) -> impl Iterator<Item = &(&'static str, String, String)> {
        self.joined.iter().flat_map(|(_, joined)| &joined.refused)
    }

    /// As the plan needs them.
    pub(super) fn of_plan(&self) -> Option<PlanSites> {
        let sites = self.sites.as_ref()?;
        let others = sites.all.iter().filter(|(id, _)| **id != sites.here).flat_map(|(_, site)| {
            let named = |node: &NodeSpec| NodeSpec { name: format!("{}/{}", site.name, node.name), ..node.clone() };
            site.gateways.iter().map(named)
        });
        Some(PlanSites {
            here: sites.own().name.clone(),
            all: sites.all.iter().map(|(id, site)| (site.name.clone(), *id)).collect(),
            prefixes: sites.own().prefixes.clone(),
            gateways: sites.own().gateways.iter().map(|node| (node.name.clone(), node.id)).collect(),
            others: others.collect(),
            file_services: sites.services.iter().map(|(id, spread)| (*id, spread.name.clone())).collect(),
        })
    }

    /// With the cluster's services of several sites.
    pub(super) fn with(&self, plan: &Plan) -> Option<Sites> {
        let mut sites = self.sites.clone()?;
        for (id, spread) in &plan.spreads {
            let (name, policy) = (spread.name.clone(), spread.policy.clone());
            let (capacity, returns) = (spread.capacity, spread.returns);
            let spread = Spread { name, key: spread.key, policy, capacity, returns };
            let _none = sites.services.insert(*id, spread);
        }
        Some(sites)
    }
}
