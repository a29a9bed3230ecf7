//! What an operator (or Kubernetes) wants: services, their endpoints, and the nodes that carry them.
//!
//! Nothing is decided here; [`crate::balance`] turns these into tables.

pub mod keys;
pub mod plan;
pub mod translate;

use core::fmt;
use core::hash::Hasher as _;
use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::health::GateConfig;

/// Largest id of a node. Ids start at 1; 0 means "none" in a row.
pub const MAX_NODE_ID: u16 = 0x0fff;

/// Transport protocol of a service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, which is never rewritten: its checksum covers no address, but its multi-homing carries addresses inside.
    Sctp,
}

impl Protocol {
    /// Number of the protocol (IANA "Assigned Internet Protocol Numbers").
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of a number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The word in files, logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who does the last rewrite of the destination.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Our programs.
    #[default]
    Direct,
    /// The stack behind them (kube-proxy, Cilium).
    Delegate,
    /// Nobody here: the VIP is announced, its packets pass untouched.
    None,
}

/// The way of replies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Return {
    /// From the endpoint's node to the client.
    #[default]
    Direct,
    /// Through the node on which the request arrived, for stateful firewalls.
    ViaIngress,
}

/// Which packets of a client stay together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Affinity {
    /// Those of a connection.
    #[default]
    None,
    /// All to this service.
    ClientIp,
}

/// What is done with new connections when no endpoint is ready.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenAllFail {
    /// They go to the endpoints that were ready last: all checks failing at once is more often the check's fault.
    #[default]
    Keep,
    /// They are refused.
    Refuse,
}

/// What is done with an endpoint of this node whose network namespace cannot be found, so that its sockets cannot be asked for flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenUnplaced {
    /// Our programs rewrite all the same: nobody behind them may.
    #[default]
    Direct,
    /// The stack behind them (kube-proxy, Cilium) delivers what is new.
    Delegate,
}

/// What a packet shows of a service: its identity on every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vip, port, protocol } = self;
        match vip {
            IpAddr::V4(vip) => write!(f, "{vip}:{port}/{protocol}"),
            IpAddr::V6(vip) => write!(f, "[{vip}]:{port}/{protocol}"),
        }
    }
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec {
    /// Name, unique.
    pub name: String,
    /// Number in the shim, the same on every node; never 0.
    pub number: u16,
    /// The VIP.
    pub vip: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Who rewrites.
    pub delivery: Delivery,
    /// The way of replies.
    pub returns: Return,
    /// What stays together.
    pub affinity: Affinity,
    /// Sources that may connect; empty: all.
    pub sources: Vec<IpNet>,
    /// How long a previous home is asked for flows after a change.
    pub drain: Duration,
    /// UDP with state: rows that moved lately ask the previous home first.
    pub ask: bool,
    /// UDP that is QUIC.
    pub quic: bool,
    /// What happens when no endpoint is ready.
    pub when_all_fail: WhenAllFail,
    /// Who delivers to an endpoint whose network namespace is not found.
    pub when_unplaced: WhenUnplaced,
    /// Takes no new connections, keeps those it has.
    pub draining: bool,
    /// Other sites serve it too. While it drains here it is they who get new connections: what comes all the same is taken.
    pub elsewhere: bool,
    /// Endpoints. Shared: a description is handed on from one part of the daemon to the next with every change of any other.
    pub endpoints: Arc<Vec<EndpointSpec>>,
}

impl ServiceSpec {
    /// What its packets show.
    pub fn key(&self) -> ServiceKey {
        ServiceKey { vip: self.vip, port: self.port, protocol: self.protocol }
    }
}

/// The number of a service that is given none: 1..=65535, made of its name, the same everywhere. Two services may get the same: packets
/// are told apart by their VIP, port and protocol, and the number only has to agree with these.
pub fn number_of(name: &str) -> u16 {
    let mut hasher = SipHasher13::new_with_keys(0x6e75_6d62_6572, 0);
    hasher.write(name.as_bytes());
    u16::try_from(1 + hasher.finish() % u64::from(u16::MAX)).unwrap_or(1)
}

/// An endpoint of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSpec {
    /// Name, unique in the service and stable: tables are computed from it.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Name of the node it runs on; `None`: it lies behind a router and any node may serve it. Shared: nodes are few and endpoints many.
    pub node: Option<Arc<str>>,
    /// Share of new connections, relative to the other endpoints; 0: none.
    pub weight: u16,
    /// Takes no new connections, keeps those it has.
    pub draining: bool,
    /// How its health is found out; `None`: it is ready.
    pub check: Option<Box<GateConfig>>,
}

/// A node that balances and carries endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSpec {
    /// Name, unique and stable: tables are computed from it.
    pub name: String,
    /// Id in rows and hop lists, 1..=[`MAX_NODE_ID`].
    pub id: u16,
    /// Addresses: encapsulation goes to the first and is accepted from all.
    pub addresses: Vec<IpAddr>,
    /// Its site.
    pub site: u8,
    /// Its endpoints take no new connections, and keep those they have.
    pub draining: bool,
}

/// Names an endpoint among all services.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct EndpointId {
    /// The service.
    pub service: ServiceKey,
    /// Name of the endpoint.
    pub endpoint: String,
}
