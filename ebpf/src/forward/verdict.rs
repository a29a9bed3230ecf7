//! What becomes of a packet: one exhaustive verdict, and one place per hook that carries it out and counts it.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::{TcContext, XdpContext};
use bascule_ebpf_common::forward::PacketDrop;

use crate::maps;

/// `TC_ACT_UNSPEC` for clsact and `TCX_NEXT` for tcx: go on with the next program (linux/pkt_cls.h, linux/bpf.h).
const NEXT: i32 = -1;
/// `TC_ACT_SHOT` and `TCX_DROP`: free the frame.
const SHOT: i32 = 2;

/// What a program says about a packet.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) enum Verdict {
    /// To the stack, or to the next program of the hook: untouched, or rewritten for delivery here.
    Pass,
    /// Freed and counted.
    Drop(PacketDrop),
    /// Freed: it was for this program, which has counted it.
    Taken,
    /// Out of the device with this ifindex, complete with its link header.
    Send(u32),
    /// Out of the device with this ifindex, to the neighbour that the routes name. In tc only.
    Neighbour(u32),
    /// Not for the fast path: the slow program decides, from where `maps::WHOLE` and its kin say; without it the packet passes.
    Slow(u32),
    /// Encapsulated it would not fit; a packet of this many bytes would. The slow program tells the sender; without it the packet is
    /// dropped and counted all the same.
    TooBig(u32),
}

/// Carries a verdict out at the XDP hook.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop(reason) => {
            maps::dropped(reason);
            XDP_DROP
        }
        Verdict::Taken => XDP_DROP,
        // SAFETY: `ctx` is the program's context; the field is readable in XDP.
        Verdict::Send(ifindex) if ifindex == unsafe { (*ctx.ctx).ingress_ifindex } => XDP_TX,
        Verdict::Send(ifindex) => {
            // A device that is not in the map has no way for frames: the lower bits of the flags say what to return then.
            match maps::DEVICES.redirect(ifindex, u64::from(XDP_DROP)) {
                Ok(action) => action,
                Err(action) => {
                    maps::dropped(PacketDrop::Unresolved);
                    action
                }
            }
        }
        // Nobody says so here: the helper takes an skb.
        Verdict::Neighbour(_) => XDP_PASS,
        Verdict::Slow(from) => {
            maps::hand_over(from);
            // SAFETY: nothing here waits for a drop.
            unsafe { maps::SLOW_XDP.tail_call(ctx, 0) };
            XDP_PASS
        }
        Verdict::TooBig(fits) => {
            maps::hand_over(fits);
            // SAFETY: as above.
            unsafe { maps::SLOW_XDP.tail_call(ctx, 0) };
            maps::dropped(PacketDrop::TooBig);
            XDP_DROP
        }
    }
}

/// Carries a verdict out at a tc hook.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => NEXT,
        Verdict::Drop(reason) => {
            maps::dropped(reason);
            SHOT
        }
        Verdict::Taken => SHOT,
        // SAFETY: a helper without pointers; it fails (TC_ACT_SHOT) for unknown flags only, a missing device drops later.
        Verdict::Send(ifindex) => unsafe { bpf_redirect(ifindex, 0) as i32 },
        // SAFETY: as above; without parameters the helper looks the route up itself.
        Verdict::Neighbour(ifindex) => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 },
        Verdict::Slow(from) => {
            maps::hand_over(from);
            // SAFETY: as above.
            unsafe { maps::SLOW_TC.tail_call(ctx, 0) };
            NEXT
        }
        Verdict::TooBig(fits) => {
            maps::hand_over(fits);
            // SAFETY: as above.
            unsafe { maps::SLOW_TC.tail_call(ctx, 0) };
            maps::dropped(PacketDrop::TooBig);
            SHOT
        }
    }
}
