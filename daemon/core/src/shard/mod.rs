//! Many VIPs over few virtual routers: which shard a VIP belongs to, what a shard is called on the wire, and which nodes it prefers.
//!
//! Everything here is a function of names: every node computes the same from the same list, and nothing is sent. The list is that of the
//! nodes that are *configured*, up or not: a death changes no list, the next rank takes over by the election. [`place`] ranks the nodes,
//! [`eligible`] says which nodes are in the list and which of them may own now, [`rebalance`] plans the way back after deaths; nothing
//! moves without it, for a node that returns takes nothing by itself.
//!
//! Used by `service::plan`; static groups have their lists in the configuration.

pub mod eligible;
pub mod number;
pub mod place;
pub mod rebalance;
#[cfg(test)]
mod tests;

use core::hash::Hasher as _;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use siphasher::sip::SipHasher13;

/// A shard, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct ShardId(pub u8);

/// Most shards of a cluster: each has a VRID of its own, 1..=255 (RFC 9568 section 5.2.3).
pub const SHARDS_MAX: u8 = 255;

/// First key of the hashes, so that no two questions get related answers.
#[derive(Clone, Copy)]
enum Question {
    Vip = 1,
    Cluster = 2,
    Score = 3,
    Number = 4,
}

fn hash(question: Question, parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(question as u64, 0x7368_6172_6473);
    for part in parts {
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        hasher.write_u64(part.len() as u64);
        hasher.write(part);
    }
    hasher.finish()
}

/// The shard of a VIP: a function of its address and of how many shards there are, whatever other VIPs come and go. `None` when there are
/// no shards. Another number of shards moves VIPs: it is chosen once for a cluster.
pub fn shard_of(vip: IpAddr, shards: u8) -> Option<ShardId> {
    let hash = match vip {
        IpAddr::V4(v4) => hash(Question::Vip, &[&v4.octets()]),
        IpAddr::V6(v6) => hash(Question::Vip, &[&v6.octets()]),
    };
    hash.checked_rem(u64::from(shards)).and_then(|n| u8::try_from(n).ok()).map(ShardId)
}

/// What a shard is on the wire. Its adverts carry the identity address and never the VIPs, so that nodes that know different VIPs for a
/// moment still agree (RFC 9568 section 7.1 compares the lists).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Identity {
    /// Virtual Router Identifier, different for each shard of a cluster.
    pub vrid: u8,
    /// In 169.254.1.0 to 169.254.254.255, what RFC 3927 section 2.1 leaves to hosts; not installed anywhere.
    pub v4: Ipv4Addr,
    /// In fe80::/64 (RFC 4291 section 2.5.6).
    pub v6: Ipv6Addr,
}

/// Addresses in 169.254.1.0 to 169.254.254.255.
const LINK_LOCAL: u64 = 254 * 256;

/// The identity of a shard, made of the cluster's id and the shard's number. Shards of one cluster never collide. Two clusters on one link
/// may get the same VRID (there are 255); their identity addresses then differ, each node drops the other's adverts, and the operator
/// sees them counted.
pub fn identity(cluster: &str, shard: ShardId) -> Identity {
    let hash = hash(Question::Cluster, &[cluster.as_bytes()]);
    let n = u64::from(shard.0);
    let vrid = 1 + (hash % 255 + n) % 255;
    let [.., high, low] = ((hash / 255 % LINK_LOCAL + n) % LINK_LOCAL + 256).to_be_bytes();
    let [a, b, c, d, e, f, g, _] = hash.to_be_bytes();
    let group = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Identity {
        vrid: u8::try_from(vrid).unwrap_or(1),
        v4: Ipv4Addr::new(169, 254, high, low),
        v6: Ipv6Addr::new(0xfe80, 0, 0, 0, group(a, b), group(c, d), group(e, f), group(g, shard.0)),
    }
}
