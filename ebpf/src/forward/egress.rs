//! Replies: what an endpoint of this node sends to a client gets the VIP as its source again, as it leaves by an uplink.
//!
//! The rules are in `docs/forwarding.md`. The program stands behind the fence in the chain of the uplink: the fence sees what the node
//! itself says, and never a frame that got its VIP here. Packets are read and written through helpers only: frames may be non-linear,
//! aggregated (GSO), and their checksums half done, which `bpf_l4_csum_replace` knows and a program cannot.

mod error;
mod fragment;
mod frame;
mod lookup;
mod mss;
mod rewrite;
mod via;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::forward::{Config, RETURN_VIA_INGRESS, Tally};

use crate::local::flow_key;
use crate::maps;
use crate::packet::forgotten;
use crate::verdict::{self, Verdict};
pub(crate) use frame::Leaving;
use frame::{Kind, Packet, Ports};
use lookup::Found;

/// Marks a reply that this node emits for another one (`__sk_buff::tc_index`): it is finished, whatever the tables here say of its
/// tuple. The number is the handle of our filters.
pub(crate) const FINISHED: u32 = 0xba5c;

/// TCP flags (RFC 9293 section 3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[classifier]
pub fn bascule_tc_egress(ctx: TcContext) -> i32 {
    verdict::tc(&ctx, judge(&ctx))
}

#[inline(always)]
fn judge(ctx: &TcContext) -> Verdict {
    let Some(config) = maps::CONFIG.get(0) else { return Verdict::Pass };
    if config.node == 0 || skb(ctx).tc_index == FINISHED {
        return Verdict::Pass;
    }
    let Some(work) = maps::work() else { return Verdict::Pass };
    let leaving = &mut work.leaving;
    if frame::parse(ctx, leaving).is_none() {
        return Verdict::Pass;
    }
    let back = match forgotten(&leaving.packet.kind) {
        Kind::Whole | Kind::First => reply(ctx, config, leaving),
        Kind::Later => fragment::follow(ctx, leaving),
        Kind::Error => error::back(ctx, config, leaving),
    };
    // What it is and where it goes lies in the room by now: it is encapsulated, and verified, in one place.
    if back.is_some() { via::send(ctx, config, leaving) } else { Verdict::Pass }
}

/// A packet with ports: the flow table knows it, or the half-open table, or it can only be a reply. `None`: it passes.
#[inline(always)]
fn reply(ctx: &TcContext, config: &Config, leaving: &mut Leaving) -> Option<()> {
    frame::ports(ctx, leaving)?;
    let (packet, ports) = (&leaving.packet, forgotten(&leaving.ports));
    // A SYN opens a connection of the endpoint's own; it answers nobody.
    if ports.flags & (SYN | ACK) == SYN {
        return None;
    }
    let key = flow_key(&packet.destination, &packet.source, (ports.destination, ports.source), packet.protocol);
    leaving.found = lookup::find(&key, ports.flags)?;
    let found = forgotten(&leaving.found);
    maps::tally(found.by);
    note(ctx, packet, &ports, &found);
    let service = maps::SERVICES.get(u32::from(found.service))?;
    rewrite::source(ctx, packet, ports.source, &found.vip, found.vip_port)?;
    if ports.flags & (SYN | ACK) == SYN | ACK {
        let limit = if packet.family == 4 { service.mss4 } else { service.mss6 };
        if mss::clamp(ctx, packet.l4(), limit) {
            maps::tally(Tally::MssClamped);
        }
    }
    let through = via::node(config, service.returns == RETURN_VIA_INGRESS || found.via, found.ingress);
    if let Kind::First = packet.kind {
        fragment::remember(packet, found.service, through);
    }
    let copy = through == 0 && found.tells && via::copies(ctx, config, packet, found.ingress);
    if through == 0 && !copy {
        return None;
    }
    if found.tells {
        lookup::told(&key);
    }
    let way = if copy { via::Way::Copy(found.ingress) } else { via::Way::Through(through) };
    let tuple = via::tuple(service, &packet.destination, &found, ports.destination, packet.protocol);
    leaving.back = via::Back::new(tuple, u16::from(ports.header), found.service, way);
    Some(())
}

/// Counts the reply for its endpoint.
#[inline(always)]
fn note(ctx: &TcContext, packet: &Packet, ports: &Ports, found: &Found) {
    let Some(stats) = maps::ENDPOINT_STATS.get_ptr_mut(u32::from(found.endpoint)) else { return };
    let skb = skb(ctx);
    // A GSO frame is what its segments will be; only the first of them has headers in it.
    let packets = if skb.gso_segs > 1 { skb.gso_segs } else { 1 };
    // SAFETY: a valid per-CPU value; programs of one CPU's softirq level do not interleave on it.
    unsafe {
        (*stats).replies += u64::from(packets);
        (*stats).reply_bytes += u64::from(skb.len.wrapping_sub(packet.l3() as u32));
        if ports.flags & (SYN | ACK) == SYN | ACK {
            (*stats).syn_acks += 1;
        }
        if ports.flags & RST != 0 {
            (*stats).resets += 1;
        }
    }
}

/// The context's fields.
#[inline(always)]
fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: `skb` is the program's context; the verifier checks each field that is read.
    unsafe { &*ctx.skb.skb }
}
