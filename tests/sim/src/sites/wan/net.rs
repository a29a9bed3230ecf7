//! What happens next: what arrives, and what the sites owe.

use super::super::host::{Host, Out};
use super::super::link::{MS, SEC};
use super::super::relay::Owe;
use super::{Event, World};

impl World {
    pub(super) fn deliver(&mut self, event: Event) {
        let now = self.now;
        let Some(event) = self.arrived(event) else { return };
        match event {
            Event::Datagram { to, from, flow, bytes } => {
                self.touched[to] = true;
                if let Some(host) = &mut self.hosts[to] {
                    let at = host.at(now);
                    if let Some(path) = host.paths.get_mut(&from) {
                        path.handle_packet(flow, &bytes, at);
                    }
                }
            }
            Event::Frame { conn, end, frame } => self.framed(conn, end, frame),
            Event::Knock { call } => self.knock(call),
            Event::Greeted { call, conn } => self.greeted(call, conn),
            Event::Mail { site, number } => self.letter(site, number),
            Event::Word { site, number } => self.word(site, number),
        }
    }

    pub(super) fn drain(&mut self) {
        for site in 0..self.scene.sites {
            self.drained[site] = std::mem::take(&mut self.touched[site]) && !self.paused[site];
            if !self.drained[site] {
                continue;
            }
            let now = self.now;
            let out = self.hosts[site].as_mut().map(|h| h.drain(now)).unwrap_or_default();
            for out in out {
                self.owe(site, out);
            }
            self.due[site] = self.hosts[site].as_ref().and_then(Host::due);
        }
    }

    fn owe(&mut self, site: usize, out: Out) {
        let now = self.now;
        match out {
            Out::Log(text) => self.log(site, &text),
            Out::Datagram(to, flow, bytes) => {
                if self.links[site][to].loses(now) {
                    return;
                }
                let wander = self.rng.below(MS);
                let wait = (self.delay[site][to] + wander) * self.slower + self.buffered(site, to);
                if self.noise && self.rng.chance(300) {
                    let mut forged = bytes.clone();
                    let (index, late) = (self.rng.index(forged.len()), self.rng.below(3 * SEC));
                    self.put(now + wait + late, Event::Datagram { to, from: site, flow, bytes: bytes.clone() });
                    forged[index] ^= 1 << self.rng.below(8);
                    self.put(now + wait, Event::Datagram { to, from: site, flow, bytes: forged });
                }
                self.put(now + wait, Event::Datagram { to, from: site, flow, bytes });
            }
            Out::Relay(node, Owe::Frame { conn, frame }) => self.transmit((site, node), conn, frame),
            Out::Relay(node, Owe::Shut { conn, frame }) => self.shut((site, node), conn, frame),
            Out::Relay(node, Owe::Call { to, call, order, seeks, leads }) => {
                self.call((site, node), to, (call, order), [seeks, leads]);
            }
            Out::Tell(node, word) => self.tell_nodes(site, node, &word),
            Out::Say(node, word) => self.tell_relays(site, node, &word),
            Out::Ask(id, request) => self.ask(site, id, request),
        }
    }

    /// What a buffer on the way adds now. Packets wander by half a millisecond in the mean: it is a part of what their way takes.
    pub(super) fn buffered(&self, from: usize, to: usize) -> u64 {
        self.buffers.get(&(from, to)).map_or(0, |buffer| buffer.adds(self.delay[from][to] + MS / 2, self.now))
    }
}
