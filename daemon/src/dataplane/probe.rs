//! Can this process stand the fence here? Asked before anything is loaded, so that each reason has its own answer.

use std::fs;
use std::path::{Path, PathBuf};

use aya::util::KernelVersion;
use caps::{CapSet, Capability};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::INSTANCE;
use super::error::FenceError;

/// First kernel with every helper the programs use, and the floor the project promises (5.10, a long-term release).
const KERNEL_FLOOR: (u8, u8) = (5, 10);
/// First kernel that accounts BPF memory to the cgroup and not to RLIMIT_MEMLOCK (commit 3ac1f01b43b6, 5.11).
const MEMCG_ACCOUNTING: (u8, u8) = (5, 11);
/// First kernel with tcx links (commit e420bed02507, 6.6).
const TCX: (u8, u8) = (6, 6);

/// Checks kernel, capabilities, time namespace and bpffs.
pub(super) fn check(pin_root: &Path) -> Result<(), FenceError> {
    if !at_least(KERNEL_FLOOR) {
        let found = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        return Err(FenceError::KernelTooOld { found });
    }
    capabilities()?;
    if let Ok(offsets) = fs::read_to_string("/proc/self/timens_offsets")
        && let Some(offset) = boottime_shift(&offsets)
    {
        return Err(FenceError::ShiftedTime { offset });
    }
    bpffs(pin_root)
}

/// Does this kernel know tcx?
pub(super) fn has_tcx() -> bool {
    at_least(TCX)
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK, whose usual 64 KiB hold none of ours: lift it for this process. A
/// refusal is not judged here: the load that then fails says what it lacked.
pub(super) fn lift_memlock() {
    if at_least(MEMCG_ACCOUNTING) {
        return;
    }
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: setrlimit reads the struct given and nothing else.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "cannot lift RLIMIT_MEMLOCK for the fence");
    }
}

/// The pin directory of the network namespace this thread is in: pins of two namespaces never meet.
pub(super) fn pin_dir(pin_root: &Path) -> Result<PathBuf, FenceError> {
    use std::os::unix::fs::MetadataExt;
    let path = Path::new("/proc/thread-self/ns/net");
    let inode = fs::metadata(path).map_err(FenceError::io("looking at", path))?.ino();
    Ok(pin_root.join(inode.to_string()))
}

/// True when the pins of `dir`, which [`pin_dir`] gave, are those of an instance beside the first one (`v1-instance-N`). Filters of clsact are told
/// apart by the names of their programs, which are the same for all: such an instance stands by tcx only, and leaves filters alone.
pub(super) fn is_further(dir: &Path) -> bool {
    let root = dir.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    root.is_some_and(|name| name.contains(INSTANCE))
}

fn at_least((major, minor): (u8, u8)) -> bool {
    KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(major, minor, 0))
}

fn capabilities() -> Result<(), FenceError> {
    let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    let mut missing = Vec::new();
    // CAP_SYS_ADMIN includes what CAP_BPF splits off (capabilities(7)).
    if !has(Capability::CAP_BPF) && !has(Capability::CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(Capability::CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if missing.is_empty() { Ok(()) } else { Err(FenceError::MissingCapability { missing: missing.join(", ") }) }
}

/// The shift of CLOCK_BOOTTIME in `/proc/self/timens_offsets` (lines of clock, seconds, nanoseconds), if there is one.
fn boottime_shift(offsets: &str) -> Option<String> {
    let line = offsets.lines().find(|line| line.trim_start().starts_with("boottime"))?;
    let numbers: Vec<&str> = line.split_whitespace().skip(1).collect();
    if numbers.iter().all(|n| *n == "0") { None } else { Some(numbers.join(" s ") + " ns") }
}

/// The nearest folder that exists above (or at) the pin root must lie on a bpffs.
fn bpffs(pin_root: &Path) -> Result<(), FenceError> {
    let exists = pin_root.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    match statfs(exists) {
        Ok(fs) if fs.filesystem_type() == BPF_FS_MAGIC => Ok(()),
        _ => Err(FenceError::NoBpffs { path: pin_root.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::{boottime_shift, bpffs};
    use crate::dataplane::FenceError;

    #[test]
    fn only_a_shifted_boot_clock_counts() {
        assert_eq!(boottime_shift("monotonic           0         0\nboottime            0         0\n"), None);
        assert_eq!(boottime_shift("monotonic          60         0\nboottime            0         0\n"), None);
        assert!(boottime_shift("monotonic 0 0\nboottime     -3600         0\n").unwrap().contains("-3600"));
        assert!(boottime_shift("monotonic 0 0\nboottime     0         5\n").is_some());
    }

    #[test]
    fn a_plain_folder_is_no_bpffs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("bascule").join("v1");
        let error = bpffs(&root).unwrap_err();
        assert!(matches!(&error, FenceError::NoBpffs { path } if *path == root), "{error}");
    }
}
