//! Echo requests to a VIP: answered in place, on whichever node they land, while any of its services has a node that serves.

use bascule_ebpf_common::forward::{BUCKET_ICMP, Config, PacketDrop, SERVICE_ADDRESS, Tally};

use super::toobig::turn;
use crate::clock;
use crate::encap::low_word;
use crate::maps;
use crate::packet::{Change, Packet, Sum, difference16};
use crate::request::Work;
use crate::service;
use crate::verdict::Verdict;

/// Types of a request and a reply (RFC 792, RFC 4443 section 4).
pub(super) const REQUEST: u8 = 8;
const REPLY: u8 = 0;
pub(super) const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;
/// TTL and hop limit of what we send: the default of the field (RFC 1700).
pub(super) const HOPS: u8 = 64;

/// Answers, or lets pass.
#[inline(always)]
pub(super) fn answer<P: Packet>(packet: &P, config: &Config, work: &Work) -> Verdict {
    let ip = &work.ip;
    let Some(vip) = service::find(ip.destination, 0, 0) else { return Verdict::Pass };
    if vip.service.flags & SERVICE_ADDRESS == 0 || vip.service.nodes == 0 {
        return Verdict::Pass;
    }
    if packet.length() < ip.at() + ip.length as usize {
        return Verdict::Drop(PacketDrop::Malformed);
    }
    if !clock::take(BUCKET_ICMP, config.icmp_rate) {
        return Verdict::Drop(PacketDrop::IcmpRate);
    }
    if reply(packet, work).is_none() {
        return Verdict::Drop(PacketDrop::Malformed);
    }
    maps::tally(Tally::EchoAnswered);
    Verdict::Send(packet.ifindex())
}

#[inline(always)]
fn reply<P: Packet>(packet: &P, work: &Work) -> Option<()> {
    let ip = &work.ip;
    let (at, icmp) = (ip.at(), ip.transport());
    let [kind, code] = packet.read::<[u8; 2]>(icmp)?;
    let answer = if ip.v6 { REPLY6 } else { REPLY };
    let plain = difference16(u16::from_ne_bytes([kind, code]), u16::from_ne_bytes([answer, code]));
    // Addresses that change places leave every sum as it is.
    packet.fix_transport(icmp + 2, Change { pseudo: 0, plain, udp: false, v6: ip.v6 })?;
    packet.store(icmp, &[answer, code], Sum::Stays)?;
    if ip.v6 {
        packet.store(at + 8, &ip.destination, Sum::Changes)?;
        packet.store(at + 24, &ip.source, Sum::Changes)?;
        let [next, _] = packet.read::<[u8; 2]>(at + 6)?;
        packet.store(at + 6, &[next, HOPS], Sum::Changes)?;
    } else {
        let old = u16::from_ne_bytes([ip.hops, ip.protocol]);
        packet.fix_ip(at + 10, difference16(old, u16::from_ne_bytes([HOPS, ip.protocol])))?;
        packet.store(at + 8, &[HOPS, ip.protocol], Sum::Stays)?;
        packet.store(at + 12, &low_word(&ip.destination), Sum::Stays)?;
        packet.store(at + 16, &low_word(&ip.source), Sum::Stays)?;
    }
    turn(packet)
}
