//! Plays the events: two sites, clients that open connections all the time, and flows that live through everything.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::audit::{Flows, Load};
use bascule_lab::sites::{Change, DESK, FLOWS, SHOP, Shared, SiteLab, SiteNode, changes, page, share};
use bascule_lab::{Direction, Dropper, Filter, Probe, ProbeOptions, Record, Stamp, TcpProber, sleep_until, wait_for};
use serde_json::Value;

use super::{Scene, Seen};

/// Flows that live through everything, and how often each says something.
const ALIVE: usize = 200;
const EVERY: Duration = Duration::from_millis(200);
/// A new connection to each probed service so often.
const ASK: ProbeOptions = ProbeOptions { interval: Duration::from_millis(10), grace: Duration::ZERO };
/// [`TcpProber`] gives a connection up after half a second.
const LAST_ANSWERS: Duration = Duration::from_millis(600);
/// After what was waited for, what goes on being lost belongs to the event.
const TAIL: Duration = Duration::from_secs(2);
/// Longest wait for what takes seconds, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// The site that things happen to; clients come in at the other one.
const THERE: usize = 1;
const NAME: &str = "dc-b";
/// Chance of each packet from and to it in a brownout.
const LOSS: f64 = 0.1;
/// Silence of a whole path, and the death of a site, as new connections see it (F3, F7).
const SILENCE_MS: f64 = 600.0;
/// Loss of 5 % and more (F11).
const BROWNOUT_S: f64 = 4.0;
/// From the order to the last new connection (sites.md 4.14).
const DRAIN_S: f64 = 1.0;
/// Stall of 99 of 100 flows in a shift, beside the way to the other site and back, which takes less than a millisecond here (show 3).
const SHIFT_MS: f64 = 250.0;
/// 20 good slots of the path, 10 s on probation, a slow start of 60 s, and the steps of a tenth a second of half the connections.
const RETURN_S: f64 = 90.0;

/// Everything at work.
pub struct Stage {
    lab: SiteLab,
    shop: TcpProber,
    desk: TcpProber,
    flows: Flows,
    /// While the site is dead.
    cut: Option<Dropper>,
}

impl Stage {
    /// Two sites of `nodes` each at peace: half of all new connections go to each site, and flows live in both.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn start(name: &str, nodes: u8) -> Result<Self> {
        let lab = SiteLab::start(name, nodes)?;
        let load = Load { target: lab.target(FLOWS), paced: ALIVE, every: EVERY, full_speed: 0, window: 1 };
        let flows = Flows::start(&lab.client, load)?;
        let open = flows.wait_open(PATIENCE)?;
        let probe = |service: Shared| {
            let target = lab.target(service);
            TcpProber::start(&lab.client, (*target.ip()).into(), target.port(), ASK)
        };
        let (shop, desk) = (probe(SHOP)?, probe(DESK)?);
        let stage = Self { shop, desk, flows, cut: None, lab };
        ensure!(open == ALIVE, "{open} of {ALIVE} flows opened: {}", stage.flows.look()?.describe(&[]));
        let both = wait_for(PATIENCE, "answers of both sites", || {
            let probe = stage.shop.snapshot(Stamp(0));
            let far = |record: &&Record| record.answered.is_some() && stage.far(record.by);
            (probe.records.iter().filter(far).count() > 10).then_some(())
        });
        both?;
        Ok(stage)
    }

    /// Plays one event.
    ///
    /// # Errors
    /// When the fault did not happen, or what must follow did not.
    pub fn play(&mut self, scene: Scene) -> Result<Seen> {
        match scene {
            Scene::Shift => self.shift(),
            Scene::Drain => self.drain(),
            Scene::Death => self.death(),
            Scene::Return => self.come_back(),
            Scene::Brownout => self.brownout(),
        }
    }

    /// The server with this number is of the site that things happen to.
    fn far(&self, number: u32) -> bool {
        self.lab.numbers(THERE).contains(&number)
    }

    /// Two turns of every flow whose server is not excused.
    fn turns(&self, after: &str) -> Result<()> {
        let wanted = self.flows.least() + 2;
        let done = wait_for(PATIENCE, "two turns of every flow", || (self.flows.least() >= wanted).then_some(()));
        done.with_context(|| format!("after {after}"))
    }

    fn shift(&mut self) -> Result<Seen> {
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
        let mut stalls: Vec<Duration> = report.flows.iter().map(|flow| flow.stall).collect();
        stalls.sort_unstable();
        let p99 = stalls.get((stalls.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
        seen.late = report.late;
        seen.at_most("flows broken, there and back", count(report.broken(&[]).len()), "flows", 0.0);
        seen.at_most("longest stall of 99 of 100 flows", p99.as_secs_f64() * 1e3, "ms", SHIFT_MS);
        let end = Stamp::now();
        sleep_until(end + LAST_ANSWERS);
        let (opened, lost) = self.shop.snapshot(begun).lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.note("of them without an answer", count(lost), "lost");
        Ok(seen)
    }

    fn drain(&mut self) -> Result<Seen> {
        let begun = Stamp::now();
        self.lab.drain(THERE, true)?;
        let mut seen = Seen::new(Scene::Drain, begun);
        seen.tell(begun, format!("{NAME} is told by its files to take nothing new"));
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

    fn death(&mut self) -> Result<Seen> {
        self.lab.wait_half(SHOP)?;
        // Those that live there stand still until it is back.
        self.flows.excuse(&self.lab.numbers(THERE));
        let cut = self.lab.uplink(THERE).cut(Direction::Both, Filter::All)?;
        let path_down = format!("{NAME} is path-down");
        let all: Vec<_> = self
            .lab
            .of(1 - THERE)
            .map(|node| Ok((node, self.change(node, SHOP, cut.since, &path_down)?)))
            .collect::<Result<_>>()?;
        let (probe, end) = settle(&self.shop);
        // The rule came into force between the start of nft and its end, and not before the last answer from there.
        let begun = last_answer(&probe, Stamp(0), |by| self.far(by)).unwrap_or(cut.since).max(cut.since);
        let mut seen = Seen::new(Scene::Death, begun);
        seen.tell(begun, format!("{NAME} is gone"));
        let noticed = all.iter().map(|(_, change)| change.detected.since(begun)).max().unwrap_or_default();
        all.iter().for_each(|(node, change)| narrate(&mut seen, node, change));
        let last = last_lost(&probe, begun, end).unwrap_or(begun);
        seen.tell(last, "the last new connection that was lost".to_owned());
        seen.late = probe.lateness(begun, end).worst();
        seen.at_most("noticed by every node of the other site", noticed.as_secs_f64() * 1e3, "ms", SILENCE_MS);
        seen.at_most("last new connection lost", last.since(begun).as_secs_f64() * 1e3, "ms", SILENCE_MS);
        let (opened, lost) = probe.lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.note("of them lost before the tables changed", count(lost), "lost");
        seen.at_most("flows of the other site broken", count(self.flows.broken()), "flows", 0.0);
        ensure!(cut.dropped()? > 0, "the cut dropped nothing");
        self.cut = Some(cut);
        Ok(seen)
    }

    fn come_back(&mut self) -> Result<Seen> {
        if self.cut.is_none() {
            let _died = self.death()?;
        }
        let cut = self.cut.take().context("the site was dead")?;
        cut.heal()?;
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
        seen.note("first new connection there", first.since(begun).as_secs_f64(), "s");
        seen.at_most("whole share again", whole.since(begun).as_secs_f64(), "s", RETURN_S);
        let (opened, lost) = probe.lost(begun, end);
        seen.note("new connections meanwhile", count(opened), "opened");
        seen.at_most("of them lost", count(lost), "lost", 0.0);
        Ok(seen)
    }

    fn brownout(&mut self) -> Result<Seen> {
        self.lab.wait_half(SHOP)?;
        let before = Stamp::now();
        let wire = self.lab.uplink(THERE).lose(Direction::Both, Filter::All, LOSS)?;
        let begun = wire.in_force;
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
        ensure!(wire.heal()? > 0, "nothing was lost");
        Ok(seen)
    }

    /// Waits for a change of a service's table on a node that began to count after `since`, for this reason, and is in the kernel.
    fn change(&self, node: &SiteNode, service: Shared, since: Stamp, why: &str) -> Result<Change> {
        let mut last = Vec::new();
        let found = wait_for(PATIENCE, &format!("{}: {why}", node.name), || {
            last = changes(&node.daemon, service.name).ok()?;
            let is_it =
                |change: &&Change| change.detected >= since && change.applied.is_some() && change.why.contains(why);
            last.iter().find(is_it).cloned()
        });
        found.with_context(|| format!("{last:#?}\n{}", node.daemon.process.tail()))
    }
}

/// What a prober saw, to the end of the event's tail.
fn settle(prober: &TcpProber) -> (Probe, Stamp) {
    let end = Stamp::now() + TAIL;
    sleep_until(end + LAST_ANSWERS);
    (prober.snapshot(Stamp(0)), end)
}

/// How a node tells a change of its table.
fn narrate(seen: &mut Seen, node: &SiteNode, change: &Change) {
    let share = change.after[THERE] * 100.0;
    seen.tell(change.detected, format!("{} notices: {}", node.name, change.why));
    if let Some(applied) = change.applied {
        seen.tell(applied, format!("{} has a table with {share:.1} % at {NAME} in its kernel", node.name));
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

/// When the last connection was begun that one of those answered.
fn last_answer(probe: &Probe, from: Stamp, by: impl Fn(u32) -> bool) -> Option<Stamp> {
    probe.records.iter().rfind(|r| r.due >= from && r.answered.is_some() && by(r.by)).map(|r| r.due)
}

fn first_answer(probe: &Probe, from: Stamp, by: impl Fn(u32) -> bool) -> Option<Stamp> {
    probe.records.iter().find(|r| r.due >= from && r.answered.is_some() && by(r.by)).map(|r| r.due)
}

/// When the last connection was begun that nobody answered.
fn last_lost(probe: &Probe, from: Stamp, until: Stamp) -> Option<Stamp> {
    probe.records.iter().rfind(|r| r.due >= from && r.due < until && r.answered.is_none()).map(|r| r.due)
}

#[expect(clippy::cast_precision_loss, reason = "counts of flows and connections")]
fn count(of: usize) -> f64 {
    of as f64
}
