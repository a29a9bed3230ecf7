//! Flows of this node: the only state there is, kept where the socket is.

use crate::VipKey;

/// A flow by its translated tuple, which serves both directions: requests after the rewrite, replies before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Client address.
    pub client: VipKey,
    /// Endpoint address (with delegated delivery: the VIP).
    pub endpoint: VipKey,
    /// Client port, network order; identifier of an echo.
    pub client_port: u16,
    /// Endpoint port, network order.
    pub endpoint_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// Flag: FIN of the client seen.
pub const FLOW_FIN_CLIENT: u8 = 1;
/// Flag: FIN of the endpoint seen.
pub const FLOW_FIN_ENDPOINT: u8 = 2;
/// Flag: a RST was seen or both FINs: the next SYN may take the tuple.
pub const FLOW_CLOSING: u8 = 4;
/// Flag: replies go back encapsulated to `ingress`.
pub const FLOW_VIA_INGRESS: u8 = 8;
/// Flag: a packet of the flow was looked for from another site and found here: the node on which it arrived gets the next reply that fits, or a copy of
/// it, and learns by that where the flow lives.
pub const FLOW_REMOTE: u8 = 16;
/// Flag: the flow was marked with [`FLOW_REMOTE`] in the second of [`Flow::seen_s`], and is not marked again before the next one. Whoever writes
/// another second there takes it away.
pub const FLOW_ASKED: u8 = 32;

/// What is known of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The VIP the client speaks to. A request to another VIP with the same translated tuple is a collision: another endpoint is taken.
    pub vip: VipKey,
    /// Port of the service, network order.
    pub vip_port: u16,
    /// Service slot.
    pub service: u16,
    /// Endpoint slot.
    pub endpoint: u16,
    /// Node on which requests arrive.
    pub ingress: u16,
    /// When a packet was last seen, seconds of `CLOCK_BOOTTIME`; written at most once a second.
    pub seen_s: u32,
    /// `FLOW_*` bits.
    pub flags: u8,
    /// Site of `ingress`.
    pub site: u8,
    /// Always zero.
    pub pad: u16,
}

/// A half-open flow: lives from the SYN to the SYN-ACK, or as long as the flood lets it. The key is a [`FlowKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Half {
    /// The VIP.
    pub vip: VipKey,
    /// Port of the service, network order.
    pub vip_port: u16,
    /// Service slot.
    pub service: u16,
    /// Endpoint slot; with [`HALF_ORPHAN`], of an endpoint that was given an orphan.
    pub endpoint: u16,
    /// Node on which the SYN arrived.
    pub ingress: u16,
}

/// In [`Half::endpoint`]: no SYN made the entry. An orphan did, so that the endpoint's reset leaves as the VIP's; it opens nothing.
pub const HALF_ORPHAN: u16 = 0x8000;

/// A fragmented datagram, by what its fragments share (RFC 791 section 3.2, RFC 8200 section 4.5). Value: a [`FlowKey`]'s ports, or the
/// node its first fragment went to; the programs own the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Source.
    pub source: VipKey,
    /// Destination.
    pub destination: VipKey,
    /// Identification, network order (IPv4: in the low half).
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<Flow>() == 32);
const _: () = assert!(size_of::<Half>() == 24);
const _: () = assert!(size_of::<FragmentKey>() == 40);
