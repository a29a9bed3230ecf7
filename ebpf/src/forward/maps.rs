//! The maps, as `ebpf/common/layout-forward-v1.txt` describes them. Every one is pinned by its name; the loader compares each with the
//! ABI before it reuses it.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Bucket, Config, DEFAULT_FLOWS, Endpoint, EndpointStats, Flow, FlowKey, FragmentKey, HOP_BUCKETS, Half, Key,
    MAX_BUCKETS, MAX_DEVICES, MAX_ENDPOINTS, MAX_EXCEPTIONS, MAX_FRAGMENTS, MAX_HALF, MAX_KEYS, MAX_MACS, MAX_NODES,
    MAX_PEERS, MAX_REVERSE, MAX_ROWS, MAX_SERVICE_KEYS, MAX_SERVICES, MAX_SITES, MAX_SOURCES, MAX_WATCHED, Node,
    PacketDrop, ReverseEntry, ReverseKey, Service, ServiceKey, ServiceStats, Site, TALLIES as TALLY_SLOTS, Tally,
};

use crate::request::Work;

// Written by user space.

#[map]
pub(crate) static CONFIG: Array<Config> = Array::pinned(1, 0);
#[map]
pub(crate) static KEYS: Array<Key> = Array::pinned(MAX_KEYS, 0);
#[map]
pub(crate) static SERVICE_KEYS: HashMap<ServiceKey, u32> = HashMap::pinned(MAX_SERVICE_KEYS, 0);
/// Mapped into memory by the daemon, which writes its two table words with one aligned store each.
#[map]
pub(crate) static SERVICES: Array<Service> = Array::pinned(MAX_SERVICES, BPF_F_MMAPABLE);
/// Key: a `SourceKey` behind its prefix length.
#[map]
pub(crate) static SOURCES: LpmTrie<[u8; 20], u32> = LpmTrie::pinned(MAX_SOURCES, 0);
/// The slab of rows, mapped into memory by the daemon.
#[map]
pub(crate) static ROWS: Array<u64> = Array::pinned(MAX_ROWS, BPF_F_MMAPABLE);
#[map]
pub(crate) static NODES: Array<Node> = Array::pinned(MAX_NODES, 0);
#[map]
pub(crate) static SITES: Array<Site> = Array::pinned(MAX_SITES, 0);
#[map]
pub(crate) static PEERS: HashMap<VipKey, u32> = HashMap::pinned(MAX_PEERS, 0);
#[map]
pub(crate) static ENDPOINTS: Array<Endpoint> = Array::pinned(MAX_ENDPOINTS, 0);
#[map]
pub(crate) static REVERSE: HashMap<ReverseKey, ReverseEntry> = HashMap::pinned(MAX_REVERSE, 0);
#[map]
pub(crate) static EXCEPTIONS: LruHashMap<FlowKey, u32> = LruHashMap::pinned(MAX_EXCEPTIONS, 0);
/// MACs at which frames reach this node, as `mac_key` makes them.
#[map]
pub(crate) static OWN_MACS: HashMap<u64, u32> = HashMap::pinned(MAX_MACS, 0);
/// Devices frames may be redirected to, by ifindex.
#[map]
pub(crate) static DEVICES: DevMapHash = DevMapHash::pinned(MAX_DEVICES, 0);
/// The ABI stamp of the daemon that created the maps: no program reads it, it travels with the pins.
#[map]
static FORWARD_STAMP: Array<u64> = Array::pinned(1, 0);
/// Slot 0: the slow program. One array per program type, for an array takes the type of the first program put into it. Pinned like the
/// rest, because an array nobody in user space holds is emptied.
#[map]
pub(crate) static SLOW_XDP: ProgramArray = ProgramArray::pinned(1, 0);
#[map]
pub(crate) static SLOW_TC: ProgramArray = ProgramArray::pinned(1, 0);

/// From the fast program to the slow one it calls, on one CPU: where it goes on ([`WHOLE`] to [`PINNED`]), or else the largest packet
/// that would fit, if that is why.
#[map]
pub(crate) static HANDOVER: PerCpuArray<u32> = PerCpuArray::pinned(1, 0);

// Written by these programs.

#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::pinned(DEFAULT_FLOWS, 0);
#[map]
pub(crate) static HALF: LruHashMap<FlowKey, Half> = LruHashMap::pinned(MAX_HALF, 0);
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, u32> = LruHashMap::pinned(MAX_FRAGMENTS, 0);
#[map]
pub(crate) static BUCKETS: PerCpuArray<Bucket> = PerCpuArray::pinned(MAX_BUCKETS, 0);
#[map]
static TALLIES: PerCpuArray<u64> = PerCpuArray::pinned(TALLY_SLOTS, 0);
#[map]
pub(crate) static SERVICE_STATS: PerCpuArray<ServiceStats> = PerCpuArray::pinned(MAX_SERVICES, 0);
#[map]
pub(crate) static ENDPOINT_STATS: PerCpuArray<EndpointStats> = PerCpuArray::pinned(MAX_ENDPOINTS, 0);

/// Handshakes under watch, as `Watched` says. Mapped into memory by the daemon, which empties a place once it has judged what stood there.
#[map]
pub(crate) static WATCHED: Array<u64> = Array::pinned(MAX_WATCHED, BPF_F_MMAPABLE);

/// Room for what is read from a packet; see [`Work`].
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// The slow program begins with the packet's first byte.
pub(crate) const WHOLE: u32 = 0;
/// It goes on where nobody of the row in this site takes the packet of a client; what was read is in the work.
pub(crate) const AWAY: u32 = 1;
/// It goes on where nobody is left in this site to ask.
pub(crate) const ABROAD: u32 = 2;
/// It goes on with a packet whose flow is pinned to a node of another site.
pub(crate) const PINNED: u32 = 3;

/// This CPU's room for what is read from a packet. Taken once by each program that runs.
#[inline(always)]
pub(crate) fn work() -> Option<&'static mut Work> {
    // SAFETY: a valid per-CPU value; the hooks of one CPU do not interleave, and the fields are written before they are read.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// Tells the slow program why it is called.
#[inline(always)]
pub(crate) fn hand_over(fits: u32) {
    if let Some(cell) = HANDOVER.get_ptr_mut(0) {
        // SAFETY: a valid per-CPU value; the tail call that follows reads it before anything else runs on this CPU's hook.
        unsafe { *cell = fits };
    }
}

/// What the fast program said of it.
#[inline(always)]
pub(crate) fn fits() -> u32 {
    HANDOVER.get(0).copied().unwrap_or(0)
}

/// Adds one to a slot of this CPU's tallies.
#[inline(always)]
pub(crate) fn count(slot: u32) {
    if let Some(counter) = TALLIES.get_ptr_mut(slot) {
        // SAFETY: a valid per-CPU value; programs of one CPU's softirq level do not interleave on it.
        unsafe { *counter += 1 };
    }
}

/// Counts what became of a packet.
#[inline(always)]
pub(crate) fn tally(tally: Tally) {
    count(tally as u32);
}

/// Counts how many nodes an accepted packet saw before this one.
#[inline(always)]
pub(crate) fn hops(before: u32) {
    if before < HOP_BUCKETS {
        count(Tally::Hops as u32 + before);
    }
}

/// Counts a drop.
#[inline(always)]
pub(crate) fn dropped(reason: PacketDrop) {
    count(reason as u32);
}
