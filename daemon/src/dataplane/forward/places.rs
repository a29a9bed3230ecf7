//! Where the endpoints of this node live, as far as it was found out, and for which of them it has to be.
//!
//! A question is some requests to the kernel, and there may be thousands of endpoints: who asks names what changed, and is told whom that
//! concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use bascule_core::balance::io::EndpointSlot;
use ipnet::IpNet;

/// Where an endpoint lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A process in this network namespace.
    Host,
    /// Behind a device whose other end is in the namespace with this id (`RTM_GETNSID`).
    Netns(i32),
    /// Not found out: its sockets cannot be asked, so flows that were opened before this node knew them end.
    Unknown,
}

/// Endpoints without a known place that are asked for in one turn; the others wait for theirs. There may be ten thousand, and many of them
/// never have one: their addresses are routed elsewhere.
const LOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Places {
    /// Addresses of endpoints here, with the slots that have them.
    here: BTreeMap<IpAddr, BTreeSet<EndpointSlot>>,
    /// Also of a former run's endpoints, until the sweep.
    found: BTreeMap<IpAddr, Place>,
    /// Endpoints that were told of since their place was asked for: another pod may have the address now.
    fresh: BTreeSet<IpAddr>,
    /// Endpoints here that were asked for and have no place.
    lost: BTreeSet<IpAddr>,
    /// The last one of the turn before.
    turn: Option<IpAddr>,
}

impl Places {
    /// An endpoint here was told of.
    pub(super) fn put(&mut self, slot: EndpointSlot, address: IpAddr) {
        self.here.entry(address).or_default().insert(slot);
        self.fresh.insert(address);
    }

    /// A slot has this address no more.
    pub(super) fn remove(&mut self, slot: EndpointSlot, address: IpAddr) {
        let Some(slots) = self.here.get_mut(&address) else { return };
        slots.remove(&slot);
        if slots.is_empty() {
            self.here.remove(&address);
            self.fresh.remove(&address);
            self.lost.remove(&address);
        }
    }

    /// The place of an address.
    pub(super) fn get(&self, address: IpAddr) -> Place {
        self.found.get(&address).copied().unwrap_or(Place::Unknown)
    }

    /// Slots of endpoints here with this address.
    pub(super) fn slots(&self, address: IpAddr) -> impl Iterator<Item = EndpointSlot> {
        self.here.get(&address).into_iter().flatten().copied()
    }

    /// Endpoints here without a place, asked for or not.
    pub(super) fn unplaced(&self) -> impl Iterator<Item = IpAddr> {
        self.here.keys().copied().filter(|address| self.get(*address) == Place::Unknown)
    }

    /// Endpoints here that were asked for and have none.
    pub(super) const fn lost(&self) -> &BTreeSet<IpAddr> {
        &self.lost
    }

    /// Takes what was known before this run; true when it is news.
    pub(super) fn note(&mut self, address: IpAddr, place: Place) -> bool {
        self.found.insert(address, place) != Some(place)
    }

    /// Takes an answer; true when it is news.
    pub(super) fn answer(&mut self, address: IpAddr, place: Place) -> bool {
        self.fresh.remove(&address);
        if place == Place::Unknown && self.here.contains_key(&address) {
            self.lost.insert(address);
        } else {
            self.lost.remove(&address);
        }
        self.note(address, place)
    }

    /// Whom to ask for now: everybody in the networks to which routes changed, who is new, and some of those without a place.
    pub(super) fn due(&mut self, changed: &[IpNet]) -> BTreeSet<IpAddr> {
        let within = |net: &IpNet| self.here.range(net.network()..=net.broadcast()).map(|(address, _)| *address);
        let mut due: BTreeSet<IpAddr> = changed.iter().flat_map(within).collect();
        due.extend(&self.fresh);
        let behind = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let mut turn: Vec<IpAddr> = self.lost.range((behind, Bound::Unbounded)).take(LOST).copied().collect();
        if turn.is_empty() {
            turn = self.lost.iter().take(LOST).copied().collect();
        }
        self.turn = turn.last().copied();
        due.extend(turn);
        due
    }

    /// Drops what is known of addresses that no endpoint has.
    pub(super) fn forget_unwanted(&mut self) {
        self.found.retain(|address, _| self.here.contains_key(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(k: u8) -> IpAddr {
        [10, 21, 0, k].into()
    }

    fn of(k: impl IntoIterator<Item = u8>) -> BTreeSet<IpAddr> {
        k.into_iter().map(address).collect()
    }

    /// `count` endpoints of which all are placed.
    fn placed(count: u8) -> Places {
        let mut places = Places::default();
        for k in 1..=count {
            places.put(EndpointSlot(k.into()), address(k));
        }
        assert_eq!(places.due(&[]), of(1..=count), "all are new");
        for k in 1..=count {
            assert!(places.answer(address(k), Place::Netns(3)));
        }
        places
    }

    #[test]
    fn who_has_a_place_is_asked_for_when_a_route_to_it_changes() {
        let mut places = placed(20);
        assert_eq!(places.due(&[]), of([]));
        assert_eq!(places.due(&["10.21.0.8/30".parse().unwrap()]), of(8..=11));
        assert_eq!(places.due(&["10.21.0.5/32".parse().unwrap(), "192.0.2.0/24".parse().unwrap()]), of([5]));
        assert_eq!(places.due(&["::/0".parse().unwrap()]), of([]));
        assert_eq!(places.due(&["0.0.0.0/0".parse().unwrap()]), of(1..=20));
        assert!(!places.answer(address(5), Place::Netns(3)), "no news");
    }

    #[test]
    fn who_has_none_takes_turns() {
        let mut places = placed(0);
        (1..=200).for_each(|k| places.put(EndpointSlot(k.into()), address(k)));
        for k in 1..=200 {
            let _news = places.answer(address(k), Place::Unknown);
        }
        assert_eq!(places.due(&[]), of(1..=64));
        assert_eq!(places.due(&[]), of(65..=128));
        places.put(EndpointSlot(7), address(7));
        assert_eq!(places.due(&[]), of([7].into_iter().chain(129..=192)), "a new one is in no turn");
        assert_eq!(places.due(&[]), of([7].into_iter().chain(193..=200)));
        assert!(places.answer(address(7), Place::Host));
        assert_eq!(places.due(&[]), of((1..=65).filter(|k| *k != 7)));
        (1..=200).for_each(|k| places.remove(EndpointSlot(k.into()), address(k)));
        assert_eq!(places.due(&[]), of([]));
    }

    #[test]
    fn an_address_of_two_endpoints_is_there_until_both_are_gone() {
        let mut places = placed(1);
        places.put(EndpointSlot(9), address(1));
        assert_eq!(places.due(&[]), of([1]), "another pod may have it");
        assert!(!places.answer(address(1), Place::Netns(3)));
        places.remove(EndpointSlot(1), address(1));
        assert_eq!(places.slots(address(1)).collect::<Vec<_>>(), [EndpointSlot(9)]);
        places.forget_unwanted();
        assert_eq!(places.get(address(1)), Place::Netns(3));
        places.remove(EndpointSlot(9), address(1));
        places.forget_unwanted();
        assert_eq!((places.get(address(1)), places.unplaced().count()), (Place::Unknown, 0));
    }
}
