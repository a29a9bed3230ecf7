//! What the machine is told to do. The daemon's configuration room and its BGP room make these; nothing here is parsed.

use core::net::IpAddr;
use core::time::Duration;

use super::timing::Timers;

/// Default of both intervals, what routers use unless told otherwise.
pub const INTERVAL: Duration = Duration::from_millis(300);
/// Shortest interval: below it a packet's way through a busy host is of the same order.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Default multiplier.
pub const MULTIPLIER: u8 = 3;

/// One session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerConfig {
    /// Key of the session, unique: its name in logs, metrics and updates.
    pub name: String,
    /// The peer.
    pub remote: IpAddr,
    /// Our address; by the link's subnet (single hop) or by routing (multihop) when absent.
    pub local: Option<IpAddr>,
    /// Link of a single-hop session, by name; the link whose subnet holds the peer when absent.
    pub interface: Option<String>,
    /// A multihop session (RFC 5883), and the smallest TTL or hop limit that its packets may have on arrival.
    pub multihop: Option<u8>,
    /// Desired Min TX Interval while Up; whole microseconds, [`INTERVAL_MIN`] at least.
    pub desired_min_tx: Duration,
    /// Required Min RX Interval; whole microseconds, [`INTERVAL_MIN`] at least.
    pub required_min_rx: Duration,
    /// Detect Mult, 1..=255.
    pub multiplier: u8,
    /// Sends nothing before the peer was heard.
    pub passive: bool,
}

/// The smallest TTL with which packets arrive over at most `hops` hops from a peer that sends them with 255, as we do; 1 is a direct
/// link. RFC 5883 asks for no TTL: a peer may send another one, and then the operator names the smallest.
pub const fn min_ttl(hops: u8) -> u8 {
    255 - hops.saturating_sub(1)
}

impl PeerConfig {
    /// The name of a session that was given none: its address, and the link where one was named.
    pub fn default_name(remote: IpAddr, interface: Option<&str>) -> String {
        interface.map_or_else(|| remote.to_string(), |link| format!("{remote}%{link}"))
    }

    /// A single-hop session with every default, for callers that set the rest.
    pub fn new(name: &str, remote: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            remote,
            local: None,
            interface: None,
            multihop: None,
            desired_min_tx: INTERVAL,
            required_min_rx: INTERVAL,
            multiplier: MULTIPLIER,
            passive: false,
        }
    }

    /// Intervals as the protocol counts them. Out-of-range values are brought into range.
    pub(super) fn timers(&self) -> Timers {
        let micros = |d: Duration| u32::try_from(d.max(INTERVAL_MIN).as_micros()).unwrap_or(u32::MAX);
        Timers {
            desired_min_tx: micros(self.desired_min_tx),
            required_min_rx: micros(self.required_min_rx),
            multiplier: self.multiplier.max(1),
        }
    }

    /// True when a session of `self` can become one of `other` without being taken down: only intervals, multiplier and least TTL differ.
    pub(super) fn same_session(&self, other: &Self) -> bool {
        let intervals = (other.desired_min_tx, other.required_min_rx, other.multiplier);
        let mut like = self.clone();
        (like.desired_min_tx, like.required_min_rx, like.multiplier) = intervals;
        if like.multihop.is_some() && other.multihop.is_some() {
            like.multihop = other.multihop;
        }
        like == *other
    }

    /// True when packets that name no session could belong to either: two such sessions cannot be told apart.
    pub fn collides(&self, other: &Self) -> bool {
        let same_or_any = |a: Option<&IpAddr>, b: Option<&IpAddr>| a.is_none() || b.is_none() || a == b;
        let links = (self.interface.as_ref(), other.interface.as_ref());
        let link = !matches!(links, (Some(a), Some(b)) if a != b) || self.multihop.is_some();
        self.remote == other.remote
            && self.multihop.is_some() == other.multihop.is_some()
            && same_or_any(self.local.as_ref(), other.local.as_ref())
            && link
    }
}
