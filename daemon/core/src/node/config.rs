//! What a node is told to do. The daemon's configuration room makes this from YAML; nothing here is parsed.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use crate::announce::l2::AnnounceConfig;
use crate::election::lease::timing::Timing;
use crate::health::GateConfig;
use crate::types::{Centis, Family};
use crate::wire::peer::Keys;

/// The whole node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeConfig {
    /// Name of this node among its peers, at most 63 bytes.
    pub node: String,
    /// What to do when the fence cannot be armed.
    pub fence: FencePolicy,
    /// Keys of the peer channel; empty = no planned hand-over.
    pub keys: Keys,
    /// Health gates, by unique name.
    pub gates: Vec<GateConfig>,
    /// Groups, by unique name.
    pub groups: Vec<GroupConfig>,
    /// VIPs that every eligible node announces, by names that no group has.
    pub anycast: Vec<AnycastConfig>,
    /// How long routes are announced with GRACEFUL_SHUTDOWN before a planned withdrawal.
    pub route_drain: Duration,
}

/// A VIP that every eligible node announces over BGP at the same time: no election, no fence, addresses on the loopback link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnycastConfig {
    /// Name, unique on the node.
    pub name: String,
    /// VIPs of both families.
    pub addresses: Vec<IpAddr>,
    /// Names of the gates that must all be open.
    pub gates: Vec<String>,
}

/// How the network learns where the addresses of a group are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// By gratuitous ARP and unsolicited NA.
    #[default]
    L2,
    /// By host routes over BGP.
    Bgp,
    /// By both.
    Both,
}

impl Announce {
    /// ARP and NDP announce, defend and probe.
    pub const fn on_link(self) -> bool {
        matches!(self, Self::L2 | Self::Both)
    }

    /// Routes announce.
    pub const fn routed(self) -> bool {
        matches!(self, Self::Bgp | Self::Both)
    }
}

/// What to do when the fence cannot be armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FencePolicy {
    /// Not ready, and no claim.
    #[default]
    Required,
    /// Claim without it, and say so.
    Preferred,
    /// Never load it.
    Off,
}

/// What a sick node does when no healthy one takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenAllFail {
    /// The holder keeps the addresses.
    #[default]
    Keep,
    /// A sick node leaves the election.
    Release,
}

/// Where the lease lies that elects a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Store {
    /// A `coordination.k8s.io` Lease.
    Kubernetes {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A key that goes with a lease of etcd.
    Etcd {
        /// The key.
        key: String,
    },
}

impl Store {
    /// The word of the configuration.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Kubernetes { .. } => "kubernetes",
            Self::Etcd { .. } => "etcd",
        }
    }
}

impl core::fmt::Display for Store {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Kubernetes { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Etcd { key } => f.write_str(key),
        }
    }
}

/// What a take-over in etcd needs beyond the TTL: half a second until etcd looks for leases that ran out, the watch and two requests.
const ETCD_TAKEOVER: Duration = Duration::from_millis(1500);

/// The lease that elects a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseConfig {
    /// Where it lies.
    pub store: Store,
    /// Its times.
    pub timing: Timing,
}

impl LeaseConfig {
    /// How long after the last renewal of a node that died another one owns, at the latest, while the store answers and, of etcd, its
    /// leader survives (ADR 0009).
    pub fn takeover_bound(&self) -> Duration {
        let timing = &self.timing;
        match self.store {
            Store::Kubernetes { .. } => timing.kubernetes_takeover(timing.renew(), timing.request() * 2),
            Store::Etcd { .. } => timing.duration() + ETCD_TAKEOVER,
        }
    }
}

/// One group: the addresses that move together, and their virtual router or their lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupConfig {
    /// Name, unique on the node.
    pub name: String,
    /// VIPs of both families, without the link-local of the IPv6 router.
    pub addresses: Vec<IpAddr>,
    /// First address of the IPv6 virtual router; derived from the VRID when absent.
    pub link_local: Option<Ipv6Addr>,
    /// Link by name; found by the subnet of the first address otherwise.
    pub interface: Option<String>,
    /// Further names, tried in this order where no link has the first.
    pub further_interfaces: Vec<String>,
    /// The lease that elects; `None`: VRRP does. With one, what belongs to the virtual router means nothing: `vrid` (0) to `strict_rfc`,
    /// `unicast_peers`, `link_local`, and `drain_time`, since what is given up is closed before it is released.
    pub lease: Option<LeaseConfig>,
    /// Virtual router id, 1..=255.
    pub vrid: u8,
    /// Priority of this node while healthy, 100..=254.
    pub priority: u8,
    /// Advertisement_Interval.
    pub interval: Centis,
    /// Preempt_Mode.
    pub preempt: bool,
    /// Accept_Mode.
    pub accept: bool,
    /// No yielding to a lower-priority Active.
    pub strict_rfc: bool,
    /// Unicast peers; empty = multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// Probe for a foreign holder once before the first participation.
    pub conflict_probe: bool,
    /// Names of the gates that must all be open.
    pub gates: Vec<String>,
    /// What to do while sick.
    pub when_all_fail: WhenAllFail,
    /// How the network learns where the addresses are.
    pub announce: Announce,
    /// Schedule of announcements by ARP and NDP.
    pub l2: AnnounceConfig,
    /// How long frames that still arrive are served after a planned move.
    pub drain_time: Duration,
    /// What makes the group a shard; `None`: its virtual router is made of its addresses.
    pub shard: Option<ShardRouter>,
    /// Why this node must not own now, in words: it gives up what it has and comes back as a Backup. Never counted as a fault.
    pub barred: Option<String>,
}

/// The virtual router of a shard. Its adverts carry one identity address and never the addresses that it owns, so that these may change,
/// and differ between nodes for a moment, without the election noticing (RFC 9568 section 7.1 compares the lists). There may be none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardRouter {
    /// What adverts carry ([`crate::shard::identity`]); its family is that of the election. Never on a link.
    pub identity: IpAddr,
    /// This node's address: the source of adverts and, where no interface is named, what the link is found by.
    pub node: IpAddr,
}

impl GroupConfig {
    /// A group with every default, for callers that set the rest.
    pub fn new(name: &str, vrid: u8, addresses: Vec<IpAddr>) -> Self {
        Self {
            name: name.to_owned(),
            addresses,
            link_local: None,
            interface: None,
            further_interfaces: Vec::new(),
            lease: None,
            vrid,
            priority: crate::types::HEALTHY_MIN,
            interval: Centis::new(10).expect("10 cs is in range"),
            preempt: false,
            accept: true,
            strict_rfc: false,
            unicast_peers: Vec::new(),
            conflict_probe: true,
            gates: Vec::new(),
            when_all_fail: WhenAllFail::Keep,
            announce: Announce::L2,
            l2: AnnounceConfig::default(),
            drain_time: Duration::from_secs(1),
            shard: None,
            barred: None,
        }
    }

    /// What adverts of a family carry; empty: there is no virtual router of this family.
    pub fn advertised(&self, family: Family) -> Vec<IpAddr> {
        match (&self.shard, family) {
            (Some(shard), _) => Vec::from_iter((Family::of(&shard.identity) == family).then_some(shard.identity)),
            (None, Family::V4) => self.router_v4(),
            (None, Family::V6) => self.router_v6(),
        }
    }

    /// Families with a virtual router.
    pub fn families(&self) -> Vec<Family> {
        [Family::V4, Family::V6].into_iter().filter(|family| !self.advertised(*family).is_empty()).collect()
    }

    /// The family whose address names a node: that of the identity, else of the first address.
    pub fn main_family(&self) -> Family {
        let names = self.shard.map(|shard| shard.identity).or(self.addresses.first().copied());
        names.map_or(Family::V4, |address| Family::of(&address))
    }

    fn router_v4(&self) -> Vec<IpAddr> {
        self.addresses.iter().copied().filter(IpAddr::is_ipv4).collect()
    }

    /// A link-local first (RFC 9568 section 5.2.9). A lease has no router, and so no link-local.
    fn router_v6(&self) -> Vec<IpAddr> {
        let mut rest: Vec<IpAddr> = self.addresses.iter().copied().filter(IpAddr::is_ipv6).collect();
        if rest.is_empty() || self.lease.is_some() {
            return rest;
        }
        let derived = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0200, 0x5eff, 0xfe00, 0x0200 | u16::from(self.vrid));
        rest.insert(0, IpAddr::V6(self.link_local.unwrap_or(derived)));
        rest
    }

    /// Every address that the group owns, the derived link-local included (a shard is nobody's default router and has none).
    pub fn owned(&self) -> Vec<IpAddr> {
        if self.shard.is_some() {
            return self.addresses.clone();
        }
        let mut all = self.router_v4();
        all.extend(self.router_v6());
        all
    }

    /// Is this address among [`Self::owned`]? Asked for every frame of ARP and NDP.
    pub fn owns(&self, address: IpAddr) -> bool {
        match self.shard {
            Some(_) => self.addresses.contains(&address),
            None => self.owned().contains(&address),
        }
    }

    /// True when `other` can be reached from this configuration without leaving the election.
    pub fn updatable_to(&self, other: &Self) -> bool {
        self.name == other.name
            && self.lease == other.lease
            && self.vrid == other.vrid
            && self.interface == other.interface
            && self.further_interfaces == other.further_interfaces
            && self.unicast_peers == other.unicast_peers
            && self.shard == other.shard
            && self.families() == other.families()
    }
}
