//! How the rest of the process asks the forwarding room, and the words in which it answers.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bascule_core::balance::serving::Serving;
use bascule_core::balance::status::BalanceStatus;
use bascule_core::service::{Protocol, ServiceKey};
use bascule_core::site::SiteId;
use bascule_core::site::handshakes::Totals;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the room. More means that it is stuck: the asker waits, and gives up by its own deadline.
const REQUESTS: usize = 16;
/// Longest wait for an answer: reading a full table of flows takes a second.
const ANSWER: Duration = Duration::from_secs(5);

/// A packet that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Its destination.
    pub vip: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Its source.
    pub client: IpAddr,
    /// Source port.
    pub client_port: u16,
}

/// Where a packet goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// Slot of the service; `None`: the packet passes untouched.
    pub service: Option<u32>,
    /// Flow hash, hexadecimal.
    pub hash: String,
    /// Index of the row in the table over nodes, and how many rows there are.
    pub row: Option<(u32, u16)>,
    /// Nodes that are asked, in order.
    pub nodes: Vec<Candidate>,
    /// Endpoints of this node in the order in which they are asked.
    pub endpoints: Vec<Candidate>,
    /// What happens on this node to the first packet of a flow, in words.
    pub new_flow: String,
    /// What happens on this node to any other packet, in words.
    pub established: String,
}

/// A node or an endpoint of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Its id or slot.
    pub id: u16,
    /// Its address, where it is known.
    pub address: Option<String>,
    /// Why it is there: `home`, `previous`, `older`, `pinned`.
    pub role: &'static str,
    /// What stands in its way; empty: nothing.
    pub trouble: &'static str,
}

/// Which flows to list; a field that is not set lets every flow pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Client address.
    pub client: Option<IpAddr>,
    /// Client port.
    pub client_port: Option<u16>,
    /// VIP.
    pub vip: Option<IpAddr>,
    /// Port of the service.
    pub vip_port: Option<u16>,
    /// Endpoint address.
    pub endpoint: Option<IpAddr>,
    /// Protocol.
    pub protocol: Option<Protocol>,
    /// Most flows to list.
    pub limit: Option<usize>,
}

/// A flow of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    /// Protocol, or its number where it is none of ours.
    pub protocol: String,
    /// Client.
    pub client: IpAddr,
    /// Client port.
    pub client_port: u16,
    /// VIP.
    pub vip: IpAddr,
    /// Port of the service.
    pub vip_port: u16,
    /// Endpoint.
    pub endpoint: IpAddr,
    /// Endpoint port.
    pub endpoint_port: u16,
    /// Node on which requests arrive.
    pub ingress: u16,
    /// Seconds since a packet was seen.
    pub idle_seconds: u32,
    /// `open`, `half_closed` (a FIN was seen) or `closing` (a RST, or both FINs).
    pub state: &'static str,
    /// Replies go back through `ingress`.
    pub via_ingress: bool,
}

/// The listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowList {
    /// The flows, at most as many as were asked for.
    pub flows: Vec<FlowView>,
    /// There may be more.
    pub more: bool,
}

/// How a program stands on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// In the driver.
    Xdp,
    /// A tcx link.
    Tcx,
    /// A filter in the clsact qdisc.
    Clsact,
}

impl Hook {
    /// The word in conditions and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// What a device or the machine was asked about forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// Does the driver take our XDP program?
    NativeXdp,
    /// Does it leave room before a frame for the encapsulation?
    Headroom,
    /// Does the device take our programs as tcx links?
    Tcx,
    /// Does every frame reach our tc programs, with nobody else's before them?
    TcOrder,
    /// Does the stack let clients in whose way back is another device?
    RpFilter,
    /// Does it send on what is for endpoints in other namespaces?
    IpForward,
}

impl ProbeKind {
    /// The word in conditions and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NativeXdp => "native_xdp",
            Self::Headroom => "headroom",
            Self::Tcx => "tcx",
            Self::TcOrder => "tc_order",
            Self::RpFilter => "rp_filter",
            Self::IpForward => "ip_forward",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What was asked.
    pub probe: ProbeKind,
    /// What stands in the way, in words; `None`: nothing.
    pub trouble: Option<String>,
}

/// What came of putting the programs on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Index of the device.
    pub ifindex: u32,
    /// Its name.
    pub device: String,
    /// Where arriving frames are handled.
    pub ingress: Hook,
    /// Where leaving ones are.
    pub egress: Hook,
    /// Why it is not the best way, in words; empty: it is.
    pub reasons: Vec<String>,
    /// What it was asked, and what it answered: when the programs were put there, and when this was read.
    pub probes: Vec<Probe>,
}

/// How full a table is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fill {
    /// Entries, an estimate where there are many.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// Traffic of a service on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTraffic {
    /// Name of the service.
    pub service: String,
    /// Packets to the VIP that came in here.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows opened here.
    pub new_flows: u64,
    /// Packets that nobody knew.
    pub orphans: u64,
}

/// Traffic of an endpoint of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTraffic {
    /// Name of its service.
    pub service: String,
    /// Name of the endpoint.
    pub endpoint: String,
    /// Packets delivered.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets it sent.
    pub replies: u64,
    /// Their bytes.
    pub reply_bytes: u64,
    /// SYNs delivered.
    pub syns: u64,
    /// SYN-ACKs it sent.
    pub syn_acks: u64,
    /// RSTs it sent.
    pub resets: u64,
    /// Flows opened towards it here.
    pub new_flows: u64,
}

/// Results of the checks of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckView {
    /// Name of its service.
    pub service: String,
    /// Name of the endpoint.
    pub endpoint: String,
    /// Ready by its last checks.
    pub up: bool,
    /// What the last check said.
    pub detail: String,
    /// Checks that succeeded.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
}

/// A node of this site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// Id in rows.
    pub id: u16,
    /// It is this one.
    pub this: bool,
    /// Its daemon is heard, or no BFD session says otherwise.
    pub up: bool,
    /// What it is worth: `up`, `vouched` (no new flows, its programs forward those it has) or `dead` (packets skip it).
    pub state: &'static str,
    /// Why, in words; empty: nothing is wrong.
    pub why: &'static str,
}

/// Labels of the tag keys in force: what tells the steps of a rotation apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeysView {
    /// The key that signs.
    pub signs: u8,
    /// Keys that verify.
    pub verify: Vec<u8>,
}

/// A snapshot of the room.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardStatus {
    /// Packets are steered.
    pub on: bool,
    /// What an operator should know, in words.
    pub conditions: Vec<String>,
    /// Devices that carry the programs.
    pub devices: Vec<Standing>,
    /// How often the programs were missing on a device and were put on again.
    pub healed: u64,
    /// Networks inside: what endpoints send there is no reply of a service unless a known flow says so.
    pub inside: Vec<ipnet::IpNet>,
    /// Tag keys as the programs have them; `None`: they could not be read.
    pub keys: Option<KeysView>,
    /// Nodes.
    pub nodes: Vec<NodeView>,
    /// Services and their tables.
    pub balance: Option<BalanceStatus>,
    /// Traffic by service.
    pub services: Vec<ServiceTraffic>,
    /// Traffic by endpoint of this node.
    pub endpoints: Vec<EndpointTraffic>,
    /// Checks by endpoint.
    pub checks: Vec<CheckView>,
    /// Drops by reason.
    pub drops: Vec<(&'static str, u64)>,
    /// Drops by reason of the fence that silences endpoints of services whose lease is elsewhere; empty: it does not stand.
    pub term_drops: Vec<(&'static str, u64)>,
    /// What else became of packets.
    pub verdicts: Vec<(&'static str, u64)>,
    /// Accepted encapsulated packets by the number of nodes that had handled them before.
    pub hops: Vec<u64>,
    /// Fill of the flow table.
    pub flows: Fill,
    /// Fill of the half-open table.
    pub half_open: Fill,
}

/// What the room is asked.
#[derive(Debug)]
pub enum ForwardRequest {
    /// A snapshot.
    Status(oneshot::Sender<Box<ForwardStatus>>),
    /// A listing; the error is in words.
    Flows(FlowFilter, oneshot::Sender<Result<FlowList, String>>),
    /// Where a packet goes; the error is in words.
    Trace(Asked, oneshot::Sender<Result<Trace, String>>),
    /// What this site can say of services to others, in their order; `None`: there is no such service yet.
    Serving(Arc<[ServiceKey]>, oneshot::Sender<Vec<Option<Serving>>>),
    /// What clients asked for here of services since their counters began, in their order; `None`: it cannot be read.
    Demand(Arc<[ServiceKey]>, oneshot::Sender<Vec<Option<u64>>>),
    /// What became of handshakes of clients here with services since the room counts, by site, in their order.
    Handshakes(Arc<[ServiceKey]>, oneshot::Sender<Vec<Vec<(SiteId, Totals)>>>),
}

/// The forwarding room has ended or does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the forwarding room does not answer")]
pub struct ForwardGone;

/// The asking side; cheap to clone.
#[derive(Clone)]
pub struct ForwardHandle {
    requests: mpsc::Sender<ForwardRequest>,
    trouble: Arc<Mutex<Option<String>>>,
}

/// The room's side.
pub struct ForwardPort {
    /// Requests, to be taken in every turn.
    pub requests: mpsc::Receiver<ForwardRequest>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl ForwardPort {
    /// Why nothing is forwarded that should be, for readiness; `None`: all is well, or nothing should be.
    pub fn set_trouble(&self, trouble: Option<&str>) {
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_deref() != trouble {
            *told = trouble.map(str::to_owned);
        }
    }
}

/// Makes both sides.
pub fn channel() -> (ForwardHandle, ForwardPort) {
    let (sender, requests) = mpsc::channel(REQUESTS);
    let trouble = Arc::<Mutex<Option<String>>>::default();
    (ForwardHandle { requests: sender, trouble: Arc::clone(&trouble) }, ForwardPort { requests, trouble })
}

impl ForwardHandle {
    /// Why nothing is forwarded that should be, without asking the room.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A snapshot.
    ///
    /// # Errors
    /// [`ForwardGone`] when the room has ended or does not answer within 5 s.
    pub async fn status(&self) -> Result<Box<ForwardStatus>, ForwardGone> {
        self.ask(ForwardRequest::Status).await
    }

    /// Lists flows of this node.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn flows(&self, filter: FlowFilter) -> Result<Result<FlowList, String>, ForwardGone> {
        self.ask(|reply| ForwardRequest::Flows(filter, reply)).await
    }

    /// Where a packet would go.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn trace(&self, asked: Asked) -> Result<Result<Trace, String>, ForwardGone> {
        self.ask(|reply| ForwardRequest::Trace(asked, reply)).await
    }

    /// Endpoints of services, counted.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn serving(&self, services: Arc<[ServiceKey]>) -> Result<Vec<Option<Serving>>, ForwardGone> {
        self.ask(|reply| ForwardRequest::Serving(services, reply)).await
    }

    /// New connections (UDP: datagrams) that clients asked for at this node.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn demand(&self, services: Arc<[ServiceKey]>) -> Result<Vec<Option<u64>>, ForwardGone> {
        self.ask(|reply| ForwardRequest::Demand(services, reply)).await
    }

    /// What became of handshakes of clients at this node, by site; empty: none were watched. They are looked at when this is asked.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn handshakes(&self, services: Arc<[ServiceKey]>) -> Result<Vec<Vec<(SiteId, Totals)>>, ForwardGone> {
        self.ask(|reply| ForwardRequest::Handshakes(services, reply)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> ForwardRequest) -> Result<T, ForwardGone> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(request(reply)).await.map_err(|_| ForwardGone)?;
            answer.await.map_err(|_| ForwardGone)
        };
        tokio::time::timeout(ANSWER, exchange).await.map_err(|_| ForwardGone)?
    }
}
