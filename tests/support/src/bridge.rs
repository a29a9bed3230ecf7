//! Switches, their ports, and the trunk between two of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use crate::command::{ip, ip_batch};
use crate::{Mac, Netns, Result};

/// How a switch behaves.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    /// After this time without a frame from it a MAC is forgotten. Linux' and most switches' default is 300 s.
    pub ageing: Duration,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self { ageing: Duration::from_secs(300) }
    }
}

/// A switch: bridge `br0` alone in a namespace, without spanning tree and multicast snooping. Clones are handles.
#[derive(Debug, Clone)]
pub struct Bridge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u16,
    netns: Netns,
    next: AtomicU32,
    ports: Mutex<HashMap<u32, PortKind>>,
}

/// What hangs on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortKind {
    /// A node, client or router with this MAC.
    Host(Mac),
    /// Another switch.
    Trunk,
}

/// A port of a switch and the link at its other end.
#[derive(Debug, Clone)]
pub struct Port {
    bridge: Bridge,
    name: String,
    ifindex: u32,
    node: String,
    link: String,
    mac: Option<Mac>,
}

/// Two switches joined. While it is cut they are two LANs.
#[derive(Debug, Clone)]
pub struct Trunk {
    /// The port on the first switch: cut it to part the two.
    pub near: Port,
    /// The port on the second.
    pub far: Port,
}

impl Bridge {
    pub(crate) fn create(netns: Netns, options: &BridgeOptions) -> Result<Self> {
        static ID: AtomicU16 = AtomicU16::new(0);
        let bridge = Self(Arc::new(Inner {
            id: ID.fetch_add(1, Ordering::Relaxed),
            netns,
            next: AtomicU32::new(0),
            ports: Mutex::default(),
        }));
        // Bridge times are in hundredths of a second (iproute2: ageing_time).
        let ageing = options.ageing.as_millis() / 10;
        let make =
            format!("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 ageing_time {ageing}");
        ip_batch(bridge.netns(), &[make, "link set br0 up".to_owned()])?;
        Ok(bridge)
    }

    /// The namespace of the switch.
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// Tells frames of one switch from those of another.
    pub fn id(&self) -> u16 {
        self.0.id
    }

    pub(crate) fn port_kind(&self, ifindex: u32) -> Option<PortKind> {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner).get(&ifindex).copied()
    }

    fn new_port(&self) -> String {
        format!("p{}", self.0.next.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, ifindex: u32, kind: PortKind) {
        self.0.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(ifindex, kind);
    }

    /// Gives `node` a link with these addresses on this switch.
    ///
    /// # Errors
    /// When the link exists already or an address is refused.
    pub fn attach(&self, node: &Netns, link: &str, addresses: &[IpNet]) -> Result<Port> {
        let name = self.new_port();
        let peer = node.full_name();
        ip_batch(
            self.netns(),
            &[
                format!("link add {name} type veth peer name {link} netns {peer}"),
                format!("link set {name} master br0 up"),
            ],
        )?;
        let mut lines = vec![format!("link set {link} up")];
        for address in addresses {
            let nodad = if address.addr().is_ipv6() { "nodad" } else { "" };
            lines.push(format!("addr add {address} dev {link} {nodad}"));
        }
        ip_batch(node, &lines)?;
        node.settled(link)?;
        let (ifindex, mac) = (self.netns().ifindex(&name)?, node.mac(link)?);
        self.record(ifindex, PortKind::Host(mac));
        let (node, link) = (node.name().to_owned(), link.to_owned());
        Ok(Port { bridge: self.clone(), name, ifindex, node, link, mac: Some(mac) })
    }

    /// Joins this switch with another by a cable.
    ///
    /// # Errors
    /// When the cable cannot be made.
    pub fn join(&self, other: &Self) -> Result<Trunk> {
        let (near, far) = (self.new_port(), other.new_port());
        let peer = other.netns().full_name();
        ip_batch(
            self.netns(),
            &[
                format!("link add {near} type veth peer name {far} netns {peer}"),
                format!("link set {near} master br0 up"),
            ],
        )?;
        ip(other.netns(), &format!("link set {far} master br0 up"))?;
        let end = |bridge: &Self, name: String| -> Result<Port> {
            let ifindex = bridge.netns().ifindex(&name)?;
            bridge.record(ifindex, PortKind::Trunk);
            let node = "trunk".to_owned();
            Ok(Port { bridge: bridge.clone(), link: name.clone(), name, ifindex, node, mac: None })
        };
        Ok(Trunk { near: end(self, near)?, far: end(other, far)? })
    }
}

impl Port {
    /// The switch it belongs to.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Its name on the switch.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index on the switch.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The name of the namespace at the other end.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The name of the link at the other end.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// The MAC of the link at the other end.
    ///
    /// # Panics
    /// On a trunk port, which has none.
    pub fn mac(&self) -> Mac {
        self.mac.expect("a host hangs on this port")
    }

    /// From now on a thread of the kernel carries on what `node`, at the other end, sends: what follows is the business of the switch and of who
    /// hears the frame, as behind a network card. Else all of it runs within the sender's system call and counts as its processor time.
    /// Frames leave the node one by one for that (no TSO). For quiet times only: the thread waits for its turn as any other, and its queue holds 256
    /// frames, so that a burst of announcements would push adverts out of it. `apart` false: as before.
    ///
    /// # Errors
    /// When the machine's tools refuse, or its kernel has no threads for that (Linux 5.12).
    pub fn work_apart(&self, node: &Netns, apart: bool) -> Result<()> {
        let switch = self.bridge.netns();
        // What /sys shows of networks are those of who mounted it.
        let thread = |number: u8| {
            let set = format!("mount -t sysfs none /sys && echo {number} > /sys/class/net/{}/threaded", self.name);
            switch.tool("unshare", &["--mount", "sh", "-c", &set])
        };
        let (frames, polled) = if apart { ("off", "on") } else { ("on", "off") };
        node.tool("ethtool", &["-K", &self.link, "tso", frames, "gso", frames])?;
        // Only a device that is polled has the thread.
        if !apart {
            thread(0)?;
        }
        switch.tool("ethtool", &["-K", &self.name, "gro", polled])?;
        if apart {
            thread(1)?;
        }
        Ok(())
    }

    /// Takes the switch's side of the cable down or up: the node sees its carrier go.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn set_up(&self, up: bool) -> Result<()> {
        ip(self.bridge.netns(), &format!("link set {} {}", self.name, if up { "up" } else { "down" })).map(drop)
    }
}
