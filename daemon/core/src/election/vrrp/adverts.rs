//! What the machine makes of adverts: whom it follows, whom it takes over from, and when it yields to a rival (RFC 9568 sections 6.4.2
//! and 6.4.3; ADR 0002, 0004).

use core::net::IpAddr;
use core::time::Duration;

use super::{Heard, Output, Owner, Rival, Timer, Vrrp};
use crate::election::Reason;
use crate::fence;
use crate::time::Instant;
use crate::types::{Family, HEALTHY_MIN};
use crate::wire::vrrp::PRIORITY_RELEASE;

/// Rivals that are watched at once: the nodes of a large cluster that all claim. More are counted and not watched.
const RIVALS: usize = 16;

impl Vrrp {
    /// The address of the main family names the owner; the other one only while that is silent.
    pub(super) fn note_owner(&mut self, heard: Heard, now: Instant) {
        let (source, priority) = (heard.source, heard.priority);
        let named = self.owner.filter(|o| self.is_main(o.address) && now.since(o.heard) < self.active_down_interval());
        self.owner = match named {
            _ if priority == PRIORITY_RELEASE => None,
            Some(owner) if !self.is_main(source) => Some(Owner { priority, ..owner }),
            _ => Some(Owner { address: source, priority, heard: now }),
        };
    }

    /// Goes from Active to Backup behind the sender of this advert (section 6.4.3).
    pub(super) fn follow(&mut self, heard: Heard, reason: Reason, now: Instant) {
        self.note_owner(heard, now);
        self.active_interval = heard.interval;
        self.enter_backup(reason, now);
    }

    /// True for adverts of the Active that we yielded to, for as long as it is heard without a break.
    fn yields_to(&mut self, source: IpAddr, now: Instant) -> bool {
        let down = self.active_down_interval();
        let Some((to, heard)) = self.yielded.as_mut().filter(|(_, heard)| now.since(*heard) < down) else {
            self.yielded = None;
            return false;
        };
        if *to == source {
            *heard = now;
        }
        // The other family's adverts are taken for its own: both families of a group move together.
        *to == source || Family::of(to) != Family::of(&source)
    }

    /// A healthy Active was heard so short a time ago that its fence may be open: this sick one was displaced by it. To take over
    /// from the sick one would be to take from the healthy one, whom our priority need not outrank.
    fn is_displaced(&self, heard: &Heard, now: Instant) -> bool {
        let sick = (1..HEALTHY_MIN).contains(&heard.priority);
        let window = fence::window(self.active_interval);
        sick && self
            .owner
            .is_some_and(|o| o.priority >= HEALTHY_MIN && o.address != heard.source && now.since(o.heard) < window)
    }

    pub(super) fn advert_as_backup(&mut self, heard: Heard, now: Instant) {
        if core::mem::take(&mut self.deposed) && heard.priority != PRIORITY_RELEASE {
            self.outputs.push_back(Output::Rival { source: heard.source, priority: heard.priority });
        }
        if self.is_displaced(&heard, now) {
            return;
        }
        self.note_owner(heard, now);
        if heard.priority == PRIORITY_RELEASE {
            // Section 6.4.2: wait Skew_Time only.
            self.hurry(Reason::PeerReleased, now);
            return;
        }
        let own = self.config.priority;
        let yielded = self.yields_to(heard.source, now);
        if !yielded && heard.priority < HEALTHY_MIN && own >= HEALTHY_MIN {
            self.active_interval = heard.interval;
            self.hurry(Reason::SickActive, now);
            return;
        }
        let sick_pair = heard.priority < HEALTHY_MIN && own < HEALTHY_MIN;
        if yielded || !self.config.preempt || sick_pair || heard.priority >= own {
            self.pending = None;
            self.active_interval = heard.interval;
            self.timers.set(Timer::ActiveDown, now + self.active_down_interval());
        }
    }

    pub(super) fn advert_as_active(&mut self, heard: Heard, now: Instant) {
        if heard.priority == PRIORITY_RELEASE {
            // Section 6.4.3: a peer gave up; make sure that everybody hears who owns.
            self.advertise(now);
            return;
        }
        if let Some(grace) = self.grace.as_mut().filter(|grace| grace.granter.said(&heard)) {
            // Said once more, in case our first advert was lost; an answer to each would be answered by the granter for ever.
            if !core::mem::replace(&mut grace.answered, true) {
                self.advertise(now);
            }
            return;
        }
        self.outputs.push_back(Output::Rival { source: heard.source, priority: heard.priority });
        let tie = heard.priority == self.config.priority && !self.is_main(heard.source);
        if self.is_outranked(&heard) {
            // The stronger one need not have heard us yet, and our neighbours have: it must know that it has to announce itself anew.
            self.send(self.config.priority);
            self.follow(heard, Reason::HigherPriority, now);
            return;
        }
        self.track_rival(heard, tie, now);
        // Section 6.4.3: assert ourselves at once. Not in a tie that is settled elsewhere: both would answer each other for ever.
        if !tie {
            self.advertise(now);
        }
    }

    /// One series at a time: from the first advert of one address to two intervals later.
    fn track_rival(&mut self, advert: Heard, tie: bool, now: Instant) {
        if let Some(rival) = self.rivals.iter_mut().find(|r| r.advert.source == advert.source) {
            (rival.advert, rival.tie, rival.last) = (advert, tie, now);
        } else if self.rivals.len() < RIVALS {
            self.rivals.push(Rival { advert, tie, first: now, last: now });
            self.outputs.push_back(Output::Announce { settled: false });
            self.watch_rivals();
        }
    }

    /// Wakes us when the first of the rivals has had its two intervals.
    fn watch_rivals(&mut self) {
        match self.rivals.iter().map(|r| self.verdict_at(r)).min() {
            Some(at) => self.timers.set(Timer::Yield, at),
            None => self.timers.stop(Timer::Yield),
        }
    }

    fn verdict_at(&self, rival: &Rival) -> Instant {
        rival.first + self.rival_interval(rival.advert) * 2
    }

    /// A rival with a longer interval than ours needs that long to be heard again.
    fn rival_interval(&self, advert: Heard) -> Duration {
        self.config.interval.max(advert.interval).duration()
    }

    /// A rival was told two intervals ago: one that still advertises does not hear us, and both of us answer. Yield (ADR 0002).
    pub(super) fn yield_if_unheard(&mut self, now: Instant) {
        let (due, running) = core::mem::take(&mut self.rivals).into_iter().partition(|r| self.verdict_at(r) <= now);
        self.rivals = running;
        let mut due: Vec<Rival> = due;
        // Of a dual-stack rival the main address speaks; the other one only where the main one is not heard.
        due.sort_by_key(|r| !self.is_main(r.advert.source));
        due.retain(|r| self.is_main(r.advert.source) || !self.rivals.iter().any(|o| self.is_main(o.advert.source)));
        for Rival { advert, tie, first, last } in due {
            let interval = self.rival_interval(advert);
            // Its advert that crossed our first assertion does not count, nor does one that it stopped repeating.
            let persisted = last.since(first) >= interval / 2 && now.since(last) <= interval * 3 / 2;
            if persisted && tie && advert.source > advert.own {
                // The main family, which settles ties, is not heard.
                self.send(self.config.priority);
                self.follow(advert, Reason::HigherPriority, now);
                return;
            }
            if persisted && !tie && !self.config.strict_rfc {
                self.follow(advert, Reason::OneWay, now);
                self.yielded = Some((advert.source, last));
                return;
            }
        }
        // It fell silent, or is the one that has to give way.
        self.outputs.push_back(Output::Announce { settled: true });
        self.watch_rivals();
    }
}
