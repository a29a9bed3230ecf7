//! The forwarding plane: finds the node that holds the flow of a packet for a VIP, and on that node the endpoint.
//!
//! `docs/forwarding.md` has the rules. A packet that concerns no VIP leaves every program here as it came. Kernel floor: 6.0
//! (`bpf_tcp_raw_check_syncookie_ipv4`).
#![no_std]
#![no_main]
// `packet::opaque`; every compiler that builds this crate allows it (both routes build `core` too).
#![feature(asm_experimental_arch)]

mod clock;
mod deliver;
mod egress;
mod encap;
mod flow;
mod home;
mod ingress;
mod local;
mod maps;
mod mss;
mod packet;
mod parse;
mod request;
mod rows;
mod search;
mod service;
mod slow;
mod socket;
mod tunnel;
mod verdict;
mod watch;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use packet::{Skb, Xdp};

/// Ingress of devices with native XDP.
#[xdp]
pub fn bascule_xdp(ctx: XdpContext) -> u32 {
    verdict::xdp(&ctx, ingress::judge(&Xdp(&ctx)))
}

/// Ingress of all other devices: the same rules over an skb.
#[classifier]
pub fn bascule_tc_ingress(ctx: TcContext) -> i32 {
    verdict::tc(&ctx, ingress::judge(&Skb(&ctx)))
}

/// The licence the kernel is told: `bpf_tcp_raw_check_syncookie_*` is given to GPL-compatible programs only
/// (`license_is_gpl_compatible` in linux/license.h lists this one).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic: the verifier refuses an object in which this loop can be reached.
    loop {}
}
