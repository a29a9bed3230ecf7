//! The maps. Every one is pinned by its name; the loader compares each with the ABI before it reuses it.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use bascule_ebpf_common::{
    AdvertKey, COUNTERS as COUNTER_SLOTS, ForwardedKey, LinkInfo, MAX_ADVERTS, MAX_FORWARDED, MAX_LINKS, MAX_SHARDS,
    MAX_VIPS, ShardCtl, ShardKernel, VipEntry, VipKey,
};

#[map]
static VIPS: HashMap<VipKey, VipEntry> = HashMap::pinned(MAX_VIPS, 0);
#[map]
static ADVERTS: HashMap<AdvertKey, u32> = HashMap::pinned(MAX_ADVERTS, 0);
#[map]
static FORWARDED: HashMap<ForwardedKey, u32> = HashMap::pinned(MAX_FORWARDED, 0);
/// Written by user space only.
#[map]
pub(crate) static CTL: Array<ShardCtl> = Array::pinned(MAX_SHARDS, 0);
/// Written by these programs only.
#[map]
pub(crate) static KERNEL: Array<ShardKernel> = Array::pinned(MAX_SHARDS, 0);
#[map]
static LINKS: HashMap<u32, LinkInfo> = HashMap::pinned(MAX_LINKS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(COUNTER_SLOTS, 0);
/// The ABI stamp of the daemon that created the maps: no program reads it, it travels with the pins.
#[map]
static STAMP: Array<u64> = Array::pinned(1, 0);

/// The entry of a VIP, if the address is one.
#[inline(always)]
pub(crate) fn vip(key: &VipKey) -> Option<VipEntry> {
    // SAFETY: the entry is copied at once; a concurrent update can at worst give the old or the new one.
    unsafe { VIPS.get(key) }.copied()
}

/// The shard whose virtual router sends this advert, if it is one of ours.
#[inline(always)]
pub(crate) fn advert_shard(key: &AdvertKey) -> Option<u32> {
    // SAFETY: as above, four bytes are copied at once.
    unsafe { ADVERTS.get(key) }.copied()
}

/// Does the forwarding plane serve these frames on any node?
#[inline(always)]
pub(crate) fn forwarded(key: &ForwardedKey) -> bool {
    // SAFETY: only whether there is an entry is looked at.
    unsafe { FORWARDED.get(key) }.is_some()
}

/// The hardware address of a fenced link.
#[inline(always)]
pub(crate) fn link_mac(ifindex: u32) -> Option<[u8; 6]> {
    // SAFETY: as above; a torn MAC during a change of address delays the hand-over by one announcement at most.
    unsafe { LINKS.get(ifindex) }.map(|link| link.mac)
}

/// Adds one to a counter slot of this CPU.
#[inline(always)]
pub(crate) fn count(slot: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: a valid per-CPU value; programs of one CPU's softirq level do not interleave on it.
        unsafe { *counter += 1 };
    }
}
