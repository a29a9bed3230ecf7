//! Removes what runs left that had no chance to clean up (SIGKILL, power), and only that.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::command::tool;
use crate::group::{self, Group};

/// Where `ip netns` keeps the names.
const NETNS: &str = "/run/netns";
/// Where the daemon pins what must outlive it, one directory per namespace, named by its inode; instance N of it in `v1-instance-N` beside.
const PINS: &str = "/sys/fs/bpf/bascule/v1";
/// First part of every name the lab gives.
const MARK: &str = "bl";

/// `bl-PID-STARTTIME`: the start time (clock ticks since boot, proc(5) stat field 22) tells a live process from a later one
/// that got the same pid.
pub(crate) fn own_prefix() -> &'static str {
    static PREFIX: OnceLock<String> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let pid = std::process::id();
        format!("{MARK}-{pid}-{}", start_time(pid).unwrap_or_default())
    })
}

/// Removes namespaces, process groups and directories of labs whose process is gone.
pub(crate) fn sweep_dead() {
    sweep(|name| owner(name).is_some_and(|(pid, started)| start_time(pid) != Some(started)));
}

/// Removes everything of this process's labs; for a process that ends without unwinding.
pub(crate) fn sweep_own() {
    let prefix = format!("{}-", own_prefix());
    sweep(|name| name.starts_with(&prefix));
}

/// On SIGINT or SIGTERM: removes everything this process's labs made, and exits with 130.
/// Call it first in `main`, before any thread is started, so that every thread has the signals blocked.
pub fn clean_on_signals() {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    set.thread_block().expect("a signal mask can be set");
    std::thread::spawn(move || {
        if set.wait().is_ok() {
            sweep_own();
            std::process::exit(130);
        }
    });
}

fn sweep(ours: impl Fn(&str) -> bool) {
    for name in names(group::root().as_deref()).filter(|n| ours(n)) {
        if let Some(group) = Group::existing(&name) {
            group.kill();
        }
    }
    for name in names(Some(Path::new(NETNS))).filter(|n| ours(n)) {
        // Also processes that left their group: nothing of a dead lab may keep its namespace alive.
        let pids = tool(None, "ip", &["netns", "pids", &name], None).unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|p| p.parse().ok()) {
            if pid != std::process::id().cast_signed() {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        if let Ok(handle) = File::open(Path::new(NETNS).join(&name)) {
            remove_pins(&handle);
        }
        let _ = tool(None, "ip", &["netns", "del", &name], None);
    }
    let temp = std::env::temp_dir();
    for name in names(Some(&temp)).filter(|n| ours(n)) {
        let _ = std::fs::remove_dir_all(temp.join(name));
    }
}

/// Removes what a daemon pinned for this namespace. The inode is given to a later namespace, which must not inherit it.
pub(crate) fn remove_pins(netns: &File) {
    if let Ok(about) = netns.metadata() {
        // Most namespaces never had a daemon.
        for root in names(Path::new(PINS).parent()).filter(|name| name.starts_with("v1")) {
            let folder = Path::new(PINS).with_file_name(root).join(about.ino().to_string());
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Where a daemon in the namespace with this inode pins, and the lab when it loads programs itself.
pub(crate) fn pins(inode: u64) -> PathBuf {
    Path::new(PINS).join(inode.to_string())
}

fn names(directory: Option<&Path>) -> impl Iterator<Item = String> {
    let entries = directory.and_then(|d| std::fs::read_dir(d).ok());
    entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok())
}

fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.split('-');
    (parts.next()? == MARK).then_some(())?;
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold blanks: fields are counted after its closing parenthesis, where field 3 comes first.
    stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{own_prefix, owner, start_time};

    #[test]
    fn own_names_are_recognised_and_alive() {
        let (pid, started) = owner(&format!("{}-0-n1", own_prefix())).unwrap();
        assert_eq!((pid, start_time(pid)), (std::process::id(), Some(started)));
    }

    #[test]
    fn foreign_names_are_left_alone() {
        for name in ["blue", "bl-x-1-n1", "cni-123", "bl-12", "xbl-1-2-3"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
