//! What is asked of the plane: conditions, counters, flows, traces. Nothing here changes anything but which handshakes are watched.

use std::os::fd::AsFd;

use aya::programs::TcAttachType;
use bascule_core::site::SiteId;
use bascule_core::site::handshakes::Totals;
use bascule_core::time::Instant;
use bascule_ebpf_common::forward::{EndpointStats, PacketDrop, ServiceStats};
use ipnet::IpNet;

use super::error::ForwardError;
use super::stats::Tallies;
use super::{Forward, audit, flows, trace};
use crate::handle::forward::{Asked, Fill, FlowFilter, FlowList, Hook, Probe, ProbeKind, Standing, Trace};

impl Forward {
    /// What an operator should know of this node's tables and devices.
    #[must_use]
    pub fn conditions(&self, standings: &[Standing]) -> Vec<String> {
        let mut conditions = self.known.conditions();
        for standing in standings {
            // The order of two rules: why a way is not the best one, then what is wrong although it stands.
            let wrong = probes(standing).into_iter().filter_map(|probe| probe.trouble);
            let others = wrong.filter(|trouble| !standing.reasons.contains(trouble));
            let said: Vec<String> = standing.reasons.iter().cloned().chain(others).collect();
            conditions.extend(said.into_iter().map(|what| format!("{}: {what}", standing.device)));
        }
        conditions
    }

    /// Networks inside, as they are written.
    pub fn inside(&self) -> impl Iterator<Item = IpNet> {
        self.known.inside.iter().copied()
    }

    /// Counters of everything.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn tallies(&self) -> Result<Tallies, ForwardError> {
        self.stats.tallies()
    }

    /// Frames that could not be made longer: grows on a device whose driver leaves no room before the frame.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn headroom_failures(&self) -> Result<u64, ForwardError> {
        self.stats.tally_slot(PacketDrop::Headroom as u32)
    }

    /// Traffic of a service, by slot.
    ///
    /// # Errors
    /// [`ForwardError::Plane`], [`ForwardError::Range`].
    pub fn service_stats(&self, slot: u16) -> Result<ServiceStats, ForwardError> {
        self.stats.service(slot.into())
    }

    /// Traffic of an endpoint, by slot.
    ///
    /// # Errors
    /// [`ForwardError::Plane`], [`ForwardError::Range`].
    pub fn endpoint_stats(&self, slot: u16) -> Result<EndpointStats, ForwardError> {
        self.stats.endpoint(slot.into())
    }

    /// Looks at the handshakes that are watched: what is known by now of some makes room for others.
    pub fn look_at_handshakes(&mut self, now: Instant) {
        self.watch.look(now);
    }

    /// What became of handshakes of clients with a service, by slot, at each site.
    #[must_use]
    pub fn handshakes(&self, slot: u16) -> Vec<(SiteId, Totals)> {
        self.watch.totals(slot)
    }

    /// Fill of the flow table and of the half-open table, estimated.
    ///
    /// # Errors
    /// [`ForwardError::Call`].
    pub fn fill(&self) -> Result<(Fill, Fill), ForwardError> {
        flows::fill(self.flows.fd.as_fd(), self.capacity, self.half.as_fd())
    }

    /// Lists flows; `now_s` is CLOCK_BOOTTIME in seconds. Reads all of the table where few pass.
    ///
    /// # Errors
    /// [`ForwardError::Call`].
    pub fn flows(&self, filter: &FlowFilter, now_s: u32) -> Result<FlowList, ForwardError> {
        flows::list(self.flows.fd.as_fd(), filter, now_s)
    }

    /// Where a packet would go that arrived now; `now_s` is CLOCK_BOOTTIME in seconds.
    ///
    /// # Errors
    /// [`ForwardError::Plane`].
    pub fn trace(&self, asked: &Asked, now_s: u32) -> Result<Trace, ForwardError> {
        trace::trace(&trace::Maps { tables: &self.tables, peers: &self.peers, flows: &self.flows.map }, asked, now_s)
    }
}

/// What a device was asked when the programs were put there, and what can change meanwhile, asked now.
#[must_use]
pub fn probes(standing: &Standing) -> Vec<Probe> {
    let mut all = standing.probes.clone();
    let directions = [(standing.ingress, TcAttachType::Ingress), (standing.egress, TcAttachType::Egress)];
    let by_tcx: Vec<TcAttachType> = directions.into_iter().filter(|(h, _)| *h == Hook::Tcx).map(|(_, d)| d).collect();
    if !by_tcx.is_empty() {
        let trouble = by_tcx.into_iter().find_map(|direction| audit::order(&standing.device, direction));
        all.push(Probe { probe: ProbeKind::TcOrder, trouble });
    }
    all.extend(audit::facts(&standing.device));
    all
}
