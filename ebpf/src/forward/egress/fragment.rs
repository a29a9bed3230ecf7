//! Later fragments of replies: they have no ports, so they follow what their first fragment said.
//!
//! The stack sends the first fragment first. A later one whose first was not seen passes as it is: it may be anybody's.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::forward::{Config, FragmentKey};

use super::frame::Packet;
use super::{rewrite, via};
use crate::maps;
use crate::verdict::Verdict;

/// Marks values of this direction, above a node id (12 bits) and a service slot (13 bits in 16).
const REPLY: u32 = 1 << 31;
/// Where the node id lies.
const NODE_SHIFT: u32 = 16;

#[inline(always)]
fn key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.id,
        protocol: packet.protocol,
        pad: [0; 3],
    }
}

/// Notes what a first fragment became: its service and the node it goes through (0: none).
#[inline(always)]
pub(super) fn remember(packet: &Packet, service: u16, through: u16) {
    let value = REPLY | u32::from(through) << NODE_SHIFT | u32::from(service);
    // A table that refuses loses a datagram, which is what its sender must expect of any.
    let _ = maps::FRAGMENTS.insert(key(packet), value, 0);
}

/// A later fragment.
#[inline(always)]
pub(super) fn follow(ctx: &TcContext, config: &Config, packet: &Packet) -> Verdict {
    // SAFETY: four bytes, copied at once.
    let Some(&value) = (unsafe { maps::FRAGMENTS.get(key(packet)) }) else { return Verdict::Pass };
    if value & REPLY == 0 {
        return Verdict::Pass;
    }
    let Some(service) = maps::SERVICES.get(value & 0xffff) else { return Verdict::Pass };
    if packet.source.addr != service.vip.addr && rewrite::address(ctx, packet, &service.vip).is_none() {
        return Verdict::Pass;
    }
    let through = (value >> NODE_SHIFT) as u16 & 0x0fff;
    if through == 0 {
        return Verdict::Pass;
    }
    let hash = via::fragment_hash(config, &packet.destination, &service.vip, packet.protocol);
    via::send(ctx, config, packet, 0, service, hash, via::Way::Through(through))
}
