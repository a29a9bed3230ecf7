//! A virtual store, nodes with clocks, fences and drivers of their own, a network between them, and faults from a seed.

use std::collections::BTreeMap;

use super::*;

/// What the world needs of an elector.
pub(super) trait Machine {
    type Request: Clone + core::fmt::Debug;
    type Answer: Clone + core::fmt::Debug;
    type Watched: Clone;
    fn start(&mut self, now: Instant);
    fn stop(&mut self, now: Instant);
    fn answer(&mut self, id: RequestId, answer: Self::Answer, now: Instant);
    fn watched(&mut self, watched: Self::Watched, now: Instant);
    fn closed(&mut self, term: Term, now: Instant);
    fn timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_output(&mut self) -> Option<Output<Self::Request>>;
}

/// What the world needs of a store. Times are true nanoseconds.
pub(super) trait Store {
    type M: Machine;
    fn machine(&self, node: usize, boot: u32, term: Term, seed: u64) -> Self::M;
    fn serve(&mut self, request: &Req<Self>, now: u64, mutant: Option<Mutant>) -> Ans<Self>;
    fn failed(failure: Failure) -> Ans<Self>;
    fn is_watch(request: &Req<Self>) -> bool;
    fn ended() -> <Self::M as Machine>::Watched;
    /// What watchers are owed since the last call.
    fn changes(&mut self) -> Vec<<Self::M as Machine>::Watched>;
    /// Time passes. When it wants to be called again.
    fn tick(&mut self, now: u64) -> u64;
    /// Somebody edits the object without changing what it says.
    fn touch(&mut self);
    /// Somebody deletes it, where that is guarded against.
    fn delete(&mut self);
    /// What a driver with this bug makes of the answer to a request.
    fn distort(mutant: Mutant, request: &Req<Self>, answer: Ans<Self>) -> Ans<Self>;
    fn duration(&self) -> Duration;
}

pub(super) type Req<S> = <<S as Store>::M as Machine>::Request;
pub(super) type Ans<S> = <<S as Store>::M as Machine>::Answer;
type Wat<S> = <<S as Store>::M as Machine>::Watched;

/// Bugs of a driver that the world must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mutant {
    /// The fence's deadline counts from the answer.
    FromAnswer,
    /// The fence is open for the whole duration.
    NoMargin,
    /// Writes without a version.
    Unversioned,
    /// Says that it has closed, and closes 200 ms later.
    ReleasesFirst,
    /// A clock that stands still while the process is frozen (CLOCK_MONOTONIC and suspend).
    SuspendedClock,
    /// Takes 409 for success.
    ConflictIsSuccess,
    /// Reads a duration one second shorter than written.
    ShortDuration,
    /// Takes an old answer on a stream for the one that is awaited.
    StaleStream,
}

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
            trace: std::collections::VecDeque::new(),
            outcome: Outcome::default(),
        };
        for n in 0..3 {
            let local = world.local(n);
            world.nodes[n].machine.start(local);
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
            Event::Wake(n) | Event::Answer(n, ..) | Event::Watched(n, ..) | Event::Closed(n, ..)
                if self.nodes[n].frozen.is_some() =>
            {
                self.nodes[n].inbox.push(event);
            }
            Event::Wake(n) => {
                let now = self.local(n);
                if self.nodes[n].machine.poll_timeout().is_some_and(|due| due <= now) {
                    self.nodes[n].machine.timeout(now);
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
                self.nodes[n].machine.answer(id, answer, now);
                self.carry_out(n, Some(id));
            }
            Event::Watched(n, life, watched) => {
                let node = &self.nodes[n];
                if node.life == life && node.watching && self.now >= node.cut {
                    let now = self.local(n);
                    self.nodes[n].machine.watched(watched, now);
                    self.settle(n);
                }
            }
            Event::Closed(n, life, term) => {
                if self.nodes[n].life == life {
                    let now = self.local(n);
                    self.nodes[n].machine.closed(term, now);
                    self.settle(n);
                }
            }
        }
    }

    /// A request is at the store.
    fn arrive(&mut self, n: usize, life: u32, id: RequestId, request: Req<S>) {
        if self.now < self.hung {
            let later = self.hung + self.rng.below(50 * MS);
            self.at(later, Event::Arrive(n, life, id, request));
            return;
        }
        if S::is_watch(&request) {
            return;
        }
        self.outcome.requests += 1;
        let answer = if self.now < self.failing && self.rng.one_in(2) {
            // Half of the failed ones were done all the same.
            if self.rng.one_in(2) {
                let _done = self.store.serve(&request, self.now, self.mutant);
            }
            S::failed(Failure::Unavailable)
        } else if self.now < self.throttling && self.rng.one_in(2) {
            let retry_after = Some(Duration::from_secs(self.rng.below(3)));
            S::failed(Failure::Throttled { retry_after })
        } else {
            self.store.serve(&request, self.now, self.mutant)
        };
        self.note(|| format!("{n}'s {request:?} is answered {answer:?}"));
        self.announce();
        let copies = if self.rng.one_in(20) { 2 } else { 1 };
        for _ in 0..copies {
            let when = self.now + self.delay();
            self.at(when, Event::Answer(n, life, id, answer.clone()));
        }
    }

    /// Tells the watchers.
    fn announce(&mut self) {
        for change in self.store.changes() {
            for n in 0..3 {
                if self.nodes[n].watching {
                    let (life, when) = (self.nodes[n].life, self.now + self.delay());
                    self.at(when, Event::Watched(n, life, change.clone()));
                }
            }
        }
    }

    fn fault(&mut self, what: u64) {
        let n = usize::try_from(what / 16 % 3).expect("small");
        // Whoever owns is hit more often.
        let owner = (0..3).find(|n| self.open(*n));
        let n = owner.filter(|_| !self.rng.one_in(4)).unwrap_or(n);
        let length = self.rng.below(12 * S);
        let until = (self.now + length).min(self.faults_until);
        self.note(|| format!("fault {} of {n} until {:?}", what % 10, Duration::from_nanos(until)));
        match what % 10 {
            0 | 1 => self.freeze(n, until),
            2 => self.nodes[n].cut = until,
            3 => self.hung = until,
            4 => self.failing = until,
            5 => self.throttling = until,
            6 => self.storm = until,
            7 => {
                self.store.delete();
                self.announce();
            }
            8 => {
                for n in 0..3 {
                    if self.nodes[n].watching && self.nodes[n].frozen.is_none() {
                        self.nodes[n].watching = false;
                        let now = self.local(n);
                        self.nodes[n].machine.watched(S::ended(), now);
                        self.settle(n);
                    }
                }
            }
            _ if self.nodes[n].frozen.is_some() => {}
            _ if self.rng.one_in(3) => {
                let now = self.local(n);
                self.nodes[n].machine.stop(now);
                self.settle(n);
                let when = self.now + self.rng.below(S);
                self.at(when, Event::Restart(n));
            }
            _ => self.restart(n),
        }
    }

    /// The process dies and a new one starts; one time in three the machine does.
    fn restart(&mut self, n: usize) {
        let reboot = self.rng.one_in(3);
        let node = &mut self.nodes[n];
        node.frozen = None;
        node.life += 1;
        node.watching = false;
        node.owed.clear();
        node.inbox.clear();
        if reboot {
            node.boot += 1;
            node.fence = Fence::default();
        }
        node.machine = self.store.machine(n, node.boot, node.term, u64::from(node.life));
        let now = self.local(n);
        self.nodes[n].machine.start(now);
        self.settle(n);
    }

    fn freeze(&mut self, n: usize, until: u64) {
        if self.nodes[n].frozen.is_none() {
            self.nodes[n].frozen = Some(self.now);
            self.at(until, Event::Thaw(n));
        }
    }

    fn thaw(&mut self, n: usize) {
        let Some(since) = self.nodes[n].frozen.take() else { return };
        if self.mutant == Some(Mutant::SuspendedClock) {
            self.nodes[n].lost += self.now - since;
        }
        let owed = std::mem::take(&mut self.nodes[n].owed);
        for output in owed {
            self.perform(n, output, None);
        }
        for event in std::mem::take(&mut self.nodes[n].inbox) {
            self.step(event);
        }
        self.settle(n);
    }

    fn settle(&mut self, n: usize) {
        self.carry_out(n, None);
    }

    /// Carries out what the machine owes, unless the process is held up right after it has decided.
    fn carry_out(&mut self, n: usize, answered: Option<RequestId>) {
        let outputs: Vec<_> = core::iter::from_fn(|| self.nodes[n].machine.poll_output()).collect();
        if self.now < self.faults_until && !outputs.is_empty() && self.rng.one_in(200) {
            let until = (self.now + self.rng.below(12 * S)).min(self.faults_until);
            self.freeze(n, until);
            self.nodes[n].owed.extend(outputs);
            return;
        }
        for output in outputs {
            self.perform(n, output, answered);
        }
        if let Some(due) = self.nodes[n].machine.poll_timeout() {
            let when = self.truth(n, due);
            self.at(when, Event::Wake(n));
        }
    }

    fn perform(&mut self, n: usize, output: Output<Req<S>>, answered: Option<RequestId>) {
        let life = self.nodes[n].life;
        self.note(|| format!("{n} owes {output:?}"));
        match output {
            Output::Send { id, request, .. } => {
                if S::is_watch(&request) {
                    self.nodes[n].watching = true;
                    return;
                }
                let now = self.local(n);
                let node = &mut self.nodes[n];
                let _new = node.sent.insert(id, (now, request.clone()));
                node.latest = id;
                if self.now >= node.cut {
                    let when = self.now + self.delay();
                    self.at(when, Event::Arrive(n, life, id, request));
                }
            }
            Output::Claim { term, deadline, .. } => {
                self.nodes[n].term = term;
                let deadline = self.distorted(n, deadline, answered);
                self.nodes[n].fence = Fence { term, deadline };
                self.outcome.claims += 1;
                self.judge(n);
                if let Some(died) = self.died.filter(|_| self.outcome.takeover.is_none()) {
                    self.outcome.takeover = Some(Duration::from_nanos(self.now - died));
                }
            }
            Output::Extend { term, deadline } => {
                let deadline = self.distorted(n, deadline, answered);
                if self.nodes[n].fence.term == term {
                    self.nodes[n].fence.deadline = deadline;
                }
                self.judge(n);
            }
            Output::Close { term, .. } => {
                if self.mutant == Some(Mutant::ReleasesFirst) {
                    self.at(self.now + 200 * MS, Event::ShutLate(n, term));
                    self.at(self.now, Event::Closed(n, life, term));
                } else {
                    self.nodes[n].fence.deadline = Instant::ZERO;
                    let when = self.now + self.rng.below(50 * MS);
                    self.at(when, Event::Closed(n, life, term));
                }
            }
            Output::Condition(_) | Output::Stalled(_) => {}
        }
    }

    fn distorted(&self, n: usize, deadline: Instant, answered: Option<RequestId>) -> Instant {
        let duration = self.store.duration();
        match self.mutant {
            Some(Mutant::NoMargin) => deadline + (duration - hold_max(duration)),
            Some(Mutant::FromAnswer) => {
                let sent = answered.and_then(|id| self.nodes[n].sent.get(&id)).map(|(sent, _)| *sent);
                sent.map_or(deadline, |sent| deadline + self.local(n).since(sent))
            }
            _ => deadline,
        }
    }

    /// Nobody else's fence is open while this one is.
    fn judge(&mut self, n: usize) {
        if !self.open(n) {
            return;
        }
        if let Some(other) = (0..3).find(|m| *m != n && self.open(*m)) {
            let t = Duration::from_nanos(self.now);
            let trace = self.trace.make_contiguous().join("\n");
            self.outcome.violation = Some(format!("at {t:?} the fences of {n} and {other} are open\n{trace}"));
        }
    }
}
