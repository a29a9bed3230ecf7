//! Nodes, sites, keys and the node's own facts.

use super::hash::siphash24;
use crate::VipKey;

/// Flag of a node: do not send to it; skip it in hop lists.
pub const NODE_DEAD: u32 = 1;
/// Flag of a node: this one.
pub const NODE_SELF: u32 = 2;
/// Flag of a node: `ifindex`, `source_mac` and `next_mac` are known; without it frames for the node are dropped and counted.
pub const NODE_RESOLVED: u32 = 4;

/// A node, by id, and how a frame reaches it. Ids are unique over all sites: both ends of a way make tags with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    /// Outer destination; its family is the outer family.
    pub address: VipKey,
    /// `NODE_*` bits.
    pub flags: u32,
    /// Device towards the node.
    pub ifindex: u32,
    /// MAC of that device.
    pub source_mac: [u8; 6],
    /// MAC of the next hop.
    pub next_mac: [u8; 6],
    /// Largest outer IP packet towards the node, in bytes.
    pub mtu: u16,
    /// Its site.
    pub site: u8,
    /// Always zero.
    pub pad0: [u8; 5],
    /// Always zero.
    pub pad1: [u64; 2],
}

/// Flag of a site: packets may be sent to it.
pub const SITE_REACHABLE: u16 = 1;
/// Flag of a site: it may not send with our VIPs as source, or what it sends does not reach our clients: replies to requests that came from there
/// go back through the node on which the request arrived.
pub const SITE_VIA_INGRESS: u16 = 2;

/// Gateways of another site, by its number. Entry 0 is no site (sites are numbered from 1 where there are others): its `gateways` are the numbers
/// of the other sites, nearest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Site {
    /// Nodes that take encapsulation for the site and live; the first `count` are valid.
    pub gateways: [u16; 14],
    /// How many.
    pub count: u16,
    /// `SITE_*` bits.
    pub flags: u16,
}

/// A tag key (SipHash, 128 bit), at [`key_index`]. Two slots for this site and for each pair with another one, chosen by [`crate::forward::SHIM_KEY`]: rotation writes the other slot everywhere, then moves
/// [`Config::key_slot`] everywhere, then clears the old slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Key {
    /// The key, little-endian halves.
    pub key: [u64; 2],
    /// 1: accept packets tagged with it.
    pub valid: u64,
}

/// Where in `KEYS` the key lies that is used with a site (0: with nodes of this one), by slot.
#[inline(always)]
#[must_use]
pub const fn key_index(site: u8, slot: u8) -> u32 {
    site as u32 * 2 + (slot & 1) as u32
}

/// The key of a pair of sites, made of a key that all of them share: two SipHash-2-4 of the pair, lower number first, under that key. Whoever
/// has the shared key has all of them; what it buys is that a tag of one pair is worth nothing for another.
#[must_use]
pub const fn pair_key(shared: [u64; 2], a: u8, b: u8) -> [u64; 2] {
    let pair = if a < b { (a as u64) << 8 | b as u64 } else { (b as u64) << 8 | a as u64 };
    [siphash24(shared, [pair, 1]), siphash24(shared, [pair, 2])]
}

/// Flag of the node's own facts: there are other sites; without it the programs know of none.
pub const CONFIG_SITES: u16 = 2;

/// Flag of the node's own facts: `OWN_MACS` has every MAC at which frames reach this node; others that a link shows are not for it.
pub const CONFIG_OWN_MACS: u16 = 1;

/// Flag of the node's own facts: another site was lost a moment ago. What nobody here knows may live there: it is dropped, not answered by a reset.
pub const CONFIG_HOLDS: u16 = 4;

/// Key of `OWN_MACS`: the six bytes in wire order as the low ones of a little-endian number.
#[must_use]
pub const fn mac_key(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// What the programs know of their own node. One entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Key of the flow hash, the same on all nodes of all sites.
    pub flow_key: [u64; 2],
    /// Outer source of IPv4 encapsulation.
    pub address4: VipKey,
    /// Outer source of IPv6 encapsulation.
    pub address6: VipKey,
    /// Own node id; 0: forwarding is off, every packet passes.
    pub node: u16,
    /// UDP port of the encapsulation, network order.
    pub tunnel_port: u16,
    /// Own site.
    pub site: u8,
    /// Slot of the tag key to send with, 0 or 1.
    pub key_slot: u8,
    /// `CONFIG_*` bits.
    pub flags: u16,
    /// Orphans a second and CPU that get the stack's own answer.
    pub orphan_rate: u32,
    /// ICMP and ICMPv6 packets of our own making a second and CPU.
    pub icmp_rate: u32,
    /// Packets a second and CPU that may ask another site.
    pub remote_rate: u32,
    /// Seconds without a packet after which a UDP flow is over (its entry is ignored).
    pub udp_idle_s: u32,
}

const _: () = assert!(size_of::<Node>() == 64);
const _: () = assert!(size_of::<Site>() == 32);
const _: () = assert!(size_of::<Key>() == 24);
const _: () = assert!(size_of::<Config>() == 72);
