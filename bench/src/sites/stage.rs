//! Plays the events: two sites, clients that open connections all the time, and flows that live through everything.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::audit::{Flows, Load};
use bascule_lab::sites::{BASE, Change, DESK, FLOWS, SHOP, Shared, SiteLab, SiteNode, changes};
use bascule_lab::{Netns, Probe, ProbeOptions, Record, Stamp, TcpProber, Torn, sleep_until, wait_for};

use super::{Scene, Seen};

/// Flows that live through everything, and how often each says something.
const ALIVE: usize = 200;
const EVERY: Duration = Duration::from_millis(200);
/// A new connection to each probed service so often.
const ASK: ProbeOptions = ProbeOptions { interval: Duration::from_millis(10), grace: Duration::ZERO };
/// [`TcpProber`] gives a connection up after half a second.
pub(super) const LAST_ANSWERS: Duration = Duration::from_millis(600);
/// After what was waited for, what goes on being lost belongs to the event.
const TAIL: Duration = Duration::from_secs(2);
/// Longest wait for what takes seconds, on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The site that things happen to; clients come in at the other one.
pub(super) const THERE: usize = 1;
pub(super) const NAME: &str = "dc-b";

/// Everything at work.
pub struct Stage {
    pub(super) lab: SiteLab,
    pub(super) shop: TcpProber,
    pub(super) desk: TcpProber,
    pub(super) base: TcpProber,
    pub(super) flows: Flows,
    /// While the site is dead.
    pub(super) cut: Option<Torn>,
}

impl Stage {
    /// Two sites of `nodes` each at peace: half of all new connections go to each site, and flows live in both.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn start(name: &str, nodes: u8) -> Result<Self> {
        let lab = SiteLab::start(name, nodes)?;
        let load = Load { target: lab.target(FLOWS), paced: ALIVE, every: EVERY, full_speed: 0, window: 1 };
        let flows = Flows::start(lab.client(), load)?;
        let open = flows.wait_open(PATIENCE)?;
        let probe = |service| prober(&lab, lab.client(), service);
        let (shop, desk, base) = (probe(SHOP)?, probe(DESK)?, probe(BASE)?);
        let stage = Self { shop, desk, base, flows, cut: None, lab };
        ensure!(open == ALIVE, "{open} of {ALIVE} flows opened: {}", stage.flows.look()?.describe(&[]));
        let both = wait_for(PATIENCE, "answers of both sites", || {
            let probe = stage.shop.snapshot(Stamp(0));
            let far = |record: &&Record| record.answered.is_some() && stage.far(record.by);
            let base = stage.base.snapshot(Stamp(0)).records.iter().any(|record| record.answered.is_some());
            (base && probe.records.iter().filter(far).count() > 10).then_some(())
        });
        both?;
        Ok(stage)
    }

    /// Plays one event.
    ///
    /// # Errors
    /// When the fault did not happen, or what must follow did not.
    pub fn play(&mut self, scene: Scene) -> Result<Seen> {
        self.lab.take_lateness();
        let mut seen = match scene {
            Scene::Shift => self.shift(),
            Scene::Endpoint => self.endpoint(),
            Scene::Drain => self.drain(),
            Scene::Death => self.death(),
            Scene::Return => self.come_back(),
            Scene::Node => self.node_dies(),
            Scene::Brownout => self.brownout(),
            Scene::Many => anyhow::bail!("{} has a stage of its own", scene.name()),
        }?;
        // A frame that the WAN itself held back is no fault of a site.
        seen.late = seen.late.max(self.lab.take_lateness());
        Ok(seen)
    }

    /// The server with this number is of the site that things happen to.
    pub(super) fn far(&self, number: u32) -> bool {
        self.lab.numbers(THERE).contains(&number)
    }

    /// Two turns of every flow whose server is not excused.
    pub(super) fn turns(&self, after: &str) -> Result<()> {
        turns(&self.flows).with_context(|| format!("after {after}"))
    }

    /// Waits for a change of a service's table on a node that began to count after `since`, for this reason, and is in the kernel.
    pub(super) fn change(&self, node: &SiteNode, service: Shared, since: Stamp, why: &str) -> Result<Change> {
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

/// New connections to a service from `client`, all the time.
pub(super) fn prober(lab: &SiteLab, client: &Netns, service: Shared) -> Result<TcpProber> {
    let target = lab.target(service);
    Ok(TcpProber::start(client, (*target.ip()).into(), target.port(), ASK)?)
}

/// Two turns of every flow whose server is not excused.
pub(super) fn turns(flows: &Flows) -> Result<()> {
    let wanted = flows.least() + 2;
    Ok(wait_for(PATIENCE, "two turns of every flow", || (flows.least() >= wanted).then_some(()))?)
}

/// The stall that 99 of 100 do not exceed.
pub(super) fn p99(stalls: impl Iterator<Item = Duration>) -> Duration {
    let mut stalls: Vec<Duration> = stalls.collect();
    stalls.sort_unstable();
    stalls.get((stalls.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// What a prober saw, to the end of the event's tail.
pub(super) fn settle(prober: &TcpProber) -> (Probe, Stamp) {
    let end = Stamp::now() + TAIL;
    sleep_until(end + LAST_ANSWERS);
    (prober.snapshot(Stamp(0)), end)
}

/// How a node tells a change of its table.
pub(super) fn narrate(seen: &mut Seen, node: &SiteNode, change: &Change) {
    let share = change.after[THERE] * 100.0;
    seen.tell(change.detected, format!("{} notices: {}", node.name, change.why));
    if let Some(applied) = change.applied {
        seen.tell(applied, format!("{} has a table with {share:.1} % at {NAME} in its kernel", node.name));
    }
}

/// When the last connection was begun that one of those answered.
pub(super) fn last_answer(probe: &Probe, from: Stamp, by: impl Fn(u32) -> bool) -> Option<Stamp> {
    probe.records.iter().rfind(|r| r.due >= from && r.answered.is_some() && by(r.by)).map(|r| r.due)
}

pub(super) fn first_answer(probe: &Probe, from: Stamp, by: impl Fn(u32) -> bool) -> Option<Stamp> {
    probe.records.iter().find(|r| r.due >= from && r.answered.is_some() && by(r.by)).map(|r| r.due)
}

/// When the last connection was begun that nobody answered.
pub(super) fn last_lost(probe: &Probe, from: Stamp, until: Stamp) -> Option<Stamp> {
    probe.records.iter().rfind(|r| r.due >= from && r.due < until && r.answered.is_none()).map(|r| r.due)
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts of flows and connections")]
pub(super) fn count(of: usize) -> f64 {
    of as f64
}
