//! Two clients on the LAN's first segment: one that asks for the VIPs all the time, and one that only listens to announcements.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use bascule_core::wire::arp::Arp;
use bascule_core::wire::ndp::Ndp;

use crate::lan::{Body, Packet};
use crate::wire::{claim, port_of};
use crate::world::World;

/// Clients, and their ports after those of the nodes.
pub(crate) const COUNT: usize = 2;
const ASKER: usize = 0;

/// What the clients know.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    nodes: usize,
    learned: [BTreeMap<IpAddr, usize>; COUNT],
    served: [BTreeMap<IpAddr, u64>; COUNT],
}

impl Clients {
    /// Clients that know nothing yet.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes, learned: Default::default(), served: Default::default() }
    }

    /// When the client that was served longest ago had its last reply from the VIP.
    pub(crate) fn served(&self, vip: IpAddr) -> u64 {
        self.served.iter().map(|s| s.get(&vip).copied().unwrap_or(0)).min().unwrap_or(0)
    }
}

impl World {
    pub(crate) fn clients_turn(&mut self) {
        let vips = self.scenario.vips();
        for client in 0..COUNT {
            let from = self.hosts.len() + client;
            for vip in &vips {
                if client == ASKER {
                    let ask = Rc::new(Packet { from, body: Body::Ask(*vip) });
                    (0..self.hosts.len()).for_each(|n| self.send_to(&ask, n));
                }
                if let Some(port) = self.clients.learned[client].get(vip).copied() {
                    self.send_to(&Rc::new(Packet { from, body: Body::Data(*vip) }), port);
                }
            }
        }
    }

    pub(crate) fn at_client(&mut self, client: usize, packet: &Packet) {
        match &packet.body {
            Body::Answer(vip) if client == ASKER => {
                self.clients.learned[client].insert(*vip, packet.from);
            }
            Body::Reply(vip) => {
                self.clients.served[client].insert(*vip, self.now);
            }
            Body::Frame(frame) => {
                let Some(address) = claim(frame) else { return };
                let mac = match (Arp::parse(frame), Ndp::parse(frame)) {
                    (Some(arp), _) => arp.sender_mac,
                    (_, Some(Ndp::Advertisement { mac, .. })) => mac,
                    _ => return,
                };
                if let Some(port) = port_of(mac, self.clients.nodes) {
                    self.clients.learned[client].insert(address, port);
                }
            }
            Body::Answer(_) | Body::Vrrp { .. } | Body::Peer { .. } | Body::Ask(_) | Body::Data(_) => {}
        }
    }
}
