use super::super::handshakes::Places;
use super::super::path::io::{Carriage, Event};
use super::super::path::tests::{MS, Pair};
use super::*;

const WEB: ServiceId = ServiceId(7);
const SHOP: ServiceId = ServiceId(8);
const HERE: SiteId = SiteId(1);
const THERE: SiteId = SiteId(2);
const FAR: SiteId = SiteId(3);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * MS)
}

fn totals(prompt: u64, late: u64) -> Totals {
    Totals { answered: prompt, failed: 0, prompt, late }
}

fn speaker() -> Speaker {
    let mut speaker = Speaker::new(HERE);
    speaker.handle_services(&BTreeSet::from([WEB, SHOP]));
    speaker
}

/// What is said of a reading that took no time.
fn said(speaker: &mut Speaker, ms: u64, read: &[(ServiceId, Vec<(SiteId, Totals)>)]) -> Vec<(SiteId, Evidence)> {
    speaker.handle_totals(read, at(ms), at(ms))
}

#[test]
fn what_services_bring_is_added_up_by_site_and_only_what_is_new() {
    let mut speaker = speaker();
    let other = ServiceId(9);
    let all = |n: u64| {
        vec![
            (WEB, vec![(HERE, totals(n * 90, 0)), (THERE, totals(n * 10, n)), (FAR, totals(n, 0))]),
            (SHOP, vec![(THERE, totals(n * 15, 0))]),
            (other, vec![(THERE, totals(n * 1000, 0))]),
        ]
    };
    assert_eq!(said(&mut speaker, 0, &all(5)), [], "since when is not known");
    let sums = [(THERE, Evidence { acknowledged: 25, again: 1 }), (FAR, Evidence { acknowledged: 1, again: 0 })];
    assert_eq!(said(&mut speaker, 100, &all(6)), sums);
    assert_eq!(said(&mut speaker, 200, &all(6)), [], "nothing new");
    // The maps were made anew: what is less than it was says nothing, and counts from there.
    assert_eq!(said(&mut speaker, 300, &all(1)), []);
    assert_eq!(said(&mut speaker, 400, &all(2)), sums);
    speaker.handle_services(&BTreeSet::from([SHOP]));
    assert_eq!(said(&mut speaker, 500, &all(3)), [(THERE, Evidence { acknowledged: 15, again: 0 })]);
}

#[test]
fn looks_are_frequent_while_there_is_enough_to_say_and_a_late_one_says_nothing() {
    let mut speaker = speaker();
    let mut now = 0;
    let mut look = |speaker: &mut Speaker, span: u64, count: u64, brought: &mut u64| {
        now += span;
        *brought += count;
        said(speaker, now, &[(WEB, vec![(THERE, totals(*brought, 0))]), (SHOP, vec![(THERE, totals(0, 0))])])
    };
    let mut brought = 0;
    for _ in 0..40 {
        assert_eq!(look(&mut speaker, 250, 49, &mut brought), [], "196 a second");
        assert_eq!(speaker.pace(), SELDOM);
    }
    // Two hundred a second: from now on there is something to say, by the service that brings it.
    assert_eq!(look(&mut speaker, 250, 50, &mut brought), []);
    assert_eq!((speaker.pace(), speaker.services().collect::<Vec<_>>()), (LOOK, vec![WEB]));
    assert_eq!(look(&mut speaker, 100, 20, &mut brought), [(THERE, Evidence { acknowledged: 20, again: 0 })]);
    assert_eq!(look(&mut speaker, 150, 30, &mut brought), [(THERE, Evidence { acknowledged: 30, again: 0 })]);
    assert_eq!(look(&mut speaker, 151, 300, &mut brought), [], "when these came nobody knows");
    // It took so long to answer that some of it may be old.
    brought += 20;
    let read = [(WEB, vec![(THERE, totals(brought, 0))])];
    assert_eq!(speaker.handle_totals(&read, at(now + 100), at(now + 160)), []);
    now += 100;
    let mut look = |speaker: &mut Speaker, span: u64, count: u64| {
        now += span;
        brought += count;
        said(speaker, now, &[(WEB, vec![(THERE, totals(brought, 0))])])
    };
    for _ in 0..8 {
        assert!(speaker.is_speaking());
        let _little = look(&mut speaker, 100, 19);
    }
    let _little = look(&mut speaker, 100, 19);
    assert_eq!(speaker.pace(), SELDOM);
}

#[test]
fn a_service_that_is_looked_at_seldom_does_not_lend_its_past_to_another_one() {
    let mut speaker = speaker();
    let read = |n: u64| (WEB, vec![(THERE, totals(n * 30, 0))]);
    let rare = |n: u64| (SHOP, vec![(THERE, totals(n, n))]);
    let _first = said(&mut speaker, 0, &[read(0), rare(0)]);
    let _next = said(&mut speaker, 100, &[read(1), rare(0)]);
    assert_eq!(said(&mut speaker, 200, &[read(2)]), [(THERE, Evidence { acknowledged: 30, again: 0 })]);
    // Of 200 ms: no word of this moment.
    assert_eq!(said(&mut speaker, 300, &[read(3), rare(9)]), [(THERE, Evidence { acknowledged: 30, again: 0 })]);
    assert_eq!(speaker.services().collect::<Vec<_>>(), [WEB, SHOP], "it brings some: it is looked at as often");
}

/// Numbers between 0 and 1 (xorshift64).
fn dice(seed: u64) -> impl Fn() -> f64 {
    let state = core::cell::Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    move || {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        (x >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a node sees of its clients' handshakes with the other site.
struct Node {
    places: Places,
    /// Which SYN, and when its client goes on.
    noted: Vec<Option<(u64, Option<u64>)>>,
    sent: u64,
    totals: Totals,
    speaker: Speaker,
    look_at: u64,
    /// Connections a second.
    rate: u64,
}

/// Two nodes with a path between them, and clients whose handshakes go over it. A round trip is 20 ms, and 20 ms more to a client.
struct World {
    pair: Pair,
    nodes: [Node; 2],
    seed: u64,
    dice: Box<dyn Fn() -> f64>,
    /// The part of packets that is lost on the way from each end.
    loss: [f64; 2],
    /// The part of clients that do not go on whatever they get.
    vanish: f64,
    /// Clients go on without an answer: somebody sends what they would.
    forged: bool,
}

const STEP: u64 = 5;
const ROUND_TRIP: u64 = 40;

impl World {
    /// Ten seconds old, and without clients.
    fn new(seed: u64) -> Self {
        let node = |here: u8| Node {
            places: Places::new(512),
            noted: vec![None; 512],
            sent: 0,
            totals: Totals::default(),
            speaker: {
                let mut speaker = Speaker::new(SiteId(here));
                speaker.handle_services(&BTreeSet::from([WEB]));
                speaker
            },
            look_at: seed * 13 % 250,
            rate: 0,
        };
        let mut world = Self {
            pair: Pair::new(10),
            nodes: [node(1), node(2)],
            seed,
            dice: Box::new(dice(seed + 1)),
            loss: [0.0; 2],
            vanish: 0.0,
            forged: false,
        };
        world.run(10_000);
        assert!(world.pair.ends.iter().all(|end| end.status().carriage == Carriage::Up));
        world
    }

    fn now(&self) -> u64 {
        self.pair.now / MS
    }

    fn lose(&mut self, loss: [f64; 2]) {
        self.loss = loss;
        let dice = dice(self.seed + 1_000_003);
        self.pair.passes = Box::new(move |from, _, _, _| dice() >= loss[from]);
    }

    fn bring(&mut self, rates: [u64; 2]) {
        self.nodes.iter_mut().zip(rates).for_each(|(node, rate)| node.rate = rate);
    }

    fn suppressed(&self) -> [bool; 2] {
        [0, 1].map(|end: usize| self.pair.ends[end].status().suppressed)
    }

    fn run(&mut self, ms: u64) {
        let end = self.now() + ms;
        while self.now() < end {
            self.step();
        }
    }

    fn step(&mut self) {
        self.pair.run(STEP);
        let now = self.now();
        for end in 0..2 {
            let arrivals = self.nodes[end].rate * now / 1000 - self.nodes[end].rate * (now - STEP) / 1000;
            for _ in 0..arrivals {
                let lost = (self.dice)() < self.loss[end] || (self.dice)() < self.loss[1 - end];
                let goes_on = self.forged || !(lost || (self.dice)() < self.vanish);
                let node = &mut self.nodes[end];
                node.sent += 1;
                let place = usize::try_from(node.sent).expect("few") % node.noted.len();
                if node.noted[place].is_none() {
                    node.noted[place] = Some((node.sent, goes_on.then_some(now + ROUND_TRIP)));
                }
            }
            if now >= self.nodes[end].look_at {
                self.look(end, now);
            }
        }
    }

    fn look(&mut self, end: usize, now: u64) {
        let node = &mut self.nodes[end];
        for (place, noted) in node.noted.iter_mut().enumerate() {
            let seen = noted.map(|(which, goes_on)| (which, goes_on.is_some_and(|at| at <= now)));
            if let Some(seen) = node.places.look(place, seen, at(now)) {
                node.totals.count(seen);
                if seen.ends() {
                    *noted = None;
                }
            }
        }
        let other = SiteId(2 - u8::try_from(end).expect("0 or 1"));
        for (site, evidence) in said(&mut node.speaker, now, &[(WEB, vec![(other, node.totals)])]) {
            assert_eq!(site, other);
            self.pair.ends[end].handle_evidence(evidence, at(now));
        }
        let pace = u64::try_from(node.speaker.pace().as_millis()).expect("short");
        node.look_at = now + pace;
    }

    /// Milliseconds until both ends have said so.
    fn until(&mut self, patience: u64, what: impl Fn(&Event) -> bool) -> Option<u64> {
        let from = self.now();
        while self.now() < from + patience {
            self.step();
            let seen = |end| self.pair.since(from).iter().any(|(_, of, event)| *of == end && what(event));
            if seen(0) && seen(1) {
                return Some(self.now() - from);
            }
        }
        None
    }
}

/// A world in which traffic speaks at both ends.
fn quiet(seed: u64, rate: u64) -> World {
    let mut world = World::new(seed);
    world.bring([rate; 2]);
    world.run(4000 + seed * 37 % 1000);
    assert_eq!(world.suppressed(), [true; 2], "seed {seed}");
    world
}

fn down(event: &Event) -> bool {
    matches!(event, Event::Down { .. })
}

fn brownout(event: &Event) -> bool {
    matches!(event, Event::Brownout { .. })
}

#[test]
fn handshakes_of_two_seconds_make_probes_few_and_their_end_brings_them_back() {
    let mut world = World::new(1);
    let begun = world.now();
    world.bring([300; 2]);
    while world.suppressed() != [true; 2] {
        world.step();
        assert!(world.now() < begun + 3000, "{:?}", world.pair.ends[0].status());
    }
    assert!(world.now() >= begun + 2000, "they have to speak for two seconds");
    let before = world.pair.sent;
    world.run(60_000);
    let rates = [0, 1].map(|end: usize| (world.pair.sent[end] - before[end]) as f64 / 60.0);
    // Each half minute 16 large ones at most measure the MTU.
    assert!(rates.iter().all(|rate| (0.9..1.8).contains(rate)), "{rates:?} a second");
    world.bring([0; 2]);
    world.run(500);
    assert_eq!(world.suppressed(), [false; 2]);
    let before = world.pair.sent;
    world.run(10_000);
    let rates = [0, 1].map(|end: usize| (world.pair.sent[end] - before[end]) as f64 / 10.0);
    assert!(rates.iter().all(|rate| *rate > 59.0), "{rates:?} a second");
    assert_eq!(world.pair.since(begun), [], "nothing of all this is news");
}

#[test]
fn traffic_at_one_end_alone_or_too_little_leaves_probes_as_they_are() {
    for rates in [[300, 0], [0, 300], [300, 150]] {
        let mut world = World::new(2);
        world.bring(rates);
        for _ in 0..2000 {
            world.step();
            assert_eq!(world.suppressed(), [false; 2], "{rates:?}");
        }
    }
}

#[test]
fn clients_that_do_not_go_on_keep_probes_at_full_rate() {
    let mut world = World::new(3);
    world.vanish = 0.1;
    world.bring([400; 2]);
    for _ in 0..4000 {
        world.step();
        assert_eq!(world.suppressed(), [false; 2]);
    }
    // And bring them back where they begin.
    let mut world = quiet(3, 400);
    world.vanish = 0.1;
    world.run(700);
    assert_eq!(world.suppressed(), [false; 2]);
    let from = world.now();
    world.run(20_000);
    assert_eq!(world.pair.since(from), [], "they say nothing of the path");
}

#[test]
fn a_cut_is_down_within_the_bound_of_probes_and_a_look() {
    for seed in 0..40 {
        for loss in [[1.0, 1.0], [1.0, 0.0]] {
            let mut world = quiet(seed, 300);
            world.lose(loss);
            let took = world.until(5000, down).expect("it is seen");
            // 600 ms, a look, a handshake that was under way, and a round trip for the other end to be woken.
            assert!(took <= 600 + 100 + ROUND_TRIP + 20, "seed {seed}, {loss:?}: {took} ms");
        }
    }
}

#[test]
fn loss_of_a_twentieth_is_known_within_the_bound_of_probes() {
    let mut all: Vec<u64> = Vec::new();
    for seed in 0..40 {
        let mut world = quiet(seed, 300);
        world.lose([0.05, 0.0]);
        all.push(world.until(120_000, brownout).unwrap_or(120_000));
    }
    all.sort_unstable();
    println!("5 % one way: median {} ms, p95 {} ms, most {} ms", all[19], all[37], all[39]);
    assert!(all[37] <= 4000, "{all:?}");
}

/// A world in which handshakes are forged while the path loses so much, and milliseconds until both ends have said so: within the bound.
fn hidden(seed: u64, loss: [f64; 2], bound: u64, what: impl Fn(&Event) -> bool) -> (World, u64) {
    let mut world = quiet(seed, 300);
    world.forged = true;
    world.lose(loss);
    let took = world.until(bound + 60_000, what).expect("it is seen");
    assert!(took <= bound, "seed {seed}: {took} ms");
    (world, took)
}

#[test]
fn who_forges_handshakes_hides_a_cut_for_three_seconds_and_a_brownout_for_minutes() {
    let mut longest = (0, 0);
    for seed in 0..10 {
        let (mut world, cut) = hidden(seed, [1.0, 1.0], 3300, down);
        // And it stays down, whatever is forged.
        let from = world.now() + 1;
        world.run(20_000);
        assert_eq!(world.pair.since(from), []);
        let (_, loss) = hidden(seed, [0.05, 0.0], 180_000, brownout);
        longest = (longest.0.max(cut), longest.1.max(loss));
    }
    println!("hidden at most: a cut {} ms, 5 % {} ms", longest.0, longest.1);
}
