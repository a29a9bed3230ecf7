//! The fence: two tc programs per link that drop what a node may not say or take for a VIP it does not own now.
//!
//! They decide frame by frame from what user space wants ([`maps::CTL`]) and what left this node ([`maps::KERNEL`]); the
//! rules are tabulated in `docs/fence.md`. Everything unknown passes: `TC_ACT_UNSPEC` hands the frame to the next
//! program or filter on the link, so foreign programs see exactly what they saw before.
//!
//! Kernel floor 5.10: only `bpf_skb_load_bytes`, `bpf_skb_store_bytes`, `bpf_redirect`, map look-ups and `bpf_ktime_get_boot_ns` (5.8) are used. Headers are
//! copied out rather than read in place, so non-linear frames need no pull and the verifier no bounds proof.
#![no_std]
#![no_main]

mod egress;
mod frame;
mod ingress;
mod maps;
mod shard;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::DropReason;

/// `TC_ACT_UNSPEC` for clsact and `TCX_NEXT` for tcx: go on with the next program (linux/pkt_cls.h, linux/bpf.h).
const NEXT: i32 = -1;
/// `TC_ACT_SHOT` and `TCX_DROP`: free the frame.
const DROP: i32 = 2;

/// `TC_ACT_REDIRECT` and `TCX_REDIRECT`: where the redirecting helper was told.
const REDIRECT: i32 = 7;

/// What a rule says about a frame.
#[must_use]
pub(crate) enum Verdict {
    /// Not ours, or allowed.
    Pass,
    /// Dropped and counted.
    Drop(DropReason),
    /// The redirecting helper knows where to. Without a field: then a verdict is one number, of which no half can be unset.
    HandOn,
}

#[classifier]
pub fn bascule_ingress(ctx: TcContext) -> i32 {
    apply(ingress::judge(&ctx))
}

#[classifier]
pub fn bascule_egress(ctx: TcContext) -> i32 {
    apply(egress::judge(&ctx))
}

#[inline(always)]
fn apply(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => NEXT,
        Verdict::Drop(reason) => {
            maps::count(reason as u32);
            DROP
        }
        Verdict::HandOn => REDIRECT,
    }
}

/// The licence the kernel is told. No helper in use asks for a GPL-compatible one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic: the verifier refuses an object in which this loop can be reached.
    loop {}
}
