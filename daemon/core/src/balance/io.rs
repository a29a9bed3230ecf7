//! What goes into the balancer and what comes out of it.

use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::absent::NodeState;
use super::rows::Row;
use super::sites::SiteEntry;
use crate::health::ProbeKind;
use crate::service::{Affinity, Delivery, EndpointId, NodeSpec, Protocol, Return, ServiceKey, ServiceSpec};
use crate::site::SiteId;

/// Slot of a service (or of a VIP's address entry) on this node, 1..=8191.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct ServiceSlot(pub u16);

/// Slot of an endpoint on this node, 1..=8191: the id in rows of the second level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct EndpointSlot(pub u16);

/// Where a table lies in the slab. The driver writes it as one aligned 64-bit word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
pub struct Table {
    /// First row.
    pub base: u32,
    /// Number of rows, a prime; 0: no table.
    pub rows: u16,
    /// Counts the changes of the table.
    pub epoch: u16,
}

/// Everything that the balancer shall know, valid as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Name of this node, one of `nodes`; `None`: forwarding is off.
    pub node: Option<String>,
    /// All nodes of this site, this one included, and those of other sites that may send here or take packets from here: their gateways.
    pub nodes: Vec<NodeSpec>,
    /// All services. Shared with whoever described them: one that did not change is known by its place in memory.
    pub services: Vec<Arc<ServiceSpec>>,
}

/// What a check says of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Takes new connections.
    Ready,
    /// Does not.
    Unready,
    /// Takes no new ones because it is about to stop; keeps those it has.
    Draining,
}

/// What a daemon that is gone left in pinned maps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Services that a key leads to.
    pub services: Vec<RecoveredService>,
    /// Address entries: slot, VIP, whether it answers.
    pub addresses: Vec<(ServiceSlot, IpAddr, bool)>,
    /// Endpoints.
    pub endpoints: Vec<RecoveredEndpoint>,
}

/// A service as its slot and tables tell it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredService {
    /// Its slot.
    pub slot: ServiceSlot,
    /// The key that leads to it.
    pub key: ServiceKey,
    /// First level.
    pub nodes: Table,
    /// Rows of the first level, `nodes.rows` of them.
    pub node_rows: Vec<Row>,
    /// Second level.
    pub endpoints: Table,
    /// Rows of the second level, `endpoints.rows` of them.
    pub endpoint_rows: Vec<Row>,
}

/// An endpoint as its slot tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredEndpoint {
    /// Its slot.
    pub slot: EndpointSlot,
    /// Slot of its service.
    pub service: ServiceSlot,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Took new connections.
    pub ready: bool,
}

/// What the driver writes of a service: all but its tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceEntry {
    /// Name, for people.
    pub name: String,
    /// The key that leads to it.
    pub key: ServiceKey,
    /// Number in the shim.
    pub number: u16,
    /// Who rewrites.
    pub delivery: Delivery,
    /// The way of replies.
    pub returns: Return,
    /// What stays together.
    pub affinity: Affinity,
    /// Only sources of [`Action::PutSources`] may connect.
    pub sources: bool,
    /// UDP that asks the previous home first.
    pub ask: bool,
    /// UDP that is QUIC.
    pub quic: bool,
    /// How long a previous home is asked, in minutes, at least 1.
    pub drain_minutes: u16,
}

/// What the driver writes of an endpoint of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointEntry {
    /// Name, for people.
    pub name: String,
    /// Slot of its service.
    pub service: ServiceSlot,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Takes new connections.
    pub ready: bool,
    /// Takes none because it is going away.
    pub draining: bool,
    /// Lies behind a router. Otherwise the driver finds out in which network namespace it lives.
    pub remote: bool,
}

/// What the driver writes of a node; device, MACs and MTU are the driver's to find out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeEntry {
    /// Its description: encapsulation goes to the first address and is accepted from all.
    pub spec: NodeSpec,
    /// Nothing is sent to it.
    pub dead: bool,
    /// It is this node.
    pub this: bool,
}

/// An endpoint that serves one service only: its replies need no flow to be rewritten.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReverseId {
    /// Address of the endpoint.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Action {
    /// Write the description of a service into its slot, all but the two table words. On a fresh slot those are zero.
    PutService {
        /// Its slot.
        slot: ServiceSlot,
        /// What to write.
        entry: ServiceEntry,
    },
    /// Let the key lead to the slot. Comes after the description and after the first tables.
    PutKey {
        /// The key.
        key: ServiceKey,
        /// The slot.
        slot: ServiceSlot,
    },
    /// Remove the key: packets for it pass untouched from now on.
    RemoveKey {
        /// The key.
        key: ServiceKey,
    },
    /// Write the address entry of a VIP into a slot and let its key (port and protocol 0) lead there.
    PutAddress {
        /// Its slot.
        slot: ServiceSlot,
        /// The VIP.
        vip: IpAddr,
    },
    /// Does the VIP answer echo requests? It does while one of its services has capacity.
    SetAnswering {
        /// Slot of the address entry.
        slot: ServiceSlot,
        /// Answer (the table word of the entry is not zero).
        answering: bool,
    },
    /// Remove the key of an address entry.
    RemoveAddress {
        /// The VIP.
        vip: IpAddr,
    },
    /// Zero a slot that no key led to for [`super::GRACE`].
    ClearService {
        /// The slot.
        slot: ServiceSlot,
    },
    /// Change the source ranges of a slot.
    PutSources {
        /// The slot.
        slot: ServiceSlot,
        /// Ranges to add, first.
        add: Vec<IpNet>,
        /// Ranges to remove.
        remove: Vec<IpNet>,
    },
    /// Write rows that no table word names.
    WriteRows {
        /// First row in the slab.
        base: u32,
        /// The rows.
        rows: Arc<[Row]>,
    },
    /// Store the word of the first level.
    SwapNodes {
        /// Slot of the service.
        slot: ServiceSlot,
        /// The word.
        table: Table,
    },
    /// Store the word of the second level.
    SwapEndpoints {
        /// Slot of the service.
        slot: ServiceSlot,
        /// The word.
        table: Table,
    },
    /// Nothing has named these rows for [`super::GRACE`]; they may be written again by a later action. Nothing is owed but accounts.
    FreeRows {
        /// First row.
        base: u32,
        /// How many.
        count: u32,
    },
    /// Write an endpoint.
    PutEndpoint {
        /// Its slot.
        slot: EndpointSlot,
        /// What to write.
        entry: EndpointEntry,
    },
    /// Zero the slot of an endpoint that no row has named for [`super::GRACE`].
    RemoveEndpoint {
        /// The slot.
        slot: EndpointSlot,
    },
    /// Write a node and accept encapsulation from its addresses.
    PutNode(NodeEntry),
    /// Remove a node and no longer accept encapsulation from it.
    RemoveNode {
        /// What was put.
        spec: NodeSpec,
    },
    /// Write the gateways of another site. They are put before, and living.
    PutSite(SiteEntry),
    /// Write the order in which other sites are asked for a flow: all of them, the nearest first.
    SetNearest(Vec<SiteId>),
    /// Replies of this endpoint come from this service.
    PutReverse {
        /// The endpoint.
        id: ReverseId,
        /// The service.
        key: ServiceKey,
        /// Its slot.
        slot: ServiceSlot,
    },
    /// Replies of this endpoint need a flow from now on.
    RemoveReverse {
        /// The endpoint.
        id: ReverseId,
    },
    /// Ask an endpoint once, now, whatever its check's schedule says; owed back through [`super::Balancer::handle_witness`], once.
    Ask {
        /// To be given back with the answer.
        inquiry: u32,
        /// The endpoint.
        endpoint: EndpointId,
        /// The question: its check's.
        probe: ProbeKind,
        /// No answer by then is none.
        timeout: Duration,
    },
    /// Everything is put that shall be: keys, addresses, sources, endpoints, nodes and reverse entries that were not put since the start
    /// are left from a former run and must go. Comes once.
    Sweep,
    /// Tell people; not sent again until it changed.
    Report(Report),
}

/// What an operator takes out of use without a new configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DrainTarget {
    /// One endpoint.
    Endpoint(EndpointId),
    /// All endpoints of a node, by its name.
    Node(String),
    /// A service.
    Service(ServiceKey),
}

/// What people should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// The slab has no room for a table of so many rows: the old table stays.
    SlabFull {
        /// The service.
        service: ServiceKey,
        /// Rows that were wanted.
        rows: u16,
    },
    /// There is no slot for a service, an endpoint or an address entry.
    NoSlot {
        /// The service.
        service: ServiceKey,
    },
    /// Rows changed their home for the third time within the drain time, because they had to: what their oldest home holds is lost.
    Forgotten {
        /// The service.
        service: ServiceKey,
        /// How many rows.
        rows: u64,
    },
    /// A table could be built again.
    Recovered {
        /// The service.
        service: ServiceKey,
    },
    /// The stack delivers what is new to this many endpoints here: their place is not found. 0: our programs deliver to all again.
    Delegated {
        /// The service.
        service: ServiceKey,
        /// How many.
        endpoints: usize,
    },
    /// No endpoint is ready.
    AllUnready {
        /// The service.
        service: ServiceKey,
        /// New connections go to those that were ready last.
        kept: bool,
    },
    /// What a node is worth has changed.
    Node {
        /// Name of the node.
        node: String,
        /// Worth now.
        state: NodeState,
        /// In words; empty: its daemon is heard.
        why: &'static str,
    },
    /// An endpoint changes its mind too often: it is held unready for a while.
    Flapping {
        /// The service.
        service: ServiceKey,
        /// Name of the endpoint.
        endpoint: String,
    },
}
