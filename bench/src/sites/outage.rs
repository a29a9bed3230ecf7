//! A whole site goes, comes back, and is behind a path that loses packets.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::sites::{BASE, SHOP, TTL, page, share};
use bascule_lab::{Stamp, wait_for};
use serde_json::Value;

use super::stage::{NAME, PATIENCE, THERE, count, first_answer, last_answer, last_lost, ms, narrate, settle};
use super::{Scene, Seen, Stage};

/// Chance of each packet from and to it in a brownout.
const LOSS: f64 = 0.1;
/// Silence of a whole path, and the death of a site, as new connections see it (F3, F7).
const SILENCE_MS: f64 = 600.0;
/// What a take-over of a service that one site has may last beyond the lease's TTL (F3, F8).
const BEYOND: Duration = Duration::from_millis(1_500);
/// Loss of 5 % and more (F11).
const BROWNOUT_S: f64 = 4.0;
/// 20 good slots of the path, 10 s on probation, a slow start of 60 s, and the steps of a tenth a second of half the connections.
const RETURN_S: f64 = 90.0;

impl Stage {
    pub(super) fn death(&mut self) -> Result<Seen> {
        self.lab.wait_half(SHOP)?;
        // Those that live there stand still until it is back.
        self.flows.excuse(&self.lab.numbers(THERE));
        let cut = self.lab.uplink(THERE).cut();
        let begun = cut.since;
        let path_down = format!("{NAME} is path-down");
        let all: Vec<_> = self
            .lab
            .of(1 - THERE)
            .map(|node| Ok((node, self.change(node, SHOP, begun, &path_down)?)))
            .collect::<Result<_>>()?;
        let (probe, end) = settle(&self.shop);
        let mut seen = Seen::new(Scene::Death, begun);
        seen.tell(begun, format!("{NAME} is gone"));
        let noticed = all.iter().map(|(_, change)| change.detected.since(begun)).max().unwrap_or_default();
        all.iter().for_each(|(node, change)| narrate(&mut seen, node, change));
        let last = last_lost(&probe, begun, end).unwrap_or(begun);
        seen.tell(last, "the last new connection that was lost".to_owned());
        seen.late = probe.lateness(begun, end).worst();
        seen.at_most("noticed by every node of the other site", ms(noticed), "ms", SILENCE_MS);
        seen.at_most("last new connection lost", ms(last.since(begun)), "ms", SILENCE_MS);
        let (opened, lost) = probe.lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.note("of them lost before the tables changed", count(lost), "lost");
        seen.at_most("flows of the other site broken", count(self.flows.broken()), "flows", 0.0);
        self.take_over(&mut seen)?;
        ensure!(cut.dropped() > 0, "the cut dropped nothing");
        self.cut = Some(cut);
        Ok(seen)
    }

    /// The service that one site has at a time, if it was the dead one's: when the other one answers.
    fn take_over(&self, seen: &mut Seen) -> Result<()> {
        let begun = seen.begun;
        let before = self.base.snapshot(begun - Duration::from_secs(1));
        if last_answer(&before, Stamp(0), |by| self.far(by)).is_none() {
            return Ok(());
        }
        let home = |by| !self.far(by);
        let first =
            wait_for(PATIENCE, "the other site to take over", || first_answer(&self.base.snapshot(begun), begun, home));
        let first = first.with_context(|| {
            let told =
                self.lab.of(1 - THERE).map(|node| page(&node.daemon).unwrap_or_default()["services"].to_string());
            told.collect::<Vec<_>>().join("\n")
        })?;
        let (probe, end) = settle(&self.base);
        seen.tell(first, format!("the other site has {} and answers", BASE.name));
        let late = last_answer(&probe, first, |by| self.far(by));
        seen.late = seen.late.max(probe.lateness(begun, end).worst());
        let bound = (TTL + BEYOND).as_secs_f64();
        // Each node on which packets arrive has a table of its own.
        let last = last_lost(&probe, begun, end).unwrap_or(begun);
        seen.note("activePassive: first new connection elsewhere", first.since(begun).as_secs_f64(), "s");
        seen.at_most("activePassive: last new connection lost", last.since(begun).as_secs_f64(), "s", bound);
        seen.at_most("activePassive: answered by both sites", count(late.iter().count()), "seen", 0.0);
        Ok(())
    }

    pub(super) fn come_back(&mut self) -> Result<Seen> {
        if self.cut.is_none() {
            let _died = self.death()?;
        }
        let cut = self.cut.take().context("the site was dead")?;
        let _lost = cut.heal();
        let begun = Stamp::now();
        let mut seen = Seen::new(Scene::Return, begun);
        seen.tell(begun, format!("{NAME} is back"));
        let mut first_tables = Vec::new();
        for node in self.lab.of(1 - THERE) {
            first_tables.push((node, self.change(node, SHOP, begun, "")?));
        }
        self.lab.wait_half(SHOP)?;
        let whole = Stamp::now();
        seen.tell(whole, format!("{NAME} has its whole share in the tables of all nodes"));
        first_tables.iter().for_each(|(node, change)| narrate(&mut seen, node, change));
        let (probe, end) = settle(&self.shop);
        let first = first_answer(&probe, begun, |by| self.far(by)).context("no new connection there")?;
        seen.tell(first, format!("the first new connection to {NAME}"));
        seen.late = probe.lateness(begun, end).worst();
        if let Some(lost) = last_lost(&probe, begun, end) {
            seen.tell(lost, "the last new connection that was lost".to_owned());
        }
        seen.note("first new connection there", first.since(begun).as_secs_f64(), "s");
        seen.at_most("whole share again", whole.since(begun).as_secs_f64(), "s", RETURN_S);
        let (opened, lost) = probe.lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.at_most("of them lost", count(lost), "lost", 0.0);
        Ok(seen)
    }

    pub(super) fn brownout(&mut self) -> Result<Seen> {
        self.lab.wait_half(SHOP)?;
        let before = Stamp::now();
        let wire = self.lab.uplink(THERE).lose(LOSS);
        let begun = wire.since;
        let mut seen = Seen::new(Scene::Brownout, begun);
        seen.tell(begun, format!("each packet from and to {NAME} is lost with a chance of {:.0} %", LOSS * 100.0));
        let mut noticed = begun;
        for node in self.lab.of(1 - THERE) {
            self.lab.wait_page(node, "a brownout", |page| {
                let path = &page["sites"][0]["path"]["path"];
                !path["brownoutIn"].is_null() || !path["brownoutOut"].is_null()
            })?;
            noticed = noticed.max(Stamp::now());
            let path = page(&node.daemon).map_or(Value::Null, |page| page["sites"][0]["path"]["path"].clone());
            seen.tell(Stamp::now(), format!("{} shows a brownout: {}", node.name, direction(&path)));
        }
        for node in self.lab.of(1 - THERE) {
            self.lab.wait_page(node, "no share there", |page| share(page, SHOP.name, NAME) < 0.01)?;
            seen.tell(Stamp::now(), format!("{} sends nothing new to {NAME}", node.name));
        }
        let away = Stamp::now();
        let (probe, end) = settle(&self.shop);
        seen.late = probe.lateness(before, end).worst();
        seen.at_most("noticed by every node of the other site", noticed.since(begun).as_secs_f64(), "s", BROWNOUT_S);
        seen.note("nothing new goes there any more", away.since(begun).as_secs_f64(), "s");
        let (opened, lost) = probe.lost(begun, away);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.note("of them late or lost", count(lost), "lost");
        seen.at_most("late or lost in the two seconds after", count(probe.lost(away, end).1), "lost", 0.0);
        ensure!(wire.heal() > 0, "nothing was lost");
        Ok(seen)
    }
}

/// Which way a path loses, in words.
fn direction(path: &Value) -> &'static str {
    match (path["brownoutIn"].is_null(), path["brownoutOut"].is_null()) {
        (false, false) => "both ways",
        (false, true) => "what comes",
        (true, _) => "what goes",
    }
}
