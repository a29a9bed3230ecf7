//! Services: whose they are, and what their status shall say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bascule_core::ipam::{Action, Labels, Reason, ServiceId};
use serde_json::{Value, json};

use super::super::ask::{self, Whose};
use super::{About, Book, Entry, Notice, Target, Write, condition, is_older};
use crate::object::service::{ALLOCATED, Ingress, Service, StatusCondition};

/// Between the addresses and what is wrong.
const THEN: &str = "; ";

impl Book {
    fn whose(&self, service: &Service) -> Whose {
        if !service.is_load_balancer() || service.metadata.deletion_timestamp.is_some() {
            return Whose::Nobodys;
        }
        match &service.spec.load_balancer_class {
            Some(class) if self.rules.classes.contains(class) => Whose::Ours,
            None if self.rules.unclassed => Whose::Ours,
            Some(_) | None => Whose::Foreign,
        }
    }

    pub(super) fn service(&mut self, service: Service) {
        let id = ask::id(&service);
        let mut told = None;
        if let Some(known) = self.services.get_mut(&id) {
            let (before, now) = (&known.service.metadata, &service.metadata);
            if before.uid != now.uid {
                // Another one of the same name is no change of this one.
                self.forget(&id);
            } else if is_older(&now.resource_version, &before.resource_version) {
                return;
            } else {
                told = known.told.take();
                let status: BTreeSet<IpAddr> = service.addresses().into_iter().collect();
                let unsaid = told.as_ref().is_some_and(|(addresses, _)| {
                    *addresses != status && *addresses != known.service.addresses().into_iter().collect()
                });
                if unsaid && !status.is_empty() {
                    // What was decided was never written, and now another address stands there: of an allocator that was before us. It
                    // was seen by others, so it is adopted where that can be.
                    self.ipam.handle_removed(&id);
                    told = None;
                }
            }
        }
        let service = service.shrunk();
        let _before = self.services.insert(id.clone(), Entry { service, wrong: None, told });
        self.ask(&id);
        let _new = self.queue.insert(Target::Service(id));
    }

    pub(super) fn forget(&mut self, id: &ServiceId) {
        let _gone = self.services.remove(id);
        self.note(id);
        let _none = self.queue.remove(&Target::Service(id.clone()));
        self.ipam.handle_removed(id);
        self.queue.extend(self.pools.names().map(Target::Pool));
    }

    /// The labels of this namespace have changed.
    pub(super) fn ask_again(&mut self, namespace: &str) {
        let inside = |id: &&ServiceId| id.namespace == *namespace;
        let all: Vec<ServiceId> = self.services.keys().filter(inside).cloned().collect();
        all.iter().for_each(|id| self.ask(id));
    }

    /// Hands it to [`bascule_core::ipam::Ipam`].
    fn ask(&mut self, id: &ServiceId) {
        let Some(entry) = self.services.get(id) else { return };
        let (mut wrong, mut ours) = (None, false);
        match self.whose(&entry.service) {
            Whose::Ours => {
                ours = true;
                let none = Labels::new();
                let labels = self.namespaces.get(&id.namespace).unwrap_or(&none);
                let request;
                (request, wrong) = ask::request(&entry.service, labels);
                // Nothing is guessed: who has an address keeps it, who has none gets none.
                let holds = self.ipam.held(id).is_some_and(|held| !held.is_empty()) || !request.status.is_empty();
                if wrong.is_none() || holds {
                    self.ipam.handle_service(request);
                } else {
                    self.ipam.handle_removed(id);
                }
            }
            whose @ (Whose::Foreign | Whose::Nobodys) => {
                let taken = (whose == Whose::Foreign).then(|| ask::reservation(&entry.service)).flatten();
                self.ipam.handle_removed(id);
                if let Some(taken) = taken {
                    self.ipam.handle_service(taken);
                }
            }
        }
        if let Some(entry) = self.services.get_mut(id) {
            entry.wrong = wrong;
            entry.told = entry.told.take().filter(|_| ours);
        }
        self.note(id);
    }

    /// Does it lack something, as it was told last?
    fn note(&mut self, id: &ServiceId) {
        let told = self.services.get(id).and_then(|entry| entry.told.as_ref());
        if told.is_some_and(|(_, reasons)| !reasons.is_empty()) {
            let _new = self.lacking.insert(id.clone());
        } else {
            let _was = self.lacking.remove(id);
        }
    }

    /// Takes what was decided.
    pub(super) fn hear(&mut self) {
        let mut changed = false;
        while let Some(Action::Tell { id, addresses, reasons }) = self.ipam.poll_action() {
            changed = true;
            let ours = self.services.get(&id).is_some_and(|entry| self.whose(&entry.service) == Whose::Ours);
            if let Some(entry) = self.services.get_mut(&id).filter(|_| ours) {
                entry.told = Some((addresses, reasons));
                self.note(&id);
                let _new = self.queue.insert(Target::Service(id));
            }
        }
        if changed {
            self.queue.extend(self.pools.names().map(Target::Pool));
        }
    }

    /// What is to be written to bring the status to what it shall be; `None`: it is.
    pub(super) fn service_write(&self, id: &ServiceId) -> Option<Write> {
        let service = &self.services.get(id)?.service;
        match self.whose(service) {
            Whose::Ours => self.give(id),
            // Nobody reads it any more.
            Whose::Nobodys if service.metadata.deletion_timestamp.is_some() => None,
            Whose::Foreign | Whose::Nobodys => take_back(id, service),
        }
    }

    fn give(&self, id: &ServiceId) -> Option<Write> {
        let entry = self.services.get(id)?;
        let (service, none) = (&entry.service, BTreeSet::new());
        let (addresses, reasons) = match (&entry.told, &entry.wrong) {
            (Some((addresses, reasons)), _) => (addresses, reasons.as_slice()),
            (None, Some(_)) => (&none, [].as_slice()),
            (None, None) => return None,
        };
        let wanted = wanted(addresses, reasons, entry.wrong.as_deref());
        let (same_addresses, same_words) = (has(service, addresses), marked(service) == Some(&wanted));
        if same_addresses && same_words {
            return None;
        }
        let mut status = json!({"conditions": [condition(&wanted, service.metadata.generation, self.clock)]});
        if !same_addresses {
            status["loadBalancer"] = ingress(addresses.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect());
        }
        let uid = service.metadata.uid.clone();
        let about = About { kind: "Service", namespace: id.namespace.clone(), name: id.name.clone(), uid };
        let bad = wanted.status == "False" && !same_words;
        let event = bad.then_some(Notice { about, reason: wanted.reason, message: wanted.message });
        Some(write(id, service, status, event))
    }
}

/// Removes what we gave, and our mark; `None` where there is none.
fn take_back(id: &ServiceId, service: &Service) -> Option<Write> {
    let given = given(&marked(service)?.message);
    let others =
        |one: &&Ingress| one.ip.as_deref().and_then(|ip| ip.parse().ok()).is_none_or(|ip| !given.contains(&ip));
    let all = &service.status.load_balancer.ingress;
    let stays: Vec<Value> = all.iter().filter(others).map(|one| json!(one)).collect();
    let mut status = json!({"conditions": [{"$patch": "delete", "type": ALLOCATED}]});
    if stays.len() != all.len() {
        status["loadBalancer"] = ingress(stays);
    }
    Some(write(id, service, status, None))
}

fn write(id: &ServiceId, service: &Service, status: Value, event: Option<Notice>) -> Write {
    let patch = json!({"metadata": {"resourceVersion": service.metadata.resource_version}, "status": status});
    Write { target: Target::Service(id.clone()), patch, event }
}

fn marked(service: &Service) -> Option<&StatusCondition> {
    service.status.conditions.iter().find(|condition| condition.r#type == ALLOCATED)
}

/// A list that replaces the other; an empty one is absent.
fn ingress(all: Vec<Value>) -> Value {
    if all.is_empty() { json!({"ingress": null}) } else { json!({"ingress": all}) }
}

/// Does the status say these addresses and nothing else, in the form that is written?
fn has(service: &Service, addresses: &BTreeSet<IpAddr>) -> bool {
    let ingress = &service.status.load_balancer.ingress;
    let form = |one: &Ingress| one.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
    let there: BTreeSet<IpAddr> = service.addresses().into_iter().collect();
    there == *addresses && ingress.len() == addresses.len() && ingress.iter().all(form)
}

/// What our condition shall say.
fn wanted(addresses: &BTreeSet<IpAddr>, reasons: &[Reason], wrong: Option<&str>) -> StatusCondition {
    let given = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let reason = match (wrong, reasons.first()) {
        (Some(_), _) => "BadRequest",
        (None, Some(reason)) => word(reason),
        (None, None) => "Allocated",
    };
    let problems = wrong.map(str::to_owned).into_iter().chain(reasons.iter().map(ToString::to_string));
    let parts: Vec<String> = std::iter::once(given).filter(|given| !given.is_empty()).chain(problems).collect();
    StatusCondition {
        r#type: ALLOCATED.to_owned(),
        status: if reason == "Allocated" { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: parts.join(THEN),
    }
}

/// The addresses that a message of ours says we gave.
fn given(message: &str) -> BTreeSet<IpAddr> {
    let first = message.split(THEN).next().unwrap_or_default();
    first.split(", ").filter_map(|text| text.parse().ok()).collect()
}

const fn word(reason: &Reason) -> &'static str {
    match reason {
        Reason::NoPool => "NoPool",
        Reason::NoAutoAssign { .. } => "NoAutoAssign",
        Reason::UnknownPool { .. } => "UnknownPool",
        Reason::PoolRefuses { .. } => "PoolRefuses",
        Reason::NotInPool { .. } => "NotInPool",
        Reason::Taken { .. } => "AddressTaken",
        Reason::PortTaken { .. } => "PortTaken",
        Reason::Exhausted { .. } => "PoolExhausted",
        Reason::NeedsBoth => "NeedsBothFamilies",
    }
}
