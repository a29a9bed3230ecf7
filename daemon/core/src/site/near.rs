//! What packets must know of other sites: which may be asked for flows, how large a packet gets there, and who is nearest.
//!
//! Paths decide, as this node's prober measures them. The order changes only for a clear difference: round trips wander, and every change
//! of the order sends segments of unknown flows another way.

use core::time::Duration;
use std::collections::BTreeMap;

use super::SiteId;
use super::path::TRIED;
use super::path::io::{Carriage, Status};
use crate::balance::sites::SiteSpec;
use crate::time::Instant;

/// A site goes before another one when its round trip is at most this part of the other's ..
const CLEARLY: f64 = 0.8;
/// .. and shorter by this, in seconds: below it all sites are next door.
const AT_LEAST: f64 = 0.001;

/// For so long after a site was lost nothing is ended here that may live there: a way that is back within that time has cost its flows nothing. TCP sends
/// again after 0.2, 0.6, 1.4, 3, 6.2 s; a route that converges takes 1 to 3 s. Clients of a site that died wait so much longer for their reset.
pub const HELD: Duration = Duration::from_secs(5);

/// What is known of a site's path.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    /// In the region of this site.
    near: bool,
    down: bool,
    /// Until when its flows are held.
    held: Option<Instant>,
    mtu: Option<u16>,
    /// Usual round trip in seconds; `None`: never heard.
    rtt: Option<f64>,
}

/// Other sites, as packets shall know them.
#[derive(Clone, Debug, Default)]
pub struct Near {
    seen: BTreeMap<SiteId, Seen>,
    order: Vec<SiteId>,
    told: Vec<SiteSpec>,
}

impl Near {
    /// All sites with their regions, and this one.
    pub fn handle_config(&mut self, here: SiteId, regions: &BTreeMap<SiteId, String>) {
        self.seen.retain(|site, _| regions.contains_key(site) && *site != here);
        let region = regions.get(&here);
        for (site, of) in regions.iter().filter(|(site, _)| **site != here) {
            self.seen.entry(*site).or_default().near = Some(of) == region;
        }
        self.order.retain(|site| self.seen.contains_key(site));
        let mut new: Vec<SiteId> = self.seen.keys().filter(|site| !self.order.contains(site)).copied().collect();
        new.sort_by_key(|site| (!self.seen[site].near, *site));
        self.order.extend(new);
    }

    /// What the path to a site is worth. One that has never been heard is no evidence against the site.
    pub fn handle_path(&mut self, site: SiteId, status: &Status, now: Instant) {
        let Some(seen) = self.seen.get_mut(&site) else { return };
        // Whoever lives there is asked for before anything new goes there: each node of this site must be able to ask when the first one sends.
        let before =
            core::mem::replace(&mut seen.down, matches!(status.carriage, Carriage::Down(_)) && !status.returning);
        if seen.down != before {
            seen.held = seen.down.then(|| now + HELD);
        }
        // While nothing gets through, the last measure holds. The largest size that is tried says nothing of larger packets.
        if status.carriage == Carriage::Up {
            seen.mtu = Some(status.mtu).filter(|mtu| *mtu < TRIED);
            seen.rtt = status.rtt_usual.or(status.rtt).or(seen.rtt);
        }
    }

    /// When a site's flows are not held any more.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.seen.values().filter_map(|seen| seen.held).min()
    }

    /// Sites, the nearest first, if that is news.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<SiteSpec>> {
        self.arrange();
        for seen in self.seen.values_mut() {
            seen.held = seen.held.filter(|until| *until > now);
        }
        let spec = |site: &SiteId| {
            let seen = self.seen.get(site).copied().unwrap_or_default();
            let (reachable, lost) = (!seen.down, seen.held.is_some());
            SiteSpec { site: *site, reachable, lost, via_ingress: false, mtu: seen.mtu }
        };
        let now: Vec<SiteSpec> = self.order.iter().map(spec).collect();
        (now != self.told).then(|| {
            self.told.clone_from(&now);
            now
        })
    }

    /// Each site moves up past those that are clearly farther. As many rounds as there are sites: the comparison has no cycles of two.
    fn arrange(&mut self) {
        for _ in 1..self.order.len() {
            for i in 1..self.order.len() {
                if self.nearer(self.order[i], self.order[i - 1]) {
                    self.order.swap(i - 1, i);
                }
            }
        }
    }

    fn nearer(&self, site: SiteId, than: SiteId) -> bool {
        let rtt = |site: SiteId| self.seen.get(&site).and_then(|seen| seen.rtt);
        match (rtt(site), rtt(than)) {
            (Some(rtt), Some(other)) => rtt <= other * CLEARLY && rtt + AT_LEAST <= other,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::io::Silence;
    use super::super::policy::tests::status;
    use super::*;

    const NOW: Instant = Instant::ZERO;
    const OTHERS: [SiteId; 3] = [SiteId(2), SiteId(3), SiteId(4)];

    fn near() -> Near {
        let mut near = Near::default();
        let regions = [(1, "eu"), (2, "us"), (3, "eu"), (4, "us")].map(|(id, of)| (SiteId(id), of.to_owned()));
        near.handle_config(SiteId(1), &BTreeMap::from(regions));
        near
    }

    fn path(rtt: f64) -> Status {
        Status { rtt: Some(rtt), rtt_usual: Some(rtt), mtu: TRIED, ..status(Carriage::Up) }
    }

    fn order(near: &mut Near) -> Option<Vec<u8>> {
        near.poll(NOW).map(|specs| specs.iter().map(|spec| spec.site.0).collect())
    }

    #[test]
    fn before_anything_is_measured_the_own_region_is_nearest_and_everybody_may_be_asked() {
        let mut near = near();
        let told = near.poll(NOW).expect("the first word");
        assert_eq!(told.iter().map(|spec| spec.site).collect::<Vec<_>>(), [SiteId(3), SiteId(2), SiteId(4)]);
        assert!(told.iter().all(|spec| spec.reachable && spec.mtu.is_none()));
        assert_eq!(near.poll(NOW), None, "nothing new");
    }

    #[test]
    fn a_path_that_is_down_takes_its_site_out_and_leaves_its_place_and_its_measure() {
        let mut near = near();
        for (site, rtt) in OTHERS.into_iter().zip([0.010, 0.020, 0.040]) {
            near.handle_path(site, &Status { mtu: 1380, ..path(rtt) }, NOW);
        }
        assert_eq!(order(&mut near), Some(vec![2, 3, 4]));
        near.handle_path(SiteId(2), &Status { mtu: TRIED, rtt: None, ..status(Carriage::Down(Silence::In)) }, NOW);
        let told = near.poll(NOW).expect("news");
        assert_eq!(
            told[0],
            SiteSpec { site: SiteId(2), reachable: false, lost: true, via_ingress: false, mtu: Some(1380) }
        );
        assert!(told[1..].iter().all(|spec| spec.reachable));
        near.handle_path(SiteId(2), &path(0.010), NOW);
        let told = near.poll(NOW).expect("news");
        assert_eq!(told[0], SiteSpec { site: SiteId(2), reachable: true, lost: false, via_ingress: false, mtu: None });
        // Flows that live there are asked for as soon as something gets through; new ones wait for the path.
        let down = Status { mtu: TRIED, ..status(Carriage::Down(Silence::In)) };
        near.handle_path(SiteId(4), &down, NOW);
        assert!(near.poll(NOW).is_some_and(|told| !told[2].reachable));
        near.handle_path(SiteId(4), &Status { returning: true, ..down }, NOW);
        assert!(near.poll(NOW).is_some_and(|told| told[2].reachable));
        // What was never heard, and then counts as unknown, is asked as before.
        near.handle_path(SiteId(3), &status(Carriage::Unknown), NOW);
        assert_eq!(near.poll(NOW), None);
    }

    #[test]
    fn flows_of_a_site_that_was_lost_are_held_for_five_seconds_or_until_it_is_back() {
        let mut near = near();
        let down = Status { mtu: TRIED, ..status(Carriage::Down(Silence::Out)) };
        let held = |near: &mut Near, now: Instant| {
            near.poll(now).map(|told| told.iter().map(|spec| (spec.reachable, spec.lost)).collect::<Vec<_>>()[0])
        };
        near.handle_path(SiteId(3), &path(0.010), NOW);
        assert_eq!((held(&mut near, NOW), near.poll_timeout()), (Some((true, false)), None));
        near.handle_path(SiteId(3), &down, NOW);
        let until = NOW + HELD;
        assert_eq!((held(&mut near, NOW), near.poll_timeout()), (Some((false, true)), Some(until)));
        // It is said again in each slot, and counts from when it was lost.
        near.handle_path(SiteId(3), &down, NOW + Duration::from_secs(3));
        assert_eq!(held(&mut near, NOW + (HELD - Duration::from_millis(1))), None);
        assert_eq!((held(&mut near, until), near.poll_timeout()), (Some((false, false)), None));
        near.handle_path(SiteId(3), &Status { returning: true, ..down }, until);
        assert_eq!(held(&mut near, until), Some((true, false)));
        near.handle_path(SiteId(3), &down, until);
        assert_eq!(held(&mut near, until), Some((false, true)), "lost once more");
        near.handle_path(SiteId(3), &path(0.010), until);
        assert_eq!((held(&mut near, until), near.poll_timeout()), (Some((true, false)), None));
    }

    #[test]
    fn round_trips_that_wander_do_not_change_the_order_and_clear_differences_do() {
        let mut near = near();
        for (site, rtt) in OTHERS.into_iter().zip([0.020, 0.021, 0.100]) {
            near.handle_path(site, &path(rtt), NOW);
        }
        assert_eq!(
            order(&mut near),
            Some(vec![3, 2, 4]),
            "2 is not clearly nearer than 3, which was first by its region"
        );
        near.handle_path(SiteId(2), &path(0.0169), NOW);
        assert_eq!(order(&mut near), None);
        near.handle_path(SiteId(4), &path(0.010), NOW);
        assert_eq!(order(&mut near), Some(vec![4, 3, 2]));
        // A tenth of a millisecond is a great part of a short way, and no reason.
        near.handle_path(SiteId(4), &path(0.0009), NOW);
        near.handle_path(SiteId(2), &path(0.0002), NOW);
        near.handle_path(SiteId(3), &path(0.0050), NOW);
        assert_eq!(order(&mut near), Some(vec![4, 2, 3]));
    }

    #[test]
    fn sites_come_and_go_with_the_configuration() {
        let mut near = near();
        let _first = near.poll(NOW);
        let regions = [(1, "eu"), (4, "us"), (5, "eu")].map(|(id, of)| (SiteId(id), of.to_owned()));
        near.handle_config(SiteId(1), &BTreeMap::from(regions));
        assert_eq!(order(&mut near), Some(vec![4, 5]), "known ones keep their places, new ones come behind");
        near.handle_path(SiteId(2), &path(0.001), NOW);
        assert_eq!(near.poll(NOW), None, "a site that is no more");
    }
}
