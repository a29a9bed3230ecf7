//! The free addresses of a pool, as intervals: a /64 costs no more than a /24.

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::io::PoolSpec;
use crate::types::Family;

/// First and last of an interval of addresses of one family.
pub(super) type Interval = (u128, u128);

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()),
        Family::V6 => IpAddr::from(number.to_be_bytes()),
    }
}

/// Start of an interval to its end; intervals neither overlap nor touch.
#[derive(Debug, Default)]
struct Intervals(BTreeMap<u128, u128>);

impl Intervals {
    fn give(&mut self, (mut start, mut end): Interval) {
        while let Some((s, e)) = self.0.range(..=end.saturating_add(1)).next_back().map(|(s, e)| (*s, *e)) {
            if e.saturating_add(1) < start {
                break;
            }
            let _merged = self.0.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        let _new = self.0.insert(start, end);
    }

    fn take(&mut self, number: u128) {
        let Some((s, e)) = self.0.range(..=number).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| number <= *e)
        else {
            return;
        };
        let _split = self.0.remove(&s);
        if s < number {
            let _left = self.0.insert(s, number - 1);
        }
        if number < e {
            let _right = self.0.insert(number + 1, e);
        }
    }
}

/// Free addresses by family.
#[derive(Debug, Default)]
pub(super) struct Free {
    v4: Intervals,
    v6: Intervals,
}

impl Free {
    /// All of the pool.
    pub(super) fn new(spec: &PoolSpec) -> Self {
        let mut free = Self::default();
        for block in spec.blocks.values() {
            if let Some((family, interval)) = block.interval(spec.avoid_ends) {
                free.of(family).give(interval);
            }
        }
        free
    }

    fn of(&mut self, family: Family) -> &mut Intervals {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    pub(super) fn take(&mut self, address: IpAddr) {
        self.of(Family::of(&address)).take(number(address));
    }

    /// Only for an address of the pool.
    pub(super) fn give(&mut self, address: IpAddr) {
        let number = number(address);
        self.of(Family::of(&address)).give((number, number));
    }

    /// The lowest.
    pub(super) fn first(&self, family: Family) -> Option<IpAddr> {
        let intervals = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        intervals.0.keys().next().map(|number| address(family, *number))
    }

    pub(super) fn count(&self) -> u128 {
        let all = self.v4.0.iter().chain(&self.v6.0);
        all.fold(0, |sum, (s, e)| sum.saturating_add(e - s).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn intervals_are_a_set(steps in proptest::collection::vec((any::<bool>(), 0_u128..40), 0..200)) {
            let (mut intervals, mut model) = (Intervals::default(), std::collections::BTreeSet::new());
            for (give, n) in steps {
                if give {
                    let end = (n + n % 4).min(40);
                    intervals.give((n, end));
                    model.extend(n..=end);
                } else {
                    intervals.take(n);
                    model.remove(&n);
                }
                let all: Vec<u128> = intervals.0.iter().flat_map(|(s, e)| *s..=*e).collect();
                prop_assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
                let touching = intervals.0.iter().zip(intervals.0.iter().skip(1)).any(|((_, e), (s, _))| e + 1 >= *s);
                prop_assert!(!touching);
            }
        }
    }
}
