//! The run: one queue of events, one clock that all others are reckoned from, and the checker after every event.

mod act;
mod strike;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bascule_core::node::io::{FenceState, Input};
use bascule_core::types::{LinkId, Slot};

use crate::check::Checker;
use crate::client::Clients;
use crate::faults::{Blow, Point};
use crate::host::{Host, Phase, Process, Rx};
use crate::kernel::Kernel;
use crate::lan::{Body, Lan, Packet};
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::scenario::{LINK, MS, Scenario, link};
use crate::violation::Violation;

/// Packets that wait in a socket at most, as in a default receive buffer of Linux.
const SOCKET_BUFFER: usize = 800;

/// Work of the netlink thread.
#[derive(Clone, Debug)]
pub(crate) enum Netlink {
    Install(Slot, Vec<IpAddr>, Duration),
    Remove(Slot, Vec<IpAddr>),
    Renew(Vec<(LinkId, IpAddr)>, Duration),
}

/// Something that will happen.
#[derive(Clone, Debug)]
enum Event {
    Wake(usize, u64),
    Step(usize, u64),
    Resume(usize, u64),
    Arrive(usize, Rc<Packet>),
    Netlink(usize, u64),
    Tell(usize, u64, Input<'static>),
    Boot(usize),
    Fault(usize),
    Tick,
}

#[derive(Debug)]
struct Queued(Reverse<(u64, u64)>, Event);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Events handled.
    pub events: u64,
    /// Longest time with two owners, in nanoseconds.
    pub dual: u64,
    /// Longest gap without an owner after the start, in nanoseconds.
    pub gap: u64,
}

/// A running simulation.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) lan: Lan,
    pub(crate) clients: Clients,
    pub(crate) rng: Rng,
    pub(crate) mutant: Option<Mutant>,
    checker: Checker,
    victim: Option<usize>,
    queue: BinaryHeap<Queued>,
    sequence: u64,
    trace: bool,
    broken: Option<Violation>,
}

impl World {
    /// A world before its first event. `trace` prints what happens.
    pub fn new(scenario: Scenario, mutant: Option<Mutant>, trace: bool) -> Self {
        let hosts: Vec<Host> = scenario
            .nodes
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                let mut config = spec.config.clone();
                if mutant == Some(Mutant::NoYield) {
                    config.groups.iter_mut().for_each(|g| g.strict_rfc = true);
                }
                Host {
                    index,
                    clock: spec.clock,
                    kernel: Kernel::new(mutant),
                    process: None,
                    config,
                    gate: true,
                    carrier: true,
                    generation: 0,
                    drained: false,
                }
            })
            .collect();
        let mut world = Self {
            now: 0,
            lan: Lan::new(scenario.net, hosts.len()),
            clients: Clients::new(hosts.len()),
            rng: Rng::new(scenario.seed),
            mutant,
            checker: Checker::new(&scenario),
            victim: None,
            queue: BinaryHeap::new(),
            sequence: 0,
            trace,
            broken: None,
            hosts,
            scenario,
        };
        for node in 0..world.hosts.len() {
            world.at(world.scenario.nodes[node].start, Event::Boot(node));
        }
        for fault in 0..world.scenario.faults.len() {
            world.at(world.scenario.faults[fault].at, Event::Fault(fault));
        }
        world.at(MS, Event::Tick);
        world
    }

    /// Runs to the end or to the first broken invariant.
    pub fn run(mut self) -> Outcome {
        let mut events = 0;
        while let Some(Queued(Reverse((at, _)), event)) = self.queue.pop() {
            if at > self.scenario.end {
                break;
            }
            self.now = at;
            events += 1;
            self.handle(event);
            let mut checker = core::mem::take(&mut self.checker);
            let verdict = checker.after_event(&self);
            self.checker = checker;
            self.broken = self.broken.take().or(verdict);
            if self.broken.is_some() {
                break;
            }
        }
        self.now = self.now.max(self.scenario.end.min(self.now + 1));
        let mut checker = core::mem::take(&mut self.checker);
        let violation = self.broken.take().or_else(|| checker.at_end(&self));
        if let Some(v) = &violation {
            self.say(|| format!("BROKEN {v}"));
        }
        Outcome { violation, events, dual: checker.longest_dual, gap: checker.longest_gap }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Queued(Reverse((at, self.sequence)), event));
    }

    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:12.6} {}", self.now as f64 / 1e9, text());
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(n, generation) => {
                let (host, now) = (&mut self.hosts[n], self.now);
                let shown = host.clock.read(now);
                let current = host.generation == generation;
                let Some(p) = host.process.as_mut().filter(|p| current && p.wake_at == Some(now)) else { return };
                p.wake_at = None;
                if p.phase == Phase::Idle {
                    p.phase = Phase::Read(shown);
                    self.step(n);
                }
            }
            Event::Step(n, generation) => {
                if self.hosts[n].generation == generation {
                    self.step(n);
                }
            }
            Event::Resume(n, generation) => {
                if self.hosts[n].generation == generation {
                    self.say(|| format!("n{n} resumes"));
                    if let Some(p) = self.hosts[n].process.as_mut() {
                        p.frozen = false;
                        // What netlink did meanwhile is in the socket; a turn that was cut short goes on.
                        if p.phase == Phase::Idle {
                            self.wake(n, self.now + 1000);
                        } else {
                            self.at(self.now, Event::Step(n, generation));
                        }
                    }
                }
            }
            Event::Arrive(port, packet) => self.arrive(port, &packet),
            Event::Netlink(n, generation) => self.netlink(n, generation),
            Event::Tell(n, generation, input) => {
                if self.hosts[n].generation == generation {
                    self.tell(n, Rx::Told(input));
                }
            }
            Event::Boot(n) => self.boot(n),
            Event::Fault(index) => {
                let planned = self.scenario.faults[index].clone();
                self.fault(&planned);
            }
            Event::Tick => self.tick(),
        }
    }

    /// Puts something into the daemon's sockets.
    fn tell(&mut self, n: usize, rx: Rx) {
        let lateness = self.rng.between(1000, self.scenario.net.lateness);
        let Some(p) = self.hosts[n].process.as_mut() else { return };
        if matches!(rx, Rx::Packet(_)) && p.inbox.len() >= SOCKET_BUFFER {
            return;
        }
        p.inbox.push_back(rx);
        if p.phase == Phase::Idle && !p.frozen {
            self.wake(n, self.now + lateness);
        }
    }

    fn wake(&mut self, n: usize, at: u64) {
        let host = &mut self.hosts[n];
        let generation = host.generation;
        let Some(p) = host.process.as_mut() else { return };
        if p.wake_at.is_none_or(|armed| armed > at || armed < self.now) {
            p.wake_at = Some(at);
            self.at(at, Event::Wake(n, generation));
        }
    }

    fn tick(&mut self) {
        self.clients_turn();
        for n in 0..self.hosts.len() {
            let shown = self.hosts[n].clock.read(self.now);
            for address in self.hosts[n].kernel.expire(shown) {
                self.say(|| format!("n{n} kernel: {address} expired"));
                self.lost(n, address);
            }
        }
        let verdict = {
            let mut checker = core::mem::take(&mut self.checker);
            let verdict = checker.on_tick(self);
            self.checker = checker;
            verdict
        };
        self.broken = self.broken.take().or(verdict);
        self.at(self.now + self.scenario.tick(), Event::Tick);
    }

    fn lost(&mut self, n: usize, address: IpAddr) {
        let generation = self.hosts[n].generation;
        self.at(self.now + 100_000, Event::Tell(n, generation, Input::AddressLost { link: LINK, address }));
    }

    /// Starts a daemon.
    fn boot(&mut self, n: usize) {
        let seed = self.rng.next();
        let (now, mutant) = (self.now, self.mutant);
        let host = &mut self.hosts[n];
        if host.process.is_some() {
            return;
        }
        host.generation += 1;
        host.drained = false;
        let shown = host.clock.read(now);
        host.process = Some(Process::new(seed, shown));
        if mutant != Some(Mutant::NoLifetime) {
            // Leftovers of a crash go before anything else.
            for address in host.kernel.addresses() {
                host.kernel.remove(address);
            }
        }
        let config = Input::Config(Box::new(host.config.clone()));
        let carrier = host.carrier;
        self.say(|| format!("n{n} starts"));
        let mut inputs = vec![Input::Fence(FenceState::Ready), Input::Link(link(n, carrier)), config];
        // The driver promises no order among these.
        let turn = self.rng.index(inputs.len());
        inputs.rotate_left(turn);
        inputs.into_iter().for_each(|input| self.tell(n, Rx::Told(input)));
        let generation = self.hosts[n].generation;
        self.wake(n, self.now);
        debug_assert_eq!(generation, self.hosts[n].generation);
    }

    fn exit(&mut self, n: usize, how: &str) {
        self.say(|| format!("n{n} {how}"));
        self.hosts[n].process = None;
        self.hosts[n].generation += 1;
    }

    fn blow(&mut self, n: usize, blow: Blow) {
        match blow {
            Blow::Kill => self.exit(n, "killed"),
            Blow::Hold(lasts) => {
                let generation = self.hosts[n].generation;
                let Some(p) = self.hosts[n].process.as_mut().filter(|p| !p.frozen) else { return };
                p.frozen = true;
                let phase = p.phase;
                self.say(|| format!("n{n} held up for {:.3} ms in {phase:?}", lasts as f64 / 1e6));
                self.at(self.now + lasts, Event::Resume(n, generation));
            }
        }
    }

    /// Goes on with the driver's turn.
    fn step(&mut self, n: usize) {
        let mutant = self.mutant;
        loop {
            let shown = self.hosts[n].clock.read(self.now);
            let Some(p) = self.hosts[n].process.as_mut().filter(|p| !p.frozen) else { return };
            match p.phase {
                Phase::Idle => return,
                Phase::Read(began) => {
                    if let Some(blow) = p.trap(Point::Read) {
                        self.blow(n, blow);
                        continue;
                    }
                    if mutant == Some(Mutant::ExpiresBeforeDrain) && p.node.poll_timeout().is_some_and(|at| at <= shown)
                    {
                        p.node.handle_timeout(shown);
                    }
                    let time = if mutant == Some(Mutant::StaleNow) { began } else { shown };
                    match p.inbox.pop_front() {
                        Some(rx) => {
                            p.feed(rx, mutant, time);
                            p.take_actions(mutant);
                            p.phase = Phase::Act(Some(began));
                        }
                        None => p.phase = Phase::Expire(time),
                    }
                }
                Phase::Expire(time) => {
                    if let Some(blow) = p.trap(Point::Expire) {
                        self.blow(n, blow);
                        continue;
                    }
                    if p.node.poll_timeout().is_some_and(|at| at <= time) {
                        p.node.handle_timeout(time);
                        p.work += 1;
                        if let Some(at) = p.node.poll_timeout().filter(|at| *at <= time) {
                            let text = format!("n{n}: after handle_timeout({time:?}) the next is due at {at:?}");
                            self.broken = Some(Violation { rule: "busy-loop", at: self.now, text });
                            return;
                        }
                    }
                    p.take_actions(mutant);
                    p.phase = Phase::Act(None);
                }
                Phase::Act(more) => {
                    let point = p.held.front().and_then(act::point_of);
                    if let Some(blow) = point.and_then(|point| p.trap(point)) {
                        self.blow(n, blow);
                        continue;
                    }
                    match p.held.pop_front() {
                        Some(action) => self.carry_out(n, action),
                        None if more.is_some() => p.phase = Phase::Read(more.unwrap_or(shown)),
                        None => return self.rest(n),
                    }
                }
            }
        }
    }

    /// The turn is over: wait for the next packet or deadline.
    fn rest(&mut self, n: usize) {
        let lateness = self.rng.between(1000, self.scenario.net.lateness);
        let host = &mut self.hosts[n];
        let clock = host.clock;
        let Some(p) = host.process.as_mut() else { return };
        p.phase = Phase::Idle;
        p.wake_at = None;
        if p.stopped {
            return self.exit(n, "ends");
        }
        if !p.inbox.is_empty() {
            return self.wake(n, self.now + 1000);
        }
        if let Some(at) = p.node.poll_timeout() {
            self.wake(n, clock.when(at).max(self.now) + lateness);
        }
    }

    /// Sends to one address, or to everybody when it is none of a node's.
    pub(crate) fn send(&mut self, packet: Packet, dst: Option<IpAddr>) {
        let packet = Rc::new(packet);
        let nodes = self.hosts.len();
        let ports = nodes + crate::client::COUNT;
        let one = dst.and_then(|a| (0..nodes).find(|n| crate::scenario::v4(*n) == a || crate::scenario::v6(*n) == a));
        let frames = matches!(packet.body, Body::Frame(_));
        let reach = if frames { ports } else { nodes };
        for port in one.map_or(0..reach, |n| n..n + 1).filter(|p| *p != packet.from) {
            self.send_to(&packet, port);
        }
    }

    pub(crate) fn send_to(&mut self, packet: &Rc<Packet>, port: usize) {
        for delay in self.lan.delays(packet, port, &mut self.rng).into_iter().flatten() {
            self.at(self.now + delay, Event::Arrive(port, Rc::clone(packet)));
        }
    }

    pub(crate) fn read_by_daemon(&mut self, n: usize, packet: &Rc<Packet>) {
        self.checker.on_arrival(n, packet, self.now, &self.lan);
        self.tell(n, Rx::Packet(Rc::clone(packet)));
    }

    pub(crate) fn announced(&mut self, n: usize, address: IpAddr) {
        let term = self.hosts[n].kernel.term(address);
        self.checker.on_announcement(n, address, term, self.now);
    }
}
