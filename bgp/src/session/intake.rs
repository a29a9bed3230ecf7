//! What a neighbor announces to us: counted, held against a limit, and thrown away. Nothing here is ever used for forwarding.

use core::time::Duration;
use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::config::MaxPrefixAction;
use crate::time::Instant;
use crate::wire::{Family, Update};

/// Prefixes told apart when there is no limit: a neighbor that sends the whole Internet must not cost its memory.
const TRACKED: u32 = 1000;

/// Malformed UPDATEs are reported at most so often, with how many there were.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What an UPDATE did to the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Limit {
    /// Within it, or said before.
    Held,
    /// Passed for the first time.
    Passed { family: Family, prefixes: u32, limit: u32, action: MaxPrefixAction },
}

#[derive(Debug, Default)]
pub(super) struct Intake {
    held: [BTreeSet<IpNet>; 2],
    said: [bool; 2],
    /// When the last malformed UPDATE was reported, and how many came since. Outlives the session.
    reported: Option<Instant>,
    unreported: u64,
}

const fn slot(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl Intake {
    /// Counts an UPDATE. The set never holds more than the limit and one.
    pub(super) fn count(&mut self, update: &Update, limit: Option<u32>, action: MaxPrefixAction) -> Limit {
        // Withdrawn first: RFC 4271 section 4.3 lets a prefix that is in both fields be announced.
        for prefix in update.withdrawn() {
            self.held[slot(Family::of(&prefix))].remove(&prefix);
        }
        let most = usize::try_from(limit.unwrap_or(TRACKED)).unwrap_or(usize::MAX).saturating_add(1);
        for prefix in update.announced() {
            let set = &mut self.held[slot(Family::of(&prefix))];
            if set.len() < most {
                set.insert(prefix);
            }
        }
        self.judge(limit, action)
    }

    /// Holds what there is against a limit.
    pub(super) fn judge(&mut self, limit: Option<u32>, action: MaxPrefixAction) -> Limit {
        for family in Family::ALL {
            let prefixes = self.prefixes(family);
            let passed = limit.is_some_and(|limit| prefixes > limit);
            let said = core::mem::replace(&mut self.said[slot(family)], passed);
            if let Some(limit) = limit
                && passed
                && !said
            {
                return Limit::Passed { family, prefixes, limit, action };
            }
        }
        Limit::Held
    }

    /// Distinct prefixes held, up to the limit and one more.
    pub(super) fn prefixes(&self, family: Family) -> u32 {
        u32::try_from(self.held[slot(family)].len()).unwrap_or(u32::MAX)
    }

    /// What to say about a malformed UPDATE, if it is time to say anything.
    pub(super) fn malformed(&mut self, update: &Update, now: Instant) -> Option<String> {
        self.unreported += 1;
        if self.reported.is_some_and(|at| now.since(at) < REPORT_EVERY) {
            return None;
        }
        self.reported = Some(now);
        let errors: Vec<_> = update.errors.iter().map(ToString::to_string).collect();
        let before = core::mem::take(&mut self.unreported) - 1;
        let more = if before > 0 { format!(" ({before} more since the last report)") } else { String::new() };
        Some(format!("{}{more}", errors.join("; ")))
    }

    /// The session ended: what it announced is gone.
    pub(super) fn clear(&mut self) {
        self.held = Default::default();
        self.said = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(announced: core::ops::Range<u8>, withdrawn: core::ops::Range<u8>) -> Update {
        let net = |i: u8| ipnet::Ipv4Net::new([10, 0, 0, i].into(), 32).expect("32 fits");
        Update {
            announced_v4: announced.map(net).collect(),
            withdrawn_v4: withdrawn.map(net).collect(),
            ..Update::default()
        }
    }

    #[test]
    fn the_limit_counts_distinct_prefixes_and_is_said_once() {
        let mut intake = Intake::default();
        let warn = MaxPrefixAction::Warn;
        assert_eq!(intake.count(&update(0..3, 0..0), Some(3), warn), Limit::Held);
        assert_eq!(intake.count(&update(0..3, 0..0), Some(3), warn), Limit::Held, "the same three");
        let passed = Limit::Passed { family: Family::Ipv4, prefixes: 4, limit: 3, action: warn };
        assert_eq!(intake.count(&update(3..4, 0..0), Some(3), warn), passed);
        assert_eq!(intake.count(&update(4..90, 0..0), Some(3), warn), Limit::Held);
        assert_eq!(intake.prefixes(Family::Ipv4), 4, "bounded by the limit and one");
        assert_eq!(intake.count(&update(0..0, 0..4), Some(3), warn), Limit::Held);
        assert_eq!(intake.count(&update(0..4, 0..0), Some(3), warn), passed, "said anew after it fell");
    }

    #[test]
    fn malformed_updates_are_reported_once_per_period_with_their_number() {
        let mut intake = Intake::default();
        let broken = Update::default();
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        assert!(intake.malformed(&broken, at(100)).is_some());
        assert!((0..5).all(|_| intake.malformed(&broken, at(101)).is_none()));
        assert!(intake.malformed(&broken, at(111)).expect("time to say").contains("5 more"));
    }
}
