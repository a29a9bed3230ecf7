//! The folders of pins: which maps of former runs this run goes on with, and what may go once no program uses it.
//!
//! ```text
//! <pin root>/<inode of the network namespace>/forward-v1/
//!     maps-<serial>-<flow stamp>/   a set: every map by its name; FORWARD_STAMP, written last, says that it is complete
//!     load-<serial>/                the arrays of slow programs that one load of the programs jumps through
//!     link-<ifindex>-xdp, -ingress, -egress
//! ```
//!
//! A set is either used as it is or left alone, but for a set that differs from the wanted one only in the size of the map of flows: its
//! other maps are pinned into the new set as well. While another set stands beside the one in use, programs on some links may still use
//! it: it goes only after every link has the new programs, and until then its flows are carried over again by whoever starts next.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use bascule_ebpf_common::forward::{FLOW_STAMP, FORWARD_VERSION};

use super::super::error::FenceError;
use super::super::{pins, probe};
use super::error::ForwardError;
use super::shapes::{self, FLOWS, STAMP};

/// A folder with a complete set of maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) dir: PathBuf,
    serial: u32,
    flow_stamp: u32,
}

impl Set {
    /// May its flows be read by this build?
    pub(super) fn flows_are_ours(&self) -> bool {
        self.flow_stamp == FLOW_STAMP && shapes::flows_match(&self.dir)
    }
}

/// What a start found and made.
#[derive(Debug)]
pub(super) struct Choice {
    /// The folder of the set to use.
    pub(super) dir: PathBuf,
    /// It is one of a former run.
    pub(super) reused: bool,
    /// The other complete sets, the youngest first.
    pub(super) others: Vec<Set>,
}

/// The folder of the forwarding plane in the network namespace of the calling thread.
pub(super) fn root(pin_root: &Path) -> Result<PathBuf, FenceError> {
    Ok(probe::pin_dir(pin_root)?.join(format!("forward-v{FORWARD_VERSION}")))
}

/// Makes a folder and those above it.
pub(super) fn make(dir: &Path) -> Result<(), FenceError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(FenceError::io("creating the pin folder", dir))
}

/// Chooses the youngest set of this build's layout, else names a new one. Sets that were never finished go: no program has used them.
pub(super) fn choose(root: &Path, flows: u32) -> Result<Choice, FenceError> {
    let mut sets = Vec::new();
    for (dir, name) in folders(root, "maps-")? {
        if shapes::stamp(&dir).is_none() {
            remove_folder(&dir)?;
            continue;
        }
        let (serial, stamp) = name.split_once('-').unwrap_or_default();
        sets.push(Set {
            dir,
            serial: serial.parse().unwrap_or_default(),
            flow_stamp: u32::from_str_radix(stamp, 16).unwrap_or_default(),
        });
    }
    sets.sort_by_key(|set| std::cmp::Reverse(set.serial));
    let next = sets.first().map_or(1, |set| set.serial.saturating_add(1));
    if let Some(at) = sets.iter().position(|set| shapes::all_match(&set.dir, flows)) {
        let dir = sets.remove(at).dir;
        return Ok(Choice { dir, reused: true, others: sets });
    }
    Ok(Choice { dir: root.join(format!("maps-{next}-{FLOW_STAMP:08x}")), reused: false, others: sets })
}

/// Lets the new set in `dir` begin with the maps of the youngest other one that differs in the size of the map of flows only: all but
/// that are the very same maps. Programs of both sets then agree in everything but where flows lie. False: there is no such set.
pub(super) fn share(others: &[Set], dir: &Path) -> Result<bool, ForwardError> {
    let Some(donor) = others.iter().find(|set| shapes::all_but_flows_match(&set.dir)) else { return Ok(false) };
    for name in shapes::SHAPES.iter().map(|shape| shape.name).filter(|name| !matches!(*name, FLOWS | STAMP)) {
        let map = MapData::from_pin(donor.dir.join(name)).map_err(ForwardError::map(name, "opening the former"))?;
        map.pin(dir.join(name)).map_err(|e| ForwardError::Call {
            what: "pinning a map of the former set into the new one",
            source: io::Error::other(e),
        })?;
    }
    Ok(true)
}

/// Makes the folder for the arrays of slow programs of this load.
pub(super) fn new_load(root: &Path) -> Result<PathBuf, FenceError> {
    let loads = folders(root, "load-")?;
    let last = loads.iter().filter_map(|(_, name)| name.parse::<u32>().ok()).max().unwrap_or(0);
    let dir = root.join(format!("load-{}", last.saturating_add(1)));
    make(&dir)?;
    Ok(dir)
}

/// Removes every set and load but these two; how many sets went.
pub(super) fn keep_only(root: &Path, set: &Path, load: &Path) -> Result<usize, FenceError> {
    let mut gone = 0;
    for (dir, _) in folders(root, "maps-")?.into_iter().filter(|(dir, _)| dir != set) {
        remove_folder(&dir)?;
        gone += 1;
    }
    for (dir, _) in folders(root, "load-")?.into_iter().filter(|(dir, _)| dir != load) {
        remove_folder(&dir)?;
    }
    Ok(gone)
}

/// Removes every set and load; how many maps there were.
pub(super) fn remove_all(root: &Path) -> Result<usize, FenceError> {
    let mut maps = 0;
    for prefix in ["maps-", "load-"] {
        for (dir, _) in folders(root, prefix)? {
            maps += remove_folder(&dir)?;
        }
    }
    Ok(maps)
}

/// The folders in `root` whose name has this prefix, with the rest of the name.
fn folders(root: &Path, prefix: &str) -> Result<Vec<(PathBuf, String)>, FenceError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(FenceError::io("reading", root)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(FenceError::io("reading", root))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(rest) = name.strip_prefix(prefix) {
            found.push((path.clone(), rest.to_owned()));
        }
    }
    Ok(found)
}

/// Unpins what lies in `dir`, the stamp first, so that a set half removed counts as unfinished; how many pins there were.
fn remove_folder(dir: &Path) -> Result<usize, FenceError> {
    let mut removed = usize::from(pins::remove(&dir.join(shapes::STAMP))?);
    for entry in fs::read_dir(dir).map_err(FenceError::io("reading", dir))? {
        let path = entry.map_err(FenceError::io("reading", dir))?.path();
        removed += usize::from(pins::remove(&path)?);
    }
    fs::remove_dir(dir).map_err(FenceError::io("removing", dir))?;
    Ok(removed)
}
