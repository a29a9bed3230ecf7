//! A control group around one started program: every process of it can be listed, frozen and killed.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{LabError, Result, wait_for};

/// Time the kernel gets to freeze a group: it needs no more than one return to user space of each thread.
const FREEZE: Duration = Duration::from_secs(2);

/// Which hierarchy holds the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2,
    /// The v1 freezer controller, where there is no v2 mount.
    V1Freezer,
}

/// One control group.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    version: Version,
}

fn hierarchy() -> Option<&'static (PathBuf, Version)> {
    static FOUND: OnceLock<Option<(PathBuf, Version)>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let find = |wanted: &dyn Fn(&str, &str) -> bool| {
                mounts.lines().find_map(|line| {
                    let mut words = line.split(' ').skip(1);
                    let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
                    wanted(kind, options).then(|| PathBuf::from(path))
                })
            };
            let v2 = find(&|kind, _| kind == "cgroup2").map(|p| (p, Version::V2));
            v2.or_else(|| {
                find(&|kind, options| kind == "cgroup" && options.split(',').any(|o| o == "freezer"))
                    .map(|p| (p, Version::V1Freezer))
            })
        })
        .as_ref()
}

/// Where groups are made.
pub(crate) fn root() -> Option<PathBuf> {
    hierarchy().map(|(path, _)| path.clone())
}

impl Group {
    pub(crate) fn create(name: &str) -> Result<Self> {
        let (root, version) =
            hierarchy().ok_or_else(|| LabError::answer("/proc/self/mounts", "no cgroup v2 and no v1 freezer"))?;
        let path = root.join(name);
        std::fs::create_dir(&path).map_err(LabError::io(path.display().to_string()))?;
        Ok(Self { path, version: *version })
    }

    pub(crate) fn existing(name: &str) -> Option<Self> {
        let (root, version) = hierarchy()?;
        let path = root.join(name);
        path.is_dir().then_some(Self { path, version: *version })
    }

    /// The file a process writes "0" to in order to join.
    pub(crate) fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    pub(crate) fn pids(&self) -> Vec<Pid> {
        let text = std::fs::read_to_string(self.procs()).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).map(Pid::from_raw).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        for pid in self.pids() {
            // A process that ended meanwhile is no error.
            let _ = kill(pid, signal);
        }
    }

    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, value) = match (self.version, frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (Version::V1Freezer, true) => ("freezer.state", "FROZEN"),
            (Version::V1Freezer, false) => ("freezer.state", "THAWED"),
        };
        write(&self.path.join(file), value)?;
        let seen = || match self.version {
            Version::V2 => {
                let events = std::fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
                events.contains(if frozen { "frozen 1" } else { "frozen 0" })
            }
            Version::V1Freezer => std::fs::read_to_string(self.path.join(file)).is_ok_and(|s| s.trim() == value),
        };
        wait_for(FREEZE, "the control group to change its frozen state", || seen().then_some(()))
    }

    /// Kills every process in it and removes it.
    pub(crate) fn kill(&self) {
        if self.version == Version::V1Freezer {
            let _ = self.freeze(false);
        }
        if write(&self.path.join("cgroup.kill"), "1").is_err() {
            self.signal(Signal::SIGKILL);
        }
        // A zombie counts until it is reaped, which the owner of the process does after this.
        let _ = wait_for(FREEZE, "the group to be empty", || {
            self.signal(Signal::SIGKILL);
            std::fs::remove_dir(&self.path).ok()
        });
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).map_err(LabError::io(path.display().to_string()))
}
