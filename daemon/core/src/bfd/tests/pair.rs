//! Two sessions over a network that delays, loses and reorders, with clocks that differ.

use core::time::Duration;

use proptest::prelude::*;

use super::ms;
use crate::bfd::session::{Change, Params, Session};
use crate::bfd::timing::Timers;
use crate::time::Instant;
use crate::wire::bfd::{Control, Diag, State};

/// What the network does to packets.
#[derive(Clone, Copy, Debug)]
struct Network {
    /// Delay of a packet, drawn from nothing up to this.
    latency: Duration,
    /// Packets lost, in percent.
    loss: u64,
    /// Packets overtake one another.
    reorders: bool,
}

struct Side {
    session: Session,
    /// Parts per million by which its clock runs fast.
    skew: i64,
    changes: Vec<(Instant, Change)>,
}

impl Side {
    fn local(&self, now: Instant) -> Instant {
        let ns = i128::from(now.as_nanos());
        Instant::from_nanos(u64::try_from(ns + ns * i128::from(self.skew) / 1_000_000).expect("positive"))
    }

    /// When its next timer is due, in common time; rounded up, so that it is due by then.
    fn due(&self) -> Option<Instant> {
        let at = i128::from(self.session.poll_timeout()?.as_nanos());
        let common = at * 1_000_000 / i128::from(1_000_000 + self.skew) + 1;
        Some(Instant::from_nanos(u64::try_from(common).expect("positive")))
    }
}

struct Pair {
    now: Instant,
    sides: [Side; 2],
    network: Network,
    /// The way from each side is cut.
    cut: [bool; 2],
    /// (arrival, to, packet)
    air: Vec<(Instant, usize, [u8; 24])>,
    rng: u64,
    /// Since when one side has been Up and the other Down, and the bound that was in force then.
    torn: Option<(Instant, Duration)>,
    worst: Duration,
}

impl Pair {
    fn new(timers: [Timers; 2], skew: [i64; 2], network: Network, seed: u64) -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let side = |i: usize| {
            let discr = u32::try_from(i).expect("0 or 1") + 1;
            let mut side = Side {
                session: Session::new(
                    Params { timers: timers[i], passive: false, local_discr: discr, seed: seed ^ u64::from(discr) },
                    Instant::ZERO,
                ),
                skew: skew[i],
                changes: Vec::new(),
            };
            // Made at the clock's zero, and late for its first interval.
            let local = side.local(now);
            side.session.handle_timeout(local);
            side
        };
        let sides = [side(0), side(1)];
        let mut pair =
            Self { now, sides, network, cut: [false; 2], air: Vec::new(), rng: seed | 1, torn: None, worst: ms(0) };
        pair.gather();
        pair
    }

    /// xorshift64: enough for a network, and repeatable.
    fn draw(&mut self, below: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % below.max(1)
    }

    fn gather(&mut self) {
        for from in 0..2 {
            while let Some(packet) = self.sides[from].session.poll_packet() {
                let lost = self.draw(100) < self.network.loss || self.cut[from];
                let micros = u64::try_from(self.network.latency.as_micros()).expect("short");
                let delay = Duration::from_micros(self.draw(micros + 1));
                let before =
                    self.air.iter().filter(|(_, to, _)| *to != from && !self.network.reorders).map(|(at, ..)| *at);
                let at = before.chain([self.now + delay]).max().expect("at least one");
                if !lost {
                    self.air.push((at, 1 - from, packet.encode()));
                }
            }
            while let Some(change) = self.sides[from].session.poll_change() {
                self.sides[from].changes.push((self.now, change));
            }
        }
    }

    /// Runs for `span`, watching that the two sides never disagree for longer than they may.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let arrival = self.air.iter().map(|(at, ..)| *at).min();
            let next = arrival.into_iter().chain(self.sides.iter().filter_map(Side::due)).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            self.watch();
            // Packets before timers: that is the driver's contract.
            while let Some(i) = self.air.iter().position(|(at, ..)| *at <= self.now) {
                let (_, to, bytes) = self.air.remove(i);
                let packet = Control::parse(&bytes).expect("what we send is well-formed");
                let mine = packet.your_discr == 0 || packet.your_discr == self.sides[to].session.local_discr();
                assert!(mine, "{packet:?}");
                let local = self.sides[to].local(self.now);
                self.sides[to].session.handle_packet(&packet, local).expect("nobody is administratively down");
            }
            for side in &mut self.sides {
                let local = side.local(self.now);
                if side.session.poll_timeout().is_some_and(|at| at <= local) {
                    side.session.handle_timeout(local);
                }
            }
            self.gather();
            self.watch();
        }
        self.now = end;
        self.watch();
    }

    /// Up on one side and Down on the other: how long, and for how long it may.
    fn watch(&mut self) {
        let [a, b] = [self.sides[0].session.state(), self.sides[1].session.state()];
        let up = match (a, b) {
            (State::Up, State::Down) => 0,
            (State::Down, State::Up) => 1,
            _ => {
                self.torn = None;
                return;
            }
        };
        // The side that is Up hears the truth, or nothing for its detection time. What was on its way keeps it Up for a flight longer,
        // and its clock may be slow.
        let detection = self.sides[up].session.detection_time().unwrap_or_default();
        let bound = detection + detection / 1000 + self.network.latency + ms(1);
        let (since, before) = *self.torn.get_or_insert((self.now, bound));
        let bound = bound.max(before);
        self.torn = Some((since, bound));
        let torn = self.now.since(since);
        self.worst = self.worst.max(torn);
        assert!(torn <= bound, "one side Up and the other Down for {torn:?}, allowed {bound:?}");
    }

    fn states(&self) -> [State; 2] {
        [self.sides[0].session.state(), self.sides[1].session.state()]
    }
}

fn timers(tx: u64, rx: u64, multiplier: u8) -> Timers {
    let micros = |ms: u64| u32::try_from(ms * 1000).expect("short");
    Timers { desired_min_tx: micros(tx), required_min_rx: micros(rx), multiplier }
}

const CLEAN: Network = Network { latency: Duration::from_micros(300), loss: 0, reorders: false };

#[test]
fn pair_asymmetric_intervals_are_negotiated_each_way() {
    let mut pair = Pair::new([timers(50, 300, 3), timers(100, 20, 5)], [0; 2], CLEAN, 1);
    pair.run(ms(10_000));
    assert_eq!(pair.states(), [State::Up; 2]);
    let [a, b] = [&pair.sides[0].session, &pair.sides[1].session];
    assert_eq!((a.transmit_interval(), b.transmit_interval()), (Some(ms(50)), Some(ms(300))));
    assert_eq!((a.detection_time(), b.detection_time()), (Some(ms(1500)), Some(ms(150))));
    assert!(!a.polling() && !b.polling(), "every sequence ended");
}

#[test]
fn pair_is_up_within_two_slow_intervals_and_its_polls_end() {
    for seed in 0..200 {
        let mut pair = Pair::new([timers(50, 50, 3), timers(50, 50, 3)], [0; 2], CLEAN, seed);
        pair.run(ms(2_100));
        assert_eq!(pair.states(), [State::Up; 2], "seed {seed}");
        assert!(pair.sides.iter().all(|s| s.session.transmit_interval() == Some(ms(50))), "seed {seed}");
        pair.run(ms(500));
        assert!(pair.sides.iter().all(|s| !s.session.polling()), "seed {seed}");
    }
}

#[test]
fn pair_a_cut_is_detected_within_the_arithmetic() {
    let mut slowest = ms(0);
    for seed in 0..300 {
        let mut pair = Pair::new([timers(50, 50, 3), timers(50, 50, 3)], [0; 2], CLEAN, seed);
        pair.run(ms(4_000 + seed));
        let cut = pair.now;
        pair.cut = [true; 2];
        pair.run(ms(400));
        for side in &pair.sides {
            let (at, change) = side.changes.last().expect("a change");
            assert_eq!((change.to, change.diag), (State::Down, Diag::DETECTION_EXPIRED), "seed {seed}");
            let took = at.since(cut);
            assert!(took <= ms(151), "seed {seed}: {took:?}");
            // The last packet left up to one interval before the cut.
            assert!(took >= ms(99), "seed {seed}: {took:?}");
            slowest = slowest.max(took);
        }
    }
    assert!(slowest > ms(140), "the cut falls anywhere within an interval: {slowest:?}");
}

#[test]
fn pair_one_way_loss_takes_both_sides_down() {
    for deaf in 0..2 {
        let mut pair = Pair::new([timers(50, 50, 3), timers(100, 100, 3)], [0; 2], CLEAN, 5);
        pair.run(ms(4_000));
        pair.cut[1 - deaf] = true;
        pair.run(ms(400));
        let of = |side: usize| pair.sides[side].changes.last().expect("a change").1;
        assert_eq!((of(deaf).to, of(deaf).diag), (State::Down, Diag::DETECTION_EXPIRED));
        assert_eq!(of(1 - deaf).diag, Diag::NEIGHBOR_DOWN, "told, not expired");
        assert!(pair.states().iter().all(|s| *s != State::Up));
        pair.run(ms(5_000));
        // One hears, so it is in Init from time to time; none may believe that both hear.
        assert!(pair.states().iter().all(|s| *s != State::Up));
        pair.cut = [false; 2];
        pair.run(ms(4_000));
        assert_eq!(pair.states(), [State::Up; 2]);
    }
}

#[test]
fn pair_intervals_change_both_ways_without_a_flap() {
    for seed in 0..100 {
        // In order: without sequence numbers a packet that is overtaken by a Poll takes its announcement back, and that may cost the
        // session. Nine lost packets in a row would be a reason to go down; Poll and Final are lost often enough.
        let network = Network { latency: ms(5), loss: 3, reorders: false };
        let mut pair = Pair::new([timers(300, 300, 9), timers(100, 100, 9)], [100, -100], network, seed);
        pair.run(ms(15_000));
        assert_eq!(pair.states(), [State::Up; 2], "seed {seed}");
        for (side, to) in
            [(0, timers(50, 50, 9)), (1, timers(400, 50, 9)), (0, timers(500, 500, 9)), (1, timers(100, 30, 9))]
        {
            let before = pair.sides[side].changes.len();
            let local = pair.sides[side].local(pair.now);
            pair.sides[side].session.set_timers(to, local);
            pair.gather();
            pair.run(ms(20_000));
            let (mine, other) = (&pair.sides[side].session, &pair.sides[1 - side].session);
            assert_eq!(pair.sides[side].changes.len(), before, "seed {seed}: no flap");
            assert!(!mine.polling(), "seed {seed}");
            let agreed = to.desired_min_tx.max(other.wanted().required_min_rx);
            assert_eq!(mine.transmit_interval(), Some(Duration::from_micros(u64::from(agreed))), "seed {seed}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Never Up on one side and Down on the other for longer than the detection time, whatever the network does.
    #[test]
    fn pair_never_disagrees_for_longer_than_the_detection_time(
        seed: u64,
        intervals: [(u16, u16, u8); 2],
        skew in [-300_i64..300, -300_i64..300],
        latency in 0u64..40,
        loss in 0u64..40,
        cuts in proptest::collection::vec((any::<[bool; 2]>(), 1u64..3_000), 0..12),
        changes in proptest::collection::vec((0usize..2, 10u64..600, 10u64..600, 1u8..6), 0..6),
    ) {
        let of = |(tx, rx, mult): (u16, u16, u8)| {
            timers(10 + u64::from(tx) % 500, 10 + u64::from(rx) % 500, 1 + mult % 5)
        };
        let network = Network { latency: ms(latency), loss, reorders: true };
        let mut pair = Pair::new([of(intervals[0]), of(intervals[1])], skew, network, seed);
        pair.run(ms(3_000));
        let mut changes = changes.into_iter();
        for (cut, span) in cuts {
            pair.cut = cut;
            pair.run(ms(span));
            if let Some((side, tx, rx, mult)) = changes.next() {
                let local = pair.sides[side].local(pair.now);
                pair.sides[side].session.set_timers(timers(tx, rx, mult), local);
                pair.gather();
            }
        }
        // Once the network is well, both sides come up and stay.
        pair.cut = [false; 2];
        pair.network.loss = 0;
        pair.network.latency = ms(1);
        pair.run(ms(12_000));
        prop_assert_eq!(pair.states(), [State::Up; 2]);
        prop_assert!(pair.sides.iter().all(|s| !s.session.polling()));
    }
}
