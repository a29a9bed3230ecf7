//! Which addresses and adverts belong to which shard: the two hash maps, and their mirror for the differences.

use std::collections::{BTreeSet, HashMap as Mirror};
use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData};
use bascule_ebpf_common::{AdvertKey, VipEntry, VipKey};

use super::error::FenceError;

/// IP version of an advert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// The key of an address: IPv4 is mapped into IPv6 (RFC 4291 section 2.5.5.2).
pub(super) const fn vip_key(address: IpAddr) -> VipKey {
    match address {
        IpAddr::V4(a) => VipKey::v4(a.octets()),
        IpAddr::V6(a) => VipKey::v6(a.octets()),
    }
}

#[derive(Debug)]
pub(super) struct Registry {
    vips: HashMap<MapData, VipKey, VipEntry>,
    adverts: HashMap<MapData, AdvertKey, u32>,
    /// What the maps hold, also from a former run.
    vip_mirror: Mirror<VipKey, VipEntry>,
    advert_mirror: Mirror<AdvertKey, u32>,
}

impl Registry {
    pub(super) fn new(vips: Map, adverts: Map) -> Result<Self, FenceError> {
        let vips: HashMap<MapData, VipKey, VipEntry> =
            HashMap::try_from(vips).map_err(FenceError::map("VIPS", "taking"))?;
        let adverts: HashMap<MapData, AdvertKey, u32> =
            HashMap::try_from(adverts).map_err(FenceError::map("ADVERTS", "taking"))?;
        let vip_mirror = vips.iter().collect::<Result<_, _>>().map_err(FenceError::map("VIPS", "listing"))?;
        let advert_mirror = adverts.iter().collect::<Result<_, _>>().map_err(FenceError::map("ADVERTS", "listing"))?;
        Ok(Self { vips, adverts, vip_mirror, advert_mirror })
    }

    /// New entries first, then the leftovers: an address that stays is guarded all the time.
    pub(super) fn register(
        &mut self,
        slot: u32,
        ifindex: u32,
        vips: &[IpAddr],
        adverts: &[(Family, u8)],
    ) -> Result<(), FenceError> {
        let entry = VipEntry { shard: slot, ifindex };
        for key in vips.iter().map(|a| vip_key(*a)) {
            if self.vip_mirror.get(&key) != Some(&entry) {
                self.vips.insert(key, entry, 0).map_err(FenceError::map("VIPS", "inserting"))?;
                self.vip_mirror.insert(key, entry);
            }
        }
        let advert_keys: BTreeSet<(u8, u8)> = adverts.iter().map(|(family, vrid)| (family.number(), *vrid)).collect();
        for key in advert_keys.iter().map(|(family, vrid)| AdvertKey::new(ifindex, *family, *vrid)) {
            if self.advert_mirror.get(&key) != Some(&slot) {
                self.adverts.insert(key, slot, 0).map_err(FenceError::map("ADVERTS", "inserting"))?;
                self.advert_mirror.insert(key, slot);
            }
        }
        self.remove_where(
            |key, entry| entry.shard == slot && !vips.iter().any(|a| vip_key(*a) == *key),
            |key, shard| *shard == slot && (key.ifindex != ifindex || !advert_keys.contains(&(key.family, key.vrid))),
        )
    }

    pub(super) fn unregister(&mut self, slot: u32) -> Result<(), FenceError> {
        self.remove_where(|_, entry| entry.shard == slot, |_, shard| *shard == slot)
    }

    pub(super) fn clear(&mut self) -> Result<(), FenceError> {
        self.remove_where(|_, _| true, |_, _| true)
    }

    fn remove_where(
        &mut self,
        vip: impl Fn(&VipKey, &VipEntry) -> bool,
        advert: impl Fn(&AdvertKey, &u32) -> bool,
    ) -> Result<(), FenceError> {
        let gone: Vec<VipKey> = self.vip_mirror.iter().filter(|(k, e)| vip(k, e)).map(|(k, _)| *k).collect();
        for key in gone {
            self.vips.remove(&key).map_err(FenceError::map("VIPS", "removing"))?;
            self.vip_mirror.remove(&key);
        }
        let gone: Vec<AdvertKey> = self.advert_mirror.iter().filter(|(k, s)| advert(k, s)).map(|(k, _)| *k).collect();
        for key in gone {
            self.adverts.remove(&key).map_err(FenceError::map("ADVERTS", "removing"))?;
            self.advert_mirror.remove(&key);
        }
        Ok(())
    }
}
