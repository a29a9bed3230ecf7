//! Credits: who has room says to whom it lends how much, and nobody sends more than it was lent (ADR 0021).
//!
//! A receiver splits its room over those who ask, in proportion to what they ask, every second; a loan holds for 3 s. Excess and room are
//! both reckoned from what *clients* bring to a site, which no decision here changes: so the numbers do not chase one another.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::site::SiteId;
use crate::time::Instant;

/// How full a site is filled by others, and from which load it asks for help.
pub const FULL: f64 = 0.95;
/// A loan, and a request for one, hold for so long.
pub const VALID: Duration = Duration::from_secs(3);
/// Round trips are weighed by e^(-rtt/50 ms) among lenders of the same region.
const NEAR: f64 = 0.05;

/// Requests that this site has received for one service, and loans it was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Credits {
    asked: BTreeMap<SiteId, (f64, Instant)>,
    lent: BTreeMap<SiteId, (f64, Instant)>,
}

/// A lender.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Lender {
    pub(super) site: SiteId,
    /// In the region of this site.
    pub(super) near: bool,
    /// Round trip in seconds.
    pub(super) rtt: f64,
    /// What may be sent there.
    pub(super) room: f64,
}

impl Credits {
    pub(super) fn ask(&mut self, from: SiteId, excess: f64, now: Instant) {
        let _old = self.asked.insert(from, (excess.max(0.0), now));
    }

    pub(super) fn lend(&mut self, from: SiteId, amount: f64, now: Instant) {
        let _old = self.lent.insert(from, (amount.max(0.0), now));
    }

    /// Loans of this second: `free` split over those who ask. Somebody whose request ended gets nothing and needs no word of it.
    pub(super) fn loans(&mut self, free: f64, now: Instant) -> Vec<(SiteId, f64)> {
        self.asked.retain(|_, (_, at)| now.since(*at) < VALID);
        let asked: f64 = self.asked.values().map(|(excess, _)| excess).sum();
        if asked <= 0.0 {
            return Vec::new();
        }
        let each = (free.max(0.0) / asked).min(1.0);
        self.asked.iter().map(|(site, (excess, _))| (*site, excess * each)).collect()
    }

    /// What `from` lends now.
    pub(super) fn lent(&self, from: SiteId, now: Instant) -> f64 {
        self.lent.get(&from).filter(|(_, at)| now.since(*at) < VALID).map_or(0.0, |(amount, _)| *amount)
    }
}

/// Spreads `excess` over lenders: those of the own region first, within a region in proportion to room and nearness, none above its room.
/// What nobody has room for is not placed.
pub(super) fn place(excess: f64, lenders: &[Lender]) -> BTreeMap<SiteId, f64> {
    let mut placed = BTreeMap::new();
    let mut left = excess;
    for near in [true, false] {
        let mut open: Vec<Lender> = lenders.iter().filter(|l| l.near == near && l.room > 0.0).copied().collect();
        // Each round fills one lender at least or places all.
        while left > 1e-9 && !open.is_empty() {
            let weight = |l: &Lender| l.room * (-l.rtt / NEAR).exp();
            let total: f64 = open.iter().map(weight).sum();
            if total <= 0.0 {
                break;
            }
            let mut next = Vec::new();
            let round = left;
            for lender in &open {
                let taken = (round * weight(lender) / total).min(lender.room);
                *placed.entry(lender.site).or_insert(0.0) += taken;
                left -= taken;
                let room = lender.room - taken;
                if room > 1e-9 {
                    next.push(Lender { room, ..*lender });
                }
            }
            if next.len() == open.len() {
                break;
            }
            open = next;
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn loans_follow_requests_and_end() {
        let mut credits = Credits::default();
        credits.ask(SiteId(1), 300.0, at(0));
        credits.ask(SiteId(2), 100.0, at(2000));
        assert_eq!(credits.loans(200.0, at(2000)), [(SiteId(1), 150.0), (SiteId(2), 50.0)]);
        assert_eq!(credits.loans(900.0, at(2500)), [(SiteId(1), 300.0), (SiteId(2), 100.0)], "no more than asked");
        assert_eq!(credits.loans(200.0, at(3000)), [(SiteId(2), 100.0)], "the first request is 3 s old");
        credits.lend(SiteId(4), 7.0, at(0));
        assert!(credits.lent(SiteId(4), at(2999)) == 7.0 && credits.lent(SiteId(4), at(3000)) == 0.0);
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_it_lent_and_all_is_placed_that_can_be(
            excess in 0.0f64..2000.0,
            rooms in proptest::collection::vec((any::<bool>(), 0.0f64..0.2, 0.0f64..300.0), 1..8),
        ) {
            let lenders: Vec<Lender> = (1u8..).zip(&rooms)
                .map(|(i, (near, rtt, room))| Lender { site: SiteId(i), near: *near, rtt: *rtt, room: *room }).collect();
            let placed = place(excess, &lenders);
            for lender in &lenders {
                prop_assert!(placed.get(&lender.site).copied().unwrap_or(0.0) <= lender.room + 1e-6);
            }
            let (all, room): (f64, f64) = (placed.values().sum(), lenders.iter().map(|l| l.room).sum());
            prop_assert!((all - excess.min(room)).abs() < 1e-3, "{all} of {excess} with room {room}");
            let near_room: f64 = lenders.iter().filter(|l| l.near).map(|l| l.room).sum();
            let far: f64 = lenders.iter().filter(|l| !l.near).filter_map(|l| placed.get(&l.site)).sum();
            prop_assert!(far <= 1e-3 || near_room <= excess, "the own region first");
        }
    }
}
