//! The layout of every pinned map: what the kernel must say of a map before this build uses it.
//!
//! The loader itself compares nothing: it takes whatever is pinned by a name and believes its own idea of sizes, and a later read lets
//! the kernel write past the buffer.

use std::path::Path;

use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Bucket, Config, Endpoint, EndpointStats, FORWARD_STAMP, Flow, FlowKey, FragmentKey, Half, Key, MAX_BUCKETS,
    MAX_DEVICES, MAX_ENDPOINTS, MAX_EXCEPTIONS, MAX_FRAGMENTS, MAX_HALF, MAX_KEYS, MAX_MACS, MAX_NODES, MAX_PEERS,
    MAX_REVERSE, MAX_ROWS, MAX_SERVICE_KEYS, MAX_SERVICES, MAX_SITES, MAX_SOURCES, MAX_WATCHED, Node, ReverseEntry,
    ReverseKey, Service, ServiceKey, ServiceStats, Site, SourceKey, TALLIES,
};

/// Name of the map that holds [`FORWARD_STAMP`], written when the rest of its set is complete.
pub(super) const STAMP: &str = "FORWARD_STAMP";
/// Name of the map of flows, the one whose size is configured.
pub(super) const FLOWS: &str = "FLOWS";
/// Name of the map of half-open flows.
pub(super) const HALF: &str = "HALF";
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

/// Every map of a set, as the lines `map` of `layout-forward-v1.txt` have them.
pub(super) const SHAPES: [MapShape; 24] = [
    shape::<u32, Config>("CONFIG", MapType::Array, 1),
    shape::<u32, Key>("KEYS", MapType::Array, MAX_KEYS),
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
    shape::<FlowKey, Half>(HALF, MapType::LruHash, MAX_HALF),
    shape::<FlowKey, u32>("EXCEPTIONS", MapType::LruHash, MAX_EXCEPTIONS),
    // From a main program to its slow one, on one CPU.
    shape::<u32, u32>("HANDOVER", MapType::PerCpuArray, 1),
    shape::<FragmentKey, u32>("FRAGMENTS", MapType::LruHash, MAX_FRAGMENTS),
    shape::<u32, Bucket>("BUCKETS", MapType::PerCpuArray, MAX_BUCKETS),
    shape::<u32, u64>("TALLIES", MapType::PerCpuArray, TALLIES),
    shape::<u32, ServiceStats>("SERVICE_STATS", MapType::PerCpuArray, MAX_SERVICES),
    shape::<u32, EndpointStats>("ENDPOINT_STATS", MapType::PerCpuArray, MAX_ENDPOINTS),
    mapped::<u64>("WATCHED", MAX_WATCHED),
    shape::<u64, u32>("OWN_MACS", MapType::Hash, MAX_MACS),
    MapShape { value: DEVMAP_VALUE, ..shape::<u32, u32>("DEVICES", MapType::DevMapHash, MAX_DEVICES) },
    shape::<u32, u64>(STAMP, MapType::Array, 1),
];

/// The arrays of slow programs, the lines `load`: each load of the programs pins its own, and none is ever used by another.
pub(super) const LOAD_SHAPES: [MapShape; 2] =
    [shape::<u32, u32>("SLOW_XDP", MapType::ProgramArray, 1), shape::<u32, u32>("SLOW_TC", MapType::ProgramArray, 1)];

/// Does every map pinned in `dir` have the layout of this build, with `flows` entries of the map of flows, and the stamp?
pub(super) fn all_match(dir: &Path, flows: u32) -> bool {
    SHAPES.iter().all(|shape| matches(dir, shape, flows)) && stamp(dir) == Some(FORWARD_STAMP)
}

/// As [`all_match`], whatever the size of the map of flows.
pub(super) fn all_but_flows_match(dir: &Path) -> bool {
    SHAPES.iter().all(|shape| shape.name == FLOWS || matches(dir, shape, 0))
        && flows_match(dir)
        && stamp(dir) == Some(FORWARD_STAMP)
}

/// Are the arrays of a load, pinned in `dir`, those of the ABI?
pub(super) fn load_matches(dir: &Path) -> bool {
    LOAD_SHAPES.iter().all(|shape| matches(dir, shape, 0))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a line of the golden layout calls a type, in bytes.
    fn size(golden: &str, name: &str) -> usize {
        match name {
            "u32" => 4,
            "u64" => 8,
            "VipKey" => size_of::<VipKey>(),
            _ => {
                let described = |line: &&str| line.trim_start_matches("kernel ").starts_with(&format!("{name} size="));
                let line = golden.lines().find(described).expect("a type that the layout describes");
                let (_, rest) = line.split_once("size=").expect("a size");
                rest.split(' ').next().expect("a number").parse().expect("a number")
            }
        }
    }

    fn kind(name: &str) -> (MapType, u32) {
        match name {
            "array" => (MapType::Array, 0),
            "mmap_array" => (MapType::Array, MMAPABLE),
            "hash" => (MapType::Hash, 0),
            "lru_hash" => (MapType::LruHash, 0),
            "lpm_trie" => (MapType::LpmTrie, NO_PREALLOC),
            "percpu_array" => (MapType::PerCpuArray, 0),
            "devmap_hash" => (MapType::DevMapHash, 0),
            "prog_array" => (MapType::ProgramArray, 0),
            other => panic!("{other} is no kind of map here"),
        }
    }

    #[test]
    fn what_is_compared_at_reuse_is_the_golden_layout() {
        let golden = include_str!("../../../../ebpf/common/layout-forward-v1.txt");
        for (word, shapes) in [("map ", &SHAPES[..]), ("load ", &LOAD_SHAPES[..])] {
            let lines: Vec<&str> = golden.lines().filter_map(|line| line.strip_prefix(word)).collect();
            assert_eq!(lines.len(), shapes.len(), "as many as the layout has");
            for line in lines {
                let [name, of, entries, key, value] = line.split(' ').collect::<Vec<_>>()[..] else {
                    panic!("{line}: name, kind, entries, key, value");
                };
                let shape =
                    shapes.iter().find(|shape| shape.name == name).unwrap_or_else(|| panic!("{name} is missing"));
                assert_eq!((shape.kind, shape.flags), kind(of), "{name}");
                let sizes = (size(golden, key), size(golden, value));
                assert_eq!((shape.key, shape.value), sizes, "{name}");
                if name != FLOWS {
                    assert_eq!(shape.entries.to_string(), entries, "{name}");
                }
            }
        }
    }
}
