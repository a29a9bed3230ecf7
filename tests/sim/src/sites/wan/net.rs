//! What goes from site to site: datagrams, streams and their sessions, and what the sites owe.

use bascule_core::site::state::message::{Cursor, Message};

use super::super::host::{Host, Out, id};
use super::super::link::{MS, SEC};
use super::super::mutant::Mutant;
use super::super::scene::Class;
use super::{Event, PATIENCE, Session, World};

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
                if let Some(stream) = self.streams.get(&pair).filter(|stream| stream.conn == conn)
                    && let Some(host) = &mut self.hosts[to]
                {
                    let (node, at) = (stream.ends[usize::from(to > from)], host.at(now));
                    if let Some(state) = host.tell(node) {
                        state.handle_bytes(id(from), &bytes, at);
                    }
                }
            }
            Event::Connected { from, node, to } => self.connected(from, node, to),
            Event::Refused { from, node, to } => self.refuse(from, node, to),
            Event::Mail { site, number } => self.letter(site, number),
            Event::Word { site, number } => self.word(site, number),
        }
    }

    /// A call arrives. A relay that does not speak for its site sends it on to the one that does; a site that has a session with another relay
    /// of the caller's site keeps that.
    fn connected(&mut self, from: usize, node: usize, to: usize) {
        let now = self.now;
        let speaks = |site: usize| self.hosts[site].as_ref().filter(|_| !self.paused[site])?.speaker();
        let calls = speaks(from).and_then(|_| self.hosts[from].as_ref()?.state(node)).map(|_| node);
        let (pair, cut) = ((from.min(to), from.max(to)), self.truth.cut[from][to] || self.truth.cut[to][from]);
        let (Some(calls), Some(answers), false) = (calls, speaks(to), cut) else { return self.refuse(from, node, to) };
        let side = usize::from(from > to);
        if let Some(stream) = self.streams.get(&pair) {
            if stream.ends[side] != calls {
                self.refuse(from, node, to);
            }
            return;
        }
        let ends = if side == 0 { [calls, answers] } else { [answers, calls] };
        self.order += 1;
        let _new = self.streams.insert(pair, Session { conn: self.order, since: now, last: [now; 2], ends });
        for (site, node, other) in [(pair.0, ends[0], pair.1), (pair.1, ends[1], pair.0)] {
            self.touched[site] = true;
            if let Some(host) = &mut self.hosts[site] {
                let at = host.at(now);
                if let Some(state) = host.tell(node) {
                    state.handle_connected(id(other), at);
                }
            }
        }
    }

    fn refuse(&mut self, from: usize, node: usize, to: usize) {
        let (pair, side) = ((from.min(to), from.max(to)), usize::from(from > to));
        if self.streams.get(&pair).is_some_and(|stream| stream.ends[side] == node) {
            return;
        }
        let now = self.now;
        self.touched[from] = true;
        if let Some(host) = &mut self.hosts[from] {
            let at = host.at(now);
            if let Some(state) = host.tell(node) {
                state.handle_disconnected(id(to), at);
            }
        }
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        let (a, b) = (a.min(b), a.max(b));
        self.held.retain(|(from, to, _)| (from.min(to), from.max(to)) != (&a, &b));
        if let Some(stream) = self.streams.remove(&(a, b)) {
            self.refuse(a, stream.ends[0], b);
            self.refuse(b, stream.ends[1], a);
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
            Out::Stream { node, to, bytes } => {
                if self.ends_at(site, node, to) {
                    self.stream(site, to, bytes);
                }
            }
            Out::Dial { node, to } => {
                let wait = self.delay[site][to] * self.slower * 3;
                self.put(now + wait, Event::Connected { from: site, node, to });
            }
            Out::Close { node, to } => self.hang_up(site, node, to),
            Out::Ends(node) => {
                (0..self.scene.sites).filter(|to| *to != site).for_each(|to| self.hang_up(site, node, to));
            }
            Out::Tell(node, word) => self.tell_nodes(site, node, &word),
            Out::Say(node, word) => self.tell_relays(site, node, &word),
            Out::Ask(id, request) => self.ask(site, id, request),
        }
    }

    /// The session of two sites, if there is one, is that of this relay.
    fn ends_at(&self, site: usize, node: usize, to: usize) -> bool {
        let stream = self.streams.get(&(site.min(to), site.max(to)));
        stream.is_some_and(|stream| stream.ends[usize::from(site > to)] == node)
    }

    /// A relay closes its session with a site, which hears it.
    pub(super) fn hang_up(&mut self, site: usize, node: usize, to: usize) {
        if !self.ends_at(site, node, to) {
            return;
        }
        let pair = (site.min(to), site.max(to));
        self.held.retain(|(from, to, _)| (*from.min(to), *from.max(to)) != pair);
        if let Some(stream) = self.streams.remove(&pair) {
            let cut = self.truth.cut[site][to] || self.truth.cut[to][site];
            let (wait, node) = (if cut { PATIENCE } else { self.delay[site][to] }, stream.ends[usize::from(to > site)]);
            self.put(self.now + wait, Event::Refused { from: to, node, to: site });
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
        let Some(Session { conn, last, .. }) = self.streams.get_mut(&(a, b)) else { return };
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
