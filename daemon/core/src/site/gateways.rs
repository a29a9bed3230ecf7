//! Gateways of other sites that the probes of this node do not reach: nothing is sent to them while another one is heard.
//!
//! A gateway knows no flows, any will do: leaving one out costs nothing, and sending to a dead one costs all that it is sent. So silence of all
//! flows to it counts as soon as it is known, and being heard again for [`RETURN`]. Whether the site is reached at all is the path's
//! matter: while it is down, or all gateways are silent, none of them is left out.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::SiteId;
use super::path::io::{Carriage, Status};
use crate::time::Instant;

/// A gateway that was silent is sent nothing until it has been heard for so long: as a path that returns (sites.md 4.6).
pub const RETURN: Duration = Duration::from_secs(10);

/// What is known of one.
#[derive(Clone, Copy, Debug, Default)]
struct Gateway {
    /// Bit n: flow n of the path goes to it.
    flows: u32,
    /// Since when it is heard without a pause.
    heard: Option<Instant>,
    /// It was silent while the path carried packets, and has not been heard for long enough since.
    out: bool,
}

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    sites: BTreeMap<SiteId, BTreeMap<u16, Gateway>>,
    told: BTreeMap<SiteId, BTreeSet<u16>>,
}

impl Gateways {
    /// Ids of the gateways of each other site, and the flows of its path that go to each (bit n: flow n). One without flows is not probed,
    /// and never left out.
    pub fn handle_config(&mut self, sites: &BTreeMap<SiteId, BTreeMap<u16, u32>>) {
        self.sites.retain(|site, _| sites.contains_key(site));
        for (site, gateways) in sites {
            let known = self.sites.entry(*site).or_default();
            known.retain(|id, known| gateways.get(id) == Some(&known.flows));
            for (id, flows) in gateways.iter().filter(|(_, flows)| **flows != 0) {
                known.entry(*id).or_insert(Gateway { flows: *flows, ..Gateway::default() });
            }
        }
    }

    /// What the path to a site is worth, and over which flows.
    pub fn handle_path(&mut self, site: SiteId, status: &Status, now: Instant) {
        let Some(gateways) = self.sites.get_mut(&site) else { return };
        for gateway in gateways.values_mut() {
            if status.carriage != Carriage::Up {
                (gateway.heard, gateway.out) = (None, false);
                continue;
            }
            let heard = status.flows & gateway.flows != 0;
            gateway.heard = if heard { gateway.heard.or(Some(now)) } else { None };
            let settled = gateway.heard.is_some_and(|since| now.since(since) >= RETURN);
            gateway.out = !heard || gateway.out && !settled;
        }
    }

    /// A site of which other gateways are left out than before, and which.
    pub fn poll(&mut self) -> Option<(SiteId, BTreeSet<u16>)> {
        let gone = self.told.keys().find(|site| !self.sites.contains_key(site)).copied();
        if let Some(site) = gone {
            self.told.remove(&site);
            return Some((site, BTreeSet::new()));
        }
        let news = |(site, gateways): (&SiteId, _)| {
            let out = left_out(gateways);
            (self.told.get(site).map_or(!out.is_empty(), |told| *told != out)).then_some((*site, out))
        };
        let (site, out) = self.sites.iter().find_map(news)?;
        self.told.insert(site, out.clone());
        Some((site, out))
    }

    /// Gateways of a site that are left out.
    pub fn left_out(&self, site: SiteId) -> BTreeSet<u16> {
        self.sites.get(&site).map(left_out).unwrap_or_default()
    }
}

/// Those that are out; where that is all of them those that are silent now; where that is all of them none.
fn left_out(gateways: &BTreeMap<u16, Gateway>) -> BTreeSet<u16> {
    let all = |what: fn(&Gateway) -> bool| -> Option<BTreeSet<u16>> {
        let found: BTreeSet<u16> = gateways.iter().filter(|(_, gateway)| what(gateway)).map(|(id, _)| *id).collect();
        (found.len() < gateways.len()).then_some(found)
    };
    all(|gateway| gateway.out).or_else(|| all(|gateway| gateway.out && gateway.heard.is_none())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::path::io::Silence;
    use super::super::policy::tests::status;
    use super::*;

    const THERE: SiteId = SiteId(2);

    struct World {
        gateways: Gateways,
        now: Instant,
    }

    impl World {
        /// Gateways 21 and 22 with two flows each.
        fn new() -> Self {
            let mut gateways = Gateways::default();
            gateways.handle_config(&BTreeMap::from([(THERE, BTreeMap::from([(21, 0b0011), (22, 0b1100)]))]));
            Self { gateways, now: Instant::from_nanos(1) }
        }

        fn after(&mut self, span: Duration, carriage: Carriage, flows: u32) -> Option<Vec<u16>> {
            self.now = self.now + span;
            self.gateways.handle_path(THERE, &Status { flows, ..status(carriage) }, self.now);
            let news = self.gateways.poll();
            assert_eq!(self.gateways.poll(), None, "said once");
            news.map(|(site, out)| {
                assert_eq!((site, &out), (THERE, &self.gateways.left_out(THERE)));
                out.into_iter().collect()
            })
        }
    }

    const SOON: Duration = Duration::from_millis(100);

    #[test]
    fn a_silent_gateway_is_left_out_at_once_and_returns_when_it_was_heard_for_long() {
        let mut world = World::new();
        assert_eq!(world.after(SOON, Carriage::Unknown, 0), None, "nothing is known yet");
        assert_eq!(world.after(SOON, Carriage::Up, 0b1111), None);
        assert_eq!(world.after(SOON, Carriage::Up, 0b1101), None, "one of two links to it");
        assert_eq!(world.after(SOON, Carriage::Up, 0b1100), Some(vec![21]));
        assert_eq!(world.after(RETURN, Carriage::Up, 0b1101), None, "heard from now on");
        assert_eq!(world.after(RETURN - SOON, Carriage::Up, 0b1110), None);
        assert_eq!(world.after(Duration::ZERO, Carriage::Up, 0b1100), None, "a pause");
        assert_eq!(world.after(SOON, Carriage::Up, 0b1111), None);
        assert_eq!(world.after(RETURN - SOON, Carriage::Up, 0b1111), None);
        assert_eq!(world.after(SOON, Carriage::Up, 0b1111), Some(vec![]));
    }

    #[test]
    fn one_that_is_not_heard_when_the_path_comes_up_is_not_waited_for() {
        let mut world = World::new();
        assert_eq!(world.after(SOON, Carriage::Up, 0b0011), Some(vec![22]));
    }

    #[test]
    fn never_all_of_them_and_rather_one_that_has_just_come_than_one_that_has_just_gone() {
        let mut world = World::new();
        assert_eq!(world.after(SOON, Carriage::Up, 0b1100), Some(vec![21]));
        assert_eq!(world.after(SOON, Carriage::Up, 0b1111), None, "21 is heard again");
        assert_eq!(world.after(SOON, Carriage::Up, 0b0011), Some(vec![22]));
        assert_eq!(world.after(SOON, Carriage::Up, 0), Some(vec![]), "traffic alone speaks for the path");
    }

    #[test]
    fn while_the_path_is_down_the_path_decides() {
        let mut world = World::new();
        assert_eq!(world.after(SOON, Carriage::Up, 0b0011), Some(vec![22]));
        assert_eq!(world.after(SOON, Carriage::Down(Silence::In), 0), Some(vec![]));
        assert_eq!(world.after(SOON, Carriage::Up, 0b1111), None, "a path that returns has been good for long");
    }

    #[test]
    fn gateways_and_sites_come_and_go() {
        let mut world = World::new();
        assert_eq!(world.after(SOON, Carriage::Up, 0b0011), Some(vec![22]));
        world.gateways.handle_config(&BTreeMap::from([(THERE, BTreeMap::from([(21, 0b0011), (23, 0b1100), (24, 0)]))]));
        assert_eq!(world.gateways.poll(), Some((THERE, BTreeSet::new())));
        assert_eq!(world.after(SOON, Carriage::Up, 0b0011), Some(vec![23]), "24 has no flows");
        world.gateways.handle_config(&BTreeMap::new());
        assert_eq!(world.gateways.poll(), Some((THERE, BTreeSet::new())));
        assert_eq!(world.gateways.poll(), None);
    }
}
