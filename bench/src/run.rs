//! One failover, measured by a client that probes 1,000 times a second.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::{
    Direction, Filter, Lab, Lateness, Netns, ProbeOptions, Sniffer, Stamp, UdpProber, sleep_until, wait_for,
};

use crate::group::Group;
use crate::node::SERVICE;

/// A run in which the prober or a service was later than this is void: platform.md's noise floor of the prober is 12 ms.
pub const ALLOWANCE: Duration = Duration::from_millis(10);
/// After the VIP is served again, what goes on being lost belongs to the failover.
const TAIL: Duration = Duration::from_millis(300);
/// Longest wait for an answer, beside four intervals.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for a daemon's end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// More unplanned changes than this before one run, and the daemon cannot hold the VIP at all.
const UNPLANNED_MAX: usize = 3;

/// How the owner goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its cable is cut silently: the carrier stays.
    Cut,
    /// Its daemon gets SIGTERM.
    Stop,
}

impl Fault {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Stop => "stop",
        }
    }
}

/// What one failover cost.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Longest time without an answer, ms.
    pub gap_ms: f64,
    /// Probes that were never answered.
    pub lost: usize,
    /// Last advert of the owner that the LAN carried -> first announcement of the successor, ms.
    pub detect_ms: f64,
    /// How late the prober and the services were, at most.
    pub late: Duration,
    /// Frames by which the former owner claimed the VIP after its successor's first announcement.
    pub dual: usize,
    /// How often the first node had lost the VIP since the run before, without a fault of ours: the daemon or the machine was held up.
    pub unplanned: usize,
}

impl Outcome {
    /// The meter itself was too late for this run to say anything.
    pub fn void(&self) -> bool {
        self.late > ALLOWANCE
    }
}

/// Where failovers are measured.
pub struct Stage<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Where the prober stands.
    pub client: &'a Netns,
    /// What sees every frame.
    pub sniffer: &'a Sniffer,
}

impl Stage<'_> {
    /// Lets the first node of `group` own the VIP, and measures its failover to the second. `phase` (0 to 1) is the part of an advert
    /// interval after an advert at which a cut comes, as near as starting nft allows. Afterwards the first node owns again.
    ///
    /// # Errors
    /// When a role does not come or the fault did not happen.
    pub fn failover(&self, group: &mut Group, fault: Fault, phase: f64) -> Result<Outcome> {
        let unplanned = self.settle(group)?;
        let ids = [group.nodes[0].id, group.nodes[1].id];
        // Who lost a dispute without hearing of it has not announced: the client may still ask the loser (seen with keepalived).
        self.client.tool("ip", &["neigh", "flush", "dev", "eth0"])?;
        let options = ProbeOptions::default();
        let prober = UdpProber::start(self.client, group.vip, SERVICE, options)?;
        prober.wait_answer(PATIENCE, Stamp::now(), Some(ids[0]))?;
        let begun = Stamp::now();
        sleep_until(begun + Duration::from_millis(100));
        for node in &group.nodes {
            node.responder.take_lateness();
        }
        self.wait_phase(group, phase)?;
        let deadline = PATIENCE + group.interval * 5;
        let (faulted, cut) = match fault {
            Fault::Cut => {
                let cut = group.nodes[0].port.cut(Direction::Both, Filter::All)?;
                (cut.since, Some(cut))
            }
            Fault::Stop => (group.nodes[0].process()?.sigterm()?, None),
        };
        let back = prober.wait_answer(deadline, faulted, Some(ids[1])).map(|_| Stamp::now());
        let back = back.with_context(|| self.postmortem(group, "the successor does not answer"))?;
        sleep_until(back + TAIL);
        let end = Stamp::now();
        let probe = prober.finish();
        let late = group.nodes.iter().map(|n| n.responder.take_lateness()).max().unwrap_or_default();
        let Lateness { send, receive } = probe.lateness(faulted - Duration::from_millis(20), end);
        let gap = probe.longest_gap(faulted, back);
        let outcome = Outcome {
            gap_ms: gap.ms(),
            lost: probe.lost(faulted - Duration::from_millis(20), end).1,
            detect_ms: self.detection(group, faulted)?,
            late: late.max(send).max(receive),
            dual: self.dual(group, faulted, end)?,
            unplanned,
        };
        match cut {
            Some(cut) => {
                let dropped = cut.heal()?;
                ensure!(dropped > 0, "the cut dropped nothing");
            }
            None => self.hand_back(group)?,
        }
        Ok(outcome)
    }

    /// Waits until the first node owns the VIP alone. One that lost it to a stall between two runs gets it back by a stop of the other;
    /// how often that was needed is what this returns.
    fn settle(&self, group: &mut Group) -> Result<usize> {
        let mut lost = 0;
        loop {
            let Err(error) = group.wait_owner(self.sniffer, 0) else { return Ok(lost) };
            let changed = group.nodes[0].role().as_deref() == Some("backup")
                && group.nodes[1].role().as_deref() == Some("active");
            if !changed || lost == UNPLANNED_MAX {
                return Err(error);
            }
            lost += 1;
            eprintln!("{}: the first node lost the VIP between two runs; it gets it back", group.kind.name());
            group.nodes[1].terminate()?;
            self.replace_second(group)?;
        }
    }

    /// The second node has ended: the first takes over, then the second comes back as a Backup.
    fn replace_second(&self, group: &mut Group) -> Result<()> {
        group.wait_role(0, "active")?;
        group.nodes[1].start(self.lab)?;
        group.wait_role(1, "backup")
    }

    /// Sleeps until `phase` of an interval after an advert, less what starting nft takes.
    fn wait_phase(&self, group: &Group, phase: f64) -> Result<()> {
        let owner = group.nodes[0].port.mac();
        let since = Stamp::now() - group.interval * 2;
        let last = wait_for(PATIENCE, "an advert of the owner", || {
            self.sniffer.adverts(group.vrid, since).into_iter().rfind(|f| f.src == owner)
        })?;
        // Measured: nft needs 10 ms idle and 30 ms beside busy cores.
        let lead = Duration::from_millis(15);
        let mut at = last.at + group.interval.mul_f64(phase);
        while at < Stamp::now() + lead {
            at = at + group.interval;
        }
        sleep_until(at - lead);
        Ok(())
    }

    fn detection(&self, group: &Group, faulted: Stamp) -> Result<f64> {
        let (owner, successor) = (group.nodes[0].port.mac(), group.nodes[1].port.mac());
        let first = self.sniffer.first_announcement(group.vip, faulted, |mac| mac == successor);
        let first = first.context("the successor serves but has announced nothing")?;
        let window = faulted - group.interval * 3;
        let heard = |f: &bascule_lab::Frame| {
            f.src == owner
                && f.at < first.at
                && matches!(f.kind, bascule_lab::Kind::Vrrp { vrid, .. } if vrid == group.vrid)
        };
        let last = self.sniffer.carried(window, heard).into_iter().last().context("no advert before the fault")?;
        Ok(first.at.since(last.at).as_secs_f64() * 1e3)
    }

    fn dual(&self, group: &Group, faulted: Stamp, end: Stamp) -> Result<usize> {
        let successor = group.nodes[1].port.mac();
        let first = self.sniffer.first_announcement(group.vip, faulted, |mac| mac == successor);
        let first = first.context("the successor has announced nothing")?;
        Ok(self.sniffer.dual_frames(group.vip, successor, first.at, end, None).claims.len())
    }

    /// After a stop: the first node comes back as a Backup, the second stops in its turn and comes back.
    fn hand_back(&self, group: &mut Group) -> Result<()> {
        group.nodes[0].process()?.wait(STOP_PATIENCE).context("the first node after SIGTERM")?;
        group.nodes[0].start(self.lab)?;
        group.wait_role(0, "backup")?;
        group.nodes[1].terminate().context("the second node after SIGTERM")?;
        self.replace_second(group)
    }

    /// What both daemons said last, for a report of `what` went wrong.
    pub fn postmortem(&self, group: &mut Group, what: &str) -> String {
        let tails: Vec<String> =
            group.nodes.iter().map(|n| format!("--- {} ends:\n{}", n.netns.name(), n.tail())).collect();
        format!("{}: {what}\n{}", group.kind.name(), tails.join("\n"))
    }
}
