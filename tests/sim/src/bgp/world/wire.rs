//! The two kernels' TCP: what a driver writes, what is on its way, and what arrives.

use std::collections::VecDeque;

use bascule_bgp::io::{Conn, Input};

use crate::bgp::check::Broken;
use crate::bgp::scenario::{MS, SECOND, address};
use crate::bgp::tcp::{In, Item};

use super::{Ev, World};

/// First retransmission time-out (RFC 6298 section 2.4 rounds up to a second; Linux takes 200 ms).
const RETRANSMISSION: u64 = 200 * MS;
/// A SYN is retransmitted after a second (RFC 6298 section 2).
const SYN_RETRANSMISSION: u64 = SECOND;

impl World {
    /// The connection of this number, while the driver has it.
    pub(super) fn own(&self, node: usize, conn: Conn) -> Result<(usize, usize), Broken> {
        let open = self.nodes[node].taps.get(&conn).is_some_and(|tap| !tap.ended);
        let known = self.nodes[node].conns.get(&conn).copied().filter(|_| open);
        known.ok_or(Broken::NoSuchConnection(conn))
    }

    pub(super) fn write(
        &mut self,
        node: usize,
        conn: Conn,
        mut bytes: Vec<u8>,
        follow: &mut VecDeque<(Conn, usize, Option<usize>)>,
    ) -> Result<(), Broken> {
        let (tcp, end) = self.own(node, conn).map_err(|_| Broken::AfterTheEnd(conn))?;
        self.spoil(node, conn, &mut bytes);
        let tap = self.nodes[node].taps.get_mut(&conn).expect("its own connection has a tap");
        if tap.sent.notification.is_some() {
            return Err(Broken::AfterTheEnd(conn));
        }
        let busy = tap.pending > 0;
        tap.wrote(conn, &bytes)?;
        // The last write may stand behind one in flight.
        if busy && tap.sent.notification.is_none() {
            return Err(Broken::WriteInFlight(conn));
        }
        self.nodes[node].check_write(conn, self.now)?;
        self.tcps[tcp].ends[end].unsent.extend(bytes);
        self.flush(tcp, end);
        let side = &self.tcps[tcp].ends[end];
        let (pending, unacknowledged) = (side.unsent.len(), side.watched.then_some(side.in_kernel));
        if let Some(tap) = self.nodes[node].taps.get_mut(&conn) {
            tap.pending = pending;
        }
        follow.push_back((conn, pending, unacknowledged));
        Ok(())
    }

    /// The kernel of this end acknowledged or sent something.
    pub(super) fn room(&mut self, node: usize, tcp: usize, end: usize) -> Result<(), (usize, Broken)> {
        let before = self.tcps[tcp].ends[end].unsent.len();
        self.flush(tcp, end);
        let side = &self.tcps[tcp].ends[end];
        if !side.open || (side.unsent.len() == before && !side.watched) {
            return Ok(());
        }
        let (conn, pending, unacknowledged) = (side.conn, side.unsent.len(), side.watched.then_some(side.in_kernel));
        let local = self.nodes[node].clock(self.now);
        if let Some(tap) = self.nodes[node].taps.get_mut(&conn) {
            tap.pending = pending;
        }
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.handle_input(Input::Written { conn, pending, unacknowledged }, local);
        }
        self.turn(node)
    }

    /// From the driver to the kernel, as much as it takes.
    pub(super) fn flush(&mut self, tcp: usize, end: usize) {
        let room = self.scenario.send_buffer.saturating_sub(self.tcps[tcp].ends[end].in_kernel);
        let side = &mut self.tcps[tcp].ends[end];
        let count = room.min(side.unsent.len());
        let mut bytes: Vec<u8> = side.unsent.drain(..count).collect();
        side.in_kernel += count;
        let closing = !side.open && side.unsent.is_empty();
        while !bytes.is_empty() {
            // Segments end anywhere, also within a message.
            let cut = usize::try_from(self.rng.between(1, 1460)).expect("small").min(bytes.len());
            let rest = bytes.split_off(cut);
            self.send(tcp, end, Item::Data(core::mem::replace(&mut bytes, rest)));
        }
        if closing {
            self.fin(tcp, end);
        }
    }

    pub(in crate::bgp) fn fin(&mut self, tcp: usize, end: usize) {
        if !core::mem::replace(&mut self.tcps[tcp].ends[end].fin_queued, true) {
            self.send(tcp, end, Item::Fin);
        }
    }

    fn send(&mut self, tcp: usize, end: usize, item: Item) {
        let at = self.arrival();
        self.tcps[tcp].ends[end].way.push_back((at, item));
        self.at(at, Ev::Wake(tcp, end));
    }

    /// When a segment that is sent now arrives.
    pub(super) fn arrival(&mut self) -> u64 {
        let jitter = self.rng.below(self.scenario.latency / 4 + 1);
        let lost = if self.rng.chance(self.scenario.loss) { RETRANSMISSION << self.rng.below(3) } else { 0 };
        self.now + self.scenario.latency + jitter + lost
    }

    pub(super) fn wake(&mut self, tcp: usize, from: usize) -> Result<(), (usize, Broken)> {
        let to = 1 - from;
        let node = self.tcps[tcp].ends[to].node;
        let Some((at, item)) = self.tcps[tcp].ends[from].way.front() else { return Ok(()) };
        if self.tcps[tcp].forgotten {
            self.tcps[tcp].ends[from].way.clear();
            return Ok(());
        }
        let open = self.tcps[tcp].ends[to].open;
        let wait = if *at > self.now {
            Some(*at)
        } else if self.now < self.link_until {
            Some(self.link_until + RETRANSMISSION)
        } else if self.now < self.nodes[node].power_until {
            Some(self.nodes[node].power_until + SECOND)
        } else if open && self.now < self.nodes[node].window_until && !matches!(item, Item::SynAck) {
            Some(self.nodes[node].window_until)
        } else {
            None
        };
        if let Some(wait) = wait {
            self.at(wait, Ev::Wake(tcp, from));
            return Ok(());
        }
        let Some((_, item)) = self.tcps[tcp].ends[from].way.pop_front() else { return Ok(()) };
        self.at(self.now, Ev::Wake(tcp, from));
        let conn = self.tcps[tcp].ends[to].conn;
        match item {
            Item::SynAck | Item::Data(_) if !open => {
                let at = self.arrival();
                self.at(at, Ev::Rst(tcp, from));
                Ok(())
            }
            Item::SynAck => self.deliver(node, In::Connected(conn)),
            Item::Data(bytes) => {
                let at = self.arrival();
                self.at(at, Ev::Ack(tcp, from, bytes.len()));
                if let Some(tap) = self.nodes[node].taps.get_mut(&conn) {
                    tap.arrived = self.now;
                }
                self.deliver(node, In::Bytes(conn, bytes))
            }
            Item::Fin if open => self.deliver(node, In::Closed(conn, None)),
            Item::Fin => Ok(()),
        }
    }

    pub(super) fn syn(&mut self, tcp: usize) -> Result<(), (usize, Broken)> {
        let node = self.tcps[tcp].ends[1].node;
        if !self.tcps[tcp].ends[0].open {
            return Ok(());
        }
        if self.now < self.link_until || self.now < self.nodes[node].power_until {
            self.at(self.now + SYN_RETRANSMISSION, Ev::Syn(tcp));
            return Ok(());
        }
        if self.nodes[node].speaker.is_none() || !self.nodes[node].listens.contains(&address(1 - node)) {
            let at = self.arrival();
            self.at(at, Ev::Refused(tcp));
            return Ok(());
        }
        let conn = Conn(self.nodes[node].next_inbound);
        self.nodes[node].next_inbound += 1;
        self.tcps[tcp].ends[1].conn = conn;
        self.tcps[tcp].ends[1].open = true;
        self.send(tcp, 1, Item::SynAck);
        self.deliver(node, In::Accepted { tcp })
    }
}
