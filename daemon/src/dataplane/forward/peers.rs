//! What the programs know of this node, of the others, and of the endpoints here: the maps that are written entry by entry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, Map, MapData};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Config, Endpoint, FlowKey, Key, MAX_ENDPOINTS, MAX_NODES, MAX_SITES, Node, ReverseEntry, ReverseKey, Site,
};

use super::error::ForwardError;
use super::tables::absent_is_fine;
use crate::dataplane::registry::vip_key;

pub(super) struct Peers {
    config: Array<MapData, Config>,
    keys: Array<MapData, Key>,
    nodes: Array<MapData, Node>,
    sites: Array<MapData, Site>,
    peers: HashMap<MapData, VipKey, u32>,
    endpoints: Array<MapData, Endpoint>,
    reverse: HashMap<MapData, ReverseKey, ReverseEntry>,
    exceptions: HashMap<MapData, FlowKey, u32>,
    macs: HashMap<MapData, u64, u32>,
    devices: DevMapHash<MapData>,
}

impl Peers {
    pub(super) fn new(mut take: impl FnMut(&'static str) -> Result<Map, ForwardError>) -> Result<Self, ForwardError> {
        fn array<V: aya::Pod>(map: Map, name: &'static str) -> Result<Array<MapData, V>, ForwardError> {
            Array::try_from(map).map_err(ForwardError::map(name, "taking"))
        }
        fn hash<K: aya::Pod, V: aya::Pod>(
            map: Map,
            name: &'static str,
        ) -> Result<HashMap<MapData, K, V>, ForwardError> {
            HashMap::try_from(map).map_err(ForwardError::map(name, "taking"))
        }
        Ok(Self {
            config: array(take("CONFIG")?, "CONFIG")?,
            keys: array(take("KEYS")?, "KEYS")?,
            nodes: array(take("NODES")?, "NODES")?,
            sites: array(take("SITES")?, "SITES")?,
            peers: hash(take("PEERS")?, "PEERS")?,
            endpoints: array(take("ENDPOINTS")?, "ENDPOINTS")?,
            reverse: hash(take("REVERSE")?, "REVERSE")?,
            exceptions: hash(take("EXCEPTIONS")?, "EXCEPTIONS")?,
            macs: hash(take("OWN_MACS")?, "OWN_MACS")?,
            devices: DevMapHash::try_from(take("DEVICES")?).map_err(ForwardError::map("DEVICES", "taking"))?,
        })
    }

    pub(super) fn config(&self) -> Result<Config, ForwardError> {
        self.config.get(&0, 0).map_err(ForwardError::map("CONFIG", "reading"))
    }

    pub(super) fn set_config(&mut self, config: &Config) -> Result<(), ForwardError> {
        self.config.set(0, config, 0).map_err(ForwardError::map("CONFIG", "writing"))
    }

    pub(super) fn key(&self, slot: u32) -> Result<Key, ForwardError> {
        self.keys.get(&slot, 0).map_err(ForwardError::map("KEYS", "reading"))
    }

    pub(super) fn set_key(&mut self, slot: u32, key: &Key) -> Result<(), ForwardError> {
        self.keys.set(slot, key, 0).map_err(ForwardError::map("KEYS", "writing"))
    }

    pub(super) fn node(&self, id: u32) -> Result<Node, ForwardError> {
        self.nodes.get(&id, 0).map_err(ForwardError::map("NODES", "reading"))
    }

    pub(super) fn set_node(&mut self, id: u32, node: &Node) -> Result<(), ForwardError> {
        within("node", id, MAX_NODES)?;
        self.nodes.set(id, node, 0).map_err(ForwardError::map("NODES", "writing"))
    }

    pub(super) fn site(&self, id: u32) -> Result<Site, ForwardError> {
        self.sites.get(&id, 0).map_err(ForwardError::map("SITES", "reading"))
    }

    pub(super) fn set_site(&mut self, id: u32, site: &Site) -> Result<(), ForwardError> {
        if id >= MAX_SITES {
            return Err(ForwardError::Range { what: "site", index: id, limit: MAX_SITES });
        }
        self.sites.set(id, site, 0).map_err(ForwardError::map("SITES", "writing"))
    }

    pub(super) fn set_peer(&mut self, source: IpAddr, node: u32) -> Result<(), ForwardError> {
        self.peers.insert(vip_key(source), node, 0).map_err(ForwardError::map("PEERS", "inserting"))
    }

    pub(super) fn peers(&self) -> Result<Vec<(VipKey, u32)>, ForwardError> {
        self.peers.iter().collect::<Result<_, _>>().map_err(ForwardError::map("PEERS", "listing"))
    }

    pub(super) fn remove_peer(&mut self, source: VipKey) -> Result<(), ForwardError> {
        absent_is_fine(self.peers.remove(&source)).map_err(ForwardError::map("PEERS", "removing"))
    }

    pub(super) fn endpoint(&self, slot: u32) -> Result<Endpoint, ForwardError> {
        within("endpoint slot", slot, MAX_ENDPOINTS)?;
        self.endpoints.get(&slot, 0).map_err(ForwardError::map("ENDPOINTS", "reading"))
    }

    pub(super) fn set_endpoint(&mut self, slot: u32, endpoint: &Endpoint) -> Result<(), ForwardError> {
        within("endpoint slot", slot, MAX_ENDPOINTS)?;
        self.endpoints.set(slot, endpoint, 0).map_err(ForwardError::map("ENDPOINTS", "writing"))
    }

    pub(super) fn reverse(&self) -> Result<Vec<(ReverseKey, ReverseEntry)>, ForwardError> {
        self.reverse.iter().collect::<Result<_, _>>().map_err(ForwardError::map("REVERSE", "listing"))
    }

    pub(super) fn set_reverse(&mut self, key: &ReverseKey, entry: &ReverseEntry) -> Result<(), ForwardError> {
        self.reverse.insert(key, entry, 0).map_err(ForwardError::map("REVERSE", "inserting"))
    }

    pub(super) fn remove_reverse(&mut self, key: &ReverseKey) -> Result<(), ForwardError> {
        absent_is_fine(self.reverse.remove(key)).map_err(ForwardError::map("REVERSE", "removing"))
    }

    pub(super) fn exception(&self, key: &FlowKey) -> Result<Option<u32>, ForwardError> {
        match self.exceptions.get(key, 0) {
            Ok(node) => Ok(Some(node)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(ForwardError::map("EXCEPTIONS", "reading")(e)),
        }
    }

    pub(super) fn set_exception(&mut self, key: &FlowKey, node: u32) -> Result<(), ForwardError> {
        self.exceptions.insert(key, node, 0).map_err(ForwardError::map("EXCEPTIONS", "inserting"))
    }

    pub(super) fn remove_exception(&mut self, key: &FlowKey) -> Result<(), ForwardError> {
        absent_is_fine(self.exceptions.remove(key)).map_err(ForwardError::map("EXCEPTIONS", "removing"))
    }

    pub(super) fn macs(&self) -> Result<BTreeSet<u64>, ForwardError> {
        self.macs.keys().collect::<Result<_, _>>().map_err(ForwardError::map("OWN_MACS", "listing"))
    }

    pub(super) fn add_mac(&mut self, mac: u64) -> Result<(), ForwardError> {
        self.macs.insert(mac, 1, 0).map_err(ForwardError::map("OWN_MACS", "inserting"))
    }

    pub(super) fn remove_mac(&mut self, mac: u64) -> Result<(), ForwardError> {
        absent_is_fine(self.macs.remove(&mac)).map_err(ForwardError::map("OWN_MACS", "removing"))
    }

    /// Lets frames be redirected to `ifindex`.
    pub(super) fn add_device(&mut self, ifindex: u32) -> Result<(), ForwardError> {
        self.devices
            .insert(ifindex, ifindex, None, 0)
            .map_err(|e| ForwardError::Call { what: "inserting into DEVICES", source: std::io::Error::other(e) })
    }

    pub(super) fn devices(&self) -> Result<Vec<u32>, ForwardError> {
        self.devices.keys().collect::<Result<_, _>>().map_err(ForwardError::map("DEVICES", "listing"))
    }

    pub(super) fn remove_device(&mut self, ifindex: u32) -> Result<(), ForwardError> {
        absent_is_fine(self.devices.remove(ifindex)).map_err(ForwardError::map("DEVICES", "removing"))
    }
}

/// Slot 0 is never used: a zero in a row or a flow means "none".
fn within(what: &'static str, index: u32, limit: u32) -> Result<(), ForwardError> {
    if index == 0 || index >= limit { Err(ForwardError::Range { what, index, limit }) } else { Ok(()) }
}
