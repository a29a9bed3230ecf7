//! What the maps of a former run hold, in the core's words, and what of it goes when the new run has said what it wants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use bascule_core::balance::io::{
    EndpointSlot, Recovered, RecoveredEndpoint, RecoveredService, ServiceSlot, Table as CoreTable,
};
use bascule_core::balance::rows;
use bascule_core::service::{Protocol, ServiceKey};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    self as abi, ENDPOINT_READY, ENDPOINT_REMOTE, Endpoint, Flow, MAX_ENDPOINTS, MAX_NODES, MAX_SITES, NODE_RESOLVED,
    Node, Row, SERVICE_ADDRESS, Site, Table,
};

use super::apply::{INSIDE, Known, Path, address_key, key_of};
use super::error::ForwardError;
use super::peers::Peers;
use super::places::Place;
use super::tables::{Tables, source_prefix};
use crate::dataplane::registry::vip_key;

/// The address that a key holds.
pub(super) fn address_of(key: VipKey) -> IpAddr {
    Ipv6Addr::from(key.addr).to_canonical()
}

/// Reads services, tables and endpoints. What makes no sense to this build (a protocol it does not know) is left out, and swept later.
pub(super) fn recovered(tables: &Tables, peers: &Peers) -> Result<Recovered, ForwardError> {
    let mut found = Recovered::default();
    let mut slots = BTreeSet::new();
    for (key, slot) in tables.keys()? {
        let Ok(number) = u16::try_from(slot) else { continue };
        let service = tables.service(slot)?;
        let vip = address_of(key.vip);
        if service.flags & SERVICE_ADDRESS != 0 {
            found.addresses.push((ServiceSlot(number), vip, service.nodes != 0));
            continue;
        }
        let Some(protocol) = Protocol::from_number(key.protocol) else { continue };
        let (nodes, endpoints) = (Table::from_word(service.nodes), Table::from_word(service.endpoints));
        slots.insert(number);
        found.services.push(RecoveredService {
            slot: ServiceSlot(number),
            key: ServiceKey { vip, port: u16::from_be(key.port), protocol },
            nodes: core_table(nodes),
            node_rows: rows_of(tables, nodes)?,
            endpoints: core_table(endpoints),
            endpoint_rows: rows_of(tables, endpoints)?,
        });
    }
    found.services.sort_by_key(|service| service.slot);
    found.addresses.sort_by_key(|(slot, ..)| *slot);
    for slot in 1..MAX_ENDPOINTS {
        let endpoint = peers.endpoint(slot)?;
        if endpoint != Endpoint::default() && slots.contains(&endpoint.service) {
            found.endpoints.push(RecoveredEndpoint {
                slot: EndpointSlot(u16::try_from(slot).unwrap_or_default()),
                service: ServiceSlot(endpoint.service),
                address: address_of(endpoint.address),
                port: u16::from_be(endpoint.port),
                ready: endpoint.flags & ENDPOINT_READY != 0,
            });
        }
    }
    Ok(found)
}

/// Ways and places as a former run found them hold until this one has looked: its first entries must not say that nothing is known.
pub(super) fn seed(known: &mut Known, peers: &Peers) -> Result<(), ForwardError> {
    for id in 1..MAX_NODES {
        let node = peers.node(id)?;
        if node.flags & NODE_RESOLVED != 0 {
            let Node { ifindex, source_mac, next_mac, mtu, .. } = node;
            let _news = known.note_path(address_of(node.address), Some(Path { ifindex, source_mac, next_mac, mtu }));
        }
    }
    for slot in 1..MAX_ENDPOINTS {
        let endpoint = peers.endpoint(slot)?;
        match endpoint.netns {
            _ if endpoint == Endpoint::default() || endpoint.flags & ENDPOINT_REMOTE != 0 => {}
            -1 => {
                let _news = known.places.note(address_of(endpoint.address), Place::Host);
            }
            id if id >= 0 => {
                let _news = known.places.note(address_of(endpoint.address), Place::Netns(id));
            }
            _ => {}
        }
    }
    Ok(())
}

fn core_table(table: Table) -> CoreTable {
    CoreTable { base: table.base, rows: table.rows, epoch: table.epoch }
}

/// A word that points past the end was never one of ours: its table has no rows, and is not taken over.
fn rows_of(tables: &Tables, table: Table) -> Result<Vec<rows::Row>, ForwardError> {
    let row = |row: Row| rows::Row { home: row.home, previous: row.previous, older: row.older, stamp: row.stamp };
    match tables.rows(table.base, table.rows) {
        Ok(rows) => Ok(rows.into_iter().map(row).collect()),
        Err(ForwardError::Range { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes keys, address entries, source ranges, nodes, peers, endpoints and reverse entries of a former run that this one does not
/// name; how many went.
pub(super) fn sweep(known: &Known, tables: &mut Tables, peers: &mut Peers) -> Result<usize, ForwardError> {
    let mut gone = 0;
    let addresses: BTreeSet<[u8; 16]> = known
        .nodes
        .values()
        .filter(|node| !node.this)
        .flat_map(|node| node.spec.addresses.iter().map(|a| vip_key(*a).addr))
        .collect();
    for (source, _) in peers.peers()? {
        if !addresses.contains(&source.addr) {
            peers.remove_peer(source)?;
            gone += 1;
        }
    }
    for id in 1..MAX_NODES {
        let named = u16::try_from(id).is_ok_and(|id| known.nodes.contains_key(&id));
        if !named && peers.node(id)? != Node::default() {
            peers.set_node(id, &Node::default())?;
            gone += 1;
        }
    }
    for id in 1..MAX_SITES {
        let named = u8::try_from(id).is_ok_and(|id| known.sites.contains_key(&id));
        if !named && peers.site(id)? != Site::default() {
            peers.set_site(id, &Site::default())?;
            gone += 1;
        }
    }
    let services: BTreeMap<u16, abi::ServiceKey> =
        known.services.iter().map(|(slot, entry)| (slot.0, key_of(entry.key))).collect();
    let vips: BTreeSet<[u8; 16]> = known.addresses.iter().map(|vip| address_key(*vip).vip.addr).collect();
    let inside = known.inside.iter().map(|net| source_prefix(INSIDE, *net));
    let of_services = known.sources.iter().map(|(slot, net)| source_prefix(slot.0.into(), *net));
    let sources = of_services.chain(inside).collect();
    gone += tables.sweep_sources(&sources)?;
    for (key, slot) in tables.keys()? {
        let is_address = key.port == 0 && key.protocol == 0 && vips.contains(&key.vip.addr);
        let named = u16::try_from(slot).is_ok_and(|slot| services.get(&slot) == Some(&key));
        if !is_address && !named {
            tables.remove_key(&key)?;
            gone += 1;
        }
    }
    for slot in 1..MAX_ENDPOINTS {
        let named = u16::try_from(slot).is_ok_and(|slot| known.endpoints.contains_key(&EndpointSlot(slot)));
        if !named && peers.endpoint(slot)? != Endpoint::default() {
            peers.set_endpoint(slot, &Endpoint::default())?;
            gone += 1;
        }
    }
    for (key, _) in peers.reverse()? {
        if !known.reverse.contains(&(key.address.addr, key.port, key.protocol)) {
            peers.remove_reverse(&key)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// A flow as the new run names its service and endpoint; `None`: it knows no such service any more. Slots are this run's own, and a
/// flow that came over from the maps of a former run still has that one's.
pub(super) fn renamed(known: &Known, key: &abi::FlowKey, flow: &Flow) -> Option<Flow> {
    let is_service = |entry: &bascule_core::balance::io::ServiceEntry| {
        let of = key_of(entry.key);
        of.vip == flow.vip && of.port == flow.vip_port && of.protocol == key.protocol
    };
    let (slot, _) = known.services.iter().find(|(_, entry)| is_service(entry))?;
    let endpoint = known.endpoints.iter().find(|(_, entry)| {
        entry.service == *slot
            && vip_key(entry.address) == key.endpoint
            && entry.port.to_be() == key.endpoint_port
            && entry.protocol.number() == key.protocol
    });
    // An endpoint that is gone keeps its flows until they end; its counters go nowhere.
    let endpoint = endpoint.map_or(0, |(slot, _)| slot.0);
    Some(Flow { service: slot.0, endpoint, ..*flow })
}
