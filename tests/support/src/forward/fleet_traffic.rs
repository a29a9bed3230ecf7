//! Traffic over a fleet that must not lose anything, and what came of it.

use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use super::fleet::{FLEET_VIP, Fleet, TCP, UDP};
use crate::audit::{Flows, Load};
use crate::{LabError, ProbeOptions, Result, Stamp, UdpProber};

/// Traffic that must not lose anything.
pub struct Traffic {
    probers: Vec<UdpProber>,
    flows: Flows,
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
}

impl Fleet {
    /// Starts `probers` UDP probers, a datagram each 5 ms, and `flows` TCP flows, a record each 100 ms, and one more at full speed. All of them are answered before
    /// this returns.
    ///
    /// # Errors
    /// When a flow does not open.
    pub fn traffic(&self, probers: usize, flows: usize) -> Result<Traffic> {
        let options = ProbeOptions { interval: Duration::from_millis(5), grace: Duration::from_secs(1) };
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
        Ok(Traffic { probers, flows: running })
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

impl Traffic {
    /// Ends it and counts.
    pub fn finish(self) -> Toll {
        let mut toll = Toll {
            datagrams: (0, 0),
            lost_at: Vec::new(),
            gap_ms: 0.0,
            broken: Vec::new(),
            echoed: 0,
            stall_ms: 0.0,
            late_ms: 0.0,
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
        toll
    }
}
