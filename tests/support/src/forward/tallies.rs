//! What the programs counted.

use bascule_ebpf_common::forward::{HOP_BUCKETS, PacketDrop, Tally};

/// The tallies of a node, summed over the CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tallies(pub(super) Vec<u64>);

impl Tallies {
    /// Packets that took this way.
    pub fn of(&self, tally: Tally) -> u64 {
        self.0[tally as usize]
    }

    /// Packets dropped for this reason.
    pub fn drops(&self, reason: PacketDrop) -> u64 {
        self.0[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        PacketDrop::ALL.iter().map(|reason| self.drops(*reason)).sum()
    }

    /// Accepted packets by the length of their chain.
    pub fn hops(&self) -> &[u64] {
        &self.0[Tally::Hops as usize..][..HOP_BUCKETS as usize]
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().zip(&earlier.0).map(|(now, before)| now - before).collect())
    }

    /// Everything that is not zero, in words.
    pub fn describe(&self) -> String {
        let tallies = Tally::ALL.iter().map(|tally| (tally.name(), self.of(*tally)));
        let drops = PacketDrop::ALL.iter().map(|reason| (reason.name(), self.drops(*reason)));
        let said: Vec<String> =
            tallies.chain(drops).filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
        format!("{} hops {:?}", said.join(", "), self.hops())
    }
}
