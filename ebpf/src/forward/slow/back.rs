//! A reply that comes back to the node on which its request arrived: out of its encapsulation and on to the client.
//!
//! The stack need not take it: its source is an address this node may hold itself. So the way is looked up here. A neighbour that is not resolved
//! is found by the helper in tc; in XDP by the stack, which gets the packet without its encapsulation and forwards it, once or twice.

use aya_ebpf::cty::c_int;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{Config, FlowKey, PacketDrop, SERVICE_EXCEPTIONS, Tally, Tuple};

use super::fragment::key;
use super::walk::Shape;
use crate::egress::FINISHED;
use crate::encap::{self, low_word};
use crate::maps;
use crate::packet::{ETHERNET, Packet, Skb, Sum, Xdp, same};
use crate::parse::{IPPROTO_TCP, IPPROTO_UDP, IPV4, Ipv4Header, Ipv6Header, Ports};
use crate::request::Work;
use crate::service::{self, Found};
use crate::tunnel;
use crate::verdict::Verdict;

/// Address families of the look-up, and its answers (linux/socket.h, linux/bpf.h).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const FOUND: i64 = 0;
const NO_NEIGHBOUR: i64 = 7;
/// Marks what is remembered of a reply's fragments.
const REPLY: u32 = 1 << 31;
/// Bytes of an ICMP header.
const ICMP: usize = 8;

/// `struct bpf_fib_lookup` (linux/bpf.h).
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Way {
    family: u8,
    protocol: u8,
    ports: [u16; 2],
    length: u16,
    ifindex: u32,
    tos: u32,
    source: [u32; 4],
    destination: [u32; 4],
    vlan: u32,
    source_mac: [u8; 6],
    next_mac: [u8; 6],
}

const _: () = assert!(size_of::<Way>() == 64);

/// Hands a packet to a link; the two hooks differ.
pub(super) trait Emit: Packet {
    /// Sends what is left once the encapsulation is gone; `found` says whether the neighbour is known.
    fn emit(&self, work: &Work, way: &Way, found: bool) -> Verdict;
}

impl Emit for Xdp<'_> {
    #[inline(always)]
    fn emit(&self, work: &Work, way: &Way, found: bool) -> Verdict {
        if bare(self, work).is_none() {
            return Verdict::Drop(PacketDrop::Headroom);
        }
        if !found {
            return Verdict::Pass;
        }
        let addresses: [[u8; 6]; 2] = [way.next_mac, way.source_mac];
        match self.store(0, &addresses, Sum::Stays) {
            Some(()) => Verdict::Send(way.ifindex),
            None => Verdict::Drop(PacketDrop::Headroom),
        }
    }
}

impl Emit for Skb<'_> {
    #[inline(always)]
    fn emit(&self, work: &Work, way: &Way, _found: bool) -> Verdict {
        if bare(self, work).is_none() {
            return Verdict::Drop(PacketDrop::Headroom);
        }
        // SAFETY: `skb` is the program's context; the field is writable in a classifier.
        unsafe { (*self.0.skb.skb).tc_index = FINISHED };
        Verdict::Neighbour(way.ifindex)
    }
}

/// This node is a router to the packet: its hop limit counts down, and the encapsulation goes.
#[inline(always)]
fn bare<P: Packet>(packet: &P, work: &Work) -> Option<()> {
    encap::count_down(packet, &work.ip)?;
    packet.decapsulate(work.inner(), work.chain.outer?)
}

/// Judges a packet whose shim says FINAL; the outer headers are in order and its sender is a peer. A copy of a reply is here to teach, and goes
/// no further.
#[inline(always)]
pub(super) fn arrive<P: Emit>(packet: &P, config: &'static Config, work: &mut Work, shape: Shape) -> Verdict {
    let Some(found) = flow(packet, config, work, shape) else { return Verdict::Drop(PacketDrop::EncapService) };
    if let Err(verdict) = tunnel::trust(config, work, &found) {
        return verdict;
    }
    let teaches = work.site != 0 && shape == Shape::Whole && work.ip.protocol == IPPROTO_TCP;
    if work.chain.accept {
        if !teaches {
            return Verdict::Drop(PacketDrop::EncapFormat);
        }
        maps::tally(Tally::Decapsulated);
        let _nothing = learn(work, &found);
        return Verdict::Taken;
    }
    if work.ip.hops <= 1 {
        return Verdict::Drop(PacketDrop::HopLimit);
    }
    // A tag would be that of the way between nodes.
    if usize::from(work.link) != ETHERNET {
        return Verdict::Drop(PacketDrop::Unresolved);
    }
    if shape == Shape::First {
        // A table that refuses loses a datagram, which is what its sender must expect of any.
        let _ = maps::FRAGMENTS.insert(key(work), REPLY | found.slot, 0);
    }
    let mut way = way(packet, work);
    // SAFETY: the program's context and a structure of the size given.
    let answer = unsafe { bpf_fib_lookup(packet.context(), (&raw mut way).cast(), size_of::<Way>() as c_int, 0) };
    if answer != FOUND && answer != NO_NEIGHBOUR {
        return Verdict::Drop(PacketDrop::Unresolved);
    }
    if let Err(verdict) = tunnel::accept(packet, work) {
        return verdict;
    }
    if teaches {
        let _nothing = learn(work, &found);
    }
    packet.emit(work, &way, answer == FOUND)
}

/// A node of another site answers for a flow whose packets come in here: they go straight there from now on. A function of its own: it is
/// called from two places. What it gives means nothing.
#[inline(never)]
fn learn(work: &mut Work, found: &Found) -> u32 {
    if found.service.flags & SERVICE_EXCEPTIONS == 0 {
        return 0;
    }
    work.key = FlowKey {
        client: work.ip.destination,
        endpoint: work.ip.source,
        client_port: work.client_port,
        endpoint_port: found.service.port,
        protocol: IPPROTO_TCP,
        pad: [0; 3],
    };
    let sender = u32::from(work.chain.sender);
    // SAFETY: compared at once.
    if unsafe { maps::EXCEPTIONS.get(&work.key) } != Some(&sender) {
        // A table that refuses leaves the flow to the chain.
        if maps::EXCEPTIONS.insert(&work.key, &sender, 0).is_ok() {
            maps::tally(Tally::Learned);
        }
    }
    0
}

#[inline(always)]
fn way<P: Packet>(packet: &P, work: &Work) -> Way {
    let address = |key: &VipKey| {
        let all = u128::from_ne_bytes(key.addr);
        if work.ip.v6 {
            [all as u32, (all >> 32) as u32, (all >> 64) as u32, (all >> 96) as u32]
        } else {
            [low_word(key), 0, 0, 0]
        }
    };
    Way {
        family: if work.ip.v6 { AF_INET6 } else { AF_INET },
        protocol: work.ip.protocol,
        ports: [0; 2],
        length: 0,
        ifindex: packet.ifindex(),
        tos: 0,
        source: address(&work.ip.source),
        destination: address(&work.ip.destination),
        vlan: 0,
        source_mac: [0; 6],
        next_mac: [0; 6],
    }
}

/// The service that answers, and the hash of the request, which the tag is made with.
#[inline(always)]
fn flow<P: Packet>(packet: &P, config: &Config, work: &mut Work, shape: Shape) -> Option<Found> {
    match shape {
        Shape::Whole | Shape::First => {
            let ports: Ports = packet.read(work.ip.transport())?;
            let found = service::find(work.ip.source, ports.source, work.ip.protocol)?;
            work.client_port = ports.destination;
            let pair = (ports.destination, ports.source);
            work.hash = found.hash(config, work.ip.destination, work.ip.source, pair, work.ip.protocol);
            Some(found)
        }
        Shape::Later => {
            // SAFETY: four bytes, copied at once.
            let value = *unsafe { maps::FRAGMENTS.get(key(work)) }?;
            if value & REPLY == 0 {
                return None;
            }
            let tuple = Tuple {
                client: work.ip.destination,
                vip: work.ip.source,
                client_port: 0,
                vip_port: 0,
                protocol: work.ip.protocol,
            };
            work.hash = tuple.hash(config.flow_key);
            let slot = value & 0xffff;
            Some(Found { slot, service: maps::SERVICES.get(slot)? })
        }
        Shape::Icmp => {
            let (vip, ports, protocol) = quote(packet, work)?;
            let found = service::find(vip, ports.destination, protocol)?;
            let pair = (ports.source, ports.destination);
            work.hash = found.hash(config, work.ip.destination, vip, pair, protocol);
            Some(found)
        }
        Shape::Other => None,
    }
}

/// The request that an error quotes: the VIP it was for, its ports and protocol.
#[inline(always)]
fn quote<P: Packet>(packet: &P, work: &Work) -> Option<(VipKey, Ports, u8)> {
    let at = work.ip.transport() + ICMP;
    if at > 0xff {
        return None;
    }
    let (client, vip, protocol, header) = if work.ip.v6 {
        let h: Ipv6Header = packet.read(at)?;
        (h.source, h.destination, h.next, size_of::<Ipv6Header>())
    } else {
        let h: Ipv4Header = packet.read(at)?;
        let header = usize::from(h.version_length & 0x0f) * 4;
        if header < IPV4 {
            return None;
        }
        let address = |word: u32| VipKey::v4(word.to_ne_bytes());
        (address(h.source), address(h.destination), h.protocol, header)
    };
    if !same(&client, &work.ip.destination) || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) {
        return None;
    }
    Some((vip, packet.read(at + header)?, protocol))
}
