//! Packets of clients on their way through a group.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::{Row, Table, fast_range};

use super::node::{DEVICE, clock, maps};
use super::{Group, PORT, VIP};
use crate::forward::model::Verdict;
use crate::forward::text::frame;

/// No packet is handled by more nodes of a site.
const MOST_STEPS: usize = 5;

/// The client.
const CLIENT: [u8; 4] = [198, 51, 100, 7];

/// A connection that a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's port.
    pub port: u16,
    /// The node whose endpoint has it.
    pub home: u16,
}

/// The nodes that a packet saw, in order; at the last one it was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Node ids.
    pub nodes: Vec<u16>,
    /// Nobody knew the packet: an endpoint that never saw the flow answers with a reset.
    pub orphan: bool,
}

impl Group {
    /// Opens `count` flows whose packets come by node `at`.
    ///
    /// # Errors
    /// When a SYN is lost, or the node that took it does not know the flow right after.
    pub fn open(&mut self, at: u16, count: u16) -> Result<()> {
        for port in self.next_port..self.next_port + count {
            let way = self.send(at, port, "S")?;
            ensure!(!way.orphan, "a SYN ends as an orphan");
            let home = *way.nodes.last().context("a node")?;
            let way = self.send(at, port, "A")?;
            ensure!(!way.orphan && way.nodes.last() == Some(&home), "the SYN went to {home}, its ACK by {way:?}");
            self.flows.push(Flow { port, home });
        }
        self.next_port += count;
        Ok(())
    }

    /// Sends a segment of a flow by node `at`; `Err`: it did not reach the flow, and why.
    ///
    /// # Errors
    /// See above.
    pub fn reach(&mut self, flow: Flow, at: u16) -> Result<Way> {
        let way = self.send(at, flow.port, "A")?;
        ensure!(!way.orphan && way.nodes.last() == Some(&flow.home), "{way:?}");
        Ok(way)
    }

    /// Every flow by every node: how many segments were sent, and what became of those that did not reach their flow, as text.
    ///
    /// # Errors
    /// Never; kept out of the text is nothing.
    pub fn audit(&mut self) -> (usize, Vec<(Flow, u16, String)>) {
        let (mut sent, mut lost) = (0, Vec::new());
        for flow in self.flows.clone() {
            for at in self.living() {
                sent += 1;
                if let Err(error) = self.reach(flow, at) {
                    lost.push((flow, at, format!("{error:#}")));
                }
            }
        }
        (sent, lost)
    }

    /// The rows that all nodes have for a flow.
    #[must_use]
    pub fn rows_of(&self, flow: Flow) -> Vec<(u16, Row)> {
        let row = |(id, node): (&u16, &super::node::Node)| {
            let state = &node.state;
            let service = state.services[&1];
            let rows = u32::from(Table::from_word(service.nodes).rows);
            let hash = state.hash(&service, &VipKey::v4(CLIENT), flow.port.to_be());
            (*id, node.row(fast_range(u32::try_from(hash >> 32).unwrap_or_default(), rows)))
        };
        self.nodes.iter().map(row).collect()
    }

    fn send(&mut self, at: u16, port: u16, flags: &str) -> Result<Way> {
        let (client, vip) = (Ipv4Addr::from(CLIENT), Ipv4Addr::from(VIP));
        let text = format!("eth / ip {client} > {vip} / tcp {port} > {PORT} {flags}");
        let mut packet = frame(&text, &maps(at, &[], self.now).1)?;
        let mut way = Way { nodes: Vec::new(), orphan: false };
        let mut next = at;
        for _ in 0..MOST_STEPS {
            way.nodes.push(next);
            let node = self.nodes.get_mut(&next).with_context(|| format!("node {next} has no power: {way:?}"))?;
            let orphans = node.orphans();
            let out = node.state.ingress(&packet, DEVICE, clock(self.now));
            way.orphan = node.orphans() > orphans;
            match out.verdict {
                Verdict::Pass => return Ok(way),
                Verdict::Drop(reason) => bail!("dropped, {}: {way:?}", reason.name()),
                // The last byte of the outer destination is the node's number.
                Verdict::Transmit | Verdict::Redirect(_) => {
                    next = u16::from(*out.frame.get(14 + 19).context("an outer header")?);
                    packet = out.frame;
                }
            }
        }
        bail!("still on its way: {way:?}")
    }
}
