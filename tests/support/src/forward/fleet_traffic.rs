//! Traffic over a fleet that must not lose anything, and what came of it.

use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use super::fleet::{FLEET_VIP, Fleet, TCP, UDP};
use crate::audit::{Flows, Load};
use crate::{LabError, Netns, ProbeOptions, Result, Stamp, UdpProber, queues};

/// Traffic that must not lose anything.
pub struct Traffic {
    probers: Vec<UdpProber>,
    flows: Flows,
    /// What runs through the lab's own queues, and what they had dropped as it began.
    netns: Vec<Netns>,
    dropped: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Toll {
    /// Datagrams sent, and those whose answer never came.
    pub datagrams: (usize, usize),
    /// When the lost ones were due.
    pub lost_at: Vec<Stamp>,
    /// The longest time in which one prober heard nothing, milliseconds.
    pub gap_ms: f64,
    /// TCP flows that ended, and why.
    pub broken: Vec<String>,
    /// Records that came back over them.
    pub echoed: u64,
    /// The longest stall of a TCP flow, milliseconds. A lost segment costs 200 ms at least (RFC 6298 with Linux' minimum).
    pub stall_ms: f64,
    /// How late the probers and the TCP client were themselves, milliseconds.
    pub late_ms: f64,
    /// Packets of anybody that full queues of the lab and of the machine dropped meanwhile.
    pub queue_drops: u64,
}

impl Toll {
    /// Whether datagrams were lost while queues of the lab overflowed: no verdict then, the run is to be repeated.
    pub fn void(&self) -> bool {
        self.datagrams.1 > 0 && self.queue_drops > 0
    }
}

impl Fleet {
    /// Starts `probers` UDP probers, a datagram each 5 ms, and `flows` TCP flows, a record each 100 ms, and one more at full speed. All of them are answered before
    /// this returns.
    ///
    /// # Errors
    /// When a flow does not open.
    pub fn traffic(&self, probers: usize, flows: usize) -> Result<Traffic> {
        let options = ProbeOptions { interval: Duration::from_millis(5), grace: Duration::from_secs(1) };
        let nodes = self.crew.nodes.iter().map(|node| node.netns.clone());
        let netns: Vec<Netns> = nodes.chain([self.client.clone(), self.crew.ground.lan.netns().clone()]).collect();
        let dropped = queues::dropped(&netns)?;
        let probers: Vec<UdpProber> = (0..probers)
            .map(|_| UdpProber::start(&self.client, IpAddr::V4(FLEET_VIP), UDP.0, options))
            .collect::<Result<_>>()?;
        for prober in &probers {
            prober.wait_answer(Duration::from_secs(10), Stamp(0), None)?;
        }
        let load = self.load(flows);
        let running = Flows::start(&self.client, load)?;
        let open = running.wait_open(Duration::from_secs(30))?;
        if open != load.paced + load.full_speed {
            return Err(LabError::answer("flows of the audit", format!("{open} of {flows} opened")));
        }
        Ok(Traffic { probers, flows: running, netns, dropped })
    }

    fn load(&self, paced: usize) -> Load {
        let target = SocketAddrV4::new(FLEET_VIP, TCP.0);
        Load { target, paced, every: Duration::from_millis(100), full_speed: 1, window: 1 }
    }

    /// Opens `count` new TCP connections and closes them; gives how many had an answer.
    ///
    /// # Errors
    /// When the event queue cannot be made.
    pub fn fresh(&self, count: usize) -> Result<usize> {
        let load = Load { full_speed: 0, ..self.load(count) };
        let flows = Flows::start(&self.client, load)?;
        match flows.wait_open(Duration::from_secs(10)) {
            Ok(open) => Ok(open),
            Err(_) => Ok(flows.alive()),
        }
    }
}

/// Runs again what was void, twice at most; then the last toll counts as it is. What else a run gives comes back beside its toll.
///
/// # Errors
/// Those of `run`.
pub fn unless_void<T, E>(
    mut run: impl FnMut() -> std::result::Result<(T, Toll), E>,
) -> std::result::Result<(T, Toll), E> {
    for _ in 0..2 {
        let (found, toll) = run()?;
        if !toll.void() {
            return Ok((found, toll));
        }
        println!("void, again: {toll:?}");
    }
    run()
}

impl Traffic {
    /// How late the probers were with what was due in this time.
    pub fn late(&self, from: Stamp, until: Stamp) -> Duration {
        let late = |prober: &UdpProber| prober.snapshot(from).lateness(from, until).worst();
        self.probers.iter().map(late).max().unwrap_or_default()
    }

    /// Ends it and counts.
    ///
    /// # Errors
    /// When the counters of the machine's queues cannot be read.
    pub fn finish(self) -> Result<Toll> {
        let mut toll = Toll {
            datagrams: (0, 0),
            lost_at: Vec::new(),
            gap_ms: 0.0,
            broken: Vec::new(),
            echoed: 0,
            stall_ms: 0.0,
            late_ms: 0.0,
            queue_drops: 0,
        };
        let audit = self.flows.finish();
        let ends = (Stamp(0), Stamp(u64::MAX));
        for prober in self.probers {
            let probe = prober.finish();
            let (sent, lost) = probe.lost(ends.0, ends.1);
            toll.datagrams = (toll.datagrams.0 + sent, toll.datagrams.1 + lost);
            toll.lost_at
                .extend(probe.records.iter().filter(|record| record.answered.is_none()).map(|record| record.due));
            let heard = || probe.records.iter().filter_map(|record| Some(record.answered?.0));
            if let (Some(first), Some(last)) = (heard().min(), heard().max()) {
                toll.gap_ms = toll.gap_ms.max(probe.longest_gap(first, last).ms());
            }
            toll.late_ms = toll.late_ms.max(probe.lateness(ends.0, ends.1).worst().as_secs_f64() * 1e3);
        }
        toll.broken = audit.broken(&[]).iter().map(|(index, flow)| format!("{index}: {:?}", flow.end)).collect();
        toll.echoed = audit.echoed();
        toll.stall_ms = audit.longest_stall(&[]).as_secs_f64() * 1e3;
        toll.late_ms = toll.late_ms.max(audit.late.as_secs_f64() * 1e3);
        toll.queue_drops = queues::dropped(&self.netns)? - self.dropped;
        Ok(toll)
    }
}
