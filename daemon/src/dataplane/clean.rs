//! Removing everything of ours in this network namespace, and nothing else.

use std::fs;
use std::io;
use std::path::Path;

use super::attach::{remove_filters, remove_links};
use super::error::FenceError;
use super::forward::{self, ForwardError};
use super::{link, pins, probe};

/// What [`clean`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Pinned tcx links.
    pub links: usize,
    /// Filters in clsact qdiscs.
    pub filters: usize,
    /// Clsact qdiscs that were ours and empty.
    pub qdiscs: usize,
    /// Pinned maps.
    pub maps: usize,
}

impl CleanReport {
    /// True when there was nothing of ours.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Takes forwarding and the fence off every link of this network namespace and removes their pins.
///
/// Only for a node that owns nothing any more: without the fence a leftover address is answered again.
///
/// # Errors
/// The first step that failed; what came before it is done, and a second call goes on.
pub fn clean(pin_root: &Path) -> Result<CleanReport, ForwardError> {
    let mut report = CleanReport::default();
    forward::clean(pin_root, &mut report)?;
    clean_fence(pin_root, &mut report)?;
    Ok(report)
}

/// Forwarding alone; the fence stands.
///
/// # Errors
/// As [`clean`].
pub fn clean_forward(pin_root: &Path) -> Result<CleanReport, ForwardError> {
    let mut report = CleanReport::default();
    forward::clean(pin_root, &mut report)?;
    Ok(report)
}

/// The fence alone; forwarding goes on where it stands.
///
/// # Errors
/// As [`clean`].
pub fn clean_fence(pin_root: &Path, report: &mut CleanReport) -> Result<(), FenceError> {
    let dir = probe::pin_dir(pin_root)?;
    for link in link::all()? {
        report.links += remove_links(&dir, link.ifindex)?;
        let (filters, qdiscs) = remove_filters(&dir, &link)?;
        report.filters += filters;
        report.qdiscs += qdiscs;
    }
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(FenceError::io("reading", dir)(e)),
    };
    // What is left of links that no longer exist: their pins and marks.
    for entry in entries {
        let path = entry.map_err(FenceError::io("reading", &dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("link-") {
            report.links += usize::from(pins::remove_link(&path)?);
        } else if name.starts_with("guard-") {
            // Of a daemon that was killed in the moment between.
            let _was = pins::remove(&path)?;
        } else if name.starts_with("qdisc-") {
            fs::remove_dir(&path).map_err(FenceError::io("removing the mark", &path))?;
        }
    }
    report.maps += pins::remove_maps(&dir)?;
    match fs::remove_dir(&dir) {
        // Forwarding lives in the same folder.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
        other => other.map_err(FenceError::io("removing", &dir))?,
    }
    remove_if_empty(pin_root);
    if let Some(parent) = pin_root.parent().filter(|p| p.ends_with("bascule")) {
        remove_if_empty(parent);
    }
    Ok(())
}

/// The folders above hold the pins of other namespaces too: they go with the last one.
fn remove_if_empty(dir: &Path) {
    match fs::remove_dir(dir) {
        Ok(()) => {}
        Err(e) => tracing::debug!(dir = %dir.display(), error = %e, "kept"),
    }
}
