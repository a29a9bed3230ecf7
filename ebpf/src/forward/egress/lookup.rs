//! Whose reply is it?

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::maps::lpm_trie::Key;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    FLOW_ASKED, FLOW_CLOSING, FLOW_FIN_CLIENT, FLOW_FIN_ENDPOINT, FLOW_REMOTE, FLOW_VIA_INGRESS, Flow, FlowKey,
    HALF_ORPHAN, ReverseKey, Tally,
};

use super::{FIN, RST};
use crate::maps;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;
/// Bits of a look-up in the source ranges: the slot and the whole address.
const SOURCE_BITS: u32 = 32 + 128;

/// What a reply becomes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Found {
    pub(super) vip: VipKey,
    /// Network order.
    pub(super) vip_port: u16,
    pub(super) service: u16,
    /// Slot; 0 where only the reverse map knew it, which names none.
    pub(super) endpoint: u16,
    /// Node on which the request arrived; 0: unknown.
    pub(super) ingress: u16,
    /// The flow asks for the way back through it.
    pub(super) via: bool,
    /// It is to learn where the flow lives: by this reply, or a copy of it if that fits.
    pub(super) tells: bool,
    /// The table that knew it.
    pub(super) by: Tally,
}

/// Looks a translated tuple up; `flags` are those of a TCP header from the endpoint.
#[inline(always)]
pub(super) fn find(key: &FlowKey, flags: u8) -> Option<Found> {
    let flow = maps::FLOWS.get_ptr_mut(key);
    // A client may use its port again towards another VIP of the same endpoint: what answers its SYN is not the closed flow's.
    let over = match flow {
        // SAFETY: a valid map value.
        Some(flow) => unsafe { (*flow).flags & FLOW_CLOSING != 0 },
        None => true,
    };
    if over {
        // SAFETY: the entry is copied at once.
        if let Some(half) = unsafe { maps::HALF.get(key) } {
            return Some(Found {
                vip: half.vip,
                vip_port: half.vip_port,
                service: half.service,
                endpoint: half.endpoint & !HALF_ORPHAN,
                ingress: half.ingress,
                via: false,
                tells: false,
                by: Tally::ReplyHalf,
            });
        }
    }
    match flow {
        // SAFETY: a valid map value. An entry that is recycled while it is read gives a reply with a wrong source, which its client's
        // stack refuses; the half of a second that is lost in `seen_s` and a lost flag are harmless.
        Some(flow) => Some(unsafe { by_flow(flow, flags) }),
        None => by_endpoint(key),
    }
}

#[inline(always)]
unsafe fn by_flow(flow: *mut Flow, flags: u8) -> Found {
    // SAFETY: the caller's.
    unsafe {
        let now_s = (bpf_ktime_get_boot_ns() / SECOND_NS) as u32;
        let before = (*flow).flags;
        let mut after = ended(before, flags);
        if (*flow).seen_s != now_s {
            (*flow).seen_s = now_s;
            after &= !FLOW_ASKED;
        }
        if after != before {
            (*flow).flags = after;
        }
        Found {
            vip: (*flow).vip,
            vip_port: (*flow).vip_port,
            service: (*flow).service,
            endpoint: (*flow).endpoint,
            ingress: (*flow).ingress,
            via: before & FLOW_VIA_INGRESS != 0,
            tells: before & FLOW_REMOTE != 0,
            by: Tally::ReplyFlow,
        }
    }
}

/// The node that was to learn where the flow lives is told.
#[inline(always)]
pub(super) fn told(key: &FlowKey) {
    if let Some(flow) = maps::FLOWS.get_ptr_mut(key) {
        // SAFETY: as above.
        unsafe { (*flow).flags &= !FLOW_REMOTE };
    }
}

/// A flow's flags after a packet of the endpoint with these TCP flags.
#[inline(always)]
fn ended(before: u8, flags: u8) -> u8 {
    let mut after = before;
    if flags & FIN != 0 {
        after |= FLOW_FIN_ENDPOINT;
    }
    if flags & RST != 0 || after & (FLOW_FIN_CLIENT | FLOW_FIN_ENDPOINT) == FLOW_FIN_CLIENT | FLOW_FIN_ENDPOINT {
        after |= FLOW_CLOSING;
    }
    after
}

/// An endpoint of one VIP only answers for that VIP, unless it answers the inside: nodes, and the ranges under slot 0.
#[inline(always)]
fn by_endpoint(key: &FlowKey) -> Option<Found> {
    let reverse = ReverseKey { address: key.endpoint, port: key.endpoint_port, protocol: key.protocol, pad: [0; 5] };
    // SAFETY: the entry is copied at once.
    let entry = *unsafe { maps::REVERSE.get(&reverse) }?;
    // SAFETY: only whether there is an entry is looked at.
    let inside = unsafe { maps::PEERS.get(&key.client) }.is_some()
        || maps::SOURCES.get(&Key::new(SOURCE_BITS, source_key(&key.client))).is_some();
    if inside {
        return None;
    }
    Some(Found {
        vip: entry.vip,
        vip_port: entry.port,
        service: entry.service,
        endpoint: 0,
        ingress: 0,
        via: false,
        tells: false,
        by: Tally::ReplyReverse,
    })
}

/// Slot 0 and the address. No service has slot 0: what lies under it are the prefixes inside.
#[inline(always)]
fn source_key(address: &VipKey) -> [u8; 20] {
    let a = &address.addr;
    [0, 0, 0, 0, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]
}
