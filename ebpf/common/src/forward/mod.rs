//! The map ABI of the forwarding plane: services, rows, nodes, endpoints, flows, the shim, and what both sides must compute alike.
//!
//! As in the fence every type is `repr(C)` without hidden padding. Integers are in host order unless a field says "network order";
//! addresses are in network order, IPv4 as `::ffff:a.b.c.d`. Times are `CLOCK_BOOTTIME`, in the unit a field names.
//!
//! Who writes what: user space writes every map but [`Flow`], the half-open table, fragments and counters, which the programs write, and
//! [`Watched`], which they fill and user space empties.
//! `layout-forward-v1.txt` is the golden description; [`FORWARD_STAMP`] is its digest.

mod endpoint;
mod flow;
mod hash;
mod node;
mod reason;
mod row;
mod service;
mod shim;
mod stats;
mod watch;

pub use endpoint::{
    ENDPOINT_DRAINING, ENDPOINT_HOST, ENDPOINT_READY, ENDPOINT_REMOTE, Endpoint, ReverseEntry, ReverseKey,
};
pub use flow::{
    FLOW_ASKED, FLOW_CLOSING, FLOW_FIN_CLIENT, FLOW_FIN_ENDPOINT, FLOW_REMOTE, FLOW_VIA_INGRESS, Flow, FlowKey,
    FragmentKey, HALF_ORPHAN, Half,
};
pub use hash::{Tuple, entropy_port, fast_range, siphash13, siphash24};
pub use node::{
    CONFIG_HOLDS, CONFIG_OWN_MACS, CONFIG_SITES, Config, Key, NODE_DEAD, NODE_RESOLVED, NODE_SELF, Node,
    SITE_REACHABLE, SITE_VIA_INGRESS, Site, key_index, mac_key, pair_key,
};
pub use reason::{HOP_BUCKETS, PacketDrop, Tally};
pub use row::{MAX_NODE_ID, NO_NODE, Row, SITE_BASE, is_site, site_of};
pub use service::{
    DELIVER_DELEGATE, DELIVER_DIRECT, DELIVER_NONE, RETURN_DIRECT, RETURN_VIA_INGRESS, SERVICE_ADDRESS,
    SERVICE_AFFINITY, SERVICE_ASK, SERVICE_EXCEPTIONS, SERVICE_QUIC, SERVICE_SOURCES, Service, ServiceKey, SourceKey,
    Table,
};
pub use shim::{
    HOP_ACCEPT, OVERHEAD_V4, OVERHEAD_V6, SHIM_ACCEPT, SHIM_FINAL, SHIM_KEY, SHIM_LAST, SHIM_LEN, SHIM_REMOTE,
    SHIM_VERSION, Shim, ShimHead,
};
pub use stats::{BUCKET_ICMP, BUCKET_ORPHAN, BUCKET_REMOTE, Bucket, EndpointStats, ServiceStats};
pub use watch::{MAX_WATCHED, WATCHED_ANSWERED, Watched};

/// Version of the forwarding ABI; part of the pin path and of [`FORWARD_STAMP`].
pub const FORWARD_VERSION: u32 = 1;

/// Digest of the forwarding ABI: version in the upper half, FNV-1a (32 bit) of its golden layout in the lower.
pub const FORWARD_STAMP: u64 =
    ((FORWARD_VERSION as u64) << 32) | crate::fnv1a(include_bytes!("../../layout-forward-v1.txt")) as u64;

/// Digest of what a flow is: FNV-1a (32 bit) over the lines of the golden layout that describe [`FlowKey`] and [`Flow`]. Flows move to
/// maps of another layout as long as this stays.
pub const FLOW_STAMP: u32 = flow_stamp(include_bytes!("../../layout-forward-v1.txt"));

const fn flow_stamp(layout: &[u8]) -> u32 {
    let (mut lines, mut at) = ([0u8; 512], 0);
    let (mut start, mut i) = (0, 0);
    while i < layout.len() {
        if layout[i] == b'\n' {
            if begins(layout, start, b"FlowKey ") || begins(layout, start, b"Flow ") {
                while start <= i {
                    // An index past the end stops the build: make room.
                    lines[at] = layout[start];
                    at += 1;
                    start += 1;
                }
            }
            start = i + 1;
        }
        i += 1;
    }
    assert!(at > 0);
    crate::fnv1a(&lines)
}

const fn begins(bytes: &[u8], at: usize, with: &[u8]) -> bool {
    let mut i = 0;
    while i < with.len() {
        if at + i >= bytes.len() || bytes[at + i] != with[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Services (array slots) of one node, one for each port and one for each VIP: 5,000 Services of a port or two. Slot 0 is never used, so
/// that a zero means "none".
pub const MAX_SERVICES: u32 = 16_384;
/// Keys that lead to services: every address and port, and one address entry per VIP.
pub const MAX_SERVICE_KEYS: u32 = 16384;
/// Rows of the slab: 32 MiB, shared by all tables of both levels. 5,000 Services of 20 endpoints take 2.7 Mi of them (509 for the nodes of each,
/// and where some are this node's up to 509 more), and a table that replaces another one stands beside it for a moment.
pub const MAX_ROWS: u32 = 1 << 22;
/// Nodes; slot 0 is never used. Equal to [`MAX_NODE_ID`] + 1.
pub const MAX_NODES: u32 = 4096;
/// Sites.
pub const MAX_SITES: u32 = 64;
/// Tag keys: two slots for this site and for each pair with another one.
pub const MAX_KEYS: u32 = 2 * MAX_SITES;
/// Outer source addresses that may encapsulate to us.
pub const MAX_PEERS: u32 = 8192;
/// Endpoints of this node; slot 0 is never used.
pub const MAX_ENDPOINTS: u32 = 8192;
/// Flows of this node by default; the loader may choose another size.
pub const DEFAULT_FLOWS: u32 = 524_288;
/// Half-open flows: what a SYN flood turns over.
pub const MAX_HALF: u32 = 65_536;
/// Endpoints that answer for one VIP only.
pub const MAX_REVERSE: u32 = 16_384;
/// Flows that are pinned to a node against their row.
pub const MAX_EXCEPTIONS: u32 = 65_536;
/// Fragmented datagrams under way.
pub const MAX_FRAGMENTS: u32 = 8192;
/// Source ranges of all services.
pub const MAX_SOURCES: u32 = 16_384;
/// Token buckets: `BUCKET_*` names them.
pub const MAX_BUCKETS: u32 = 8;
/// Devices frames may be redirected to.
pub const MAX_DEVICES: u32 = 256;
/// MACs of this node.
pub const MAX_MACS: u32 = 1024;
/// Slots of the per-CPU array of verdicts and drops.
pub const TALLIES: u32 = 128;
/// UDP port of the encapsulation where none is configured (unassigned by IANA).
pub const DEFAULT_TUNNEL_PORT: u16 = 7846;
/// A packet is handled by at most this many nodes of a site (the hop list, look-ahead, delivery): what tests hold.
pub const MAX_NODES_PER_SITE: u32 = 5;
/// Largest number of sites a packet may see.
pub const MAX_SITES_PER_PACKET: u32 = 3;
