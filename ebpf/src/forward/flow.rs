//! The flow table: what an entry says about a packet, and how packets change it.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use bascule_ebpf_common::forward::{
    FLOW_ASKED, FLOW_CLOSING, FLOW_FIN_CLIENT, FLOW_FIN_ENDPOINT, FLOW_REMOTE, FLOW_VIA_INGRESS, Flow, HALF_ORPHAN,
    Half, RETURN_VIA_INGRESS, SHIM_REMOTE,
};

use crate::clock;
use crate::maps;
use crate::packet::{copy, same};
use crate::parse::{ACK, FIN, RST, SYN};
use crate::request::Request;
use crate::service::Kind;

/// What the entry of a translated tuple is to a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// There is none, or it is over.
    Free,
    /// The packet belongs to it.
    Own,
    /// A flow of this VIP lived there and was closed: it may get what comes late, if nobody has a better claim.
    Closed,
    /// A flow of another VIP lives there.
    Foreign,
}

/// Looks a packet up under the key in the work, and, if it `NOTES`, notes it in the entry that it belongs to.
#[inline(always)]
pub(crate) fn look<const NOTES: bool>(request: &Request) -> Entry {
    let Some(flow) = maps::FLOWS.get_ptr_mut(&request.work.key) else { return Entry::Free };
    // SAFETY: a valid map value. Other CPUs may write it: at worst one of two flag bits or time stamps is lost.
    let flow = unsafe { &mut *flow };
    let service = request.found.service;
    let now = clock::boot_s();
    let over = match request.work.kind {
        Kind::Tcp(_) => request.work.kind.opens() && flow.flags & FLOW_CLOSING != 0,
        Kind::Udp | Kind::Quic => now.wrapping_sub(flow.seen_s) > request.config.udp_idle_s,
    };
    if !same(&flow.vip, &service.vip) || flow.vip_port != service.port {
        let closed = over || flow.flags & FLOW_CLOSING != 0;
        return if closed { Entry::Free } else { Entry::Foreign };
    }
    if over {
        return Entry::Free;
    }
    if flow.flags & FLOW_CLOSING != 0 {
        return Entry::Closed;
    }
    if !NOTES {
        return Entry::Own;
    }
    let mut flags = flow.flags | closing(request.work.kind.flags(), flow.flags);
    if flow.seen_s != now {
        flow.seen_s = now;
        flags &= !FLOW_ASKED;
    }
    if flow.ingress != request.work.chain.ingress {
        flow.ingress = request.work.chain.ingress;
        flow.site = request.work.chain.origin_site;
        flags = flags & !(FLOW_VIA_INGRESS | FLOW_ASKED) | via(request);
    }
    // Whoever was told does not ask. That he does shows that the copy or the pin was lost; but not twice in a second: it may be under way.
    if flags & FLOW_ASKED == 0 {
        flags |= asked(request);
    }
    if flow.flags != flags {
        flow.flags = flags;
    }
    Entry::Own
}

/// Can the packet complete a handshake? It may carry data, for the first acknowledgement may have been lost.
#[inline(always)]
pub(crate) fn acknowledges(request: &Request) -> bool {
    request.work.kind.flags() & (ACK | SYN | RST | FIN) == ACK
}

/// The flags that a packet of the client adds to a flow's `flags`.
#[inline(always)]
fn closing(tcp: u8, flags: u8) -> u8 {
    let mut more = 0;
    if tcp & FIN != 0 {
        more |= FLOW_FIN_CLIENT;
    }
    if tcp & RST != 0 || (tcp & FIN != 0 && flags & FLOW_FIN_ENDPOINT != 0) {
        more |= FLOW_CLOSING;
    }
    more
}

/// The flags of a flow that was found for another site. Without a branch, or all that follows would be verified for both.
#[inline(always)]
fn asked(request: &Request) -> u8 {
    const { assert!(SHIM_REMOTE << 2 == FLOW_REMOTE && SHIM_REMOTE << 3 == FLOW_ASKED) };
    let chain = &request.work.chain;
    // 0 for a packet that came back to its own site: nobody is to learn where its flow lives.
    let elsewhere = (u32::from(chain.origin_site ^ request.config.site) + 0xff) >> 8;
    let remote = u32::from(chain.flags & SHIM_REMOTE) * elsewhere;
    (remote << 2 | remote << 3) as u8
}

/// The flag of a flow whose replies go back through another node.
#[inline(always)]
fn via(request: &Request) -> u8 {
    let back = request.found.service.returns == RETURN_VIA_INGRESS && request.work.chain.ingress != request.config.node;
    if back { FLOW_VIA_INGRESS } else { 0 }
}

/// Enters the flow of a packet. False: the table refused.
#[inline(always)]
pub(crate) fn enter(request: &mut Request, slot: u16) -> bool {
    let service = request.found.service;
    request.work.build.flow = Flow {
        vip: copy(&service.vip),
        vip_port: service.port,
        service: request.found.slot as u16,
        endpoint: slot,
        ingress: request.work.chain.ingress,
        seen_s: clock::boot_s(),
        flags: closing(request.work.kind.flags(), 0) | via(request) | asked(request),
        site: request.work.chain.origin_site,
        pad: 0,
    };
    // SAFETY: just written.
    maps::FLOWS.insert(&request.work.key, unsafe { &request.work.build.flow }, 0).is_ok()
}

/// Enters a flow that is only being opened. False: the table refused.
#[inline(always)]
pub(crate) fn enter_half(request: &mut Request, slot: u16) -> bool {
    half(request, slot, u64::from(BPF_ANY))
}

/// Notes that `slot` was given an orphan, unless the tuple is somebody's handshake. False: it is, or the table refused.
#[inline(always)]
pub(crate) fn enter_orphan(request: &mut Request, slot: u16) -> bool {
    half(request, slot | HALF_ORPHAN, u64::from(BPF_NOEXIST))
}

#[inline(always)]
fn half(request: &mut Request, endpoint: u16, flags: u64) -> bool {
    let service = request.found.service;
    request.work.build.half = Half {
        vip: copy(&service.vip),
        vip_port: service.port,
        service: request.found.slot as u16,
        endpoint,
        ingress: request.work.chain.ingress,
    };
    // SAFETY: just written.
    maps::HALF.insert(&request.work.key, unsafe { &request.work.build.half }, flags).is_ok()
}

/// Was the flow of the key in the work opened for this service a moment ago, by a SYN before this packet?
#[inline(always)]
pub(crate) fn half_open(request: &Request) -> bool {
    if request.work.kind.opens() || !matches!(request.work.kind, Kind::Tcp(_)) {
        return false;
    }
    let service = request.found.service;
    // SAFETY: compared at once; an entry replaced meanwhile does not match.
    unsafe { maps::HALF.get(&request.work.key) }.is_some_and(|half| {
        half.endpoint & HALF_ORPHAN == 0 && same(&half.vip, &service.vip) && half.vip_port == service.port
    })
}

/// The flow of the key in the work is open: its half-open entry would only bring a closed flow back to life.
#[inline(always)]
pub(crate) fn leave_half(request: &Request) {
    // It may have been evicted meanwhile: then there is nothing to remove.
    let _gone = maps::HALF.remove(&request.work.key);
}
