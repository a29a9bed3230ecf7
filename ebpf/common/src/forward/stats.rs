//! Counters per service and per endpoint, per-CPU.

/// Traffic of one service, by slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceStats {
    /// Packets to the VIP that reached this node from clients.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// Flows opened here.
    pub new_flows: u64,
    /// Packets that nobody knew.
    pub orphans: u64,
    /// What clients asked for at this node: new connections (a SYN without ACK), of UDP datagrams. Counted where there are other sites
    /// ([`super::CONFIG_SITES`]), whoever takes it.
    pub asked: u64,
}

/// Traffic of one endpoint, by slot, with what it says of the endpoint's health without a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointStats {
    /// Packets delivered to it.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// SYNs delivered to it.
    pub syns: u64,
    /// SYN-ACKs it sent.
    pub syn_acks: u64,
    /// RSTs it sent.
    pub resets: u64,
    /// Packets it sent.
    pub replies: u64,
    /// Their bytes, from the IP header on.
    pub reply_bytes: u64,
    /// Flows opened towards it.
    pub new_flows: u64,
}

/// A token bucket of one CPU: `tokens` are packets; refilled by the programs from the rates in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Bucket {
    /// When it was last filled, nanoseconds of `CLOCK_BOOTTIME`.
    pub filled_ns: u64,
    /// What is left.
    pub tokens: u64,
}

/// Bucket of orphans that the stack may answer.
pub const BUCKET_ORPHAN: u32 = 0;
/// Bucket of ICMP of our own making.
pub const BUCKET_ICMP: u32 = 1;
/// Bucket of packets that may ask another site.
pub const BUCKET_REMOTE: u32 = 2;

const _: () = assert!(size_of::<ServiceStats>() == 40);
const _: () = assert!(size_of::<EndpointStats>() == 64);
const _: () = assert!(size_of::<Bucket>() == 16);
