//! Fragments of what clients send: the first has the ports and goes its way; each node on that way remembers it for the others.
//!
//! A later fragment whose first was not seen is dropped if it is for a VIP: nobody could tell whose it is. Between nodes the tag of a later
//! fragment is made with ports 0 and 0.

use bascule_ebpf_common::forward::{
    Config, FragmentKey, HOP_ACCEPT, PacketDrop, SERVICE_ADDRESS, ShimHead, Tally, Tuple,
};

use crate::deliver;
use crate::encap::{self, Onward};
use crate::home::{Step, Way};
use crate::local;
use crate::maps;
use crate::packet::{Packet, Sum};
use crate::parse::Ports;
use crate::request::{Request, Work, foreign};
use crate::rows::Place;
use crate::service::{self, Found};
use crate::tunnel;
use crate::verdict::Verdict;

/// Values of this direction: an endpoint here, or else a node; its number above the service's slot. Bit 31 is the replies' mark.
const LOCAL: u32 = 1 << 30;
const REPLY: u32 = 1 << 31;
const ID_SHIFT: u32 = 16;
const ID_MASK: u32 = 0x3fff;
/// Nodes that a fragment may pass after the first one.
const MAX_INDEX: u8 = 3;

/// A first fragment that was not decided in one go went to another node.
#[inline(always)]
pub(super) fn remember_sent(work: &Work) {
    remember(work, u32::from(work.next & !HOP_ACCEPT) << ID_SHIFT | u32::from(work.slot));
}

/// Under which the fragments of the packet in the work are remembered.
#[inline(always)]
pub(super) fn key(work: &Work) -> FragmentKey {
    FragmentKey {
        source: work.ip.source,
        destination: work.ip.destination,
        id: work.fragment,
        protocol: work.ip.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
fn remember(work: &Work, value: u32) {
    // A table that refuses loses a datagram, which is what its sender must expect of any.
    let _ = maps::FRAGMENTS.insert(key(work), value, 0);
}

/// A first fragment went to another node at once.
#[inline(always)]
pub(super) fn remember_node(work: &Work, ports: Ports) {
    let Some(found) = service::find(work.ip.destination, ports.destination, work.ip.protocol) else { return };
    remember(work, u32::from(work.next & !HOP_ACCEPT) << ID_SHIFT | found.slot);
}

/// Remembers where a first fragment goes.
#[inline(always)]
pub(super) fn note(request: &Request, step: Step) {
    let id = u32::from(step.id & !HOP_ACCEPT) << ID_SHIFT | request.found.slot;
    match step.way {
        Way::Deliver => remember(request.work, LOCAL | id),
        Way::Onward => remember(request.work, id),
        // What goes abroad is remembered as it leaves.
        Way::Abroad | Way::Drop | Way::Recover => {}
    }
}

/// A later fragment.
#[inline(always)]
pub(super) fn follow<P: Packet>(packet: &P, config: &'static Config, work: &mut Work, tunnelled: bool) -> Verdict {
    let Some(vip) = service::find(work.ip.destination, 0, 0) else {
        return if tunnelled { Verdict::Drop(PacketDrop::EncapService) } else { Verdict::Pass };
    };
    if vip.service.flags & SERVICE_ADDRESS == 0 {
        return Verdict::Pass;
    }
    // SAFETY: four bytes, copied at once.
    let value = match unsafe { maps::FRAGMENTS.get(key(work)) } {
        Some(&value) if value & REPLY == 0 => value,
        _ => return Verdict::Drop(PacketDrop::FragmentOrder),
    };
    let slot = value & 0xffff;
    let Some(service) = maps::SERVICES.get(slot) else { return Verdict::Drop(PacketDrop::FragmentOrder) };
    let found = Found { slot, service };
    work.hash = Tuple {
        client: work.ip.source,
        vip: work.ip.destination,
        client_port: 0,
        vip_port: 0,
        protocol: work.ip.protocol,
    }
    .hash(config.flow_key);
    if tunnelled {
        if let Err(verdict) = tunnel::trust(config, work, &found) {
            return verdict;
        }
        if let Err(verdict) = tunnel::accept(packet, work) {
            return verdict;
        }
    } else {
        found.count(work.ip.length, false);
    }
    let id = (value >> ID_SHIFT & ID_MASK) as u16;
    let mut request = Request { config, found, work };
    if value & LOCAL != 0 {
        return deliver(packet, &request, id);
    }
    onward(packet, &mut request, id, tunnelled)
}

/// Sends it after its first fragment.
#[inline(always)]
fn onward<P: Packet>(packet: &P, request: &mut Request, to: u16, tunnelled: bool) -> Verdict {
    let chain = &request.work.chain;
    let site = foreign(request.config, to);
    let (index, ingress) = if tunnelled { (chain.index + 1, chain.ingress) } else { (0, request.config.node) };
    let origin_site = if tunnelled { chain.origin_site } else { request.config.site };
    // As its first one: counted from 0 in the next site.
    let index = if site == 0 { index } else { 0 };
    if index > MAX_INDEX || to == request.config.node {
        return Verdict::Drop(PacketDrop::ChainEnd);
    }
    let head = ShimHead {
        flags: 0,
        index,
        count: 0,
        accept: false,
        service: request.found.service.number,
        epoch: Place::new(&raw const request.found.service.nodes, 0).table.epoch,
        origin_site,
        second_site: 0,
        hops: [if tunnelled || site != 0 { ingress } else { 0 }, 0],
    };
    let verdict = encap::send(packet, request, Onward { to, first: !tunnelled, site, head });
    if let Verdict::Send(_) = verdict {
        maps::tally(if tunnelled { Tally::NextHop } else { Tally::Encapsulated });
    }
    verdict
}

/// Gives it to the endpoint that has the first one: only the address changes, and the checksum over it lies in the first fragment.
#[inline(always)]
fn deliver<P: Packet>(packet: &P, request: &Request, slot: u16) -> Verdict {
    maps::tally(Tally::FlowHit);
    if let Some(endpoint) = local::endpoint(slot) {
        let done = deliver::readdress(packet, &request.work.ip, &endpoint.address, Sum::Changes);
        if done.is_none() {
            return Verdict::Drop(PacketDrop::Malformed);
        }
    }
    deliver::unwrap(packet, request)
}
