//! What the speaker shows: one snapshot of everything, and the routes that one neighbor holds.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Serialize;

use super::{Neighbor, Speaker};
use crate::rib::{Advertised, Rib};
use crate::session::status::SessionStatus;
use crate::time::Instant;
use crate::wire::{Family, NextHop};

/// The whole speaker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SpeakerStatus {
    /// When this run began.
    pub started: Instant,
    /// Own AS; `None` before the first configuration.
    pub asn: Option<u32>,
    /// Own BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
    /// How many routes are wanted.
    pub routes: usize,
    /// The step of a shutdown or restart, in words.
    pub leaving: Option<&'static str>,
    /// In the order in which they were configured.
    pub neighbors: Vec<NeighborStatus>,
}

/// One neighbor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NeighborStatus {
    /// Its session.
    #[serde(flatten)]
    pub session: SessionStatus,
    /// Prefixes that it holds of ours, by family.
    pub prefixes_out: Vec<(Family, usize)>,
    /// Prefixes that it still has to be told of.
    pub queue_depth: usize,
    /// Wanted and not announced to it.
    pub held_back: Vec<HeldBack>,
}

/// Routes that are not announced for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HeldBack {
    /// In words.
    pub reason: String,
    /// How many.
    pub prefixes: usize,
    /// One of them.
    pub example: IpNet,
}

/// A route as a neighbor was sent it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AdvertisedRoute {
    /// Which.
    pub prefix: IpNet,
    /// NEXT_HOP; of a pair the global one and then the link-local one.
    pub next_hop: Vec<core::net::IpAddr>,
    /// AS_PATH: only our own AS, as often as it is prepended.
    pub as_path: Vec<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// COMMUNITIES, `high:low`.
    pub communities: Vec<String>,
    /// LARGE_COMMUNITY, `a:b:c`.
    pub large_communities: Vec<String>,
    /// EXTENDED COMMUNITIES, 16 hexadecimal digits each.
    pub extended_communities: Vec<String>,
}

impl Speaker {
    /// The snapshot.
    pub fn status(&self, now: Instant) -> SpeakerStatus {
        SpeakerStatus {
            started: self.started,
            asn: self.config.as_ref().map(|config| config.asn),
            router_id: self.config.as_ref().map(|config| config.router_id),
            routes: self.rib.len(),
            leaving: self.leave.as_ref().map(|leaving| leaving.machine.describe()),
            neighbors: self.neighbors.iter().map(|neighbor| neighbor.status(&self.rib, now)).collect(),
        }
    }

    /// What a neighbor holds of ours; `None` when there is no such neighbor.
    pub fn routes(&self, neighbor: &str) -> Option<Vec<AdvertisedRoute>> {
        let neighbor = self.neighbors.iter().find(|n| n.session.config().name == neighbor)?;
        Some(neighbor.out.iter().flat_map(|out| out.queue.advertised()).map(advertised).collect())
    }
}

impl Neighbor {
    fn status(&self, rib: &Rib, now: Instant) -> NeighborStatus {
        let mut held_back = BTreeMap::new();
        for (prefix, reason) in self.out.iter().flat_map(|out| out.queue.held_back(rib)) {
            let reason = reason.to_string();
            let entry = held_back.entry(reason.clone()).or_insert(HeldBack { reason, prefixes: 0, example: prefix });
            entry.prefixes += 1;
        }
        let prefixes = |family| self.out.as_ref().map_or(0, |out| out.queue.prefixes_out(family));
        NeighborStatus {
            session: self.session.status(now),
            prefixes_out: Family::ALL.into_iter().map(|family| (family, prefixes(family))).collect(),
            queue_depth: self.out.as_ref().map_or(0, |out| out.queue.depth(rib)),
            held_back: held_back.into_values().collect(),
        }
    }
}

fn advertised(route: Advertised<'_>) -> AdvertisedRoute {
    let attributes = &route.exported.attributes;
    let next_hop = match route.exported.next_hop {
        NextHop::V4(v4) => vec![v4.into()],
        NextHop::V6 { global, link_local } => {
            core::iter::once(global).chain(link_local).map(core::net::IpAddr::V6).collect()
        }
    };
    AdvertisedRoute {
        prefix: route.prefix,
        next_hop,
        as_path: attributes.as_path.asns().collect(),
        med: attributes.med,
        local_pref: attributes.local_pref,
        communities: attributes.communities.iter().map(|c| format!("{}:{}", c >> 16, c & 0xffff)).collect(),
        large_communities: attributes.large_communities.iter().map(ToString::to_string).collect(),
        extended_communities: attributes
            .ext_communities
            .iter()
            .map(|community| community.iter().map(|octet| format!("{octet:02x}")).collect())
            .collect(),
    }
}
