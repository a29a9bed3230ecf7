//! Services: from an address and port to the slot, and what a packet for it is.

use aya_ebpf::maps::lpm_trie::Key;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Config, PacketDrop, SERVICE_AFFINITY, SERVICE_QUIC, SERVICE_SOURCES, Service, ServiceKey, SourceKey, Tuple,
};

use crate::maps;
use crate::packet::{Packet, halves, opaque};
use crate::parse::{ACK, IPPROTO_TCP, Ip, SYN, TCP, TcpHeader, UDP, UdpHeader};

/// A service by slot.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) slot: u32,
    pub(crate) service: &'static Service,
}

/// What a packet is to the flow it belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP, with its flags.
    Tcp(u8),
    /// UDP within a flow, or where that cannot be told.
    Udp,
    /// UDP that opens a flow: a QUIC Initial or 0-RTT packet.
    Quic,
}

impl Kind {
    /// Opens a flow, and belongs to none that exists.
    #[inline(always)]
    pub(crate) fn opens(self) -> bool {
        match self {
            Self::Tcp(flags) => flags & (SYN | ACK) == SYN,
            Self::Udp => false,
            Self::Quic => true,
        }
    }

    /// What a site's capacity is told in: a new connection, of UDP a datagram.
    #[inline(always)]
    pub(crate) fn asks(self) -> bool {
        match self {
            Self::Tcp(_) => self.opens(),
            Self::Udp | Self::Quic => true,
        }
    }

    /// TCP flags; none for UDP.
    #[inline(always)]
    pub(crate) fn flags(self) -> u8 {
        match self {
            Self::Tcp(flags) => flags,
            Self::Udp | Self::Quic => 0,
        }
    }
}

/// The service that `vip`, `port` (network order) and `protocol` lead to.
#[inline(always)]
pub(crate) fn find(vip: VipKey, port: u16, protocol: u8) -> Option<Found> {
    // SAFETY: four bytes are copied at once; a concurrent update can at worst give the old or the new slot.
    let slot = unsafe { maps::SERVICE_KEYS.get(service_key(vip, port, protocol)) }.copied()?;
    Some(Found { slot, service: maps::SERVICES.get(slot)? })
}

/// The key of a service, put together of words: padding is zeroed byte by byte otherwise, by a function.
#[inline(always)]
fn service_key(vip: VipKey, port: u16, protocol: u8) -> ServiceKey {
    const { assert!(size_of::<ServiceKey>() == 24) };
    let [low, high] = halves(&vip);
    let words = [low, high, u64::from(port) | u64::from(protocol) << 16];
    // SAFETY: both are 24 bytes of plain numbers; the layout is the ABI's (port, protocol, padding behind the address).
    unsafe { core::mem::transmute::<[u64; 3], ServiceKey>(words) }
}

impl Found {
    /// May this source connect?
    #[inline(always)]
    pub(crate) fn admits(&self, source: &VipKey) -> bool {
        if self.service.flags & SERVICE_SOURCES == 0 {
            return true;
        }
        let key = SourceKey { prefix: 160, slot: self.slot.to_be_bytes(), address: source.addr };
        // SAFETY: both are a prefix length and twenty bytes (`SourceKey` is asserted to be 24 bytes); the trie's key asks for no alignment.
        maps::SOURCES.get(unsafe { &*(&raw const key).cast::<Key<[u8; 20]>>() }).is_some()
    }

    /// The keyed hash of the flow of `client` and `client_port` (network order).
    #[inline(always)]
    pub(crate) fn hash(&self, config: &Config, client: VipKey, vip: VipKey, ports: (u16, u16), protocol: u8) -> u64 {
        // Without a branch, or all of the hash would be verified for a port and for none.
        let counts =
            opaque((self.service.flags & SERVICE_AFFINITY) as usize / SERVICE_AFFINITY as usize).wrapping_sub(1);
        let client_port = ports.0 & counts as u16;
        Tuple { client, vip, client_port, vip_port: ports.1, protocol }.hash(config.flow_key)
    }

    /// Counts a packet that a client sent, and whether it asks for something.
    #[inline(always)]
    pub(crate) fn count(&self, bytes: u32, asks: bool) {
        if let Some(stats) = maps::SERVICE_STATS.get_ptr_mut(self.slot) {
            // SAFETY: a valid per-CPU value; programs of one CPU's softirq level do not interleave on it.
            unsafe {
                (*stats).packets += 1;
                (*stats).bytes += u64::from(bytes);
                if asks {
                    (*stats).asked += 1;
                }
            }
        }
    }

    /// Counts a flow opened here towards the endpoint in `endpoint`.
    #[inline(always)]
    pub(crate) fn count_new(&self, endpoint: u16) {
        if let Some(stats) = maps::SERVICE_STATS.get_ptr_mut(self.slot) {
            // SAFETY: as above.
            unsafe { (*stats).new_flows += 1 };
        }
        if let Some(stats) = maps::ENDPOINT_STATS.get_ptr_mut(u32::from(endpoint)) {
            // SAFETY: as above.
            unsafe { (*stats).new_flows += 1 };
        }
    }

    /// Counts a packet nobody knew.
    #[inline(always)]
    pub(crate) fn count_orphan(&self) {
        if let Some(stats) = maps::SERVICE_STATS.get_ptr_mut(self.slot) {
            // SAFETY: as above.
            unsafe { (*stats).orphans += 1 };
        }
    }

    /// Reads the transport header of a packet for the service, and holds it to its lengths.
    #[inline(always)]
    pub(crate) fn transport<P: Packet>(&self, packet: &P, ip: &Ip) -> Result<Kind, PacketDrop> {
        if packet.length() < ip.at() + ip.length as usize {
            return Err(PacketDrop::Malformed);
        }
        if ip.protocol == IPPROTO_TCP {
            let tcp: TcpHeader = packet.read(ip.transport()).ok_or(PacketDrop::Malformed)?;
            let length = usize::from(tcp.offset >> 4) * 4;
            if length < TCP || ip.header() + length > ip.length as usize {
                return Err(PacketDrop::Malformed);
            }
            return Ok(Kind::Tcp(tcp.flags));
        }
        let udp: UdpHeader = packet.read(ip.transport()).ok_or(PacketDrop::Malformed)?;
        let length = usize::from(u16::from_be(udp.length));
        // An aggregate's header may count all of it or one segment; a first fragment's counts the whole datagram.
        if length < UDP || (ip.header() + length > ip.length as usize && packet.segment() == 0 && !ip.partial) {
            return Err(PacketDrop::Malformed);
        }
        if self.service.flags & SERVICE_QUIC != 0 && opens_quic(packet, ip.transport() + UDP, length - UDP) {
            return Ok(Kind::Quic);
        }
        Ok(Kind::Udp)
    }
}

/// QUIC versions (RFC 9000 section 15, RFC 9369 section 3.1), and their long packet types that open a connection.
const QUIC_V1: u32 = 1;
const QUIC_V2: u32 = 0x6b33_43cf;

/// Is it a long header that opens a connection: Initial or 0-RTT, or a version we do not know, which only a server that is new to
/// the connection answers (version negotiation, RFC 9000 section 6)?
#[inline(always)]
fn opens_quic<P: Packet>(packet: &P, at: usize, length: usize) -> bool {
    let (Some([first, _]), Some(version)) = (packet.read::<[u8; 2]>(at), packet.read::<u32>(at + 1)) else {
        return false;
    };
    if length < 5 || first & 0x80 == 0 {
        return false;
    }
    let kind = first >> 4 & 3;
    match u32::from_be(version) {
        // Version negotiation comes from servers only.
        0 => false,
        QUIC_V1 => kind <= 1,
        QUIC_V2 => kind == 1 || kind == 2,
        _ => true,
    }
}
