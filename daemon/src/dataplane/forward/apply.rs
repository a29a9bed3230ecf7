//! Carries out what the balancer owes, and keeps what its actions do not say: the way to each node, and where each endpoint lives.
//!
//! The facts of the network come later and change: an entry is written with what is known, and again when more is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bascule_core::balance::io::{Action, EndpointEntry, EndpointSlot, NodeEntry, ServiceEntry, ServiceSlot};
use bascule_core::balance::rows;
use bascule_core::balance::sites::SiteEntry;
use bascule_core::service::{Affinity, Delivery, NodeSpec, Protocol, Return, ServiceKey};
use bascule_core::site::SiteId;
use bascule_ebpf_common::forward::{
    self as abi, DELIVER_DELEGATE, DELIVER_DIRECT, DELIVER_NONE, ENDPOINT_DRAINING, ENDPOINT_HOST, ENDPOINT_READY,
    ENDPOINT_REMOTE, Endpoint, NODE_DEAD, NODE_RESOLVED, NODE_SELF, Node, RETURN_DIRECT, RETURN_VIA_INGRESS,
    ReverseEntry, ReverseKey, Row, SERVICE_ADDRESS, SERVICE_AFFINITY, SERVICE_ASK, SERVICE_EXCEPTIONS, SERVICE_QUIC,
    SERVICE_SOURCES, SITE_REACHABLE, SITE_VIA_INGRESS, Service, Site, Table,
};

use ipnet::IpNet;

use super::error::ForwardError;
use super::peers::Peers;
use super::places::{Place, Places};
use super::tables::Tables;
use crate::dataplane::registry::vip_key;

/// The way to a node, as route and neighbour tables tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Device towards it.
    pub ifindex: u32,
    /// MAC of that device.
    pub source_mac: [u8; 6],
    /// MAC of the next hop.
    pub next_mac: [u8; 6],
    /// Largest IP packet on the way, bytes.
    pub mtu: u16,
}

/// "No socket look-up" in [`Endpoint::netns`].
const NETNS_UNKNOWN: i32 = -2;
/// `BPF_F_CURRENT_NETNS`.
const NETNS_OWN: i32 = -1;
/// Slot of the source ranges that no service has: the networks inside.
pub(super) const INSIDE: u32 = 0;
/// IP and TCP headers without options: what a segment size leaves out.
const HEADERS_V4: u16 = 40;
const HEADERS_V6: u16 = 60;

/// What was put into the maps, in the core's words, and what the network says of it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) services: BTreeMap<ServiceSlot, ServiceEntry>,
    pub(super) endpoints: BTreeMap<EndpointSlot, EndpointEntry>,
    pub(super) nodes: BTreeMap<u16, NodeEntry>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) sources: BTreeSet<(ServiceSlot, IpNet)>,
    /// Networks inside, under slot 0 of the source ranges.
    pub(super) inside: BTreeSet<IpNet>,
    /// Address, port (network order) and protocol of each reverse entry.
    pub(super) reverse: BTreeSet<([u8; 16], u16, u8)>,
    /// Other sites, by number.
    pub(super) sites: BTreeMap<u8, SiteEntry>,
    paths: BTreeMap<IpAddr, Path>,
    pub(super) places: Places,
    shared: Shared,
}

/// What all services share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// Largest segments that fit the narrowest way to another node, IPv4 and IPv6; 0: there is no other node.
    pub(super) mss: (u16, u16),
    /// There are other sites, whose nodes say which flows live there.
    pub(super) sites: bool,
}

/// The maps that actions write.
pub(super) struct Written<'a> {
    pub(super) tables: &'a mut Tables,
    pub(super) peers: &'a mut Peers,
}

impl Known {
    /// Carries out one action.
    pub(super) fn apply(&mut self, maps: &mut Written<'_>, action: Action) -> Result<(), ForwardError> {
        match action {
            Action::PutService { slot, entry } => {
                maps.tables.write_service(slot.0.into(), &service(&entry, self.shared))?;
                self.services.insert(slot, entry);
            }
            Action::PutKey { key, slot } => maps.tables.set_key(&key_of(key), slot.0.into())?,
            Action::RemoveKey { key } => maps.tables.remove_key(&key_of(key))?,
            Action::PutAddress { slot, vip } => {
                let entry = Service { flags: SERVICE_ADDRESS, vip: vip_key(vip), ..Service::default() };
                maps.tables.write_service(slot.0.into(), &entry)?;
                maps.tables.set_key(&address_key(vip), slot.0.into())?;
                self.addresses.insert(vip);
            }
            Action::SetAnswering { slot, answering } => {
                let table = Table { rows: u16::from(answering), ..Table::default() };
                maps.tables.write_nodes_table(slot.0.into(), table)?;
            }
            Action::RemoveAddress { vip } => {
                maps.tables.remove_key(&address_key(vip))?;
                self.addresses.remove(&vip);
            }
            Action::ClearService { slot } => {
                maps.tables.clear_service(slot.0.into())?;
                let sources: Vec<IpNet> =
                    self.sources.iter().filter(|(of, _)| *of == slot).map(|(_, net)| *net).collect();
                maps.tables.remove_sources(slot.0.into(), &sources)?;
                self.sources.retain(|(of, _)| *of != slot);
                self.services.remove(&slot);
            }
            Action::PutSources { slot, add, remove } => {
                maps.tables.add_sources(slot.0.into(), &add)?;
                self.sources.extend(add.into_iter().map(|net| (slot, net)));
                maps.tables.remove_sources(slot.0.into(), &remove)?;
                self.sources.retain(|(of, net)| *of != slot || !remove.contains(net));
            }
            Action::WriteRows { base, rows } => write_rows(maps.tables, base, &rows)?,
            Action::SwapNodes { slot, table } => maps.tables.write_nodes_table(slot.0.into(), table_of(table))?,
            Action::SwapEndpoints { slot, table } => {
                maps.tables.write_endpoints_table(slot.0.into(), table_of(table))?;
            }
            Action::PutEndpoint { slot, entry } => {
                maps.peers.set_endpoint(slot.0.into(), &self.endpoint(&entry))?;
                if let Some(old) = self.endpoints.get(&slot) {
                    self.places.remove(slot, old.address);
                }
                if !entry.remote {
                    self.places.put(slot, entry.address);
                }
                self.endpoints.insert(slot, entry);
            }
            Action::RemoveEndpoint { slot } => {
                maps.peers.set_endpoint(slot.0.into(), &Endpoint::default())?;
                if let Some(old) = self.endpoints.remove(&slot) {
                    self.places.remove(slot, old.address);
                }
            }
            Action::PutNode(entry) => self.put_node(maps, entry)?,
            Action::RemoveNode { spec } => self.remove_node(maps, &spec)?,
            Action::PutSite(entry) => self.put_site(maps, entry)?,
            Action::SetNearest(order) => maps.peers.set_site(NEAREST, &nearest(&order))?,
            Action::PutReverse { id, key, slot } => {
                let entry = ReverseEntry { vip: vip_key(key.vip), port: key.port.to_be(), service: slot.0, pad: 0 };
                let at = reverse_key(id.address, id.port, id.protocol);
                maps.peers.set_reverse(&at, &entry)?;
                self.reverse.insert((at.address.addr, at.port, at.protocol));
            }
            Action::RemoveReverse { id } => {
                let at = reverse_key(id.address, id.port, id.protocol);
                maps.peers.remove_reverse(&at)?;
                self.reverse.remove(&(at.address.addr, at.port, at.protocol));
            }
            // Rows that are free are written by whoever is given them next; reports are for people; the caller asks, and sweeps, flows too.
            Action::FreeRows { .. } | Action::Report(_) | Action::Ask { .. } | Action::Sweep => {}
        }
        Ok(())
    }

    fn put_node(&mut self, maps: &mut Written<'_>, entry: NodeEntry) -> Result<(), ForwardError> {
        let id = entry.spec.id;
        maps.peers.set_node(id.into(), &self.node(&entry))?;
        if !entry.this {
            for address in &entry.spec.addresses {
                maps.peers.set_peer(*address, id.into())?;
            }
        }
        let old = self.nodes.insert(id, entry);
        let kept = &self.nodes[&id].spec.addresses;
        for gone in old.iter().flat_map(|old| &old.spec.addresses).filter(|address| !kept.contains(address)) {
            maps.peers.remove_peer(vip_key(*gone))?;
        }
        self.renew_shared(maps)
    }

    fn remove_node(&mut self, maps: &mut Written<'_>, spec: &NodeSpec) -> Result<(), ForwardError> {
        for address in &spec.addresses {
            maps.peers.remove_peer(vip_key(*address))?;
        }
        maps.peers.set_node(spec.id.into(), &Node::default())?;
        self.nodes.remove(&spec.id);
        self.renew_shared(maps)
    }

    fn put_site(&mut self, maps: &mut Written<'_>, entry: SiteEntry) -> Result<(), ForwardError> {
        let number = entry.spec.site.0;
        maps.peers.set_site(number.into(), &site(&entry))?;
        if entry.gateways.is_empty() {
            self.sites.remove(&number);
        } else {
            self.sites.insert(number, entry);
        }
        // What the paths carry may be new.
        for node in self.nodes.values().filter(|node| node.spec.site == number) {
            maps.peers.set_node(node.spec.id.into(), &self.node(node))?;
        }
        self.renew_shared(maps)
    }

    /// Largest packet to a node by the way to it, as far as the way to its site carries it.
    fn fits(&self, node: &NodeSpec, path: &Path) -> u16 {
        let site = self.sites.get(&node.site).and_then(|site| site.spec.mtu);
        path.mtu.min(site.unwrap_or(u16::MAX))
    }

    /// Writes the networks inside: new ones first, so that one that is in both is never missing.
    pub(super) fn set_inside(&mut self, tables: &mut Tables, ranges: &BTreeSet<IpNet>) -> Result<(), ForwardError> {
        let new: Vec<IpNet> = ranges.difference(&self.inside).copied().collect();
        tables.add_sources(INSIDE, &new)?;
        self.inside.extend(new);
        let gone: Vec<IpNet> = self.inside.difference(ranges).copied().collect();
        tables.remove_sources(INSIDE, &gone)?;
        self.inside.retain(|net| ranges.contains(net));
        Ok(())
    }

    /// Addresses of other nodes, whose way must be known.
    pub(super) fn others(&self) -> BTreeSet<IpAddr> {
        let others = self.nodes.values().filter(|node| !node.this);
        others.filter_map(|node| node.spec.addresses.first().copied()).collect()
    }

    /// The way to a node changed; `None`: there is none. What is not wanted any more is forgotten.
    pub(super) fn set_path(
        &mut self,
        maps: &mut Written<'_>,
        address: IpAddr,
        path: Option<Path>,
    ) -> Result<bool, ForwardError> {
        if !self.note_path(address, path) {
            return Ok(false);
        }
        for node in self.nodes.values().filter(|node| node.spec.addresses.first() == Some(&address)) {
            maps.peers.set_node(node.spec.id.into(), &self.node(node))?;
        }
        self.renew_shared(maps)?;
        Ok(true)
    }

    /// Places of endpoints, as they are found. Gives those that are news.
    pub(super) fn set_places(
        &mut self,
        maps: &mut Written<'_>,
        mut places: BTreeMap<IpAddr, Place>,
    ) -> Result<BTreeMap<IpAddr, Place>, ForwardError> {
        places.retain(|address, place| self.places.answer(*address, *place));
        for address in places.keys() {
            for slot in self.places.slots(*address) {
                if let Some(entry) = self.endpoints.get(&slot) {
                    maps.peers.set_endpoint(slot.0.into(), &self.endpoint(entry))?;
                }
            }
        }
        Ok(places)
    }

    /// True when it is news.
    pub(super) fn note_path(&mut self, address: IpAddr, path: Option<Path>) -> bool {
        let before = match path {
            Some(path) => self.paths.insert(address, path),
            None => self.paths.remove(&address),
        };
        before != path
    }

    /// Drops facts of addresses that nothing names any more.
    pub(super) fn forget_unwanted(&mut self) {
        let nodes = self.others();
        self.paths.retain(|address, _| nodes.contains(address));
        self.places.forget_unwanted();
    }

    /// Devices towards nodes.
    pub(super) fn devices(&self) -> BTreeSet<u32> {
        self.paths.values().map(|path| path.ifindex).collect()
    }

    /// What an operator should know: nodes without a way, endpoints without a place.
    pub(super) fn conditions(&self) -> Vec<String> {
        let nodes = self.others();
        let lost = nodes.iter().filter(|address| !self.paths.contains_key(address));
        let lost = lost.map(|address| format!("no way to the node at {address}: what is for it is dropped"));
        // One that is leaving may be gone already.
        let stays = |slot: EndpointSlot| self.endpoints.get(&slot).is_some_and(|e| !e.draining);
        let unplaced = self.places.unplaced().filter(|address| self.places.slots(*address).any(stays));
        let unplaced = unplaced.map(|address| {
            format!(
                "the network namespace of the endpoint {address} is not known: its sockets cannot be asked for flows"
            )
        });
        lost.chain(unplaced).collect()
    }

    /// What all services share follows the ways between nodes and the sites that there are.
    fn renew_shared(&mut self, maps: &mut Written<'_>) -> Result<(), ForwardError> {
        let shared = Shared { mss: self.narrowest(), sites: !self.sites.is_empty() };
        if shared == self.shared {
            return Ok(());
        }
        self.shared = shared;
        for (slot, entry) in &self.services {
            maps.tables.write_service(slot.0.into(), &service(entry, shared))?;
        }
        Ok(())
    }

    /// Largest segments that fit the narrowest known way to another node, IPv4 and IPv6; 0: there is none.
    pub(super) fn narrowest(&self) -> (u16, u16) {
        let inner = self.nodes.values().filter(|node| !node.this).filter_map(|node| {
            let address = node.spec.addresses.first()?;
            Some(self.fits(&node.spec, self.paths.get(address)?).saturating_sub(overhead(address)))
        });
        inner.min().map_or((0, 0), |inner| (inner.saturating_sub(HEADERS_V4), inner.saturating_sub(HEADERS_V6)))
    }

    pub(super) fn node(&self, entry: &NodeEntry) -> Node {
        let Some(address) = entry.spec.addresses.first() else { return Node::default() };
        let mut node = Node { address: vip_key(*address), site: entry.spec.site, ..Node::default() };
        node.flags = if entry.dead { NODE_DEAD } else { 0 } | if entry.this { NODE_SELF } else { 0 };
        if let Some(path) = self.paths.get(address) {
            node.flags |= NODE_RESOLVED;
            node.ifindex = path.ifindex;
            node.source_mac = path.source_mac;
            node.next_mac = path.next_mac;
            node.mtu = self.fits(&entry.spec, path);
        }
        node
    }

    pub(super) fn endpoint(&self, entry: &EndpointEntry) -> Endpoint {
        let mut flags = 0;
        for (set, flag) in
            [(entry.ready, ENDPOINT_READY), (entry.draining, ENDPOINT_DRAINING), (entry.remote, ENDPOINT_REMOTE)]
        {
            flags |= if set { flag } else { 0 };
        }
        let place = if entry.remote { Place::Unknown } else { self.places.get(entry.address) };
        let netns = match place {
            Place::Host => {
                flags |= ENDPOINT_HOST;
                NETNS_OWN
            }
            Place::Netns(id) => id,
            Place::Unknown => NETNS_UNKNOWN,
        };
        Endpoint {
            address: vip_key(entry.address),
            port: entry.port.to_be(),
            protocol: entry.protocol.number(),
            pad0: 0,
            flags,
            netns,
            service: entry.service.0,
            pad1: 0,
        }
    }
}

/// Where the order of the other sites lies: the entry of no site.
const NEAREST: u32 = 0;

/// The gateways of a site.
pub(super) fn site(entry: &SiteEntry) -> Site {
    let mut site = filled(&entry.gateways);
    site.flags = if entry.spec.reachable { SITE_REACHABLE } else { 0 };
    site.flags |= if entry.spec.via_ingress { SITE_VIA_INGRESS } else { 0 };
    site
}

/// The order in which other sites are asked; those beyond the room are not.
fn nearest(order: &[SiteId]) -> Site {
    filled(&order.iter().map(|site| site.0.into()).collect::<Vec<u16>>())
}

fn filled(ids: &[u16]) -> Site {
    let mut site = Site::default();
    for (slot, id) in site.gateways.iter_mut().zip(ids) {
        *slot = *id;
        site.count += 1;
    }
    site
}

/// Bytes that encapsulation towards this address adds.
fn overhead(address: &IpAddr) -> u16 {
    let bytes = if address.is_ipv4() { abi::OVERHEAD_V4 } else { abi::OVERHEAD_V6 };
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

pub(super) fn service(entry: &ServiceEntry, shared: Shared) -> Service {
    let Shared { mss: (mss4, mss6), sites } = shared;
    let mut flags = 0;
    for (set, flag) in [
        (entry.affinity == Affinity::ClientIp, SERVICE_AFFINITY),
        (entry.sources, SERVICE_SOURCES),
        (entry.ask, SERVICE_ASK),
        (entry.quic, SERVICE_QUIC),
        (sites && entry.key.protocol == Protocol::Tcp, SERVICE_EXCEPTIONS),
    ] {
        flags |= if set { flag } else { 0 };
    }
    Service {
        flags,
        number: entry.number,
        port: entry.key.port.to_be(),
        protocol: entry.key.protocol.number(),
        delivery: match entry.delivery {
            Delivery::Direct => DELIVER_DIRECT,
            Delivery::Delegate => DELIVER_DELEGATE,
            Delivery::None => DELIVER_NONE,
        },
        returns: match entry.returns {
            Return::Direct => RETURN_DIRECT,
            Return::ViaIngress => RETURN_VIA_INGRESS,
        },
        drain_minutes: entry.drain_minutes,
        mss4,
        mss6,
        vip: vip_key(entry.key.vip),
        ..Service::default()
    }
}

/// The key in the map of a service's key.
pub(super) fn key_of(key: ServiceKey) -> abi::ServiceKey {
    abi::ServiceKey::new(vip_key(key.vip), key.port.to_be(), key.protocol.number())
}

/// The key in the map of a VIP's address entry.
pub(super) fn address_key(vip: IpAddr) -> abi::ServiceKey {
    abi::ServiceKey::new(vip_key(vip), 0, 0)
}

fn reverse_key(address: IpAddr, port: u16, protocol: Protocol) -> ReverseKey {
    ReverseKey { address: vip_key(address), port: port.to_be(), protocol: protocol.number(), pad: [0; 5] }
}

fn table_of(table: bascule_core::balance::io::Table) -> Table {
    Table { base: table.base, rows: table.rows, epoch: table.epoch }
}

fn write_rows(tables: &mut Tables, base: u32, rows: &Arc<[rows::Row]>) -> Result<(), ForwardError> {
    let row = |row: &rows::Row| Row { home: row.home, previous: row.previous, older: row.older, stamp: row.stamp };
    tables.write_rows(base, rows.iter().map(row))
}
