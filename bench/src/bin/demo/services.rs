//! The services scene: three nodes steer the packets of a VIP to six backends, and everything happens to them that happens in
//! a cluster's life, while 200 connections live.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_bench::run::ALLOWANCE;
use bascule_bench::services::{PROBES, Services, VIP};
use bascule_lab::audit::{AuditReport, End, Flows, Load};
use bascule_lab::{ProbeOptions, Report, Stamp, TcpProber, UdpProber, sleep_until, wait_for};

use crate::{GAP_MS, LOST};

/// Connections that live through all of it, and how often each says something.
const ALIVE: usize = 200;
const EVERY: Duration = Duration::from_millis(200);
/// UDP streams: enough that some backend of every node has one.
const STREAMS: usize = 8;
/// Of each stream, and of the connections that are opened anew.
const ASK: ProbeOptions = ProbeOptions { interval: Duration::from_millis(10), grace: Duration::from_millis(100) };
/// [`TcpProber`] gives a connection up after half a second.
const LAST_ANSWERS: Duration = Duration::from_millis(600);
/// Longest wait for what takes two turns of every connection, or three checks and a retransmission.
const PATIENCE: Duration = Duration::from_secs(20);
/// A client of audited flows that was later than this with its own records says nothing about a stall of [`PLANNED_STALL_MS`].
const FLOWS_ALLOWANCE: Duration = Duration::from_millis(50);
/// A planned event loses nothing, so that nothing waits for a retransmission (200 ms at least, Linux' TCP_RTO_MIN).
const PLANNED_STALL_MS: f64 = 200.0;
/// An outage of [`GAP_MS`] is met by the second retransmission, 600 ms after the packet, or, when the first round trips made the first
/// time-out longer, by one soon after.
const FAULT_STALL_MS: f64 = 1000.0;
/// Packets that look for their flow at a dead node are lost until its endpoints have failed two checks, within 750 ms; the third
/// retransmission, 1.4 s after the packet, comes after that.
const DEATH_STALL_MS: f64 = 2000.0;
const DEATH_GAP_MS: f64 = 1000.0;

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    /// An operator moves the VIP.
    Move,
    /// A backend is told to take nothing new, in the configuration of all nodes.
    Drain,
    /// The owner's daemon is stopped and a new process takes its place.
    Upgrade,
    /// The owner's daemon is killed, is away for two seconds, and comes back.
    Sigkill,
    /// The owner loses its power, and its two backends with it.
    NodeDies,
}

/// In the order they are shown.
const EVENTS: [Event; 5] = [Event::Move, Event::Drain, Event::Upgrade, Event::Sigkill, Event::NodeDies];

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Move => "services: planned move",
            Self::Drain => "services: backend drain",
            Self::Upgrade => "services: daemon upgrade",
            Self::Sigkill => "services: daemon SIGKILL",
            Self::NodeDies => "services: node dies",
        }
    }

    /// Nobody may notice.
    fn planned(self) -> bool {
        matches!(self, Self::Move | Self::Drain | Self::Upgrade)
    }
}

/// Names of its scenes, for who asks for one that does not exist.
pub(crate) fn names() -> Vec<String> {
    EVENTS.iter().map(|event| event.name().to_owned()).collect()
}

/// What an event cost.
struct Seen {
    /// Flows that lived before it and after it.
    alive: (usize, usize),
    /// Flows that ended with their backend, and those that ended although theirs lives.
    own: usize,
    broken: usize,
    /// Records lost, twice or out of order.
    disorder: u64,
    /// Of a flow whose backend lives.
    stall_ms: f64,
    /// Probes of UDP streams that stayed with their backend: lost, and the longest gap; streams that left a living one.
    udp_lost: usize,
    udp_gap_ms: f64,
    udp_moved: usize,
    /// New connections: opened, without an answer within half a second, longest time between two that were answered.
    fresh: usize,
    refused: usize,
    fresh_gap_ms: f64,
    /// How late the probers were, and the client of the flows.
    late: Duration,
    flows_late: Duration,
    evidence: String,
}

/// Everything at work.
struct Stage {
    site: Services,
    flows: Flows,
    streams: Vec<UdpProber>,
    fresh: TcpProber,
    /// Backends that died.
    dead: Vec<u32>,
    drained: usize,
}

/// Plays the scenes whose name is wanted; without one nothing is built.
pub(crate) fn play(report: &mut Report, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let events: Vec<Event> = EVENTS.into_iter().filter(|event| wanted(event.name())).collect();
    if events.is_empty() {
        return Ok(());
    }
    let begun = Stamp::now();
    println!(
        "Three nodes n1, n2, n3 steer 10.9.0.100 to six backends, two on each; {ALIVE} TCP connections and {STREAMS} UDP streams live, \
         100 new connections come a second."
    );
    let mut stage = Stage::start()?;
    println!("n1 owns the address, every backend serves ({:.1} s).\n", Stamp::now().since(begun).as_secs_f64());
    let mut shown = Vec::new();
    for event in events {
        let seen = stage.one(event).with_context(|| event.name())?;
        rows(report, event, &seen);
        println!("{:<25} {}", event.name(), seen.evidence);
        shown.push((event, seen));
    }
    println!("\n{}", table(&shown));
    Ok(())
}

impl Stage {
    fn start() -> Result<Self> {
        let site = Services::start("demo-services", "tc")?;
        let load = Load { target: site.target(), paced: ALIVE, every: EVERY, full_speed: 0, window: 1 };
        let flows = Flows::start(&site.client, load)?;
        let open = flows.wait_open(PATIENCE)?;
        ensure!(open == ALIVE, "{open} of {ALIVE} connections opened");
        let stream = || UdpProber::start(&site.client, VIP.into(), PROBES, ASK);
        let streams = (0..STREAMS).map(|_| stream()).collect::<std::result::Result<Vec<_>, _>>()?;
        let fresh = TcpProber::start(&site.client, VIP.into(), PROBES, ASK)?;
        for stream in &streams {
            stream.wait_answer(PATIENCE, Stamp::now(), None)?;
        }
        Ok(Self { site, flows, streams, fresh, dead: Vec::new(), drained: 0 })
    }

    fn one(&mut self, event: Event) -> Result<Seen> {
        let before = self.flows.window()?;
        let homes: Vec<_> =
            self.streams.iter().map(UdpProber::last_answer).map(|last| last.map(|(by, _)| by)).collect();
        let at = Stamp::now();
        let evidence = self.happen(event)?;
        self.turns()?;
        let end = Stamp::now();
        sleep_until(end + LAST_ANSWERS);
        let after = self.flows.window()?;
        let ended = |report: &AuditReport| report.flows.iter().filter(|flow| flow.end.is_some()).count();
        let broken = |report: &AuditReport| report.broken(&self.dead).len();
        let own = (ended(&after) - broken(&after)) - (ended(&before) - broken(&before));
        let broke = broken(&after) - broken(&before);
        if broke > 0 {
            eprintln!("{}", after.describe(&self.dead));
        }
        let wrong = |report: &AuditReport| {
            let wrong = |end| matches!(end, Some(End::Disorder | End::OtherServer));
            report.flows.iter().filter(|flow| wrong(flow.end)).count() as u64
        };
        let disorder: u64 = self.site.pods.iter().map(|pod| pod.server.disorder()).sum();
        let fresh = self.fresh.snapshot(Stamp(0));
        let (opened, refused) = fresh.lost(at, end);
        let mut seen = Seen {
            alive: (ALIVE - ended(&before), ALIVE - ended(&after)),
            own,
            broken: broke,
            disorder: disorder + wrong(&after),
            stall_ms: after.longest_stall(&self.dead).as_secs_f64() * 1e3,
            udp_lost: 0,
            udp_gap_ms: 0.0,
            udp_moved: 0,
            fresh: opened,
            refused,
            fresh_gap_ms: fresh.longest_gap(at, end).ms(),
            late: fresh.lateness(at, end).worst(),
            flows_late: after.late,
            evidence,
        };
        for (stream, home) in self.streams.iter().zip(homes) {
            let probe = stream.snapshot(Stamp(0));
            seen.late = seen.late.max(probe.lateness(at, end).worst());
            let home = home.context("a stream that nobody ever answered")?;
            if self.dead.contains(&home) {
                continue;
            }
            if probe.answerers(at, end).iter().any(|by| *by != home) {
                seen.udp_moved += 1;
                continue;
            }
            seen.udp_lost += probe.lost(at, end).1;
            seen.udp_gap_ms = seen.udp_gap_ms.max(probe.longest_gap(at, end).ms());
        }
        Ok(seen)
    }

    /// Waits until every living flow has had two more answers.
    fn turns(&self) -> Result<()> {
        let wanted = self.flows.least() + 2;
        let had = wait_for(PATIENCE, "two turns of every connection", || (self.flows.least() >= wanted).then_some(()));
        had.with_context(|| self.flows.look().map_or_else(|e| e.to_string(), |report| report.describe(&self.dead)))
    }

    /// Lets it happen; what showed that it did.
    fn happen(&mut self, event: Event) -> Result<String> {
        let owner = self.site.wait_owner(None)?;
        let name = |n: usize| format!("n{}", n + 1);
        match event {
            Event::Move => {
                let to = (owner + 1) % self.site.nodes.len();
                let sent = self.sent_on(to)?;
                self.site.move_vip(to)?;
                self.turns()?;
                let sent = self.sent_on(to)? - sent;
                ensure!(sent > 0.0, "{} owns the VIP, but sent no packet on", name(to));
                Ok(format!("{} to {}, which has sent on {sent} packets since", name(owner), name(to)))
            }
            Event::Drain => {
                let pod = self.drained;
                self.drained += 1;
                let number = self.site.drain(pod)?;
                let at = Stamp::now();
                self.turns()?;
                let fresh = self.fresh.snapshot(at);
                let takers = fresh.answerers(at, Stamp::now());
                ensure!(!takers.contains(&number), "backend {number} takes new connections");
                ensure!(takers.len() > 1, "only {takers:?} take new connections");
                let flows = self.living_on(number)?;
                ensure!(flows > 0, "no connection lives on backend {number}");
                Ok(format!(
                    "backend {number} takes none of {} new connections and keeps {flows} old ones",
                    fresh.records.len()
                ))
            }
            Event::Upgrade => {
                let old = self.site.daemon(owner)?.process.pid();
                self.site.daemon(owner)?.process.sigterm()?;
                let status = self.site.daemon(owner)?.process.wait(PATIENCE)?;
                ensure!(status.success(), "it did not end by itself: {status}");
                let fresh = self.back(owner)?;
                let to = self.site.wait_owner(Some(owner))?;
                Ok(format!("process {old} of {} gave way to {fresh}, the VIP went to {}", name(owner), name(to)))
            }
            Event::Sigkill => {
                let at = self.site.daemon(owner)?.process.sigkill()?;
                ensure!(!self.site.daemon(owner)?.process.alive(), "it survived SIGKILL");
                let to = self.site.wait_owner(Some(owner))?;
                let served = self.records_of(owner);
                sleep_until(at + Duration::from_secs(2));
                let served = self.records_of(owner) - served;
                ensure!(served > 0, "nothing reached the backends of {}", name(owner));
                self.back(owner)?;
                Ok(format!("the VIP went to {}; {} served {served} records without a daemon", name(to), name(owner)))
            }
            Event::NodeDies => {
                self.dead.extend(self.site.pods_of(owner));
                let flows: usize = self.dead.iter().map(|pod| self.living_on(*pod)).sum::<Result<usize>>()?;
                ensure!(flows > 0, "no connection lives on the backends of {}", name(owner));
                self.site.kill_node(owner)?;
                let to = self.site.wait_owner(Some(owner))?;
                wait_for(PATIENCE, "the flows of its backends to end", || {
                    let left: usize = self.dead.iter().filter_map(|pod| self.living_on(*pod).ok()).sum();
                    (left == 0).then_some(())
                })?;
                Ok(format!(
                    "{} is off, with {flows} connections on its two backends; the VIP went to {}",
                    name(owner),
                    name(to)
                ))
            }
        }
    }

    /// Starts the daemon of a node again; returns when it does its whole work. Gives its process.
    fn back(&mut self, n: usize) -> Result<String> {
        self.site.start_daemon(n)?;
        self.site.wait_role(n, "backup")?;
        self.site.wait_ready(n, self.site.pods.len() - self.drained)?;
        Ok(self.site.daemon(n)?.process.pid().to_string())
    }

    /// Packets that a node sent on to others.
    fn sent_on(&mut self, n: usize) -> Result<f64> {
        let metric = "bascule_forward_verdicts_total{verdict=\"encapsulated\"}";
        self.site.daemon(n)?.metric(metric).with_context(|| format!("{metric} is not there"))
    }

    /// Records that the backends of a node have echoed.
    fn records_of(&self, n: usize) -> u64 {
        let own = self.site.pods_of(n);
        self.site.pods.iter().filter(|pod| own.contains(&pod.number)).map(|pod| pod.server.records()).sum()
    }

    fn living_on(&self, pod: u32) -> Result<usize> {
        let living = |flow: &&bascule_lab::audit::FlowOutcome| flow.server == Some(pod) && flow.end.is_none();
        Ok(self.flows.look()?.flows.iter().filter(living).count())
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of flows and packets")]
fn rows(report: &mut Report, event: Event, seen: &Seen) {
    let scene = event.name();
    report.note(scene, "connections alive before", seen.alive.0 as f64, "connections", 1);
    report.note(scene, "connections alive after", seen.alive.1 as f64, "connections", 1);
    report.note(scene, "connections that ended with their backend", seen.own as f64, "connections", 1);
    report.at_most(scene, "connections reset whose backend lives", seen.broken as f64, "connections", 0.0, 1);
    report.at_most(scene, "records lost, twice or out of order", seen.disorder as f64, "records", 0.0, 1);
    if event == Event::NodeDies {
        // A datagram asks two nodes: a stream whose row has changed twice, by the drain and by the death, is opened anew.
        report.note(scene, "streams that left a living backend", seen.udp_moved as f64, "streams", 1);
    } else {
        report.at_most(scene, "streams that left a living backend", seen.udp_moved as f64, "streams", 0.0, 1);
    }
    report.note(scene, "new connections", seen.fresh as f64, "connections", 1);
    // A client that is late gives up on connections and datagrams that are answered.
    let flows_void = seen.flows_late > FLOWS_ALLOWANCE;
    let void = seen.late > ALLOWANCE || flows_void;
    if event.planned() && !void {
        report.at_most(scene, "new connections refused", seen.refused as f64, "connections", 0.0, 1);
        report.at_most(scene, "UDP packets lost", seen.udp_lost as f64, "packets", LOST, 1);
    } else {
        report.note(scene, "new connections refused", seen.refused as f64, "connections", 1);
        report.note(scene, "UDP packets lost", seen.udp_lost as f64, "packets", 1);
    }
    let (stall, gap) = match event {
        Event::NodeDies => (DEATH_STALL_MS, DEATH_GAP_MS),
        Event::Sigkill => (FAULT_STALL_MS, GAP_MS),
        Event::Move | Event::Drain | Event::Upgrade => (PLANNED_STALL_MS, GAP_MS),
    };
    for (metric, ms, limit, void) in [
        ("longest stall of a connection", seen.stall_ms, stall, flows_void),
        ("longest gap of a UDP stream", seen.udp_gap_ms, gap, seen.late > ALLOWANCE),
        ("longest time without a new connection", seen.fresh_gap_ms, GAP_MS, seen.late > ALLOWANCE),
    ] {
        if void {
            report.note(scene, &format!("{metric} (void: the clients were late)"), ms, "ms", 1);
        } else {
            report.at_most(scene, metric, ms, "ms", limit, 1);
        }
    }
    let late = seen.late.max(seen.flows_late).as_secs_f64() * 1e3;
    report.note(scene, "lateness of the clients", late, "ms", 1);
}

fn table(shown: &[(Event, Seen)]) -> String {
    let mut text = format!(
        "{:<25} {:>12} {:>9} {:>7} {:>9} {:>13} {:>9} {:>11} {:>12} {:>10} {:>8}\n",
        "event",
        "alive",
        "own dead",
        "resets",
        "stall ms",
        "lost records",
        "UDP lost",
        "UDP gap ms",
        "new, refused",
        "new gap ms",
        "late ms"
    );
    for (event, seen) in shown {
        text += &format!(
            "{:<25} {:>12} {:>9} {:>7} {:>9.1} {:>13} {:>9} {:>11.1} {:>12} {:>10.1} {:>8.1}\n",
            event.name(),
            format!("{} -> {}", seen.alive.0, seen.alive.1),
            seen.own,
            seen.broken,
            seen.stall_ms,
            seen.disorder,
            seen.udp_lost,
            seen.udp_gap_ms,
            format!("{}, {}", seen.fresh, seen.refused),
            seen.fresh_gap_ms,
            seen.late.max(seen.flows_late).as_secs_f64() * 1e3
        );
    }
    text + "Stalls and gaps are of connections and streams whose backend lives; own dead: connections that ended with their backend. The nodes \
            share no state of any flow.\n"
}
