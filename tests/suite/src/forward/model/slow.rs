//! The slow path (section 5): options, extension headers, fragments, ICMP.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{PacketDrop, SERVICE_ADDRESS, Tally};

use super::ip::{ICMP, ICMP6, Ip, TCP, UDP};
use super::{Clock, Output, State, Verdict};
use crate::forward::bytes::{address_bytes, adjusted, len16, pseudo, put16, sum, u16_at};

impl State {
    pub(crate) fn slow(&mut self, frame: &[u8], ip: Ip, ifindex: u32, now: Clock) -> Output {
        if self.tunnelled(frame, &ip) {
            return self.decapsulate(frame, ip, ifindex, now);
        }
        let mut out = if self.foreign(frame) {
            self.passed(frame)
        } else if ip.rest() {
            self.later_fragment(frame, &ip, ifindex)
        } else {
            match ip.protocol {
                TCP | UDP => match self.named(frame, &ip) {
                    Some((slot, service)) => self.slow_client(frame, ip, slot, service, ifindex, now),
                    None => self.passed(frame),
                },
                ICMP if !ip.v6 => self.control(frame, ip, 8, ifindex, now),
                ICMP6 if ip.v6 => self.control(frame, ip, 128, ifindex, now),
                _ => self.passed(frame),
            }
        };
        if out.verdict == Verdict::Pass && out.frame == frame {
            // Whether the slow program counts what it passes is not said.
            out.loose.tallies.push(Tally::Passed as u32);
        }
        out
    }

    fn control(&mut self, frame: &[u8], ip: Ip, echo: u8, ifindex: u32, now: Clock) -> Output {
        if let Some(embedded) = self.embedded(frame, &ip) {
            return self.icmp_error(frame, ip, embedded, ifindex, now);
        }
        let request = frame.get(ip.l4..ip.l4 + 8).is_some_and(|h| h[0] == echo && h[1] == 0);
        if request && ip.fragment.is_none() && ip.end <= frame.len() && ip.end >= ip.l4 + 8 {
            return self.echo(frame, &ip);
        }
        self.unsettled(frame)
    }

    /// An echo request: answered for a VIP of ours that has capacity.
    fn echo(&mut self, frame: &[u8], ip: &Ip) -> Output {
        let Some((_, entry)) = self.service(ip.destination, 0, 0) else { return self.unsettled(frame) };
        if entry.flags & SERVICE_ADDRESS == 0 || entry.nodes == 0 {
            return self.unsettled(frame);
        }
        if self.config.icmp_rate == 0 {
            return self.drop(PacketDrop::IcmpRate, frame.to_vec());
        }
        self.count(Tally::EchoAnswered);
        let mut answer = frame.to_vec();
        answer[..6].copy_from_slice(&frame[6..12]);
        answer[6..12].copy_from_slice(&frame[..6]);
        let (from, n) = if ip.v6 { (ip.at + 8, 16) } else { (ip.at + 12, 4) };
        answer[from..from + n].copy_from_slice(&frame[from + n..from + 2 * n]);
        answer[from + n..from + 2 * n].copy_from_slice(&frame[from..from + n]);
        answer[ip.l4] = if ip.v6 { 129 } else { 0 };
        let old = [frame[ip.l4], frame[ip.l4 + 1]];
        let new = [answer[ip.l4], answer[ip.l4 + 1]];
        let checksum = adjusted(u16_at(frame, ip.l4 + 2).expect("eight bytes"), &old, &new);
        put16(&mut answer, ip.l4 + 2, checksum);
        let mut out = Output::new(Verdict::Transmit, answer);
        // An answer may start with a hop limit of its own (and its header checksum then differs).
        let ttl = ip.at + if ip.v6 { 7 } else { 8 };
        out.loose.bytes.push(ttl..ttl + 1);
        if !ip.v6 {
            out.loose.bytes.push(ip.at + 10..ip.at + 12);
        }
        out
    }
}

/// ICMP type 3 code 4 with the next-hop MTU (RFC 1191 section 4).
pub(crate) fn fragmentation_needed(source: &VipKey, destination: &VipKey, mtu: usize, quote: &[u8]) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(len16(mtu).to_be_bytes());
    icmp.extend(quote);
    let checksum = !sum(&[&icmp]);
    put16(&mut icmp, 2, checksum);
    let mut p = vec![0x45, 0];
    p.extend(len16(20 + icmp.len()).to_be_bytes());
    p.extend([0, 0, 0, 0, 64, ICMP, 0, 0]);
    p.extend(address_bytes(source));
    p.extend(address_bytes(destination));
    let checksum = !sum(&[&p]);
    put16(&mut p, 10, checksum);
    p.extend(icmp);
    p
}

/// ICMPv6 type 2 (RFC 4443 section 3.2).
pub(crate) fn packet_too_big(source: &VipKey, destination: &VipKey, mtu: usize, quote: &[u8]) -> Vec<u8> {
    let mut icmp = vec![2, 0, 0, 0, 0, 0];
    icmp.extend(len16(mtu).to_be_bytes());
    icmp.extend(quote);
    let checksum = !sum(&[&pseudo(source, destination, ICMP6, icmp.len()), &icmp]);
    put16(&mut icmp, 2, checksum);
    let mut p = vec![0x60, 0, 0, 0];
    p.extend(len16(icmp.len()).to_be_bytes());
    p.extend([ICMP6, 64]);
    p.extend(address_bytes(source));
    p.extend(address_bytes(destination));
    p.extend(icmp);
    p
}
