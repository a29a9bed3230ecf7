//! What the plane is told: actions of the balancer, facts of the network, keys, and the end of the start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use bascule_core::balance::Recovered;
use bascule_core::balance::io::Action;
use bascule_core::service::ServiceKey;
use bascule_core::types::Mac;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    CONFIG_HOLDS, CONFIG_OWN_MACS, CONFIG_SITES, Config, Flow, FlowKey, Key, MAX_MACS, Site, mac_key,
};
use ipnet::IpNet;

use super::super::registry::vip_key;
use super::apply::{Path, Written};
use super::clean::pinned_devices;
use super::error::ForwardError;
use super::places::Place;
use super::{Forward, Settled, attach, carry, flows, recover, sets};
use crate::handle::forward::KeysView;

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
            Action::PutService { slot, .. } if !self.known.services.contains_key(slot) && !self.kept => {
                self.stats.reset_service(slot.0.into())?;
            }
            Action::ClearService { slot } => {
                self.stats.reset_service(slot.0.into())?;
                self.watch.forget(slot.0);
            }
            Action::RemoveEndpoint { slot } => self.stats.reset_endpoint(slot.0.into())?,
            _ => {}
        }
        let sites = matches!(action, Action::PutSite(_));
        self.known.apply(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, action)?;
        if sites { self.flag() } else { Ok(()) }
    }

    /// Addresses of other nodes, whose way must be found.
    #[must_use]
    pub fn others(&self) -> BTreeSet<IpAddr> {
        self.known.others()
    }

    /// Addresses of endpoints here whose place must be found now that routes to these networks changed: those in them, new ones, and some of
    /// those that have none.
    #[must_use]
    pub fn unplaced(&mut self, changed: &[IpNet]) -> BTreeSet<IpAddr> {
        self.known.places.due(changed)
    }

    /// Addresses of endpoints here whose place was looked for and not found.
    #[must_use]
    pub const fn lost(&self) -> &BTreeSet<IpAddr> {
        self.known.places.lost()
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

    /// Where these endpoints live. Gives those of which that is news.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_places(&mut self, places: BTreeMap<IpAddr, Place>) -> Result<BTreeMap<IpAddr, Place>, ForwardError> {
        self.known.set_places(&mut Written { tables: &mut self.tables, peers: &mut self.peers }, places)
    }

    /// What this node is and how it sends. Node 0 turns forwarding off: every packet passes.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_config(&mut self, config: &Config) -> Result<(), ForwardError> {
        let flagged = self.flagged(*config);
        self.peers.set_config(&flagged)
    }

    /// What is written there.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn config(&self) -> Result<Config, ForwardError> {
        self.peers.config()
    }

    /// Writes a tag key at its place (`key_index`). Rotation: the new key into the other slot on every node, then [`Config::key_slot`] on every
    /// node, then the old slot cleared.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_key(&mut self, slot: u32, key: &Key) -> Result<(), ForwardError> {
        if self.peers.key(slot)? == *key { Ok(()) } else { self.peers.set_key(slot, key) }
    }

    /// Slot of the tag key that signs, and slots of those that verify, as the programs have them.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn keys(&self) -> Result<KeysView, ForwardError> {
        let mut verify = Vec::new();
        for slot in [0, 1] {
            if self.peers.key(slot.into())?.valid != 0 {
                verify.push(slot);
            }
        }
        Ok(KeysView { signs: self.peers.config()?.key_slot, verify })
    }

    /// Writes the gateways of another site.
    ///
    /// # Errors
    /// [`ForwardError::Plane`], [`ForwardError::Range`].
    pub fn set_site(&mut self, site: u32, entry: &Site) -> Result<(), ForwardError> {
        if self.peers.site(site)? == *entry { Ok(()) } else { self.peers.set_site(site, entry) }
    }

    /// The networks whose hosts reach endpoints directly, all of them: to these the reverse map alone never gives a VIP as a source.
    ///
    /// # Errors
    /// [`ForwardError::Plane`] when there is no room for them.
    pub fn set_inside(&mut self, ranges: &BTreeSet<IpNet>) -> Result<(), ForwardError> {
        self.known.set_inside(&mut self.tables, ranges)
    }

    /// The MACs at which frames reach this node, all of them. Until the first is told, and with more than fit (true is the answer then),
    /// every frame that names a VIP is taken. What the kernel itself takes for this host is taken by the tc twin whatever stands here.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn set_macs(&mut self, macs: &BTreeSet<Mac>) -> Result<bool, ForwardError> {
        let too_many = macs.len() > MAX_MACS as usize;
        let wanted: BTreeSet<u64> =
            if too_many { BTreeSet::new() } else { macs.iter().map(|m| mac_key(m.0)).collect() };
        let there = self.peers.macs()?;
        // In an order in which none that counts is missing while the flag stands; first goes what would be too much.
        if wanted.is_empty() {
            self.flag_macs(false)?;
        }
        let (gone, new) = (there.difference(&wanted), wanted.difference(&there));
        if wanted.len() + there.len() <= MAX_MACS as usize {
            new.copied().try_for_each(|mac| self.peers.add_mac(mac))?;
            gone.copied().try_for_each(|mac| self.peers.remove_mac(mac))?;
        } else {
            gone.copied().try_for_each(|mac| self.peers.remove_mac(mac))?;
            new.copied().try_for_each(|mac| self.peers.add_mac(mac))?;
        }
        if !wanted.is_empty() {
            self.flag_macs(true)?;
        }
        Ok(too_many)
    }

    fn flag_macs(&mut self, on: bool) -> Result<(), ForwardError> {
        self.own_macs = on;
        self.inherited &= !CONFIG_OWN_MACS;
        self.flag()
    }

    fn flag(&mut self) -> Result<(), ForwardError> {
        let config = self.peers.config()?;
        let flagged = self.flagged(config);
        if flagged == config { Ok(()) } else { self.peers.set_config(&flagged) }
    }

    fn flagged(&self, config: Config) -> Config {
        const KEPT: u16 = CONFIG_OWN_MACS | CONFIG_SITES;
        let mut flags = config.flags & !(KEPT | CONFIG_HOLDS) | self.inherited & KEPT;
        flags |= if self.own_macs { CONFIG_OWN_MACS } else { 0 };
        flags |= if self.known.sites.is_empty() { 0 } else { CONFIG_SITES };
        flags |= if self.known.sites.values().any(|site| site.spec.lost) { CONFIG_HOLDS } else { 0 };
        Config { flags, ..config }
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

    /// Forgets every flow of a service, open and half open; how many there were. The endpoint's packets are its own from then on.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn forget_flows(&mut self, key: &ServiceKey) -> Result<usize, ForwardError> {
        let (vip, port, protocol) = (vip_key(key.vip), key.port.to_be(), key.protocol.number());
        let is_of = |flow: &FlowKey, of: VipKey, at: u16| (of, at, flow.protocol) == (vip, port, protocol);
        let kept = |key: &FlowKey, flow: &Flow| (!is_of(key, flow.vip, flow.vip_port)).then_some(*flow);
        let open = carry::rename(&mut self.flows, kept)?;
        let half = flows::forget_half(self.half.as_fd(), |key, half| is_of(key, half.vip, half.vip_port))?;
        Ok(open + half)
    }

    /// Ends the start: every device in `devices` has the new programs, so what former runs left elsewhere goes, and the flows that their
    /// programs wrote until now come over.
    ///
    /// # Errors
    /// What could not be removed; it is tried again by the next start.
    pub fn settle(&mut self, devices: &BTreeSet<u32>) -> Result<Settled, ForwardError> {
        let carried = self.carried + carry::carry(&self.others, &mut self.flows.map)?;
        let mut settled = Settled { carried, ..Settled::default() };
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
        self.carried = 0;
        Ok(settled)
    }

    /// Removes what former runs wrote and this one does not want, and gives flows that came over this run's slots; how many entries went.
    fn sweep(&mut self) -> Result<usize, ForwardError> {
        self.known.forget_unwanted();
        let gone = recover::sweep(&self.known, &mut self.tables, &mut self.peers)?;
        self.inherited = 0;
        self.flag()?;
        Ok(gone + carry::rename(&mut self.flows, |key, flow| recover::renamed(&self.known, key, flow))?)
    }
}
