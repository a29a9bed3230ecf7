//! An ICMP error on its way through a group of nodes: what one node sends, the next one receives, until it is delivered or lost.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::judge::{Shown, hex};
use super::model::{Clock, Verdict};
use super::text::{World, frame};

/// Nodes of the group, numbered from 1. Node 4 is reached over IPv6.
pub const NODES: u16 = 5;
/// No chain is longer: three nodes of a row, a look ahead, and where it arrived.
const MOST_STEPS: usize = 5;
/// Nodes that hold the flows one after the other, as the tables change: the first is the home before any change.
const HOMES: [u16; 3] = [2, 4, 3];

/// One flow of an endpoint, and how the tables changed since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// IPv6.
    pub v6: bool,
    /// TCP, else UDP.
    pub tcp: bool,
    /// Known by its half-open entry only.
    pub half: bool,
    /// Changes of the table over nodes, at most 2.
    pub node_changes: usize,
    /// Changes of the owner's table over its endpoints, at most 2.
    pub local_changes: usize,
    /// The home in which the flow was opened: that of the table so many changes ago.
    pub opened: usize,
    /// The node where the error arrives has not seen the last change yet.
    pub late: bool,
}

/// The cases: every place a flow may have in a row, over both tables. `late` ones need a change to be late for.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for bits in 0..16 {
        let [v6, tcp, half, late] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
        for node_changes in 0..3 {
            for local_changes in 0..3 {
                for opened in 0..=node_changes {
                    let case = Case { v6, tcp, half, node_changes, local_changes, opened, late };
                    if (tcp || !half) && (!late || node_changes > 0) {
                        all.push(case);
                    }
                }
            }
        }
    }
    all
}

struct Names {
    service: u16,
    vip: &'static str,
    port: u16,
    client: &'static str,
    router: &'static str,
    endpoint: &'static str,
    endpoint_port: u16,
    protocol: &'static str,
}

impl Case {
    fn names(self) -> Names {
        let (vip, client, router, endpoint) = if self.v6 {
            ("2001:db8:a::10", "2001:db8:c::7", "2001:db8:f::1", "fd01::77")
        } else {
            ("192.0.2.10", "198.51.100.7", "203.0.113.1", "10.1.0.77")
        };
        let (port, endpoint_port, protocol) = if self.tcp { (80, 8080, "tcp") } else { (53, 5353, "udp") };
        let service = 1 + u16::from(!self.tcp) + 2 * u16::from(self.v6);
        Names { service, vip, port, client, router, endpoint, endpoint_port, protocol }
    }

    /// The node whose endpoint has the flow.
    #[must_use]
    pub fn owner(self) -> u16 {
        HOMES[self.node_changes - self.opened]
    }

    /// Can the error be expected to arrive? Not where nobody on its way has the table that names the flow's node: it arrived late at
    /// the very node that is all of the late row. (For UDP only the last one that is asked looks ahead, and it is the same where that is the last.)
    #[must_use]
    pub fn reaches(self, at: u16) -> bool {
        let alone = self.node_changes == 1 || !self.tcp;
        !(self.late && self.opened == 0 && at == HOMES[0] && alone)
    }

    /// The world of node `id`; `late` as of the one where the error arrives.
    fn world(
        self,
        id: u16,
        arrives: bool,
        base: &Path,
        now: Clock,
        ground: &(Vec<(String, u32)>, i32),
    ) -> Result<World> {
        let n = self.names();
        let mut world = World::new(now, ground.0.clone(), ground.1);
        world.read(base)?;
        let mut lines = vec![format!("config node {id} address4 10.0.0.{id} address6 fd00::{id:x}")];
        for other in 1..=NODES {
            let at = if other == 4 { "fd00::4".to_owned() } else { format!("10.0.0.{other}") };
            lines.push(format!(
                "node {other} at {at} dev up mac 02:00:00:00:00:11 next 02:00:00:00:00:0{other} mtu 1600"
            ));
            lines.push(format!("peer 10.0.0.{other} {other}"));
            lines.push(format!("peer fd00::{other:x} {other}"));
        }
        let row = n.service - 1;
        let seen = self.node_changes - usize::from(self.late && arrives);
        let place = |back: usize| if seen >= back { HOMES[seen - back] } else { 0 };
        lines.push(format!("row {row} {} {} {} age 5", place(0), place(1), place(2)));
        // The endpoint with the flow, and those that came after it.
        for (slot, last) in [(50, "77"), (51, "78"), (52, "79")] {
            let address = format!("{}{last}", n.endpoint.trim_end_matches("77"));
            lines.push(format!("endpoint {slot} [{address}]:{}/{} service {}", n.endpoint_port, n.protocol, n.service));
        }
        let local = ["50 0 0", "51 50 0", "52 51 50"][self.local_changes];
        lines.push(format!("row {} {local} age 5", 1000 + row));
        if id == self.owner() {
            let entry = if self.half { "half" } else { "flow" };
            lines.push(format!(
                "{entry} [{}]:40000 [{}]:{}/{} vip [{}]:{} service {} endpoint 50",
                n.client, n.endpoint, n.endpoint_port, n.protocol, n.vip, n.port, n.service
            ));
        }
        for line in &lines {
            world.line(line).with_context(|| line.clone())?;
        }
        Ok(world)
    }

    /// The error about a packet that `source` sent to the client, addressed to it.
    fn error(self, source: &str, port: u16, ttl: u8) -> String {
        let n = self.names();
        let (kind, cut) = if self.v6 { ("icmp6 2 0 rest 1400", 48) } else { ("icmp 3 4 rest 1400", 28) };
        let upper =
            if self.tcp { format!("tcp {port} > 40000 A seq 77") } else { format!("udp {port} > 40000 / text x") };
        format!(
            "eth / ip {} > {source} ttl {ttl} / {kind} / trunc {cut} / ip {source} > {} ttl 60 / {upper}",
            n.router, n.client
        )
    }
}

/// Lets an error arrive at node `at` and follows it; `step` runs one frame in a world. Gives how many nodes it saw.
///
/// # Errors
/// Where it was lost, or what is wrong with what was delivered.
pub fn walk(
    case: Case,
    at: u16,
    base: &Path,
    now: Clock,
    ground: &(Vec<(String, u32)>, i32),
    mut step: impl FnMut(&World, u32, &[u8]) -> Result<(Shown, Vec<u8>)>,
) -> Result<usize> {
    let n = case.names();
    let mut node = at;
    let mut packet = Vec::new();
    for steps in 1..=MOST_STEPS {
        let world = case.world(node, node == at, base, now, ground)?;
        if steps == 1 {
            packet = frame(&case.error(n.vip, n.port, 64), &world.keys())?;
        }
        let (shown, out) = step(&world, world.device("up")?, &packet)?;
        match shown {
            Shown::Pass => {
                // The node where it arrived is a router to it, unless it delivers.
                let ttl = if steps == 1 { 64 } else { 63 };
                let want = frame(&case.error(n.endpoint, n.endpoint_port, ttl), &world.keys())?;
                ensure!(node == case.owner(), "delivered at node {node}, the flow is at {}", case.owner());
                ensure!(out[14..] == want[14..], "delivered\n  {}, not\n  {}", hex(&out), hex(&want));
                return Ok(steps);
            }
            Shown::Drop => bail!("lost at node {node}, the {steps}. on the way"),
            Shown::Transmit | Shown::Redirect | Shown::Sent => {
                // The last byte of the outer destination is the node's number.
                let last = if out[12..14] == [0x08, 0x00] { 14 + 19 } else { 14 + 39 };
                node = u16::from(*out.get(last).context("an outer header")?);
                packet = out;
            }
        }
    }
    bail!("still on its way after {MOST_STEPS} nodes")
}

/// The reference model's step.
///
/// # Errors
/// None.
pub fn by_model(world: &World, device: u32, packet: &[u8]) -> Result<(Shown, Vec<u8>)> {
    let out = world.state.clone().ingress(packet, device, world.now);
    let shown = match out.verdict {
        Verdict::Pass => Shown::Pass,
        Verdict::Drop(_) => Shown::Drop,
        Verdict::Transmit => Shown::Transmit,
        Verdict::Redirect(_) => Shown::Redirect,
    };
    Ok((shown, out.frame))
}
