//! The pinned maps of a former run: reused only when every one of them, and the ABI they carry, is ours.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use bascule_ebpf_common::{
    ABI_STAMP, AdvertKey, COUNTERS, ForwardedKey, LinkInfo, MAX_ADVERTS, MAX_FORWARDED, MAX_LINKS, MAX_SHARDS,
    MAX_VIPS, ShardCtl, ShardKernel, VipEntry, VipKey,
};

use super::error::FenceError;
use super::sys;

/// Layout of one pinned map.
pub(super) struct MapShape {
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

/// Name of the map that holds [`ABI_STAMP`].
pub(super) const STAMP: &str = "STAMP";

/// Every map of the object. The names are those of `ebpf/src/maps.rs` and of `layout-v1.txt`.
pub(super) const SHAPES: [MapShape; 8] = [
    shape::<VipKey, VipEntry>("VIPS", MapType::Hash, MAX_VIPS),
    shape::<AdvertKey, u32>("ADVERTS", MapType::Hash, MAX_ADVERTS),
    shape::<ForwardedKey, u32>("FORWARDED", MapType::Hash, MAX_FORWARDED),
    shape::<u32, ShardCtl>("CTL", MapType::Array, MAX_SHARDS),
    shape::<u32, ShardKernel>("KERNEL", MapType::Array, MAX_SHARDS),
    shape::<u32, LinkInfo>("LINKS", MapType::Hash, MAX_LINKS),
    shape::<u32, u64>("COUNTERS", MapType::PerCpuArray, COUNTERS),
    shape::<u32, u64>(STAMP, MapType::Array, 1),
];

const fn shape<K, V>(name: &'static str, kind: MapType, entries: u32) -> MapShape {
    MapShape { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries }
}

/// True when the maps pinned in `dir` may be reused. Otherwise whatever of them is pinned is unpinned: programs that a
/// former run left on links go on with the old maps, whose deadlines close by themselves.
pub(super) fn reuse_or_remove(dir: &Path) -> Result<bool, FenceError> {
    if SHAPES.iter().all(|shape| matches(dir, shape)) && stamp(dir) == Some(ABI_STAMP) {
        return Ok(true);
    }
    remove_maps(dir)?;
    Ok(false)
}

/// Unpins every map of ours in `dir`; how many there were.
pub(super) fn remove_maps(dir: &Path) -> Result<usize, FenceError> {
    let mut removed = 0;
    for shape in &SHAPES {
        removed += usize::from(remove(&dir.join(shape.name))?);
    }
    Ok(removed)
}

/// Where a program is pinned for a moment, while the guard of the fence opens it.
pub(super) fn guard_pin(dir: &Path, place: &str) -> PathBuf {
    dir.join(format!("guard-{place}"))
}

/// Detaches a pinned link and removes its pin; false: there was none.
pub(super) fn remove_link(path: &Path) -> Result<bool, FenceError> {
    match sys::detach_pinned_link(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        // Its device is gone, or the kernel refuses: then the pin's end is the link's.
        Err(e) => tracing::debug!(pin = %path.display(), error = %e, "not detached by call"),
        Ok(()) => {}
    }
    remove(path)
}

/// Removes one pin; false: there was none.
pub(super) fn remove(path: &Path) -> Result<bool, FenceError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(FenceError::io("removing the pin", path)(e)),
    }
}

fn matches(dir: &Path, shape: &MapShape) -> bool {
    let Ok(info) = MapInfo::from_pin(dir.join(shape.name)) else { return false };
    info.map_type().is_ok_and(|kind| kind == shape.kind)
        && info.key_size() as usize == shape.key
        && info.value_size() as usize == shape.value
        && info.max_entries() == shape.entries
}

fn stamp(dir: &Path) -> Option<u64> {
    let data = MapData::from_pin(dir.join(STAMP)).ok()?;
    Array::<MapData, u64>::try_from(Map::Array(data)).ok()?.get(&0, 0).ok()
}
