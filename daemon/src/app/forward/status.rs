//! The snapshot of the room for people and metrics.

use bascule_core::balance::absent::NodeState;
use bascule_core::balance::io::Report;
use bascule_core::balance::status::BalanceStatus;
use bascule_ebpf_common::forward::{PacketDrop, Tally};
use tracing::{info, warn};

use super::Room;
use crate::dataplane::forward::{Forward, ForwardError, probes};
use crate::handle::forward::{CheckView, EndpointTraffic, ForwardStatus, NodeView, ServiceTraffic, Standing};

impl Room {
    pub(super) fn status(&self) -> ForwardStatus {
        let mut status = ForwardStatus {
            on: self.plane.forward().is_some() && self.plane.this().is_some(),
            conditions: self.plane.conditions(),
            devices: self.plane.standings.values().map(asked).collect(),
            healed: self.plane.healed,
            inside: self.plane.forward().map(|forward| forward.inside().collect()).unwrap_or_default(),
            ..ForwardStatus::default()
        };
        let this = self.plane.this();
        status.nodes = self
            .plane
            .nodes()
            .map(|(node, up)| {
                let (state, why) = self.plane.balancer.node_state(&node.name);
                NodeView {
                    name: node.name.clone(),
                    id: node.id,
                    this: Some(node.name.as_str()) == this,
                    up,
                    state: state.as_str(),
                    why,
                }
            })
            .collect();
        status.checks = self
            .checks
            .iter()
            .map(|(id, check)| CheckView {
                service: check.service.clone(),
                endpoint: id.endpoint.clone(),
                up: check.is_up(),
                detail: check.detail().to_owned(),
                passed: check.passed,
                failed: check.failed,
            })
            .collect();
        if let Some(forward) = self.plane.forward() {
            let balance = self.plane.balancer.status();
            if let Err(error) = counted(forward, &balance, &mut status) {
                status.conditions.push(format!("counters cannot be read: {error}"));
            }
            status.balance = Some(balance);
        }
        status.term_drops = self.plane.terms.drops().unwrap_or_default();
        status
    }
}

/// With what can change without us, asked now.
fn asked(standing: &Standing) -> Standing {
    Standing { probes: probes(standing), ..standing.clone() }
}

fn counted(forward: &Forward, balance: &BalanceStatus, status: &mut ForwardStatus) -> Result<(), ForwardError> {
    status.keys = Some(forward.keys()?);
    let tallies = forward.tallies()?;
    status.drops = PacketDrop::ALL.iter().map(|reason| (reason.name(), tallies.drops(*reason))).collect();
    status.verdicts = Tally::ALL.iter().map(|tally| (tally.name(), tallies.tally(*tally))).collect();
    status.hops = tallies.hops.to_vec();
    (status.flows, status.half_open) = forward.fill()?;
    for service in &balance.services {
        let s = forward.service_stats(service.slot.0)?;
        status.services.push(ServiceTraffic {
            service: service.name.clone(),
            packets: s.packets,
            bytes: s.bytes,
            new_flows: s.new_flows,
            orphans: s.orphans,
        });
        for endpoint in &service.endpoints {
            let Some(slot) = endpoint.slot else { continue };
            let e = forward.endpoint_stats(slot.0)?;
            status.endpoints.push(EndpointTraffic {
                service: service.name.clone(),
                endpoint: endpoint.name.clone(),
                packets: e.packets,
                bytes: e.bytes,
                replies: e.replies,
                reply_bytes: e.reply_bytes,
                syns: e.syns,
                syn_acks: e.syn_acks,
                resets: e.resets,
                new_flows: e.new_flows,
            });
        }
    }
    Ok(())
}

/// One line for each report of the balancer.
pub(super) fn tell(report: &Report) {
    match report {
        Report::SlabFull { service, rows } => warn!(%service, rows, "no room for a table: the old one stays"),
        Report::NoSlot { service } => warn!(%service, "no slot left for a service or an endpoint"),
        Report::Recovered { service } => info!(%service, "there is room for its tables again"),
        Report::Forgotten { service, rows } => {
            warn!(%service, rows, "a third home within the drain time: connections at the oldest one break when they come by these rows");
        }
        Report::Delegated { service, endpoints: 0 } => {
            info!(%service, "our programs deliver to all endpoints here again")
        }
        Report::Delegated { service, endpoints } => {
            warn!(%service, endpoints, "the network namespace of endpoints here is not found: the stack delivers to them");
        }
        Report::AllUnready { service, kept } => warn!(%service, kept, "no endpoint is ready"),
        Report::Flapping { service, endpoint } => {
            warn!(%service, endpoint, "held unready: it changes its mind too often")
        }
        Report::Node { node, state: NodeState::Up, .. } => info!(node, "the node is up"),
        Report::Node { node, state: NodeState::Vouched, why } => {
            warn!(node, why, "the node takes no new flows: its programs forward those it has");
        }
        Report::Node { node, state: NodeState::Dead, why } => warn!(node, why, "the node is dead: packets skip it"),
    }
}
