//! The way to every node and the place of every endpoint here, as the network has them now.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use bascule_core::time::Instant;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tracing::info;

use super::Plane;
use crate::dataplane::forward::{Path, Place};
use crate::net::netlink::{Change, Ways, Whereabouts};

/// Every address.
const EVERYWHERE: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

impl Plane {
    /// Asks for the way to every node, and for the places of endpoints here that this change may have moved, that are new, and of some of those
    /// that have none. False when the kernel does not answer.
    pub(in crate::app::forward) async fn resolve(&mut self, ways: &mut Ways, change: &Change, now: Instant) -> bool {
        let Some(forward) = &mut self.forward else { return true };
        ways.begin();
        let mtu = self.config.as_ref().and_then(|config| config.mtu).unwrap_or(u16::MAX);
        let endpoints = match change {
            Change::Neighbours => forward.unplaced(&[]),
            Change::Routes(nets) => forward.unplaced(nets),
            Change::Any => forward.unplaced(&EVERYWHERE),
        };
        for address in forward.others() {
            let found = match ways.way(address).await {
                Ok(found) => found,
                Err(error) => {
                    self.trouble.error(format!("the way to {address} cannot be asked for: {error}"));
                    return false;
                }
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
                    self.trouble.error(format!("the place of {address} cannot be asked for: {error}"));
                    return false;
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
        self.balancer.handle_unplaced(forward.lost(), now);
        true
    }
}
