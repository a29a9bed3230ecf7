//! What the data path of this node sees of other sites, as one node deals with it: the policy judges by it, and nobody else is told. As paths,
//! it is what is seen from here (ADR 0037).

use super::Join;
use crate::site::SiteId;
use crate::site::handshakes::Totals;
use crate::site::summary::ServiceId;
use crate::time::Instant;

/// What became of handshakes with the services of several sites since the counters began, by site. What stands as it stood may be left out.
pub type Read = [(ServiceId, Vec<(SiteId, Totals)>)];

impl Join {
    /// Counters of this node were read. Called every [`LOOK`](crate::site::handshakes::LOOK), also when nothing was counted: what is old ends so.
    pub fn handle_handshakes(&mut self, read: &Read, now: Instant) {
        for (id, totals) in read.iter().filter(|(id, _)| self.config.services.contains_key(id)) {
            self.handshakes.handle_totals(*id, totals, now);
        }
        for (id, site, observed) in self.handshakes.observe(now) {
            self.policy.handle_observed(site, id, observed, now);
        }
        self.settle(now);
    }

    /// What became of handshakes with a service at a site since the counters began.
    pub fn handshakes(&self, id: ServiceId, site: SiteId) -> Totals {
        self.handshakes.totals(id, site)
    }
}

#[cfg(test)]
mod tests {
    use super::super::io::{Action, Fact, Source};
    use super::super::tests::{HERE, THERE, WEB, at, config, serving};
    use super::*;
    use crate::site::path::io::Carriage;
    use crate::site::policy::facts::Verdict;
    use crate::site::policy::tests::status as path;
    use crate::site::summary::Summary;
    use crate::site::timeline::Rule;

    /// A node that has half of its flows in another site, 20 s after its start.
    fn node() -> (Join, u64) {
        let mut join = Join::new(config(Some("r1"), &["r1"]), at(0));
        let summary = Some(Summary { ready: 4, expected: 4, draining: false, capacity: 100, demand: 0 });
        let mut now = 0;
        while now < 20_000 {
            now += 250;
            join.handle_serving(WEB, serving(4), at(now));
            join.handle_path(THERE, path(Carriage::Up), at(now), at(now));
            join.handle_fact(Source::Own, Fact::Session { site: THERE, up: true }, at(now));
            let fact = Fact::Summary { site: THERE, service: WEB, summary, age: core::time::Duration::ZERO };
            join.handle_fact(Source::Own, fact, at(now));
            join.handle_expire(at(now));
        }
        while join.poll_action().is_some() {}
        (join, now)
    }

    #[test]
    fn a_site_that_answers_nobody_loses_its_slots_at_once_and_the_reason_is_kept() {
        let (mut join, now) = node();
        let half = join.opinions(WEB, at(now)).iter().find(|o| o.site == THERE).map(|o| o.share);
        assert!(half.is_some_and(|share| (0.45..0.55).contains(&share)), "{half:?}");
        let good = Totals { answered: 200, failed: 0, ..Totals::default() };
        join.handle_handshakes(&[(WEB, vec![(HERE, good), (THERE, good)])], at(now + 250));
        assert!(!std::iter::from_fn(|| join.poll_action()).any(|a| matches!(a, Action::Table { .. })));
        let bad = Totals { answered: 200, failed: 64, ..Totals::default() };
        join.handle_handshakes(
            &[(WEB, vec![(HERE, Totals { answered: 400, failed: 0, ..Totals::default() }), (THERE, bad)])],
            at(now + 500),
        );
        let tables: Vec<_> = std::iter::from_fn(|| join.poll_action())
            .filter_map(|a| match a {
                Action::Table { slots, .. } => Some(slots),
                _ => None,
            })
            .collect();
        assert!(tables.len() == 1 && tables[0].iter().all(|site| *site == HERE), "{} tables", tables.len());
        let last = join.history(WEB).and_then(|h| h.iter().last().cloned()).expect("a change");
        assert_eq!(last.why, Rule::Facts { site: THERE, verdict: Verdict::Mismatch });
        assert_eq!(join.handshakes(WEB, THERE), bad);
        let there = join.opinions(WEB, at(now + 500)).into_iter().find(|o| o.site == THERE).expect("known");
        assert_eq!((there.ejections, there.ejected), (1, Some(30.0)));
        assert!(there.observed.failed == 64 && there.observed.compared, "{:?}", there.observed);
        // What was seen is old after ten seconds, whether anything is read or not.
        join.handle_handshakes(&[], at(now + 11_000));
        let there = join.opinions(WEB, at(now + 11_000)).into_iter().find(|o| o.site == THERE).expect("known");
        assert_eq!(there.observed.handshakes, 0);
    }
}
