//! Source translation, with checksums that stay what they are: done, half done or absent.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;

use super::frame::{Packet, TCP};
use crate::encap::low_word;
use crate::packet::{Change, Packet as _, Skb, Sum, corrected, difference, difference16, halves16, same};

/// Offsets in the headers (RFC 791 section 3.1, RFC 8200 section 3, RFC 9293 section 3.1, RFC 768).
const IPV4_CHECKSUM: usize = 10;
const IPV6_SOURCE: usize = 8;
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;

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
    let checksum = packet.l4() + if packet.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    Skb(ctx).fix_transport(checksum, change)?;
    if port != vip_port {
        Skb(ctx).store(packet.l4(), &vip_port, Sum::Changes)?;
    }
    address(ctx, packet, vip)
}

/// Gives the IP header the source `vip`; what lies above it is the caller's.
#[inline(always)]
pub(super) fn address(ctx: &TcContext, packet: &Packet, vip: &VipKey) -> Option<()> {
    let skb = Skb(ctx);
    if packet.family == 4 {
        let checksum = corrected(packet.checksum, u64::from(difference(&packet.source, vip)));
        let [low, high] = halves16(low_word(vip));
        // The source stands right behind the checksum.
        skb.store(packet.l3() + IPV4_CHECKSUM, &[checksum, low, high], Sum::Stays)
    } else {
        skb.store(packet.l3() + IPV6_SOURCE, vip, Sum::Stays)
    }
}
