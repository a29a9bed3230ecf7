//! The layout of every pinned map: what the kernel must say of a map before this build uses it.
//!
//! The loader itself compares nothing: it takes whatever is pinned by a name and believes its own idea of sizes, and a later read lets
//! the kernel write past the buffer.

use std::path::Path;

use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Bucket, Config, Endpoint, EndpointStats, FORWARD_STAMP, Flow, FlowKey, FragmentKey, Half, Key, MAX_BUCKETS,
    MAX_DEVICES, MAX_ENDPOINTS, MAX_EXCEPTIONS, MAX_FRAGMENTS, MAX_HALF, MAX_NODES, MAX_PEERS, MAX_REVERSE, MAX_ROWS,
    MAX_SERVICE_KEYS, MAX_SERVICES, MAX_SITES, MAX_SOURCES, Node, ReverseEntry, ReverseKey, Service, ServiceKey,
    ServiceStats, Site, SourceKey, TALLIES,
};

/// Name of the map that holds [`FORWARD_STAMP`], written when the rest of its set is complete.
pub(super) const STAMP: &str = "FORWARD_STAMP";
/// Name of the map of flows, the one whose size is configured.
pub(super) const FLOWS: &str = "FLOWS";
/// `BPF_F_NO_PREALLOC` and `BPF_F_MMAPABLE` of linux/bpf.h.
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_RDONLY_PROG`: the kernel sets it by itself on maps of devices.
const RDONLY_PROG: u32 = 1 << 7;
/// `struct bpf_devmap_val`: index and program.
const DEVMAP_VALUE: usize = 8;

/// Layout of one pinned map.
pub(super) struct MapShape {
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
    flags: u32,
}

const fn shape<K, V>(name: &'static str, kind: MapType, entries: u32) -> MapShape {
    MapShape { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries, flags: 0 }
}

const fn mapped<V>(name: &'static str, entries: u32) -> MapShape {
    MapShape { flags: MMAPABLE, ..shape::<u32, V>(name, MapType::Array, entries) }
}

/// Every map of a set. The names are those of `layout-forward-v1.txt`; the two arrays of slow programs belong to a load and not to
/// a set.
pub(super) const SHAPES: [MapShape; 22] = [
    shape::<u32, Config>("CONFIG", MapType::Array, 1),
    shape::<u32, Key>("KEYS", MapType::Array, 2),
    shape::<ServiceKey, u32>("SERVICE_KEYS", MapType::Hash, MAX_SERVICE_KEYS),
    mapped::<Service>("SERVICES", MAX_SERVICES),
    MapShape { flags: NO_PREALLOC, ..shape::<SourceKey, u32>("SOURCES", MapType::LpmTrie, MAX_SOURCES) },
    mapped::<u64>("ROWS", MAX_ROWS),
    shape::<u32, Node>("NODES", MapType::Array, MAX_NODES),
    shape::<u32, Site>("SITES", MapType::Array, MAX_SITES),
    shape::<VipKey, u32>("PEERS", MapType::Hash, MAX_PEERS),
    shape::<u32, Endpoint>("ENDPOINTS", MapType::Array, MAX_ENDPOINTS),
    shape::<ReverseKey, ReverseEntry>("REVERSE", MapType::Hash, MAX_REVERSE),
    // Its entries are the options'.
    shape::<FlowKey, Flow>(FLOWS, MapType::LruHash, 0),
    shape::<FlowKey, Half>("HALF", MapType::LruHash, MAX_HALF),
    shape::<FlowKey, u32>("EXCEPTIONS", MapType::LruHash, MAX_EXCEPTIONS),
    // From a main program to its slow one, on one CPU.
    shape::<u32, u32>("HANDOVER", MapType::PerCpuArray, 1),
    shape::<FragmentKey, u32>("FRAGMENTS", MapType::LruHash, MAX_FRAGMENTS),
    shape::<u32, Bucket>("BUCKETS", MapType::PerCpuArray, MAX_BUCKETS),
    shape::<u32, u64>("TALLIES", MapType::PerCpuArray, TALLIES),
    shape::<u32, ServiceStats>("SERVICE_STATS", MapType::PerCpuArray, MAX_SERVICES),
    shape::<u32, EndpointStats>("ENDPOINT_STATS", MapType::PerCpuArray, MAX_ENDPOINTS),
    MapShape { value: DEVMAP_VALUE, ..shape::<u32, u32>("DEVICES", MapType::DevMapHash, MAX_DEVICES) },
    shape::<u32, u64>(STAMP, MapType::Array, 1),
];

/// Does every map pinned in `dir` have the layout of this build, with `flows` entries of the map of flows, and the stamp?
pub(super) fn all_match(dir: &Path, flows: u32) -> bool {
    SHAPES.iter().all(|shape| matches(dir, shape, flows)) && stamp(dir) == Some(FORWARD_STAMP)
}

/// Is the map of flows in `dir`, whatever its size, one whose entries this build reads?
pub(super) fn flows_match(dir: &Path) -> bool {
    MapInfo::from_pin(dir.join(FLOWS)).is_ok_and(|info| {
        info.map_type().is_ok_and(|kind| kind == MapType::LruHash)
            && info.key_size() as usize == size_of::<FlowKey>()
            && info.value_size() as usize == size_of::<Flow>()
    })
}

fn matches(dir: &Path, shape: &MapShape, flows: u32) -> bool {
    let Ok(info) = MapInfo::from_pin(dir.join(shape.name)) else { return false };
    let entries = if shape.name == FLOWS { flows } else { shape.entries };
    info.map_type().is_ok_and(|kind| kind == shape.kind)
        && info.key_size() as usize == shape.key
        && info.value_size() as usize == shape.value
        && info.max_entries() == entries
        && info.map_flags() & !RDONLY_PROG == shape.flags
}

/// The stamp of a set; `None`: there is none, or it was never finished.
pub(super) fn stamp(dir: &Path) -> Option<u64> {
    let data = MapData::from_pin(dir.join(STAMP)).ok()?;
    Array::<MapData, u64>::try_from(Map::Array(data)).ok()?.get(&0, 0).ok().filter(|stamp| *stamp != 0)
}
