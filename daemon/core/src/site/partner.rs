//! Which relay of another site a relay has its session with (ADR 0043). Each relay has at most one session with each other site; both ends must come to
//! the same one, without asking. Connections and frames are the driver's (`bascule_mesh::state`); what it decides by is here, so that the
//! simulator of sites decides by the same.
//!
//! [`choose`]: which of two connections stays. [`Seeks`]: when the relay that leads is looked for. [`Pulse`]: whether the other end is heard, and how
//! old what it says may be where this process stood still ([`stood_still`]).

use core::time::Duration;

use super::SiteId;
use super::lead::HOLD;
use crate::time::Instant;

/// Calls that cross are there within so long of each other: connecting and greeting have their time limits.
pub const CROSSING: Duration = Duration::from_secs(10);
/// A session that was silent for so long is asked for an answer. Beats come every 10 s once both ends write.
const ASK: Duration = Duration::from_secs(5);
/// Another relay of its site calls: without an answer for so long it is over. Two round trips of the longest path, and a look a second.
const DOUBT: Duration = Duration::from_secs(2);
/// Without a frame for so long it is over.
const SILENCE: Duration = Duration::from_secs(15);
/// How often sessions are looked after: [`Pulse::look`].
pub const LOOK: Duration = Duration::from_secs(1);
/// The relay that leads the other site is looked for so often, at most so long after one another, and then less often: it may be about to lead.
const SEEK: (u32, Duration, Duration) = (8, Duration::from_millis(250), Duration::from_secs(5));

/// The connection that there is, or the one that came.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Relay at the other end.
    pub relay: &'a str,
    /// We called.
    pub dialled: bool,
    /// Both ends lead.
    pub leads: bool,
}

/// What becomes of a connection that came while there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The new one goes.
    Keep,
    /// The old one goes.
    Replace,
}

/// Chooses. `age`: how long the old one has stood.
///
/// Of calls that cross, the one of the site with the lower number stays. Who calls otherwise has no session any more, whatever we
/// believe: it is right, if it is the relay that we know. Another relay of its site waits until the one that we hear is gone, unless it leads as we
/// do, and the one that we hear does not: those who lead have a session with one another (ADR 0043).
pub fn choose(here: SiteId, there: SiteId, old: Side<'_>, new: Side<'_>, age: Duration) -> Choice {
    if old.relay != new.relay {
        return if new.leads && !old.leads { Choice::Replace } else { Choice::Keep };
    }
    let preferred = |side: Side<'_>| side.dialled == (here < there);
    if age < CROSSING && old.dialled != new.dialled {
        return if preferred(new) { Choice::Replace } else { Choice::Keep };
    }
    Choice::Replace
}

/// A relay that is called, and greeted, says that it stands by: who seeks has a session with a relay of this site that does not lead.
pub const fn stands_by(leads: bool, seeks: bool) -> bool {
    seeks && !leads
}

/// What a call is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// There is no session.
    Session,
    /// The session shall go on on a connection with other certificates.
    Renewal,
    /// There is one with a relay that does not lead: the one that leads is looked for.
    Seek,
}

impl Why {
    /// What a call under way is for when the session has ended meanwhile; `None`: nothing any more. One for the relay that leads has perhaps found
    /// it already. Were it given up, two that lead would call each other in vain for ever: each takes up first with a relay that does not lead and has
    /// another session, looks for the one that leads, and is sent away by the first before it is found.
    pub const fn without_session(self) -> Option<Self> {
        match self {
            Self::Session | Self::Seek => Some(Self::Session),
            Self::Renewal => None,
        }
    }
}

/// Calls for the relay that leads another site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seeks {
    calls: u32,
    next: Instant,
}

impl Seeks {
    /// None was made; the first may be made from `now` on.
    pub const fn new(now: Instant) -> Self {
        Self { calls: 0, next: now }
    }

    /// When the next one is due.
    pub const fn next(self) -> Instant {
        self.next
    }

    /// One is due, and counts as made.
    pub fn call(&mut self, now: Instant) -> bool {
        if self.next > now {
            return false;
        }
        self.calls = self.calls.saturating_add(1);
        self.next = now + if self.calls <= SEEK.0 { SEEK.1 } else { SEEK.2 };
        true
    }
}

/// For how long a process stood still that was last awake then: as long as a relay is believed, or longer. `None`: it did not.
pub fn stood_still(awake: Instant, now: Instant) -> Option<Duration> {
    Some(now.since(awake)).filter(|gap| *gap >= HOLD)
}

/// What becomes of a session that is looked after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// It goes on.
    Heard,
    /// Its other end is to be asked for an answer.
    Ask,
    /// Its other end is gone.
    Over,
}

/// Whether the other end of a session is heard.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    heard_at: Instant,
    asked: bool,
    /// When it was last asked because another relay of its site called.
    doubted: Option<Instant>,
    /// Answers that are to come, and how long what comes before the last of them may have waited to be read.
    answers: u32,
    late: Duration,
}

impl Pulse {
    /// It is heard now.
    pub const fn new(now: Instant) -> Self {
        Self { heard_at: now, asked: false, doubted: None, answers: 0, late: Duration::ZERO }
    }

    /// A frame came, or is waited for from now on.
    pub const fn handle_frame(&mut self, now: Instant) {
        self.heard_at = now;
        self.asked = false;
    }

    /// Another relay of its site calls, whose relay we hear, or believe that we do. True: ask; at most once in [`LOOK`] (a peer may ping twice a
    /// second), and not again before it has answered.
    pub fn handle_rival(&mut self, now: Instant) -> bool {
        let asks = self.doubted.is_none_or(|at| self.heard_at >= at && now.since(at) >= LOOK);
        if asks {
            (self.doubted, self.asked) = (Some(now), true);
            self.answers += 1;
        }
        asks
    }

    /// This process stood still for so long: ask, for what comes before the answer may have waited in a socket since then, and says an age that is
    /// that much too young.
    pub fn handle_gap(&mut self, gap: Duration) {
        self.answers += 1;
        self.late = self.late.max(gap);
    }

    /// An answer came.
    pub const fn handle_answer(&mut self) {
        self.answers = self.answers.saturating_sub(1);
        if self.answers == 0 {
            self.late = Duration::ZERO;
        }
    }

    /// How long what is read now may have waited: zero, but where this process stood still.
    pub const fn late(&self) -> Duration {
        self.late
    }

    /// To be called once in [`LOOK`].
    pub fn look(&mut self, now: Instant) -> Look {
        let silent = now.since(self.heard_at);
        let unanswered = self.doubted.is_some_and(|at| self.heard_at < at && now.since(at) >= DOUBT);
        if silent >= SILENCE || unanswered {
            Look::Over
        } else if silent >= ASK && !self.asked {
            self.asked = true;
            self.answers += 1;
            Look::Ask
        } else {
            Look::Heard
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SiteId = SiteId(1);
    const B: SiteId = SiteId(2);
    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn of_calls_that_cross_both_ends_keep_the_one_of_the_lower_site_in_any_order() {
        let side = |dialled| Side { relay: "r", dialled, leads: false };
        for young in [Duration::ZERO, Duration::from_secs(9)] {
            // At A its own call, then B's; and the other way round. At B the same two.
            assert_eq!(choose(A, B, side(true), side(false), young), Choice::Keep);
            assert_eq!(choose(A, B, side(false), side(true), young), Choice::Replace);
            assert_eq!(choose(B, A, side(false), side(true), young), Choice::Keep);
            assert_eq!(choose(B, A, side(true), side(false), young), Choice::Replace);
        }
    }

    #[test]
    fn who_calls_again_has_lost_the_session_and_another_relay_waits() {
        let (known, other) =
            (Side { relay: "r", dialled: true, leads: false }, Side { relay: "s", dialled: false, leads: false });
        for here in [A, B] {
            let there = if here == A { B } else { A };
            assert_eq!(choose(here, there, known, Side { dialled: false, ..known }, LATE), Choice::Replace);
            assert_eq!(choose(here, there, known, known, Duration::ZERO), Choice::Replace);
            assert_eq!(choose(here, there, known, other, LATE), Choice::Keep);
            assert_eq!(choose(here, there, known, other, Duration::ZERO), Choice::Keep);
            let (leads, other) = (Side { leads: true, ..known }, Side { leads: true, ..other });
            assert_eq!(
                choose(here, there, known, other, Duration::ZERO),
                Choice::Replace,
                "those who lead find one another"
            );
            assert_eq!(choose(here, there, leads, other, LATE), Choice::Keep, "a second that says so waits");
            assert_eq!(choose(here, there, leads, Side { leads: false, ..other }, LATE), Choice::Keep);
        }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_call_for_who_leads_is_one_for_a_session_when_there_is_none_any_more() {
        let after = [Why::Session, Why::Seek, Why::Renewal].map(Why::without_session);
        assert_eq!(after, [Some(Why::Session), Some(Why::Session), None]);
    }

    #[test]
    fn who_leads_is_looked_for_eight_times_soon_and_then_less_often() {
        let mut seeks = Seeks::new(at(0));
        let calls: Vec<u64> = (0..20_000).step_by(50).filter(|ms| seeks.call(at(*ms))).collect();
        let soon: Vec<u64> = (0..9).map(|n| n * 250).collect();
        assert_eq!(calls, [&soon[..8], &[2_000, 7_000, 12_000, 17_000]].concat());
        assert_eq!(seeks.next(), at(22_000));
    }

    #[test]
    fn silence_is_asked_after_five_seconds_and_over_after_fifteen() {
        let mut pulse = Pulse::new(at(0));
        let looks: Vec<Look> = (1..=15).map(|s| pulse.look(at(s * 1_000))).collect();
        assert_eq!(looks.iter().position(|look| *look == Look::Ask), Some(4), "asked once");
        assert_eq!(looks.iter().filter(|look| **look != Look::Heard).count(), 2);
        assert_eq!(looks.last(), Some(&Look::Over));
    }

    #[test]
    fn a_rival_makes_a_silent_end_over_in_two_seconds_and_one_that_answers_none() {
        let mut pulse = Pulse::new(at(0));
        assert!(pulse.handle_rival(at(500)) && !pulse.handle_rival(at(1_600)), "asked once, until it answers");
        assert_eq!([1_000, 2_000, 3_000].map(|ms| pulse.look(at(ms))), [Look::Heard, Look::Heard, Look::Over]);
        let mut pulse = Pulse::new(at(0));
        assert!(pulse.handle_rival(at(500)));
        pulse.handle_frame(at(600));
        assert!(!pulse.handle_rival(at(1_400)) && pulse.handle_rival(at(1_500)), "not more often than it may be");
        pulse.handle_frame(at(1_600));
        assert_eq!([3_000, 4_000].map(|ms| pulse.look(at(ms))), [Look::Heard; 2]);
    }

    #[test]
    fn what_waited_while_this_process_stood_still_is_late_until_the_last_answer() {
        assert_eq!([2_999, 3_000].map(|ms| stood_still(at(0), at(ms))), [None, Some(Duration::from_secs(3))]);
        let mut pulse = Pulse::new(at(0));
        assert_eq!(pulse.look(at(5_000)), Look::Ask, "its answer waits in the socket");
        pulse.handle_gap(Duration::from_secs(20));
        pulse.handle_frame(at(26_000));
        assert_eq!(pulse.late(), Duration::from_secs(20));
        pulse.handle_answer();
        assert_eq!(pulse.late(), Duration::from_secs(20), "that was said before");
        pulse.handle_gap(Duration::from_secs(4));
        pulse.handle_answer();
        assert_eq!(pulse.late(), Duration::from_secs(20));
        pulse.handle_answer();
        assert_eq!(pulse.late(), Duration::ZERO);
        pulse.handle_answer();
        assert_eq!(pulse.late(), Duration::ZERO, "one that nobody asked for");
    }

    #[test]
    fn who_seeks_is_sent_on_by_those_who_do_not_lead() {
        assert_eq!(
            [(true, true), (true, false), (false, true), (false, false)].map(|(l, s)| stands_by(l, s)),
            [false, false, true, false]
        );
    }
}
