//! 100,000 endpoint changes a minute in one site, as its peers pay for them (F19; issue 6, Shows 6), while one of its paths to sixteen other sites
//! comes or goes each second.

use std::collections::{BTreeMap, VecDeque};

use bascule_core::site::SiteId;
use bascule_core::site::state::State;
use bascule_core::site::state::io::{Action, Config, Pass, PeerConfig};
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::state::version::Speaks;
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_core::time::Instant;

use super::link::{MS, SEC};
use crate::rng::Rng;

/// Services of twenty endpoints, and of one.
const LARGE: u32 = 950;
const SMALL: u32 = 50;
const ENDPOINTS: u16 = 20;
/// Between two changes: 100,000 a minute.
const CHANGE: u64 = 600_000;
/// TLS record, TCP and IPv6 headers of each message, at least.
const FRAME: u64 = 100;

/// What a minute of changes cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Bytes a second to one peer, framing included, over the whole run.
    pub bytes: f64,
    /// Most bytes in any one second after the first half minute (what is saved up is spent by then).
    pub peak: u64,
    /// Endpoint changes.
    pub changes: u64,
    /// Longest time in which a peer did not know that a service had nothing ready any more, or had again, in seconds.
    pub crossing: f64,
    /// Longest time in which a peer's count was off by more than a quarter, in seconds.
    pub stale: f64,
}

struct End {
    state: State,
    known: BTreeMap<u32, u16>,
}

/// One site writes for `seconds`, another reads, 20 ms away.
pub fn run(seed: u64, seconds: u64) -> Cost {
    let mut rng = Rng::new(seed);
    let end = |here: u8, there: u8| {
        let peer = PeerConfig { prefixes: Vec::new(), export: Pass::All, import: Pass::All };
        let (instance, peers) = (u64::from(here), BTreeMap::from([(SiteId(there), peer)]));
        let (speaks, build) = (Speaks::OURS, String::new());
        let config = Config { here: SiteId(here), instance, incarnation: 1, seed, speaks, build, peers };
        End { state: State::new(config, Instant::ZERO), known: BTreeMap::new() }
    };
    let mut ends = [end(1, 2), end(2, 1)];
    let mut way: VecDeque<(u64, usize, Vec<u8>)> = VecDeque::new();
    let services = LARGE + SMALL;
    let size = |id: u32| if id < LARGE { ENDPOINTS } else { 1 };
    let mut ready: Vec<Vec<bool>> = (0..services).map(|id| vec![true; usize::from(size(id))]).collect();
    let mut cost = Cost::default();
    let (mut sent, mut second) = (0u64, 0u64);
    let mut wrong: BTreeMap<(u32, bool), u64> = BTreeMap::new();
    let (start, mut now, mut change, mut look) = (15 * SEC, 0, 15 * SEC, 15 * SEC);
    let stop = start + seconds * SEC;
    ends[0].state.handle_connected(SiteId(2), Instant::ZERO);
    ends[1].state.handle_connected(SiteId(1), Instant::ZERO);
    let write = |ends: &mut [End; 2], ready: &[Vec<bool>], id: u32, now: u64| {
        let up = ready[id as usize].iter().filter(|r| **r).count();
        let up = u16::try_from(up).unwrap_or(0);
        let (expected, capacity) = (size(id), u32::from(up) * 100);
        let summary = Summary { ready: up, expected, draining: false, capacity, demand: 800 };
        let body = Some(Body::Service(summary));
        ends[0].state.handle_local(Key::Service(ServiceId(id)), body, Instant::from_nanos(now));
    };
    (0..services).for_each(|id| write(&mut ends, &ready, id, 0));
    while now < stop {
        let timers = ends.iter().filter_map(|e| e.state.poll_timeout()).map(Instant::as_nanos).min();
        let arrival = way.front().map(|(at, ..)| *at);
        now = [timers, arrival, Some(change), Some(look)].into_iter().flatten().min().unwrap_or(stop).max(now);
        if now >= change {
            change += CHANGE;
            cost.changes += 1;
            // Any endpoint of any service, the small ones as likely as one of their size deserves.
            let all = u64::from(LARGE) * u64::from(ENDPOINTS) + u64::from(SMALL);
            let which = rng.below(all);
            let large = u64::from(LARGE) * u64::from(ENDPOINTS);
            let (id, endpoint) = if which < large {
                (which / u64::from(ENDPOINTS), which % u64::from(ENDPOINTS))
            } else {
                (u64::from(LARGE) + which - large, 0)
            };
            let (id, endpoint) = (u32::try_from(id).unwrap_or(0), usize::try_from(endpoint).unwrap_or(0));
            let slot = &mut ready[id as usize][endpoint];
            *slot = !*slot;
            write(&mut ends, &ready, id, now);
        }
        let at = Instant::from_nanos(now);
        while way.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, to, bytes)) = way.pop_front() else { break };
            let from = SiteId(if to == 0 { 2 } else { 1 });
            ends[to].state.handle_bytes(from, &bytes, at);
        }
        for (index, end) in ends.iter_mut().enumerate() {
            end.state.handle_expire(at);
            while let Some(action) = end.state.poll_action() {
                match action {
                    Action::Send(_, bytes) => {
                        if index == 0 && now >= start {
                            sent += bytes.len() as u64 + FRAME;
                            second += bytes.len() as u64 + FRAME;
                        }
                        way.push_back((now + 20 * MS, 1 - index, bytes));
                    }
                    Action::Record { key: Key::Service(id), body: Some(Body::Service(summary)), .. } => {
                        let _old = end.known.insert(id.0, summary.ready);
                    }
                    _ => {}
                }
            }
        }
        if now >= look {
            look += SEC / 10;
            if look.is_multiple_of(SEC) {
                let reach = (2..18).map(|site| (SiteId(site), site > 3 || look.is_multiple_of(2 * SEC))).collect();
                ends[0].state.handle_reach(reach, at);
                if now >= start + 30 * SEC {
                    cost.peak = cost.peak.max(second);
                }
                second = 0;
            }
            compare(&ready, &ends[1].known, &mut wrong, &mut cost, now);
        }
    }
    cost.bytes = sent as f64 / seconds as f64;
    cost
}

fn compare(
    ready: &[Vec<bool>],
    known: &BTreeMap<u32, u16>,
    wrong: &mut BTreeMap<(u32, bool), u64>,
    cost: &mut Cost,
    now: u64,
) {
    for (id, endpoints) in (0u32..).zip(ready) {
        let truth = endpoints.iter().filter(|r| **r).count();
        let said = usize::from(known.get(&id).copied().unwrap_or(0));
        let off = [(false, truth.abs_diff(said) * 4 > endpoints.len().max(8)), (true, (truth == 0) != (said == 0))];
        for (crossing, is_off) in off {
            if is_off {
                let since = *wrong.entry((id, crossing)).or_insert(now);
                let longest = (now - since) as f64 / SEC as f64;
                let worst = if crossing { &mut cost.crossing } else { &mut cost.stale };
                *worst = worst.max(longest);
            } else {
                let _right = wrong.remove(&(id, crossing));
            }
        }
    }
}
