//! What travels: records of one site, each with the version that its only writer gave it.

use core::hash::Hasher as _;
use core::net::IpAddr;
use core::time::Duration;

use serde::Serialize;
use siphasher::sip::SipHasher13;

use crate::site::SiteId;
use crate::site::summary::{ServiceId, Summary};

/// Which write came later. Incarnations are processes of the origin, sequences its writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
pub struct Version {
    /// Counts up with each start of the origin, over lost disks as well: its peers remember.
    pub incarnation: u64,
    /// Counts up with each write.
    pub seq: u64,
}

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// A VIP that the site announces.
    Vip(IpAddr),
    /// A service.
    Service(ServiceId),
    /// An order to drain, by its number.
    Order(u32),
}

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// The VIP belongs to this service; `term` is that of its owner, for activePassive.
    Vip {
        /// The service.
        service: ServiceId,
        /// Term of the lease under which it is owned; 0: every site announces it.
        term: u64,
    },
    /// The service's summary.
    Service(Summary),
    /// The service, or all (`None`), is drained at the site for so many seconds more.
    Order {
        /// Which.
        service: Option<ServiceId>,
        /// Seconds that old flows are given.
        seconds: u32,
    },
}

impl Body {
    /// Does it belong to this key?
    pub const fn fits(&self, key: &Key) -> bool {
        matches!(
            (key, self),
            (Key::Vip(_), Self::Vip { .. }) | (Key::Service(_), Self::Service(_)) | (Key::Order(_), Self::Order { .. })
        )
    }

    /// Must go out at once: what `before` said sends flows where they cannot be served, or keeps them from where they can.
    pub fn urgent(before: Option<&Self>, after: Option<&Self>) -> bool {
        let serves = |b: Option<&Self>| match b {
            Some(Self::Service(summary)) => Some(summary.serves()),
            Some(Self::Vip { .. } | Self::Order { .. }) | None => None,
        };
        match (before, after) {
            (_, Some(Self::Vip { .. } | Self::Order { .. })) | (Some(Self::Vip { .. } | Self::Order { .. }), None) => {
                true
            }
            _ => serves(before).unwrap_or(false) != serves(after).unwrap_or(false),
        }
    }
}

/// One record as it travels. The origin is the site of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is about.
    pub key: Key,
    /// Sequence of the write; the incarnation is the message's.
    pub seq: u64,
    /// How long ago the origin observed it. Nobody compares clocks.
    pub age: Duration,
    /// `None`: there is none any more.
    pub body: Option<Body>,
}

/// Digest of one version of one key; a site's is all of them, exclusive-or. It is no secret: it finds accidents, not attacks.
pub(super) fn digest(origin: SiteId, key: &Key, seq: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x4528_21e6_38d0_1377, u64::from(origin.0));
    match key {
        Key::Vip(IpAddr::V4(ip)) => hasher.write(&ip.to_ipv6_mapped().octets()),
        Key::Vip(IpAddr::V6(ip)) => hasher.write(&ip.octets()),
        Key::Service(id) => hasher.write_u32(id.0),
        Key::Order(id) => hasher.write_u64(u64::from(*id) | 1 << 40),
    }
    hasher.write_u64(seq);
    hasher.finish()
}
