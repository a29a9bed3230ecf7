//! Two connections with one site: which one stays. Both ends must come to the same, without asking.

use std::time::Duration;

use bascule_core::site::SiteId;

/// Calls that cross are there within so long of each other: connecting and greeting have their time limits.
pub(super) const CROSSING: Duration = Duration::from_secs(10);

/// The connection that there is, or the one that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'a> {
    /// Relay at the other end.
    pub(super) relay: &'a str,
    /// We called.
    pub(super) dialled: bool,
    /// Both ends lead.
    pub(super) leads: bool,
}

/// What becomes of a connection that came while there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
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
pub(super) fn choose(here: SiteId, there: SiteId, old: Side<'_>, new: Side<'_>, age: Duration) -> Choice {
    if old.relay != new.relay {
        return if new.leads && !old.leads { Choice::Replace } else { Choice::Keep };
    }
    let preferred = |side: Side<'_>| side.dialled == (here < there);
    if age < CROSSING && old.dialled != new.dialled {
        return if preferred(new) { Choice::Replace } else { Choice::Keep };
    }
    Choice::Replace
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
}
