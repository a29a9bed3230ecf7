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

/// Frames that the fence shall let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// These, and nothing that a former run or word opened.
    Whole(Vec<Forwarded>),
    /// What was told before, but for these.
    Change {
        /// No more.
        gone: Vec<Forwarded>,
        /// From now on.
        new: Vec<Forwarded>,
    },
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
    /// What shall be in it and found no room: tried again with each word.
    missing: BTreeSet<ForwardedKey>,
}

impl ForwardedMap {
    pub(super) fn new(map: Map) -> Result<Self, FenceError> {
        let map: HashMap<MapData, ForwardedKey, u32> =
            HashMap::try_from(map).map_err(FenceError::map("FORWARDED", "taking"))?;
        let mirror = map.keys().collect::<Result<_, _>>().map_err(FenceError::map("FORWARDED", "listing"))?;
        Ok(Self { map, mirror, missing: BTreeSet::new() })
    }

    pub(super) fn take(&mut self, opening: &Opening) -> Result<(), FenceError> {
        match opening {
            Opening::Whole(frames) => {
                let mut wanted: Vec<ForwardedKey> = frames.iter().map(Forwarded::key).collect();
                wanted.sort_unstable();
                let (gone, new) = differences(&self.mirror, &wanted);
                self.missing.clear();
                self.change(gone, new)
            }
            Opening::Change { gone, new } => {
                self.change(gone.iter().map(Forwarded::key).collect(), new.iter().map(Forwarded::key).collect())
            }
        }
    }

    /// Leftovers go first, so that a full set of other keys fits; what stays is open all the time.
    fn change(&mut self, gone: Vec<ForwardedKey>, new: Vec<ForwardedKey>) -> Result<(), FenceError> {
        for key in gone {
            let _missing = self.missing.remove(&key);
            if self.mirror.contains(&key) {
                self.map.remove(&key).map_err(FenceError::map("FORWARDED", "removing"))?;
                let _was = self.mirror.remove(&key);
            }
        }
        self.missing.extend(new);
        while let Some(key) = self.missing.first().copied() {
            if !self.mirror.contains(&key) {
                self.map.insert(key, OPEN, 0).map_err(FenceError::map("FORWARDED", "inserting"))?;
                let _new = self.mirror.insert(key);
            }
            let _was = self.missing.remove(&key);
        }
        Ok(())
    }
}

/// What is there and not wanted, and what is wanted and not there. `wanted` is sorted, and may have a key twice.
fn differences<T: Ord + Copy>(there: &BTreeSet<T>, wanted: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    let mut there = there.iter().copied().peekable();
    for (at, key) in wanted.iter().enumerate() {
        gone.extend(std::iter::from_fn(|| there.next_if(|there| there < key)));
        let again = at > 0 && wanted[at - 1] == *key;
        if !again && there.next_if_eq(key).is_none() {
            new.push(*key);
        }
    }
    gone.extend(there);
    (gone, new)
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn differences_are_those_of_the_sets(there in btree_set(0_u8..40, 0..30), mut wanted in vec(0_u8..40, 0..40)) {
            wanted.sort_unstable();
            let set: BTreeSet<u8> = wanted.iter().copied().collect();
            let (gone, new) = differences(&there, &wanted);
            prop_assert_eq!(gone, there.difference(&set).copied().collect::<Vec<_>>());
            prop_assert_eq!(new, set.difference(&there).copied().collect::<Vec<_>>());
        }
    }
}
