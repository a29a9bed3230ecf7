//! A network namespace that goes away with its last handle.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::command::{ip, tool};
use crate::{LabError, Mac, Result, wait_for};

/// A named network namespace. Clones are handles on the same one; the last handle removes it.
#[derive(Debug, Clone)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    full_name: String,
    short: String,
    handle: File,
}

impl Netns {
    /// Makes the namespace: loopback up, no duplicate address detection, no router solicitation.
    pub(crate) fn create(prefix: &str, short: &str) -> Result<Self> {
        let full_name = format!("{prefix}-{short}");
        tool(None, "ip", &["netns", "add", &full_name], None)?;
        let path = format!("/run/netns/{full_name}");
        let handle = File::open(&path).map_err(LabError::io(path))?;
        let netns = Self(Arc::new(Inner { full_name, short: short.to_owned(), handle }));
        for tree in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{tree}/accept_dad"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{tree}/accept_ra"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{tree}/router_solicitations"), "0")?;
        }
        ip(&netns, "link set lo up")?;
        Ok(netns)
    }

    /// The name it was asked for by.
    pub fn name(&self) -> &str {
        &self.0.short
    }

    /// The name under which `ip netns` knows it: unique on the machine.
    pub fn full_name(&self) -> &str {
        &self.0.full_name
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.handle.as_fd()
    }

    /// Runs `work` inside the namespace, on a thread of its own; a panic in it goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a named thread inside the namespace.
    pub fn spawn<T: Send + 'static>(&self, name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let netns = self.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                netns.enter();
                // A thread must not keep the namespace's name alive after its guard is gone.
                drop(netns);
                work()
            })
            .expect("threads can be started")
    }

    fn enter(&self) {
        setns(self.fd(), CloneFlags::CLONE_NEWNET).expect("root may enter a namespace it made");
    }

    /// Writes a sysctl of this namespace; `key` is the path below /proc/sys.
    ///
    /// # Errors
    /// When the key does not exist or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.run(|| std::fs::write(&path, value)).map_err(LabError::io(path.clone()))
    }

    /// Runs one of the machine's tools inside; see [`tool`].
    ///
    /// # Errors
    /// Those of [`tool`].
    pub fn tool(&self, program: &str, args: &[&str]) -> Result<String> {
        tool(Some(self), program, args, None)
    }

    /// Forwards between its links.
    ///
    /// # Errors
    /// When a sysctl refuses.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Adds a default route (or any `ip route` arguments such as `10.0.0.0/8 via 10.9.0.254`).
    ///
    /// # Errors
    /// Those of `ip route add`.
    pub fn route(&self, family: u8, args: &str) -> Result<()> {
        ip(self, &format!("-{family} route add {args}")).map(drop)
    }

    /// Adds an address to a link by hand (`addr/len`).
    ///
    /// # Errors
    /// Those of `ip addr add`.
    pub fn add_address(&self, link: &str, address: ipnet::IpNet) -> Result<()> {
        let nodad = if address.addr().is_ipv6() { "nodad" } else { "" };
        ip(self, &format!("addr add {address} dev {link} {nodad}"))?;
        if address.addr().is_ipv6() { self.settled(link) } else { Ok(()) }
    }

    /// Waits until every address of the link can be used. addrconf ends the tentative time of an IPv6 address, and adds its local route,
    /// from a work queue, also without duplicate detection: until then bind(), connect() and sendmsg() with it fail.
    ///
    /// # Errors
    /// [`LabError::Timeout`] after ten seconds: the link is down.
    pub(crate) fn settled(&self, link: &str) -> Result<()> {
        let what = format!("the addresses of {link} to settle");
        wait_for(Duration::from_secs(10), &what, || {
            let local = ip(self, &format!("-6 route show table local dev {link} type local")).ok()?;
            let local: Vec<&str> = local.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
            let addresses = self.addresses(link).ok()?;
            let mut v6 = addresses.iter().filter(|net| net.addr().is_ipv6());
            v6.all(|net| local.contains(&net.addr().to_string().as_str())).then_some(())
        })
    }

    /// Deletes an address by hand, whatever its prefix length is.
    ///
    /// # Errors
    /// When the link does not carry it.
    pub fn delete_address(&self, link: &str, address: IpAddr) -> Result<()> {
        let found = self.addresses(link)?.into_iter().find(|net| net.addr() == address);
        let net =
            found.ok_or_else(|| LabError::answer(self.full_name(), format!("{link} does not carry {address}")))?;
        ip(self, &format!("addr del {net} dev {link}")).map(drop)
    }

    /// The addresses of a link.
    ///
    /// # Errors
    /// When the link does not exist.
    pub fn addresses(&self, link: &str) -> Result<Vec<ipnet::IpNet>> {
        let text = ip(self, &format!("-j addr show dev {link}"))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| LabError::answer("ip -j addr", e.to_string()))?;
        let infos = json[0]["addr_info"].as_array().cloned().unwrap_or_default();
        let parse = |info: &serde_json::Value| {
            format!("{}/{}", info["local"].as_str()?, info["prefixlen"].as_u64()?).parse().ok()
        };
        Ok(infos.iter().filter_map(parse).collect())
    }

    /// True while the link carries the address.
    pub fn has_address(&self, link: &str, address: IpAddr) -> bool {
        self.addresses(link).is_ok_and(|all| all.iter().any(|net| net.addr() == address))
    }

    /// The hardware address of a link.
    ///
    /// # Errors
    /// When the link does not exist.
    pub fn mac(&self, link: &str) -> Result<Mac> {
        let json = self.link(link)?;
        let text = json["address"].as_str().unwrap_or_default();
        text.parse().map_err(|()| LabError::answer("ip -j link", format!("no MAC in {text:?}")))
    }

    /// The index of a link.
    ///
    /// # Errors
    /// When the link does not exist.
    pub fn ifindex(&self, link: &str) -> Result<u32> {
        let index = self.link(link)?["ifindex"].as_u64().and_then(|i| u32::try_from(i).ok());
        index.ok_or_else(|| LabError::answer("ip -j link", format!("no ifindex for {link}")))
    }

    fn link(&self, link: &str) -> Result<serde_json::Value> {
        let text = ip(self, &format!("-j link show dev {link}"))?;
        let mut json: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| LabError::answer("ip -j link", e.to_string()))?;
        Ok(json[0].take())
    }

    /// Forgets what a daemon pinned for this namespace, its programs with it: what a boot of the node does.
    pub fn forget_pins(&self) {
        crate::leftovers::remove_pins(&self.0.handle);
    }

    /// Sets a link up or down from the node's side.
    ///
    /// # Errors
    /// When the link does not exist.
    pub fn set_link(&self, link: &str, up: bool) -> Result<()> {
        ip(self, &format!("link set dev {link} {}", if up { "up" } else { "down" })).map(drop)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        crate::leftovers::remove_pins(&self.handle);
        // Nothing may panic here: this also runs while a test unwinds. What stays is removed by the next lab.
        if let Err(error) = tool(None, "ip", &["netns", "del", &self.full_name], None) {
            eprintln!("lab: {error}");
        }
    }
}
