//! Fragments for a VIP: later ones follow the first (section 5).

use bascule_ebpf_common::forward::{FragmentKey, PacketDrop, Service, Tally};

use super::deliver::{End, rewrite};
use super::ip::Ip;
use super::state::Followed;
use super::{Clock, Output, State, Verdict};
use crate::forward::bytes::{address_bytes, is_v4};

impl State {
    /// A packet with options, extension headers, or the first fragment of one.
    pub(crate) fn slow_client(
        &mut self,
        frame: &[u8],
        ip: Ip,
        slot: u16,
        service: Service,
        ifindex: u32,
        now: Clock,
    ) -> Output {
        self.followed = None;
        let out = self.client_packet(frame, ip, slot, service, ifindex, now);
        if let (Some(key), Some(followed)) = (fragment_key(&ip), self.followed) {
            self.fragments.insert(key, followed);
        }
        out
    }

    pub(crate) fn later_fragment(&mut self, frame: &[u8], ip: &Ip, ifindex: u32) -> Output {
        let followed = fragment_key(ip).and_then(|key| self.fragments.get(&key).copied());
        match followed {
            Some(Followed::Endpoint(slot)) => {
                let endpoint = self.endpoints.get(&slot).copied().unwrap_or_default();
                let mut out = frame.to_vec();
                if slot != 0 {
                    rewrite(&mut out, ip, End::Destination, &address_bytes(&endpoint.address), 0);
                }
                let mut out = Output::new(Verdict::Pass, out);
                out.loose.tallies = vec![Tally::Passed as u32, Tally::FlowHit as u32];
                out.loose.stats = true;
                out
            }
            Some(Followed::Node(id)) => {
                let node = self.node(id);
                let verdict = if node.ifindex == ifindex { Verdict::Transmit } else { Verdict::Redirect(node.ifindex) };
                let mut sent = node.next_mac.to_vec();
                sent.extend(node.source_mac);
                sent.extend(if is_v4(&node.address) { [0x08, 0x00] } else { [0x86, 0xdd] });
                let mut out = Output::new(verdict, sent);
                // How a fragment without ports is carried is the programs' own business.
                out.loose.from = Some(14);
                out.loose.tallies = vec![Tally::Encapsulated as u32];
                out.loose.stats = true;
                out
            }
            None if self.service(ip.destination, 0, 0).is_some() => {
                self.drop(PacketDrop::FragmentOrder, frame.to_vec())
            }
            None => self.unsettled(frame),
        }
    }
}

fn fragment_key(ip: &Ip) -> Option<FragmentKey> {
    let fragment = ip.fragment?;
    Some(FragmentKey {
        source: ip.source,
        destination: ip.destination,
        id: fragment.id.to_be(),
        protocol: ip.protocol,
        pad: [0; 3],
    })
}
