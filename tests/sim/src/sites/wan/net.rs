//! What goes from site to site: datagrams, streams and their sessions, and what the sites owe.

use bascule_core::site::state::message::{Cursor, Message};

use super::super::host::{Host, Out, id};
use super::super::link::{MS, SEC};
use super::super::mutant::Mutant;
use super::super::scene::Class;
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
            Event::Stream { conn, to, from, bytes } => {
                self.touched[to] = true;
                let pair = (to.min(from), to.max(from));
                if self.streams.get(&pair).is_some_and(|s| s.0 == conn)
                    && let Some(host) = &mut self.hosts[to]
                {
                    let at = host.at(now);
                    host.state.handle_bytes(id(from), &bytes, at);
                }
            }
            Event::Connected { a, b } => {
                let whole = self.relays && [a, b].iter().all(|site| self.running().any(|runs| runs == *site));
                if !whole || self.truth.cut[a][b] || self.truth.cut[b][a] {
                    self.refuse(a, b);
                    self.refuse(b, a);
                    return;
                }
                if self.streams.contains_key(&(a, b)) {
                    return;
                }
                self.order += 1;
                let _new = self.streams.insert((a, b), (self.order, now, [now; 2]));
                for (site, other) in [(a, b), (b, a)] {
                    self.touched[site] = true;
                    if let Some(host) = &mut self.hosts[site] {
                        let at = host.at(now);
                        host.state.handle_connected(id(other), at);
                    }
                }
            }
            Event::Refused { from, to } => self.refuse(from, to),
            Event::Mail { site, number } => self.letter(site, number),
        }
    }

    fn refuse(&mut self, from: usize, to: usize) {
        if self.streams.contains_key(&(from.min(to), from.max(to))) {
            return;
        }
        let now = self.now;
        self.touched[from] = true;
        if let Some(host) = &mut self.hosts[from] {
            let at = host.at(now);
            host.state.handle_disconnected(id(to), at);
        }
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        self.held.retain(|(from, to, _)| (from.min(to), from.max(to)) != (&a.min(b), &a.max(b)));
        if self.streams.remove(&(a.min(b), a.max(b))).is_some() {
            self.refuse(a, b);
            self.refuse(b, a);
        }
    }

    pub(super) fn drain(&mut self) {
        for site in 0..self.scene.sites {
            if !std::mem::take(&mut self.touched[site]) || self.paused[site] {
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
            Out::Stream(to, bytes) => self.stream(site, to, bytes),
            Out::Dial(to) => {
                let wait = self.delay[site][to] * self.slower * 3;
                let (a, b) = (site.min(to), site.max(to));
                self.put(now + wait, Event::Connected { a, b });
            }
            Out::Close(to) => {
                if self.streams.remove(&(site.min(to), site.max(to))).is_some() {
                    let wait = self.delay[site][to];
                    self.put(now + wait, Event::Refused { from: to, to: site });
                }
            }
            Out::Ask(id, request) => self.ask(site, id, request),
        }
    }

    /// What a buffer on the way adds now. Packets wander by half a millisecond in the mean: it is a part of what their way takes.
    fn buffered(&self, from: usize, to: usize) -> u64 {
        self.buffers.get(&(from, to)).map_or(0, |buffer| buffer.adds(self.delay[from][to] + MS / 2, self.now))
    }

    pub(super) fn stream(&mut self, site: usize, to: usize, mut bytes: Vec<u8>) {
        let message = Message::parse(&bytes).ok();
        match (self.mutant, message) {
            (Some(Mutant::DeltaLost), Some(Message::Delta { .. })) => {
                self.deltas += 1;
                if self.deltas.is_multiple_of(3) {
                    return;
                }
            }
            (Some(Mutant::ReadUnsaid), Some(Message::Hello { own, speaks, .. })) => {
                bytes = Message::Hello { own, read: Cursor::default(), speaks }.encode();
            }
            _ => {}
        }
        if self.scene.class == Class::F32 {
            for bytes in self.versions(site, to, bytes) {
                self.queue_stream(site, to, bytes);
            }
        } else {
            self.queue_stream(site, to, bytes);
        }
    }

    fn queue_stream(&mut self, site: usize, to: usize, bytes: Vec<u8>) {
        let (a, b) = (site.min(to), site.max(to));
        let cut = self.truth.cut[a][b] || self.truth.cut[b][a];
        // A lost segment is sent again: the stream stalls, in order.
        let stall = if self.links[site][to].loses(self.now) { 200 * MS } else { 0 };
        let wait = self.delay[a][b] * self.slower + self.buffered(site, to) + stall;
        let Some((conn, _, last)) = self.streams.get_mut(&(a, b)) else { return };
        if cut {
            // Sent again until it arrives or the session breaks.
            return self.held.push((site, to, bytes));
        }
        let way = &mut last[usize::from(site == b)];
        *way = (self.now + wait).max(*way + 1);
        let (conn, at) = (*conn, *way);
        self.put(at, Event::Stream { conn, to, from: site, bytes });
    }
}
