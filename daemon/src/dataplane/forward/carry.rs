//! Flows that move from the maps of a former run into those of this one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, MapError};
use bascule_ebpf_common::forward::{Flow, FlowKey};

use super::super::sys::{self, Cursor};
use super::error::ForwardError;
use super::sets::Set;
use super::shapes::FLOWS;
use super::tables::{absent_is_fine, descriptor};

/// Entries read with one call: large enough that a call costs nothing beside them, small enough for 600 KiB of buffers.
const CHUNK: u32 = 8192;
/// `BPF_NOEXIST` and `BPF_EXIST` of linux/bpf.h.
const NO_EXIST: u64 = 1;
const EXIST: u64 = 2;

/// Reads a map of flows from its first entry to its last.
pub(super) struct FlowReader<'a> {
    map: BorrowedFd<'a>,
    cursor: Cursor,
    room: u32,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl<'a> FlowReader<'a> {
    pub(super) fn new(map: BorrowedFd<'a>) -> Self {
        let mut reader = Self { map, cursor: Cursor::Start, room: 0, keys: Vec::new(), values: Vec::new() };
        reader.grow(CHUNK);
        reader
    }

    fn grow(&mut self, room: u32) {
        self.room = room;
        self.keys.resize(room as usize * size_of::<FlowKey>(), 0);
        self.values.resize(room as usize * size_of::<Flow>(), 0);
    }

    /// The next entries; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<(FlowKey, Flow)>>, ForwardError> {
        while self.cursor != Cursor::End {
            match sys::lookup_batch(self.map, self.cursor, &mut self.keys, &mut self.values, self.room) {
                Ok((count, cursor)) => {
                    self.cursor = cursor;
                    return Ok(Some(self.entries(count as usize)));
                }
                // One bucket holds more than there is room for: a hash under attack, or a tiny chunk.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => self.grow(self.room.saturating_mul(2)),
                Err(source) => return Err(ForwardError::Call { what: "reading FLOWS in a batch", source }),
            }
        }
        Ok(None)
    }

    fn entries(&self, count: usize) -> Vec<(FlowKey, Flow)> {
        let keys = self.keys.chunks_exact(size_of::<FlowKey>());
        let values = self.values.chunks_exact(size_of::<Flow>());
        keys.zip(values)
            .take(count)
            .map(|(key, value)| {
                // SAFETY: both types are plain data for which every bit pattern is valid, and the chunks have their sizes.
                unsafe {
                    (key.as_ptr().cast::<FlowKey>().read_unaligned(), value.as_ptr().cast::<Flow>().read_unaligned())
                }
            })
            .collect()
    }
}

/// Brings every flow of the other sets that is missing or older here; how many were written. The programs on either side go on.
pub(super) fn carry(others: &[Set], into: &mut HashMap<MapData, FlowKey, Flow>) -> Result<u64, ForwardError> {
    let mut written = 0;
    for set in others.iter().filter(|set| set.flows_are_ours()) {
        let from = MapData::from_pin(set.dir.join(FLOWS)).map_err(ForwardError::map(FLOWS, "opening the former"))?;
        let mut reader = FlowReader::new(from.fd().as_fd());
        while let Some(entries) = reader.next()? {
            for (key, flow) in entries {
                written += u64::from(bring(into, &key, &flow)?);
            }
        }
    }
    Ok(written)
}

fn bring(into: &mut HashMap<MapData, FlowKey, Flow>, key: &FlowKey, flow: &Flow) -> Result<bool, ForwardError> {
    match into.insert(key, flow, NO_EXIST) {
        Ok(()) => return Ok(true),
        Err(e) if errno(&e) == Some(libc::EEXIST) => {}
        Err(e) => return Err(ForwardError::map(FLOWS, "carrying over")(e)),
    }
    match into.get(key, 0) {
        // The same packet cannot be seen by both; a later second is the truth.
        Ok(there) if there.seen_s >= flow.seen_s => return Ok(false),
        Ok(_) => {}
        Err(MapError::KeyNotFound) => return Ok(false),
        Err(e) => return Err(ForwardError::map(FLOWS, "comparing")(e)),
    }
    match into.insert(key, flow, EXIST) {
        Ok(()) => Ok(true),
        // Evicted since.
        Err(e) if errno(&e) == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(ForwardError::map(FLOWS, "carrying over")(e)),
    }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}

/// The map of flows: to write entries, and to read all of it.
pub(super) struct Flows {
    pub(super) map: HashMap<MapData, FlowKey, Flow>,
    pub(super) fd: OwnedFd,
}

impl Flows {
    pub(super) fn new(map: Map) -> Result<Self, ForwardError> {
        let fd = descriptor(&map)?;
        Ok(Self { map: HashMap::try_from(map).map_err(ForwardError::map(FLOWS, "taking"))?, fd })
    }
}

/// Rewrites every flow as `renamed` says, and removes those for which it says nothing; how many were removed.
pub(super) fn rename(
    flows: &mut Flows,
    renamed: impl Fn(&FlowKey, &Flow) -> Option<Flow>,
) -> Result<usize, ForwardError> {
    let map = &mut flows.map;
    let mut reader = FlowReader::new(flows.fd.as_fd());
    let mut removed = 0;
    while let Some(entries) = reader.next()? {
        for (key, flow) in entries {
            match renamed(&key, &flow) {
                Some(new) if new == flow => {}
                Some(new) => match map.insert(key, new, EXIST) {
                    Err(e) if errno(&e) != Some(libc::ENOENT) => return Err(ForwardError::map(FLOWS, "renaming")(e)),
                    _ => {}
                },
                None => {
                    absent_is_fine(map.remove(&key)).map_err(ForwardError::map(FLOWS, "removing"))?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}
