//! A thread with network, mounts and a bpffs of its own: nothing a test pins or attaches can outlive it or meet another.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bascule::dataplane::{Fence, FenceOptions};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::time::{ClockId, clock_gettime};

/// The private surroundings of one test.
#[derive(Debug)]
pub struct Ground {
    root: PathBuf,
    /// Keeps the mount point; the mount itself goes with the thread's mount namespace.
    _dir: tempfile::TempDir,
}

impl Ground {
    /// Runs `body` on a new thread in new network and mount namespaces, with a bpffs mounted.
    ///
    /// # Errors
    /// What `body` returns, or why the namespaces could not be made. A panic of the body goes on in the caller.
    pub fn run<T: Send + 'static>(body: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let thread = std::thread::spawn(move || {
            let ground = Self::enter()?;
            body(&ground)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn enter() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare (root needed)")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
        let dir = tempfile::tempdir()?;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), none).context("bpffs")?;
        // Names of links under /sys are those of the namespace that mounted it; the fence does not read them.
        let ground = Self { root: dir.path().join("bascule").join("v1"), _dir: dir };
        ground.ip("link set lo up")?;
        Ok(ground)
    }

    /// The pin root of this ground.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the fence here.
    ///
    /// # Errors
    /// As [`Fence::open`].
    pub fn fence(&self) -> Result<Fence> {
        Ok(Fence::open(&FenceOptions { pin_root: self.root.clone() })?)
    }

    /// Runs `ip` with these words.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ip(&self, words: &str) -> Result<String> {
        tool("ip", words)
    }

    /// As [`give_address`].
    ///
    /// # Errors
    /// Those of [`give_address`].
    pub fn address(&self, address: &str, device: &str) -> Result<()> {
        give_address(address, device)
    }

    /// Runs `tc` with these words.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn tc(&self, words: &str) -> Result<String> {
        tool("tc", words)
    }

    /// Waits until these links are operational: a link that is just set up drops what it is given for up to a second.
    ///
    /// # Errors
    /// When one is not after ten seconds.
    pub fn wait_up(&self, links: &[&str]) -> Result<()> {
        let end = boot_ns() + 10_000_000_000;
        for link in links {
            while !self.ip(&format!("-o link show dev {link}"))?.contains("state UP") {
                ensure!(boot_ns() < end, "{link} does not come up");
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Index of a link.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn ifindex(&self, name: &str) -> Result<u32> {
        Ok(nix::net::if_::if_nametoindex(name)?)
    }
}

/// Another network namespace beside the ground's, for the neighbours of the node.
#[derive(Debug)]
pub struct Netns {
    home: File,
    there: File,
}

impl Netns {
    /// Makes one; the calling thread stays where it is.
    ///
    /// # Errors
    /// Why it could not be made.
    pub fn new() -> Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        unshare(CloneFlags::CLONE_NEWNET).context("unshare (root needed)")?;
        let there = File::open("/proc/thread-self/ns/net")?;
        setns(&home, CloneFlags::CLONE_NEWNET)?;
        Ok(Self { home, there })
    }

    /// Runs `body` with the calling thread inside. Sockets opened there stay there.
    ///
    /// # Errors
    /// What `body` returns, or why the namespace could not be entered or left.
    pub fn inside<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        setns(&self.there, CloneFlags::CLONE_NEWNET)?;
        let result = body();
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        result
    }

    /// A path that names this namespace for `ip link set ... netns`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.there.as_raw_fd())
    }
}

/// Gives a device of the thread's namespace an address (`addr/len`), which it may have already, and returns when the kernel takes packets
/// for it.
///
/// # Errors
/// When `ip` fails, or when there is no local route after ten seconds (the device is down).
pub fn give_address(address: &str, device: &str) -> Result<()> {
    let (plain, _) = address.split_once('/').with_context(|| format!("{address}: want address/length"))?;
    if !plain.contains(':') {
        return tool("ip", &format!("addr replace {address} dev {device}")).map(drop);
    }
    tool("ip", &format!("addr replace {address} dev {device} nodad"))?;
    // addrconf adds the local route of an IPv6 address from a work queue: until then connect() says ENETUNREACH.
    let end = boot_ns() + 10_000_000_000;
    while tool("ip", &format!("-6 route show table local {plain}"))?.is_empty() {
        ensure!(boot_ns() < end, "{address} on {device} gets no local route");
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    }
    Ok(())
}

fn tool(name: &str, words: &str) -> Result<String> {
    let output = Command::new(name).args(words.split_whitespace()).output().with_context(|| name.to_owned())?;
    if !output.status.success() {
        bail!("{name} {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Now on the clock of the fence, nanoseconds.
#[must_use]
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    u64::try_from(now.tv_sec()).expect("boot time is positive") * 1_000_000_000
        + u64::try_from(now.tv_nsec()).expect("nanoseconds are positive")
}
