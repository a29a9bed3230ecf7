//! What BFD's opinion means for a session (RFC 5882 section 4). A path that was up and went down ends it, and it stays down until the path
//! is up again, however long that takes: the neighbor speaks BFD, so silence means that packets get lost, and TCP alone coming up again
//! would draw traffic into that. What lifts it is the path, AdminDown of either side (which must not block, section 4.1) or an operator.
//! A path that never came up says nothing, since the neighbor may not speak BFD at all.

use core::time::Duration;

use crate::io::BfdState;
use crate::time::Instant;

/// So many failures of the path ...
const DOWNS: usize = 3;
/// ... in this time are flapping: the session then waits the longest back-off (bgp.md section 2.7).
const FLAP_WINDOW: Duration = Duration::from_secs(60);

/// What a change asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Verdict {
    /// Nothing new.
    Nothing,
    /// The session ends; `flapping` with a long wait.
    Lost { flapping: bool },
    /// It may be tried again.
    Back,
}

/// BFD's opinion of one neighbor.
#[derive(Clone, Debug, Default)]
pub(super) struct Path {
    up: bool,
    blocked: bool,
    downs: Vec<Instant>,
}

impl Path {
    pub(super) fn handle(&mut self, state: BfdState, now: Instant) -> Verdict {
        match state {
            BfdState::Down if self.up => {
                self.up = false;
                self.blocked = true;
                self.downs.retain(|at| now.since(*at) < FLAP_WINDOW);
                self.downs.truncate(DOWNS);
                self.downs.push(now);
                Verdict::Lost { flapping: self.downs.len() >= DOWNS }
            }
            BfdState::Down => Verdict::Nothing,
            BfdState::Up | BfdState::AdminDown => {
                self.up = state == BfdState::Up;
                if core::mem::take(&mut self.blocked) { Verdict::Back } else { Verdict::Nothing }
            }
        }
    }

    /// The session waits for the path.
    pub(super) fn blocks(&self) -> bool {
        self.blocked
    }

    /// An operator decides: without the path, until it was up once more.
    pub(super) fn lift(&mut self) {
        self.blocked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn down_counts_only_after_up_and_up_or_admin_down_lifts_it() {
        let mut path = Path::default();
        assert_eq!(path.handle(BfdState::Down, at(0)), Verdict::Nothing);
        assert_eq!(path.handle(BfdState::AdminDown, at(0)), Verdict::Nothing);
        for lifts in [BfdState::Up, BfdState::AdminDown] {
            let mut path = Path::default();
            assert_eq!(path.handle(BfdState::Up, at(1)), Verdict::Nothing);
            assert_eq!(path.handle(BfdState::Down, at(2)), Verdict::Lost { flapping: false });
            assert_eq!(path.handle(BfdState::Down, at(2)), Verdict::Nothing);
            assert!(path.blocks());
            assert_eq!(path.handle(lifts, at(3)), Verdict::Back);
            assert!(!path.blocks());
        }
    }

    #[test]
    fn three_downs_in_a_minute_are_flapping() {
        let flaps = |times: &[u64]| {
            let mut path = Path::default();
            let lost = times.iter().map(|t| {
                let _ = path.handle(BfdState::Up, at(*t));
                path.handle(BfdState::Down, at(*t))
            });
            lost.last() == Some(Verdict::Lost { flapping: true })
        };
        assert!(!flaps(&[0, 20]));
        assert!(flaps(&[0, 20, 40]));
        assert!(!flaps(&[0, 20, 80]));
        assert!(flaps(&[0, 20, 70, 71]), "the first is forgotten, the other three are near");
    }
}
