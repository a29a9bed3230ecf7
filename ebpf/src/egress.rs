//! What this node may say.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::{AdvertKey, DropReason, VipEntry};

use crate::Verdict;
use crate::frame::{self, Handshake, Ip, NDP_ADVERT, Network, Side};
use crate::maps;
use crate::shard::{CLOSED, HERE, Shard, delivery, forwarded, need_answer};

/// Judges a frame that is about to leave.
#[inline(always)]
pub(crate) fn judge(ctx: &TcContext) -> Verdict {
    let Some(frame) = frame::parse(ctx) else { return Verdict::Pass };
    // SAFETY: `skb` is the program's context; `ifindex` is readable in a classifier.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    match frame.network {
        // Asking for a VIP is free, speaking for one is not: only the sender counts.
        Network::Arp(arp) => match maps::vip(&arp.sender) {
            Some(entry) => need_answer(entry, ifindex, DropReason::EgressSecondLink, DropReason::EgressAnswer),
            None => Verdict::Pass,
        },
        Network::Ip(ip) => judge_ip(ctx, &ip, ifindex),
    }
}

#[inline(always)]
fn judge_ip(ctx: &TcContext, ip: &Ip, ifindex: u32) -> Verdict {
    if let Some(advert) = frame::advert(ctx, ip) {
        // An advert of ours is judged by this rule alone: with NO_ACCEPT it may leave although `deliver` is closed.
        if let Some(slot) = maps::advert_shard(&AdvertKey::new(ifindex, ip.family, advert.vrid)) {
            return match Shard::look(slot) {
                Some(shard) => shard.advert_leaves(&advert, ip),
                None => Verdict::Drop(DropReason::AdvertRole),
            };
        }
    }
    let Some(kind) = frame::ndp_type(ctx, ip) else {
        return match maps::vip(&ip.source) {
            Some(entry) => judge_packet(ctx, ip, entry),
            None => Verdict::Pass,
        };
    };
    // Neighbour discovery speaks for its source (it may carry the link-layer address) and, as an advertisement, for its
    // target.
    if let Some(entry) = maps::vip(&ip.source) {
        let verdict = need_answer(entry, ifindex, DropReason::EgressSecondLink, DropReason::EgressAnswer);
        if let Verdict::Drop(_) = verdict {
            return verdict;
        }
    }
    if kind != NDP_ADVERT {
        return Verdict::Pass;
    }
    match frame::ndp_target(ctx, ip).and_then(|target| maps::vip(&target)) {
        Some(entry) => need_answer(entry, ifindex, DropReason::EgressSecondLink, DropReason::EgressAnswer),
        None => Verdict::Pass,
    }
}

/// A packet by the VIP that is not neighbour discovery.
#[inline(always)]
fn judge_packet(ctx: &TcContext, ip: &Ip, entry: VipEntry) -> Verdict {
    match delivery(entry) {
        HERE => Verdict::Pass,
        _ if forwarded(ctx, ip, Side::Source) => Verdict::Pass,
        CLOSED => Verdict::Drop(DropReason::EgressDeliver),
        // What says "the VIP is here" to a new client is an answer, in TCP as in ARP.
        _ if frame::handshake(ctx, ip) == Some(Handshake::SynAck) => Verdict::Drop(DropReason::EgressAnswer),
        _ => Verdict::Pass,
    }
}
