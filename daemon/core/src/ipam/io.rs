//! What goes into the allocator and what comes out of it.

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::free::{Interval, number};
use super::select::{Labels, Namespaces, Selector};
use crate::service::Protocol;
use crate::types::Family;

/// Names a Service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct ServiceId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A part of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Block {
    /// A prefix.
    Cidr(IpNet),
    /// From the first to the last address, both included; empty when they are of two families or in the wrong order.
    Range(IpAddr, IpAddr),
}

impl Block {
    /// Is the address in it? The ends of a prefix are.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.holds(address, false)
    }

    fn holds(&self, address: IpAddr, avoid_ends: bool) -> bool {
        self.interval(avoid_ends).is_some_and(|(family, (first, last))| {
            family == Family::of(&address) && (first..=last).contains(&number(address))
        })
    }

    /// Without the ends of a prefix where they are to be avoided: network and broadcast address of IPv4 up to /30 (RFC 3021 gives a /31
    /// both), the Subnet-Router anycast address of IPv6 up to /126 (RFC 4291 section 2.6.1, RFC 6164 for /127).
    pub(super) fn interval(&self, avoid_ends: bool) -> Option<(Family, Interval)> {
        match *self {
            Self::Range(first, last) => {
                let (family, interval) = (Family::of(&first), (number(first), number(last)));
                (family == Family::of(&last) && interval.0 <= interval.1).then_some((family, interval))
            }
            Self::Cidr(net) => {
                let (first, last) = (number(net.network()), number(net.broadcast()));
                let room = net.max_prefix_len() - net.prefix_len() >= 2;
                let avoid = u128::from(avoid_ends && room);
                let v4 = u128::from(net.network().is_ipv4());
                Some((Family::of(&net.network()), (first + avoid, last - avoid * v4)))
            }
        }
    }
}

/// A pool of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolSpec {
    /// Name, unique.
    pub name: String,
    /// Its parts, each with a name, so that two writers of the object do not overwrite each other's.
    pub blocks: BTreeMap<String, Block>,
    /// Which namespaces it serves.
    pub namespaces: Namespaces,
    /// Which services it serves.
    pub services: Selector,
    /// Higher goes first; of equals the name that sorts first.
    pub priority: i32,
    /// Serves services that name neither it nor an address of it.
    pub auto_assign: bool,
    /// The ends of prefixes are not given.
    pub avoid_ends: bool,
}

impl PoolSpec {
    /// Is the address given from this pool?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.blocks.values().any(|block| block.holds(address, self.avoid_ends))
    }

    /// Does it serve this service?
    pub fn serves(&self, request: &Request) -> bool {
        self.namespaces.include(&request.id.namespace, &request.namespace_labels)
            && self.services.matches(&request.labels)
    }
}

/// `ipFamilies` and `ipFamilyPolicy` of a Service, in one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Families {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
    /// One of each, or what there is.
    PreferDual,
    /// One of each or none.
    RequireDual,
}

impl Families {
    /// Is an address of this family wanted?
    pub const fn wants(self, family: Family) -> bool {
        !matches!((self, family), (Self::V4, Family::V6) | (Self::V6, Family::V4))
    }
}

/// With which other namespaces an address is shared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cross {
    /// None.
    #[default]
    Own,
    /// These.
    With(BTreeSet<String>),
    /// Any.
    Any,
}

/// A service that may share its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sharing {
    /// Services with equal keys may share.
    pub key: String,
    /// With which other namespaces; both sides must allow it.
    pub cross: Cross,
}

/// A service that wants addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Its name.
    pub id: ServiceId,
    /// `creationTimestamp` in seconds: the oldest is served first.
    pub created: u64,
    /// Labels of its namespace.
    pub namespace_labels: Labels,
    /// Its labels.
    pub labels: Labels,
    /// What it wants.
    pub families: Families,
    /// Addresses that it asks for by `spec.loadBalancerIP` or annotation; the first of each family counts.
    pub requested: Vec<IpAddr>,
    /// The pool that it asks for.
    pub pool: Option<String>,
    /// Whether it shares.
    pub sharing: Option<Sharing>,
    /// Its ports.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// With `externalTrafficPolicy: Local` what tells its endpoints: the announcing node must have one for every service of an address, so
    /// only services with the same endpoints share then. `None`: Cluster.
    pub local: Option<String>,
    /// What its status says.
    pub status: Vec<IpAddr>,
}

/// Why a service lacks an address. One for each family, in words by `Display`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// No pool serves it.
    NoPool,
    /// Pools serve it, but none by itself.
    NoAutoAssign {
        /// They.
        pools: Vec<String>,
    },
    /// The pool that it asks for does not exist.
    UnknownPool {
        /// Its name.
        pool: String,
    },
    /// The pool that it asks for does not serve it.
    PoolRefuses {
        /// Its name.
        pool: String,
    },
    /// The address that it asks for is in no pool that serves it.
    NotInPool {
        /// The address.
        address: IpAddr,
    },
    /// Somebody has the address that it asks for, and does not share with it.
    Taken {
        /// The address.
        address: IpAddr,
        /// Who.
        by: ServiceId,
    },
    /// Somebody shares the address that it asks for, and has the same port on it.
    PortTaken {
        /// The address.
        address: IpAddr,
        /// Who.
        by: ServiceId,
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// Nothing of this family is free in the pools that serve it.
    Exhausted {
        /// The family.
        family: Family,
        /// They.
        pools: Vec<String>,
    },
    /// Both families or none, and the other one is not to be had.
    NeedsBoth,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("no pool serves this namespace and these labels"),
            Self::NoAutoAssign { pools } => {
                write!(f, "pools {} serve it only when asked for by name: autoAssign is off", pools.join(", "))
            }
            Self::UnknownPool { pool } => write!(f, "pool {pool} does not exist"),
            Self::PoolRefuses { pool } => write!(f, "pool {pool} does not serve this namespace and these labels"),
            Self::NotInPool { address } => write!(f, "{address} is in no pool that serves this service"),
            Self::Taken { address, by } => {
                write!(f, "{address} belongs to {by}, which does not share it with this service")
            }
            Self::PortTaken { address, by, port, protocol } => {
                write!(f, "{address} is shared with {by}, which has port {port}/{protocol} on it")
            }
            Self::Exhausted { family, pools } => {
                let family = if *family == Family::V4 { "IPv4" } else { "IPv6" };
                write!(f, "no free {family} address in pools {}", pools.join(", "))
            }
            Self::NeedsBoth => f.write_str("ipFamilyPolicy RequireDualStack, and the other family is not to be had"),
        }
    }
}

/// Something the caller owes: write it into the status.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Action {
    /// These are the addresses of the service, and this is why they are not what it wants. Comes once for each change.
    Tell {
        /// The service.
        id: ServiceId,
        /// Its addresses.
        addresses: BTreeSet<IpAddr>,
        /// What is wrong; empty: nothing.
        reasons: Vec<Reason>,
    },
}
