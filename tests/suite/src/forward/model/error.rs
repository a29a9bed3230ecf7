//! ICMP errors about packets that a VIP sent (RFC 792, RFC 4443): taken to the flow inside them.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{PacketDrop, SERVICE_SOURCES, Tally};

use super::deliver::{End, rewrite};
use super::home::Place;
use super::ingress::{Job, Kind, port_at};
use super::ip::{self, ICMP, ICMP6, Ip, TCP, UDP};
use super::{Clock, Output, State, Verdict};
use crate::forward::bytes::{address_bytes, adjusted, put16, u16_at};

/// The packet inside an error, read backwards: its source is the VIP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedded {
    pub(crate) ip: Ip,
    pub(crate) vip: VipKey,
    pub(crate) vip_port: u16,
    pub(crate) client: VipKey,
    pub(crate) client_port: u16,
    pub(crate) protocol: u8,
}

impl State {
    /// The packet that an ICMP error is about.
    pub(crate) fn embedded(&self, frame: &[u8], ip: &Ip) -> Option<Embedded> {
        let kind = *frame.get(ip.l4)?;
        let error = match ip.protocol {
            ICMP => !ip.v6 && matches!(kind, 3 | 11 | 12),
            ICMP6 => ip.v6 && matches!(kind, 1..=4),
            _ => false,
        };
        if !error || ip.fragment.is_some() || ip.end > frame.len() {
            return None;
        }
        let inner = ip::read_any(&frame[..ip.end], ip.l4 + 8).filter(|inner| inner.v6 == ip.v6)?;
        if !matches!(inner.protocol, TCP | UDP) || inner.rest() {
            return None;
        }
        Some(Embedded {
            ip: inner,
            vip: inner.source,
            vip_port: port_at(&frame[..ip.end], inner.l4)?,
            client: inner.destination,
            client_port: port_at(&frame[..ip.end], inner.l4 + 2)?,
            protocol: inner.protocol,
        })
    }

    /// An error came from outside.
    pub(crate) fn icmp_error(&mut self, frame: &[u8], ip: Ip, e: Embedded, ifindex: u32, now: Clock) -> Output {
        let Some((slot, service)) = self.service(e.vip, e.vip_port, e.protocol) else {
            return self.unsettled(frame);
        };
        // Judged is the client that the flow belongs to, not the router that speaks.
        if service.flags & SERVICE_SOURCES != 0 && !self.in_sources(slot, &e.client) {
            return self.drop(PacketDrop::SourceRange, frame.to_vec());
        }
        let hash = self.hash(&service, &e.client, e.client_port);
        let job = Job {
            frame: frame.to_vec(),
            ip,
            ifindex,
            now,
            slot,
            service,
            client: e.client,
            client_port: e.client_port,
            hash,
            kind: Kind::Error(e),
        };
        let mut out = self.start(job);
        out.loose.stats = true;
        out
    }

    pub(crate) fn deliver_error(&mut self, job: &Job, embedded: &Embedded, place: &Place) -> Output {
        self.count(Tally::IcmpError);
        let mut frame = job.frame.clone();
        let address = address_bytes(&place.address);
        let quoted = (End::Source, address.as_slice(), place.port);
        translate_error(&mut frame, &job.ip, &embedded.ip, (End::Destination, &address), quoted);
        let mut out = Output::new(Verdict::Pass, frame);
        out.loose.stats = true;
        out
    }
}

/// Rewrites one end of an error and the other end of what it quotes.
pub(crate) fn translate_error(
    frame: &mut [u8],
    ip: &Ip,
    quoted: &Ip,
    (end, address): (End, &[u8]),
    (quoted_end, quoted_address, port): (End, &[u8], u16),
) {
    let before = frame[ip.l4..ip.end].to_vec();
    let mut part = frame[..ip.end].to_vec();
    rewrite(&mut part, quoted, quoted_end, quoted_address, port);
    rewrite_outer(&mut part, ip, end, address);
    let mut old = even(before);
    let mut new = even(part[ip.l4..ip.end].to_vec());
    if ip.v6 {
        // The pseudo header counts (RFC 4443 section 2.3).
        let at = if end == End::Source { ip.at + 8 } else { ip.at + 24 };
        old.extend(&frame[at..at + 16]);
        new.extend(address);
    }
    let checksum = adjusted(u16_at(&part, ip.l4 + 2).expect("an ICMP header"), &old, &new);
    put16(&mut part, ip.l4 + 2, checksum);
    frame[..ip.end].copy_from_slice(&part);
}

fn rewrite_outer(frame: &mut [u8], ip: &Ip, end: End, address: &[u8]) {
    // Only the address: an ICMP header has no port.
    let mut plain = *ip;
    plain.fragment = Some(ip::Fragment { offset: 8, id: 0 });
    rewrite(frame, &plain, end, address, 0);
}

fn even(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}
