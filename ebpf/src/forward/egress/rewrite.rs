//! Source translation, with checksums that stay what they are: done, half done or absent.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_csum_diff;
use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;

use super::frame::{Packet, TCP};

/// Offsets in the headers (RFC 791 section 3.1, RFC 8200 section 3, RFC 9293 section 3.1, RFC 768).
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV6_SOURCE: usize = 8;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// A frame that could not be written: the kernel is out of memory.
pub(super) struct Failed;

impl From<aya_ebpf::cty::c_long> for Failed {
    fn from(_: aya_ebpf::cty::c_long) -> Self {
        Self
    }
}

/// The last four bytes of a mapped address, as they lie in memory.
#[inline(always)]
pub(super) fn v4(key: &VipKey) -> u32 {
    u32::from_ne_bytes([key.addr[12], key.addr[13], key.addr[14], key.addr[15]])
}

/// What a checksum changes by when one address becomes another.
#[inline(always)]
pub(super) fn difference(from: &VipKey, to: &VipKey) -> u64 {
    let (mut old, mut new) = (*from, *to);
    // SAFETY: both are sixteen bytes on the stack, a multiple of four as the helper wants.
    let sum = unsafe { bpf_csum_diff((&raw mut old).cast(), 16, (&raw mut new).cast(), 16, 0) };
    sum as u64 & 0xffff_ffff
}

/// Gives TCP or UDP the source `vip`:`vip_port`. Nothing is done where it has it (delegated delivery).
#[inline(always)]
pub(super) fn source(ctx: &TcContext, packet: &Packet, port: u16, vip: &VipKey, vip_port: u16) -> Result<(), Failed> {
    if packet.source.addr == vip.addr && port == vip_port {
        return Ok(());
    }
    // UDP over IPv4 may have no checksum; then it must not get one. A sum of zero is sent as ones (RFC 768).
    let (checksum, zero) =
        if packet.protocol == TCP { (TCP_CHECKSUM, 0) } else { (UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0)) };
    let checksum = packet.l4 + checksum;
    let pseudo = u64::from(BPF_F_PSEUDO_HDR) | zero;
    // Address first: a half-done checksum holds the pseudo-header only, and the kernel leaves the rest of it alone.
    if packet.family == 4 {
        let (from, to) = (v4(&packet.source), v4(vip));
        ctx.skb.l4_csum_replace(checksum, u64::from(from), u64::from(to), pseudo | 4)?;
        ctx.skb.l4_csum_replace(checksum, u64::from(port), u64::from(vip_port), zero | 2)?;
    } else {
        ctx.skb.l4_csum_replace(checksum, 0, difference(&packet.source, vip), pseudo)?;
        ctx.skb.l4_csum_replace(checksum, u64::from(port), u64::from(vip_port), zero | 2)?;
    }
    ctx.store(packet.l4, &vip_port, 0)?;
    address(ctx, packet, vip)
}

/// Gives the IP header the source `vip`; what lies above it is the caller's.
#[inline(always)]
pub(super) fn address(ctx: &TcContext, packet: &Packet, vip: &VipKey) -> Result<(), Failed> {
    if packet.family == 4 {
        let (from, to) = (v4(&packet.source), v4(vip));
        ctx.skb.l3_csum_replace(packet.l3 + IPV4_CHECKSUM, u64::from(from), u64::from(to), 4)?;
        ctx.store(packet.l3 + IPV4_SOURCE, &to, 0)?;
    } else {
        ctx.store(packet.l3 + IPV6_SOURCE, &vip.addr, 0)?;
    }
    Ok(())
}
