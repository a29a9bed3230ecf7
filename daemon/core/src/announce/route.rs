//! Host routes of VIPs as wishes: what this node wants its routers to know, told as differences.
//!
//! Decides which of the wishes changed. Leaves to the group or the anycast VIP what is wanted, to the speaker how it is said.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Serialize;

use crate::time::Instant;

/// After a withdrawal frames are served this much longer: routers take tens of milliseconds to take a route out of their hardware, and
/// what they sent until then is on its way to us.
pub const LINGER: Duration = Duration::from_millis(500);

/// What is wanted of one route. Ordered: of two wishes for one address the greater holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// Nobody is told, or everybody is told that it is gone.
    #[default]
    Withdraw,
    /// Told with GRACEFUL_SHUTDOWN (RFC 8326): still served, about to go.
    Drain,
    /// Told.
    Announce,
}

impl Want {
    /// The word used in JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Withdraw => "withdraw",
            Self::Drain => "drain",
            Self::Announce => "announce",
        }
    }
}

/// A changed wish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteWish {
    /// The VIP's address: a /32 or /128.
    pub address: IpAddr,
    /// Name of the VIP; export policies match it.
    pub vip: String,
    /// What is wanted from now on.
    pub want: Want,
    /// When that was decided.
    pub since: Instant,
}

/// The wishes that were told last.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    told: BTreeMap<IpAddr, (String, Want)>,
}

impl Ledger {
    /// Takes everything that is wanted now and returns what differs from what was told, withdrawals first. An address that is wanted
    /// twice (a VIP that is renamed, or moves from one scope to the other) has the greater of the wishes.
    pub fn settle<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = (IpAddr, &'a str, Want)>,
        now: Instant,
    ) -> Vec<RouteWish> {
        let mut next: BTreeMap<IpAddr, (&str, Want)> = BTreeMap::new();
        for (address, vip, want) in wanted.into_iter().filter(|(_, _, want)| *want != Want::Withdraw) {
            match next.entry(address) {
                Entry::Vacant(free) => {
                    free.insert((vip, want));
                }
                Entry::Occupied(mut taken) if taken.get().1 < want => {
                    taken.insert((vip, want));
                }
                Entry::Occupied(_) => {}
            }
        }
        let wish =
            |address: &IpAddr, vip: &str, want| RouteWish { address: *address, vip: vip.to_owned(), want, since: now };
        let gone = self.told.iter().filter(|(address, _)| !next.contains_key(address));
        let mut changes: Vec<RouteWish> = gone.map(|(a, (vip, _))| wish(a, vip, Want::Withdraw)).collect();
        let new = next.iter().filter(|(a, (vip, want))| self.told.get(a).is_none_or(|(v, w)| v != vip || w != want));
        changes.extend(new.map(|(a, (vip, want))| wish(a, vip, *want)));
        // Only what changed is touched: one gate of ten thousand must not cost ten thousand names.
        for wish in &changes {
            match wish.want {
                Want::Withdraw => self.told.remove(&wish.address),
                Want::Announce | Want::Drain => self.told.insert(wish.address, (wish.vip.clone(), wish.want)),
            };
        }
        changes
    }

    /// Nothing is announced, not even with GRACEFUL_SHUTDOWN.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 9, 0, last])
    }

    fn words(changes: Vec<RouteWish>) -> Vec<String> {
        changes.into_iter().map(|w| format!("{} {} {}", w.want.as_str(), w.address, w.vip)).collect()
    }

    #[test]
    fn only_differences_are_told_and_withdrawals_come_first() {
        let mut ledger = Ledger::default();
        let now = Instant::from_nanos(7);
        let first = ledger.settle([(ip(1), "a", Want::Announce), (ip(2), "b", Want::Withdraw)], now);
        assert_eq!(words(first), ["announce 10.9.0.1 a"]);
        assert!(ledger.settle([(ip(1), "a", Want::Announce)], now).is_empty());
        let next = ledger.settle([(ip(0), "b", Want::Announce), (ip(1), "a", Want::Withdraw)], now);
        assert_eq!(next.iter().map(|w| w.since).collect::<Vec<_>>(), [now; 2]);
        assert_eq!(words(next), ["withdraw 10.9.0.1 a", "announce 10.9.0.0 b"]);
        assert_eq!(words(ledger.settle([(ip(0), "b", Want::Drain)], now)), ["drain 10.9.0.0 b"]);
        assert_eq!(words(ledger.settle([], now)), ["withdraw 10.9.0.0 b"]);
        assert!(ledger.is_empty());
    }

    #[test]
    fn an_address_of_two_vips_has_the_greater_wish_in_any_order() {
        for flip in [false, true] {
            let mut ledger = Ledger::default();
            let mut both = vec![(ip(1), "old", Want::Drain), (ip(1), "new", Want::Announce)];
            if flip {
                both.reverse();
            }
            assert_eq!(words(ledger.settle(both, Instant::ZERO)), ["announce 10.9.0.1 new"]);
            assert!(ledger.settle([(ip(1), "new", Want::Announce)], Instant::ZERO).is_empty(), "no flap");
        }
    }

    #[test]
    fn a_new_name_is_told_without_a_withdrawal() {
        let mut ledger = Ledger::default();
        let _ = ledger.settle([(ip(1), "old", Want::Announce)], Instant::ZERO);
        assert_eq!(words(ledger.settle([(ip(1), "new", Want::Announce)], Instant::ZERO)), ["announce 10.9.0.1 new"]);
    }
}
