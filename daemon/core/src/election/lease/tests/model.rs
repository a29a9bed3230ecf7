//! The elector on a Lease under a model checker: every order of deliveries, delays, duplicates, freezes and timeouts of a few nodes.
//!
//! Time goes from timer to timer, of any node that is not frozen, so that each event happens as late and as early as it can; a message may
//! stay on its way for ever, which is loss and partition in one. Clocks are off by the most that is allowed, in the worst way: who holds is
//! slow, who waits is fast. The machines are the shipped ones.

use stateright::{Checker as _, HasDiscoveries, Model, Property, UniformChooser};

use super::contract::{Mutant, Store as _};
use super::kube::{KubeConfig, Object, Record, Request, Version, WallMicros};
use super::stores::ApiServer;
use super::*;

/// A message on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Message {
    Request(RequestId, Request),
    Answer(RequestId, kube::Answer),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    machine: KubeLease,
    ppm: i64,
    term: Term,
    /// The fence's, on the node's clock.
    deadline: Instant,
    frozen: bool,
    /// Decided before a freeze, not carried out yet.
    owed: Vec<Output<Request>>,
    /// At most two: the oldest is lost when a third is sent.
    net: Vec<Message>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    /// True time in nanoseconds.
    now: u64,
    server: ApiServer,
    nodes: Vec<Node>,
    freezes: u8,
    duplicates: u8,
    /// Both fences were found open.
    broken: bool,
    claims: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    /// The message reaches its end.
    Deliver(usize, usize),
    /// A copy of it does, and it stays.
    Duplicate(usize, usize),
    /// It does, and the process freezes when it has decided.
    DeliverAndFreeze(usize, usize),
    /// The process freezes just before its timer. A freeze at another time is a delay of what it would have received.
    Freeze(usize),
    Thaw(usize),
    /// The next timer of this node is due, and no other's is before it.
    Timer(usize),
    /// The holder is told to stop.
    Stop,
}

struct Lease {
    timing: Timing,
    nodes: usize,
    horizon: Duration,
    freezes: u8,
    duplicates: u8,
    stops: bool,
    bug: Option<Mutant>,
}

fn local(node: &Node, now: u64) -> Instant {
    clock_at(node.ppm, now)
}

fn truth(node: &Node, at: Instant) -> u64 {
    true_at(node.ppm, at)
}

fn open(node: &Node, now: u64) -> bool {
    local(node, now) < node.deadline
}

impl Lease {
    fn settle(&self, state: &mut State, n: usize, late: Duration, freeze: bool) {
        let outputs: Vec<_> = core::iter::from_fn(|| state.nodes[n].machine.poll_output()).collect();
        if freeze {
            state.nodes[n].frozen = true;
            state.nodes[n].owed = outputs;
            return;
        }
        for output in outputs {
            self.perform(state, n, output, late);
        }
    }

    fn perform(&self, state: &mut State, n: usize, output: Output<Request>, late: Duration) {
        let duration = self.timing.duration();
        let more = match self.bug {
            Some(Mutant::NoMargin) => duration - hold_max(duration),
            Some(Mutant::FromAnswer) => late,
            _ => Duration::ZERO,
        };
        let node = &mut state.nodes[n];
        match output {
            Output::Send { request: Request::Watch(_), .. } | Output::Condition(_) | Output::Stalled(_) => return,
            Output::Send { id, request, .. } => {
                node.net.push(Message::Request(id, request));
                if node.net.len() > 2 {
                    let _lost = node.net.remove(0);
                }
                return;
            }
            Output::Claim { term, deadline, .. } => {
                node.term = term;
                node.deadline = deadline + more;
                state.claims += 1;
            }
            Output::Extend { term, deadline } if term == node.term => node.deadline = deadline + more,
            Output::Extend { .. } => return,
            Output::Close { term, .. } => {
                if self.bug != Some(Mutant::ReleasesFirst) {
                    node.deadline = Instant::ZERO;
                }
                let now = local(node, state.now);
                node.machine.handle_closed(term, now);
                return self.settle(state, n, late, false);
            }
        }
        state.broken |= state.nodes.iter().filter(|node| open(node, state.now)).count() > 1;
    }

    fn deliver(&self, state: &mut State, n: usize, i: usize, stays: bool, freeze: bool) {
        let message = if stays { state.nodes[n].net[i].clone() } else { state.nodes[n].net.remove(i) };
        match message {
            Message::Request(id, request) => {
                let answer = state.server.serve(n, &request, state.now, self.bug);
                let _nobody_watches = state.server.changes();
                state.nodes[n].net.push(Message::Answer(id, answer));
            }
            Message::Answer(id, answer) => {
                let now = local(&state.nodes[n], state.now);
                // What a driver that counts from the answer would add: the longest time that the machine awaits one.
                let late = state.nodes[n].machine.poll_timeout().map_or(Duration::ZERO, |_| self.timing.request());
                state.nodes[n].machine.handle_answer(id, answer, now);
                self.settle(state, n, late, freeze);
            }
        }
    }
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    /// Node 0 holds, by a renewal written just now; the others have seen it.
    fn init_states(&self) -> Vec<State> {
        let mut server = ApiServer::new(self.timing);
        let record = Record {
            holder: "0".into(),
            instance: Some("0".into()),
            duration: self.timing.duration(),
            acquired: WallMicros(0),
            renewed: WallMicros(0),
            transitions: 1,
        };
        server.version = 1;
        server.object = Some(Object { version: Version("1".into()), record });
        let node = |n: usize| {
            let (identity, instance) = (n.to_string(), n.to_string());
            let config = KubeConfig { identity, instance, timing: self.timing, seed: None, term: Term(0) };
            let ppm = if n == 0 { -1_000 } else { 1_000 };
            let (net, owed) = (Vec::new(), Vec::new());
            let machine = KubeLease::new(config);
            Node { machine, ppm, term: Term(0), deadline: Instant::ZERO, frozen: false, owed, net }
        };
        let nodes = (0..self.nodes).map(node).collect();
        let (freezes, duplicates) = (0, 0);
        let mut state = State { now: 0, server, nodes, freezes, duplicates, broken: false, claims: 0 };
        for n in 0..self.nodes {
            state.nodes[n].machine.handle_start(Instant::ZERO);
            self.settle(&mut state, n, Duration::ZERO, false);
            while !state.nodes[n].net.is_empty() {
                self.deliver(&mut state, n, 0, false, false);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken {
            return;
        }
        for (n, node) in state.nodes.iter().enumerate() {
            for (i, message) in node.net.iter().enumerate() {
                let at_node = matches!(message, Message::Answer(..));
                if at_node && node.frozen {
                    continue;
                }
                actions.push(Action::Deliver(n, i));
                if state.duplicates < self.duplicates {
                    actions.push(Action::Duplicate(n, i));
                }
                if at_node && state.freezes < self.freezes {
                    actions.push(Action::DeliverAndFreeze(n, i));
                }
            }
            if node.frozen {
                actions.push(Action::Thaw(n));
            }
        }
        let due = |(n, node): (usize, &Node)| Some((truth(node, node.machine.poll_timeout()?), n));
        let awake = state.nodes.iter().enumerate().filter(|(_, node)| !node.frozen);
        if let Some((_, n)) = awake.filter_map(due).min() {
            actions.push(Action::Timer(n));
            if state.freezes < self.freezes {
                actions.push(Action::Freeze(n));
            }
        }
        if self.stops && state.nodes[0].machine.holding().is_some() && !state.nodes[0].frozen {
            actions.push(Action::Stop);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(n, i) => self.deliver(&mut state, n, i, false, false),
            Action::Duplicate(n, i) => {
                state.duplicates += 1;
                self.deliver(&mut state, n, i, true, false);
            }
            Action::DeliverAndFreeze(n, i) => {
                state.freezes += 1;
                self.deliver(&mut state, n, i, false, true);
            }
            Action::Freeze(n) => {
                state.freezes += 1;
                state.nodes[n].frozen = true;
            }
            Action::Thaw(n) => {
                state.nodes[n].frozen = false;
                for output in std::mem::take(&mut state.nodes[n].owed) {
                    self.perform(&mut state, n, output, Duration::ZERO);
                }
            }
            Action::Timer(n) => {
                let due = state.nodes[n].machine.poll_timeout()?;
                state.now = state.now.max(truth(&state.nodes[n], due));
                let now = local(&state.nodes[n], state.now);
                state.nodes[n].machine.handle_timeout(now);
                self.settle(&mut state, n, Duration::ZERO, false);
            }
            Action::Stop => {
                let now = local(&state.nodes[0], state.now);
                state.nodes[0].machine.handle_stop(now);
                self.settle(&mut state, 0, Duration::ZERO, false);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one open fence", |_, state: &State| !state.broken),
            Property::sometimes("a successor", |_, state: &State| state.nodes[1..].iter().any(|n| n.term > Term(0))),
            Property::sometimes("the same again in a new term", |_, state: &State| state.nodes[0].term > Term(1)),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        Duration::from_nanos(state.now) <= self.horizon
    }
}

fn lease(nodes: usize, horizon: u64, freezes: u8, duplicates: u8) -> Lease {
    // The duration of 2 s is the shortest that leaves three attempts; the renew deadline is as long as the margin allows.
    let timing = Timing::kubernetes(ms(2_000), ms(1_999), ms(900)).expect("valid");
    Lease { timing, nodes, horizon: ms(horizon), freezes, duplicates, stops: false, bug: None }
}

#[test]
fn no_order_of_events_opens_two_fences() {
    let models = [
        ("two nodes", lease(2, 2_050, 0, 0)),
        ("two nodes, a stop", Lease { stops: true, ..lease(2, 2_050, 0, 0) }),
        ("two nodes, a duplicate", lease(2, 2_050, 0, 1)),
        ("two nodes, a freeze", lease(2, 2_050, 1, 0)),
    ];
    for (name, model) in models {
        let checker = model.checker().threads(2).spawn_bfs().join();
        println!("{name}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
        checker.assert_no_discovery("one open fence");
        checker.assert_any_discovery("a successor");
    }
}

/// Every order of three nodes is too many: random walks through them, over two leases, with a freeze and a duplicate.
#[test]
fn no_random_walk_of_three_nodes_opens_two_fences() {
    let model = lease(3, 4_100, 1, 1);
    let checker = model.checker().target_state_count(STATES).spawn_simulation(7, UniformChooser).join();
    println!("three nodes: {} states, depth {}", checker.state_count(), checker.max_depth());
    assert!(checker.state_count() >= STATES);
    checker.assert_no_discovery("one open fence");
    checker.assert_any_discovery("a successor");
}

/// Seconds of a core.
const STATES: usize = 300_000;

#[test]
fn the_checker_finds_planted_bugs() {
    for bug in [Mutant::NoMargin, Mutant::FromAnswer, Mutant::Unversioned, Mutant::ReleasesFirst] {
        let stops = bug == Mutant::ReleasesFirst;
        let model = Lease { bug: Some(bug), stops, ..lease(2, 4_100, u8::from(!stops), 0) };
        let found = HasDiscoveries::AnyOf(["one open fence"].into_iter().collect());
        let checker = model.checker().threads(2).finish_when(found).spawn_bfs().join();
        println!("{bug:?}: {} states", checker.unique_state_count());
        assert!(checker.discovery("one open fence").is_some(), "{bug:?} is not found");
    }
}
