//! The way back after deaths: planned moves, one shard at a time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ShardId;
use super::place::Placement;

/// A shard that should be handed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Move {
    /// The shard.
    pub shard: ShardId,
    /// Who owns it.
    pub from: String,
    /// The best node that may.
    pub to: String,
}

/// What has to move so that every shard is at the best node that may own. Shards without an owner are the election's to place. The moves
/// of one node are apart from each other as far as possible: carried out in this order, no node gives or gets many in a row.
pub fn rebalance(placement: &Placement, owners: &BTreeMap<ShardId, String>, may: impl Fn(&str) -> bool) -> Vec<Move> {
    let mut given: BTreeMap<&str, usize> = BTreeMap::new();
    let mut moves = Vec::new();
    for shard in placement.shards() {
        let (Some(from), Some(to)) = (owners.get(&shard), placement.owner(shard, &may)) else { continue };
        if from != to {
            let turn = given.entry(from).or_default();
            moves.push((*turn, Move { shard, from: from.clone(), to: to.to_owned() }));
            *turn += 1;
        }
    }
    moves.sort_by_key(|(turn, planned)| (*turn, planned.shard));
    moves.into_iter().map(|(_, planned)| planned).collect()
}
