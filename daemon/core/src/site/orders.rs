//! Orders to take something of this site out of use, as every node of the site holds them.
//!
//! New connections avoid it from the first moment; those that exist are nobody's business until the deadline, and then the operator's: the
//! order stays in force until it is taken back. The relay that leads repeats all orders every second. Who is led and does not hear one any more
//! forgets it after [`KEEP`]; who is not led keeps what there is: a site that loses its relays in the middle of its maintenance is not put
//! back to use by that.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use serde::Serialize;

use super::summary::ServiceId;
use crate::time::Instant;

/// From one time that orders are told to the next.
pub const TELL: Duration = super::lead::BEAT;
/// An order that the leading relay does not repeat is forgotten after so long: ten words that would have to be lost.
pub const KEEP: Duration = Duration::from_secs(10);

/// A deadline that is told again wanders by what its word takes; less than this is no other deadline.
const WANDER: Duration = Duration::from_secs(5);

/// What an order takes out of use, of this site. Small, since it travels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// All services of several sites.
    Site,
    /// One of them.
    Service(ServiceId),
    /// All of them behind one address.
    Vip(IpAddr),
    /// All endpoints on a node, by its id: of every service.
    Node(u16),
    /// One endpoint of a service, by address and port.
    Endpoint(ServiceId, IpAddr, u16),
}

impl Target {
    /// Does it take a whole service (behind this address) from the site?
    pub fn takes(&self, service: ServiceId, vip: IpAddr) -> bool {
        match self {
            Self::Site => true,
            Self::Service(of) => *of == service,
            Self::Vip(of) => *of == vip,
            Self::Node(_) | Self::Endpoint(..) => false,
        }
    }

    /// Is it the balancer's matter? Other sites see only that less is ready.
    pub const fn inside(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Endpoint(..))
    }
}

/// What became of an order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// It is in force, or its deadline is another one.
    Given,
    /// Its deadline has passed; it stays in force.
    Over,
    /// It is in force no more.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Order {
    until: Instant,
    over: bool,
    confirmed: Instant,
}

/// All orders in force.
#[derive(Clone, Debug, Default)]
pub struct Orders(BTreeMap<Target, Order>);

impl Orders {
    /// Gives an order, or another deadline to one. What became of it, if anything.
    pub fn give(&mut self, target: Target, within: Duration, now: Instant) -> Option<Turn> {
        let new = Order { until: now + within, over: within.is_zero(), confirmed: now };
        let before = self.0.insert(target, new);
        let same = |old: Order| {
            let apart = old.until.since(new.until).max(new.until.since(old.until));
            apart < WANDER || old.over && new.over
        };
        match before {
            Some(old) if same(old) => {
                self.0.insert(target, Order { confirmed: now, ..old });
                None
            }
            Some(_) | None => Some(Turn::Given),
        }
    }

    /// Takes an order back. False: there is none.
    pub fn end(&mut self, target: &Target) -> bool {
        self.0.remove(target).is_some()
    }

    /// Deadlines that have passed, and orders that the relay which leads since `led` (`None`: none does, or this node) does not repeat.
    #[must_use]
    pub fn expire(&mut self, led: Option<Instant>, now: Instant) -> Vec<(Target, Turn)> {
        let mut turns = Vec::new();
        let unheard = |order: &Order| led.is_some_and(|since| now.since(since.max(order.confirmed)) >= KEEP);
        self.0.retain(|target, order| {
            let ended = unheard(order);
            if ended {
                turns.push((*target, Turn::Ended));
            } else if !order.over && order.until <= now {
                order.over = true;
                turns.push((*target, Turn::Over));
            }
            !ended
        });
        turns
    }

    /// Orders with their deadlines.
    pub fn iter(&self) -> impl Iterator<Item = (Target, Instant)> {
        self.0.iter().map(|(target, order)| (*target, order.until))
    }

    /// The last deadline of orders that take a service; `None`: none does.
    pub fn drains(&self, service: ServiceId, vip: IpAddr) -> Option<Instant> {
        self.iter().filter(|(target, _)| target.takes(service, vip)).map(|(_, until)| until).max()
    }

    /// The deadline of an order; `None`: there is none.
    pub fn until(&self, target: &Target) -> Option<Instant> {
        self.0.get(target).map(|order| order.until)
    }

    /// Is there an order for it?
    pub fn has(&self, target: &Target) -> bool {
        self.0.contains_key(target)
    }

    /// No order.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Target = Target::Service(ServiceId(7));

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_order_outlives_its_deadline_and_ends_when_it_is_taken_back() {
        let mut orders = Orders::default();
        assert_eq!(orders.give(WEB, secs(60), at(0)), Some(Turn::Given));
        assert!(orders.expire(None, at(59)).is_empty());
        assert_eq!(orders.expire(None, at(60)), [(WEB, Turn::Over)]);
        assert!(orders.expire(None, at(600)).is_empty(), "said once");
        assert_eq!(orders.iter().collect::<Vec<_>>(), [(WEB, at(60))]);
        assert_eq!(orders.give(WEB, secs(30), at(600)), Some(Turn::Given), "more time");
        assert_eq!(orders.expire(None, at(630)), [(WEB, Turn::Over)]);
        assert_eq!(orders.give(WEB, secs(0), at(640)), None, "told again: it has no time left");
        assert!(orders.end(&WEB) && !orders.end(&WEB) && orders.is_empty());
    }

    #[test]
    fn a_repeated_order_is_no_news_and_one_that_is_not_repeated_is_forgotten() {
        let mut orders = Orders::default();
        let _given = orders.give(WEB, secs(600), at(0));
        for second in 1..60 {
            assert_eq!(orders.give(WEB, secs(600 - second), at(second)), None);
            assert!(orders.expire(Some(at(0)), at(second)).is_empty());
        }
        assert!(orders.expire(None, at(3600)).iter().all(|(_, turn)| *turn == Turn::Over), "nobody leads");
        // Another relay leads, and has time to say what it knows.
        assert!(orders.expire(Some(at(3600)), at(3609)).is_empty());
        assert_eq!(orders.expire(Some(at(3600)), at(3610)), [(WEB, Turn::Ended)]);
        assert!(orders.is_empty());
    }

    #[test]
    fn a_target_takes_whole_services_or_leaves_them_to_the_balancer() {
        let (web, vip, other) = (ServiceId(7), IpAddr::from([10, 9, 7, 100]), IpAddr::from([10, 9, 7, 101]));
        for (target, takes, inside) in [
            (Target::Site, true, false),
            (WEB, true, false),
            (Target::Service(ServiceId(8)), false, false),
            (Target::Vip(vip), true, false),
            (Target::Vip(other), false, false),
            (Target::Node(1), false, true),
            (Target::Endpoint(web, vip, 80), false, true),
        ] {
            assert_eq!((target.takes(web, vip), target.inside()), (takes, inside), "{target:?}");
        }
        let mut orders = Orders::default();
        assert_eq!(orders.drains(web, vip), None);
        for (target, seconds) in [(WEB, 60), (Target::Vip(vip), 90), (Target::Node(1), 900)] {
            assert!(orders.give(target, secs(seconds), at(0)).is_some());
        }
        assert_eq!(orders.drains(web, vip), Some(at(90)), "the longest of those that take it");
        assert_eq!(orders.drains(web, other), Some(at(60)));
        assert_eq!(orders.drains(ServiceId(8), other), None);
    }
}
