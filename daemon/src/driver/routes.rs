//! Wishes about routes on their way to the BGP room: the loop never waits for it, and no wish is lost.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bascule_core::announce::route::{RouteWish, Want};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::world::Routes;

/// Wishes in one batch: the room works on a batch at a time and looks at its sockets in between. Of four neighbors it costs about 2 ms.
pub(super) const BATCH: usize = 256;
/// Batches in one turn of the loop, so that adverts never wait for a large table: some 200 us.
const BATCHES: usize = 4;

/// What the room has not taken yet: the latest wish of each address.
#[derive(Debug)]
pub(super) struct Unsent {
    room: Option<Sender<Routes>>,
    /// Traffic for these is lost until they are told: they go first.
    withdrawals: BTreeMap<IpAddr, RouteWish>,
    others: BTreeMap<IpAddr, RouteWish>,
}

impl Unsent {
    /// `None`: this node has no BGP room, and its configuration no VIP with routes.
    pub(super) fn new(room: Option<Sender<Routes>>) -> Self {
        Self { room, withdrawals: BTreeMap::new(), others: BTreeMap::new() }
    }

    /// Takes wishes, in their order; they leave with [`Self::send`].
    pub(super) fn add(&mut self, wishes: Routes) {
        if self.room.is_none() {
            return;
        }
        for wish in wishes {
            let (mine, other) = match wish.want {
                Want::Withdraw => (&mut self.withdrawals, &mut self.others),
                Want::Announce | Want::Drain => (&mut self.others, &mut self.withdrawals),
            };
            other.remove(&wish.address);
            mine.insert(wish.address, wish);
        }
    }

    /// Sends what waits, as far as the room takes it and the turn allows; true when the next turn must go on at once.
    pub(super) fn send(&mut self) -> bool {
        for _ in 0..BATCHES {
            if self.is_empty() {
                return false;
            }
            let Some(room) = &self.room else { return false };
            match room.try_reserve() {
                Ok(place) => {
                    let next = || self.withdrawals.pop_first().or_else(|| self.others.pop_first());
                    place.send(std::iter::from_fn(next).take(BATCH).map(|(_, wish)| wish).collect());
                    continue;
                }
                Err(TrySendError::Full(())) => return false,
                Err(TrySendError::Closed(())) => {}
            }
            // The room has ended, and the sessions with it: nobody is left who could be told.
            *self = Self::new(None);
        }
        !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.withdrawals.is_empty() && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bascule_core::time::Instant;
    use tokio::sync::mpsc;

    use super::*;

    fn wish(last: u8, want: Want) -> RouteWish {
        RouteWish { address: IpAddr::from([10, 9, 0, last]), vip: "dns".into(), want, since: Instant::ZERO }
    }

    #[test]
    fn a_full_room_gets_the_latest_wish_of_each_address_later() {
        let (room, mut taken) = mpsc::channel(1);
        let mut unsent = Unsent::new(Some(room));
        unsent.add(vec![wish(1, Want::Announce)]);
        unsent.send();
        for want in [Want::Announce, Want::Drain, Want::Withdraw] {
            unsent.add(vec![wish(1, want), wish(2, Want::Announce)]);
            assert!(!unsent.send(), "nothing is gained by another turn now");
        }
        assert_eq!(taken.try_recv().expect("the first batch"), [wish(1, Want::Announce)]);
        assert!(taken.try_recv().is_err(), "the room was full");
        unsent.send();
        assert_eq!(taken.try_recv().expect("the rest"), [wish(1, Want::Withdraw), wish(2, Want::Announce)]);
        unsent.send();
        assert!(taken.try_recv().is_err(), "each once");
    }

    #[test]
    fn a_large_table_leaves_in_batches_with_withdrawals_first() {
        let (room, mut taken) = mpsc::channel(64);
        let mut unsent = Unsent::new(Some(room));
        let wish = |n: u32, want| RouteWish { address: IpAddr::from((0x0a09_0000 + n).to_be_bytes()), ..wish(0, want) };
        let count = u32::try_from(BATCH * BATCHES + 10).expect("a few thousand");
        unsent.add((0..count).map(|n| wish(n, Want::Announce)).collect());
        unsent.add(vec![wish(count - 1, Want::Withdraw)]);
        assert!(unsent.send(), "more than one turn sends");
        let first = taken.try_recv().expect("a batch");
        assert_eq!((first.len(), &first[0]), (BATCH, &wish(count - 1, Want::Withdraw)));
        assert!(!unsent.send());
        let rest: usize = std::iter::from_fn(|| taken.try_recv().ok()).map(|batch| batch.len()).sum();
        assert_eq!(first.len() + rest, BATCH * BATCHES + 10);
    }

    #[test]
    fn a_room_that_ended_is_not_asked_again() {
        let (room, taken) = mpsc::channel(1);
        drop(taken);
        let mut unsent = Unsent::new(Some(room));
        unsent.add(vec![wish(1, Want::Announce)]);
        assert!(!unsent.send());
        assert!(unsent.room.is_none() && unsent.is_empty());
    }
}
