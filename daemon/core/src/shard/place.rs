//! Which nodes a shard prefers: rendezvous hashing with bounded load, rank by rank.
//!
//! Plain rendezvous (the highest score of a shard and a node wins) is even only for many shards. Here each first rank goes to the best
//! node that still has room, and room is so small that all nodes end within one of each other. Second ranks are spread the same way within
//! the shards of each first-ranked node: when it dies, its shards go to different survivors.

use std::collections::{BTreeMap, BTreeSet};

use super::{Question, ShardId, hash};
use crate::types::{rank_priority, sick_priority};

/// The ranks of every shard, best first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    ranks: BTreeMap<ShardId, Vec<String>>,
}

/// Ranks that are spread evenly; those behind come into play when four nodes are dead, and are ordered by score alone.
const SPREAD: usize = 4;

/// Who has room: everybody up to `floor`, and `extra` nodes one more.
struct Room<'a> {
    floor: usize,
    extra: usize,
    load: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    fn new(items: usize, nodes: usize) -> Self {
        let nodes = nodes.max(1);
        Self { floor: items / nodes, extra: items % nodes, load: BTreeMap::new() }
    }

    fn load(&self, node: &str) -> usize {
        self.load.get(node).copied().unwrap_or(0)
    }

    fn has(&self, node: &str) -> bool {
        let load = self.load(node);
        load < self.floor || load == self.floor && self.extra > 0
    }

    fn take(&mut self, node: &'a str) {
        let load = self.load.entry(node).or_default();
        if *load == self.floor {
            self.extra = self.extra.saturating_sub(1);
        }
        *load += 1;
    }
}

fn score(shard: ShardId, node: &str) -> u64 {
    hash(Question::Score, &[&[shard.0], node.as_bytes()])
}

/// Ranks all nodes for all shards. The order and repetitions of the list do not matter.
pub fn place<'a>(nodes: impl IntoIterator<Item = &'a str>, shards: u8) -> Placement {
    place_numbered(nodes, &(0..shards).map(ShardId).collect::<Vec<_>>())
}

/// As [`place`], for shards of these numbers, which are spread by themselves.
pub fn place_numbered<'a>(nodes: impl IntoIterator<Item = &'a str>, shards: &[ShardId]) -> Placement {
    let nodes: BTreeSet<&str> = nodes.into_iter().collect();
    // By score for each shard; names settle what a hash does not.
    let by_score = |shard: ShardId| {
        let mut all: Vec<&str> = nodes.iter().copied().collect();
        all.sort_by_key(|node| (core::cmp::Reverse(score(shard, node)), *node));
        all
    };
    let mut rest: Vec<Vec<&str>> = shards.iter().map(|shard| by_score(*shard)).collect();
    let mut ranks: Vec<Vec<&str>> = vec![Vec::new(); shards.len()];
    for _ in 0..SPREAD.min(nodes.len()) {
        // First ranks are one heap of shards; later ones are spread within the shards of the same first rank.
        let mut heaps: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
        for (shard, chosen) in ranks.iter().enumerate() {
            heaps.entry(chosen.first().copied()).or_default().push(shard);
        }
        for (first, heap) in heaps {
            let mut room = Room::new(heap.len(), nodes.len() - usize::from(first.is_some()));
            for shard in heap {
                let left = &mut rest[shard];
                // From the third rank on a node that has room may be used up by an earlier rank: then the one with the least load.
                let at = left.iter().position(|node| room.has(node)).or_else(|| {
                    let least = left.iter().enumerate().min_by_key(|(i, node)| (room.load(node), *i));
                    least.map(|(i, _)| i)
                });
                if let Some(at) = at {
                    let node = left.remove(at);
                    room.take(node);
                    ranks[shard].push(node);
                }
            }
        }
    }
    let ranks = ranks.into_iter().zip(rest).map(|(ranks, rest)| ranks.into_iter().chain(rest));
    let ranks = ranks.map(|all| all.map(str::to_owned).collect());
    Placement { ranks: shards.iter().copied().zip(ranks).collect() }
}

impl Placement {
    /// Nodes of a shard, best first; empty for a shard that is not there.
    pub fn ranks(&self, shard: ShardId) -> &[String] {
        self.ranks.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// With the shards of another placement, which has none of these.
    pub fn join(&mut self, other: Self) {
        self.ranks.extend(other.ranks);
    }

    /// Every shard.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.ranks.keys().copied()
    }

    /// The VRRP priority of a node in a shard; `None`: it takes no part. The first four ranks lie at least 48 apart, and a sick node is
    /// below every healthy one (ADR 0004).
    pub fn priority(&self, shard: ShardId, node: &str, sick: bool) -> Option<u8> {
        let rank = self.ranks(shard).iter().position(|ranked| ranked == node)?;
        let healthy = rank_priority(rank);
        Some(if sick { sick_priority(healthy) } else { healthy })
    }

    /// Who owns when these may: the best of them.
    pub fn owner(&self, shard: ShardId, may: impl Fn(&str) -> bool) -> Option<&str> {
        self.ranks(shard).iter().map(String::as_str).find(|node| may(node))
    }
}
