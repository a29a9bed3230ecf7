//! A configuration as a difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Balancer;
use super::io::{Action, Config, Report, ServiceSlot};
use super::room::Unlinked;
use super::service::Service;
use crate::service::{Delivery, ServiceKey, ServiceSpec};
use crate::time::Instant;

impl Balancer {
    pub(super) fn apply(&mut self, config: Config, now: Instant) {
        let nodes = config.nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
        let this = config.node.unwrap_or_default();
        let nodes_changed = self.nodes.by_name != nodes || self.nodes.this != this;
        self.nodes.by_name = nodes;
        self.nodes.this = this;
        // Without a place among the nodes nothing can be steered.
        let on = self.nodes.by_name.contains_key(&self.nodes.this);
        // Packets of services that are only announced pass as if there were no service.
        let steered = config.services.into_iter().filter(|s| on && s.delivery != Delivery::None);
        let wanted: BTreeMap<ServiceKey, Arc<ServiceSpec>> = steered.map(|s| (s.key(), s)).collect();
        self.tell_nodes();
        let (gone, other) = self.difference(wanted);
        for key in gone {
            self.drop_service(key, now);
        }
        self.configured = true;
        for (key, spec) in other {
            match self.services.contains_key(&key) {
                true => self.change_service(key, spec, now),
                false => self.add_service(key, spec, now),
            }
        }
        self.drop_found(now);
        self.review_absent(now);
        if nodes_changed {
            self.mark_all(now);
        }
        if self.services.is_empty() {
            self.sweep();
        }
    }

    /// Services that nobody wants any more, and those that are new or described otherwise, by walking along both: most are the same.
    fn difference(
        &self,
        wanted: BTreeMap<ServiceKey, Arc<ServiceSpec>>,
    ) -> (Vec<ServiceKey>, Vec<(ServiceKey, Arc<ServiceSpec>)>) {
        let mut there = self.services.iter().peekable();
        let (mut gone, mut other) = (Vec::new(), Vec::new());
        for (key, spec) in wanted {
            while let Some((before, _)) = there.next_if(|(before, _)| **before < key) {
                gone.push(*before);
            }
            let same = there.next_if(|(before, _)| **before == key).is_some_and(|(_, service)| service.spec == spec);
            if !same {
                other.push((key, spec));
            }
        }
        gone.extend(there.map(|(before, _)| *before));
        (gone, other)
    }

    fn add_service(&mut self, key: ServiceKey, spec: Arc<ServiceSpec>, now: Instant) {
        let found = self.found.take(&key);
        let slot = found.as_ref().map(|f| f.slot).or_else(|| self.room.services.take().map(ServiceSlot));
        let Some(slot) = slot else {
            self.room.owe(Action::Report(Report::NoSlot { service: key }));
            return;
        };
        let mut service = Service::new(spec, slot, now);
        if let Some(found) = found {
            self.found.adopt(&mut service, found, &self.nodes, now);
            self.presume_unplaced(service.formerly_delegated(&self.nodes.this), now);
        }
        self.room.owe(Action::PutService { slot, entry: service.entry() });
        if !service.spec.sources.is_empty() {
            let add = service.spec.sources.clone();
            self.room.owe(Action::PutSources { slot, add, remove: Vec::new() });
        }
        let _none = self.services.insert(key, service);
        self.mark(key, now);
    }

    fn change_service(&mut self, key: ServiceKey, spec: Arc<ServiceSpec>, now: Instant) {
        let Some(service) = self.services.get_mut(&key) else { return };
        let (slot, before) = (service.slot, service.entry());
        let old = service.spec.sources.clone();
        service.set_spec(spec, now);
        let (entry, new) = (service.entry(), service.spec.sources.clone());
        let add: Vec<_> = new.iter().filter(|n| !old.contains(n)).copied().collect();
        let remove: Vec<_> = old.iter().filter(|n| !new.contains(n)).copied().collect();
        let sources = !(add.is_empty() && remove.is_empty());
        // Ranges before the flag that makes them count, and after the flag that makes them not.
        let first = sources && !new.is_empty();
        let put_sources = Action::PutSources { slot, add, remove };
        if first {
            self.room.owe(put_sources.clone());
        }
        if entry != before {
            self.room.owe(Action::PutService { slot, entry });
        }
        if sources && !first {
            self.room.owe(put_sources);
        }
        self.mark(key, now);
    }

    fn drop_service(&mut self, key: ServiceKey, now: Instant) {
        let Some(service) = self.services.remove(&key) else { return };
        if let Some(at) = service.wake {
            let _there = self.agenda.remove(&(at, key));
        }
        let _was_dirty = self.dirty.remove(&key);
        if service.keyed {
            self.room.owe(Action::RemoveKey { key });
        }
        self.vips.leave(&key, &mut self.room, now);
        if !service.spec.sources.is_empty() {
            let (slot, remove) = (service.slot, service.spec.sources.clone());
            self.room.owe(Action::PutSources { slot, add: Vec::new(), remove });
        }
        self.room.unlink_table(service.nodes.table, now);
        self.room.unlink_table(service.local.table, now);
        for local in service.slots.values() {
            self.room.unlink(Unlinked::Endpoint(local.slot), now);
        }
        self.room.unlink(Unlinked::Service(service.slot), now);
    }
}
