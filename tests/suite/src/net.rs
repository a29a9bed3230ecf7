//! Two namespaces joined by a veth pair, `a0` and `b0`, for the tests of sockets and netlink.

mod marker;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bascule_core::types::LinkId;
pub use marker::{add_marked, marker};

use crate::fence::{Netns, give_address};

/// How long a condition may take that the kernel meets in microseconds: the machine may stall.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Node and neighbour. The veth pair and both namespaces go with it.
#[derive(Debug)]
pub struct Pair {
    /// Has `a0`: 10.9.0.1/24, 2001:db8::1/64, fe80::a/64, MAC 02:00:00:00:00:0a.
    pub a: Netns,
    /// Has `b0`: 10.9.0.2/24, 2001:db8::2/64, fe80::b/64, MAC 02:00:00:00:00:0b.
    pub b: Netns,
    /// Index of `a0`.
    pub a0: LinkId,
    /// Index of `b0`.
    pub b0: LinkId,
}

impl Pair {
    /// Makes it, both links up and running.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn new() -> Result<Self> {
        let (a, b) = (Netns::new()?, Netns::new()?);
        let there = b.path();
        let a0 = a.inside(|| {
            ip("link set lo up")?;
            ip("link add a0 address 02:00:00:00:00:0a type veth peer name b0 address 02:00:00:00:00:0b")?;
            ip("link set a0 addrgenmode none")?;
            ip(&format!("link set b0 netns {there}"))?;
            link("a0", "10.9.0.1/24", &["2001:db8::1/64", "fe80::a/64"])
        })?;
        let b0 = b.inside(|| {
            ip("link set lo up")?;
            ip("link set b0 addrgenmode none")?;
            link("b0", "10.9.0.2/24", &["2001:db8::2/64", "fe80::b/64"])
        })?;
        wait_for("the pair to run", || Ok(a.inside(|| ip("link show a0"))?.contains("state UP").then_some(())))?;
        Ok(Self { a, b, a0, b0 })
    }
}

fn link(name: &str, v4: &str, v6: &[&str]) -> Result<LinkId> {
    ip(&format!("link set {name} up"))?;
    ip(&format!("addr add {v4} dev {name}"))?;
    for address in v6 {
        give_address(address, name)?;
    }
    index(name)
}

/// Index of a link in the calling thread's namespace.
///
/// # Errors
/// When there is none of that name.
pub fn index(name: &str) -> Result<LinkId> {
    Ok(LinkId(nix::net::if_::if_nametoindex(name).with_context(|| name.to_owned())?))
}

/// Runs `ip` with these words in the calling thread's namespace.
///
/// # Errors
/// When it fails, with what it said.
pub fn ip(words: &str) -> Result<String> {
    let output = Command::new("ip").args(words.split_whitespace()).output().context("ip")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `ip -j -d addr show` says of one address of a link; `None` when the link does not carry it.
///
/// # Errors
/// When `ip` fails or answers something else.
pub fn address(link: &str, wanted: &str) -> Result<Option<serde_json::Value>> {
    let all: serde_json::Value = serde_json::from_str(&ip(&format!("-j -d addr show dev {link}"))?)?;
    let list = all[0]["addr_info"].as_array().context("addr_info")?;
    Ok(list.iter().find(|info| info["local"] == wanted).cloned())
}

/// Asks `condition` until it gives a value.
///
/// # Errors
/// When it gave none for [`PATIENCE`], or fails.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {PATIENCE:?} for {what}");
        }
        std::thread::yield_now();
    }
}
