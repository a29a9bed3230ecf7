//! Reading a packet as far as balancing cares: link header with tags, IPv4 and IPv6 without extras, TCP, UDP.
//!
//! Nothing here judges. What has options, extension headers or fragments is [`Network::Odd`] and left to the slow program.

use bascule_ebpf_common::VipKey;

use crate::packet::{ETHERNET, Packet, copy};

/// EtherTypes (IEEE 802 numbers).
pub(crate) const ETH_IPV4: u16 = 0x0800;
pub(crate) const ETH_VLAN: u16 = 0x8100;
pub(crate) const ETH_IPV6: u16 = 0x86dd;
pub(crate) const ETH_QINQ: u16 = 0x88a8;
/// VLAN tags read over: a customer's and a provider's; a third is nobody's.
pub(crate) const MAX_TAGS: usize = 2;

/// IP protocol numbers (IANA).
pub(crate) const IPPROTO_TCP: u8 = 6;
pub(crate) const IPPROTO_UDP: u8 = 17;

/// Bytes of an IPv4 header without options, and of an IPv6 header.
pub(crate) const IPV4: usize = 20;
pub(crate) const IPV6: usize = 40;
/// Bytes of a TCP header without options, and of a UDP header.
pub(crate) const TCP: usize = 20;
pub(crate) const UDP: usize = 8;

/// More fragments, and the offset (RFC 791 section 3.1).
const IPV4_FRAGMENT: u16 = 0x3fff;

/// TCP flags (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// An IPv4 header, as it lies in the packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv4Header {
    pub(crate) version_length: u8,
    pub(crate) tos: u8,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

impl Ipv4Header {
    /// A header without options, payload or addresses.
    pub(crate) const EMPTY: Self = Self {
        version_length: 0x45,
        tos: 0,
        length: 0,
        id: 0,
        fragment: 0,
        ttl: 0,
        protocol: IPPROTO_TCP,
        checksum: 0,
        source: 0,
        destination: 0,
    };
}

/// An IPv6 header, as it lies in the packet (RFC 8200 section 3).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv6Header {
    /// Version, traffic class, flow label.
    pub(crate) head: u32,
    pub(crate) payload: u16,
    pub(crate) next: u8,
    pub(crate) hops: u8,
    pub(crate) source: VipKey,
    pub(crate) destination: VipKey,
}

/// A TCP header without options, as it lies in the packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TcpHeader {
    pub(crate) ports: Ports,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) checksum: u16,
    pub(crate) urgent: u16,
}

/// A UDP header, as it lies in the packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UdpHeader {
    pub(crate) ports: Ports,
    pub(crate) length: u16,
    pub(crate) checksum: u16,
}

/// What TCP and UDP begin with, network order.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ports {
    pub(crate) source: u16,
    pub(crate) destination: u16,
}

const _: () = assert!(size_of::<Ipv4Header>() == IPV4 && size_of::<Ipv6Header>() == IPV6);
const _: () = assert!(size_of::<TcpHeader>() == TCP && size_of::<UdpHeader>() == UDP);

/// The link header of an IP packet.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    /// Its bytes, with tags.
    pub(crate) bytes: usize,
    /// IPv6 rather than IPv4.
    pub(crate) v6: bool,
}

/// What stands behind a link header or an encapsulation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// TCP or UDP directly behind an IP header without extras.
    Plain,
    /// IP, but not that.
    Odd,
    /// No IP header.
    Broken,
}

/// An IP header, either version.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ip {
    pub(crate) source: VipKey,
    pub(crate) destination: VipKey,
    /// Bytes of the packet by its own word.
    pub(crate) length: u32,
    /// Offset in the frame. A byte, so that the verifier knows a bound wherever it is read from.
    pub(crate) start: u8,
    pub(crate) v6: bool,
    /// TOS or traffic class.
    pub(crate) tos: u8,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    pub(crate) protocol: u8,
    /// Bytes of options or extension headers: the slow program alone meets any.
    pub(crate) extra: u8,
    /// It is the first fragment of a longer one.
    pub(crate) partial: bool,
}

impl Ip {
    /// Bytes of the header.
    #[inline(always)]
    pub(crate) fn header(&self) -> usize {
        usize::from(self.extra) + if self.v6 { IPV6 } else { IPV4 }
    }

    /// Offset of the header.
    #[inline(always)]
    pub(crate) fn at(&self) -> usize {
        usize::from(self.start)
    }

    /// Offset of the transport header.
    #[inline(always)]
    pub(crate) fn transport(&self) -> usize {
        self.at() + self.header()
    }
}

/// Reads the link header; `None`: no IP behind it.
#[inline(always)]
pub(crate) fn link<P: Packet>(packet: &P) -> Option<Link> {
    let mut ethertype = u16::from_be(packet.read(ETHERNET - 2)?);
    let mut bytes = ETHERNET;
    for _ in 0..MAX_TAGS {
        if ethertype != ETH_VLAN && ethertype != ETH_QINQ {
            break;
        }
        ethertype = u16::from_be(packet.read(bytes + 2)?);
        bytes += 4;
    }
    if ethertype != ETH_IPV4 && ethertype != ETH_IPV6 {
        return None;
    }
    // What follows is verified once and not once for every number of tags.
    Some(Link { bytes: forget(bytes), v6: ethertype == ETH_IPV6 })
}

/// Reads the IP header at `at` into `ip`.
#[inline(always)]
pub(crate) fn ip<P: Packet>(packet: &P, at: usize, v6: bool, ip: &mut Ip) -> Network {
    ip.start = at as u8;
    ip.v6 = v6;
    ip.extra = 0;
    ip.partial = false;
    if v6 { ipv6(packet, at, ip) } else { ipv4(packet, at, ip) }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, at: usize, ip: &mut Ip) -> Network {
    let Some(h) = packet.read::<Ipv4Header>(at) else { return Network::Broken };
    if h.version_length >> 4 != 4 {
        return Network::Broken;
    }
    let fragment = u16::from_be(h.fragment);
    if h.version_length != 0x45
        || fragment & IPV4_FRAGMENT != 0
        || (h.protocol != IPPROTO_TCP && h.protocol != IPPROTO_UDP)
    {
        return Network::Odd;
    }
    ip.length = u32::from(u16::from_be(h.length));
    ip.tos = h.tos;
    ip.hops = h.ttl;
    ip.protocol = h.protocol;
    ip.source = VipKey::v4(h.source.to_ne_bytes());
    ip.destination = VipKey::v4(h.destination.to_ne_bytes());
    Network::Plain
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, at: usize, ip: &mut Ip) -> Network {
    let Some(h) = packet.read::<Ipv6Header>(at) else { return Network::Broken };
    let head = u32::from_be(h.head);
    if head >> 28 != 6 {
        return Network::Broken;
    }
    if h.next != IPPROTO_TCP && h.next != IPPROTO_UDP {
        return Network::Odd;
    }
    ip.length = IPV6 as u32 + u32::from(u16::from_be(h.payload));
    ip.tos = (head >> 20) as u8;
    ip.hops = h.hops;
    ip.protocol = h.next;
    ip.source = copy(&h.source);
    ip.destination = copy(&h.destination);
    Network::Plain
}

/// Makes the verifier forget what it knows of an offset below 256 (it does not track bytes on the stack).
#[inline(always)]
pub(crate) fn forget(offset: usize) -> usize {
    let mut cell = offset as u8;
    // SAFETY: a local variable, written and read through one pointer to it.
    unsafe {
        (&raw mut cell).write_volatile(offset as u8);
        usize::from((&raw const cell).read_volatile())
    }
}
