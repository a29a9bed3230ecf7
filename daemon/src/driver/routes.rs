//! Wishes about routes on their way to the BGP room: the loop never waits for it, and no wish is lost.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bascule_core::announce::route::RouteWish;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::world::Routes;

/// What the room has not taken yet: the latest wish of each address.
#[derive(Debug)]
pub(super) struct Unsent {
    room: Option<Sender<Routes>>,
    waiting: BTreeMap<IpAddr, RouteWish>,
}

impl Unsent {
    /// `None`: this node has no BGP room, and its configuration no VIP with routes.
    pub(super) fn new(room: Option<Sender<Routes>>) -> Self {
        Self { room, waiting: BTreeMap::new() }
    }

    /// Takes wishes, in their order; they leave with [`Self::send`].
    pub(super) fn add(&mut self, wishes: Routes) {
        if self.room.is_some() {
            self.waiting.extend(wishes.into_iter().map(|wish| (wish.address, wish)));
        }
    }

    /// Sends what waits, as far as the room takes it. Called in every turn, which comes at least every 100 ms.
    pub(super) fn send(&mut self) {
        let Some(room) = self.room.as_ref().filter(|_| !self.waiting.is_empty()) else { return };
        let batch = std::mem::take(&mut self.waiting).into_values().collect();
        match room.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => self.add(batch),
            // The room has ended, and the sessions with it: nobody is left who could be told.
            Err(TrySendError::Closed(_)) => self.room = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bascule_core::announce::route::Want;
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
            unsent.send();
        }
        assert_eq!(taken.try_recv().expect("the first batch"), [wish(1, Want::Announce)]);
        assert!(taken.try_recv().is_err(), "the room was full");
        unsent.send();
        assert_eq!(taken.try_recv().expect("the rest"), [wish(1, Want::Withdraw), wish(2, Want::Announce)]);
        unsent.send();
        assert!(taken.try_recv().is_err(), "each once");
    }

    #[test]
    fn a_room_that_ended_is_not_asked_again() {
        let (room, taken) = mpsc::channel(1);
        drop(taken);
        let mut unsent = Unsent::new(Some(room));
        unsent.add(vec![wish(1, Want::Announce)]);
        unsent.send();
        assert!(unsent.room.is_none() && unsent.waiting.is_empty());
    }
}
