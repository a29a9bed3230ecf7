//! What is planned: routes move, a site takes nothing new.

use std::time::Duration;

use anyhow::Result;
use bascule_lab::sites::{DESK, ROUND_TRIP};
use bascule_lab::{Stamp, sleep_until};

use super::stage::{LAST_ANSWERS, NAME, THERE, count, last_answer, ms, narrate, p99, settle};
use super::{Scene, Seen, Stage};

/// From the order to the last new connection (sites.md 4.14).
const DRAIN_S: f64 = 1.0;
/// What a shift may cost 99 of 100 flows, beside the way to the other site and back (show 3).
pub(super) const SHIFT: Duration = Duration::from_millis(250);

impl Stage {
    pub(super) fn shift(&mut self) -> Result<Seen> {
        let _before = self.flows.window()?;
        let begun = Stamp::now();
        let mut seen = Seen::new(Scene::Shift, begun);
        for (site, what) in [(THERE, "the other site"), (1 - THERE, "where it was")] {
            self.lab.shift(site)?;
            seen.tell(Stamp::now(), format!("the route of the VIP leads to {what}"));
            self.turns(what)?;
            seen.tell(Stamp::now(), "every flow has had an answer twice".to_owned());
        }
        let report = self.flows.window()?;
        let stall = p99(report.flows.iter().map(|flow| flow.stall));
        seen.late = report.late;
        seen.at_most("flows broken, there and back", count(report.broken(&[]).len()), "flows", 0.0);
        seen.at_most("longest stall of 99 of 100 flows", ms(stall), "ms", ms(ROUND_TRIP + SHIFT));
        let end = Stamp::now();
        sleep_until(end + LAST_ANSWERS);
        let (opened, lost) = self.shop.snapshot(begun).lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.note("of them without an answer", count(lost), "lost");
        Ok(seen)
    }

    pub(super) fn drain(&mut self) -> Result<Seen> {
        let begun = Stamp::now();
        self.lab.drain(THERE, true)?;
        let mut seen = Seen::new(Scene::Drain, begun);
        seen.tell(begun, format!("{NAME} is ordered to take nothing new (bascule drain service)"));
        for node in self.lab.of(1 - THERE) {
            let change = self.change(node, DESK, begun, &format!("{NAME} is draining"))?;
            narrate(&mut seen, node, &change);
        }
        let (probe, end) = settle(&self.desk);
        let last = last_answer(&probe, begun, |by| self.far(by)).unwrap_or(begun);
        seen.tell(last, format!("the last new connection to {NAME}"));
        seen.late = probe.lateness(begun, end).worst();
        seen.at_most("last new connection there, after the order", last.since(begun).as_secs_f64(), "s", DRAIN_S);
        let (opened, lost) = probe.lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.at_most("of them without an answer", count(lost), "lost", 0.0);
        seen.at_most("flows broken", count(self.flows.broken()), "flows", 0.0);
        self.lab.drain(THERE, false)?;
        Ok(seen)
    }
}
