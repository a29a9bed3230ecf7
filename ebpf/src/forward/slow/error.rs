//! ICMP to a VIP: echo, and errors about what an endpoint sent as the VIP. An error follows the flow inside it through the same chain.

use bascule_ebpf_common::forward::{Config, DELIVER_NONE, Endpoint, PacketDrop, Tally};

use super::{echo, site};
use crate::deliver;
use crate::encap::low_word;
use crate::home::{self, Step, Way};
use crate::ingress;
use crate::local::{self, MAX_CANDIDATES};
use crate::maps;
use crate::packet::{Change, Packet, Sum, corrected, difference, difference16, fold16, forgotten, same};
use crate::parse::{IPPROTO_TCP, IPPROTO_UDP, IPV4, IPV6, Ipv4Header, Ipv6Header, Ports};
use crate::request::{Request, Work};
use crate::search;
use crate::service::{self, Kind};
use crate::tunnel;
use crate::verdict::Verdict;

/// Bytes of an ICMP header.
const HEADER: usize = 8;

/// Judges a whole ICMP message.
#[inline(always)]
pub(super) fn judge<P: Packet>(packet: &P, config: &'static Config, work: &mut Work, tunnelled: bool) -> Verdict {
    let Some([kind, _]) = packet.read::<[u8; 2]>(work.ip.transport()) else { return Verdict::Pass };
    if kind == if work.ip.v6 { echo::REQUEST6 } else { echo::REQUEST } && !tunnelled {
        return echo::answer(packet, config, work);
    }
    let none = if tunnelled { Verdict::Drop(PacketDrop::EncapService) } else { Verdict::Pass };
    // Unreachable, time exceeded, parameter problem (RFC 792); the same and too big (RFC 4443).
    let error = if work.ip.v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
    if !error {
        return none;
    }
    let Some(ports) = quote(packet, work) else { return none };
    let Some(found) = service::find(work.ip.destination, ports.source, work.ip.protocol) else { return none };
    if found.service.delivery == DELIVER_NONE {
        return none;
    }
    // From here on the work has the tuple of the flow: the packet is the client's as far as rows and tables are concerned.
    work.client_port = ports.destination;
    let pair = (ports.destination, ports.source);
    work.hash = found.hash(config, work.ip.source, work.ip.destination, pair, work.ip.protocol);
    work.slot = found.slot as u16;
    // No flags: it opens nothing, ends nothing and acknowledges nothing.
    work.kind = Kind::Tcp(0);
    if packet.length() < work.ip.at() + work.ip.length as usize {
        return Verdict::Drop(PacketDrop::Malformed);
    }
    work.tunnelled = tunnelled;
    if tunnelled {
        if let Err(verdict) = tunnel::trust(config, work, &found).and_then(|()| tunnel::accept(packet, work)) {
            return verdict;
        }
    } else if let Err(verdict) = ingress::balance::<P, false>(packet, &mut Request { config, found, work }) {
        return verdict;
    }
    step(packet, &mut Request { config, found, work })
}

/// Reads the quoted packet: its tuple, reversed, becomes that of the work. `None`: it is not one of the VIP's.
#[inline(always)]
fn quote<P: Packet>(packet: &P, work: &mut Work) -> Option<Ports> {
    let at = work.ip.transport() + HEADER;
    if at > 0xff {
        return None;
    }
    work.quote = at as u8;
    let (source, client, protocol, header) = if work.ip.v6 {
        let h: Ipv6Header = packet.read(at)?;
        if u32::from_be(h.head) >> 28 != 6 {
            return None;
        }
        let (protocol, header) = quoted_upper(packet, at, h.next)?;
        (h.source, h.destination, protocol, header)
    } else {
        let h: Ipv4Header = packet.read(at)?;
        let header = usize::from(h.version_length & 0x0f) * 4;
        // A quoted later fragment has no ports.
        if h.version_length >> 4 != 4 || header < IPV4 || u16::from_be(h.fragment) & 0x1fff != 0 {
            return None;
        }
        let address = |word: u32| bascule_ebpf_common::VipKey::v4(word.to_ne_bytes());
        (address(h.source), address(h.destination), h.protocol, header)
    };
    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || !same(&source, &work.ip.destination) {
        return None;
    }
    // Behind the packet there may be padding of the frame, which is no quote.
    if at + header > 0xff || at + header + size_of::<Ports>() > work.ip.at() + work.ip.length as usize {
        return None;
    }
    work.quote_transport = (at + header) as u8;
    work.ip.source = client;
    work.ip.protocol = protocol;
    packet.read(usize::from(work.quote_transport))
}

/// Protocol and length of the quoted IPv6 header with one extension header at most: endpoints send no more than a fragment header.
#[inline(always)]
fn quoted_upper<P: Packet>(packet: &P, at: usize, next: u8) -> Option<(u8, usize)> {
    match next {
        // Fragment header: the first fragment has the ports.
        44 => {
            let h: [u16; 4] = packet.read(at + IPV6)?;
            (u16::from_be(h[1]) & 0xfff8 == 0).then_some((h[0].to_ne_bytes()[0], IPV6 + 8))
        }
        // Hop-by-hop and destination options.
        0 | 60 => {
            let h: [u16; 4] = packet.read(at + IPV6)?;
            let [following, words] = h[0].to_ne_bytes();
            Some((following, IPV6 + (usize::from(words & 0x0f) + 1) * 8))
        }
        _ => Some((next, IPV6)),
    }
}

/// The home step of an error: it is delivered to who has the flow, and nobody else. It changes no table.
#[inline(always)]
fn step<P: Packet>(packet: &P, request: &mut Request) -> Verdict {
    let step = if site::enter(request) == 0 { decide(packet, request) } else { forgotten(&request.work.step) };
    site::missed(request);
    match step.way {
        Way::Deliver => to(packet, request, step.id),
        Way::Onward => home::pass_on(packet, request, step),
        Way::Abroad => Verdict::Slow(maps::ABROAD),
        Way::Drop | Way::Recover => Verdict::Drop(step.reason()),
    }
}

#[inline(always)]
fn decide<P: Packet>(packet: &P, request: &mut Request) -> Step {
    request.work.chain.settle(request.config.node);
    if request.work.ip.protocol == IPPROTO_UDP {
        // The tables are asked as for a datagram of the flow.
        request.work.kind = Kind::Udp;
    }
    let mut step = search::tables::<false>(request);
    if step.way == Way::Recover {
        // As for the packets of the flow: whose SYN-ACK the client is about to answer, else who closed it.
        let index = if request.work.half == MAX_CANDIDATES { request.work.closed } else { request.work.half };
        if let Some(target) = local::target(request, index) {
            step = Step::deliver(target.slot, Tally::FlowHit);
        }
    }
    if step.way == Way::Recover && request.work.ip.protocol == IPPROTO_TCP {
        step = search::sockets::<P, false>(packet, request);
    }
    if step.way == Way::Recover {
        step = home::others(request);
        if step.way == Way::Drop && home::may_leave(request) {
            step = Step::abroad();
        }
    }
    step
}

#[inline(always)]
fn to<P: Packet>(packet: &P, request: &Request, slot: u16) -> Verdict {
    if let Some(endpoint) = local::endpoint(slot) {
        let mut done = false;
        rewrite(packet, request, endpoint, &mut done);
        if !done {
            return Verdict::Drop(PacketDrop::Malformed);
        }
    }
    maps::tally(Tally::IcmpError);
    deliver::unwrap(packet, request)
}

/// A function of its own, with a stack frame of its own.
#[inline(never)]
fn rewrite<P: Packet>(packet: &P, request: &Request, endpoint: &Endpoint, done: &mut bool) {
    *done = translate(packet, request, endpoint).is_some();
}

/// The packet is for the endpoint, and quotes what the endpoint sent.
#[inline(always)]
fn translate<P: Packet>(packet: &P, request: &Request, endpoint: &Endpoint) -> Option<()> {
    let work = &*request.work;
    let (ip, quote, transport) = (&work.ip, usize::from(work.quote), usize::from(work.quote_transport));
    let vip_port = request.found.service.port;
    let address = difference(&ip.destination, &endpoint.address);
    let port = difference16(vip_port, endpoint.port);
    // What the message's own checksum covers changes by all of this together.
    let mut plain = u64::from(address) + u64::from(port);
    let at = transport + if ip.protocol == IPPROTO_TCP { 16 } else { 6 };
    if at + 2 <= ip.at() + ip.length as usize
        && let Some(old) = packet.read::<u16>(at)
        && (ip.protocol == IPPROTO_TCP || old != 0)
    {
        let new = corrected(old, u64::from(address) + u64::from(port));
        packet.store(at, &new, Sum::Changes)?;
        plain += u64::from(difference16(old, new));
    }
    packet.store(transport, &endpoint.port, Sum::Changes)?;
    if ip.v6 {
        packet.store(quote + 8, &endpoint.address, Sum::Changes)?;
    } else {
        let old: u16 = packet.read(quote + 10)?;
        let new = corrected(old, u64::from(address));
        packet.store(quote + 10, &new, Sum::Changes)?;
        plain += u64::from(difference16(old, new));
        packet.store(quote + 12, &low_word(&endpoint.address), Sum::Changes)?;
    }
    let pseudo = if ip.v6 { address } else { 0 };
    let change = Change { pseudo, plain: u32::from(fold16(plain)), udp: false, v6: ip.v6 };
    packet.fix_transport(ip.transport() + 2, change)?;
    if ip.v6 {
        return packet.store(ip.at() + 24, &endpoint.address, Sum::Stays);
    }
    packet.fix_ip(ip.at() + 10, address)?;
    packet.store(ip.at() + 16, &low_word(&endpoint.address), Sum::Stays)
}
