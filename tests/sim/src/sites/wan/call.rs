//! Calls of relays: one address after the other until one greets. A connection takes a round trip, its handshake another one and the greeting a
//! third: who is called decides half a round trip before who calls knows (`bascule_mesh::state`, `connect.rs`).

use bascule_core::site::partner::stands_by;

use super::super::link::SEC;
use super::super::relay::Fresh;
use super::wire::{At, Wire};
use super::{Event, Frame, World};

/// A connection is there within this time, or the next relay is called.
const CONNECT: u64 = 3 * SEC;
/// Handshake and greeting take no longer.
const GREET: u64 = 5 * SEC;

/// A call under way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) from: At,
    /// The process that calls, and its number for this.
    pub(super) life: u64,
    pub(super) number: u64,
    pub(super) to: usize,
    pub(super) order: Vec<usize>,
    pub(super) seeks: bool,
    /// It leads, as it says.
    pub(super) leads: bool,
    /// Which of the relays is called, and since when.
    turn: usize,
    begun: u64,
    /// Who greeted leads, as it said.
    theirs: bool,
}

impl World {
    pub(super) fn call(&mut self, from: At, to: usize, (number, order): (u64, Vec<usize>), [seeks, leads]: [bool; 2]) {
        let Some(life) = self.life(from) else { return };
        self.order += 1;
        let (call, begun) = (self.order, self.now);
        self.tell(from, || format!("call {number} to site {to} {order:?}, seeks: {seeks}, leads: {leads}"));
        let made = Call { from, life, number, to, order, seeks, leads, turn: 0, begun, theirs: false };
        let _new = self.calls.insert(call, made);
        self.knock_at(call);
    }

    fn knock_at(&mut self, call: u64) {
        let Some(made) = self.calls.get_mut(&call) else { return };
        made.begun = self.now;
        let wait = self.delay[made.from.0][made.to] * self.slower * 5;
        self.put(self.now + wait, Event::Knock { call });
    }

    /// A greeting arrives at who is called.
    pub(super) fn knock(&mut self, call: u64) {
        let Some(made) = self.calls.get(&call) else { return };
        let (from, begun, to) = (made.from, made.begun, (made.to, made.order[made.turn]));
        let (life, seeks, leads) = (made.life, made.seeks, made.leads);
        if self.life(from) != Some(life) {
            let _over = self.calls.remove(&call);
            return;
        }
        let (now, way) = (self.now, self.delay[from.0][to.0] * self.slower);
        let node = self.hosts[to.0].as_ref().map(|host| &host.nodes[to.1]);
        let lost = self.cut(from.0, to.0) || node.is_some_and(|node| node.daemon.is_none() && node.lost);
        let still = self.paused[to.0] || node.is_some_and(|node| node.frozen.is_some());
        let process = self.life(to);
        let none = |late: u64| (late, Event::Greeted { call, conn: None });
        let (late, event) = match process {
            _ if lost => none((begun + CONNECT).max(now)),
            None => none(now + way),
            Some(_) if still => none((begun + GREET).max(now)),
            Some(process) => {
                let Some(clock) = self.hosts[to.0].as_ref().map(|host| host.at(now)) else { return };
                self.order += 1;
                let conn = self.order;
                let Some(relay) = self.relay(to) else { return };
                if stands_by(relay.leads, seeks) {
                    none(now + way)
                } else {
                    let theirs = relay.leads;
                    let (ends, lives, last) = ([from, to], [life, process], [now + way, now]);
                    let _new = self.wires.insert(conn, Wire { ends, lives, since: now, last, shut: [false; 2] });
                    if let Some(relay) = self.relay(to) {
                        let fresh = Fresh { conn, relay: from.1, leads, stated: theirs, dialled: false };
                        relay.handle_fresh(from.0, fresh, clock);
                    }
                    if let Some(made) = self.calls.get_mut(&call) {
                        made.theirs = theirs;
                    }
                    (now + way, Event::Greeted { call, conn: Some(conn) })
                }
            }
        };
        self.tell(to, || {
            format!("hears call {} of {from:?}: {event:?}", self.calls.get(&call).map_or(0, |made| made.number))
        });
        self.put(late, event);
    }

    /// Who calls hears the greeting, or that there is none.
    pub(super) fn greeted(&mut self, call: u64, conn: Option<u64>) {
        let now = self.now;
        let Some(made) = self.calls.get_mut(&call) else { return };
        let (from, number, to, life) = (made.from, made.number, made.to, made.life);
        if self.hosts[from.0].as_ref().and_then(|host| host.life(from.1)) != Some(life) {
            let _over = self.calls.remove(&call);
            return;
        }
        let fresh = conn.map(|conn| {
            let (relay, leads, stated) = (made.order[made.turn], made.theirs, made.leads);
            Fresh { conn, relay, leads, stated, dialled: true }
        });
        made.turn += 1;
        let (more, begun) = (made.turn < made.order.len(), made.begun);
        match fresh {
            Some(fresh) if self.cut(from.0, to) => {
                self.shut(from, fresh.conn, Frame::Broken);
                self.put((begun + GREET).max(now), Event::Greeted { call, conn: None });
                if let Some(made) = self.calls.get_mut(&call) {
                    made.turn -= 1;
                }
            }
            None if more => self.knock_at(call),
            fresh => {
                let _over = self.calls.remove(&call);
                let Some(clock) = self.hosts[from.0].as_ref().map(|host| host.at(now)) else { return };
                if let Some(relay) = self.relay(from) {
                    relay.handle_called(to, number, fresh, clock);
                }
            }
        }
    }
}
