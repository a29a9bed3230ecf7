//! What the plane is told: actions of the balancer, facts of the network, keys, and the end of the start.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bascule_core::balance::Recovered;
use bascule_core::balance::io::Action;
use bascule_ebpf_common::forward::{Config, FlowKey, Key, Site};
use ipnet::IpNet;

use super::apply::{Path, Place, Written};
use super::clean::pinned_devices;
use super::error::ForwardError;
use super::{Forward, Settled, attach, carry, recover, sets};

impl Forward {
    /// What the maps hold; for the balancer, before its first configuration.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn recovered(&self) -> Result<Recovered, ForwardError> {
        recover::recovered(&self.tables, &self.peers)
    }

    /// Carries out one action of the balancer.
    ///
    /// # Errors
    /// [`ForwardError::Plane`] when a map is full or refuses, [`ForwardError::Range`].
    pub fn apply(&mut self, action: Action) -> Result<(), ForwardError> {
        match &action {
            Action::Sweep => {
                let gone = self.sweep()?;
                tracing::info!(entries = gone, "what a former run left and nobody wants is gone");
            }
            Action::PutService { slot, .. } if !self.known.services.contains_key(slot) && !self.reused => {
                self.stats.reset_service(slot.0.into())?;
            }
            Action::ClearService { slot } => self.stats.reset_service(slot.0.into())?,
            Action::RemoveEndpoint { slot } => self.stats.reset_endpoint(slot.0.into())?,
            _ => {}
        }
        self.known.apply(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, action)
    }

    /// Addresses of other nodes whose way must be found, and of endpoints here whose place must be.
    #[must_use]
    pub fn wanted(&self) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
        self.known.wanted()
    }

    /// The way to the node at `address`; `None`: there is none. True when that is news.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_path(&mut self, address: IpAddr, path: Option<Path>) -> Result<bool, ForwardError> {
        if let Some(path) = path {
            self.peers.add_device(path.ifindex)?;
        }
        self.known.set_path(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, address, path)
    }

    /// Where the endpoint at `address` lives. True when that is news.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_place(&mut self, address: IpAddr, place: Place) -> Result<bool, ForwardError> {
        self.known.set_place(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, address, place)
    }

    /// What this node is and how it sends. Node 0 turns forwarding off: every packet passes.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_config(&mut self, config: &Config) -> Result<(), ForwardError> {
        self.peers.set_config(config)
    }

    /// Networks whose hosts reach endpoints by the endpoints' own addresses: the reverse map is not asked for replies to them.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_internal(&mut self, networks: &[IpNet]) -> Result<(), ForwardError> {
        self.known.set_internal(&mut self.tables, networks)
    }

    /// What is written there.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn config(&self) -> Result<Config, ForwardError> {
        self.peers.config()
    }

    /// Writes one of the two tag keys. Rotation: the new key into the other slot on every node, then [`Config::key_slot`] on every
    /// node, then the old slot cleared.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_key(&mut self, slot: u32, key: &Key) -> Result<(), ForwardError> {
        if self.peers.key(slot)? == *key { Ok(()) } else { self.peers.set_key(slot, key) }
    }

    /// Writes the gateways of another site.
    ///
    /// # Errors
    /// [`ForwardError::Plane`], [`ForwardError::Range`].
    pub fn set_site(&mut self, site: u32, entry: &Site) -> Result<(), ForwardError> {
        if self.peers.site(site)? == *entry { Ok(()) } else { self.peers.set_site(site, entry) }
    }

    /// Pins a flow to a node (or takes that back).
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_exception(&mut self, flow: &FlowKey, node: Option<u16>) -> Result<(), ForwardError> {
        match node {
            Some(node) => self.peers.set_exception(flow, node.into()),
            None => self.peers.remove_exception(flow),
        }
    }

    /// Ends the start: every device in `devices` has the new programs, so what former runs left elsewhere goes, and the flows that their
    /// programs wrote until now come over.
    ///
    /// # Errors
    /// What could not be removed; it is tried again by the next start.
    pub fn settle(&mut self, devices: &BTreeSet<u32>) -> Result<Settled, ForwardError> {
        let mut settled = Settled { carried: carry::carry(&self.others, &mut self.flows.map)?, ..Settled::default() };
        for link in super::super::link::all()?.into_iter().filter(|link| !devices.contains(&link.ifindex)) {
            let removed = attach::remove(&self.root, link.ifindex)?;
            settled.detached += removed.links + removed.filters;
        }
        for ifindex in pinned_devices(&self.root)?.difference(devices) {
            settled.detached += attach::remove(&self.root, *ifindex)?.links;
        }
        let towards_nodes = self.known.devices();
        for ifindex in self.peers.devices()? {
            if !devices.contains(&ifindex) && !towards_nodes.contains(&ifindex) {
                self.peers.remove_device(ifindex)?;
            }
        }
        settled.sets = sets::keep_only(&self.root, &self.set, &self.load)?;
        self.others.clear();
        Ok(settled)
    }

    /// Removes what former runs wrote and this one does not want, and gives flows that came over this run's slots; how many entries went.
    fn sweep(&mut self) -> Result<usize, ForwardError> {
        self.known.forget_unwanted();
        let gone = recover::sweep(&self.known, &mut self.tables, &mut self.peers)?;
        Ok(gone + carry::rename(&mut self.flows, |key, flow| recover::renamed(&self.known, key, flow))?)
    }
}
