//! Numbers of the shards that announcements have for themselves, beside those that all others share.
//!
//! A function of names, as far as there is room for it: each shard wants the number that the hash of its announcement and its place gives,
//! and takes the next one that is free. Those that come first are asked first and are never moved by later ones. There are 255 numbers,
//! for each is a VRID on the wire (RFC 9568 section 5.2.3).

use std::collections::BTreeSet;

use super::{Question, SHARDS_MAX, ShardId, hash};

/// The numbers of announcements, in the order in which these are given, oldest first: name and how many. `common` numbers from 0 on are
/// those of all others. `None` where there are not enough left.
pub fn numbers(wanted: &[(&str, u8)], common: u8) -> Vec<Option<Vec<ShardId>>> {
    let mut free: BTreeSet<u8> = (common..SHARDS_MAX).collect();
    let mut take = |name: &str, place: u8| {
        let start = hash(Question::Number, &[name.as_bytes(), &[place]]) % u64::from(SHARDS_MAX);
        let start = u8::try_from(start).unwrap_or(0);
        let number = free.range(start..).next().or_else(|| free.first()).copied()?;
        free.remove(&number).then_some(ShardId(number))
    };
    let mut left = usize::from(SHARDS_MAX.saturating_sub(common));
    let mut all = Vec::with_capacity(wanted.len());
    for (name, count) in wanted {
        let fits = usize::from(*count) <= left;
        left -= if fits { usize::from(*count) } else { 0 };
        all.push(if fits { (0..*count).map(|place| take(name, place)).collect() } else { None });
    }
    all
}
