//! A frame arrives: section 0 of the rules.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    CONFIG_OWN_MACS, CONFIG_SITES, DELIVER_NONE, PacketDrop, SERVICE_ADDRESS, SERVICE_AFFINITY, SERVICE_QUIC,
    SERVICE_SOURCES, Service, ServiceKey, Tally, Tuple,
};

use super::error::Embedded;
use super::ip::{self, Ip, TCP, UDP};
use super::{Clock, Output, State, Verdict};
use crate::forward::bytes::u16_at;

/// TCP flags.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// What a packet for a VIP is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Tcp {
        flags: u8,
    },
    Udp {
        quic_opens: bool,
    },
    Error(Embedded),
    /// An error that an endpoint sends.
    Answer,
}

/// How it came to this node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Node on which it came into the site.
    pub(crate) ingress: u16,
    /// Node that sent it here; own id when a client did.
    pub(crate) sender: u16,
    pub(crate) client: bool,
    /// A node of another site did.
    pub(crate) guest: bool,
    /// It was told that the flow lives here.
    pub(crate) named: bool,
    pub(crate) flags: u8,
    pub(crate) index: u8,
    pub(crate) count: u8,
    pub(crate) accept: bool,
    /// Epoch of the ingress node's table.
    pub(crate) epoch: u16,
    pub(crate) origin_site: u8,
    pub(crate) second_site: u8,
    pub(crate) hops: [u16; 2],
}

/// A packet for a service, on its way through the rules.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) frame: Vec<u8>,
    pub(crate) ip: Ip,
    pub(crate) ifindex: u32,
    pub(crate) now: Clock,
    pub(crate) slot: u16,
    pub(crate) service: Service,
    pub(crate) client: VipKey,
    pub(crate) client_port: u16,
    pub(crate) hash: u64,
    pub(crate) kind: Kind,
}

impl Job {
    pub(crate) fn opens(&self) -> bool {
        match self.kind {
            Kind::Tcp { flags, .. } => flags & (SYN | ACK) == SYN,
            Kind::Udp { quic_opens } => quic_opens,
            Kind::Error(_) | Kind::Answer => false,
        }
    }
    /// Does it belong to a flow that was opened before?
    pub(crate) fn lives(&self) -> bool {
        match self.kind {
            Kind::Tcp { .. } => !self.opens(),
            Kind::Error(_) => true,
            Kind::Udp { .. } | Kind::Answer => false,
        }
    }
    pub(crate) fn tcp(&self) -> bool {
        self.service.protocol == TCP
    }
}

/// A port as the maps hold it, from its two bytes on the wire.
pub(crate) fn port_at(frame: &[u8], at: usize) -> Option<u16> {
    u16_at(frame, at).map(u16::to_be)
}

impl State {
    /// Handles one frame that arrived on `ifindex`.
    pub fn ingress(&mut self, frame: &[u8], ifindex: u32, now: Clock) -> Output {
        let pass = Output::new(Verdict::Pass, frame.to_vec());
        if self.config.node == 0 {
            return pass;
        }
        let Some((at, ethertype)) = ip::ethernet(frame) else { return pass };
        if !matches!(ethertype, 0x0800 | 0x86dd) {
            return pass;
        }
        let Some(ip) = ip::read(frame, at, ethertype) else { return self.unsettled(frame) };
        if !ip.plain() || !matches!(ip.protocol, TCP | UDP) {
            return self.slow(frame, ip, ifindex, now);
        }
        if self.tunnelled(frame, &ip) {
            return self.decapsulate(frame, ip, ifindex, now);
        }
        let Some((slot, service)) = self.named(frame, &ip) else { return self.passed(frame) };
        if self.foreign(frame) {
            return self.passed(frame);
        }
        self.client_packet(frame, ip, slot, service, ifindex, now)
    }

    /// A packet that names a service came from a client.
    pub(crate) fn client_packet(
        &mut self,
        frame: &[u8],
        ip: Ip,
        slot: u16,
        service: Service,
        ifindex: u32,
        now: Clock,
    ) -> Output {
        if service.delivery == DELIVER_NONE || service.flags & SERVICE_ADDRESS != 0 {
            return self.unsettled(frame);
        }
        let Some(kind) = kind_of(frame, &ip, &service) else {
            return self.drop(PacketDrop::Malformed, frame.to_vec());
        };
        if service.flags & SERVICE_SOURCES != 0 && !self.in_sources(slot, &ip.source) {
            return self.drop(PacketDrop::SourceRange, frame.to_vec());
        }
        let stats = self.service_stats.entry(slot).or_default();
        stats.packets += 1;
        stats.bytes += ip.length() as u64;
        if self.config.flags & CONFIG_SITES != 0 {
            stats.asked += match kind {
                Kind::Tcp { flags, .. } => u64::from(flags & (SYN | ACK) == SYN),
                Kind::Udp { .. } => 1,
                Kind::Error(_) | Kind::Answer => 0,
            };
        }
        let client_port = port_at(frame, ip.l4).expect("checked by kind_of");
        let hash = self.hash(&service, &ip.source, client_port);
        let job =
            Job { frame: frame.to_vec(), client: ip.source, ip, ifindex, now, slot, service, client_port, hash, kind };
        self.start(job)
    }

    /// Is it for another station?
    pub(crate) fn foreign(&self, frame: &[u8]) -> bool {
        self.config.flags & CONFIG_OWN_MACS != 0 && !self.macs.iter().any(|mac| frame.starts_with(mac))
    }

    /// UDP to the tunnel port of an address of ours.
    pub(crate) fn tunnelled(&self, frame: &[u8], ip: &Ip) -> bool {
        let own = if ip.v6 { self.config.address6 } else { self.config.address4 };
        ip.protocol == UDP
            && !ip.rest()
            && own != VipKey::default()
            && ip.destination == own
            && port_at(frame, ip.l4 + 2) == Some(self.config.tunnel_port)
    }

    /// The service that destination, port and protocol name.
    pub(crate) fn named(&self, frame: &[u8], ip: &Ip) -> Option<(u16, Service)> {
        self.service(ip.destination, port_at(frame, ip.l4 + 2)?, ip.protocol)
    }

    pub(crate) fn service(&self, vip: VipKey, port: u16, protocol: u8) -> Option<(u16, Service)> {
        let slot = *self.service_keys.get(&ServiceKey::new(vip, port, protocol))?;
        Some((slot, self.services.get(&slot).copied().unwrap_or_default()))
    }

    pub(crate) fn hash(&self, service: &Service, client: &VipKey, client_port: u16) -> u64 {
        let port = if service.flags & SERVICE_AFFINITY != 0 { 0 } else { client_port };
        Tuple {
            client: *client,
            vip: service.vip,
            client_port: port,
            vip_port: service.port,
            protocol: service.protocol,
        }
        .hash(self.config.flow_key)
    }

    pub(crate) fn passed(&mut self, frame: &[u8]) -> Output {
        self.count(Tally::Passed);
        Output::new(Verdict::Pass, frame.to_vec())
    }

    /// Passes; whether it is counted as such is not settled.
    pub(crate) fn unsettled(&mut self, frame: &[u8]) -> Output {
        let mut out = Output::new(Verdict::Pass, frame.to_vec());
        out.loose.tallies.push(Tally::Passed as u32);
        out
    }
}

/// TCP or UDP with honest lengths; `None`: malformed.
pub(crate) fn kind_of(frame: &[u8], ip: &Ip, service: &Service) -> Option<Kind> {
    if ip.end > frame.len() || ip.end < ip.l4 {
        return None;
    }
    let l4 = &frame[ip.l4..ip.end];
    if ip.protocol == TCP {
        let header = usize::from(*l4.get(12)? >> 4) * 4;
        if l4.len() < 20 || header < 20 || header > l4.len() {
            return None;
        }
        return Some(Kind::Tcp { flags: l4[13] });
    }
    let length = usize::from(u16_at(l4, 4)?);
    // Of a first fragment only a part of the datagram is here.
    if l4.len() < 8 || length < 8 || length > l4.len() && ip.fragment.is_none() {
        return None;
    }
    let quic_opens = service.flags & SERVICE_QUIC != 0 && opens_quic(&l4[8..]);
    Some(Kind::Udp { quic_opens })
}

/// Long header of type Initial or 0-RTT: RFC 9000 section 17.2; QUIC version 2 numbers them otherwise (RFC 9369 section 3.2).
fn opens_quic(payload: &[u8]) -> bool {
    let [first, a, b, c, d, ..] = *payload else { return false };
    let version = u32::from_be_bytes([a, b, c, d]);
    let kind = first >> 4 & 3;
    let initial = if version == 0x6b33_43cf { 1 } else { 0 };
    first & 0xc0 == 0xc0 && version != 0 && (kind == initial || kind == initial + 1)
}
