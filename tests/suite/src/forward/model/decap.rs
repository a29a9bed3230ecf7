//! Decapsulation (section 2).

use bascule_ebpf_common::forward::{PacketDrop, SHIM_FINAL, SHIM_KEY, SHIM_LEN, Shim, Tally};

use super::ingress::{Arrival, Job, Kind, kind_of, port_at};
use super::ip::{self, Ip, TCP, UDP};
use super::{Clock, Output, State};
use crate::forward::bytes::{adjusted, put16, u16_at};

impl State {
    pub(crate) fn decapsulate(&mut self, frame: &[u8], outer: Ip, ifindex: u32, now: Clock) -> Output {
        match self.opened(frame, outer, ifindex, now) {
            Ok((job, arrival)) => {
                self.count(Tally::Decapsulated);
                *self.tallies.entry(Tally::Hops as u32 + u32::from(arrival.index)).or_default() += 1;
                if arrival.guest { self.take_guest(job, arrival) } else { self.home(job, arrival) }
            }
            Err(reason) => self.drop(reason, frame.to_vec()),
        }
    }

    /// Checks, in the order of the rules, and the packet inside.
    fn opened(&self, frame: &[u8], outer: Ip, ifindex: u32, now: Clock) -> Result<(Job, Arrival), PacketDrop> {
        use PacketDrop::{EncapFormat, EncapNested, EncapPeer, EncapService, EncapSite, EncapTag};
        if !outer.plain() || outer.end > frame.len() {
            return Err(EncapFormat);
        }
        let udp = frame.get(outer.l4..outer.end).ok_or(EncapFormat)?;
        if udp.len() < 8 + SHIM_LEN || u16_at(udp, 4).map(usize::from) != Some(udp.len()) {
            return Err(EncapFormat);
        }
        let shim = read_shim(&udp[8..]);
        let head = shim.open().ok_or(EncapFormat)?;
        let sender = self.peers.get(&outer.source).copied();
        // What does not say that it comes from another site is held against the key of this one.
        let crosses = head.flags & SHIM_FINAL != 0 || head.index == 0 && head.origin_site != self.config.site;
        let site = sender.filter(|_| crosses).map_or(0, |sender| self.other_site(sender));
        let key = self.key(site, head.flags & SHIM_KEY);
        if key.valid == 0 {
            return Err(EncapTag);
        }
        let sender = sender.ok_or(EncapPeer)?;
        if !self.speaks(&head, site) {
            return Err(EncapSite);
        }
        let at = outer.l4 + 8 + SHIM_LEN;
        let inner = ip::read_any(&frame[..outer.end], at).ok_or(EncapFormat)?;
        if inner.end != outer.end {
            return Err(EncapFormat);
        }
        if inner.protocol == UDP && !inner.rest() && port_at(frame, inner.l4 + 2) == Some(self.config.tunnel_port) {
            return Err(EncapNested);
        }
        let (slot, service, client, client_port, error) = match self.embedded(frame, &inner) {
            Some(e) => {
                let (slot, service) = self.service(e.vip, e.vip_port, e.protocol).ok_or(EncapService)?;
                (slot, service, e.client, e.client_port, Some(e))
            }
            None => {
                let (slot, service) = self.named(frame, &inner).ok_or(EncapService)?;
                (slot, service, inner.source, port_at(frame, inner.l4).ok_or(EncapFormat)?, None)
            }
        };
        if service.number != head.service {
            return Err(EncapService);
        }
        let hash = self.hash(&service, &client, client_port);
        if !shim.verify(key.key, hash, sender, self.config.node) {
            return Err(EncapTag);
        }
        let arrival = Arrival {
            ingress: if head.index == 0 && site == 0 { sender } else { head.hops[0] },
            sender,
            client: false,
            guest: site != 0,
            named: false,
            flags: head.flags,
            index: head.index,
            count: head.count,
            accept: head.accept,
            epoch: head.epoch,
            origin_site: head.origin_site,
            second_site: head.second_site,
            hops: head.hops,
        };
        let mut stripped = frame[..outer.at].to_vec();
        let end = stripped.len();
        stripped[end - 2..].copy_from_slice(if inner.v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        stripped.extend(&frame[at..outer.end]);
        mark_congestion(&mut stripped[end..], outer.tos);
        let ip = ip::read_any(&stripped, end).ok_or(EncapFormat)?;
        let kind = match error {
            // Offsets inside the stripped frame.
            Some(_) => Kind::Error(self.embedded(&stripped, &ip).ok_or(EncapFormat)?),
            None => kind_of(&stripped, &ip, &service).ok_or(PacketDrop::Malformed)?,
        };
        debug_assert!(matches!(service.protocol, TCP | UDP), "no other protocol is carried");
        let job = Job { frame: stripped, ip, ifindex, now, slot, service, client, client_port, hash, kind };
        Ok((job, arrival))
    }
}

fn read_shim(b: &[u8]) -> Shim {
    let two = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
    Shim {
        version_flags: b[0],
        hops_used: b[1],
        service: two(2),
        epoch: two(4),
        origin_site: b[6],
        second_site: b[7],
        hops: [two(8), two(10)],
        tag: u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
    }
}

/// Outer "congestion experienced" goes to an inner packet that knows ECN (RFC 6040 section 4.2).
fn mark_congestion(packet: &mut [u8], outer_tos: u8) {
    let v4 = packet[0] >> 4 == 4;
    let tos = if v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    if outer_tos & 3 != 3 || tos & 3 == 0 {
        return;
    }
    if v4 {
        let old = [packet[0], packet[1]];
        packet[1] |= 3;
        let new = [packet[0], packet[1]];
        let checksum = adjusted(u16::from_be_bytes([packet[10], packet[11]]), &old, &new);
        put16(packet, 10, checksum);
    } else {
        packet[1] |= 0x30;
    }
}
