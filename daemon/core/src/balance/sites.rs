//! Other sites: their gateways, and rows that have one of them as their home.
//!
//! The policy gives the owners of equal parts of the hash space ([`crate::site::policy`], lowest first); a row belongs to the part its middle
//! lies in. A row that another site owns has `SITE_BASE | site` as its home, and changes as any row does: the former home stays as the previous
//! one, a third change within the drain time waits if it is voluntary. So no flow moves when the policy changes its mind, neither away
//! nor back. All nodes of a site hear the same owners and make the same rows.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Balancer;
use super::choice::Nodes;
use super::io::Action;
use super::room::Room;
use super::rows::{Row, Standing};
use crate::service::ServiceKey;
use crate::site::SiteId;
use crate::time::Instant;

/// First id in rows that stands for a site: `SITE_BASE | site`. Equal to that of the forwarding ABI.
pub const SITE_BASE: u16 = 0x2000;

/// Gateways of a site that the map has room for; of more the lowest ids are taken.
pub const GATEWAYS: usize = 14;

/// What is known of another site, beside its nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiteSpec {
    /// Its number.
    pub site: SiteId,
    /// Paths to it carry packets: it may be asked for flows, and be the home of rows.
    pub reachable: bool,
    /// It became unreachable a moment ago, and may be back in another ([`crate::site::near::HELD`]): flows that may live there are not ended.
    pub lost: bool,
    /// It cannot answer our clients itself: what it answers comes back through the node on which the request arrived.
    pub via_ingress: bool,
    /// Largest IP packet that the paths to it carry, in bytes; `None`: what the routes say.
    pub mtu: Option<u16>,
}

/// The site that an id in a row stands for.
pub fn site_of(id: u16) -> Option<SiteId> {
    let [high, low] = id.to_be_bytes();
    (high == SITE_BASE.to_be_bytes()[0]).then_some(SiteId(low))
}

/// What the driver writes of a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteEntry {
    /// Ids of nodes that take packets for it and live, at most [`GATEWAYS`]; none: nothing is sent there.
    pub gateways: Vec<u16>,
    /// What else is known of it.
    pub spec: SiteSpec,
}

impl SiteEntry {
    fn is_usable(&self) -> bool {
        self.spec.reachable && !self.gateways.is_empty()
    }
}

/// Another site, for people and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// Its number.
    pub site: SiteId,
    /// Gateways that take packets for it and live.
    pub gateways: usize,
    /// Paths to it carry packets.
    pub reachable: bool,
    /// It became unreachable a moment ago: flows that may live there are not ended.
    pub lost: bool,
    /// Packets are sent there: it is reachable and has a gateway.
    pub usable: bool,
    /// Largest IP packet that the paths to it carry, in bytes; `None`: what the routes say.
    pub mtu: Option<u16>,
}

/// Other sites.
#[derive(Debug, Default)]
pub(super) struct Sites {
    /// Nearest first.
    known: Vec<SiteSpec>,
    /// Ids of gateways that probes do not reach.
    silent: BTreeMap<SiteId, BTreeSet<u16>>,
    told: BTreeMap<SiteId, SiteEntry>,
    order: Vec<SiteId>,
}

impl Sites {
    /// Sites that have nodes, those that were named first, in that order.
    fn all(&self, nodes: &Nodes) -> Vec<SiteSpec> {
        let own = nodes.site();
        let there: BTreeSet<SiteId> =
            nodes.by_name.values().filter(|n| n.site != own && n.site != 0).map(|n| SiteId(n.site)).collect();
        let named = self.known.iter().filter(|s| there.contains(&s.site)).copied();
        let rest = there.iter().filter(|site| !self.known.iter().any(|s| s.site == **site));
        let plain =
            |site: &SiteId| SiteSpec { site: *site, reachable: true, lost: false, via_ingress: false, mtu: None };
        named.chain(rest.map(plain)).collect()
    }

    /// Tells the driver what is new: gateways after their nodes, the order after the sites it names.
    pub(super) fn tell(&mut self, nodes: &Nodes, room: &mut Room) {
        let all = self.all(nodes);
        let mut wanted = BTreeMap::new();
        for spec in &all {
            let silent = |id| self.silent.get(&spec.site).is_some_and(|silent| silent.contains(&id));
            let here =
                |n: &&crate::service::NodeSpec| n.site == spec.site.0 && !nodes.is_dead(&n.name) && !silent(n.id);
            let mut gateways: Vec<u16> = nodes.by_name.values().filter(here).map(|n| n.id).collect();
            gateways.sort_unstable();
            gateways.truncate(GATEWAYS);
            let _none = wanted.insert(spec.site, SiteEntry { gateways, spec: *spec });
        }
        let news = wanted.values().filter(|entry| self.told.get(&entry.spec.site) != Some(*entry)).cloned();
        let gone = self.told.values().filter(|entry| !wanted.contains_key(&entry.spec.site));
        let gone = gone.map(|entry| SiteEntry { gateways: Vec::new(), spec: entry.spec });
        for entry in news.chain(gone) {
            room.owe(Action::PutSite(entry));
        }
        self.told = wanted;
        let order: Vec<SiteId> = all.iter().map(|s| s.site).collect();
        if order != self.order {
            room.owe(Action::SetNearest(order.clone()));
            self.order = order;
        }
    }

    /// For people and metrics, the nearest first.
    pub(super) fn status(&self) -> Vec<SiteStatus> {
        let status = |site: &SiteId| {
            let entry = self.told.get(site)?;
            let SiteSpec { site, reachable, lost, mtu, .. } = entry.spec;
            Some(SiteStatus { site, gateways: entry.gateways.len(), reachable, lost, usable: entry.is_usable(), mtu })
        };
        self.order.iter().filter_map(status).collect()
    }

    /// The share of each site in the rows of a service.
    pub(super) fn split<'a>(&'a self, owners: Option<&'a [SiteId]>, nodes: &Nodes) -> Split<'a> {
        Split { owners, own: SiteId(nodes.site()), told: Some(&self.told) }
    }
}

/// Which rows of one table have another site as their home.
#[derive(Clone, Debug, Default)]
pub(super) struct Split<'a> {
    owners: Option<&'a [SiteId]>,
    own: SiteId,
    /// Other sites.
    told: Option<&'a BTreeMap<SiteId, SiteEntry>>,
}

impl Split<'_> {
    /// No other site: of the second level.
    pub(super) fn none() -> Self {
        Self { owners: Some(&[]), ..Self::default() }
    }

    fn is_usable(&self, site: SiteId) -> bool {
        self.told.and_then(|told| told.get(&site)).is_some_and(SiteEntry::is_usable)
    }

    /// Is another site the home of some row?
    pub(super) fn has_others(&self) -> bool {
        self.owners.is_some_and(|owners| owners.iter().any(|site| *site != self.own && self.is_usable(*site)))
    }

    /// What an id that is no node is worth.
    pub(super) fn standing(&self, id: u16) -> Standing {
        match site_of(id).filter(|site| self.told.is_some_and(|told| told.contains_key(site))) {
            None => Standing::Gone,
            Some(site) if !self.is_usable(site) => Standing::Dead,
            Some(site) if self.owners.is_none_or(|o| o.contains(&site)) => Standing::Member,
            Some(_) => Standing::Holder,
        }
    }

    /// The homes that the rows shall have: `filled` where this site keeps them, which it is everywhere if there are none. Until the policy
    /// has spoken, rows in force that have another site as their home keep it.
    pub(super) fn targets(&self, filled: &[u16], rows: &[Row]) -> Option<Vec<u16>> {
        let size = filled.len();
        let some = match self.owners {
            Some(_) => self.has_others(),
            None => rows.len() == size && self.told.is_some_and(|told| !told.is_empty()),
        };
        if !some {
            return None;
        }
        let target = |(i, here): (usize, &u16)| {
            let away = match self.owners {
                Some(owners) => owners.get((2 * i + 1) * owners.len() / (2 * size)).copied(),
                None => rows.get(i).filter(|_| rows.len() == size).and_then(|row| site_of(row.home)),
            };
            match away {
                Some(site) if site != self.own && self.is_usable(site) => SITE_BASE | u16::from(site.0),
                // An owner that cannot be reached: whoever is here takes them.
                Some(_) | None => *here,
            }
        };
        Some(filled.iter().enumerate().map(target).collect())
    }
}

impl Balancer {
    /// The policy says whose each part of a service's hash space is, the lowest hashes first. Empty: all of it is this site's.
    pub fn handle_sites(&mut self, service: &ServiceKey, owners: &[SiteId], now: Instant) {
        let Some(known) = self.services.get_mut(service) else { return };
        if known.owners.as_deref() == Some(owners) {
            return;
        }
        known.owners = Some(owners.to_vec());
        self.mark(*service, now);
    }

    /// What is known of other sites, the nearest first. One that is not named comes last, is reachable, and answers clients itself. Its nodes
    /// are those of the configuration; a gateway that is dead is left out ([`Self::handle_node`]).
    pub fn handle_neighbours(&mut self, nearest_first: &[SiteSpec], now: Instant) {
        if self.sites.known == nearest_first {
            return;
        }
        self.sites.known = nearest_first.to_vec();
        self.sites.tell(&self.nodes, &mut self.room);
        self.mark_all(now);
    }

    /// Probes do not reach these gateways of a site ([`crate::site::gateways`]): they are left out as dead ones are.
    pub fn handle_silent(&mut self, site: SiteId, gateways: BTreeSet<u16>, now: Instant) {
        if self.sites.silent.insert(site, gateways.clone()).unwrap_or_default() != gateways {
            self.sites.tell(&self.nodes, &mut self.room);
            self.mark_all(now);
        }
    }
}
