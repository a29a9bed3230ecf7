//! "It would not fit": ICMP type 3 code 4 with the next-hop MTU (RFC 1191), ICMPv6 type 2 (RFC 4443), from the VIP to the client.
//!
//! The packet itself becomes the message: it is longer than what is said about it. The quote is of a fixed length, headers and then some.

use aya_ebpf::cty::c_int;
use aya_ebpf::helpers::generated::{bpf_skb_change_tail, bpf_xdp_adjust_tail};
use bascule_ebpf_common::forward::{BUCKET_ICMP, Config, PacketDrop, Tally};

use super::echo::HOPS;
use super::walk::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use crate::clock;
use crate::encap::low_word;
use crate::maps;
use crate::packet::{Packet, Skb, Sum, Xdp, fold16};
use crate::parse::{IPV4, IPV6, Ipv4Header, Ipv6Header};
use crate::request::Work;
use crate::verdict::Verdict;

/// Words of four bytes that are quoted: 96 bytes, which hold the longest IPv4 header and more than RFC 792 asks for, or an IPv6 packet's
/// headers.
const QUOTE: usize = 24;
/// Bytes of an ICMP header.
const ICMP: usize = 8;
/// No link of IPv6 has a smaller MTU (RFC 8200 section 5): less is not believed.
const MIN_MTU6: u32 = 1280;

/// A message of either family behind its IP header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Message {
    kind: u8,
    code: u8,
    checksum: u16,
    mtu: u32,
    quote: [u32; QUOTE],
}

const _: () = assert!(size_of::<Message>() == ICMP + QUOTE * 4);

/// Cuts a frame to a length.
pub(super) trait Resize {
    fn cut(&self, length: usize) -> Option<()>;
}

impl Resize for Xdp<'_> {
    #[inline(always)]
    fn cut(&self, length: usize) -> Option<()> {
        let by = length as c_int - self.length() as c_int;
        // SAFETY: the program's context; pointers into the frame are not kept over the call.
        (unsafe { bpf_xdp_adjust_tail(self.0.ctx, by) } == 0).then_some(())
    }
}

impl Resize for Skb<'_> {
    #[inline(always)]
    fn cut(&self, length: usize) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_skb_change_tail(self.0.skb.skb, length as u32, 0) } == 0).then_some(())
    }
}

/// Tells the sender of the packet in the work that one of `fits` bytes would do; the packet is gone either way.
#[inline(always)]
pub(super) fn tell<P: Packet + Resize>(packet: &P, config: &Config, work: &Work, fits: u32) -> Verdict {
    // Told or not, the packet has one reason.
    if !clock::take(BUCKET_ICMP, config.icmp_rate) {
        return Verdict::Drop(PacketDrop::TooBig);
    }
    packet.prepare();
    let sent = if work.ip.v6 { ipv6(packet, work, fits) } else { ipv4(packet, work, fits) };
    if sent.is_none() || turn(packet).is_none() {
        return Verdict::Drop(PacketDrop::Malformed);
    }
    maps::dropped(PacketDrop::TooBig);
    maps::tally(Tally::TooBigSent);
    Verdict::Send(packet.ifindex())
}

#[inline(always)]
fn ipv4<P: Packet + Resize>(packet: &P, work: &Work, fits: u32) -> Option<()> {
    let at = work.ip.at();
    let mut message = Message {
        kind: 3,
        code: 4,
        checksum: 0,
        // The MTU in the lower half (RFC 1191 section 4).
        mtu: (fits & 0xffff).to_be(),
        quote: packet.read(at)?,
    };
    message.checksum = !fold16(sum(&message));
    let mut ip = Ipv4Header {
        version_length: 0x45,
        // Internetwork control (RFC 1812 section 4.3.2.5).
        tos: 0xc0,
        length: ((IPV4 + size_of::<Message>()) as u16).to_be(),
        ttl: HOPS,
        protocol: IPPROTO_ICMP,
        source: low_word(&work.ip.destination),
        destination: low_word(&work.ip.source),
        ..Ipv4Header::EMPTY
    };
    ip.checksum = !fold16(
        u64::from(u16::from_ne_bytes([0x45, 0xc0]))
            + u64::from(ip.length)
            + u64::from(u16::from_ne_bytes([HOPS, IPPROTO_ICMP]))
            + u64::from(ip.source)
            + u64::from(ip.destination),
    );
    packet.cut(at + IPV4 + size_of::<Message>())?;
    packet.store(at, &ip, Sum::Changes)?;
    packet.store(at + IPV4, &message, Sum::Changes)
}

#[inline(always)]
fn ipv6<P: Packet + Resize>(packet: &P, work: &Work, fits: u32) -> Option<()> {
    let at = work.ip.at();
    let mut message = Message {
        kind: 2,
        code: 0,
        checksum: 0,
        mtu: if fits < MIN_MTU6 { MIN_MTU6 } else { fits }.to_be(),
        quote: packet.read(at)?,
    };
    let length = (size_of::<Message>() as u16).to_be();
    // The pseudo-header of RFC 8200 section 8.1.
    message.checksum = !fold16(
        sum(&message)
            + words(&work.ip.source.addr)
            + words(&work.ip.destination.addr)
            + u64::from(length)
            + u64::from(u16::from_ne_bytes([0, IPPROTO_ICMPV6])),
    );
    let ip = Ipv6Header {
        head: (6u32 << 28).to_be(),
        payload: length,
        next: IPPROTO_ICMPV6,
        hops: HOPS,
        source: work.ip.destination,
        destination: work.ip.source,
    };
    packet.cut(at + IPV6 + size_of::<Message>())?;
    packet.store(at, &ip, Sum::Changes)?;
    packet.store(at + IPV6, &message, Sum::Changes)
}

/// The sum over a message, in memory order.
#[inline(always)]
fn sum(message: &Message) -> u64 {
    let mut all = u64::from(u16::from_ne_bytes([message.kind, message.code]))
        + u64::from(message.checksum)
        + u64::from(message.mtu);
    let mut i = 0;
    while i < QUOTE {
        all += u64::from(message.quote[i]);
        i += 1;
    }
    all
}

/// The sum over an address, in memory order.
#[inline(always)]
fn words(address: &[u8; 16]) -> u64 {
    let all = u128::from_ne_bytes(*address);
    u64::from(all as u32)
        + u64::from((all >> 32) as u32)
        + u64::from((all >> 64) as u32)
        + u64::from((all >> 96) as u32)
}

/// Sends the frame back to who brought it.
#[inline(always)]
pub(super) fn turn<P: Packet>(packet: &P) -> Option<()> {
    let [a, b, c, d, e, f]: [u16; 6] = packet.read(0)?;
    packet.store(0, &[d, e, f, a, b, c], Sum::Stays)
}
