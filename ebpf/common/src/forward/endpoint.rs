//! Endpoints of this node.

use crate::VipKey;

/// Flag: takes new flows.
pub const ENDPOINT_READY: u32 = 1;
/// Flag: takes no new flows, keeps those it has.
pub const ENDPOINT_DRAINING: u32 = 2;
/// Flag: a process in the host's network namespace.
pub const ENDPOINT_HOST: u32 = 4;
/// Flag: lies behind a router; no socket look-up is possible.
pub const ENDPOINT_REMOTE: u32 = 8;

/// An endpoint, by slot. All zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Address.
    pub address: VipKey,
    /// Port, network order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad0: u8,
    /// `ENDPOINT_*` bits.
    pub flags: u32,
    /// Network namespace id of the endpoint as this node's namespace names it (`RTM_GETNSID`); -1: the node's own
    /// (`BPF_F_CURRENT_NETNS`); below -1: unknown, no socket look-up.
    pub netns: i32,
    /// Service slot.
    pub service: u16,
    /// Always zero.
    pub pad1: u16,
}

/// Key of the reverse map: replies of endpoints that serve one VIP only can be rewritten without a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ReverseKey {
    /// Endpoint address.
    pub address: VipKey,
    /// Endpoint port, network order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 5],
}

/// Value of the reverse map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ReverseEntry {
    /// The only VIP it answers for.
    pub vip: VipKey,
    /// Port of the service, network order.
    pub port: u16,
    /// Service slot.
    pub service: u16,
    /// Always zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Endpoint>() == 32);
const _: () = assert!(size_of::<ReverseKey>() == 24);
const _: () = assert!(size_of::<ReverseEntry>() == 24);
