//! Replies of endpoints on their way out (section 4).

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    FLOW_FIN_ENDPOINT, FLOW_VIA_INGRESS, Flow, FlowKey, ReverseKey, SHIM_FINAL, ShimHead, Table, Tally,
};

use super::deliver::{End, clamp, note_end, rewrite};
use super::encap::Why;
use super::error::translate_error;
use super::ingress::{ACK, Job, Kind, RST, SYN, kind_of, port_at};
use super::ip::{self, ICMP, ICMP6, Ip, TCP, UDP};
use super::{Clock, Output, State, Verdict};
use crate::forward::bytes::address_bytes;

/// What an endpoint's reply is known by.
#[derive(Clone, Copy)]
struct Known {
    vip: VipKey,
    port: u16,
    service: u16,
    endpoint: u16,
    by: Tally,
    via: u16,
}

impl State {
    /// Handles one frame that is about to leave on `ifindex`.
    pub fn egress(&mut self, frame: &[u8], ifindex: u32, now: Clock) -> Output {
        let next = Output::new(Verdict::Pass, frame.to_vec());
        if self.config.node == 0 {
            return next;
        }
        let Some((at, ethertype)) = ip::ethernet(frame) else { return next };
        let Some(ip) = ip::read(frame, at, ethertype) else { return next };
        if ip.fragment.is_some() || ip.end > frame.len() {
            return next;
        }
        match ip.protocol {
            TCP | UDP => self.reply(frame, ip, ifindex, now),
            ICMP | ICMP6 => self.error_out(frame, &ip),
            _ => next,
        }
    }

    fn reply(&mut self, frame: &[u8], ip: Ip, ifindex: u32, now: Clock) -> Output {
        let next = Output::new(Verdict::Pass, frame.to_vec());
        let (Some(own), Some(client)) = (port_at(frame, ip.l4), port_at(frame, ip.l4 + 2)) else { return next };
        let key = FlowKey {
            client: ip.destination,
            endpoint: ip.source,
            client_port: client,
            endpoint_port: own,
            protocol: ip.protocol,
            pad: [0; 3],
        };
        let Some(known) = self.answered(&key) else { return next };
        let Some(service) = self.services.get(&known.service).copied() else { return next };
        let Some(kind) = kind_of(frame, &ip, &service) else { return next };
        let mut out = frame.to_vec();
        let stats = self.endpoint_stats.entry(known.endpoint).or_default();
        stats.replies += 1;
        stats.reply_bytes += ip.length() as u64;
        if let Kind::Tcp { flags, .. } = kind {
            stats.resets += u64::from(flags & RST != 0);
            if let Some(flow) = self.flows.get_mut(&key) {
                note_end(flow, flags, FLOW_FIN_ENDPOINT);
            }
            if flags & (SYN | ACK) == SYN | ACK {
                self.endpoint_stats.entry(known.endpoint).or_default().syn_acks += 1;
                if clamp(&mut out, &ip, if ip.v6 { service.mss6 } else { service.mss4 }) {
                    self.count(Tally::MssClamped);
                }
            }
        }
        rewrite(&mut out, &ip, End::Source, &address_bytes(&known.vip), known.port);
        self.count(known.by);
        if known.via == 0 {
            return Output::new(Verdict::Pass, out);
        }
        let table = Table::from_word(service.nodes);
        let head = ShimHead {
            flags: SHIM_FINAL,
            service: service.number,
            epoch: table.epoch,
            origin_site: self.config.site,
            ..ShimHead::default()
        };
        let hash = self.hash(&service, &key.client, key.client_port);
        let job = Job {
            frame: out,
            ip,
            ifindex,
            now,
            slot: known.service,
            service,
            client: key.client,
            client_port: key.client_port,
            hash,
            kind,
        };
        let mut sent = self.encapsulate(job, known.via, head, false, Why::First);
        if !matches!(sent.verdict, Verdict::Drop(_)) {
            *self.tallies.entry(Tally::Encapsulated as u32).or_default() -= 1;
            self.count(Tally::ReplyVia);
        }
        // Whether the way it was known by is counted too is not said.
        sent.loose.tallies.extend([known.by as u32, Tally::Encapsulated as u32]);
        sent
    }

    fn answered(&self, key: &FlowKey) -> Option<Known> {
        if let Some(flow) = self.flows.get(key) {
            return Some(of_flow(flow));
        }
        if let Some(half) = self.half.get(key) {
            return Some(Known {
                vip: half.vip,
                port: half.vip_port,
                service: half.service,
                endpoint: half.endpoint,
                by: Tally::ReplyHalf,
                via: self
                    .services
                    .get(&half.service)
                    .map_or(0, |s| if self.via(s, half.ingress) != 0 { half.ingress } else { 0 }),
            });
        }
        let at = ReverseKey { address: key.endpoint, port: key.endpoint_port, protocol: key.protocol, pad: [0; 5] };
        let entry = self.reverse.get(&at)?;
        let endpoint = self.endpoints.iter().find(|(_, e)| e.address == key.endpoint && e.port == key.endpoint_port);
        Some(Known {
            vip: entry.vip,
            port: entry.port,
            service: entry.service,
            endpoint: endpoint.map_or(0, |(slot, _)| *slot),
            by: Tally::ReplyReverse,
            via: 0,
        })
    }

    /// An ICMP error that an endpoint sends about a packet of its client: quotes the translated tuple.
    fn error_out(&mut self, frame: &[u8], ip: &Ip) -> Output {
        let next = Output::new(Verdict::Pass, frame.to_vec());
        let kind = frame.get(ip.l4).copied().unwrap_or_default();
        let error = if ip.v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
        let Some(quoted) = ip::read_any(&frame[..ip.end], ip.l4 + 8).filter(|_| error) else { return next };
        let (Some(client), Some(own)) = (port_at(frame, quoted.l4), port_at(frame, quoted.l4 + 2)) else { return next };
        let key = FlowKey {
            client: quoted.source,
            endpoint: quoted.destination,
            client_port: client,
            endpoint_port: own,
            protocol: quoted.protocol,
            pad: [0; 3],
        };
        if quoted.rest() || ip.source != quoted.destination {
            return next;
        }
        let Some(known) = self.answered(&key) else { return next };
        let mut out = frame.to_vec();
        translate_error(&mut out, ip, &quoted, End::Source, &address_bytes(&known.vip), (End::Destination, known.port));
        let mut out = Output::new(Verdict::Pass, out);
        out.loose.tallies = vec![known.by as u32, Tally::IcmpError as u32];
        out.loose.stats = true;
        out
    }
}

fn of_flow(flow: &Flow) -> Known {
    Known {
        vip: flow.vip,
        port: flow.vip_port,
        service: flow.service,
        endpoint: flow.endpoint,
        by: Tally::ReplyFlow,
        via: if flow.flags & FLOW_VIA_INGRESS != 0 { flow.ingress } else { 0 },
    }
}
