//! Services: what a VIP, port and protocol lead to.

use crate::VipKey;

/// Key of the service map. An address entry ([`SERVICE_ADDRESS`]) has port and protocol 0: it says "this is a VIP of ours" to echo
/// requests, ICMP errors and later fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: VipKey,
    /// Port, network order; 0 in an address entry.
    pub port: u16,
    /// IP protocol number; 0 in an address entry.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 5],
}

impl ServiceKey {
    /// Key of `vip`, `port` (network order) and `protocol`.
    #[inline(always)]
    #[must_use]
    pub const fn new(vip: VipKey, port: u16, protocol: u8) -> Self {
        Self { vip, port, protocol, pad: [0; 5] }
    }
}

/// Where a table lies in the slab. One aligned word in [`Service`], written at once: a packet sees the old table or the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// First row.
    pub base: u32,
    /// Number of rows, a prime, at most 65,521; 0: no table.
    pub rows: u16,
    /// Counts table changes of the service; travels in the shim.
    pub epoch: u16,
}

impl Table {
    /// The table as it lies in the map.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.base as u64 | (self.rows as u64) << 32 | (self.epoch as u64) << 48
    }

    /// A table from the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self { base: word as u32, rows: (word >> 32) as u16, epoch: (word >> 48) as u16 }
    }
}

/// Flag: an address entry and no service.
pub const SERVICE_ADDRESS: u32 = 1;
/// Flag: the flow hash leaves the client port out (sessionAffinity ClientIP).
pub const SERVICE_AFFINITY: u32 = 2;
/// Flag: only sources in the source map may connect.
pub const SERVICE_SOURCES: u32 = 4;
/// Flag: look into the exceptions first, for what opens no flow.
pub const SERVICE_EXCEPTIONS: u32 = 8;
/// Flag: UDP with state: rows that moved lately ask the previous home before the new one claims a flow.
pub const SERVICE_ASK: u32 = 16;
/// Flag: UDP that is QUIC (RFC 9000): long headers of type Initial and 0-RTT open flows.
pub const SERVICE_QUIC: u32 = 32;

/// Delivery: the programs rewrite the destination to an endpoint.
pub const DELIVER_DIRECT: u8 = 0;
/// Delivery: decapsulate, leave the VIP as destination, hand to the stack (kube-proxy, Cilium).
pub const DELIVER_DELEGATE: u8 = 1;
/// Delivery: announce only; the programs pass every packet.
pub const DELIVER_NONE: u8 = 2;

/// Return: the home node answers the client itself (DSR).
pub const RETURN_DIRECT: u8 = 0;
/// Return: replies go back through the node on which the request arrived.
pub const RETURN_VIA_INGRESS: u8 = 1;

/// A service, by slot. All zero is no service. The array is mapped into memory: `nodes` and `endpoints` are each written with one
/// aligned store, the rest before the key that leads here exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// [`Table`] word over nodes, the same on every node of every site.
    pub nodes: u64,
    /// [`Table`] word over the endpoints of this node; rows 0: none here.
    pub endpoints: u64,
    /// `SERVICE_*` bits.
    pub flags: u32,
    /// Number that names the service on every node (in the shim).
    pub number: u16,
    /// Port, network order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// `DELIVER_*`.
    pub delivery: u8,
    /// `RETURN_*`.
    pub returns: u8,
    /// Always zero.
    pub pad0: u8,
    /// How long a previous home is asked after a change, in minutes (drain time).
    pub drain_minutes: u16,
    /// Largest MSS that a SYN or SYN-ACK of an IPv4 flow may carry; 0: unclamped.
    pub mss4: u16,
    /// The same for IPv6.
    pub mss6: u16,
    /// Always zero.
    pub pad1: u16,
    /// The VIP.
    pub vip: VipKey,
    /// Always zero.
    pub pad2: u64,
}

/// Key of the source ranges: a longest-prefix match over slot and address. `prefix` counts bits of both: 32 for the slot, then the
/// bits of the mapped address (an IPv4 /24 is 32 + 96 + 24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceKey {
    /// Prefix length in bits, 32..=160.
    pub prefix: u32,
    /// Service slot, network order (the trie compares bytes from the first).
    pub slot: [u8; 4],
    /// Source address.
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<ServiceKey>() == 24);
const _: () = assert!(size_of::<Service>() == 64);
const _: () = assert!(size_of::<SourceKey>() == 24);
