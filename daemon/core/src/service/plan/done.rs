//! What services came to by themselves: only those that changed are translated anew.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::{Refused, ServiceStanding};
use crate::intent::{Intent, ServiceIntent};
use crate::service::ServiceSpec;
use crate::service::translate::{NotOurs, Policy, Wishes, translate};

/// What a service came to.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) service: Arc<ServiceIntent>,
    pub(super) wishes: Result<Wishes, NotOurs>,
    /// How it stands where nothing but itself is against it.
    pub(super) standing: Arc<ServiceStanding>,
}

impl Done {
    fn new(name: &str, service: &Arc<ServiceIntent>, policy: &Policy) -> Self {
        let wishes = translate(&service.service, &service.slices, policy);
        let (vips, refused) = match &wishes {
            Err(why) => (BTreeSet::new(), vec![Refused::NotOurs(why.clone())]),
            // A service may have an address and no port only for a moment; then nothing is announced of it.
            Ok(wishes) if wishes.services.is_empty() => (BTreeSet::new(), vec![Refused::Pending]),
            Ok(wishes) => (wishes.services.iter().map(|spec| spec.vip).collect(), Vec::new()),
        };
        let standing = ServiceStanding { name: name.to_owned(), vips: vips.into_iter().collect(), refused };
        Self { service: Arc::clone(service), wishes, standing: Arc::new(standing) }
    }

    /// What it wishes: ports of VIPs, in the order of these.
    pub(super) fn specs(&self) -> &[Arc<ServiceSpec>] {
        self.wishes.as_ref().map_or(&[], |wishes| &wishes.services)
    }
}

/// A service that is new, gone, or another one than it was.
#[derive(Debug)]
pub(super) struct Change {
    /// Namespace and name.
    pub(super) name: String,
    /// What it came to before.
    pub(super) before: Option<Done>,
}

/// All services, by namespace and name.
#[derive(Debug, Default)]
pub(super) struct Known {
    done: BTreeMap<String, Done>,
    /// Places in memory of the services in `done`, which keeps them there.
    places: HashSet<usize>,
}

/// The place of a service in memory, by which it is known while somebody keeps it.
fn place(service: &Arc<ServiceIntent>) -> usize {
    Arc::as_ptr(service).addr()
}

impl Known {
    /// Those of an intent, and nothing else. Who brings intents shares what did not change: it is known by its place in memory, and most of a
    /// large intent is not looked at.
    pub(super) fn take(&mut self, intent: &Intent, policy: &Policy) -> Vec<Change> {
        let mut changes: BTreeMap<String, Option<Done>> = BTreeMap::new();
        let stay = intent.services.iter().filter(|service| self.places.contains(&place(service))).count();
        if stay < self.places.len() {
            let wanted: HashSet<usize> = intent.services.iter().map(place).collect();
            let gone = self.done.extract_if(.., |_, done| !wanted.contains(&place(&done.service)));
            for (name, done) in gone {
                let _was = self.places.remove(&place(&done.service));
                let _none = changes.insert(name, Some(done));
            }
        }
        for service in &intent.services {
            if self.places.contains(&place(service)) {
                continue;
            }
            let name = format!("{}/{}", service.service.namespace, service.service.name);
            let done = Done::new(&name, service, policy);
            let before = self.done.insert(name.clone(), done);
            if let Some(before) = &before {
                let _was = self.places.remove(&place(&before.service));
            }
            let _new = self.places.insert(place(service));
            let first = changes.entry(name).or_insert(None);
            *first = first.take().or(before);
        }
        changes.into_iter().map(|(name, before)| Change { name, before }).collect()
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.done.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Done> {
        self.done.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Done)> {
        self.done.iter().map(|(name, done)| (name.as_str(), done))
    }
}
