//! Encapsulation that arrives for this node: whether it may be believed, and what is in it.

use bascule_ebpf_common::forward::{
    Config, OVERHEAD_V4, OVERHEAD_V6, PacketDrop, SHIM_FINAL, SHIM_LEN, SHIM_REMOTE, ShimHead, Tally, key_index,
};

use crate::maps;
use crate::packet::{Packet, Room, Sum, difference16};
use crate::parse::{self, IPPROTO_UDP, Ip, Network, Ports, UDP, UdpHeader};
use crate::request::{Chain, Work, foreign};
use crate::service::Found;
use crate::verdict::Verdict;

/// Explicit congestion notification, the two low bits of TOS and traffic class (RFC 3168).
const ECN: u8 = 3;

/// Opens a packet to the tunnel port of this node, as far as that goes without a service: formats and the sender. The inner IP header
/// takes the place of the outer one; the ports behind it are given.
#[inline(always)]
pub(crate) fn open<P: Packet>(packet: &P, config: &Config, work: &mut Work) -> Result<Ports, Verdict> {
    let format = Verdict::Drop(PacketDrop::EncapFormat);
    let udp_length = envelope::<P, false>(packet, config, work)?;
    let at = work.outer.transport() + UDP + SHIM_LEN;
    let [first, _] = packet.read::<[u8; 2]>(at).ok_or(format)?;
    match parse::ip(packet, at, first >> 4 == 6, &mut work.ip) {
        Network::Plain => {}
        Network::Odd => return Err(Verdict::Slow(maps::WHOLE)),
        Network::Broken => return Err(format),
    }
    if packet.segment() == 0 && udp_length != UDP + SHIM_LEN + work.ip.length as usize {
        return Err(format);
    }
    let ports: Ports = packet.read(work.ip.transport()).ok_or(format)?;
    if work.ip.protocol == IPPROTO_UDP && ports.destination == config.tunnel_port {
        return Err(Verdict::Drop(PacketDrop::EncapNested));
    }
    Ok(ports)
}

/// Holds the outer headers to their formats and the sender to the peers; gives the length in the UDP header. Without `SITES`, what comes from
/// another site or back is the slow program's.
#[inline(always)]
pub(crate) fn envelope<P: Packet, const SITES: bool>(
    packet: &P,
    config: &Config,
    work: &mut Work,
) -> Result<usize, Verdict> {
    let format = Verdict::Drop(PacketDrop::EncapFormat);
    work.outer = work.ip;
    let outer = &work.outer;
    let aggregate = packet.segment() != 0;
    let udp: UdpHeader = packet.read(outer.transport()).ok_or(format)?;
    let udp_length = usize::from(u16::from_be(udp.length));
    let (start, length) = (outer.at(), outer.length as usize);
    if !aggregate && (packet.length() < start + length || length != outer.header() + udp_length) {
        return Err(format);
    }
    work.shim = packet.read(outer.transport() + UDP).ok_or(format)?;
    let head = work.shim.open().ok_or(format)?;
    if !SITES && (head.flags & SHIM_FINAL != 0 || crosses(&head, config)) {
        return Err(Verdict::Slow(maps::WHOLE));
    }
    // SAFETY: four bytes are copied at once.
    let sender = unsafe { maps::PEERS.get(outer.source) }.copied();
    work.site = match sender {
        Some(sender) if SITES && (head.flags & SHIM_FINAL != 0 || crosses(&head, config)) => {
            foreign(config, sender as u16)
        }
        Some(_) | None => 0,
    };
    if maps::KEYS.get(key_index(work.site, head.flags)).is_none_or(|key| key.valid != 1) {
        return Err(Verdict::Drop(PacketDrop::EncapTag));
    }
    let sender = sender.ok_or(Verdict::Drop(PacketDrop::EncapPeer))? as u16;
    if SITES && !speaks(&head, config, work.site) {
        return Err(Verdict::Drop(PacketDrop::EncapSite));
    }
    let room = Room { length: if outer.v6 { OVERHEAD_V6 } else { OVERHEAD_V4 } as u8, v6: outer.v6 };
    work.chain = chain(&head, sender, SITES && work.site != 0, room);
    Ok(udp_length)
}

/// Does a request come from another site with this very packet? (Nodes of this site number it from 1.)
#[inline(always)]
fn crosses(head: &ShimHead, config: &Config) -> bool {
    head.index == 0 && head.origin_site != config.site
}

/// May a node of `site` (0: of this one) say this? A request comes from its client's site, or from the first site that was asked to the second;
/// a reply from the site where the client's packet was sent; what nobody knew comes back to its origin.
#[inline(always)]
fn speaks(head: &ShimHead, config: &Config, site: u8) -> bool {
    let (remote, last) = (head.flags & SHIM_REMOTE != 0, head.flags & SHIM_FINAL != 0);
    let ours = head.origin_site == config.site;
    if site == 0 {
        return last || !crosses(head, config);
    }
    if head.index != 0 {
        return false;
    }
    match (last, remote) {
        (true, true) => ours,
        (true, false) | (false, false) => head.origin_site == site,
        (false, true) => head.origin_site == site || (head.second_site == config.site && !ours),
    }
}

/// Holds the shim in the work to the service and to its tag.
#[inline(always)]
pub(crate) fn trust(config: &Config, work: &Work, found: &Found) -> Result<(), Verdict> {
    let shim = &work.shim;
    if u16::from_be(shim.service) != found.service.number {
        return Err(Verdict::Drop(PacketDrop::EncapService));
    }
    let tag = Verdict::Drop(PacketDrop::EncapTag);
    let key = maps::KEYS.get(key_index(work.site, shim.version_flags)).ok_or(tag)?;
    if shim.verify(key.key, work.hash, work.chain.sender, config.node) { Ok(()) } else { Err(tag) }
}

/// Counts a packet that may be believed, and takes over what its way between nodes said.
#[inline(always)]
pub(crate) fn accept<P: Packet>(packet: &P, work: &mut Work) -> Result<(), Verdict> {
    maps::tally(Tally::Decapsulated);
    maps::hops(u32::from(work.chain.index));
    if work.outer.tos & ECN == ECN {
        mark_congestion(packet, &mut work.ip).ok_or(Verdict::Drop(PacketDrop::EncapFormat))?;
    }
    Ok(())
}

/// The chain that a shim carries; `guest`: from another site.
#[inline(always)]
fn chain(head: &ShimHead, sender: u16, guest: bool, outer: Room) -> Chain {
    let first = head.index == 0;
    Chain {
        index: head.index,
        // Two places are all there are.
        count: if head.count > 2 { 2 } else { head.count },
        // Who was asked already has used the first one.
        place: u8::from(!first),
        hops: u32::from(head.hops[0]) | u32::from(head.hops[1]) << 16,
        flags: head.flags,
        accept: head.accept,
        ingress: if first && !guest { sender } else { head.hops[0] },
        sender,
        origin_site: head.origin_site,
        second_site: head.second_site,
        epoch: head.epoch,
        outer: Some(outer),
    }
}

/// Congestion on the way between nodes becomes congestion of the inner packet, if that can say so (RFC 6040 section 4.2).
#[inline(always)]
fn mark_congestion<P: Packet>(packet: &P, ip: &mut Ip) -> Option<()> {
    if ip.tos & ECN == 0 || ip.tos & ECN == ECN {
        return Some(());
    }
    // Where it is sent on, the next outer header says so too.
    ip.tos |= ECN;
    let old: u16 = packet.read(ip.at())?;
    if ip.v6 {
        return packet.store(ip.at(), &(old | u16::from_ne_bytes([0, ECN << 4])), Sum::Changes);
    }
    let new = old | u16::from_ne_bytes([0, ECN]);
    packet.fix_ip(ip.at() + 10, difference16(old, new))?;
    packet.store(ip.at(), &new, Sum::Stays)
}
