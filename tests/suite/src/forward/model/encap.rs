//! Encapsulation (section 1) and "too big" messages.

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{
    NODE_RESOLVED, OVERHEAD_V4, OVERHEAD_V6, PacketDrop, Shim, ShimHead, Tally, entropy_port,
};

use super::ingress::{Job, Kind};
use super::{Output, State, Verdict};
use crate::forward::bytes::{address_bytes, adjusted, is_v4, len16, low8, put16, sum};

/// Outer TTL and hop limit.
const OUTER_TTL: u8 = 8;

/// Why a packet is encapsulated: what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    First,
    Next,
    LookAhead,
    /// Another site is the home of its row.
    ToSite,
    /// Another site may know its flow.
    Remote,
    /// A node of another site has it.
    Pinned,
    /// A reply on its way back.
    Reply,
}

impl State {
    /// Sends the packet to a node. `decrement`: this node is its first.
    pub(crate) fn encapsulate(&mut self, job: Job, to: u16, head: ShimHead, decrement: bool, why: Why) -> Output {
        let node = self.node(to);
        let v4 = is_v4(&node.address);
        let source = if v4 { self.config.address4 } else { self.config.address6 };
        if node.flags & NODE_RESOLVED == 0 {
            return self.drop(PacketDrop::Unresolved, job.frame);
        }
        if decrement && job.ip.ttl <= 1 {
            return self.drop(PacketDrop::HopLimit, job.frame);
        }
        if source == VipKey::default() {
            return self.drop(PacketDrop::Unresolved, job.frame);
        }
        let overhead = if v4 { OVERHEAD_V4 } else { OVERHEAD_V6 };
        if job.ip.length() + overhead > usize::from(node.mtu) {
            // The client is told by its first node, and never about an error.
            let told = decrement && !matches!(job.kind, Kind::Error(_));
            return self.too_big(&job, usize::from(node.mtu) - overhead, told);
        }
        let mut inner = job.frame[job.ip.at..job.ip.end].to_vec();
        if decrement {
            hop(&mut inner);
        }
        let head = ShimHead { flags: head.flags & !1 | (self.config.key_slot & 1), ..head };
        let key = self.key(self.other_site(to), self.config.key_slot & 1).key;
        let shim = head.seal(key, job.hash, self.config.node, to);
        let mut udp = entropy_port(job.hash).to_be_bytes().to_vec();
        udp.extend(self.config.tunnel_port.to_ne_bytes());
        udp.extend(len16(8 + 16 + inner.len()).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(shim_wire(&shim));
        udp.extend(&inner);
        let mut frame = node.next_mac.to_vec();
        frame.extend(node.source_mac);
        frame.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(outer(&source, &node.address, job.ip.tos, job.hash, &udp));
        self.count(match why {
            Why::First => Tally::Encapsulated,
            Why::Next => Tally::NextHop,
            Why::LookAhead => Tally::LookAhead,
            Why::ToSite => Tally::ToSite,
            Why::Remote => Tally::Remote,
            Why::Pinned => Tally::Pinned,
            Why::Reply => Tally::ReplyVia,
        });
        self.followed = Some(super::state::Followed::Node(to));
        let verdict = if node.ifindex == job.ifindex { Verdict::Transmit } else { Verdict::Redirect(node.ifindex) };
        Output::new(verdict, frame)
    }

    /// Drops and tells the client how much fits (RFC 1191, RFC 8201), if the rate allows.
    fn too_big(&mut self, job: &Job, mtu: usize, told: bool) -> Output {
        let mut out = self.drop(PacketDrop::TooBig, job.frame.clone());
        if !told || self.config.icmp_rate == 0 {
            return out;
        }
        self.count(Tally::TooBigSent);
        let original = &job.frame[job.ip.at..job.ip.end];
        out.verdict = Verdict::Transmit;
        out.frame = self.icmp_answer(job, mtu, original);
        // How much is quoted, with which TTL and identification it is sent, is the sender's choice.
        out.loose.from = Some(job.ip.at);
        out
    }

    fn icmp_answer(&self, job: &Job, mtu: usize, original: &[u8]) -> Vec<u8> {
        let mut frame = job.frame[6..12].to_vec();
        frame.extend(&job.frame[..6]);
        frame.extend(&job.frame[12..job.ip.at]);
        let quote = &original[..original.len().min(if job.ip.v6 { 1232 } else { 548 })];
        frame.extend(if job.ip.v6 {
            super::slow::packet_too_big(&job.service.vip, &job.client, mtu, quote)
        } else {
            super::slow::fragmentation_needed(&job.service.vip, &job.client, mtu, quote)
        });
        frame
    }
}

/// Takes one from TTL or hop limit.
pub(crate) fn hop(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let old = [packet[8], packet[9]];
        packet[8] -= 1;
        let new = [packet[8], packet[9]];
        let checksum = adjusted(u16::from_be_bytes([packet[10], packet[11]]), &old, &new);
        put16(packet, 10, checksum);
    } else {
        packet[7] -= 1;
    }
}

/// The sixteen bytes of a shim.
#[must_use]
pub fn shim_wire(shim: &Shim) -> Vec<u8> {
    let mut b = vec![shim.version_flags, shim.hops_used];
    b.extend(shim.service.to_ne_bytes());
    b.extend(shim.epoch.to_ne_bytes());
    b.extend([shim.origin_site, shim.second_site]);
    b.extend(shim.hops[0].to_ne_bytes());
    b.extend(shim.hops[1].to_ne_bytes());
    b.extend(shim.tag.to_ne_bytes());
    b
}

/// Outer IP header and what it carries.
fn outer(source: &VipKey, destination: &VipKey, tos: u8, hash: u64, udp: &[u8]) -> Vec<u8> {
    let mut p;
    if is_v4(destination) {
        p = vec![0x45, tos];
        p.extend(len16(20 + udp.len()).to_be_bytes());
        p.extend([0, 0, 0x40, 0, OUTER_TTL, 17, 0, 0]);
        p.extend(address_bytes(source));
        p.extend(address_bytes(destination));
        let checksum = !sum(&[&p]);
        put16(&mut p, 10, checksum);
    } else {
        let label = hash & 0xf_ffff;
        p = vec![0x60 | tos >> 4, tos << 4 | low8(label >> 16), low8(label >> 8), low8(label)];
        p.extend(len16(udp.len()).to_be_bytes());
        p.extend([17, OUTER_TTL]);
        p.extend(address_bytes(source));
        p.extend(address_bytes(destination));
    }
    p.extend(udp);
    p
}
