//! From shares to slots: which part of the hash space goes to which site, the same on every node and the same every time.
//!
//! A table has 1,021 slots over the space of flow hashes, in order; a row of the service's first level lies in one of them. With a local
//! site first, the *lowest* slots leave and the others stay, so that the same rows move and come back (dataplane.md 2.3); among remote sites,
//! and in weighted mode, [`maglev`] says whose a slot is. Nothing is remembered: two nodes with the same shares have the same slots.

use std::collections::BTreeMap;

use crate::balance::maglev::{self, Member};
use crate::site::SiteId;

/// Slots of a table: the prime of [`maglev::SIZES`] next to the 1,024 of sites.md 4.1. One is 0.1 % of the traffic.
pub const SLOTS: u16 = 1021;

/// Shares in slots: they sum to [`SLOTS`] unless empty.
pub type Quotas = BTreeMap<SiteId, u16>;

/// Whole slots for shares that sum to anything positive, by largest remainder (ties: lower site first).
pub fn quotas(shares: &BTreeMap<SiteId, f64>) -> Quotas {
    let total: f64 = shares.values().filter(|s| **s > 0.0).sum();
    if total <= 0.0 {
        return Quotas::new();
    }
    let exact = |share: f64| share.max(0.0) / total * f64::from(SLOTS);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1021")]
    let mut out: Quotas = shares.iter().map(|(site, share)| (*site, exact(*share).floor() as u16)).collect();
    let mut left = SLOTS.saturating_sub(out.values().sum());
    let mut order: Vec<(&SiteId, f64)> = shares.iter().map(|(s, share)| (s, exact(*share).fract())).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    for (site, _) in order.iter().cycle() {
        if left == 0 {
            break;
        }
        *out.entry(**site).or_default() += 1;
        left -= 1;
    }
    out.retain(|_, slots| *slots > 0);
    out
}

/// The owner of each slot. `first`: the site that keeps the highest slots. Empty without a share.
pub fn slots(seed: u64, quotas: &Quotas, first: Option<SiteId>) -> Vec<SiteId> {
    let kept = first.and_then(|site| quotas.get(&site)).copied().unwrap_or(0);
    let others: Vec<(SiteId, u16)> =
        quotas.iter().filter(|(site, _)| kept == 0 || Some(**site) != first).map(|(s, q)| (*s, *q)).collect();
    let member = |(site, quota): &(SiteId, u16)| Member {
        id: u16::from(site.0),
        name: site.0.to_string(),
        weight: u32::from(*quota),
    };
    let members: Vec<Member> = others.iter().map(member).collect();
    let mut out: Vec<SiteId> = maglev::fill(seed, &members, SLOTS)
        .into_iter()
        .map(|id| SiteId(u8::try_from(id).unwrap_or_default()))
        .collect();
    if let Some(first) = first.filter(|_| kept > 0) {
        out.resize(usize::from(SLOTS), first);
        out.iter_mut().skip(usize::from(SLOTS - kept)).for_each(|slot| *slot = first);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(list: &[(u8, f64)]) -> BTreeMap<SiteId, f64> {
        list.iter().map(|(site, share)| (SiteId(*site), *share)).collect()
    }

    fn table(list: &[(u8, f64)], first: Option<u8>) -> Vec<SiteId> {
        slots(9, &quotas(&shares(list)), first.map(SiteId))
    }

    fn moved(a: &[SiteId], b: &[SiteId]) -> usize {
        a.iter().zip(b).filter(|(x, y)| x != y).count()
    }

    #[test]
    fn the_lowest_slots_leave_and_the_same_ones_come_back() {
        let (whole, some) = (table(&[(1, 1.0)], Some(1)), table(&[(1, 0.7), (2, 0.2), (3, 0.1)], Some(1)));
        let gone: Vec<usize> = (0..some.len()).filter(|i| some[*i] != SiteId(1)).collect();
        assert_eq!(gone, (0..306).collect::<Vec<_>>());
        let more = table(&[(1, 0.6), (2, 0.8 / 3.0), (3, 0.4 / 3.0)], Some(1));
        assert_eq!(moved(&some[..306], &more[..306]), 0, "more of the same moves nobody who had moved");
        assert_eq!(whole, table(&[(1, 1.0)], Some(1)));
        let second = some[..306].iter().filter(|s| **s == SiteId(2)).count();
        assert!((180..230).contains(&second), "{second}: two thirds of what left, within the noise of 306 slots");
    }

    #[test]
    fn weighted_shares_are_exact_and_a_change_moves_little_more_than_it_must() {
        let before = table(&[(1, 50.0), (2, 30.0), (3, 20.0)], None);
        let count = |t: &[SiteId], s| t.iter().filter(|x| **x == SiteId(s)).count();
        assert_eq!([1, 2, 3].map(|s| count(&before, s)), [511, 306, 204]);
        let after = table(&[(1, 50.0), (2, 30.0)], None);
        let strays = before.iter().zip(&after).filter(|(x, y)| **x != SiteId(3) && x != y).count();
        assert!(strays < 1021 / 10, "{strays} slots moved that had no need to");
        assert_eq!(moved(&before, &table(&[(1, 50.0), (2, 30.0), (3, 20.0)], None)), 0);
    }

    #[test]
    fn nobody_and_one() {
        assert!(table(&[], None).is_empty() && table(&[(1, 0.0)], Some(1)).is_empty());
        assert_eq!(count_of(&table(&[(2, 0.1)], Some(1)), 2), 1021);
        assert_eq!(quotas(&shares(&[(1, 1.0), (2, 1.0), (3, 1.0)])).values().sum::<u16>(), SLOTS);
    }

    fn count_of(t: &[SiteId], s: u8) -> usize {
        t.iter().filter(|x| **x == SiteId(s)).count()
    }
}
