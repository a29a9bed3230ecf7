//! What this node may hear.

use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::{ADVERT_HOPS, AdvertKey, DropReason, Heard, VipEntry};

use crate::Verdict;
use crate::frame::{self, ARP_REQUEST, Arp, Handshake, Ip, NDP_ADVERT, NDP_SOLICIT, Network, Side};
use crate::maps;
use crate::shard::{CLOSED, HERE, Shard, delivery, forwarded, mac, need_answer};

/// Judges a frame that arrived.
#[inline(always)]
pub(crate) fn judge(ctx: &TcContext) -> Verdict {
    let Some(frame) = frame::parse(ctx) else { return Verdict::Pass };
    // SAFETY: `skb` is the program's context; `ifindex` is readable in a classifier.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    match frame.network {
        Network::Arp(arp) => judge_arp(&arp, ifindex, &frame.source_mac),
        Network::Ip(ip) => judge_ip(ctx, &ip, ifindex, &frame.source_mac),
    }
}

#[inline(always)]
fn judge_arp(arp: &Arp, ifindex: u32, source_mac: &[u8; 6]) -> Verdict {
    if let Some(entry) = maps::vip(&arp.sender) {
        notice_rival(entry, ifindex, source_mac);
    }
    // A reply is never an order to answer; a request by the VIP for itself is an announcement.
    if arp.operation != ARP_REQUEST || arp.sender.addr == arp.target.addr {
        return Verdict::Pass;
    }
    match maps::vip(&arp.target) {
        Some(entry) => need_answer(entry, ifindex, DropReason::IngressSecondLink, DropReason::IngressAnswer),
        None => Verdict::Pass,
    }
}

#[inline(always)]
fn judge_ip(ctx: &TcContext, ip: &Ip, ifindex: u32, source_mac: &[u8; 6]) -> Verdict {
    notice_advert(ctx, ip, ifindex, source_mac);
    if let Some(kind) = frame::ndp_type(ctx, ip)
        && (kind == NDP_SOLICIT || kind == NDP_ADVERT)
        && let Some(target) = frame::ndp_target(ctx, ip)
        && let Some(entry) = maps::vip(&target)
    {
        if kind == NDP_ADVERT {
            notice_rival(entry, ifindex, source_mac);
            return Verdict::Pass;
        }
        if ip.source.addr == target.addr {
            return Verdict::Pass;
        }
        return need_answer(entry, ifindex, DropReason::IngressSecondLink, DropReason::IngressAnswer);
    }
    let Some(entry) = maps::vip(&ip.destination) else { return Verdict::Pass };
    match delivery(entry) {
        HERE => Verdict::Pass,
        // Before a hand-over's rule: what the forwarding plane serves needs no successor.
        _ if forwarded(ctx, ip, Side::Destination) => Verdict::Pass,
        CLOSED => Verdict::Drop(DropReason::IngressDeliver),
        successor if frame::handshake(ctx, ip) == Some(Handshake::Syn) => {
            hand_on(ctx, entry, ifindex, mac(successor), source_mac)
        }
        _ => Verdict::Pass,
    }
}

/// Sends a first segment back out of its link, to the node that serves new connections by now: accepted here, the rest of its handshake
/// would be reset there; dropped, its client would wait a second. From the successor itself it does not go back.
#[inline(always)]
fn hand_on(ctx: &TcContext, entry: VipEntry, ifindex: u32, mac: [u8; 6], source_mac: &[u8; 6]) -> Verdict {
    let (true, true, Some(own)) = (entry.ifindex == ifindex, mac != *source_mac, maps::link_mac(ifindex)) else {
        return Verdict::Drop(DropReason::IngressDeliver);
    };
    if ctx.store(0, &mac, 0).is_err() || ctx.store(6, &own, 0).is_err() {
        return Verdict::Drop(DropReason::IngressDeliver);
    }
    // SAFETY: the helper has no precondition; flags 0 is egress. It refuses nothing but other flags.
    let _redirect = unsafe { bpf_redirect(ifindex, 0) };
    Verdict::HandOn
}

/// An advert of another node for a virtual router of ours, as far as a program can check it; it passes in any case.
#[inline(always)]
fn notice_advert(ctx: &TcContext, ip: &Ip, ifindex: u32, source_mac: &[u8; 6]) {
    let Some(advert) = frame::advert(ctx, ip) else { return };
    if ip.hops != ADVERT_HOPS || advert.priority == 0 {
        return;
    }
    let Some(slot) = maps::advert_shard(&AdvertKey::new(ifindex, ip.family, advert.vrid)) else { return };
    match maps::link_mac(ifindex) {
        Some(own) if own != *source_mac => {}
        _ => return,
    }
    let listed = frame::advert_address(ctx, ip).and_then(|first| maps::vip(&first));
    if !listed.is_some_and(|entry| entry.shard == slot) {
        return;
    }
    if let Some(shard) = Shard::look(slot) {
        shard.rival_advertises(&Heard { family: ip.family, priority: advert.priority, source: ip.source }, source_mac);
    }
}

/// Somebody speaks for a VIP on its link: not us, if the frame does not come from our own MAC (a switch may reflect it).
#[inline(always)]
fn notice_rival(entry: VipEntry, ifindex: u32, source_mac: &[u8; 6]) {
    if entry.ifindex != ifindex {
        return;
    }
    match maps::link_mac(ifindex) {
        Some(own) if own != *source_mac => {}
        _ => return,
    }
    if let Some(shard) = Shard::look(entry.shard) {
        shard.rival_announces(source_mac);
    }
}
