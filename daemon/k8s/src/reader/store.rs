//! What is known of the cluster, and the intent that it makes.
//!
//! Slices of Services of other types are kept as well: a Service may become one of type LoadBalancer, and nothing would tell its slices
//! again. They are in no intent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bascule_core::intent::rules::Rules;
use bascule_core::intent::{Intent, NodeIntent, ServiceIntent};
use bascule_core::service::translate::KubeService;

use crate::follow::Told;
use crate::object::Key;
use crate::object::slice::{EndpointSlice, KeptSlice, Names, mark};

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
    fn take(&mut self, told: Told<T>, mut changed: impl FnMut(&Key, Option<&T>, Option<&T>)) {
        match told {
            Told::All(all) => {
                let mut before = std::mem::replace(&mut self.rows, all.into_iter().collect());
                for (key, now) in &self.rows {
                    let was = before.remove(key);
                    if was.as_ref() != Some(now) {
                        changed(key, was.as_ref(), Some(now));
                    }
                }
                before.iter().for_each(|(key, was)| changed(key, Some(was), None));
                self.complete = true;
            }
            Told::One(key, now) => {
                let was = self.rows.get(&key);
                if was != Some(&now) {
                    changed(&key, was, Some(&now));
                    let _was = self.rows.insert(key, now);
                }
            }
            Told::Gone(key) => {
                if let Some(was) = self.rows.remove(&key) {
                    changed(&key, Some(&was), None);
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
    /// Of services as the last intent had them, without those that changed since.
    made: BTreeMap<Key, Arc<ServiceIntent>>,
    /// Services that changed since the last intent, or whose slices did; some may be gone.
    changed: BTreeSet<Key>,
    /// Something of the intent changed since it was last taken.
    dirty: bool,
    /// Something that was served before is among it.
    urgent: bool,
    /// An intent was taken.
    taken: bool,
}

impl Store {
    pub(super) fn keep(&mut self, slice: EndpointSlice) -> Option<KeptSlice> {
        slice.keep(&mut self.names)
    }

    pub(super) fn services(&mut self, told: Told<KubeService>) {
        let Self { services, made, changed, dirty, urgent, .. } = self;
        services.take(told, |key, was, _| {
            let _made = made.remove(key);
            let _new = changed.insert(key.clone());
            *dirty = true;
            *urgent |= was.is_some_and(|was| !was.vips.is_empty());
        });
    }

    pub(super) fn slices(&mut self, told: Told<KeptSlice>) {
        let Self { services, slices, names, made, changed, dirty, urgent, .. } = self;
        let wanted = |slice: Option<&KeptSlice>| slice.is_some_and(|slice| services.rows.contains_key(&slice.service));
        let complete = matches!(told, Told::All(_));
        slices.take(told, |_, was, now| {
            *dirty |= wanted(was) || wanted(now);
            *urgent |= wanted(was);
            for slice in [was, now].into_iter().flatten().filter(|slice| wanted(Some(slice))) {
                let _made = made.remove(&slice.service);
                let _new = changed.insert(slice.service.clone());
            }
        });
        if complete {
            names.tidy();
        }
    }

    pub(super) fn nodes(&mut self, told: Told<NodeIntent>) {
        let gone = matches!(told, Told::Gone(_));
        self.nodes.take(told, |_, was, _| {
            self.dirty = true;
            self.urgent |= was.is_some();
        });
        if gone {
            self.names.tidy();
        }
    }

    /// Of objects about announcements these were known before.
    pub(super) fn know(&mut self, rules: &Rules) {
        self.rules = Tables::known(rules);
    }

    pub(super) fn rule<R: Listed>(&mut self, told: Told<Result<R::Good, String>>) {
        if self.rules.take::<R>(told) {
            (self.dirty, self.urgent) = (true, true);
        }
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

    /// Is there an intent that was not taken yet, which takes away or changes something of the one before?
    pub(super) const fn is_urgent(&self) -> bool {
        self.is_due() && self.urgent
    }

    /// The intent, if there is one that was not taken yet.
    pub(super) fn take(&mut self) -> Option<Intent> {
        if !self.is_due() {
            return None;
        }
        (self.dirty, self.urgent, self.taken) = (false, false, true);
        let Self { services, slices, nodes, made, changed, .. } = self;
        let changed = std::mem::take(changed);
        let mut marked: HashMap<u64, Vec<&KeptSlice>> = changed.iter().map(|key| (mark(key), Vec::new())).collect();
        if !marked.is_empty() {
            for slice in slices.rows.values() {
                if let Some(of) = marked.get_mut(&slice.mark) {
                    of.push(slice);
                }
            }
        }
        for key in changed {
            let Some(service) = services.rows.get(&key) else { continue };
            // In the order of namespace and name.
            let marked = marked.get(&mark(&key)).into_iter().flatten().filter(|slice| slice.service == key);
            let slices = marked.map(|kept| Arc::clone(&kept.slice)).collect();
            let service = ServiceIntent { service: service.clone(), slices };
            let _none = made.insert(key, Arc::new(service));
        }
        Some(Intent {
            services: made.values().cloned().collect(),
            nodes: nodes.rows.iter().map(|((_, name), node)| (name.clone(), node.clone())).collect(),
            rules: self.rules.rules(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bascule_core::service::Affinity;

    use super::*;
    use crate::object::bgp::{BgpAnnouncement, BgpPeer};
    use crate::object::l2_announcement::L2Announcement;
    use crate::object::pool::VipPool;
    use crate::object::site::{Site, SiteTrafficPolicy};

    fn key(name: &str) -> Key {
        ("shop".to_owned(), name.to_owned())
    }

    fn service(name: &str, port: u16) -> (Key, KubeService) {
        let service = KubeService {
            namespace: "shop".into(),
            name: name.into(),
            labels: BTreeMap::new(),
            class: None,
            vips: vec![],
            ports: vec![],
            local: false,
            affinity: Affinity::None,
            sources: vec![],
            publish_not_ready: false,
            health_check_node_port: port,
        };
        (key(name), service)
    }

    /// A store of which nobody tells anything about announcements or sites.
    fn empty() -> Store {
        let mut store = Store::default();
        store.without::<VipPool>();
        store.without::<L2Announcement>();
        store.without::<BgpPeer>();
        store.without::<BgpAnnouncement>();
        store.without::<Site>();
        store.without::<SiteTrafficPolicy>();
        store
    }

    fn names(intent: &Intent) -> Vec<(&str, u16)> {
        let name = |s: &Arc<ServiceIntent>| s.service.health_check_node_port;
        intent.services.iter().map(|s| (s.service.name.as_str(), name(s))).collect()
    }

    #[test]
    fn an_intent_shares_what_did_not_change_and_nothing_else() {
        let mut store = empty();
        store.nodes(Told::All(vec![]));
        store.slices(Told::All(vec![]));
        store.services(Told::All(vec![service("a", 1), service("b", 1)]));
        let first = store.take().unwrap();
        assert!(store.take().is_none(), "nothing is new");
        let (b, changed) = service("b", 2);
        store.services(Told::One(b, changed));
        let second = store.take().unwrap();
        assert_eq!((names(&first), names(&second)), (vec![("a", 1), ("b", 1)], vec![("a", 1), ("b", 2)]));
        assert!(Arc::ptr_eq(&first.services[0], &second.services[0]));
        store.services(Told::Gone(key("a")));
        assert_eq!(names(&store.take().unwrap()), [("b", 2)]);
        store.services(Told::All(vec![service("a", 3), service("b", 2)]));
        let last = store.take().unwrap();
        assert_eq!(names(&last), [("a", 3), ("b", 2)]);
        assert!(Arc::ptr_eq(&second.services[1], &last.services[1]));
    }

    #[test]
    fn what_takes_away_or_changes_what_is_served_is_urgent_and_what_adds_is_not() {
        let mut store = empty();
        store.nodes(Told::All(vec![(key("n1"), NodeIntent::default())]));
        store.slices(Told::All(vec![]));
        store.services(Told::All(vec![service("a", 1)]));
        let _first = store.take().unwrap();
        let slice = |store: &mut Store, ready: bool| {
            let text = format!(
                r#"{{"metadata":{{"name":"a-1","namespace":"shop","labels":{{"kubernetes.io/service-name":"a"}}}},"addressType":"IPv4",
                  "endpoints":[{{"addresses":["10.1.0.1"],"conditions":{{"ready":{ready}}}}}]}}"#
            );
            let kept = store.keep(serde_json::from_str(&text).unwrap()).unwrap();
            store.slices(Told::One(key("a-1"), kept));
        };
        let told = |store: &mut Store| (store.is_urgent(), store.take().is_some());
        let given = |name: &str, port: u16| {
            let (key, service) = service(name, port);
            (key, KubeService { vips: vec![[192, 0, 2, 1].into()], ..service })
        };
        let (b, new) = service("b", 1);
        store.services(Told::One(b.clone(), new));
        assert_eq!(told(&mut store), (false, true), "a new Service");
        let (_, with_address) = given("b", 1);
        store.services(Told::One(b.clone(), with_address));
        assert_eq!(told(&mut store), (false, true), "it is given an address");
        slice(&mut store, true);
        assert_eq!(told(&mut store), (false, true), "a new slice");
        store.nodes(Told::One(key("n2"), NodeIntent::default()));
        assert_eq!(told(&mut store), (false, true), "a new node");
        slice(&mut store, false);
        assert_eq!(told(&mut store), (true, true), "an endpoint that is not ready any more");
        let (_, other) = given("b", 2);
        store.services(Told::One(b.clone(), other));
        assert_eq!(told(&mut store), (true, true), "a served Service that changed");
        store.services(Told::Gone(b));
        assert_eq!(told(&mut store), (true, true), "one that is gone");
        store.nodes(Told::One(key("n2"), NodeIntent { id: Some(2), ..NodeIntent::default() }));
        assert_eq!(told(&mut store), (true, true), "a node that changed");
        assert_eq!(told(&mut store), (false, false));
    }
}
