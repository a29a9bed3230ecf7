//! Everything that may happen to a site while flows live, one thing after another: what the forwarding plane is for.
//!
//! Show 3 of issue 4 in any size: the benches run it with 10,000 flows, tests with 200. What is put through it is a [`Stage`]: a site whose
//! maps the lab writes ([`survive`]), or one of real daemons.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::ledger::{Counted, ENCAPSULATION};
use super::{Hook, Layout, Site};
use crate::audit::{AuditReport, Flows, Load};
use crate::{LabError, Netns, Result, wait_for};

/// Connections opened after each event, to see that new flows find a backend.
const FRESH: usize = 16;
/// How long opening may take on a busy machine.
const OPEN: Duration = Duration::from_secs(240);
/// Three balancers, and six backends on three nodes.
const LAYOUT: (u16, u16, u16) = (3, 3, 2);

/// Where flows live and things happen.
pub trait Stage {
    /// Where clients stand.
    fn client(&self) -> &Netns;
    /// Where they connect to.
    fn target(&self) -> SocketAddrV4;
    /// Records that reached a server out of order.
    fn disorder(&self) -> u64;
    /// What the nodes sent, by class.
    ///
    /// # Errors
    /// When it cannot be read.
    fn traffic(&self) -> Result<Vec<Counted>>;
    /// What the programs counted, in words.
    ///
    /// # Errors
    /// When it cannot be read.
    fn describe(&self) -> Result<String>;
}

/// What happens: its name, and what does it, which gives the numbers of the backends that died of it.
pub type Event<S> = (&'static str, fn(&mut S) -> Result<Vec<u32>>);

/// What one event did.
#[derive(Debug, Clone)]
pub struct Step {
    /// The event.
    pub name: &'static str,
    /// Flows that lived before it, and after every flow had its turns again.
    pub alive: (usize, usize),
    /// Flows that have ended until then although their backend lives.
    pub broken: usize,
    /// The longest stall of a slow flow until then, since the start.
    pub stall: Duration,
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
    /// What the nodes sent, by class.
    pub traffic: Vec<Counted>,
    /// Encapsulated frames beyond the packets of clients that programs have sent on; None where it is not known.
    pub untold: Option<u64>,
    /// What the programs counted, in words.
    pub counted: String,
}

impl Survival {
    /// What the nodes sent of one class.
    pub fn class(&self, name: &str) -> Counted {
        let none = || Counted { class: name.to_owned(), packets: 0, bytes: 0 };
        self.traffic.iter().find(|counted| counted.class == name).cloned().unwrap_or_else(none)
    }
}

impl Stage for Site {
    fn client(&self) -> &Netns {
        &self.client
    }

    fn target(&self) -> SocketAddrV4 {
        Self::target(self)
    }

    fn disorder(&self) -> u64 {
        self.members.iter().flat_map(|m| &m.pods).map(|pod| pod.server.disorder()).sum()
    }

    fn traffic(&self) -> Result<Vec<Counted>> {
        Self::traffic(self)
    }

    fn describe(&self) -> Result<String> {
        Self::describe(self)
    }
}

/// Runs all events under `load` (its target is set here) on a site whose maps the lab writes.
///
/// # Errors
/// When the site cannot be built, a program is refused, or not every flow can be opened at the start.
pub fn survive(hook: Hook, load: Load) -> Result<Survival> {
    let (balancers, homes, pods) = LAYOUT;
    let mut site = Site::new("survive", Layout { balancers, homes, pods, hook })?;
    let mut survival = run(&mut site, load, &EVENTS)?;
    // The ledger was read first: a frame that it has, its program has counted.
    survival.untold = Some(survival.class(ENCAPSULATION).packets.saturating_sub(site.sent_on()?));
    Ok(survival)
}

/// Opens the flows of `load` (its target is set here) and lets `events` happen, one after another.
///
/// # Errors
/// When not every flow can be opened at the start, or an event cannot be made to happen.
pub(super) fn run<S: Stage>(stage: &mut S, load: Load, events: &[Event<S>]) -> Result<Survival> {
    let load = Load { target: stage.target(), ..load };
    let flows = Flows::start(stage.client(), load)?;
    let open = flows.wait_open(OPEN).unwrap_or_else(|_| flows.alive());
    if open != load.paced + load.full_speed {
        let why = format!("{open} of {} opened\n{}", load.paced + load.full_speed, stage.describe()?);
        return Err(LabError::answer("flows before any event", why));
    }
    let mut dead = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    for (name, event) in events {
        let before = flows.alive();
        let lost = event(stage)?;
        flows.excuse(&lost);
        dead.extend(lost);
        let settled = turns(&flows, load.every);
        let (fresh, broken) = (fresh(stage)?, flows.broken());
        let (alive, stall) = ((before, flows.alive()), flows.stall());
        let step = Step { name, alive, broken, stall, fresh, fresh_wanted: FRESH, settled };
        eprintln!("{step:?}");
        steps.push(step);
    }
    let audit = flows.finish();
    let (traffic, disorder, counted) = (stage.traffic()?, stage.disorder(), stage.describe()?);
    Ok(Survival { steps, audit, dead, disorder, traffic, untold: None, counted })
}

/// Balancers are nodes 1 to 3, homes 11 to 13, pods are numbered from 0 in their order.
const EVENTS: [Event<Site>; 8] = [
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

/// Waits until every flow whose server lives has had two more answers; false when one has not within twelve turns.
fn turns(flows: &Flows, every: Duration) -> bool {
    let wanted = flows.least() + 2;
    wait_for(every * 12, "two turns of every flow", || (flows.least() >= wanted).then_some(())).is_ok()
}

/// Opens connections and closes them; gives how many came up.
fn fresh<S: Stage>(stage: &S) -> Result<usize> {
    let (paced, every) = (FRESH, Duration::from_secs(60));
    let load = Load { target: stage.target(), paced, every, full_speed: 0, window: 1 };
    let flows = Flows::start(stage.client(), load)?;
    match flows.wait_open(Duration::from_secs(20)) {
        Ok(open) => Ok(open),
        Err(_) => Ok(flows.alive()),
    }
}
