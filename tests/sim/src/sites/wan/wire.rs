//! Connections of relays, and what goes over them: in order, late by the way, stalled by loss, held by a cut. A process that dies ends its
//! connections where its host lives and the way is open; where its host dies with it, nobody says anything.

use bascule_core::site::state::message::{Cursor, Message};

use super::super::host::Host;
use super::super::link::MS;
use super::super::mutant::Mutant;
use super::super::node::{NAMES, NODES};
use super::super::relay::{Frame, Relay};
use super::super::scene::Class;
use super::{Event, World};

/// The relay of a node of a site.
pub(in super::super) type At = (usize, usize);

/// A connection of two relays.
#[derive(Debug)]
pub(super) struct Wire {
    /// Who called first.
    pub(super) ends: [At; 2],
    /// Their processes.
    pub(super) lives: [u64; 2],
    /// Since when it can carry something, and when the last frame to each end arrives.
    pub(super) since: u64,
    pub(super) last: [u64; 2],
    /// Ends that read no more.
    pub(super) shut: [bool; 2],
}

/// A session of two relays.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Standing {
    /// At the site of the lower number first.
    pub(in super::super) ends: [At; 2],
    /// Since when it stands and carries something, with both of its relays running.
    pub(in super::super) since: u64,
}

impl World {
    pub(super) fn cut(&self, a: usize, b: usize) -> bool {
        self.truth.cut[a][b] || self.truth.cut[b][a]
    }

    pub(super) fn life(&self, (site, node): At) -> Option<u64> {
        self.hosts[site].as_ref()?.life(node)
    }

    /// Its relay, to be told something.
    pub(super) fn relay(&mut self, (site, node): At) -> Option<&mut Relay> {
        self.touched[site] = true;
        self.hosts[site].as_mut()?.tell(node)
    }

    /// The end of a connection that a relay has.
    fn end_of(&self, conn: u64, at: At) -> Option<usize> {
        let wire = self.wires.get(&conn)?;
        (0..2).find(|end| wire.ends[*end] == at && Some(wire.lives[*end]) == self.life(at) && !wire.shut[*end])
    }

    /// What happens to a relay, where somebody looks.
    pub(super) fn tell(&self, (site, node): At, text: impl FnOnce() -> String) {
        if self.trace {
            self.log(site, &format!("{}: {}", NAMES[node], text()));
        }
    }

    /// A relay sends a frame.
    pub(super) fn transmit(&mut self, at: At, conn: u64, frame: Frame) {
        let Some(end) = self.end_of(conn, at) else { return };
        let Some(to) = self.wires.get(&conn).map(|wire| wire.ends[1 - end].0) else { return };
        let Frame::Message(mut bytes) = frame else { return self.queue_frame(conn, end, frame) };
        match (self.mutant, Message::parse(&bytes).ok()) {
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
        let all = if self.scene.class == Class::F32 { self.versions(at.0, to, bytes) } else { vec![bytes] };
        all.into_iter().for_each(|bytes| self.queue_frame(conn, end, Frame::Message(bytes)));
    }

    /// The last frame of a relay: nothing is read there any more.
    pub(super) fn shut(&mut self, at: At, conn: u64, frame: Frame) {
        self.tell(at, || format!("ends connection {conn}: {frame:?}"));
        if let Some(end) = self.end_of(conn, at) {
            self.close(conn, end, Some(frame));
        }
    }

    /// One end is over; `last`: what the other one hears of it.
    fn close(&mut self, conn: u64, end: usize, last: Option<Frame>) {
        if let Some(frame) = last {
            self.queue_frame(conn, end, frame);
        }
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        wire.shut[end] = true;
        if wire.shut == [true; 2] {
            let _over = self.wires.remove(&conn);
        }
    }

    /// From one end to the other.
    fn queue_frame(&mut self, conn: u64, end: usize, frame: Frame) {
        let Some(wire) = self.wires.get(&conn) else { return };
        let (from, to) = (wire.ends[end].0, wire.ends[1 - end].0);
        if self.cut(from, to) {
            // Sent again until it arrives or nobody waits for it any more.
            return self.held.push((conn, end, frame));
        }
        // A lost segment is sent again: the stream stalls, in order.
        let stall = if self.links[from][to].loses(self.now) { 200 * MS } else { 0 };
        let wait = self.delay[from][to] * self.slower + self.buffered(from, to) + stall;
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        let last = &mut wire.last[1 - end];
        *last = (now + wait).max(*last + 1);
        let at = *last;
        self.put(at, Event::Frame { conn, end: 1 - end, frame });
    }

    /// A link is cut or whole from now on: what waits is tried again.
    pub(super) fn relinked(&mut self, a: usize, b: usize) {
        for wire in self.wires.values_mut() {
            let sites = [wire.ends[0].0, wire.ends[1].0];
            if sites == [a, b] || sites == [b, a] {
                wire.since = self.now;
            }
        }
        for (conn, end, frame) in std::mem::take(&mut self.held) {
            self.queue_frame(conn, end, frame);
        }
    }

    /// A frame arrives.
    pub(super) fn framed(&mut self, conn: u64, end: usize, frame: Frame) {
        let now = self.now;
        let Some(wire) = self.wires.get(&conn).filter(|wire| !wire.shut[end]) else { return };
        let at = wire.ends[end];
        if self.life(at) != Some(wire.lives[end]) {
            // Where a kernel lives it says that the process does not.
            let refuses = self.hosts[at.0].as_ref().is_none_or(|host| !host.nodes[at.1].lost);
            if refuses {
                self.close(conn, end, Some(Frame::Broken));
            }
            return;
        }
        let over = matches!(frame, Frame::Goodbye(_) | Frame::Broken);
        if over {
            self.tell(at, || format!("hears the end of connection {conn}: {frame:?}"));
        }
        let Some(clock) = self.hosts[at.0].as_ref().map(|host| host.at(now)) else { return };
        if let Some(relay) = self.relay(at) {
            relay.handle_frame(conn, frame, clock);
        }
        if over {
            self.close(conn, end, None);
        }
    }

    /// A process is gone, with its connections. `told`: its host says so.
    pub(super) fn hang_up(&mut self, (site, node): At, told: bool) {
        let mine = |end: &At| *end == (site, node);
        let conns: Vec<(u64, usize)> = self
            .wires
            .iter()
            .filter_map(|(conn, wire)| Some((*conn, wire.ends.iter().position(mine)?)))
            .filter(|(conn, end)| self.wires.get(conn).is_some_and(|wire| !wire.shut[*end]))
            .collect();
        conns.into_iter().filter(|_| told).for_each(|(conn, end)| self.close(conn, end, Some(Frame::Broken)));
    }

    /// All processes of a site are gone.
    pub(super) fn hang_up_all(&mut self, site: usize) {
        (0..NODES).for_each(|node| self.hang_up((site, node), true));
    }

    /// Sessions that both ends have.
    pub(super) fn standing(&self) -> Vec<Standing> {
        let awake = |host: &Host, node: usize| host.nodes[node].frozen.is_none();
        let mut all = Vec::new();
        for (conn, wire) in &self.wires {
            let [a, b] = wire.ends;
            let has = |at: At, with: At| {
                let host = self.hosts[at.0].as_ref().filter(|host| awake(host, at.1) && !self.paused[at.0])?;
                let (of, relay) = host.relay(at.1)?.session(with.0)?;
                (of == *conn && relay == with.1).then(|| host.woke.max(host.nodes[at.1].woke))
            };
            if let (Some(one), Some(other)) = (has(a, b), has(b, a)) {
                let ends = if a.0 < b.0 { [a, b] } else { [b, a] };
                all.push(Standing { ends, since: wire.since.max(one).max(other) });
            }
        }
        all
    }
}
