//! Source translation, with checksums that stay what they are: done, half done or absent.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;

use super::frame::{Packet, TCP};
use crate::packet::{Change, Packet as _, Skb, Sum, difference, difference16, same};

/// Offsets in the headers (RFC 791 section 3.1, RFC 8200 section 3, RFC 9293 section 3.1, RFC 768).
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV6_SOURCE: usize = 8;
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;

/// The last four bytes of a mapped address, as they lie in memory.
#[inline(always)]
pub(super) fn v4(key: &VipKey) -> u32 {
    u32::from_ne_bytes([key.addr[12], key.addr[13], key.addr[14], key.addr[15]])
}

/// Gives TCP or UDP the source `vip`:`vip_port`; nothing is done where it has it (delegated delivery). `None`: the kernel is out of
/// memory.
#[inline(always)]
pub(super) fn source(ctx: &TcContext, packet: &Packet, port: u16, vip: &VipKey, vip_port: u16) -> Option<()> {
    if same(&packet.source, vip) && port == vip_port {
        return Some(());
    }
    let change = Change {
        pseudo: difference(&packet.source, vip),
        plain: difference16(port, vip_port),
        udp: packet.protocol != TCP,
        v6: packet.family == 6,
    };
    let checksum = packet.l4 + if packet.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    Skb(ctx).fix_transport(checksum, change)?;
    Skb(ctx).store(packet.l4, &vip_port, Sum::Changes)?;
    address(ctx, packet, vip)
}

/// Gives the IP header the source `vip`; what lies above it is the caller's.
#[inline(always)]
pub(super) fn address(ctx: &TcContext, packet: &Packet, vip: &VipKey) -> Option<()> {
    let skb = Skb(ctx);
    if packet.family == 4 {
        skb.fix_ip(packet.l3 + IPV4_CHECKSUM, difference(&packet.source, vip))?;
        skb.store(packet.l3 + IPV4_SOURCE, &v4(vip), Sum::Stays)
    } else {
        skb.store(packet.l3 + IPV6_SOURCE, vip, Sum::Stays)
    }
}
