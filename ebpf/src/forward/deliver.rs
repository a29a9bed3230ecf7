//! Delivery at this node: the destination becomes the endpoint's, the encapsulation goes, the stack takes over.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{Endpoint, PacketDrop, Tally};

use crate::encap::low_word;
use crate::local;
use crate::maps;
use crate::mss;
use crate::packet::{Change, Packet, Sum, corrected, difference, difference16, forgotten, halves16};
use crate::parse::{IPPROTO_UDP, Ip};
use crate::request::Request;
use crate::verdict::Verdict;

/// Gives the packet to the endpoint in `slot` by way of the stack; 0: as it is.
#[inline(always)]
pub(crate) fn to<P: Packet>(packet: &P, request: &mut Request, slot: u16) -> Verdict {
    let syn = request.work.kind.opens() && request.work.ip.protocol != IPPROTO_UDP;
    if let Some(endpoint) = local::endpoint(slot) {
        if translate(packet, request, endpoint).is_none() {
            return Verdict::Drop(PacketDrop::Malformed);
        }
        count(slot, request.work.ip.length, syn);
    }
    if syn {
        let service = request.found.service;
        let most = if request.work.ip.v6 { service.mss6 } else { service.mss4 };
        if mss::clamp(packet, request.work.ip.transport(), most, request.work.ip.v6) {
            maps::tally(Tally::MssClamped);
        }
    }
    unwrap(packet, request)
}

/// Takes the encapsulation off, if there is one, and lets the stack have the packet.
#[inline(always)]
pub(crate) fn unwrap<P: Packet>(packet: &P, request: &Request) -> Verdict {
    match request.work.chain.outer {
        Some(outer) if packet.decapsulate(request.inner(), outer).is_none() => Verdict::Drop(PacketDrop::Headroom),
        Some(_) | None => Verdict::Pass,
    }
}

/// Rewrites destination address and port, and the checksums over them.
#[inline(always)]
fn translate<P: Packet>(packet: &P, request: &mut Request, endpoint: &Endpoint) -> Option<()> {
    let udp = request.work.ip.protocol == IPPROTO_UDP;
    // Where the checksum lies: one place to the verifier, and not one for each protocol behind each header.
    request.work.checksum = (request.work.ip.transport() + if udp { 6 } else { 16 }) as u8;
    let (ip, checksum) = (&request.work.ip, usize::from(forgotten(&request.work.checksum)));
    let (udp, v6) = (forgotten(&ip.protocol) == IPPROTO_UDP, forgotten(&ip.v6));
    let pseudo = difference(&ip.destination, &endpoint.address);
    let plain = difference16(request.found.service.port, endpoint.port);
    packet.fix_transport(checksum, Change { pseudo, plain, udp, v6 })?;
    if !P::CALLS || request.found.service.port != endpoint.port {
        packet.store(ip.transport() + 2, &endpoint.port, Sum::Stays)?;
    }
    readdress(packet, ip, &endpoint.address, Sum::Stays)
}

/// Gives the packet's IP header the destination `address`. Over IPv6 that `sum`s, if nothing above makes up for it.
#[inline(always)]
pub(crate) fn readdress<P: Packet>(packet: &P, ip: &Ip, address: &VipKey, sum: Sum) -> Option<()> {
    if forgotten(&ip.v6) {
        return packet.store(ip.at() + 24, address, sum);
    }
    // Checksum, source and destination stand side by side: one store.
    let old: u16 = packet.read(ip.at() + 10)?;
    let checksum = corrected(old, u64::from(difference(&ip.destination, address)));
    let ([a, b], [c, d]) = (halves16(low_word(&ip.source)), halves16(low_word(address)));
    packet.store(ip.at() + 10, &[checksum, a, b, c, d], Sum::Stays)
}

#[inline(always)]
fn count(slot: u16, bytes: u32, syn: bool) {
    if let Some(stats) = maps::ENDPOINT_STATS.get_ptr_mut(u32::from(slot)) {
        // SAFETY: a valid per-CPU value; programs of one CPU's softirq level do not interleave on it.
        unsafe {
            (*stats).packets += 1;
            (*stats).bytes += u64::from(bytes);
            (*stats).syns += u64::from(syn);
        }
    }
}
