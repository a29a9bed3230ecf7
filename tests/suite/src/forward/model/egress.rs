//! Replies of endpoints on their way out (section 4).

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    FLOW_CLOSING, FLOW_FIN_ENDPOINT, FLOW_REMOTE, FLOW_VIA_INGRESS, Flow, FlowKey, HALF_ORPHAN, NODE_RESOLVED,
    OVERHEAD_V6, RETURN_VIA_INGRESS, ReverseKey, SHIM_FINAL, Service, ShimHead, Table, Tally,
};

use super::deliver::{End, clamp, note_end, rewrite, seen};
use super::encap::Why;
use super::error::translate_error;
use super::ingress::{ACK, Job, Kind, RST, SYN, kind_of, port_at};
use super::ip::{self, ICMP, ICMP6, Ip, TCP, UDP};
use super::{Clock, Output, State, Verdict};
use crate::forward::bytes::address_bytes;

/// Bytes of an Ethernet header without tags.
const ETHERNET: usize = 14;

/// What an endpoint's reply is known by.
#[derive(Clone, Copy)]
struct Known {
    vip: VipKey,
    port: u16,
    service: u16,
    /// Slot; the reverse map names none.
    endpoint: u16,
    by: Tally,
    /// The node on which the request arrived, and the flow's own wish to be answered through it.
    ingress: u16,
    marked: bool,
    /// That node is to learn where the flow lives.
    tells: bool,
}

/// A reply, translated.
struct Reply {
    frame: Vec<u8>,
    ip: Ip,
    ifindex: u32,
    now: Clock,
    service: Service,
    kind: Kind,
}

/// The flow of a packet between a client's address and port and an endpoint's.
fn key(client: (VipKey, u16), endpoint: (VipKey, u16), protocol: u8) -> FlowKey {
    FlowKey {
        client: client.0,
        endpoint: endpoint.0,
        client_port: client.1,
        endpoint_port: endpoint.1,
        protocol,
        pad: [0; 3],
    }
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
            ICMP | ICMP6 => self.error_out(frame, ip, ifindex, now),
            _ => next,
        }
    }

    fn reply(&mut self, frame: &[u8], ip: Ip, ifindex: u32, now: Clock) -> Output {
        let next = Output::new(Verdict::Pass, frame.to_vec());
        let (Some(own), Some(client)) = (port_at(frame, ip.l4), port_at(frame, ip.l4 + 2)) else { return next };
        let key = key((ip.destination, client), (ip.source, own), ip.protocol);
        let Some(service) = self.answered(&key).and_then(|known| self.services.get(&known.service).copied()) else {
            return next;
        };
        let Some(kind) = kind_of(frame, &ip, &service) else { return next };
        // Who opens a connection answers nobody.
        if ip.protocol == TCP && matches!(kind, Kind::Tcp { flags } if flags & (SYN | ACK) == SYN) {
            return next;
        }
        let Some(known) = self.heard(&key, now) else { return next };
        let mut out = frame.to_vec();
        let mut stats = self.endpoint_stats.get(&known.endpoint).copied().unwrap_or_default();
        stats.replies += 1;
        stats.reply_bytes += ip.length() as u64;
        if let Kind::Tcp { flags } = kind {
            stats.resets += u64::from(flags & RST != 0);
            if known.by == Tally::ReplyFlow
                && let Some(flow) = self.flows.get_mut(&key)
            {
                note_end(flow, flags, FLOW_FIN_ENDPOINT);
            }
            if flags & (SYN | ACK) == SYN | ACK {
                stats.syn_acks += 1;
                if clamp(&mut out, &ip, if ip.v6 { service.mss6 } else { service.mss4 }) {
                    self.count(Tally::MssClamped);
                }
            }
        }
        if known.endpoint != 0 {
            self.endpoint_stats.insert(known.endpoint, stats);
        }
        rewrite(&mut out, &ip, End::Source, &address_bytes(&known.vip), known.port);
        self.count(known.by);
        self.back(Reply { frame: out, ip, ifindex, now, service, kind }, &key, &known)
    }

    /// To the client: straight, or through the node on which it asked.
    fn back(&mut self, reply: Reply, key: &FlowKey, known: &Known) -> Output {
        let Reply { frame, ip, ifindex, now, service, kind } = reply;
        let wanted = known.marked || service.returns == RETURN_VIA_INGRESS || self.asks_for_replies(known.ingress);
        // A dead node emits nothing, and learns nothing: then straight is all there is.
        let other = known.ingress != self.config.node && self.live(known.ingress);
        let node = self.node(known.ingress);
        // The copy goes where it fits, in a frame without tags. An error tells nothing.
        let fits = ip.length() + OVERHEAD_V6 <= usize::from(node.mtu) && ip.at == ETHERNET;
        let tells = known.tells && !matches!(kind, Kind::Answer);
        let copied = !wanted && tells && fits && node.flags & NODE_RESOLVED != 0;
        if tells
            && other
            && (wanted || copied)
            && let Some(flow) = self.flows.get_mut(key)
        {
            flow.flags &= !FLOW_REMOTE;
        }
        if other && copied {
            self.count(Tally::Told);
        }
        if !wanted || !other {
            return Output::new(Verdict::Pass, frame);
        }
        let (client, client_port) = (key.client, key.client_port);
        let (slot, hash) = (known.service, self.hash(&service, &client, client_port));
        let job = Job { frame, ip, ifindex, now, slot, service, client, client_port, hash, kind };
        let head = ShimHead {
            flags: SHIM_FINAL,
            service: job.service.number,
            epoch: Table::from_word(job.service.nodes).epoch,
            origin_site: self.config.site,
            ..ShimHead::default()
        };
        self.encapsulate(job, known.ingress, head, false, Why::Reply)
    }

    /// Whose reply it is; what an endpoint says keeps its flow alive.
    fn heard(&mut self, key: &FlowKey, now: Clock) -> Option<Known> {
        let known = self.answered(key);
        if known.as_ref().is_some_and(|known| known.by == Tally::ReplyFlow)
            && let Some(flow) = self.flows.get_mut(key)
        {
            seen(flow, now);
        }
        known
    }

    fn answered(&self, key: &FlowKey) -> Option<Known> {
        // A closed flow's tuple may be in use again, for another VIP.
        let flow = self.flows.get(key);
        let open = flow.filter(|flow| flow.flags & FLOW_CLOSING == 0);
        if let Some(flow) = open.or(flow.filter(|_| !self.half.contains_key(key))) {
            return Some(of_flow(flow));
        }
        if let Some(half) = self.half.get(key) {
            return Some(Known {
                vip: half.vip,
                port: half.vip_port,
                service: half.service,
                endpoint: half.endpoint & !HALF_ORPHAN,
                by: Tally::ReplyHalf,
                ingress: half.ingress,
                marked: false,
                tells: false,
            });
        }
        // Nodes, and the ranges under slot 0, reach endpoints by their own addresses.
        if self.peers.contains_key(&key.client) || self.in_sources(0, &key.client) {
            return None;
        }
        let at = ReverseKey { address: key.endpoint, port: key.endpoint_port, protocol: key.protocol, pad: [0; 5] };
        let entry = self.reverse.get(&at)?;
        Some(Known {
            vip: entry.vip,
            port: entry.port,
            service: entry.service,
            endpoint: 0,
            by: Tally::ReplyReverse,
            ingress: 0,
            marked: false,
            tells: false,
        })
    }

    /// An ICMP error about a packet of a client, which quotes the translated tuple: from the endpoint, or from a router before it.
    fn error_out(&mut self, frame: &[u8], ip: Ip, ifindex: u32, now: Clock) -> Output {
        let next = Output::new(Verdict::Pass, frame.to_vec());
        let kind = frame.get(ip.l4).copied().unwrap_or_default();
        let error = if ip.v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) };
        let Some(quoted) = ip::read_any(&frame[..ip.end], ip.l4 + 8).filter(|_| error) else { return next };
        let (Some(client), Some(own)) = (port_at(frame, quoted.l4), port_at(frame, quoted.l4 + 2)) else { return next };
        let key = key((quoted.source, client), (quoted.destination, own), quoted.protocol);
        if quoted.rest() || ip.destination != quoted.source || !matches!(quoted.protocol, TCP | UDP) {
            return next;
        }
        let Some(known) = self.heard(&key, now) else { return next };
        let Some(service) = self.services.get(&known.service).copied() else { return next };
        let mut out = frame.to_vec();
        // A router speaks for itself, the endpoint as the VIP.
        let outer = if ip.source == quoted.destination { known.vip } else { ip.source };
        let (outer, inner) = (address_bytes(&outer), address_bytes(&known.vip));
        translate_error(&mut out, &ip, &quoted, (End::Source, &outer), (End::Destination, &inner, known.port));
        self.count(Tally::IcmpError);
        self.back(Reply { frame: out, ip, ifindex, now, service, kind: Kind::Answer }, &key, &known)
    }
}

fn of_flow(flow: &Flow) -> Known {
    Known {
        vip: flow.vip,
        port: flow.vip_port,
        service: flow.service,
        endpoint: flow.endpoint,
        by: Tally::ReplyFlow,
        ingress: flow.ingress,
        marked: flow.flags & FLOW_VIA_INGRESS != 0,
        tells: flow.flags & FLOW_REMOTE != 0,
    }
}
