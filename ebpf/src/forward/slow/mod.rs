//! The slow program, reached by tail call: what is rare or long. It passes byte-identically whatever turns out not to concern a VIP.

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::verdict::{self, Verdict};

#[xdp]
pub fn bascule_xdp_slow(ctx: XdpContext) -> u32 {
    verdict::xdp(&ctx, Verdict::Pass)
}

#[classifier]
pub fn bascule_tc_slow(ctx: TcContext) -> i32 {
    verdict::tc(&ctx, Verdict::Pass)
}
