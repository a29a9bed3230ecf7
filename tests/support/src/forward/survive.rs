//! Everything that may happen to a site while flows live, one thing after another: what the forwarding plane is for.
//!
//! Show 3 of issue 4 in any size: the bench runs it with 10,000 flows, the suite with 200.

use std::time::Duration;

use super::{Hook, Layout, Site};
use crate::audit::{AuditReport, Flows, Load};
use crate::{LabError, Result, Stamp, sleep_until, wait_for};

/// Connections opened after each event, to see that new flows find a backend.
const FRESH: usize = 16;
/// How long opening may take on a busy machine.
const OPEN: Duration = Duration::from_secs(120);
/// Three balancers, and six backends on three nodes.
const LAYOUT: (u16, u16, u16) = (3, 3, 2);

/// What one event did.
#[derive(Debug, Clone)]
pub struct Step {
    /// The event.
    pub name: &'static str,
    /// Flows that lived before it, and after every flow had its turns again.
    pub alive: (usize, usize),
    /// Fresh connections that were opened afterwards, of [`Step::fresh_wanted`].
    pub fresh: usize,
    /// See [`Step::fresh`].
    pub fresh_wanted: usize,
    /// Every living flow got on again in time.
    pub settled: bool,
}

/// The whole run.
#[derive(Debug)]
pub struct Survival {
    /// Events in order.
    pub steps: Vec<Step>,
    /// The flows.
    pub audit: AuditReport,
    /// Servers that died, whose flows may.
    pub dead: Vec<u32>,
    /// Records that reached a server out of order.
    pub disorder: u64,
    /// What the programs counted, in words.
    pub counted: String,
}

/// Runs all events under `load` (its target is set here).
///
/// # Errors
/// When the site cannot be built, a program is refused, or not every flow can be opened at the start.
pub fn survive(hook: Hook, load: Load) -> Result<Survival> {
    let (balancers, homes, pods) = LAYOUT;
    let mut site = Site::new("survive", Layout { balancers, homes, pods, hook })?;
    let load = Load { target: site.target(), ..load };
    let flows = Flows::start(&site.client, load)?;
    let open = flows.wait_open(OPEN).unwrap_or_else(|_| flows.alive());
    if open != load.paced + load.full_speed {
        let why = format!("{open} of {} opened\n{}", load.paced + load.full_speed, site.describe()?);
        return Err(LabError::answer("flows before any event", why));
    }
    let mut dead = Vec::new();
    let mut steps = Vec::new();
    for (name, event) in EVENTS {
        let before = flows.alive();
        dead.extend(event(&mut site)?);
        let settled = turns(&flows, load.every, dead.is_empty());
        let fresh = fresh(&site)?;
        steps.push(Step { name, alive: (before, flows.alive()), fresh, fresh_wanted: FRESH, settled });
    }
    let audit = flows.finish();
    let disorder = site.members.iter().flat_map(|m| &m.pods).map(|pod| pod.server.disorder()).sum();
    Ok(Survival { steps, audit, dead, disorder, counted: site.describe()? })
}

type Event = fn(&mut Site) -> Result<Vec<u32>>;

/// Balancers are nodes 1 to 3, homes 11 to 13, pods are numbered from 0 in their order.
const EVENTS: [(&str, Event); 8] = [
    ("the router spreads all flows anew", |site| site.spread(&[1, 2, 3]).map(|()| Vec::new())),
    ("a balancer dies, all flows are spread anew", |site| {
        site.kill(3)?;
        site.spread(&[1, 2]).map(|()| Vec::new())
    }),
    ("the balancer comes back, all flows are spread anew", |site| {
        site.start(3)?;
        site.spread(&[1, 2, 3]).map(|()| Vec::new())
    }),
    ("a backend drains", |site| {
        site.drain(0);
        site.publish(&[]).map(|()| Vec::new())
    }),
    ("a backend is added", |site| {
        site.add_pod(12)?;
        site.publish(&[]).map(|()| Vec::new())
    }),
    ("a backend is replaced", |site| replace(site, 13, 4)),
    ("its successor is replaced within the drain time", |site| {
        let newest = site.member(13).pods.last().map_or(0, |pod| pod.number);
        replace(site, 13, newest)
    }),
    ("a node with backends dies", |site| {
        let lost = site.member(13).pods.iter().map(|pod| pod.number).collect();
        site.kill(13)?;
        site.publish(&[13])?;
        Ok(lost)
    }),
];

fn replace(site: &mut Site, home: u16, number: u32) -> Result<Vec<u32>> {
    site.add_pod(home)?;
    site.drain(number);
    site.publish(&[])?;
    Ok(Vec::new())
}

/// Waits until every living flow has had two more answers; false when one has not within twelve turns. With dead servers that cannot be
/// waited for: then three turns pass.
fn turns(flows: &Flows, every: Duration, all: bool) -> bool {
    if !all {
        sleep_until(Stamp::now() + every * 3);
        return true;
    }
    let wanted = flows.least() + 2;
    wait_for(every * 12, "two turns of every flow", || (flows.least() >= wanted).then_some(())).is_ok()
}

/// Opens connections and closes them; gives how many came up.
fn fresh(site: &Site) -> Result<usize> {
    let (paced, every) = (FRESH, Duration::from_secs(60));
    let load = Load { target: site.target(), paced, every, full_speed: 0, window: 1 };
    let flows = Flows::start(&site.client, load)?;
    match flows.wait_open(Duration::from_secs(20)) {
        Ok(open) => Ok(open),
        Err(_) => Ok(flows.alive()),
    }
}
