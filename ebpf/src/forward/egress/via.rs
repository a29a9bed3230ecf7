//! Replies that go back through the node on which the request arrived: encapsulated here, emitted there.
//!
//! The shim says FINAL and has no hops: it marks a packet whose source is the VIP. The tag's hash is that of the request (of the tuple
//! an ICMP error quotes), so that both sides find it in the packet. A later fragment has no ports: its are 0 and 0.
//!
//! Where the node is only to learn who has the flow, it gets a copy of the reply's packet, which it does not emit: the shim says so in
//! the bit that lets a request open a flow. The reply itself goes straight.

use aya_ebpf::helpers::generated::bpf_clone_redirect;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    Config, NODE_DEAD, NODE_RESOLVED, OVERHEAD_V4, OVERHEAD_V6, PacketDrop, SERVICE_AFFINITY, SHIM_FINAL, SHIM_KEY,
    SITE_VIA_INGRESS, Service, Shim, ShimHead, Table, Tally, Tuple, entropy_port, key_index,
};

use super::frame::{Kind, Leaving, Packet, UDP};
use super::lookup::Found;
use crate::encap::low_word;
use crate::maps;
use crate::packet::{ETHERNET, Inner, Packet as _, Room, Skb, Sum, fold16};
use crate::parse::{ETH_IPV4, ETH_IPV6, IPV4, Ipv4Header, Ipv6Header, Ports, UdpHeader};
use crate::verdict::Verdict;

/// TTL and hop limit of what we encapsulate: no chain is longer.
const HOPS: u8 = 8;
/// Version and header length of IPv4 without options; do not fragment.
const IPV4_VERSION_LENGTH: u8 = 0x45;
const DF: u16 = 0x4000;
/// The part of the flow label that the hash fills (RFC 6437: 20 bits).
const FLOW_LABEL: u64 = 0xf_ffff;

/// Everything before the packet, over IPv4 and over IPv6.
#[derive(Clone, Copy)]
#[repr(C)]
struct Outer4 {
    ip: Ipv4Header,
    udp: UdpHeader,
    shim: Shim,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Outer6 {
    ip: Ipv6Header,
    udp: UdpHeader,
    shim: Shim,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    kind: u16,
}

const _: () = assert!(size_of::<Outer4>() == OVERHEAD_V4 && size_of::<Outer6>() == OVERHEAD_V6);
const _: () = assert!(size_of::<Ethernet>() == ETHERNET);

/// Where the encapsulated packet goes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// Through this node to the client.
    Through(u16),
    /// A copy of it to this node, and itself straight to the client.
    Copy(u16),
}

/// What is encapsulated, and where it goes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Back {
    /// Of the request.
    tuple: Tuple,
    /// Bytes of the upper header.
    header: u16,
    /// Slot of the service.
    service: u16,
    to: u16,
    copy: bool,
}

impl Back {
    #[inline(always)]
    pub(super) fn new(tuple: Tuple, header: u16, service: u16, way: Way) -> Self {
        let (to, copy) = match way {
            Way::Through(to) => (to, false),
            Way::Copy(to) => (to, true),
        };
        Self { tuple, header, service, to, copy }
    }
}

/// The node a reply goes through; 0: straight to the client. A node that is dead emits nothing: then straight is all there is.
#[inline(always)]
pub(super) fn node(config: &Config, wanted: bool, ingress: u16) -> u16 {
    if ingress == 0 || ingress == config.node {
        return 0;
    }
    let Some(node) = maps::NODES.get(u32::from(ingress)) else { return 0 };
    if node.flags & NODE_DEAD != 0 {
        return 0;
    }
    if wanted || is_asked(config, node.site) { ingress } else { 0 }
}

/// Can `ingress` get a copy of this reply? One packet, whole, that fits, in a frame without tags, so that nothing has to be undone but the room
/// before it; and a way to the node must be known.
#[inline(always)]
pub(super) fn copies(ctx: &TcContext, config: &Config, packet: &Packet, ingress: u16) -> bool {
    let skb = Skb(ctx);
    if ingress == 0 || ingress == config.node || packet.l3() != ETHERNET || skb.is_tagged() || skb.segment() != 0 {
        return false;
    }
    if !matches!(packet.kind, Kind::Whole) {
        return false;
    }
    let Some(node) = maps::NODES.get(u32::from(ingress)) else { return false };
    node.flags & (NODE_RESOLVED | NODE_DEAD) == NODE_RESOLVED
        && skb.length() - ETHERNET + OVERHEAD_V6 <= usize::from(node.mtu)
}

/// Bytes of the largest packet that a reply becomes on the wire, before it is encapsulated; `header` is the length of its upper header.
#[inline(always)]
fn wire(ctx: &TcContext, packet: &Packet, header: usize) -> usize {
    let skb = Skb(ctx);
    let segment = skb.segment();
    if segment == 0 { skb.length() - packet.l3() } else { packet.l4() - packet.l3() + header + segment }
}

/// Must replies to requests from this site go back there?
#[inline(always)]
fn is_asked(config: &Config, site: u8) -> bool {
    site != config.site && maps::SITES.get(u32::from(site)).is_some_and(|site| site.flags & SITE_VIA_INGRESS != 0)
}

/// What the request that a reply answers shows.
#[inline(always)]
pub(super) fn tuple(service: &Service, client: &VipKey, found: &Found, client_port: u16, protocol: u8) -> Tuple {
    let client_port = if service.flags & SERVICE_AFFINITY == 0 { client_port } else { 0 };
    Tuple { client: *client, vip: found.vip, client_port, vip_port: found.vip_port, protocol }
}

/// What every later fragment between a client and a VIP shows.
#[inline(always)]
pub(super) fn fragment_tuple(client: &VipKey, vip: &VipKey, protocol: u8) -> Tuple {
    Tuple { client: *client, vip: *vip, client_port: 0, vip_port: 0, protocol }
}

/// Encapsulates the (rewritten) packet as `leaving.back` says. Of a copy nothing is left but the copy.
#[inline(always)]
pub(super) fn send(ctx: &TcContext, config: &Config, leaving: &Leaving) -> Verdict {
    let skb = Skb(ctx);
    let packet = &leaving.packet;
    let back = &leaving.back;
    let (to, copy, header) = (back.to, back.copy, usize::from(back.header));
    let Some(service) = maps::SERVICES.get(u32::from(back.service)) else {
        return Verdict::Drop(PacketDrop::Unresolved);
    };
    let hash = back.tuple.hash(config.flow_key);
    let Some(node) = maps::NODES.get(u32::from(to)) else { return Verdict::Drop(PacketDrop::Unresolved) };
    let v6 = !mapped(&node.address);
    let own = if v6 { &config.address6 } else { &config.address4 };
    if node.flags & NODE_RESOLVED == 0 || own.addr == [0; 16] {
        return Verdict::Drop(PacketDrop::Unresolved);
    }
    let site = if node.site == config.site { 0 } else { node.site };
    let Some(key) = maps::KEYS.get(key_index(site, config.key_slot)) else {
        return Verdict::Drop(PacketDrop::Unresolved);
    };
    let tos = packet.tos;

    let bytes = if v6 { OVERHEAD_V6 } else { OVERHEAD_V4 };
    let inner = skb.length() - packet.l3();
    if wire(ctx, packet, header) + bytes > usize::from(node.mtu) {
        return Verdict::Drop(PacketDrop::TooBig);
    }
    let head = ShimHead {
        flags: SHIM_FINAL | if config.key_slot == 0 { 0 } else { SHIM_KEY },
        index: 0,
        count: 0,
        accept: copy,
        service: service.number,
        epoch: Table::from_word(service.nodes).epoch,
        origin_site: config.site,
        second_site: 0,
        hops: [0; 2],
    };
    let shim = head.seal(key.key, hash, config.node, to);
    let room = Room { length: bytes as u8, v6 };
    let Some(link) = skb.read::<Ethernet>(0) else { return Verdict::Drop(PacketDrop::Headroom) };
    let made = if copy {
        skb.lend(bytes)
    } else {
        skb.encapsulate(Inner { link: packet.l3(), at: packet.l3(), v6: packet.family == 6 }, room)
    };
    if made.is_none() {
        return Verdict::Drop(PacketDrop::Headroom);
    }
    let udp = UdpHeader {
        ports: Ports { source: entropy_port(hash).to_be(), destination: config.tunnel_port },
        length: length(inner + bytes - if v6 { 40 } else { IPV4 }),
        checksum: 0,
    };
    let written = if v6 {
        let ip = Ipv6Header {
            head: (6 << 28 | u32::from(tos) << 20 | (hash & FLOW_LABEL) as u32).to_be(),
            payload: udp.length,
            next: UDP,
            hops: HOPS,
            source: *own,
            destination: node.address,
        };
        skb.store(ETHERNET, &Outer6 { ip, udp, shim }, Sum::Changes)
    } else {
        let mut ip = Ipv4Header {
            version_length: IPV4_VERSION_LENGTH,
            tos,
            length: length(inner + bytes),
            id: 0,
            fragment: DF.to_be(),
            ttl: HOPS,
            protocol: UDP,
            checksum: 0,
            source: low_word(own),
            destination: low_word(&node.address),
        };
        ip.checksum = checksum(&ip);
        skb.store(ETHERNET, &Outer4 { ip, udp, shim }, Sum::Changes)
    };
    let kind: u16 = if v6 { ETH_IPV6 } else { ETH_IPV4 };
    let ethernet = Ethernet { destination: node.next_mac, source: node.source_mac, kind: kind.to_be() };
    if written.is_none() || skb.store(0, &ethernet, Sum::Stays).is_none() {
        return Verdict::Drop(PacketDrop::Headroom);
    }
    if !copy {
        maps::tally(Tally::ReplyVia);
        return Verdict::Send(node.ifindex);
    }
    maps::tally(Tally::Told);
    // SAFETY: `skb` is the program's context; pointers into the frame are not kept over the call. A copy that does not leave tells nothing, and
    // the first packet of another second that takes the long way asks for one again.
    let _left = unsafe { bpf_clone_redirect(ctx.skb.skb, node.ifindex, 0) };
    match skb.take_back(bytes).and_then(|()| skb.store(0, &link, Sum::Stays)) {
        Some(()) => Verdict::Pass,
        None => Verdict::Drop(PacketDrop::Headroom),
    }
}

/// IPv4-mapped (RFC 4291 section 2.5.5.2)?
#[inline(always)]
fn mapped(key: &VipKey) -> bool {
    (u128::from_be_bytes(key.addr) >> 32) as u64 == 0xffff && u128::from_be_bytes(key.addr) >> 96 == 0
}

/// A length field. An aggregate is longer than the field can say; the kernel writes it anew into every segment.
#[inline(always)]
fn length(bytes: usize) -> u16 {
    (if bytes > 0xffff { 0xffff } else { bytes as u16 }).to_be()
}

/// The checksum of an IPv4 header whose own is zero.
#[inline(always)]
fn checksum(ip: &Ipv4Header) -> u16 {
    let words = u64::from(u16::from_ne_bytes([ip.version_length, ip.tos]))
        + u64::from(ip.length)
        + u64::from(ip.fragment)
        + u64::from(u16::from_ne_bytes([ip.ttl, ip.protocol]))
        + u64::from(ip.source)
        + u64::from(ip.destination);
    !fold16(words)
}
