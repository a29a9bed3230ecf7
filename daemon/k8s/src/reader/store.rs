//! What is known of the cluster, and the intent that it makes.
//!
//! Slices of Services of other types are kept as well: a Service may become one of type LoadBalancer, and nothing would tell its slices
//! again. They are in no intent.

use std::collections::{BTreeMap, HashMap};

use bascule_core::intent::rules::Rules;
use bascule_core::intent::{Intent, NodeIntent, ServiceIntent};
use bascule_core::service::translate::KubeService;

use crate::follow::Told;
use crate::object::Key;
use crate::object::slice::{EndpointSlice, KeptSlice, Names};

use super::rules::{Listed, Tables};

/// Objects of one kind, and whether they were all told once.
struct Table<T> {
    rows: BTreeMap<Key, T>,
    complete: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), complete: false }
    }
}

impl<T: PartialEq> Table<T> {
    /// Calls `changed` for what was and what is wherever the two differ.
    fn take(&mut self, told: Told<T>, mut changed: impl FnMut(Option<&T>, Option<&T>)) {
        match told {
            Told::All(all) => {
                let mut before = std::mem::replace(&mut self.rows, all.into_iter().collect());
                for (key, now) in &self.rows {
                    let was = before.remove(key);
                    if was.as_ref() != Some(now) {
                        changed(was.as_ref(), Some(now));
                    }
                }
                before.values().for_each(|was| changed(Some(was), None));
                self.complete = true;
            }
            Told::One(key, now) => {
                let was = self.rows.get(&key);
                if was != Some(&now) {
                    changed(was, Some(&now));
                    let _was = self.rows.insert(key, now);
                }
            }
            Told::Gone(key) => {
                if let Some(was) = self.rows.remove(&key) {
                    changed(Some(&was), None);
                }
            }
        }
    }
}

/// The store.
#[derive(Default)]
pub(super) struct Store {
    services: Table<KubeService>,
    slices: Table<KeptSlice>,
    nodes: Table<NodeIntent>,
    rules: Tables,
    names: Names,
    /// Something of the intent changed since it was last taken.
    dirty: bool,
    /// An intent was taken.
    taken: bool,
}

impl Store {
    pub(super) fn keep(&mut self, slice: EndpointSlice) -> Option<KeptSlice> {
        slice.keep(&mut self.names)
    }

    pub(super) fn services(&mut self, told: Told<KubeService>) {
        self.services.take(told, |_, _| self.dirty = true);
    }

    pub(super) fn slices(&mut self, told: Told<KeptSlice>) {
        let Self { services, slices, names, dirty, .. } = self;
        let wanted = |slice: Option<&KeptSlice>| slice.is_some_and(|slice| services.rows.contains_key(&slice.service));
        let complete = matches!(told, Told::All(_));
        slices.take(told, |was, now| *dirty |= wanted(was) || wanted(now));
        if complete {
            names.tidy();
        }
    }

    pub(super) fn nodes(&mut self, told: Told<NodeIntent>) {
        let gone = matches!(told, Told::Gone(_));
        self.nodes.take(told, |_, _| self.dirty = true);
        if gone {
            self.names.tidy();
        }
    }

    /// Of objects about announcements these were known before.
    pub(super) fn know(&mut self, rules: &Rules) {
        self.rules = Tables::known(rules);
    }

    pub(super) fn rule<R: Listed>(&mut self, told: Told<Result<R::Good, String>>) {
        self.dirty |= self.rules.take::<R>(told);
    }

    /// Nobody tells of this kind.
    pub(super) fn without<R: Listed>(&mut self) {
        self.rules.settle::<R>();
    }

    /// Is there an intent that was not taken yet?
    pub(super) const fn is_due(&self) -> bool {
        let complete =
            self.services.complete && self.slices.complete && self.nodes.complete && self.rules.is_complete();
        complete && (self.dirty || !self.taken)
    }

    /// The intent, if there is one that was not taken yet.
    pub(super) fn take(&mut self) -> Option<Intent> {
        if !self.is_due() {
            return None;
        }
        (self.dirty, self.taken) = (false, true);
        let mut slices: HashMap<&Key, Vec<&KeptSlice>> = HashMap::new();
        for slice in self.slices.rows.values().filter(|slice| self.services.rows.contains_key(&slice.service)) {
            slices.entry(&slice.service).or_default().push(slice);
        }
        let service = |(key, service): (&Key, &KubeService)| ServiceIntent {
            service: service.clone(),
            // The rows are in the order of namespace and name, and so are these.
            slices: slices.get(key).into_iter().flatten().map(|slice| slice.intent()).collect(),
        };
        Some(Intent {
            services: self.services.rows.iter().map(service).collect(),
            nodes: self.nodes.rows.iter().map(|((_, name), node)| (name.clone(), node.clone())).collect(),
            rules: self.rules.rules(),
        })
    }
}
