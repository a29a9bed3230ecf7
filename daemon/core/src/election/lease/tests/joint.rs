//! The elector of a joint entry under a model checker: every order of deliveries, losses, duplicates and timeouts of two nodes of one site, which are
//! told to hand over and that they may own again, and of one of another site. The machines are the shipped ones; time goes from timer to timer
//! as in [`super::model`], and watches end at once, so that nodes look by themselves.

use stateright::{Checker as _, HasDiscoveries, Model, Property, UniformChooser};

use super::contract::{Mutant, Store as _};
use super::etcd::{Answer, Request, Watched};
use super::stores::Etcd;
use super::*;

/// The site of each node.
const SITES: [usize; 3] = [0, 0, 1];

/// A message on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Message {
    Request(RequestId, Request),
    Answer(RequestId, Answer),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    machine: EtcdLease,
    ppm: i64,
    term: Term,
    /// The fence's, on the node's clock.
    deadline: Instant,
    told: Standing,
    /// At most two: the oldest is lost when a third is sent.
    net: Vec<Message>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    /// True time in nanoseconds.
    now: u64,
    store: Etcd,
    nodes: Vec<Node>,
    returns: u8,
    duplicates: u8,
    /// Fences of both sites were found open.
    broken: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    /// The message reaches its end.
    Deliver(usize, usize),
    /// A copy of it does, and it stays.
    Duplicate(usize, usize),
    /// The next timer of this node is due, and no other's is before it.
    Timer(usize),
    /// This node is told what it may do.
    Tell(usize, Standing),
}

struct Joint {
    timing: Timing,
    horizon: Duration,
    returns: u8,
    duplicates: u8,
    bug: Option<Mutant>,
}

fn local(node: &Node, now: u64) -> Instant {
    clock_at(node.ppm, now)
}

fn truth(node: &Node, at: Instant) -> u64 {
    true_at(node.ppm, at)
}

impl Joint {
    fn settle(&self, state: &mut State, n: usize) {
        while let Some(output) = state.nodes[n].machine.poll_output() {
            self.perform(state, n, output);
        }
    }

    fn perform(&self, state: &mut State, n: usize, output: Output<Request>) {
        let now = local(&state.nodes[n], state.now);
        let node = &mut state.nodes[n];
        match output {
            Output::Send { request: Request::Watch(_), .. } => node.machine.handle_watch(Watched::Ended, now),
            Output::Send { id, request, .. } => {
                node.net.push(Message::Request(id, request));
                if node.net.len() > 2 {
                    let _lost = node.net.remove(0);
                }
            }
            Output::Claim { term, deadline, .. } => (node.term, node.deadline) = (term, deadline),
            Output::Extend { term, deadline } if term == node.term => node.deadline = deadline,
            Output::Close { term, .. } => {
                if self.bug != Some(Mutant::ReleasesFirst) {
                    node.deadline = Instant::ZERO;
                }
                node.machine.handle_closed(term, now);
            }
            Output::Extend { .. } | Output::Condition(_) | Output::Stalled(_) => {}
        }
        let open = |site: usize| {
            state.nodes.iter().zip(SITES).any(|(node, of)| of == site && local(node, state.now) < node.deadline)
        };
        state.broken |= open(0) && open(1);
    }

    fn deliver(&self, state: &mut State, n: usize, i: usize, stays: bool) {
        let message = if stays { state.nodes[n].net[i].clone() } else { state.nodes[n].net.remove(i) };
        match message {
            Message::Request(id, request) => {
                let answer = state.store.serve(n, &request, state.now, self.bug);
                let _nobody_watches = state.store.changes();
                state.nodes[n].net.push(Message::Answer(id, answer));
            }
            Message::Answer(id, answer) => {
                let now = local(&state.nodes[n], state.now);
                state.nodes[n].machine.handle_answer(id, answer, now);
                self.settle(state, n);
            }
        }
    }
}

impl Model for Joint {
    type State = State;
    type Action = Action;

    /// Nodes 0 and 1 own together by what was proven just now; node 2 has seen it.
    fn init_states(&self) -> Vec<State> {
        let store = Etcd::joint(self.timing, Duration::ZERO);
        let node = |(n, site): (usize, usize)| {
            let config = etcd::EtcdConfig {
                identity: format!("site-{site}"),
                joint: true,
                members: 1,
                timing: self.timing,
                seed: None,
                term: Term(0),
            };
            // Who holds is slow, who waits is fast.
            let ppm = if n == 2 { 1_000 } else { -1_000 };
            let (machine, net, told) = (EtcdLease::new(config), Vec::new(), Standing::Fit);
            Node { machine, ppm, term: Term(0), deadline: Instant::ZERO, told, net }
        };
        let nodes = SITES.into_iter().enumerate().map(node).collect();
        let mut state = State { now: 0, store, nodes, returns: 0, duplicates: 0, broken: false };
        for n in 0..SITES.len() {
            state.nodes[n].machine.handle_start(Instant::ZERO);
            self.settle(&mut state, n);
            while !state.nodes[n].net.is_empty() {
                self.deliver(&mut state, n, 0, false);
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
                actions.push(Action::Deliver(n, i));
                if state.duplicates < self.duplicates && matches!(message, Message::Request(..)) {
                    actions.push(Action::Duplicate(n, i));
                }
            }
            match node.told {
                Standing::Leaving if state.returns < self.returns => actions.push(Action::Tell(n, Standing::Fit)),
                Standing::Fit if SITES[n] == 0 => actions.push(Action::Tell(n, Standing::Leaving)),
                Standing::Fit | Standing::Sick | Standing::Barred | Standing::Leaving => {}
            }
        }
        let due = |(n, node): (usize, &Node)| Some((truth(node, node.machine.poll_timeout()?), n));
        if let Some((_, n)) = state.nodes.iter().enumerate().filter_map(due).min() {
            actions.push(Action::Timer(n));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(n, i) => self.deliver(&mut state, n, i, false),
            Action::Duplicate(n, i) => {
                state.duplicates += 1;
                self.deliver(&mut state, n, i, true);
            }
            Action::Timer(n) => {
                let due = state.nodes[n].machine.poll_timeout()?;
                state.now = state.now.max(truth(&state.nodes[n], due));
                let now = local(&state.nodes[n], state.now);
                state.nodes[n].machine.handle_timeout(now);
                self.settle(&mut state, n);
            }
            Action::Tell(n, standing) => {
                state.returns += u8::from(standing == Standing::Fit);
                state.nodes[n].told = standing;
                let now = local(&state.nodes[n], state.now);
                state.nodes[n].machine.handle_standing(standing, now);
                self.settle(&mut state, n);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one site", |_, state: &State| !state.broken),
            // Long before the lease is over: by what was freed.
            Property::sometimes("a successor", |_, state: &State| state.nodes[2].term > Term(0)),
            Property::sometimes("one that came back", |_, state: &State| {
                state.nodes[..2].iter().any(|node| node.term > Term(1) && node.deadline > Instant::ZERO)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        Duration::from_nanos(state.now) <= self.horizon
    }
}

/// The first look of the other site is at 500 ms, and the lease of 2 s is over long after what is looked at here.
fn joint(horizon: u64, returns: u8, duplicates: u8) -> Joint {
    Joint { timing: Timing::etcd(ms(2_000)).expect("valid"), horizon: ms(horizon), returns, duplicates, bug: None }
}

#[test]
fn no_order_of_events_of_a_hand_over_serves_two_sites() {
    for (name, model) in [("both leave", joint(510, 0, 0)), ("one comes back", joint(450, 1, 0))] {
        let back = model.returns > 0;
        let checker = model.checker().threads(2).spawn_bfs().join();
        println!("{name}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
        checker.assert_no_discovery("one site");
        checker.assert_any_discovery(if back { "one that came back" } else { "a successor" });
    }
}

/// With duplicates, returns, and over two leases, every order is too many: random walks.
#[test]
fn no_random_walk_of_hand_overs_serves_two_sites() {
    let model = joint(4_100, 3, 2);
    let checker = model.checker().target_state_count(STATES).spawn_simulation(7, UniformChooser).join();
    println!("walks: {} states, depth {}", checker.state_count(), checker.max_depth());
    assert!(checker.state_count() >= STATES);
    checker.assert_no_discovery("one site");
    checker.assert_any_discovery("a successor");
    checker.assert_any_discovery("one that came back");
}

/// Seconds of a core.
const STATES: usize = 300_000;

#[test]
fn the_checker_finds_planted_bugs_of_a_hand_over() {
    // One that deletes whatever share there is needs a return and a message that was late: `mutants` finds it.
    for bug in [Mutant::ReleasesFirst, Mutant::LooksForNoShare] {
        let model = Joint { bug: Some(bug), ..joint(510, 0, 0) };
        let found = HasDiscoveries::AnyOf(["one site"].into_iter().collect());
        let checker = model.checker().threads(2).finish_when(found).spawn_bfs().join();
        println!("{bug:?}: {} states", checker.unique_state_count());
        assert!(checker.discovery("one site").is_some(), "{bug:?} is not found");
    }
}
