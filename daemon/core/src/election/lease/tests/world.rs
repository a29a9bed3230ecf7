//! A virtual store, nodes with clocks, fences and drivers of their own, a network between them, and faults from a seed.

mod perform;
mod serve;
mod strike;

use std::collections::BTreeMap;

use super::contract::{Ans, Mutant, Req, Store, Wat};
use super::*;

pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        // splitmix64, the public-domain generator of Vigna.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// What the kernel of a node holds.
#[derive(Clone, Copy, Debug, Default)]
struct Fence {
    term: Term,
    /// On the node's clock; `ZERO`: closed.
    deadline: Instant,
}

struct Node<S: Store> {
    machine: S::M,
    fence: Fence,
    /// Rate error of its clock in ppm, and where it started.
    ppm: i64,
    offset: u64,
    /// True time that its clock did not count.
    lost: u64,
    frozen: Option<u64>,
    cut: u64,
    /// Process and boot, so that what belongs to an old one is dropped.
    life: u32,
    boot: u32,
    term: Term,
    watching: bool,
    /// Decided before a freeze and not carried out yet.
    owed: Vec<Output<Req<S>>>,
    sent: BTreeMap<RequestId, (Instant, Req<S>)>,
    latest: RequestId,
    /// Events that arrived while it was frozen.
    inbox: Vec<Event<S>>,
}

enum Event<S: Store> {
    Arrive(usize, u32, RequestId, Req<S>),
    Answer(usize, u32, RequestId, Ans<S>),
    Watched(usize, u32, Wat<S>),
    Closed(usize, u32, Term),
    ShutLate(usize, Term),
    Wake(usize),
    Thaw(usize),
    Restart(usize),
    Told(usize, Standing),
    Tick,
    Fault(u64),
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) violation: Option<String>,
    pub(super) claims: u32,
    /// Somebody owns at the end, after the faults.
    pub(super) owned: bool,
    /// Without an owner after the planned death, if one was planned.
    pub(super) takeover: Option<Duration>,
    pub(super) requests: u64,
}

pub(super) struct World<S: Store> {
    now: u64,
    seq: u64,
    rng: Rng,
    store: S,
    nodes: Vec<Node<S>>,
    queue: BTreeMap<(u64, u64), Event<S>>,
    /// Until when the store freezes, fails, throttles, is edited.
    hung: u64,
    failing: u64,
    throttling: u64,
    storm: u64,
    faults_until: u64,
    long_delays: bool,
    /// Longest ordinary delay of a message: a LAN or something slower.
    latency: u64,
    mutant: Option<Mutant>,
    died: Option<u64>,
    /// The party that gives it up, when nothing else ends.
    leaves: Option<usize>,
    /// The latest events, for whoever reads a violation.
    trace: std::collections::VecDeque<String>,
    outcome: Outcome,
}

impl<S: Store> World<S> {
    pub(super) fn new(store: S, seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = (0..3).map(|n| {
            let ppm = [-1000, 1000, 0][usize::try_from(rng.below(3)).expect("small")];
            let machine = store.machine(n, 0, Term(0), seed + n as u64);
            Node {
                machine,
                fence: Fence::default(),
                ppm,
                offset: rng.below(1000) * S,
                lost: 0,
                frozen: None,
                cut: 0,
                life: 0,
                boot: 0,
                term: Term(0),
                watching: false,
                owed: Vec::new(),
                sent: BTreeMap::new(),
                latest: RequestId(0),
                inbox: Vec::new(),
            }
        });
        let nodes = nodes.collect();
        let latency = [MS, 20 * MS][usize::try_from(seed % 2).expect("small")];
        let mut world = Self {
            now: 0,
            seq: 0,
            rng,
            store,
            nodes,
            queue: BTreeMap::new(),
            hung: 0,
            failing: 0,
            throttling: 0,
            storm: 0,
            faults_until: 0,
            long_delays: false,
            latency,
            mutant,
            died: None,
            leaves: None,
            trace: std::collections::VecDeque::new(),
            outcome: Outcome::default(),
        };
        for n in 0..3 {
            let local = world.local(n);
            world.nodes[n].machine.handle_start(local);
            world.settle(n);
        }
        world.at(100 * MS, Event::Tick);
        world
    }

    /// Faults until then, at random times; afterwards three leases' time to come to rest.
    pub(super) fn with_faults(mut self, faults: u64) -> Outcome {
        self.faults_until = 120 * S;
        self.long_delays = true;
        for _ in 0..faults {
            let (when, what) = (5 * S + self.rng.below(110 * S), self.rng.next());
            self.at(when, Event::Fault(what));
        }
        let rest = u64::try_from(self.store.duration().as_nanos()).expect("short") * 3;
        self.run(self.faults_until + rest + 10 * S);
        self.outcome.owned = (0..3).any(|n| self.open(n));
        self.outcome
    }

    /// The owner dies for good at a random time; nothing else goes wrong.
    pub(super) fn with_a_death(mut self) -> Outcome {
        let settled = 3 * u64::try_from(self.store.duration().as_nanos()).expect("short");
        let death = settled + self.rng.below(settled);
        self.run(death);
        let owner = (0..3).find(|n| self.open(*n)).expect("an owner without faults");
        // Its process is gone; what it sent may still arrive.
        self.nodes[owner].frozen = Some(u64::MAX);
        self.died = Some(self.now);
        let end = self.now + settled;
        self.run(end);
        self.outcome
    }

    /// All of the owner's party are told to hand over at a random time, within as long as `apart`; nothing else happens.
    pub(super) fn with_a_hand_over(mut self, apart: Duration) -> Outcome {
        let settled = 3 * u64::try_from(self.store.duration().as_nanos()).expect("short");
        let order = settled + self.rng.below(settled);
        self.run(order);
        let owner = (0..3).find(|n| self.open(*n)).expect("an owner without faults");
        let party = self.store.party(owner);
        let apart = u64::try_from(apart.as_nanos()).expect("short");
        for n in (0..3).filter(|n| self.store.party(*n) == party).collect::<Vec<_>>() {
            self.at(order + apart * (n as u64 % 2), Event::Told(n, Standing::Leaving));
        }
        (self.died, self.leaves) = (Some(order + apart), Some(party));
        self.run(order + settled);
        self.outcome
    }

    fn local_of(node: &Node<S>, t: u64) -> Instant {
        let counted = u128::from(t - node.lost);
        let rate = u128::try_from(1_000_000 + node.ppm).expect("positive");
        Instant::from_nanos(node.offset + u64::try_from(counted * rate / 1_000_000).expect("short"))
    }

    fn local(&self, n: usize) -> Instant {
        let node = &self.nodes[n];
        // A suspended clock stands where the freeze began, and the fence that reads it stays as it was.
        let t = node.frozen.filter(|_| self.mutant == Some(Mutant::SuspendedClock)).unwrap_or(self.now);
        Self::local_of(node, t.min(self.now))
    }

    /// The earliest true time at which the node's clock shows this.
    fn truth(&self, n: usize, local: Instant) -> u64 {
        let node = &self.nodes[n];
        let rate = u128::try_from(1_000_000 + node.ppm).expect("positive");
        let counted = u128::from(local.as_nanos().saturating_sub(node.offset)) * 1_000_000;
        u64::try_from(counted.div_ceil(rate)).expect("short") + node.lost
    }

    fn open(&self, n: usize) -> bool {
        self.local(n) < self.nodes[n].fence.deadline
    }

    fn at(&mut self, when: u64, event: Event<S>) {
        self.seq += 1;
        let _new = self.queue.insert((when.max(self.now), self.seq), event);
    }

    fn run(&mut self, end: u64) {
        while self.outcome.violation.is_none() {
            let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= end) else { break };
            self.now = entry.key().0;
            let event = entry.remove();
            self.step(event);
        }
        self.now = self.now.max(end);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.trace.len() == 60 {
            let _oldest = self.trace.pop_front();
        }
        let line = format!("{:?} {}", Duration::from_nanos(self.now), what());
        self.trace.push_back(line);
    }

    fn delay(&mut self) -> u64 {
        let long = self.long_delays && self.now < self.faults_until && self.rng.one_in(8);
        if long { self.rng.below(3 * S) } else { MS / 5 + self.rng.below(self.latency) }
    }

    fn step(&mut self, event: Event<S>) {
        match event {
            Event::Arrive(n, life, id, request) => self.arrive(n, life, id, request),
            Event::Tick => {
                let next = self.store.tick(self.now);
                if self.now < self.storm {
                    self.store.touch();
                }
                self.announce();
                self.at(next, Event::Tick);
            }
            Event::Fault(what) => self.fault(what),
            Event::Thaw(n) => self.thaw(n),
            Event::Restart(n) => self.restart(n),
            Event::ShutLate(n, term) => {
                if self.nodes[n].fence.term == term {
                    self.nodes[n].fence.deadline = Instant::ZERO;
                }
            }
            Event::Wake(n)
            | Event::Answer(n, ..)
            | Event::Watched(n, ..)
            | Event::Closed(n, ..)
            | Event::Told(n, ..)
                if self.nodes[n].frozen.is_some() =>
            {
                self.nodes[n].inbox.push(event);
            }
            Event::Told(n, standing) => {
                self.note(|| format!("{n} is told {standing:?}"));
                let now = self.local(n);
                self.nodes[n].machine.handle_standing(standing, now);
                self.settle(n);
            }
            Event::Wake(n) => {
                let now = self.local(n);
                if self.nodes[n].machine.poll_timeout().is_some_and(|due| due <= now) {
                    self.nodes[n].machine.handle_timeout(now);
                    self.settle(n);
                }
            }
            Event::Answer(n, life, mut id, mut answer) => {
                if self.nodes[n].life != life || self.now < self.nodes[n].cut {
                    return;
                }
                if let Some(mutant) = self.mutant {
                    if let Some((_, request)) = self.nodes[n].sent.get(&id) {
                        answer = S::distort(mutant, request, answer);
                    }
                    if mutant == Mutant::StaleStream {
                        id = self.nodes[n].latest;
                    }
                }
                let now = self.local(n);
                self.nodes[n].machine.handle_answer(id, answer, now);
                self.carry_out(n, Some(id));
            }
            Event::Watched(n, life, watched) => {
                let node = &self.nodes[n];
                if node.life == life && node.watching && self.now >= node.cut {
                    let now = self.local(n);
                    self.nodes[n].machine.handle_watch(watched, now);
                    self.settle(n);
                }
            }
            Event::Closed(n, life, term) => {
                if self.nodes[n].life == life {
                    let now = self.local(n);
                    self.nodes[n].machine.handle_closed(term, now);
                    self.settle(n);
                }
            }
        }
    }
}
