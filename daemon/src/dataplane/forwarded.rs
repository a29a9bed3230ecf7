//! Frames of VIPs that the forwarding plane serves on any node: the map that opens `deliver` for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData};
use bascule_ebpf_common::ForwardedKey;

use super::error::FenceError;
use super::registry::vip_key;

/// What all values of the map are: the key says everything.
const OPEN: u32 = 1;

/// Frames between the network and one VIP, port and protocol, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forwarded {
    /// The VIP.
    pub vip: IpAddr,
    /// Port on the VIP's side; 0 for frames without one: later fragments, and every protocol but TCP, UDP and SCTP.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Forwarded {
    const fn key(&self) -> ForwardedKey {
        ForwardedKey::new(vip_key(self.vip), self.port.to_be(), self.protocol)
    }
}

#[derive(Debug)]
pub(super) struct ForwardedMap {
    map: HashMap<MapData, ForwardedKey, u32>,
    /// What the map holds, also from a former run: its connections go on while this daemon learns what it shall serve.
    mirror: BTreeSet<ForwardedKey>,
}

impl ForwardedMap {
    pub(super) fn new(map: Map) -> Result<Self, FenceError> {
        let map: HashMap<MapData, ForwardedKey, u32> =
            HashMap::try_from(map).map_err(FenceError::map("FORWARDED", "taking"))?;
        let mirror = map.keys().collect::<Result<_, _>>().map_err(FenceError::map("FORWARDED", "listing"))?;
        Ok(Self { map, mirror })
    }

    /// Leftovers go first, so that a full set of other keys fits; what stays is open all the time.
    pub(super) fn set(&mut self, frames: &BTreeSet<Forwarded>) -> Result<(), FenceError> {
        let wanted: BTreeSet<ForwardedKey> = frames.iter().map(Forwarded::key).collect();
        let leftovers: Vec<ForwardedKey> = self.mirror.difference(&wanted).copied().collect();
        for key in leftovers {
            self.map.remove(&key).map_err(FenceError::map("FORWARDED", "removing"))?;
            self.mirror.remove(&key);
        }
        for key in wanted {
            if !self.mirror.contains(&key) {
                self.map.insert(key, OPEN, 0).map_err(FenceError::map("FORWARDED", "inserting"))?;
                self.mirror.insert(key);
            }
        }
        Ok(())
    }
}
