//! Frames between daemon, kernel and LAN: what leaves, what the kernel answers by itself, what the daemon gets to read.

use std::net::IpAddr;
use std::rc::Rc;

use bascule_core::announce::l2::FrameKind;
use bascule_core::node::io::Input;
use bascule_core::types::{Family, Mac, Slot};
use bascule_core::wire::arp::{Arp, Operation};
use bascule_core::wire::ndp::{self, Ndp};
use bascule_core::wire::vrrp::{Advert, PRIORITY_RELEASE};

use crate::faults::Point;
use crate::lan::{Body, Packet};
use crate::mutant::Mutant;
use crate::scenario::mac;
use crate::world::World;

/// The address that a frame claims for its sender.
pub(crate) fn claim(frame: &[u8]) -> Option<IpAddr> {
    if let Some(arp) = Arp::parse(frame) {
        return (!arp.sender.is_unspecified()).then_some(IpAddr::V4(arp.sender));
    }
    match Ndp::parse(frame) {
        Some(Ndp::Advertisement { target, .. }) => Some(IpAddr::V6(target)),
        Some(Ndp::Solicitation { .. }) | None => None,
    }
}

impl World {
    pub(crate) fn send_advert(&mut self, n: usize, slot: Slot, src: IpAddr, dst: IpAddr, payload: Vec<u8>) {
        let advert = Advert::parse(&payload, src, dst).expect("a node sends whole adverts");
        let shown = self.hosts[n].clock.read(self.now);
        let family = Family::of(&src);
        let deadline = self.hosts[n].process.as_ref().and_then(|p| p.node.advert_deadline(slot));
        let passes = self.hosts[n].kernel.egress_advert(src, &advert, shown);
        self.say(|| {
            let verdict = if passes { "" } else { " DROPPED by the fence" };
            let (vrid, priority, interval) = (advert.vrid, advert.priority, advert.interval.get());
            format!("n{n} advert vrid {vrid} {family:?} priority {priority} interval {interval}{verdict}")
        });
        if passes {
            self.send(Packet { from: n, body: Body::Vrrp { src, dst, payload } }, None);
            if advert.priority == PRIORITY_RELEASE {
                self.after(n, Point::Released);
            }
        }
        // The socket says nothing about the fence: the driver asks the fence and its clock.
        if self.mutant == Some(Mutant::LateUnnoticed) {
            return;
        }
        if self.hosts[n].kernel.is_deposed(slot) {
            return self.feed_now(n, Input::Deposed(slot));
        }
        if deadline.is_some_and(|at| at <= shown) {
            self.feed_now(n, Input::SendFailed { slot, error: "left too late".to_owned() });
        }
    }

    pub(crate) fn send_frame(&mut self, n: usize, kind: FrameKind, address: IpAddr, bytes: Vec<u8>) {
        let shown = self.hosts[n].clock.read(self.now);
        let passes = claim(&bytes).is_none_or(|a| self.hosts[n].kernel.egress_announcement(a, shown));
        self.say(|| format!("n{n} {} {address}{}", kind.as_str(), if passes { "" } else { " DROPPED by the fence" }));
        if passes {
            if claim(&bytes).is_some() {
                self.announced(n, address);
            }
            self.send(Packet { from: n, body: Body::Frame(bytes) }, None);
        }
    }

    /// A frame arrives at a port.
    pub(crate) fn arrive(&mut self, port: usize, packet: &Rc<Packet>) {
        if port >= self.hosts.len() {
            return self.at_client(port - self.hosts.len(), packet);
        }
        // A link that went down while the frame was on its way.
        if !self.lan.link(port) {
            return;
        }
        let shown = self.hosts[port].clock.read(self.now);
        match &packet.body {
            Body::Ask(vip) => {
                if self.hosts[port].kernel.answers(*vip, shown) {
                    self.send_to(&Rc::new(Packet { from: port, body: Body::Answer(*vip) }), packet.from);
                }
            }
            Body::Data(vip) => {
                if self.hosts[port].kernel.delivers(*vip, shown) {
                    self.send_to(&Rc::new(Packet { from: port, body: Body::Reply(*vip) }), packet.from);
                }
            }
            Body::Answer(_) | Body::Reply(_) => {}
            Body::Vrrp { src, dst, payload } => {
                let advert = Advert::parse(payload, *src, *dst).expect("a node sends whole adverts");
                self.hosts[port].kernel.ingress_advert(*src, &advert, shown);
                self.read_by_daemon(port, packet);
            }
            Body::Peer { .. } => self.read_by_daemon(port, packet),
            Body::Frame(frame) => {
                if let Some(address) = claim(frame) {
                    self.hosts[port].kernel.ingress_announcement(address);
                }
                self.kernel_answers(port, packet.from, frame);
                self.read_by_daemon(port, packet);
            }
        }
    }

    /// The kernel answers a probe for an address that it holds.
    fn kernel_answers(&mut self, n: usize, asker: usize, frame: &[u8]) {
        let shown = self.hosts[n].clock.read(self.now);
        let holds = |address| self.hosts[n].kernel.answers(address, shown);
        let own = mac(n);
        match (Arp::parse(frame), Ndp::parse(frame)) {
            (Some(arp), _) if is_question(&arp) && holds(IpAddr::V4(arp.target)) => {
                let (sender, target) = (arp.target, arp.sender);
                let answer =
                    Arp { operation: Operation::Reply, sender_mac: own, sender, target_mac: arp.sender_mac, target };
                let body = Body::Frame(answer.encode(arp.sender_mac));
                self.send_to(&Rc::new(Packet { from: n, body }), asker);
            }
            (_, Some(Ndp::Solicitation { target, .. })) if holds(IpAddr::V6(target)) => {
                // The asker has no address yet: the answer goes to all nodes (RFC 4861 section 7.2.4).
                let body = Body::Frame(ndp::unsolicited_advertisement(own, target));
                self.send(Packet { from: n, body }, None);
            }
            _ => {}
        }
    }
}

fn is_question(arp: &Arp) -> bool {
    arp.operation == Operation::Request && !arp.is_gratuitous()
}

/// The port that a MAC belongs to.
pub(crate) fn port_of(address: Mac, ports: usize) -> Option<usize> {
    (0..ports).find(|p| mac(*p) == address)
}
