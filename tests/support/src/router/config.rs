//! What a router is told: one configuration for all of them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

/// An address family of unicast routes (RFC 4760: AFI 1 or 2, SAFI 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1.
    Ipv4,
    /// AFI 2.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// `ipv4` or `ipv6`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// How far away a neighbour is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hops {
    /// On the link, TTL 1 (the default of external sessions).
    Direct,
    /// On the link, TTL 255 sent and demanded (RFC 5082).
    Gtsm,
    /// Up to this many hops away.
    Multihop(u8),
}

/// BFD timers of one session (RFC 5880 6.8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdTimers {
    /// Desired Min TX Interval.
    pub transmit: Duration,
    /// Required Min RX Interval.
    pub receive: Duration,
    /// Detect Mult.
    pub multiplier: u8,
}

impl BfdTimers {
    /// The same interval both ways.
    pub fn symmetric(interval: Duration, multiplier: u8) -> Self {
        Self { transmit: interval, receive: interval, multiplier }
    }
}

/// A BFD session that the router runs by itself, without a BGP session that asks for it.
#[derive(Debug, Clone)]
pub struct BfdPeer {
    /// The other side.
    pub address: IpAddr,
    /// The router's own address.
    pub local: IpAddr,
    /// Over several hops (RFC 5883).
    pub multihop: bool,
    /// Its timers. BIRD has one set for all single-hop and one for all multihop sessions: the first one's.
    pub timers: BfdTimers,
}

/// The router's part in graceful restart (RFC 4724).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GracefulRestart {
    /// The capability is not sent.
    Off,
    /// It keeps the routes of a neighbour that restarts, and announces this restart time (s) for itself.
    On(u16),
}

/// One neighbour of a router.
#[derive(Debug, Clone)]
pub struct Neighbor {
    /// Where it is.
    pub address: IpAddr,
    /// The router's own address on this session.
    pub local: IpAddr,
    /// The router's link to it, which a link-local address needs. BIRD only.
    pub interface: Option<String>,
    /// Its AS.
    pub remote_as: u32,
    /// Key of TCP-MD5 (RFC 2385).
    pub password: Option<String>,
    /// Distance and TTL.
    pub hops: Hops,
    /// It waits for the neighbour's connection and does not dial.
    pub passive: bool,
    /// Offered hold time (s); keepalives are sent at a third of it. None: the router's own default.
    pub hold_time: Option<u16>,
    /// Time between two dials (s).
    pub connect_retry: u16,
    /// What is negotiated.
    pub families: Vec<Family>,
    /// More prefixes of one family than this end the session with Cease/1 (RFC 4486).
    pub max_prefix: Option<u32>,
    /// BFD beside the session: its failure ends it.
    pub bfd: Option<BfdTimers>,
    /// Routes that carry GRACEFUL_SHUTDOWN (RFC 8326) get LOCAL_PREF 0 (GoBGP cannot set 0 and sets 1).
    pub graceful_shutdown: bool,
}

impl Neighbor {
    /// An external neighbour on the link, of the family of its address, with short timers (hold 9 s, dialled every second).
    pub fn new(local: IpAddr, address: IpAddr, remote_as: u32) -> Self {
        Self {
            address,
            local,
            interface: None,
            remote_as,
            password: None,
            hops: Hops::Direct,
            passive: false,
            hold_time: Some(9),
            connect_retry: 1,
            families: vec![Family::of(address)],
            max_prefix: None,
            bfd: None,
            graceful_shutdown: false,
        }
    }

    /// The time between two keepalives that goes with its hold time (RFC 4271 10: a third of it).
    pub(super) fn keepalive(&self) -> Option<u16> {
        self.hold_time.map(|hold| hold / 3)
    }
}

/// A router's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its own AS.
    pub asn: u32,
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Whom it speaks with.
    pub neighbors: Vec<Neighbor>,
    /// What it originates, by itself as next hop.
    pub networks: Vec<IpNet>,
    /// It shares traffic among up to this many equal paths, also of different neighbouring AS.
    pub multipath: u8,
    /// Its part in graceful restart.
    pub graceful_restart: GracefulRestart,
    /// BFD sessions beside those of its neighbours; only FRR and BIRD have them.
    pub bfd: Vec<BfdPeer>,
}

impl Config {
    /// A router without neighbours, with up to 8 paths per prefix.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self {
            asn,
            router_id,
            neighbors: Vec::new(),
            networks: Vec::new(),
            multipath: 8,
            graceful_restart: GracefulRestart::Off,
            bfd: Vec::new(),
        }
    }

    /// Adds a neighbour.
    #[must_use]
    pub fn neighbor(mut self, neighbor: Neighbor) -> Self {
        self.neighbors.push(neighbor);
        self
    }

    /// Runs a BFD session of its own.
    #[must_use]
    pub fn bfd(mut self, peer: BfdPeer) -> Self {
        self.bfd.push(peer);
        self
    }

    /// Originates a prefix.
    #[must_use]
    pub fn network(mut self, network: IpNet) -> Self {
        self.networks.push(network);
        self
    }

    /// Networks of one family.
    pub(super) fn networks_of(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.networks.iter().filter(move |n| Family::of(n.addr()) == family)
    }

    /// Neighbours that negotiate a family.
    pub(super) fn neighbors_of(&self, family: Family) -> impl Iterator<Item = &Neighbor> {
        self.neighbors.iter().filter(move |n| n.families.contains(&family))
    }

    /// The position of a neighbour, by which some routers name it.
    pub(super) fn position(&self, address: IpAddr) -> crate::Result<usize> {
        let found = self.neighbors.iter().position(|n| n.address == address);
        found.ok_or_else(|| crate::LabError::answer("router", format!("{address} is none of its neighbours")))
    }
}
