//! Calls: for a session where there is none, and for the relay that leads where there is one with another (ADR 0043).

use bascule_core::site::partner::{Seeks, Why};
use bascule_core::time::Instant;

use super::{Bye, Frame, Fresh, Owe, RELAYS, Relay, id, link};

impl Relay {
    /// What came of a call; `None`: nobody greeted.
    pub(in super::super) fn handle_called(&mut self, to: usize, call: u64, fresh: Option<Fresh>, at: Instant) {
        let Some(partner) = self.partners.get_mut(&to) else { return };
        let why = partner.calling.take_if(|(number, _)| *number == call).map(|(_, why)| why);
        match (why, fresh) {
            (None, None) | (Some(Why::Seek | Why::Renewal), None) => {}
            // A call that nobody waits for any more.
            (None, Some(fresh)) => self.owes.push_back(Owe::Shut { conn: fresh.conn, frame: Frame::Broken }),
            (Some(Why::Session), None) => {
                if partner.link.is_none() {
                    partner.first = (partner.first + 1) % RELAYS.len();
                    self.state.handle_disconnected(id(to), at);
                }
            }
            (Some(Why::Session), Some(fresh)) if fresh.stated => self.handle_fresh(to, fresh, at),
            (Some(_), Some(fresh)) if partner.sought.is_none() => partner.sought = Some(link(fresh, at)),
            (Some(_), Some(fresh)) => {
                self.owes.push_back(Owe::Shut { conn: fresh.conn, frame: Frame::Goodbye(Bye::Closed) });
            }
        }
    }

    /// What became of a connection that may become the session. True: it is, and what it said is to be heard.
    pub(super) fn sought(&mut self, with: usize, frame: &Frame, at: Instant) -> bool {
        let Some(partner) = self.partners.get_mut(&with) else { return false };
        match frame {
            Frame::Message(_) => {
                let Some(link) = partner.sought.take() else { return false };
                self.settle(with, link, at)
            }
            Frame::Leads(leads) => {
                if let Some(link) = &mut partner.sought {
                    link.leads = *leads;
                }
                false
            }
            Frame::Ping | Frame::Pong | Frame::Goodbye(_) | Frame::Broken => {
                self.not_taken_up(with, at);
                false
            }
        }
    }

    pub(super) fn not_taken_up(&mut self, with: usize, at: Instant) {
        let Some(partner) = self.partners.get_mut(&with) else { return };
        let Some(link) = partner.sought.take() else { return };
        partner.passed(link.relay);
        self.owes.push_back(Owe::Shut { conn: link.conn, frame: Frame::Goodbye(Bye::Closed) });
        if partner.link.is_none() && partner.calling.is_none() {
            self.state.handle_disconnected(id(with), at);
        }
    }

    pub(super) fn call(&mut self, to: usize, why: Why) {
        let Some(partner) = self.partners.get_mut(&to) else { return };
        let under_way = partner.sought.is_some() || partner.calling.is_some_and(|(_, why)| why == Why::Session);
        if why == Why::Session && (partner.link.is_some() || under_way) {
            return;
        }
        self.drawn += 1;
        partner.calling = Some((self.drawn, why));
        let mut order: Vec<usize> = RELAYS.collect();
        order.rotate_left(partner.first);
        let (call, seeks, leads) = (self.drawn, why == Why::Seek, self.leads);
        self.owes.push_back(Owe::Call { to, call, order, seeks, leads });
    }

    /// Looks for the relay that leads another site, where we lead and speak with one that does not.
    pub(super) fn seek(&mut self, at: Instant) {
        for to in self.partners.keys().copied().filter(|_| self.leads).collect::<Vec<_>>() {
            let Some(partner) = self.partners.get_mut(&to) else { continue };
            if !partner.wants_another() {
                partner.seeks = Seeks::new(at);
            } else if partner.is_idle() && partner.seeks.call(at) {
                self.call(to, Why::Seek);
            }
        }
    }
}
