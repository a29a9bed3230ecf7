//! Encapsulation: outer IP, UDP, shim, and the link header towards the next node.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    NODE_RESOLVED, OVERHEAD_V4, OVERHEAD_V6, PacketDrop, SHIM_KEY, SHIM_LEN, Shim, ShimHead, entropy_port, key_index,
};

use crate::maps;
use crate::packet::{ETHERNET, Packet, Room, Sum, difference16, fold16, forgotten};
use crate::parse::{ETH_IPV4, ETH_IPV6, IPPROTO_UDP, Ip, Ipv4Header, Ipv6Header, Ports, TcpHeader, UDP, UdpHeader};
use crate::request::Request;
use crate::service::Kind;
use crate::verdict::Verdict;

/// TTL and hop limit of outer headers: more than any path between nodes, short of what a loop could do harm with.
const OUTER_HOPS: u8 = 8;
/// Do not fragment, network order.
const DF: u16 = 0x4000u16.to_be();

/// An Ethernet header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    kind: u16,
}

/// All that stands in front of the inner packet, over IPv4.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Outer4 {
    ip: Ipv4Header,
    udp: UdpHeader,
    shim: Shim,
}

/// The same over IPv6.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Outer6 {
    ip: Ipv6Header,
    udp: UdpHeader,
    shim: Shim,
}

const _: () = assert!(size_of::<Ethernet>() == ETHERNET);
const _: () = assert!(size_of::<Outer4>() == OVERHEAD_V4 && size_of::<Outer6>() == OVERHEAD_V6);

/// Where a packet goes on to.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Onward {
    /// Node id.
    pub(crate) to: u16,
    /// It comes from the client, so that this node is the router that counts its hop limit down, and can tell the client what is too big.
    pub(crate) first: bool,
    /// The other site it belongs to; 0: this one.
    pub(crate) site: u8,
    /// The shim, but for the key.
    pub(crate) head: ShimHead,
}

/// Sends the packet of `request` to another node.
#[inline(always)]
pub(crate) fn send<P: Packet>(packet: &P, request: &mut Request, onward: Onward) -> Verdict {
    let mut verdict = Verdict::Drop(PacketDrop::Unresolved);
    // By way of the map: the verifier knows nothing of what lies there, so that it follows all callers' ways as one.
    request.work.onward = onward;
    let ifindex = wrap(packet, request, &mut verdict);
    if ifindex == 0 { verdict } else { Verdict::Send(ifindex) }
}

/// A function of its own, with a stack frame of its own: what it builds would not fit beside what its callers hold. It gives the device by
/// which the packet goes; 0: `verdict` says why not. (With nothing to give it may end with a pointer into its frame in the register of
/// results, which the verifier refuses.)
#[inline(never)]
fn wrap<P: Packet>(packet: &P, request: &mut Request, verdict: &mut Verdict) -> u32 {
    match encapsulate(packet, request) {
        Verdict::Send(ifindex) => ifindex,
        other => {
            *verdict = other;
            0
        }
    }
}

#[inline(always)]
fn encapsulate<P: Packet>(packet: &P, request: &mut Request) -> Verdict {
    let Onward { to, first, site, head } = request.work.onward;
    request.work.next = to;
    let ip = &request.work.ip;
    let Some(node) = maps::NODES.get(u32::from(to)) else { return Verdict::Drop(PacketDrop::Unresolved) };
    let v6 = !is_v4(&node.address);
    let source = if v6 { &request.config.address6 } else { &request.config.address4 };
    if node.flags & NODE_RESOLVED == 0 || is_unset(source) {
        return Verdict::Drop(PacketDrop::Unresolved);
    }
    if first && ip.hops <= 1 {
        return Verdict::Drop(PacketDrop::HopLimit);
    }
    let room = room_over(v6);
    // Whether it may be cut or not: fragments of encapsulation would have to be put together by a program.
    if wire_length(packet, request) + room.bytes() > usize::from(node.mtu) {
        return if first {
            Verdict::TooBig(u32::from(node.mtu).saturating_sub(room.bytes() as u32))
        } else {
            Verdict::Drop(PacketDrop::TooBig)
        };
    }
    let Some(key) = maps::KEYS.get(key_index(site, request.config.key_slot)) else {
        return Verdict::Drop(PacketDrop::Unresolved);
    };
    let head = ShimHead { flags: head.flags & !SHIM_KEY | (request.config.key_slot & SHIM_KEY), ..head };
    // What was decided waits in the map, and so does the shim: the tag is then verified once, and not once for every way that leads
    // here or goes on from here.
    request.work.outer_v6 = v6;
    let sealed = head.seal(key.key, request.work.hash, request.config.node, to);
    // SAFETY: a place of our own, and both are 16 bytes of plain numbers. Volatile: made here, and not where it is used.
    unsafe { (&raw mut request.work.sealed).write_volatile(core::mem::transmute::<Shim, [u64; 2]>(sealed)) };
    let v6 = forgotten(&request.work.outer_v6);
    let (first, ip) = (forgotten(&request.work.onward.first), &request.work.ip);
    let source = if v6 { &request.config.address6 } else { &request.config.address4 };
    let room = room_over(v6);
    let (tos, inner) = (ip.tos, ip.length);
    if first && count_down(packet, ip).is_none() {
        return Verdict::Drop(PacketDrop::Malformed);
    }
    if packet.encapsulate(request.inner(), room).is_none() {
        return Verdict::Drop(PacketDrop::Headroom);
    }
    let length = (inner as usize + UDP + SHIM_LEN) as u16;
    let udp = UdpHeader {
        ports: Ports { source: entropy_port(request.work.hash).to_be(), destination: request.config.tunnel_port },
        length: length.to_be(),
        // None: over IPv4 by choice, over IPv6 as between configured tunnel ends (RFC 6935, RFC 6936); the tag says more.
        checksum: 0,
    };
    let ethernet = Ethernet {
        destination: node.next_mac,
        source: node.source_mac,
        kind: if v6 { ETH_IPV6 } else { ETH_IPV4 }.to_be(),
    };
    // SAFETY: as above.
    let shim = unsafe { core::mem::transmute::<[u64; 2], Shim>(request.work.sealed) };
    let written = if v6 {
        let ip = ipv6(tos, length, request.work.hash, source, &node.address);
        request.work.build.outer6 = Outer6 { ip, udp, shim };
        // SAFETY: just written.
        packet.store(ETHERNET, unsafe { &request.work.build.outer6 }, Sum::Changes)
    } else {
        let ip = ipv4(tos, length, low_word(source), low_word(&node.address));
        request.work.build.outer4 = Outer4 { ip, udp, shim };
        // SAFETY: just written.
        packet.store(ETHERNET, unsafe { &request.work.build.outer4 }, Sum::Changes)
    };
    if written.is_none() || packet.store(0, &ethernet, Sum::Stays).is_none() {
        return Verdict::Drop(PacketDrop::Headroom);
    }
    Verdict::Send(node.ifindex)
}

/// The encapsulation over a family.
#[inline(always)]
fn room_over(v6: bool) -> Room {
    Room { length: if v6 { OVERHEAD_V6 } else { OVERHEAD_V4 } as u8, v6 }
}

/// Bytes of the largest inner packet this becomes on the wire.
#[inline(always)]
fn wire_length<P: Packet>(packet: &P, request: &Request) -> usize {
    let segment = packet.segment();
    if segment == 0 {
        return request.work.ip.length as usize;
    }
    let header = match request.work.kind {
        Kind::Tcp(_) => match packet.read::<TcpHeader>(request.work.ip.transport()) {
            Some(tcp) => usize::from(tcp.offset >> 4) * 4,
            None => 0,
        },
        Kind::Udp | Kind::Quic => UDP,
    };
    request.work.ip.header() + header + segment
}

/// Counts the inner packet's hop limit down by one. Its neighbour is read from the packet: behind extension headers `ip.protocol` is another.
#[inline(always)]
pub(crate) fn count_down<P: Packet>(packet: &P, ip: &Ip) -> Option<()> {
    if ip.v6 {
        let [next, hops] = packet.read::<u16>(ip.at() + 6)?.to_ne_bytes();
        return packet.store(ip.at() + 6, &u16::from_ne_bytes([next, hops.wrapping_sub(1)]), Sum::Changes);
    }
    let old: u16 = packet.read(ip.at() + 8)?;
    let [hops, protocol] = old.to_ne_bytes();
    let new = u16::from_ne_bytes([hops.wrapping_sub(1), protocol]);
    packet.fix_ip(ip.at() + 10, difference16(old, new))?;
    packet.store(ip.at() + 8, &new, Sum::Stays)
}

/// The outer IPv4 header. ECN and TOS are the inner packet's (RFC 6040, normal mode).
#[inline(always)]
fn ipv4(tos: u8, udp_length: u16, source: u32, destination: u32) -> Ipv4Header {
    let mut header = Ipv4Header {
        version_length: 0x45,
        tos,
        length: udp_length.wrapping_add(20).to_be(),
        id: 0,
        fragment: DF,
        ttl: OUTER_HOPS,
        protocol: IPPROTO_UDP,
        checksum: 0,
        source,
        destination,
    };
    // In memory order throughout.
    let sum = u64::from(u16::from_ne_bytes([header.version_length, tos]))
        + u64::from(header.length)
        + u64::from(header.fragment)
        + u64::from(u16::from_ne_bytes([OUTER_HOPS, IPPROTO_UDP]))
        + u64::from(source)
        + u64::from(destination);
    header.checksum = !fold16(sum);
    header
}

/// The outer IPv6 header; the flow label spreads what the UDP port spreads (RFC 6438).
#[inline(always)]
fn ipv6(class: u8, udp_length: u16, hash: u64, source: &VipKey, destination: &VipKey) -> Ipv6Header {
    Ipv6Header {
        head: (6 << 28 | u32::from(class) << 20 | (hash as u32 & 0x000f_ffff)).to_be(),
        payload: udp_length.to_be(),
        next: IPPROTO_UDP,
        hops: OUTER_HOPS,
        source: *source,
        destination: *destination,
    }
}

/// The last four bytes of an address, in memory order: all of a mapped IPv4 address.
#[inline(always)]
pub(crate) fn low_word(key: &VipKey) -> u32 {
    (u128::from_ne_bytes(key.addr) >> 96) as u32
}

/// Is it an IPv4 address (`::ffff:0:0/96`)?
#[inline(always)]
pub(crate) fn is_v4(key: &VipKey) -> bool {
    let all = u128::from_le_bytes(key.addr);
    all as u64 == 0 && (all >> 64) as u32 == 0xffff_0000
}

/// Is there no address?
#[inline(always)]
fn is_unset(key: &VipKey) -> bool {
    u128::from_ne_bytes(key.addr) == 0
}
