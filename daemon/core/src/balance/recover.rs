//! What a former run left, until a configuration says what of it is still wanted.

use std::collections::{BTreeMap, BTreeSet};

use super::Balancer;
use super::choice::Nodes;
use super::io::{Action, Recovered, RecoveredEndpoint, RecoveredService, ServiceSlot, Table};
use super::level::Level;
use super::room::{Room, Unlinked};
use super::service::{Local, Service};
use super::sites;
use crate::service::ServiceKey;
use crate::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Found {
    services: BTreeMap<ServiceKey, RecoveredService>,
    addresses: Vec<(ServiceSlot, core::net::IpAddr)>,
    endpoints: BTreeMap<ServiceSlot, Vec<RecoveredEndpoint>>,
    /// Keys that lead to something that cannot be: they go with the first configuration, unless it puts them anew.
    broken: Vec<ServiceKey>,
}

impl Found {
    /// Takes what fits together: slots in range and lent once, tables that lie in the slab and do not overlap.
    pub(super) fn new(found: Recovered, room: &mut Room) -> Self {
        let mut kept = Self::default();
        for mut service in found.services {
            if kept.services.contains_key(&service.key) || !room.services.claim(service.slot.0) {
                kept.broken.push(service.key);
                continue;
            }
            claim(&mut service.nodes, service.node_rows.len(), room);
            claim(&mut service.endpoints, service.endpoint_rows.len(), room);
            let _none = kept.services.insert(service.key, service);
        }
        for (slot, vip, _) in found.addresses {
            if room.services.claim(slot.0) {
                kept.addresses.push((slot, vip));
            }
        }
        for endpoint in found.endpoints {
            let known = kept.services.values().any(|s| s.slot == endpoint.service);
            if known && room.endpoints.claim(endpoint.slot.0) {
                kept.endpoints.entry(endpoint.service).or_default().push(endpoint);
            }
        }
        kept
    }

    pub(super) fn take(&mut self, key: &ServiceKey) -> Option<RecoveredService> {
        self.services.remove(key)
    }

    /// Gives a service its former tables and slots. Who served last is read from them, as far as this node can know: its own endpoints
    /// that were ready, and all of other nodes that rows name.
    pub(super) fn adopt(&mut self, service: &mut Service, found: RecoveredService, nodes: &Nodes, now: Instant) {
        service.keyed = false;
        for endpoint in self.endpoints.remove(&found.slot).unwrap_or_default() {
            let place = (endpoint.address, endpoint.port);
            let mut endpoints = service.spec.endpoints.iter().zip(&mut service.known);
            let found = endpoints.find(|(e, _)| (e.address, e.port) == place);
            let gone = found.is_none().then_some(now);
            let name = found.map_or_else(String::new, |(spec, known)| {
                known.serving |= endpoint.ready;
                spec.name.clone()
            });
            let _none = service.slots.insert(place, Local { slot: endpoint.slot, entry: None, name, gone });
        }
        let names_home = |id: u16| found.node_rows.iter().any(|r| r.home == id);
        let others = nodes.by_name.values().filter(|n| n.name != nodes.this && names_home(n.id));
        let others: BTreeSet<&str> = others.map(|n| n.name.as_str()).collect();
        for (spec, known) in service.spec.endpoints.iter().zip(&mut service.known) {
            known.serving |= spec.node.as_deref().is_some_and(|node| others.contains(node));
        }
        let node_rows = rows_of(found.nodes, &found.node_rows);
        service.nodes = Level::recovered(found.nodes, node_rows, |id| match sites::site_of(id) {
            Some(site) => nodes.by_name.values().any(|n| n.site == site.0),
            None => nodes.by_name.values().any(|n| n.id == id),
        });
        let endpoint_rows = rows_of(found.endpoints, &found.endpoint_rows);
        let slots = &service.slots;
        service.local = Level::recovered(found.endpoints, endpoint_rows, |id| slots.values().any(|l| l.slot.0 == id));
    }
}

/// Claims the rows of a table; a table whose rows are not all there and free is as good as none.
fn claim(table: &mut Table, rows: usize, room: &mut Room) {
    let whole = rows == usize::from(table.rows);
    if table.rows > 0 && !(whole && room.slab.claim(table.base, u32::from(table.rows))) {
        *table = Table { base: 0, rows: 0, epoch: table.epoch };
    }
}

fn rows_of(table: Table, rows: &[super::rows::Row]) -> &[super::rows::Row] {
    if table.rows == 0 { &[] } else { rows }
}

impl Balancer {
    /// What the first configuration does not want goes.
    pub(super) fn drop_found(&mut self, now: Instant) {
        let found = std::mem::take(&mut self.found);
        let room = &mut self.room;
        for (key, service) in found.services {
            room.owe(Action::RemoveKey { key });
            room.unlink_table(service.nodes, now);
            room.unlink_table(service.endpoints, now);
            for endpoint in found.endpoints.get(&service.slot).into_iter().flatten() {
                room.unlink(Unlinked::Endpoint(endpoint.slot), now);
            }
            room.unlink(Unlinked::Service(service.slot), now);
        }
        for key in found.broken {
            if !self.services.contains_key(&key) {
                room.owe(Action::RemoveKey { key });
            }
        }
        for (slot, vip) in found.addresses {
            if self.services.keys().any(|k| k.vip == vip) {
                self.vips.adopt(vip, slot);
            } else {
                room.owe(Action::RemoveAddress { vip });
                room.unlink(Unlinked::Service(slot), now);
            }
        }
    }
}
