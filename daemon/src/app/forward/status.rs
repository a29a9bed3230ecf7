//! The snapshot of the room for people and metrics.

use bascule_core::balance::status::BalanceStatus;
use bascule_ebpf_common::forward::{PacketDrop, Tally};

use super::Room;
use crate::dataplane::forward::{Forward, ForwardError};
use crate::handle::forward::{CheckView, EndpointTraffic, ForwardStatus, NodeView, ServiceTraffic};

impl Room {
    pub(super) fn status(&self) -> ForwardStatus {
        let mut status = ForwardStatus {
            on: self.plane.forward().is_some() && self.plane.this().is_some(),
            conditions: self.plane.conditions(),
            devices: self.plane.standings.values().cloned().collect(),
            ..ForwardStatus::default()
        };
        let this = self.plane.this();
        status.nodes = self
            .plane
            .nodes()
            .map(|(node, up)| NodeView {
                name: node.name.clone(),
                id: node.id,
                this: Some(node.name.as_str()) == this,
                up,
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
        status
    }
}

fn counted(forward: &Forward, balance: &BalanceStatus, status: &mut ForwardStatus) -> Result<(), ForwardError> {
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
            });
        }
    }
    Ok(())
}
