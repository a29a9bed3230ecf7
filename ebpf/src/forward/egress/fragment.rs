//! Later fragments of replies: they have no ports, so they follow what their first fragment said.
//!
//! The stack sends the first fragment first. A later one whose first was not seen passes as it is: it may be anybody's.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::forward::FragmentKey;

use super::frame::{Leaving, Packet};
use super::{rewrite, via};
use crate::maps;

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

/// A later fragment. `None`: it passes.
#[inline(always)]
pub(super) fn follow(ctx: &TcContext, leaving: &mut Leaving) -> Option<()> {
    let packet = &leaving.packet;
    // SAFETY: four bytes, copied at once.
    let &value = unsafe { maps::FRAGMENTS.get(key(packet)) }?;
    if value & REPLY == 0 {
        return None;
    }
    let slot = value as u16;
    let service = maps::SERVICES.get(u32::from(slot))?;
    if packet.source.addr != service.vip.addr {
        rewrite::address(ctx, packet, &service.vip)?;
    }
    let through = (value >> NODE_SHIFT) as u16 & 0x0fff;
    if through == 0 {
        return None;
    }
    let tuple = via::fragment_tuple(&packet.destination, &service.vip, packet.protocol);
    leaving.back = via::Back::new(tuple, 0, slot, via::Way::Through(through));
    Some(())
}
