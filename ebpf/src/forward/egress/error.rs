//! ICMP errors about a request, from the endpoint or a router before it: they quote the packet as it was delivered, and the client
//! only knows the one it sent.

use aya_ebpf::programs::TcContext;
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{Config, FlowKey, RETURN_VIA_INGRESS, Tally};

use super::frame::{self, Leaving, Packet, TCP, UDP};
use super::lookup::{self, Found};
use super::rewrite::{TCP_CHECKSUM, UDP_CHECKSUM, address};
use super::via;
use crate::encap::low_word;
use crate::maps;
use crate::packet::{Change, Packet as _, Skb, Sum, corrected, difference, difference16, fold16};

/// Bytes before the quote (RFC 792, RFC 4443 section 2.1), and offset of the checksum.
const HEADER: usize = 8;
const CHECKSUM: usize = 2;
/// Offsets in the quoted headers.
const IPV4_CHECKSUM: usize = 10;
const IPV4_DESTINATION: usize = 16;
const IPV6_DESTINATION: usize = 24;
const PORT: usize = 2;

/// The quoted packet.
struct Quote {
    l3: usize,
    l4: usize,
    source: VipKey,
    destination: VipKey,
    protocol: u8,
}

/// Rewrites an error about a flow of ours. `None`: it passes.
#[inline(always)]
pub(super) fn back(ctx: &TcContext, config: &Config, leaving: &mut Leaving) -> Option<()> {
    let packet = &leaving.packet;
    let quote = quote(ctx, packet)?;
    if quote.source.addr != packet.destination.addr {
        return None;
    }
    let [client_port, endpoint_port] = ctx.load::<[u16; 2]>(quote.l4).ok()?;
    let key = FlowKey {
        client: quote.source,
        endpoint: quote.destination,
        client_port,
        endpoint_port,
        protocol: quote.protocol,
        pad: [0; 3],
    };
    let found = lookup::find(&key, 0)?;
    let service = maps::SERVICES.get(u32::from(found.service))?;
    rewrite(ctx, packet, &quote, endpoint_port, &found)?;
    maps::tally(Tally::IcmpError);
    let through = via::node(config, service.returns == RETURN_VIA_INGRESS || found.via, found.ingress);
    if through == 0 {
        return None;
    }
    let tuple = via::tuple(service, &packet.destination, &found, client_port, quote.protocol);
    leaving.back = via::Back::new(tuple, HEADER as u16, found.service, via::Way::Through(through));
    Some(())
}

#[inline(always)]
fn quote(ctx: &TcContext, packet: &Packet) -> Option<Quote> {
    let kind: u8 = ctx.load(packet.l4()).ok()?;
    let l3 = packet.l4() + HEADER;
    if packet.family == 6 {
        // Unreachable, too big, time exceeded, parameter problem (RFC 4443).
        if !matches!(kind, 1..=4) {
            return None;
        }
        let (source, destination, upper) = frame::quoted_ipv6(ctx, l3)?;
        if upper.later || (upper.protocol != TCP && upper.protocol != UDP) {
            return None;
        }
        return Some(Quote { l3, l4: upper.offset, source, destination, protocol: upper.protocol });
    }
    // Unreachable, time exceeded, parameter problem (RFC 792); a redirect and a source quench tell a client nothing.
    if !matches!(kind, 3 | 11 | 12) {
        return None;
    }
    let h: [u8; 20] = ctx.load(l3).ok()?;
    let later = u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0;
    if h[0] >> 4 != 4 || h[0] & 0x0f < 5 || later || (h[9] != TCP && h[9] != UDP) {
        return None;
    }
    Some(Quote {
        l3,
        l4: usize::from(frame::forget((l3 + usize::from(h[0] & 0x0f) * 4) as u16)),
        source: VipKey::v4([h[12], h[13], h[14], h[15]]),
        destination: VipKey::v4([h[16], h[17], h[18], h[19]]),
        protocol: h[9],
    })
}

/// The checksum of the message covers the quote; over IPv6 also the pseudo-header. `None`: the kernel is out of memory.
#[inline(always)]
fn rewrite(ctx: &TcContext, packet: &Packet, quote: &Quote, port: u16, found: &Found) -> Option<()> {
    let skb = Skb(ctx);
    let address_change = difference(&quote.destination, &found.vip);
    let port_change = difference16(port, found.vip_port);
    let mut plain = u64::from(address_change) + u64::from(port_change);
    // The quoted transport checksum, where the quote reaches that far: it says what the client sent.
    let at = quote.l4 + if quote.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    if let Ok(old) = ctx.load::<u16>(at)
        && (quote.protocol == TCP || old != 0)
    {
        let new = corrected(old, u64::from(address_change) + u64::from(port_change));
        skb.store(at, &new, Sum::Changes)?;
        plain += u64::from(difference16(old, new));
    }
    skb.store(quote.l4 + PORT, &found.vip_port, Sum::Changes)?;
    if packet.family == 4 {
        let at = quote.l3 + IPV4_CHECKSUM;
        let old = ctx.load::<u16>(at).ok()?;
        let new = corrected(old, u64::from(address_change));
        skb.store(at, &new, Sum::Changes)?;
        plain += u64::from(difference16(old, new));
        skb.store(quote.l3 + IPV4_DESTINATION, &low_word(&found.vip), Sum::Changes)?;
    } else {
        skb.store(quote.l3 + IPV6_DESTINATION, &found.vip, Sum::Changes)?;
    }
    // A router on the way, or this node, speaks for itself; the endpoint speaks as the VIP.
    let endpoint = packet.source.addr == quote.destination.addr;
    let pseudo = if endpoint && packet.family == 6 { address_change } else { 0 };
    skb.fix_transport(
        packet.l4() + CHECKSUM,
        Change { pseudo, plain: u32::from(fold16(plain)), udp: false, v6: packet.family == 6 },
    )?;
    if endpoint { address(ctx, packet, &found.vip) } else { Some(()) }
}
