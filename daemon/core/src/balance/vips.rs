//! What several services share: the entry of their VIP, and endpoints that answer for one of them only.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::build::rewrites;
use super::io::{Action, Report, ReverseId, ServiceSlot};
use super::room::{Room, Unlinked};
use super::service::Service;
use crate::service::ServiceKey;
use crate::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Vips {
    entries: BTreeMap<IpAddr, Entry>,
    /// Which services each endpoint of this node serves.
    users: BTreeMap<ReverseId, BTreeMap<ServiceKey, ServiceSlot>>,
    /// The same by service.
    served: BTreeMap<ServiceKey, BTreeSet<ReverseId>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// `None`: there was no slot.
    slot: Option<ServiceSlot>,
    /// Services of the VIP, and whether each takes new connections.
    services: BTreeMap<ServiceKey, bool>,
    /// What the driver was told.
    answering: bool,
}

impl Vips {
    /// An address entry of a former run.
    pub(super) fn adopt(&mut self, vip: IpAddr, slot: ServiceSlot) {
        let _none = self.entries.insert(vip, Entry { slot: Some(slot), ..Entry::default() });
    }

    /// A service was looked at: makes its VIP and its key known and brings its reverse entries up to date. One that is held has none.
    pub(super) fn join(&mut self, service: &mut Service, open: bool, held: bool, room: &mut Room) {
        let key = service.key;
        let entry = self.entries.entry(key.vip).or_default();
        let first = entry.services.is_empty();
        let _before = entry.services.insert(key, open);
        if first {
            entry.slot = entry.slot.or_else(|| room.services.take().map(ServiceSlot));
            match entry.slot {
                Some(slot) => room.owe(Action::PutAddress { slot, vip: key.vip }),
                None => room.owe(Action::Report(Report::NoSlot { service: key })),
            }
        }
        entry.tell(first, room);
        if !service.keyed {
            service.keyed = true;
            room.owe(Action::PutKey { key, slot: service.slot });
        }
        let protocol = service.spec.protocol;
        let ids: BTreeSet<ReverseId> = if rewrites(service) && !held {
            // What the stack answers is the VIP's already.
            let own = service.slots.keys().filter(|place| **place != service.stack());
            own.map(|(address, port)| ReverseId { address: *address, port: *port, protocol }).collect()
        } else {
            BTreeSet::new()
        };
        self.serve(key, service.slot, ids, room);
    }

    /// A service is gone.
    pub(super) fn leave(&mut self, key: &ServiceKey, room: &mut Room, now: Instant) {
        self.serve(*key, ServiceSlot(0), BTreeSet::new(), room);
        let Some(entry) = self.entries.get_mut(&key.vip) else { return };
        let was_there = entry.services.remove(key).is_some();
        if !entry.services.is_empty() {
            entry.tell(false, room);
        } else if was_there {
            self.drop_entry(&key.vip, room, now);
        }
    }

    /// Removes an address entry.
    pub(super) fn drop_entry(&mut self, vip: &IpAddr, room: &mut Room, now: Instant) {
        if let Some(slot) = self.entries.remove(vip).and_then(|e| e.slot) {
            room.owe(Action::RemoveAddress { vip: *vip });
            room.unlink(Unlinked::Service(slot), now);
        }
    }

    /// The service has these endpoints now.
    fn serve(&mut self, key: ServiceKey, slot: ServiceSlot, ids: BTreeSet<ReverseId>, room: &mut Room) {
        let had = self.served.remove(&key).unwrap_or_default();
        for id in had.difference(&ids) {
            self.change(*id, room, |users| {
                let _was = users.remove(&key);
            });
        }
        for id in ids.difference(&had) {
            self.change(*id, room, |users| {
                let _none = users.insert(key, slot);
            });
        }
        if !ids.is_empty() {
            let _none = self.served.insert(key, ids);
        }
    }

    fn change(&mut self, id: ReverseId, room: &mut Room, by: impl FnOnce(&mut BTreeMap<ServiceKey, ServiceSlot>)) {
        let users = self.users.entry(id).or_default();
        let before = only(users);
        by(users);
        let after = only(users);
        if users.is_empty() {
            let _empty = self.users.remove(&id);
        }
        match after {
            Some((key, slot)) if before != after => room.owe(Action::PutReverse { id, key, slot }),
            None if before.is_some() => room.owe(Action::RemoveReverse { id }),
            Some(_) | None => {}
        }
    }
}

fn only(users: &BTreeMap<ServiceKey, ServiceSlot>) -> Option<(ServiceKey, ServiceSlot)> {
    let mut users = users.iter();
    let first = users.next().map(|(key, slot)| (*key, *slot));
    first.filter(|_| users.next().is_none())
}

impl Entry {
    /// Tells whether the VIP answers, when that changed or nothing was told yet.
    fn tell(&mut self, first: bool, room: &mut Room) {
        let answering = self.services.values().any(|open| *open);
        if let Some(slot) = self.slot
            && (first || answering != self.answering)
        {
            room.owe(Action::SetAnswering { slot, answering });
        }
        self.answering = answering;
    }
}
