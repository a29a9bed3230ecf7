//! What a speaker is told to be. The daemon's configuration room makes this from YAML; nothing here is parsed.
//!
//! A new configuration is applied as a difference: a session is reset only when [`NeighborConfig::needs_reset`] says so.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::wire::{Family, FamilySet};

/// The whole speaker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpeakerConfig {
    /// Own autonomous system, 4 octets (RFC 6793).
    pub asn: u32,
    /// BGP Identifier, not zero (RFC 6286).
    pub router_id: Ipv4Addr,
    /// Neighbors by unique name.
    pub neighbors: Vec<NeighborConfig>,
}

/// One neighbor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NeighborConfig {
    /// Unique name; also the key of its BFD session.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its TCP port, 179 unless told otherwise.
    pub port: u16,
    /// What its AS must be.
    pub remote_as: RemoteAs,
    /// Own AS towards this neighbor, where it differs.
    pub local_as: Option<u32>,
    /// Who dials.
    pub mode: Mode,
    /// Families offered by the multiprotocol capability.
    pub families: FamilySet,
    /// Hold Time offered, seconds: 0 (no keepalives) or 3 and more (RFC 4271 section 4.2).
    pub hold_time: u16,
    /// ConnectRetryTime; each use is multiplied by a jitter of 0.75 to 1.0 (RFC 4271 section 10).
    pub connect_retry: Duration,
    /// SendHoldTime (RFC 9687); `None`: the larger of 8 minutes and twice the negotiated hold time.
    pub send_hold: Option<Duration>,
    /// Graceful restart (RFC 4724) is offered with this Restart Time, seconds, at most 4095.
    pub graceful_restart: Option<u16>,
    /// Prefixes accepted (and discarded) before [`Self::max_prefix_action`]; `None`: no limit.
    pub max_prefix: Option<u32>,
    /// What follows when there are more.
    pub max_prefix_action: MaxPrefixAction,
    /// Wait for BFD: the session counts only while the BFD session of this name is up.
    pub bfd: bool,
    /// How its routes are presented.
    pub export: ExportPolicy,
    /// How the connection is made. The speaker hands it to the driver unread.
    pub transport: Transport,
}

impl NeighborConfig {
    /// An external neighbor that we dial, as it is when nothing else is said: IPv4 unicast, a Hold Time of 90 s (RFC 4271 section 10), a
    /// first new attempt after 5 s, nothing that is optional.
    pub fn external(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
            port: 179,
            remote_as: RemoteAs::External,
            local_as: None,
            mode: Mode::Active,
            families: FamilySet::EMPTY.with(Family::Ipv4),
            hold_time: 90,
            connect_retry: Duration::from_secs(5),
            send_hold: None,
            graceful_restart: None,
            max_prefix: None,
            max_prefix_action: MaxPrefixAction::Warn,
            bfd: false,
            export: ExportPolicy::default(),
            transport: Transport::default(),
        }
    }
}

/// What the neighbor's AS must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteAs {
    /// Any but our own.
    External,
    /// Our own.
    Internal,
    /// This one.
    Is(u32),
}

/// Who dials.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Only we do: no listener, so no collision. The default.
    #[default]
    Active,
    /// Only the neighbor does.
    Passive,
    /// Both: collisions are resolved by RFC 4271 section 6.8.
    Both,
}

/// What follows when a neighbor sends more prefixes than its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MaxPrefixAction {
    /// Say so once; the prefixes are discarded anyway.
    #[default]
    Warn,
    /// Cease, subcode 1 (RFC 4486), and hold the session down until an operator or a new configuration.
    Reset,
}

/// How the connection is made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transport {
    /// Own address; chosen by the kernel when absent.
    pub source: Option<IpAddr>,
    /// Link by name: `SO_BINDTODEVICE`, and the scope of link-local addresses.
    pub interface: Option<String>,
    /// Distance to the neighbor.
    pub ttl: Ttl,
    /// TCP MD5 key (RFC 2385), 1 to 80 bytes.
    pub password: Option<Secret>,
}

/// Distance to the neighbor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ttl {
    /// Send with TTL 1 to an external neighbor, 255 to an internal one.
    #[default]
    Default,
    /// Send with this TTL, up to so many hops.
    Multihop(u8),
    /// GTSM (RFC 5082): send with 255, accept only 255 - hops + 1 and more; 1 hop is a directly connected neighbor.
    Security(u8),
}

impl Transport {
    /// True when a connection of `self` cannot go on as one of `next`. A key in place of another one is no reason: the kernel takes it on
    /// a connection that stands, and both ends have until the hold time to follow.
    fn needs_reset(&self, next: &Self) -> bool {
        let rotated = self.password.is_some() && next.password.is_some();
        let password = if rotated { &self.password } else { &next.password };
        *self != Self { password: password.clone(), ..next.clone() }
    }
}

/// A password. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How routes are presented to one neighbor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExportPolicy {
    /// For every route that no rule names.
    pub default: ExportAction,
    /// The first rule that names the route's VIP or its prefix holds instead of the default.
    pub rules: Vec<ExportRule>,
}

/// A rule of an export policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportRule {
    /// VIPs, by name.
    pub vips: Vec<String>,
    /// Prefixes, whatever their VIPs are called.
    pub prefixes: BTreeSet<IpNet>,
    /// What is done with their routes.
    pub action: ExportAction,
}

/// What is done with a route on its way out.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Default)]
pub struct ExportAction {
    /// Not announced to this neighbor.
    pub deny: bool,
    /// Attributes that are set.
    pub attributes: RouteAttributes,
    /// How many more times the own AS is prepended, at most 10.
    pub prepend: u8,
    /// NEXT_HOP.
    pub next_hop: NextHopMode,
}

/// Attributes that a policy sets.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Default)]
pub struct RouteAttributes {
    /// COMMUNITIES (RFC 1997), high 16 bits AS.
    pub communities: Vec<u32>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// EXTENDED COMMUNITIES (RFC 4360), raw.
    pub extended_communities: Vec<[u8; 8]>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF, sent to internal neighbors only; 100 when absent.
    pub local_pref: Option<u32>,
}

/// NEXT_HOP of announced routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum NextHopMode {
    /// Our address of the session; for the other family the configured [`NextHopMode::Address`] is needed.
    #[default]
    Own,
    /// This address.
    Address {
        /// For IPv4 routes.
        v4: Option<Ipv4Addr>,
        /// For IPv6 routes.
        v6: Option<core::net::Ipv6Addr>,
    },
}

impl NeighborConfig {
    /// True when the session must be closed for `next` to take effect; otherwise timers, limits and policy change under it.
    pub fn needs_reset(&self, next: &Self) -> bool {
        self.address != next.address
            || self.port != next.port
            || self.remote_as != next.remote_as
            || self.local_as != next.local_as
            || self.families != next.families
            || self.hold_time != next.hold_time
            || self.graceful_restart != next.graceful_restart
            || self.transport.needs_reset(&next.transport)
    }

    /// True when routes of this family may be sent.
    pub fn offers(&self, family: Family) -> bool {
        self.families.contains(family)
    }
}
