//! What became of the flows.

use std::io::ErrorKind;
use std::time::Duration;

/// How a flow ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It never came up.
    NotOpened(ErrorKind),
    /// The connection failed in its life: reset, timed out.
    Failed(ErrorKind),
    /// The server closed it.
    Closed,
    /// An echo was not the next one: bytes lost, twice, or of another flow.
    Disorder,
    /// Another server answered than the one before.
    OtherServer,
}

/// One flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowOutcome {
    /// The server that holds it, once one has answered.
    pub server: Option<u32>,
    /// Records sent.
    pub sent: u64,
    /// Records that came back.
    pub echoed: u64,
    /// Longest time in which something was under way and nothing came back.
    pub stall: Duration,
    /// How it ended before it was told to.
    pub end: Option<End>,
}

/// All flows.
#[derive(Debug, Clone)]
pub struct AuditReport {
    /// In the order they were opened; flows at full speed come last.
    pub flows: Vec<FlowOutcome>,
    /// Latest that the client itself was with a record, behind its schedule.
    pub late: Duration,
}

impl AuditReport {
    /// Flows that ended although their server, if they had one, is none of `dead`.
    pub fn broken(&self, dead: &[u32]) -> Vec<(usize, FlowOutcome)> {
        let spared = |flow: &FlowOutcome| flow.server.is_some_and(|server| dead.contains(&server));
        self.flows.iter().copied().enumerate().filter(|(_, flow)| flow.end.is_some() && !spared(flow)).collect()
    }

    /// Flows on `server`.
    pub fn on(&self, server: u32) -> usize {
        self.flows.iter().filter(|flow| flow.server == Some(server)).count()
    }

    /// The longest stall of a flow that is not on a `dead` server.
    pub fn longest_stall(&self, dead: &[u32]) -> Duration {
        let alive = self.flows.iter().filter(|flow| !flow.server.is_some_and(|server| dead.contains(&server)));
        alive.map(|flow| flow.stall).max().unwrap_or_default()
    }

    /// Records that came back, all flows.
    pub fn echoed(&self) -> u64 {
        self.flows.iter().map(|flow| flow.echoed).sum()
    }

    /// How the flows outside `dead` ended, counted, for messages.
    pub fn describe(&self, dead: &[u32]) -> String {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for (_, flow) in self.broken(dead) {
            let name = format!("{:?} on server {:?}", flow.end, flow.server);
            match counts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        let lines: Vec<String> = counts.iter().map(|(name, count)| format!("{count} x {name}")).collect();
        format!("{} flows, {} broken: {}", self.flows.len(), self.broken(dead).len(), lines.join(", "))
    }
}
