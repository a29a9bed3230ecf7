//! Delivery to an endpoint: the rewrite, the flow's entry, the counters.

use bascule_ebpf_common::forward::{
    DELIVER_DELEGATE, FLOW_ASKED, FLOW_CLOSING, FLOW_FIN_CLIENT, FLOW_FIN_ENDPOINT, FLOW_REMOTE, FLOW_VIA_INGRESS,
    Flow, RETURN_VIA_INGRESS, SHIM_REMOTE, Service, Tally,
};

use super::home::{Place, key_of};
use super::ingress::{Arrival, FIN, Job, Kind, RST};
use super::ip::{Ip, TCP, UDP};
use super::state::Followed;
use super::{Clock, Output, State, Verdict};
use crate::forward::bytes::{address_bytes, adjusted, put16, u16_at};

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

impl State {
    /// Makes the flow's entry.
    pub(crate) fn enter(&mut self, job: &Job, from: &Arrival, place: &Place) {
        let flow = Flow {
            vip: job.service.vip,
            vip_port: job.service.port,
            service: job.slot,
            endpoint: place.slot,
            ingress: from.ingress,
            seen_s: job.now.seconds,
            flags: self.via(&job.service, from.ingress) | self.sought(from),
            site: from.origin_site,
            pad: 0,
        };
        self.flows.insert(key_of(job, place), flow);
    }

    /// The flag of a flow whose replies go back through its ingress node.
    pub(crate) fn via(&self, service: &Service, ingress: u16) -> u8 {
        if service.returns == RETURN_VIA_INGRESS && ingress != self.config.node { FLOW_VIA_INGRESS } else { 0 }
    }

    /// The flags of a flow that was found for another site.
    pub(crate) fn sought(&self, from: &Arrival) -> u8 {
        let abroad = from.origin_site != self.config.site;
        if abroad && from.flags & SHIM_REMOTE != 0 { FLOW_REMOTE | FLOW_ASKED } else { 0 }
    }

    /// Rewrites the destination and hands the packet to the stack.
    pub(crate) fn deliver(&mut self, job: &Job, place: &Place, how: Tally) -> Output {
        if let Kind::Error(embedded) = &job.kind {
            return self.deliver_error(job, embedded, place);
        }
        self.count(how);
        let mut frame = job.frame.clone();
        let length = job.ip.length() as u64;
        self.followed = Some(Followed::Endpoint(place.slot));
        if let Kind::Tcp { flags } = job.kind {
            self.ended(job, place, flags);
        }
        if job.opens() && job.tcp() {
            let limit = if job.ip.v6 { job.service.mss6 } else { job.service.mss4 };
            if clamp(&mut frame, &job.ip, limit) {
                self.count(Tally::MssClamped);
            }
        }
        if job.service.delivery == DELIVER_DELEGATE {
            let mut out = Output::new(Verdict::Pass, frame);
            out.loose.stats = true;
            return out;
        }
        rewrite(&mut frame, &job.ip, End::Destination, &address_bytes(&place.address), place.port);
        let stats = self.endpoint_stats.entry(place.slot).or_default();
        stats.packets += 1;
        stats.bytes += length;
        stats.syns += u64::from(job.opens() && job.tcp());
        Output::new(Verdict::Pass, frame)
    }

    /// FIN and RST of the client in the flow's flags.
    fn ended(&mut self, job: &Job, place: &Place, flags: u8) {
        if let Some(flow) = self.flows.get_mut(&key_of(job, place))
            && flow.vip == job.service.vip
            && flow.vip_port == job.service.port
            // What comes late changes nothing.
            && flow.flags & FLOW_CLOSING == 0
        {
            note_end(flow, flags, FLOW_FIN_CLIENT);
        }
    }
}

/// A packet of the flow, of either side. In another second than the one before, the flow may be marked again.
pub(crate) fn seen(flow: &mut Flow, now: Clock) {
    if flow.seen_s != now.seconds {
        flow.seen_s = now.seconds;
        flow.flags &= !FLOW_ASKED;
    }
}

/// Notes what ends a flow: a RST, or FINs of both.
pub(crate) fn note_end(flow: &mut Flow, flags: u8, fin: u8) {
    if flags & FIN != 0 {
        flow.flags |= fin;
    }
    let both = FLOW_FIN_CLIENT | FLOW_FIN_ENDPOINT;
    if flags & RST != 0 || flow.flags & both == both {
        flow.flags |= FLOW_CLOSING;
    }
}

/// Puts another address and port (as on the wire) into one end and keeps the checksums right.
pub(crate) fn rewrite(frame: &mut [u8], ip: &Ip, end: End, address: &[u8], port: u16) {
    let n = address.len();
    let at = match (ip.v6, end) {
        (false, End::Source) => ip.at + 12,
        (false, End::Destination) => ip.at + 16,
        (true, End::Source) => ip.at + 8,
        (true, End::Destination) => ip.at + 24,
    };
    let old_address = frame[at..at + n].to_vec();
    frame[at..at + n].copy_from_slice(address);
    if !ip.v6 {
        let checksum = adjusted(u16_at(frame, ip.at + 10).expect("a whole header"), &old_address, address);
        put16(frame, ip.at + 10, checksum);
    }
    if ip.rest() {
        return;
    }
    let port_at = ip.l4 + if end == End::Source { 0 } else { 2 };
    let old_port = frame[port_at..port_at + 2].to_vec();
    frame[port_at..port_at + 2].copy_from_slice(&port.to_ne_bytes());
    let sum_at = match ip.protocol {
        TCP => ip.l4 + 16,
        UDP => ip.l4 + 6,
        _ => return,
    };
    let Some(before) = u16_at(frame, sum_at) else { return };
    if ip.protocol == UDP && before == 0 {
        return;
    }
    let old = [old_address, old_port].concat();
    let new = [address, &port.to_ne_bytes()].concat();
    let mut after = adjusted(before, &old, &new);
    if ip.protocol == UDP && after == 0 {
        after = 0xffff;
    }
    put16(frame, sum_at, after);
}

/// Lowers the MSS option (RFC 9293 section 3.7.1) to `limit`; 0: never.
pub(crate) fn clamp(frame: &mut [u8], ip: &Ip, limit: u16) -> bool {
    let end = ip.l4 + usize::from(frame[ip.l4 + 12] >> 4) * 4;
    let mut at = ip.l4 + 20;
    while limit != 0 && at + 1 < end {
        match (frame[at], usize::from(frame[at + 1])) {
            (0, _) => return false,
            (1, _) => at += 1,
            (2, 4) if at + 4 <= end => {
                if u16_at(frame, at + 2).is_none_or(|mss| mss <= limit) {
                    return false;
                }
                let old = frame[ip.l4..end].to_vec();
                put16(frame, at + 2, limit);
                let checksum = adjusted(u16_at(frame, ip.l4 + 16).expect("a whole header"), &old, &frame[ip.l4..end]);
                put16(frame, ip.l4 + 16, checksum);
                return true;
            }
            (_, length) if length >= 2 => at += length,
            _ => return false,
        }
    }
    false
}
