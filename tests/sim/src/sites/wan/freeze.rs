//! One node whose daemon does not run for a while: its sockets fill, its kernel goes on, and its site with it ([`super::pause`] is a whole site).

use bascule_core::site::lead::{Beat, HOLD};

use super::super::link::{MS, SEC};
use super::super::node::{NODES, Word};
use super::wire::At;
use super::{Event, World};

impl World {
    /// The daemon of a node stops in order: other sites first, then the nodes of its own.
    pub(super) fn stop(&mut self, site: usize, node: usize) {
        if let Some(relay) = self.relay((site, node)) {
            relay.leave();
        }
        self.drain();
        self.tell_nodes(site, node, &Word::Beat(Beat { stops: true, ..Beat::default() }));
        self.end(site, node, false);
    }

    pub(super) fn freeze(&mut self, site: usize, node: usize) {
        let now = self.now;
        self.stirred[site] = now;
        let Some(host) = &mut self.hosts[site] else { return };
        if host.nodes[node].daemon.is_some() {
            host.nodes[node].frozen = Some(now);
            let _none = self.frozen.insert((site, node), Vec::new());
        }
    }

    pub(super) fn thaw(&mut self, site: usize, node: usize) {
        let now = self.now;
        let Some(host) = &mut self.hosts[site] else { return };
        let Some(since) = host.nodes[node].frozen.take() else { return };
        host.wake(node, now);
        self.stirred[site] = now;
        // Its deadlines or its sockets first: both are due.
        if self.feed.chance() {
            host.expire(now);
        }
        for event in self.frozen.remove(&(site, node)).unwrap_or_default() {
            self.deliver(event);
        }
        self.touched[site] = true;
        // Who listened to its relay has let it go meanwhile, and calls again.
        if u128::from(now - since) < HOLD.as_nanos() {
            return;
        }
        for ear in (0..NODES).filter(|other| *other != node).map(|other| (site, node, other)) {
            if self.deafen(ear) {
                self.listen(ear, [MS, SEC]);
            }
        }
    }

    /// Which node something is for, where it is for one.
    pub(super) fn addressee(&self, event: &Event) -> Option<At> {
        match event {
            Event::Frame { conn, end, .. } => self.wires.get(conn).map(|wire| wire.ends[*end]),
            Event::Greeted { call, .. } => self.calls.get(call).map(|call| call.from),
            Event::Word { site, number } => self.listener(*number).map(|node| (*site, node)),
            Event::Datagram { .. } | Event::Knock { .. } | Event::Mail { .. } => None,
        }
    }
}
