//! ARP over Ethernet for IPv4 (RFC 826, RFC 5227), as whole Ethernet frames.

use core::net::Ipv4Addr;

use pnet_packet::arp::{ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket};
use pnet_packet::ethernet::EtherTypes;

use super::ethernet::{self, ETHERTYPE_ARP};
use crate::types::Mac;

/// Bytes of an ARP message for IPv4 over Ethernet.
pub const MESSAGE_LEN: usize = 28;

/// Request or reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// ar$op 1.
    Request,
    /// ar$op 2.
    Reply,
}

/// An ARP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Sender hardware address.
    pub sender_mac: Mac,
    /// Sender protocol address; unspecified in a probe (RFC 5227 section 1.1).
    pub sender: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: Mac,
    /// Target protocol address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads an Ethernet frame; `None` for anything but ARP for IPv4 over Ethernet with operation 1 or 2.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (_, _, ethertype, payload) = ethernet::parse(frame)?;
        if ethertype != ETHERTYPE_ARP {
            return None;
        }
        let packet = ArpPacket::new(payload)?;
        let plain = packet.get_hardware_type() == ArpHardwareTypes::Ethernet
            && packet.get_protocol_type() == EtherTypes::Ipv4
            && packet.get_hw_addr_len() == 6
            && packet.get_proto_addr_len() == 4;
        let operation = match packet.get_operation() {
            ArpOperations::Request => Operation::Request,
            ArpOperations::Reply => Operation::Reply,
            _ => return None,
        };
        plain.then(|| Self {
            operation,
            sender_mac: Mac(packet.get_sender_hw_addr().octets()),
            sender: packet.get_sender_proto_addr(),
            target_mac: Mac(packet.get_target_hw_addr().octets()),
            target: packet.get_target_proto_addr(),
        })
    }

    /// True when it announces its own address (sender and target equal), as request or as reply.
    pub fn is_gratuitous(&self) -> bool {
        self.sender == self.target
    }

    /// True for the question of a node that does not say who it is (RFC 5227 section 1.1).
    pub fn is_probe(&self) -> bool {
        self.operation == Operation::Request && self.sender.is_unspecified()
    }

    /// The message as an Ethernet frame to `dst`; the Ethernet source is always the sender's hardware address.
    pub fn encode(&self, dst: Mac) -> Vec<u8> {
        let mut body = [0u8; MESSAGE_LEN];
        let mut packet = MutableArpPacket::new(&mut body).expect("the buffer has the size of an ARP message");
        packet.set_hardware_type(ArpHardwareTypes::Ethernet);
        packet.set_protocol_type(EtherTypes::Ipv4);
        packet.set_hw_addr_len(6);
        packet.set_proto_addr_len(4);
        packet.set_operation(ArpOperation::new(match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        }));
        packet.set_sender_hw_addr(pnet_mac(self.sender_mac));
        packet.set_sender_proto_addr(self.sender);
        packet.set_target_hw_addr(pnet_mac(self.target_mac));
        packet.set_target_proto_addr(self.target);
        let mut frame = ethernet::frame(dst, self.sender_mac, ETHERTYPE_ARP, MESSAGE_LEN);
        frame.extend(body);
        frame
    }

    /// Gratuitous request, the form of RFC 5227 section 3 ("ARP Announcement"): target hardware address zero.
    pub fn announcement(mac: Mac, addr: Ipv4Addr) -> Self {
        Self { operation: Operation::Request, sender_mac: mac, sender: addr, target_mac: Mac::ZERO, target: addr }
    }

    /// Gratuitous reply, for the stacks that learn from replies only: target hardware address broadcast.
    pub fn gratuitous_reply(mac: Mac, addr: Ipv4Addr) -> Self {
        Self { operation: Operation::Reply, sender_mac: mac, sender: addr, target_mac: Mac::BROADCAST, target: addr }
    }

    /// Probe of RFC 5227 section 2.1.1: asks for `addr` and says nothing about itself.
    pub fn probe(mac: Mac, addr: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender: Ipv4Addr::UNSPECIFIED,
            target_mac: Mac::ZERO,
            target: addr,
        }
    }
}

fn pnet_mac(mac: Mac) -> pnet_base::MacAddr {
    let [a, b, c, d, e, f] = mac.0;
    pnet_base::MacAddr::new(a, b, c, d, e, f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);

    #[test]
    fn announcement_is_a_broadcast_request_for_oneself() {
        let frame = Arp::announcement(MAC, VIP).encode(Mac::BROADCAST);
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[..14], &[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
        assert_eq!(&frame[14..22], &[0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(&frame[22..], &[2, 0, 0, 0, 0, 1, 10, 9, 0, 100, 0, 0, 0, 0, 0, 0, 10, 9, 0, 100]);
        assert!(Arp::parse(&frame).expect("own frame").is_gratuitous());
    }

    #[test]
    fn probe_has_no_sender_address() {
        let parsed = Arp::parse(&Arp::probe(MAC, VIP).encode(Mac::BROADCAST)).expect("own frame");
        assert_eq!((parsed.sender, parsed.target, parsed.is_gratuitous()), (Ipv4Addr::UNSPECIFIED, VIP, false));
    }

    #[test]
    fn other_hardware_is_not_ours() {
        let mut frame = Arp::announcement(MAC, VIP).encode(Mac::BROADCAST);
        frame[18] = 8;
        assert_eq!(Arp::parse(&frame), None);
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Arp::parse(&bytes);
        }

        #[test]
        fn what_is_sent_is_read_back(mac: [u8; 6], other: [u8; 6], a: u32, b: u32, reply: bool) {
            let operation = if reply { Operation::Reply } else { Operation::Request };
            let arp = Arp { operation, sender_mac: Mac(mac), sender: a.into(), target_mac: Mac(other), target: b.into() };
            prop_assert_eq!(Arp::parse(&arp.encode(Mac::BROADCAST)), Some(arp));
        }
    }
}
