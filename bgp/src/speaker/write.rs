//! From routes to writes: the queue of an Established session, and when it is asked.

use super::{Outgoing, Speaker};
use crate::graceful::EndOfRibGate;
use crate::io::Conn;
use crate::rib::{OutQueue, SessionFacts};
use crate::session::Session;
use crate::time::Instant;

impl Speaker {
    /// A session is Established: it owes the full table.
    pub(super) fn established(&mut self, at: usize, conn: Conn, now: Instant) {
        let session = &self.neighbors[at].session;
        // Lost again in the same call: nothing is owed any more.
        let Some((facts, enhanced)) = (session.established() == Some(conn)).then(|| facts(session)).flatten() else {
            return;
        };
        let group = self.rib.group(&facts, &session.config().export);
        let restart_time = session.config().graceful_restart;
        let queue = OutQueue::full_table(group, enhanced);
        self.neighbors[at].out =
            Some(Outgoing { conn, queue, gate: EndOfRibGate::new(self.synced, restart_time, now) });
    }

    /// A new export policy under a session that stays.
    pub(super) fn regroup(&mut self, at: usize, now: Instant) {
        let neighbor = &mut self.neighbors[at];
        if let (Some(out), Some((facts, _))) = (&mut neighbor.out, facts(&neighbor.session)) {
            let group = self.rib.group(&facts, &neighbor.session.config().export);
            out.queue.set_group(&self.rib, group, now);
        }
    }

    /// Lets every session write what waits.
    pub(super) fn write(&mut self, now: Instant) {
        let rib = &self.rib;
        for neighbor in &mut self.neighbors {
            let out = &mut neighbor.out;
            if let Some(out) = out
                && out.gate.is_open()
            {
                out.queue.open_gate();
            }
            neighbor.session.pump(now, |room| {
                let out = out.as_mut().filter(|out| out.conn == room.conn && !out.queue.is_idle())?;
                Some(out.queue.next(rib, room.budget, room.max_message, room.out))
            });
        }
    }
}

/// What the presentation of routes depends on, and whether refreshes are marked.
fn facts(session: &Session) -> Option<(SessionFacts, bool)> {
    let (agreed, local) = (session.negotiated()?, session.local_end()?);
    let facts = SessionFacts {
        own_as: session.own_as(),
        internal: agreed.ibgp,
        four_octet_as: agreed.four_octet_as,
        families: agreed.families,
        local: local.address.ip(),
        remote: session.config().address,
        link_local: local.link_local.filter(|_| local.on_link),
    };
    Some((facts, agreed.enhanced_refresh))
}
