//! Taking everything of the plane away.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::super::error::FenceError;
use super::super::{CleanReport, INSTANCE};
use super::error::ForwardError;
use super::{attach, sets};

/// Devices that pins of links name.
pub(super) fn pinned_devices(root: &Path) -> Result<BTreeSet<u32>, ForwardError> {
    let mut found = BTreeSet::new();
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(FenceError::io("reading", root)(e).into()),
    };
    for entry in entries {
        let entry = entry.map_err(FenceError::io("reading", root))?;
        let name = entry.file_name();
        let index: Option<u32> =
            name.to_str().and_then(|name| name.strip_prefix("link-")?.split('-').next()?.parse().ok());
        found.extend(index);
    }
    Ok(found)
}

/// Do programs of a former run stand on a device of this network namespace?
///
/// # Errors
/// When the folder of pins cannot be read.
pub fn stands(pin_root: &Path) -> Result<bool, ForwardError> {
    let devices = pinned_devices(&sets::root(pin_root)?)?;
    Ok(super::super::link::all()?.iter().any(|link| devices.contains(&link.ifindex)))
}

/// The pins of another instance of ours (`v1`, `v1-instance-1` and so on) whose programs stand on a device of this network namespace.
pub(super) fn other_instance(pin_root: &Path) -> Result<Option<PathBuf>, ForwardError> {
    let name = pin_root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let base = name.split_once(INSTANCE).map_or(name, |(base, _)| base);
    let Some(folders) = pin_root.parent().and_then(|parent| std::fs::read_dir(parent).ok()) else { return Ok(None) };
    for folder in folders.flatten() {
        let of_ours = folder
            .file_name()
            .to_str()
            .is_some_and(|other| other != name && other.split_once(INSTANCE).map_or(other, |(first, _)| first) == base);
        if of_ours && stands(&folder.path())? {
            return Ok(Some(folder.path()));
        }
    }
    Ok(None)
}

/// Takes forwarding off every device of this network namespace and removes its pins.
pub(in crate::dataplane) fn clean(pin_root: &Path, report: &mut CleanReport) -> Result<(), ForwardError> {
    let root = sets::root(pin_root)?;
    let devices = super::super::link::all()?.into_iter().map(|link| link.ifindex).chain(pinned_devices(&root)?);
    for ifindex in devices.collect::<BTreeSet<_>>() {
        let removed = attach::remove(&root, ifindex)?;
        report.links += removed.links;
        report.filters += removed.filters;
        report.qdiscs += removed.qdiscs;
    }
    report.maps += sets::remove_all(&root)?;
    match std::fs::remove_dir(&root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FenceError::io("removing", root)(e).into()),
        _ => Ok(()),
    }
}
