//! Relays that die, stop or stand still, one at a time.

use super::super::link::{MS, SEC};
use super::super::node::RELAYS;
use super::Fault;
use crate::rng::Rng;

/// At each time one relay of all sites' is dead or stands still. `news`: what sites have ready changes meanwhile. Gives the end as well.
pub(super) fn singly(rng: &mut Rng, first: u64, sites: usize, news: bool) -> (Vec<(u64, Fault)>, u64) {
    let (mut faults, mut at) = (Vec::new(), first);
    for _ in 0..3 {
        let (site, relay) = (rng.index(sites), RELAYS.start + rng.index(RELAYS.len()));
        // Shorter than a relay is believed, and longer than a session stands without a sign of life.
        let back = at + rng.between(500, 40_000) * MS;
        let alive = (Fault::Relay(site, relay, false), Fault::Relay(site, relay, true));
        let (gone, returns) = match rng.below(5) {
            0 => (Fault::Stop(site, relay), alive.1),
            1 | 2 => (Fault::Freeze(site, relay, true), Fault::Freeze(site, relay, false)),
            _ => alive,
        };
        faults.extend([(at, gone), (back, returns)]);
        if news {
            let of = if rng.chance(500) { site } else { rng.index(sites) };
            let span = if rng.chance(500) { 10 * SEC } else { back - at + 9 * SEC };
            let off = at - SEC + rng.below(span);
            faults.extend([(off, Fault::Ready(of, false)), (off + rng.between(10, 20) * SEC, Fault::Ready(of, true))]);
        }
        at = back + rng.between(32, 40) * SEC;
    }
    (faults, at)
}
