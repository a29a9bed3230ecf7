//! The fence: what it promises, and an exact model of the programs that keep the promise in the kernel.
//!
//! The model is used by the simulator and, in the suite, compared with the eBPF programs over random sequences. It decides nothing
//! for the daemon: there the kernel is the judge.

use core::net::IpAddr;
use core::time::Duration;

use serde::Serialize;

use crate::time::Instant;
use crate::types::{Centis, Family, Slot, Term};

/// How long a claim stands without a further proof: 3A - max(A/4, 2 ms).
///
/// A Backup takes over no earlier than 3A after it heard the last advert (RFC 9568 section 6.1, Active_Down_Interval, without the
/// skew). The quarter interval, at least 2 ms, covers what lies between this clock reading and the frame on the wire, and clocks
/// that run at different rates.
pub fn window(interval: Centis) -> Duration {
    let a = interval.duration();
    a * 3 - (a / 4).max(Duration::from_millis(2))
}

/// What user space tells the kernel about one slot. The kernel never writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct FenceCtl {
    /// What the slot may do at most.
    pub role: FenceRole,
    /// The claim this belongs to.
    pub term: Term,
    /// End of the right to answer as long as no advert has left under `term`.
    pub deadline: Instant,
    /// While `Leaving`: until when frames that still arrive are served.
    pub deliver_until: Instant,
    /// Advertisement interval at the time of the claim.
    pub interval: Centis,
    /// A successor was granted the slot: once it is heard, `answer` is closed for the whole term and new connections are handed on to it.
    pub handover: bool,
    /// What the claim stands on.
    pub basis: Basis,
    /// The group's main family: its addresses settle ties of priority.
    pub family: Family,
    /// False: frames for the addresses are not delivered to this host (RFC 9568 Accept_Mode off).
    pub accept: bool,
}

/// What a claim stands on, until its first advert has left: from then on it stands on that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Nobody who may own was heard up to this time. An advert that arrives later voids the claim: the node was held up after its
    /// decision, and another one may have claimed meanwhile.
    Silence(Instant),
    /// The owner's grant, whose own adverts go on until it sees ours; or a fence that came late.
    Given,
    /// The same ownership in a new term: what its last advert said holds.
    Continued,
}

/// What a slot may do at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceRole {
    /// Nothing: answer and deliver are closed, adverts are dropped.
    Backup,
    /// Answer, deliver and advertise until the deadline.
    Active,
    /// Deliver until `deliver_until`; adverts of priority 0 pass until the deadline.
    Leaving,
}

/// A change of one slot that the driver owes to the kernel, in order with the other actions.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum FenceWrite {
    /// The slot guards these addresses on this link, and adverts of these virtual routers extend it.
    Register {
        /// Slot to set up; what it guarded before is forgotten.
        slot: Slot,
        /// The link that may answer for the addresses.
        link: crate::types::LinkId,
        /// Every guarded address.
        addresses: Vec<core::net::IpAddr>,
        /// Virtual routers whose adverts prove the right to own.
        routers: Vec<(crate::types::Family, u8)>,
    },
    /// Write the control word of a slot.
    Ctl(Slot, FenceCtl),
    /// The slot guards nothing any more.
    Unregister(Slot),
}

/// The kernel's side of one slot, with the rules of the eBPF programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelSlot {
    ctl: Option<FenceCtl>,
    term: Term,
    deadline: Instant,
    interval: Option<Centis>,
    /// Term in which a successor was heard.
    muted: Option<Term>,
    /// When another node's advert was last heard.
    heard: Instant,
    deposed: Option<Term>,
    /// Priority, and source in the main family, of the advert that left last.
    said: (u8, Option<IpAddr>),
}

impl KernelSlot {
    /// User space writes the control word.
    pub fn write(&mut self, ctl: FenceCtl) {
        self.ctl = Some(ctl);
    }

    /// End of the right to own: the later of the claim's own and of the last extension under the same term.
    pub fn deadline(&self) -> Instant {
        match self.ctl {
            Some(ctl) if ctl.term == self.term => ctl.deadline.max(self.deadline),
            Some(ctl) => ctl.deadline,
            None => Instant::ZERO,
        }
    }

    fn active(&self, now: Instant) -> Option<FenceCtl> {
        self.ctl.filter(|ctl| ctl.role == FenceRole::Active && now < self.deadline() && !self.is_deposed())
    }

    /// Another node has the better right: only a new term opens again.
    pub fn is_deposed(&self) -> bool {
        self.ctl.is_some_and(|ctl| {
            let broken = matches!(ctl.basis, Basis::Silence(until) if self.heard > until);
            self.deposed == Some(ctl.term) || self.term != ctl.term && broken
        })
    }

    /// Another node's advert of this virtual router arrived. An Active that must give way to it (RFC 9568 section 6.4.3) does so here
    /// and now, for its daemon may stand still. During a hand-over, and on the way out, it is the successor's, which is about to announce
    /// itself: nothing is answered from here on, so that no answer crosses the announcement; what still arrives is served.
    pub fn ingress_advert(&mut self, priority: u8, source: IpAddr, now: Instant) {
        if priority == 0 {
            return;
        }
        self.heard = now;
        self.ingress_announcement();
        let Some(ctl) = self.ctl.filter(|ctl| ctl.role == FenceRole::Active && !ctl.handover) else { return };
        let (said, own) = self.said;
        let tie = priority == said && Family::of(&source) == ctl.family && own.is_some_and(|own| source > own);
        if (self.term == ctl.term || ctl.basis == Basis::Continued) && (priority > said || tie) {
            self.deposed = Some(ctl.term);
        }
    }

    /// May this node answer for the addresses in ARP and NDP, or announce them?
    pub fn answer(&self, now: Instant) -> bool {
        self.active(now).is_some_and(|ctl| self.muted != Some(ctl.term))
    }

    /// Is a new connection that still arrives here sent on to the successor? Its handshake would end there, at a node that does not know
    /// it. A SYN-ACK of ours speaks for the address, and is dropped in this state.
    pub fn hands_on(&self, now: Instant) -> bool {
        self.deliver(now) && self.ctl.is_some_and(|ctl| self.muted == Some(ctl.term))
    }

    /// May frames for the addresses be delivered, and local sockets reply from them?
    pub fn deliver(&self, now: Instant) -> bool {
        self.active(now).is_some_and(|ctl| ctl.accept)
            || self.ctl.is_some_and(|ctl| ctl.role == FenceRole::Leaving && now < ctl.deliver_until)
    }

    /// An advert is about to leave: true when it may, and then a priority above 0 extends the deadline.
    pub fn egress_advert(&mut self, priority: u8, source: IpAddr, interval: Centis, now: Instant) -> bool {
        let Some(ctl) = self.ctl else { return false };
        if self.is_deposed() {
            // It may say once more what it said before, so that the better one announces itself anew; nothing follows from it here.
            let in_time = ctl.role == FenceRole::Active && now < self.deadline();
            return in_time && self.term == ctl.term && priority > 0 && priority <= self.said.0;
        }
        if priority == 0 {
            return ctl.role != FenceRole::Backup && now < self.deadline();
        }
        if self.active(now).is_none() {
            return false;
        }
        // A longer interval is not known to the Backups before one advert has carried it: the smaller of the two holds until then.
        let previous = if self.term == ctl.term { self.interval } else { Some(ctl.interval) };
        let effective = previous.map_or(interval, |p| p.min(interval));
        self.deadline = now + window(effective);
        self.interval = Some(interval);
        self.term = ctl.term;
        self.said.0 = priority;
        if Family::of(&source) == ctl.family {
            self.said.1 = Some(source);
        }
        true
    }

    /// Somebody else announced one of the addresses.
    pub fn ingress_announcement(&mut self) {
        let awaited = |ctl: &FenceCtl| ctl.handover && ctl.role == FenceRole::Active || ctl.role == FenceRole::Leaving;
        if let Some(ctl) = self.ctl.filter(awaited) {
            self.muted = Some(ctl.term);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn centis(v: u16) -> Centis {
        Centis::new(v).expect("in range")
    }

    fn claim(term: u64, deadline: Instant, interval: Centis) -> FenceCtl {
        FenceCtl {
            role: FenceRole::Active,
            term: Term(term),
            deadline,
            deliver_until: Instant::ZERO,
            interval,
            handover: false,
            basis: Basis::Silence(Instant::ZERO),
            family: Family::V4,
            accept: true,
        }
    }

    fn us() -> IpAddr {
        IpAddr::from([10, 9, 0, 2])
    }

    #[test]
    fn window_stays_short_of_what_makes_a_backup_take_over() {
        assert_eq!(window(centis(10)), Duration::from_millis(275));
        assert_eq!(window(centis(1)), Duration::from_micros(27_500));
        assert_eq!(window(centis(100)), Duration::from_millis(2750));
    }

    #[test]
    fn only_a_new_term_reopens_a_closed_slot() {
        let mut slot = KernelSlot::default();
        slot.write(claim(1, at(275), centis(10)));
        assert!(slot.egress_advert(200, us(), centis(10), at(100)));
        assert!(slot.answer(at(374)) && slot.deliver(at(374)));
        assert!(!slot.answer(at(375)) && !slot.deliver(at(375)));
        assert!(!slot.egress_advert(200, us(), centis(10), at(375)), "a stale advert must not leave");
        assert!(!slot.egress_advert(0, us(), centis(10), at(375)), "nor a stale release");
        slot.write(claim(2, at(700), centis(10)));
        assert!(slot.answer(at(699)));
    }

    #[test]
    fn smaller_interval_holds_until_one_advert_with_the_longer_is_out() {
        let mut slot = KernelSlot::default();
        slot.write(claim(1, at(275), centis(10)));
        assert!(slot.egress_advert(200, us(), centis(10), at(0)));
        assert!(slot.egress_advert(200, us(), centis(100), at(100)));
        assert_eq!(slot.deadline(), at(375));
        assert!(slot.egress_advert(200, us(), centis(100), at(200)));
        assert_eq!(slot.deadline(), at(2950));
    }

    #[test]
    fn handover_mutes_answers_but_goes_on_delivering() {
        let mut slot = KernelSlot::default();
        slot.write(claim(1, at(275), centis(10)));
        assert!(slot.egress_advert(200, us(), centis(10), at(0)));
        slot.ingress_announcement();
        slot.ingress_advert(100, IpAddr::from([10, 9, 0, 1]), at(1));
        assert!(slot.answer(at(1)) && !slot.hands_on(at(1)), "a rival alone must not mute the owner");
        slot.write(FenceCtl { handover: true, ..claim(1, at(275), centis(10)) });
        assert!(slot.answer(at(1)), "the successor is not ready yet");
        slot.write(claim(1, at(275), centis(10)));
        slot.ingress_advert(0, IpAddr::from([10, 9, 0, 1]), at(1));
        slot.write(FenceCtl { handover: true, ..claim(1, at(275), centis(10)) });
        slot.ingress_advert(0, IpAddr::from([10, 9, 0, 1]), at(1));
        assert!(slot.answer(at(1)), "a release is no claim");
        let mut announced = slot;
        announced.ingress_announcement();
        slot.ingress_advert(250, IpAddr::from([10, 9, 0, 1]), at(2));
        for slot in [&mut slot, &mut announced] {
            assert!(!slot.answer(at(2)) && slot.deliver(at(2)) && slot.hands_on(at(2)) && !slot.is_deposed());
            slot.write(claim(1, at(275), centis(10)));
            assert!(!slot.answer(at(2)) && slot.deliver(at(2)), "for the whole term");
        }
        let leaving = FenceCtl { role: FenceRole::Leaving, deliver_until: at(1000), ..claim(1, at(275), centis(10)) };
        slot.write(leaving);
        assert!(slot.deliver(at(999)) && !slot.deliver(at(1000)) && !slot.answer(at(1)));
        assert!(slot.hands_on(at(999)) && !slot.hands_on(at(1000)));
        slot.write(FenceCtl { term: Term(2), ..leaving });
        assert!(!slot.hands_on(at(999)), "nobody to hand on to: it serves");
        slot.ingress_advert(1, IpAddr::from([10, 9, 0, 1]), at(5));
        assert!(slot.hands_on(at(999)));
        slot.write(leaving);
        assert!(slot.egress_advert(0, us(), centis(10), at(274)) && !slot.egress_advert(200, us(), centis(10), at(1)));
    }

    #[test]
    fn a_superior_advert_ends_the_term_although_the_daemon_stands_still() {
        let mut slot = KernelSlot::default();
        slot.write(claim(1, at(275), centis(10)));
        assert!(slot.egress_advert(99, us(), centis(10), at(10)), "a sick owner");
        slot.ingress_advert(98, IpAddr::from([10, 9, 0, 3]), at(20));
        slot.ingress_advert(99, IpAddr::from([10, 9, 0, 1]), at(20));
        assert!(slot.answer(at(20)), "an inferior one changes nothing");
        slot.ingress_advert(150, IpAddr::from([10, 9, 0, 1]), at(30));
        assert!(!slot.answer(at(30)) && !slot.deliver(at(30)));
        assert!(slot.egress_advert(99, us(), centis(10), at(31)), "so that the better one announces itself");
        assert!(!slot.answer(at(31)) && slot.deadline() == at(285), "to no other effect");
        assert!(!slot.egress_advert(151, us(), centis(10), at(31)) && !slot.egress_advert(0, us(), centis(10), at(31)));
        slot.write(FenceCtl { basis: Basis::Continued, ..claim(2, at(285), centis(10)) });
        assert!(slot.answer(at(32)), "a daemon that knows better claims anew");
        slot.ingress_advert(99, IpAddr::from([10, 9, 0, 3]), at(33));
        assert!(!slot.answer(at(33)), "and is as easy to depose before its next advert: a tie, settled by the address");
    }

    #[test]
    fn a_claim_on_silence_is_void_when_somebody_spoke_before_its_first_advert() {
        let mut slot = KernelSlot::default();
        slot.ingress_advert(100, IpAddr::from([10, 9, 0, 1]), at(90));
        let decided = |term, basis| FenceCtl { basis, ..claim(term, at(1000), centis(10)) };
        slot.write(decided(1, Basis::Silence(at(100))));
        assert!(slot.answer(at(101)));
        slot.ingress_advert(100, IpAddr::from([10, 9, 0, 1]), at(102));
        assert!(!slot.answer(at(103)) && !slot.egress_advert(200, us(), centis(10), at(103)));
        slot.write(decided(2, Basis::Given));
        assert!(slot.egress_advert(200, us(), centis(10), at(104)), "a grant expects the granter's adverts");
        slot.ingress_advert(100, IpAddr::from([10, 9, 0, 1]), at(105));
        assert!(slot.answer(at(106)));
    }
}
