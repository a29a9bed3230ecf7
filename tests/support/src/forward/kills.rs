//! Upgrades of a running data plane that end anywhere, under traffic: what each kill leaves, and what all of them cost.
//!
//! Every start is a whole upgrade: the map of flows has another size than the one before, so there are new maps, flows that move, new
//! programs under the links that stand, and old maps to remove.

use std::time::Duration;

use super::fleet::Fleet;
use super::fleet_traffic::Toll;
use crate::{LabError, Result, Stamp, sleep_until};

/// The sizes of the map of flows that starts take in turn.
const SIZES: [u32; 2] = [16_384, 32_768];
/// Kills may come so much later than the longest start that was seen, as a part of it.
const BEYOND: f64 = 1.1;

/// How to kill.
#[derive(Debug, Clone, Copy)]
pub struct KillPlan {
    /// Makes the points and the victims.
    pub seed: u64,
    /// How many.
    pub kills: u32,
    /// UDP probers, and audited TCP flows.
    pub traffic: (usize, usize),
    /// New connections after each kill.
    pub fresh: usize,
    /// Kills of a daemon that runs, whose successor is started at once and finds everything as it left it: so many that count.
    pub adoptions: u32,
    /// One during which a prober was later than this does not count and is repeated: the machine was late, whoever was to run. As many are
    /// repeated at most as there shall be.
    pub allowance: Duration,
}

/// What the kills left and cost.
#[derive(Debug, Clone)]
pub struct KillReport {
    /// The longest undisturbed start, to programs on devices, milliseconds.
    pub start_ms: f64,
    /// From each kill of a daemon that ran until its successor says that programs, tables and ways are its own, milliseconds, in order of size.
    pub adopt_ms: Vec<f64>,
    /// Kills of a daemon that ran which do not count: see [`KillPlan::allowance`].
    pub void: u32,
    /// Kills after which the links of a device were not those from before, in words.
    pub links: Vec<String>,
    /// New connections that did not open, of how many.
    pub refused: (usize, usize),
    /// The traffic.
    pub toll: Toll,
    /// For each lost datagram, what had been done last; and what the programs dropped.
    pub traces: Vec<String>,
    /// What stands in the folders of pins after a last undisturbed start, beside two links, one set and one load: nothing.
    pub leftovers: Vec<String>,
}

/// A generator of its own, so that a seed says everything: the finalizer of splitmix64 over a counter.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number in 0..1.
    pub fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((z ^ (z >> 31)) >> 32).expect("half of it");
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u32::try_from(limit).expect("a small number");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in 0..limit")]
        let rolled = (self.part() * f64::from(limit)) as u32;
        rolled as usize
    }
}

/// Kills daemons of `fleet` as planned. Each kill is told to `each` in words.
///
/// # Errors
/// When the fleet does not come up or traffic does not begin.
pub fn kills(fleet: &mut Fleet, plan: KillPlan, mut each: impl FnMut(&str)) -> Result<KillReport> {
    let count = fleet.crew.nodes.len();
    let mut dice = Dice::new(plan.seed);
    let mut sizes = vec![0; count];
    fleet.start_all(SIZES[0])?;
    let before: Vec<Vec<u32>> = fleet.ids().map(|n| link_ids(fleet, n)).collect::<Result<_>>()?;
    if let Some(odd) = before.iter().find(|ids| ids.len() != 2) {
        return Err(LabError::answer("links of a device", format!("not one per hook: {odd:?}")));
    }
    let traffic = fleet.traffic(plan.traffic.0, plan.traffic.1)?;
    // How long an upgrade takes, under this very traffic.
    let mut longest = Duration::ZERO;
    for n in fleet.ids() {
        longest = longest.max(upgrade(fleet, n, &mut sizes)?);
    }
    let (mut links, mut refused) = (Vec::new(), (0, 0));
    let mut events = vec![(Stamp::now(), "the first upgrades".to_owned())];
    for kill in 0..plan.kills {
        let n = fleet.ids().nth(dice.below(count)).expect("one of them");
        let point = longest.mul_f64(dice.part() * BEYOND);
        sizes[index(n)] = 1 - sizes[index(n)];
        fleet.crew.node_mut(n).daemon = None;
        let begun = Stamp::now();
        events.push((begun, format!("start of n{n}")));
        fleet.start(n, SIZES[sizes[index(n)]])?;
        sleep_until(begun + point);
        events.push((fleet.daemon(n).process.sigkill()?, format!("kill {kill} of n{n}")));
        let now = link_ids(fleet, n)?;
        if now != before[index(n)] {
            links.push(format!("kill {kill} of n{n} after {point:?}: {now:?}, before {:?}", before[index(n)]));
        }
        let opened = if plan.fresh > 0 { fleet.fresh(plan.fresh)? } else { 0 };
        refused = (refused.0 + plan.fresh - opened, refused.1 + plan.fresh);
        let pins = fleet.pins(n)?.join(" ");
        each(&format!("kill {kill}: n{n} after {point:?}, {opened} of {} fresh connections; {pins}", plan.fresh));
    }
    for n in fleet.ids() {
        upgrade(fleet, n, &mut sizes)?;
    }
    let (mut adopt_ms, mut void, mut adoption) = (Vec::new(), 0, 0);
    while adoption < plan.adoptions + void.min(plan.adoptions) {
        let n = fleet.ids().nth(dice.below(count)).expect("one of them");
        let killed = fleet.daemon(n).process.sigkill()?;
        events.push((killed, format!("adoption {adoption} at n{n}")));
        fleet.crew.node_mut(n).daemon = None;
        fleet.start(n, SIZES[sizes[index(n)]])?;
        fleet.wait_on(n)?;
        let stood = Stamp::now();
        let (took, late) = (stood.since(killed).as_secs_f64() * 1e3, traffic.late(killed, stood));
        let counts = late <= plan.allowance;
        let says = if counts { String::new() } else { format!(", void: a prober was late by {late:?}") };
        each(&format!("adoption {adoption}: n{n} after {took:.0} ms{says}"));
        let now = link_ids(fleet, n)?;
        if now != before[index(n)] {
            links.push(format!("adoption {adoption} at n{n}: {now:?}, before {:?}", before[index(n)]));
        }
        if counts {
            adopt_ms.push(took);
        } else {
            void += 1;
        }
        adoption += 1;
    }
    adopt_ms.sort_by(f64::total_cmp);
    events.push((Stamp::now(), "the last upgrades".to_owned()));
    let (mut leftovers, mut traces) = (Vec::new(), Vec::new());
    for n in fleet.ids() {
        upgrade(fleet, n, &mut sizes)?;
        let now = link_ids(fleet, n)?;
        if now != before[index(n)] {
            links.push(format!("the last start of n{n}: {now:?}, before {:?}", before[index(n)]));
        }
        traces.push(format!("n{n}: {}", fleet.drops(n)?));
        leftovers.extend(surplus(&fleet.pins(n)?).into_iter().map(|pin| format!("n{n}: {pin}")));
    }
    let toll = traffic.finish()?;
    traces.extend(toll.lost_at.iter().map(|at| match events.iter().rfind(|(when, _)| when <= at) {
        Some((when, what)) => format!("a datagram was lost {:?} after {what}", at.since(*when)),
        None => "a datagram was lost before the first event".to_owned(),
    }));
    Ok(KillReport { start_ms: longest.as_secs_f64() * 1e3, adopt_ms, void, links, refused, toll, traces, leftovers })
}

fn index(n: u16) -> usize {
    usize::from(n) - 1
}

/// An undisturbed upgrade of node `n`; how long it took to stand.
fn upgrade(fleet: &mut Fleet, n: u16, sizes: &mut [usize]) -> Result<Duration> {
    sizes[index(n)] = 1 - sizes[index(n)];
    fleet.crew.node_mut(n).daemon = None;
    let begun = Stamp::now();
    fleet.start(n, SIZES[sizes[index(n)]])?;
    fleet.wait_on(n)?;
    Ok(Stamp::now().since(begun))
}

fn link_ids(fleet: &Fleet, n: u16) -> Result<Vec<u32>> {
    Ok(fleet.links(n)?.iter().map(|link| link.id).collect())
}

/// What stands beside two links, one set and one load.
fn surplus(pins: &[String]) -> Vec<String> {
    let of = |prefix: &'static str| pins.iter().filter(move |name| name.starts_with(prefix));
    let mut all: Vec<String> =
        of("link-").skip(2).chain(of("maps-").skip(1)).chain(of("load-").skip(1)).cloned().collect();
    let known = |name: &&String| ["link-", "maps-", "load-"].iter().any(|prefix| name.starts_with(prefix));
    all.extend(pins.iter().filter(|name| !known(name)).cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::{Dice, surplus};

    #[test]
    fn a_seed_says_everything_and_dice_stay_in_range() {
        let roll = |seed| (0..1000).map(|_| Dice::new(seed).part()).collect::<Vec<_>>();
        assert_eq!(roll(7), roll(7));
        let mut dice = Dice::new(1);
        let rolled: Vec<usize> = (0..1000).map(|_| dice.below(3)).collect();
        assert!((0..3).all(|n| rolled.iter().filter(|r| **r == n).count() > 250), "even enough");
        assert!(rolled.iter().all(|r| *r < 3));
    }

    #[test]
    fn a_second_set_a_third_link_and_a_stranger_are_left_over() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(surplus(&names("link-2-xdp link-2-egress load-9 maps-4-ab")).is_empty());
        let found = surplus(&names("link-2-xdp link-2-egress link-2-ingress load-8 load-9 maps-4-ab maps-5-ab odd"));
        assert_eq!(found, ["link-2-ingress", "maps-5-ab", "load-9", "odd"]);
    }
}
