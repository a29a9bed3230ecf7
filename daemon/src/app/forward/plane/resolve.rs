//! The way to every node and the place of every endpoint here, as the network has them now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tracing::info;

use super::Plane;
use crate::dataplane::forward::{Path, Place};
use crate::net::netlink::{Ways, Whereabouts};

/// Endpoints without a known place that are asked for in one turn; the others wait for theirs. A question is some requests to the kernel, there
/// may be ten thousand, and many of them never have one: their addresses are routed elsewhere.
const LOST: usize = 64;

impl Plane {
    /// Asks for the way to every node, and for the place of every endpoint here if `all`, else of those that are new and of some of those that
    /// have none.
    pub(in crate::app::forward) async fn resolve(&mut self, ways: &mut Ways, all: bool) {
        let Some(forward) = &mut self.forward else { return };
        let mtu = self.config.as_ref().and_then(|config| config.mtu).unwrap_or(u16::MAX);
        let (nodes, mut endpoints) = forward.wanted();
        if !all {
            endpoints.retain(|address| !forward.is_placed(*address));
            let (new, lost): (BTreeSet<_>, BTreeSet<_>) = endpoints.into_iter().partition(|a| forward.is_new(*a));
            let next = self.lost.take().filter(|last| lost.last().is_some_and(|end| end > last));
            let behind = |address: &&IpAddr| next.is_none_or(|last| **address > last);
            let turn: Vec<IpAddr> = lost.iter().filter(behind).take(LOST).copied().collect();
            self.lost = turn.last().copied();
            endpoints = new.into_iter().chain(turn).collect();
        }
        for address in nodes {
            let found = match ways.way(address).await {
                Ok(found) => found,
                Err(error) => return self.trouble.error(format!("the way to {address} cannot be asked for: {error}")),
            };
            let path = found.map(|way| Path {
                ifindex: way.ifindex,
                source_mac: way.source_mac,
                next_mac: way.next_mac,
                mtu: way.mtu.min(mtu),
            });
            match forward.set_path(address, path) {
                Ok(true) => info!(%address, ?path, "way to a node"),
                Ok(false) => {}
                Err(error) => self.trouble.error(format!("the way to {address} is not written: {error}")),
            }
        }
        let mut places = BTreeMap::new();
        for address in endpoints {
            let place = match ways.whereabouts(address).await {
                Ok(Whereabouts::Here) => Place::Host,
                Ok(Whereabouts::Netns(id)) => Place::Netns(id),
                Ok(Whereabouts::Elsewhere) => Place::Unknown,
                Err(error) => {
                    return self.trouble.error(format!("the place of {address} cannot be asked for: {error}"));
                }
            };
            let _one = places.insert(address, place);
        }
        match forward.set_places(places) {
            Ok(news) => {
                news.iter().for_each(|(address, place)| info!(%address, ?place, "place of an endpoint"));
            }
            Err(error) => self.trouble.error(format!("places of endpoints are not written: {error}")),
        }
    }
}
