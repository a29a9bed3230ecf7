//! Counters, summed over the CPUs.

use aya::maps::{Map, MapData, PerCpuArray};
use bascule_ebpf_common::forward::{
    EndpointStats, HOP_BUCKETS, MAX_ENDPOINTS, MAX_SERVICES, PacketDrop, ServiceStats, Tally,
};

use super::error::ForwardError;

/// What became of packets since the maps were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tallies {
    drops: [u64; PacketDrop::ALL.len()],
    tallies: [u64; Tally::ALL.len()],
    /// Accepted encapsulated packets by the number of nodes that had handled them before.
    pub hops: [u64; HOP_BUCKETS as usize],
}

impl Tallies {
    /// Packets dropped for `reason`.
    #[must_use]
    pub fn drops(&self, reason: PacketDrop) -> u64 {
        PacketDrop::ALL.iter().zip(&self.drops).find(|(at, _)| **at == reason).map_or(0, |(_, count)| *count)
    }

    /// Packets counted as `tally`; 0 for the histogram, which is [`Self::hops`].
    #[must_use]
    pub fn tally(&self, tally: Tally) -> u64 {
        Tally::ALL.iter().zip(&self.tallies).find(|(at, _)| **at == tally).map_or(0, |(_, count)| *count)
    }
}

pub(super) struct Stats {
    tallies: PerCpuArray<MapData, u64>,
    services: PerCpuArray<MapData, ServiceStats>,
    endpoints: PerCpuArray<MapData, EndpointStats>,
}

impl Stats {
    pub(super) fn new(tallies: Map, services: Map, endpoints: Map) -> Result<Self, ForwardError> {
        Ok(Self {
            tallies: PerCpuArray::try_from(tallies).map_err(ForwardError::map("TALLIES", "taking"))?,
            services: PerCpuArray::try_from(services).map_err(ForwardError::map("SERVICE_STATS", "taking"))?,
            endpoints: PerCpuArray::try_from(endpoints).map_err(ForwardError::map("ENDPOINT_STATS", "taking"))?,
        })
    }

    pub(super) fn tallies(&self) -> Result<Tallies, ForwardError> {
        let mut all = Tallies {
            drops: [0; PacketDrop::ALL.len()],
            tallies: [0; Tally::ALL.len()],
            hops: [0; HOP_BUCKETS as usize],
        };
        for (count, reason) in all.drops.iter_mut().zip(PacketDrop::ALL) {
            *count = self.tally_slot(reason as u32)?;
        }
        for (count, tally) in all.tallies.iter_mut().zip(Tally::ALL) {
            *count = self.tally_slot(tally as u32)?;
        }
        for (count, slot) in all.hops.iter_mut().zip(Tally::Hops as u32..) {
            *count = self.tally_slot(slot)?;
        }
        Ok(all)
    }

    /// One slot: what the check for headroom reads every second.
    pub(super) fn tally_slot(&self, slot: u32) -> Result<u64, ForwardError> {
        let values = self.tallies.get(&slot, 0).map_err(ForwardError::map("TALLIES", "reading"))?;
        Ok(values.iter().sum())
    }

    pub(super) fn service(&self, slot: u32) -> Result<ServiceStats, ForwardError> {
        in_array("service slot", slot, MAX_SERVICES)?;
        let values = self.services.get(&slot, 0).map_err(ForwardError::map("SERVICE_STATS", "reading"))?;
        Ok(values.iter().fold(ServiceStats::default(), |sum, cpu| ServiceStats {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            new_flows: sum.new_flows + cpu.new_flows,
            orphans: sum.orphans + cpu.orphans,
            asked: sum.asked + cpu.asked,
        }))
    }

    pub(super) fn endpoint(&self, slot: u32) -> Result<EndpointStats, ForwardError> {
        in_array("endpoint slot", slot, MAX_ENDPOINTS)?;
        let values = self.endpoints.get(&slot, 0).map_err(ForwardError::map("ENDPOINT_STATS", "reading"))?;
        Ok(values.iter().fold(EndpointStats::default(), |sum, cpu| EndpointStats {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            syns: sum.syns + cpu.syns,
            syn_acks: sum.syn_acks + cpu.syn_acks,
            resets: sum.resets + cpu.resets,
            replies: sum.replies + cpu.replies,
            reply_bytes: sum.reply_bytes + cpu.reply_bytes,
            new_flows: sum.new_flows + cpu.new_flows,
        }))
    }

    /// Forgets what was counted for the former holder of a slot.
    pub(super) fn reset_service(&mut self, slot: u32) -> Result<(), ForwardError> {
        in_array("service slot", slot, MAX_SERVICES)?;
        zero(&mut self.services, slot).map_err(ForwardError::map("SERVICE_STATS", "resetting"))
    }

    /// Forgets what was counted for the former holder of a slot.
    pub(super) fn reset_endpoint(&mut self, slot: u32) -> Result<(), ForwardError> {
        in_array("endpoint slot", slot, MAX_ENDPOINTS)?;
        zero(&mut self.endpoints, slot).map_err(ForwardError::map("ENDPOINT_STATS", "resetting"))
    }
}

fn zero<V: aya::Pod + Default>(map: &mut PerCpuArray<MapData, V>, slot: u32) -> Result<(), aya::maps::MapError> {
    let values = map.get(&slot, 0)?.iter().map(|_| V::default()).collect::<Vec<_>>();
    let values = aya::maps::PerCpuValues::try_from(values).map_err(aya::maps::MapError::IoError)?;
    map.set(slot, values, 0)
}

fn in_array(what: &'static str, index: u32, limit: u32) -> Result<(), ForwardError> {
    if index == 0 || index >= limit { Err(ForwardError::Range { what, index, limit }) } else { Ok(()) }
}
