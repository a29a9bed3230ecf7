//! What an ex-owner does when neighbours may still believe it: it announced, then gave way to somebody who may never have heard it.
//!
//! The winner of two Actives announces itself when it hears the other. Where frames are lost it may hear none of the loser's, and
//! the loser's announcement stays the last word. The loser, which hears the winner, asks for the addresses (an ARP probe or its NDP
//! twin, which any node may send) until somebody announces them; an owner that is asked so announces itself.

use core::net::IpAddr;
use core::time::Duration;

use super::group::{Group, Timer};
use super::io::Action;
use crate::announce::l2::FrameKind;
use crate::election::Reason;
use crate::time::Instant;
use crate::types::{Mac, Role};

/// The winner that hears us has announced itself long before: then nothing is asked. Doubled with every question.
const FIRST: Duration = Duration::from_millis(100);
/// Questions at most; the last comes after 6.3 s, when caches of neighbours time out by themselves.
const QUESTIONS: u32 = 6;

impl Group {
    /// Gave way to another Active. `announced`: neighbours may have learned us.
    pub(super) fn doubt(&mut self, reason: Reason, announced: bool, now: Instant) {
        let contested = matches!(reason, Reason::HigherPriority | Reason::OneWay | Reason::Overtaken);
        if announced && contested && self.config.announce.on_link() {
            self.questions = 0;
            self.timers.set(Timer::Recall, now + FIRST);
        }
    }

    /// Somebody announced an address: the network knows better than us.
    pub(super) fn relieve(&mut self) {
        self.timers.stop(Timer::Recall);
    }

    /// Nobody has: ask.
    pub(super) fn recall(&mut self, now: Instant) {
        if self.vrrp.role() != Role::Backup {
            return;
        }
        self.send_probes();
        self.questions += 1;
        if self.questions < QUESTIONS {
            self.timers.set(Timer::Recall, now + FIRST * 2u32.pow(self.questions));
        }
    }

    /// A probe for an address of ours: whoever sends it holds somebody else for its owner, or starts. Paced as the defence of it is.
    pub(super) fn handle_probe_by(&mut self, address: IpAddr, now: Instant) {
        if self.role() == Role::Active
            && self.claim.is_some_and(|c| c.announced)
            && self.handover.granted_to().is_none()
            && let Some(own) = self.link.as_ref().map(|l| l.mac)
        {
            let _answered = self.announcer.defend(own, address, now);
        }
    }

    /// One probe for every address.
    pub(super) fn send_probes(&mut self) {
        let Some((link, mac)) = self.link.as_ref().map(|l| (l.id, l.mac)) else { return };
        for address in self.config.owned() {
            let bytes = match address {
                IpAddr::V4(a) => crate::wire::arp::Arp::probe(mac, a).encode(Mac::BROADCAST),
                IpAddr::V6(a) => crate::wire::ndp::probe(mac, a),
            };
            self.out.push_back(Action::SendFrame { link, kind: FrameKind::Probe, address, bytes });
        }
    }
}
