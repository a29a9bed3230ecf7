//! What a router says: sessions, paths, BFD sessions.

use std::net::IpAddr;
use std::time::Duration;

use super::Family;

/// State of a session (RFC 4271 8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does not dial and refuses connections.
    Idle,
    /// It waits for its TCP connection.
    Connect,
    /// It waits before it dials again, and listens.
    Active,
    /// It has sent its OPEN.
    OpenSent,
    /// It has accepted the neighbour's OPEN.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// The word as routers write it, whatever its case.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "idle" | "passive" | "down" | "close" => Self::Idle,
            "connect" => Self::Connect,
            "active" => Self::Active,
            "opensent" => Self::OpenSent,
            "openconfirm" => Self::OpenConfirm,
            "established" => Self::Established,
            _ => return None,
        })
    }
}

/// Graceful restart as the neighbour offered it (RFC 4724 3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrCapability {
    /// Restart Time, s.
    pub restart_time: u16,
    /// The families it lists, and whether it preserved their forwarding state (F-bit). Without one it only helps others.
    pub families: Vec<(Family, bool)>,
}

/// What the neighbour offered in its OPEN, as the router understood it. None: the router does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Multiprotocol families (RFC 4760), in order.
    pub families: Vec<Family>,
    /// Four-octet AS numbers (RFC 6793).
    pub four_octet_as: Option<bool>,
    /// Route refresh (RFC 2918).
    pub route_refresh: Option<bool>,
    /// Enhanced route refresh (RFC 7313).
    pub enhanced_refresh: Option<bool>,
    /// Messages up to 65,535 octets (RFC 8654).
    pub extended_message: Option<bool>,
    /// Graceful restart; None also when it was not offered.
    pub graceful_restart: Option<GrCapability>,
}

/// A session as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its state.
    pub state: State,
    /// Negotiated hold time (s) of an established session; None when it is not, or the router does not say.
    pub hold_time: Option<u16>,
    /// What the neighbour offered.
    pub capabilities: Capabilities,
    /// Prefixes of all families that came from the neighbour; None when the router does not say.
    pub received: Option<u32>,
    /// Updates heard since its start: of messages, or of prefixes where the router counts those. Only growth means something.
    pub updates: u64,
    /// What the router says about the end of the last session, in its own words.
    pub last_error: Option<String>,
}

/// One path to a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    /// The neighbour that announced it; None for the router's own.
    pub neighbor: Option<IpAddr>,
    /// Global next hop.
    pub next_hop: Option<IpAddr>,
    /// AS_PATH without its segments' types.
    pub as_path: Vec<u32>,
    /// Communities (RFC 1997), in order.
    pub communities: Vec<(u16, u16)>,
    /// Large communities (RFC 8092), in order.
    pub large: Vec<(u32, u32, u32)>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF after the import policy; None where the router keeps the default to itself.
    pub local_pref: Option<u32>,
    /// Kept for a neighbour that restarts (RFC 4724 4.2).
    pub stale: bool,
    /// The one the router chose.
    pub best: bool,
    /// Traffic is shared with the best one.
    pub multipath: bool,
}

/// The route a router uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Next hops of the best path and of those it shares traffic with, in order of address.
    pub next_hops: Vec<IpAddr>,
    /// AS_PATH of the best path, and so on for what follows.
    pub as_path: Vec<u32>,
    /// Communities (RFC 1997), in order.
    pub communities: Vec<(u16, u16)>,
    /// Large communities (RFC 8092), in order.
    pub large: Vec<(u32, u32, u32)>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// Kept for a neighbour that restarts.
    pub stale: bool,
}

impl Route {
    pub(super) fn select(paths: Vec<Path>) -> Option<Self> {
        let mut next_hops: Vec<IpAddr> =
            paths.iter().filter(|p| p.best || p.multipath).filter_map(|p| p.next_hop).collect();
        next_hops.sort_unstable();
        next_hops.dedup();
        let best = paths.into_iter().find(|p| p.best)?;
        Some(Self {
            next_hops,
            as_path: best.as_path,
            communities: best.communities,
            large: best.large,
            med: best.med,
            local_pref: best.local_pref,
            stale: best.stale,
        })
    }
}

/// State of a BFD session (RFC 5880 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BfdState {
    /// Put down by an operator.
    AdminDown,
    /// Nothing is heard.
    Down,
    /// The peer is heard.
    Init,
    /// Both hear each other.
    Up,
}

impl BfdState {
    /// The word as routers write it, whatever its case.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "admindown" | "shutdown" => Self::AdminDown,
            "down" => Self::Down,
            "init" => Self::Init,
            "up" => Self::Up,
            _ => return None,
        })
    }
}

/// A BFD session as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BfdSession {
    /// Its state.
    pub state: BfdState,
    /// Time between two packets it sends, negotiated.
    pub transmit: Duration,
    /// Without a packet of the peer for this long it goes down, negotiated.
    pub detection: Duration,
    /// It runs over several hops (RFC 5883); None when the router does not say.
    pub multihop: Option<bool>,
}
