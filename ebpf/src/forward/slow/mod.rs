//! The slow program, reached by tail call: what is rare or long.
//!
//! IPv4 options, IPv6 extension headers, fragments, ICMP, and what a packet that does not fit is answered with. A packet goes the same way
//! as through the fast program once its headers are known. It passes byte-identically whatever turns out not to concern a VIP.

mod back;
mod echo;
mod error;
mod fragment;
mod site;
mod toobig;
mod walk;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use bascule_ebpf_common::forward::{Config, PacketDrop, SHIM_FINAL, SHIM_LEN, SHIM_REMOTE};

use crate::home::{self, Step};
use crate::ingress;
use crate::maps;
use crate::packet::{Packet, Skb, Xdp, forgotten};
use crate::parse::{self, IPPROTO_UDP, Ports, UDP};
use crate::request::{Request, Work};
use crate::service::Found;
use crate::tunnel;
use crate::verdict::{self, Verdict};
pub(crate) use site::{Abroad, Guests};
use toobig::Resize;
use walk::Shape;

#[xdp]
pub fn bascule_xdp_slow(ctx: XdpContext) -> u32 {
    verdict::xdp(&ctx, settled(&Xdp(&ctx)))
}

#[classifier]
pub fn bascule_tc_slow(ctx: TcContext) -> i32 {
    verdict::tc(&ctx, settled(&Skb(&ctx)))
}

/// Judges, and answers at once what does not fit: the tail call is not taken twice.
#[inline(always)]
fn settled<P: Packet + Resize + back::Emit>(packet: &P) -> Verdict {
    let (Some(config), Some(work)) = (maps::CONFIG.get(0), maps::work()) else { return Verdict::Pass };
    let mut fits = maps::fits();
    if fits <= maps::PINNED {
        let mut verdict = if fits == maps::WHOLE {
            judge(packet, config, work)
        } else {
            packet.prepare();
            work.quiet = false;
            Verdict::Slow(fits)
        };
        if let Verdict::Slow(from) = verdict {
            verdict = site::go_on(packet, config, work, from);
        }
        let Verdict::TooBig(most) = verdict else { return verdict };
        // Neither a later fragment nor an error is answered with an error (RFC 1122 section 3.2.2).
        if work.quiet {
            return Verdict::Drop(PacketDrop::TooBig);
        }
        fits = most;
    }
    let mut verdict = Verdict::Pass;
    tell(packet, config, work, fits, &mut verdict);
    verdict
}

/// Functions of their own, with stack frames of their own: what they build would not fit beside what their callers hold.
#[inline(never)]
fn tell<P: Packet + Resize>(packet: &P, config: &Config, work: &Work, fits: u32, verdict: &mut Verdict) {
    *verdict = toobig::tell(packet, config, work, fits);
}

#[inline(never)]
fn arrive<P: back::Emit>(packet: &P, config: &'static Config, work: &mut Work, shape: Shape, verdict: &mut Verdict) {
    *verdict = back::arrive(packet, config, work, shape);
}

#[inline(always)]
fn judge<P: Packet + back::Emit>(packet: &P, config: &'static Config, work: &mut Work) -> Verdict {
    packet.prepare();
    let Some(link) = parse::link(packet) else { return Verdict::Pass };
    work.link = link.bytes as u8;
    work.chain.outer = None;
    work.quiet = false;
    work.tunnelled = false;
    let mut shape = walk::ip(packet, link.bytes, link.v6, work);
    let tunnelled = encapsulated(packet, config, work, shape);
    if tunnelled {
        // Options or fragments around encapsulation: nobody of the group makes those.
        if work.ip.extra != 0 || shape != Shape::Whole {
            return Verdict::Drop(PacketDrop::EncapFormat);
        }
        let udp_length = match tunnel::envelope::<P, true>(packet, config, work) {
            Ok(length) => length,
            Err(verdict) => return verdict,
        };
        let at = work.outer.transport() + UDP + SHIM_LEN;
        let Some([first, _]) = packet.read::<[u8; 2]>(at) else { return Verdict::Drop(PacketDrop::EncapFormat) };
        shape = walk::ip(packet, at, first >> 4 == 6, work);
        if udp_length != UDP + SHIM_LEN + work.ip.length as usize && packet.segment() == 0 {
            return Verdict::Drop(PacketDrop::EncapFormat);
        }
        if work.shim.version_flags & (SHIM_FINAL | SHIM_REMOTE) == SHIM_FINAL {
            let mut verdict = Verdict::Pass;
            arrive(packet, config, work, shape, &mut verdict);
            return verdict;
        }
        if encapsulated(packet, config, work, shape) {
            return Verdict::Drop(PacketDrop::EncapNested);
        }
    }
    if !tunnelled && ingress::is_foreign(packet, config) {
        return Verdict::Pass;
    }
    work.quiet = matches!(shape, Shape::Later | Shape::Icmp);
    match shape {
        Shape::Whole | Shape::First => with_ports(packet, config, work, shape, tunnelled),
        Shape::Later => fragment::follow(packet, config, work, tunnelled),
        Shape::Icmp => error::judge(packet, config, work, tunnelled),
        Shape::Other if tunnelled => Verdict::Drop(PacketDrop::EncapService),
        Shape::Other => Verdict::Pass,
    }
}

/// Is it a packet to this node's tunnel port, as far as it has ports?
#[inline(always)]
fn encapsulated<P: Packet>(packet: &P, config: &Config, work: &Work, shape: Shape) -> bool {
    if !matches!(shape, Shape::Whole | Shape::First) || work.ip.protocol != IPPROTO_UDP {
        return false;
    }
    match packet.read::<Ports>(work.ip.transport()) {
        Some(ports) => ingress::is_tunnel(config, &work.ip, ports),
        None => false,
    }
}

/// The home step, at whom of this site it is asked for first.
#[inline(always)]
fn decide<P: Packet>(packet: &P, request: &mut Request) -> Step {
    if site::enter(request) != 0 {
        return forgotten(&request.work.step);
    }
    request.work.chain.settle(request.config.node);
    let step = home::decide(packet, request);
    site::missed(request);
    step
}

/// TCP and UDP behind options or extension headers, and first fragments of them.
#[inline(always)]
fn with_ports<P: Packet>(
    packet: &P,
    config: &'static Config,
    work: &mut Work,
    shape: Shape,
    tunnelled: bool,
) -> Verdict {
    let Some(ports) = packet.read::<Ports>(work.ip.transport()) else { return Verdict::Pass };
    let admitted = ingress::admit::<P, false>(packet, config, work, ports, tunnelled);
    let first = shape == Shape::First;
    let slot = match admitted {
        Ok(slot) => slot,
        Err(verdict) => {
            if first && let Verdict::Send(_) = verdict {
                fragment::remember_node(work, ports);
            }
            return verdict;
        }
    };
    let Some(service) = maps::SERVICES.get(slot) else { return Verdict::Pass };
    let mut request = Request { config, found: Found { slot, service }, work };
    let step = decide(packet, &mut request);
    if first {
        fragment::note(&request, step);
    }
    home::take(packet, &mut request, step)
}
