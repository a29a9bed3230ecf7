//! What the test programs and their loader in `tests/support` (which includes this file) share.

/// Packets the shim can replay.
pub const MAX_PACKETS: u32 = 1 << 20;
/// Words of a packet that are restored before each run: 96 bytes hold Ethernet, two VLAN tags, IPv6 and TCP with options.
pub const HEAD_WORDS: usize = 12;
/// Packets shorter than the whole head have at least these words (64 bytes, the least Ethernet frame and what Show 4 asks for).
pub const SHORT_WORDS: usize = 8;

/// A golden packet: length and first bytes. What lies behind the head stays what test_run was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// Bytes of the frame, at least 64.
    pub length: u32,
    /// Always zero.
    pub pad: u32,
    /// The first 96 bytes.
    pub head: [u64; HEAD_WORDS],
}

/// What the shim and the generator do. One entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// Index of the next packet.
    pub next: u64,
    /// Packets in use; the index wraps here.
    pub count: u32,
    /// Device the generator sends by.
    pub ifindex: u32,
}

/// Slot of the sink's counters: UDP over IPv4.
pub const SINK_UDP: u32 = 0;
/// Slot of all other frames.
pub const SINK_OTHER: u32 = 1;
/// Slots of the sink's counters.
pub const SINK_SLOTS: u32 = 2;

const _: () = assert!(size_of::<Packet>() == 104);
const _: () = assert!(size_of::<Control>() == 16);
