//! The look at one service: who serves now, which tables that makes, and what the driver must do about it, in an order in which no
//! packet ever meets something half done.

use std::sync::Arc;

use super::choice::{self, Choice, Nodes};
use super::damping::{Damped, State};
use super::io::{Action, EndpointEntry, EndpointSlot, Report, Table};
use super::level::Outcome;
use super::room::{Room, Unlinked};
use super::rows::{Standing, Standings};
use super::service::{Known, Local, Service};
use super::sites::{Sites, Split};
use super::status::Counts;
use super::{Balancer, GRACE, hold};
use crate::service::{Delivery, EndpointSpec, NodeSpec, ServiceKey};
use crate::time::Instant;

/// Which of the two tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Nodes,
    Endpoints,
}

impl Balancer {
    pub(super) fn build(&mut self, key: ServiceKey, now: Instant) {
        let Some(mut service) = self.services.remove(&key) else { return };
        let again = self.build_service(&mut service, now);
        let wake = [again, service.poll_timeout(), service.starved.then(|| now + GRACE)].into_iter().flatten().min();
        if let Some(old) = std::mem::replace(&mut service.wake, wake) {
            let _there = self.agenda.remove(&(old, key));
        }
        if let Some(at) = wake {
            let _new = self.agenda.insert((at, key));
        }
        let _none = self.services.insert(key, service);
    }

    fn build_service(&mut self, service: &mut Service, now: Instant) -> Option<Instant> {
        for known in &mut service.known {
            let _changed = known.health.expire(now);
        }
        // Whatever checks have still to say.
        let held = self.nodes.held.contains(&service.key);
        if held {
            hold::close(service, &mut self.room, now);
        }
        let choice = choice::choose(service, &self.nodes);
        // There is something to be lost only where packets are steered already.
        let urgent = service.urgent && service.nodes.table.rows > 0;
        if choice.unknown && now < service.patience && !urgent {
            return Some(service.patience);
        }
        service.urgent = false;
        service.forgotten = service.forgotten.filter(|(_, until)| *until > now);
        let room = &mut self.room;
        report_health(service, &choice, room);
        let mut serving = choice.serving.iter();
        for known in &mut service.known {
            known.serving = serving.next().copied().unwrap_or(false);
        }
        let entries = entries(service, &self.nodes, room, now);
        let (opening, closing): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(_, e)| e.ready);
        put(service, opening, room);
        service.report_delegated(&self.nodes, room);
        let local = if held { Ok(None) } else { build_local(service, &self.nodes, &mut self.counts, room, now) };
        let nodes = build_nodes(service, (&self.nodes, &self.sites), !self.swept, &mut self.counts, room, now);
        put(service, closing, room);
        let starved = local.is_err() || nodes.is_err();
        report_room(service, local.err().or(nodes.err()), room);
        service.starved = starved;
        service.built = true;
        let forgotten = forget(service, room, now);
        let serves = !held && service.serving().next().is_some() && !self.nodes.is_closed(service);
        let away = self.sites.split(service.owners.as_deref(), &self.nodes).has_others();
        let open = (serves || away) && service.nodes.table.rows > 0;
        self.vips.join(service, open, held, room);
        let told = service.forgotten.map(|(_, until)| until);
        [local.unwrap_or_default(), nodes.unwrap_or_default(), forgotten, told].into_iter().flatten().min()
    }
}

fn report_health(service: &mut Service, choice: &Choice, room: &mut Room) {
    if choice.all_unready && !service.all_unready {
        room.owe(Action::Report(Report::AllUnready { service: service.key, kept: choice.kept }));
    } else if service.all_unready && !choice.all_unready {
        room.owe(Action::Report(Report::Recovered { service: service.key }));
    }
    service.all_unready = choice.all_unready;
}

fn report_room(service: &Service, wanted: Option<u16>, room: &mut Room) {
    match wanted {
        Some(rows) if !service.starved => {
            room.owe(Action::Report(Report::SlabFull { service: service.key, rows }));
        }
        None if service.starved => room.owe(Action::Report(Report::Recovered { service: service.key })),
        Some(_) | None => {}
    }
}

/// Gives slots to new endpoints, marks those that are gone, and tells what changed of all.
fn entries(
    service: &mut Service,
    nodes: &Nodes,
    room: &mut Room,
    now: Instant,
) -> Vec<((core::net::IpAddr, u16), EndpointEntry)> {
    let stack = service.wanted_stack(nodes);
    let unknown = Known { health: Damped::new(State::Unknown), serving: false };
    let specs = Arc::clone(&service.spec.endpoints);
    let reachable = specs.iter().zip(service.known.iter().copied()).filter(|(e, _)| service.reaches(e, &nodes.this));
    let wanted: Vec<(&EndpointSpec, Known)> = reachable.chain(stack.as_ref().map(|e| (e, unknown))).collect();
    let is_at = |place: (core::net::IpAddr, u16)| move |(e, _): &&(&EndpointSpec, Known)| (e.address, e.port) == place;
    let mut slotless = false;
    for (endpoint, _) in &wanted {
        let place = (endpoint.address, endpoint.port);
        match service.slots.get_mut(&place) {
            Some(local) => {
                local.name.clone_from(&endpoint.name);
                local.gone = None;
            }
            None => match room.endpoints.take() {
                Some(slot) => {
                    let local =
                        Local { slot: EndpointSlot(slot), entry: None, name: endpoint.name.clone(), gone: None };
                    let _none = service.slots.insert(place, local);
                }
                None => slotless = true,
            },
        }
    }
    if slotless && !service.slotless {
        room.owe(Action::Report(Report::NoSlot { service: service.key }));
    }
    service.slotless = slotless;
    for (place, local) in &mut service.slots {
        if wanted.iter().find(is_at(*place)).is_none() {
            let _since = local.gone.get_or_insert(now);
        }
    }
    let closed = nodes.is_closed(service);
    // Nodes hear of a drained node one after the other: until all have, new connections still come here, and nothing is wrong with them.
    let late = nodes.is_draining(&nodes.this) && service.serving().next().is_some();
    let welcome = |known: &Known| known.serving || (late && known.state() == State::Ready);
    let takes = |e: &EndpointSpec, known: &Known| {
        let stack = (e.address, e.port) == service.stack();
        stack || (welcome(known) && !service.is_delegated(e, nodes))
    };
    let entry = |(place, local): (&(core::net::IpAddr, u16), &Local)| {
        let wanted = wanted.iter().find(is_at(*place));
        let draining = closed || wanted.is_none_or(|(e, known)| nodes.endpoint_draining(service, e, known));
        let remote = match (wanted, &local.entry) {
            (Some((spec, _)), _) => spec.node.is_none(),
            (None, Some(told)) => told.remote,
            (None, None) => false,
        };
        let ready = !draining && wanted.is_some_and(|(e, known)| takes(e, known));
        // Of all that an entry says, only this changes under one name.
        let told = |told: &EndpointEntry| {
            (told.ready, told.draining, told.remote, &told.name) == (ready, draining, remote, &local.name)
        };
        if local.entry.as_ref().is_some_and(told) {
            return None;
        }
        let entry = EndpointEntry {
            name: local.name.clone(),
            service: service.slot,
            address: place.0,
            port: place.1,
            protocol: service.spec.protocol,
            ready,
            draining,
            remote,
        };
        Some((*place, entry))
    };
    service.slots.iter().filter_map(entry).collect()
}

fn put(service: &mut Service, entries: Vec<((core::net::IpAddr, u16), EndpointEntry)>, room: &mut Room) {
    for (place, entry) in entries {
        if let Some(local) = service.slots.get_mut(&place) {
            room.owe(Action::PutEndpoint { slot: local.slot, entry: entry.clone() });
            local.entry = Some(entry);
        }
    }
}

fn build_nodes(
    service: &mut Service,
    (nodes, sites): (&Nodes, &Sites),
    starting: bool,
    counts: &mut Counts,
    room: &mut Room,
    now: Instant,
) -> Result<Option<Instant>, u16> {
    let members = choice::node_members(service.serving(), nodes);
    let (size, _) = choice::sizes(service, nodes);
    let worth = |n: &NodeSpec| match nodes.is_dead(&n.name) {
        true => Standing::Dead,
        false if members.iter().any(|m| m.id == n.id) => Standing::Member,
        false => Standing::Holder,
    };
    let standings: Standings = nodes.by_name.values().map(|n| (n.id, worth(n))).collect();
    let split = sites.split(service.owners.as_deref(), nodes);
    let standing = |id: u16| standings.of(id).unwrap_or_else(|| split.standing(id));
    let drain = service.drain();
    if starting && service.nodes.table.rows == 0 {
        // Not by the members: whose check has not spoken yet served the others all the same.
        let mut others = choice::node_members(choice::supposed(service, nodes), nodes);
        others.retain(|m| m.name != nodes.this);
        service.nodes.suppose(service.seed, others, size, now);
    }
    let outcome = service.nodes.build(service.seed, members, size, (drain, &split), standing, now);
    install(Which::Nodes, service, outcome, counts, room, now)
}

fn build_local(
    service: &mut Service,
    nodes: &Nodes,
    counts: &mut Counts,
    room: &mut Room,
    now: Instant,
) -> Result<Option<Instant>, u16> {
    let members = choice::local_members(service, nodes);
    let (_, size) = choice::sizes(service, nodes);
    let drain = service.drain();
    if members.is_empty() && service.slots.values().all(|l| is_over(l, service, now)) {
        // Not one row could still lead to a flow.
        hold::close(service, room, now);
        return Ok(None);
    }
    let fails = |local: &Local| service.known(&local.name).is_some_and(|known| known.state() == State::Unready);
    let worth = |local: &Local| {
        if is_over(local, service, now) {
            Standing::Gone
        } else if members.iter().any(|m| m.id == local.slot.0) {
            Standing::Member
        } else if local.gone.is_none() && fails(local) {
            Standing::Dead
        } else {
            Standing::Holder
        }
    };
    let standings: Standings = service.slots.values().map(|local| (local.slot.0, worth(local))).collect();
    let standing = |id: u16| standings.of(id).unwrap_or(Standing::Gone);
    let outcome = service.local.build(service.seed, members, size, (drain, &Split::none()), standing, now);
    install(Which::Endpoints, service, outcome, counts, room, now)
}

/// Is the endpoint gone for so long that nobody asks it for flows?
fn is_over(local: &Local, service: &Service, now: Instant) -> bool {
    local.gone.is_some_and(|since| now >= since + drain_time(service))
}

fn drain_time(service: &Service) -> core::time::Duration {
    core::time::Duration::from_secs(u64::from(service.drain()) * 60)
}

/// Writes a table beside the old one and lets the service's word name it.
fn install(
    which: Which,
    service: &mut Service,
    outcome: Outcome,
    counts: &mut Counts,
    room: &mut Room,
    now: Instant,
) -> Result<Option<Instant>, u16> {
    counts.builds += 1;
    let Some(built) = outcome.built else { return Ok(outcome.again) };
    let level = match which {
        Which::Nodes => &mut service.nodes,
        Which::Endpoints => &mut service.local,
    };
    let rows = u16::try_from(built.rows.len()).unwrap_or(u16::MAX);
    let base = room.slab.take(u32::from(rows)).ok_or(rows)?;
    let old = level.table;
    let table = Table { base, rows, epoch: old.epoch.wrapping_add(1) };
    room.owe(Action::WriteRows { base, rows: built.rows.clone() });
    let slot = service.slot;
    room.owe(match which {
        Which::Nodes => Action::SwapNodes { slot, table },
        Which::Endpoints => Action::SwapEndpoints { slot, table },
    });
    room.unlink_table(old, now);
    level.install(table, built.rows);
    counts.swaps += 1;
    counts.rows_moved += built.moved;
    if built.forgot > 0 {
        counts.rows_forgotten += built.forgot;
        if service.forgotten.is_none() {
            room.owe(Action::Report(Report::Forgotten { service: service.key, rows: built.forgot }));
        }
        // A second loss within the drain time adds to the first and prolongs it.
        let before = service.forgotten.map_or(0, |(rows, _)| rows);
        service.forgotten = Some((before + built.forgot, now + drain_time(service)));
    }
    Ok(outcome.again)
}

/// Lets go of endpoints whose time is over and that no row names. Gives the time of the next.
fn forget(service: &mut Service, room: &mut Room, now: Instant) -> Option<Instant> {
    let over: Vec<_> =
        service.slots.iter().filter(|(_, l)| is_over(l, service, now)).map(|(place, l)| (*place, l.slot)).collect();
    for (place, slot) in over {
        if !service.local.names(slot.0) {
            let _gone = service.slots.remove(&place);
            room.unlink(Unlinked::Endpoint(slot), now);
        }
    }
    let ends = service.slots.values().filter_map(|l| l.gone).map(|since| since + drain_time(service));
    ends.filter(|at| *at > now).min()
}

/// Does the service rewrite at all?
pub(super) fn rewrites(service: &Service) -> bool {
    service.spec.delivery == Delivery::Direct
}
