//! Several relays of two sites, each a process of its own, with sessions that change partners.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::{A, B, Pair, config, key, summary};
use crate::site::SiteId;
use crate::site::state::State;
use crate::site::state::io::{Action, Report};
use crate::site::state::message::Message;
use crate::site::state::record::{Body, Key};
use crate::time::Instant;

struct Process {
    site: SiteId,
    name: &'static str,
    /// It keeps one place of a site, whoever writes there.
    earlier: bool,
    state: State,
    known: BTreeMap<Key, Body>,
    persisted: Vec<u64>,
}

struct Relays {
    all: Vec<Process>,
    sessions: BTreeSet<(usize, usize)>,
    seconds: u64,
    duplicates: usize,
    sent: usize,
    /// What was said of sessions, by process.
    said: Vec<(usize, bool)>,
}

impl Relays {
    /// Relays a1 to a3 (0 to 2) and b1, b2 (3, 4), 20 s after their start.
    fn new(earlier: bool) -> Self {
        let names = [(A, "a1"), (A, "a2"), (A, "a3"), (B, "b1"), (B, "b2")];
        let mut new =
            Self { all: Vec::new(), sessions: BTreeSet::new(), seconds: 0, duplicates: 0, sent: 0, said: Vec::new() };
        for (n, (site, name)) in names.into_iter().enumerate() {
            let process = new.process(site, name, n as u64 + 1, 1, earlier && site == B);
            new.all.push(process);
        }
        new.run(20);
        new
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.seconds * 1_000_000_000)
    }

    fn process(&self, site: SiteId, name: &'static str, instance: u64, incarnation: u64, earlier: bool) -> Process {
        let state = State::new(config(site, instance, incarnation), self.now());
        Process { site, name, earlier, state, known: BTreeMap::new(), persisted: Vec::new() }
    }

    fn write(&mut self, n: usize, ready: u16) {
        let now = self.now();
        self.all[n].state.handle_local(key(1), Some(summary(ready, 1)), now);
    }

    /// Sessions are these from now on.
    fn pair(&mut self, sessions: &[(usize, usize)]) {
        let next: BTreeSet<_> = sessions.iter().copied().collect();
        let now = self.now();
        for (a, b) in self.sessions.difference(&next) {
            self.all[*a].state.handle_disconnected(B, now);
            self.all[*b].state.handle_disconnected(A, now);
        }
        let begun: Vec<_> = next.difference(&self.sessions).copied().collect();
        self.sessions = next;
        for (a, b) in begun {
            for (n, other) in [(a, b), (b, a)] {
                let (site, name) = (self.all[other].site, self.all[other].name);
                let Process { earlier, state, .. } = &mut self.all[n];
                if *earlier { state.handle_connected(site, now) } else { state.handle_relay(site, name, now) }
            }
        }
        self.pump();
    }

    fn pump(&mut self) {
        let mut idle = false;
        while !idle {
            idle = true;
            for n in 0..self.all.len() {
                while let Some(action) = self.all[n].state.poll_action() {
                    idle = false;
                    self.act(n, action);
                }
            }
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        let now = self.now();
        match action {
            Action::Send(_, bytes) => {
                self.sent += bytes.len();
                let partner = self.sessions.iter().find(|(a, b)| *a == n || *b == n);
                let Some(to) = partner.map(|(a, b)| if *a == n { *b } else { *a }) else { return };
                let from = self.all[n].site;
                self.all[to].state.handle_bytes(from, &bytes, now);
            }
            Action::Record { key, body: Some(body), .. } => drop(self.all[n].known.insert(key, body)),
            Action::Record { key, body: None, .. } => drop(self.all[n].known.remove(&key)),
            Action::Persist(incarnation) => self.all[n].persisted.push(incarnation),
            Action::Report(Report::DuplicateSite { .. }) => self.duplicates += 1,
            Action::Report(Report::Session { up, .. }) => self.said.push((n, up)),
            Action::Dial(site) => self.all[n].state.handle_disconnected(site, now),
            Action::Close(_, reason) => panic!("{} closes: {reason:?}", self.all[n].name),
            Action::Ask { .. } | Action::Lend { .. } | Action::Reach { .. } | Action::Report(_) => {}
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds += 1;
            let now = self.now();
            self.all.iter_mut().for_each(|process| process.state.handle_expire(now));
            self.pump();
        }
    }

    /// A session of these two, and whatever sessions the second one had are not heard of by it any more: its end has not come yet.
    fn turn(&mut self, reader: usize, to: usize) {
        let now = self.now();
        self.sessions = BTreeSet::from([(reader, to)]);
        for (n, other) in [(reader, to), (to, reader)] {
            let (site, name) = (self.all[other].site, self.all[other].name);
            self.all[n].state.handle_relay(site, name, now);
        }
        self.pump();
    }

    fn knows(&self, n: usize) -> Option<Body> {
        self.all[n].known.get(&key(1)).copied()
    }
}

/// Whoever listens need not hear that one session is over before it hears that the next one is there: facts have no gap (ADR 0043).
#[test]
fn a_session_that_turns_to_another_relay_is_not_said_to_be_over() {
    let mut relays = Relays::new(false);
    relays.pair(&[(0, 3)]);
    assert!(relays.said.contains(&(0, true)), "{:?}", relays.said);
    relays.said.clear();
    for to in [4, 3, 4] {
        relays.turn(0, to);
        relays.run(3);
        assert!(!relays.said.iter().any(|(n, _)| *n == 0), "{:?}", relays.said);
    }
    // Its end is said, once.
    relays.pair(&[]);
    relays.run(3);
    let of_first: Vec<_> = relays.said.iter().filter(|(n, _)| *n == 0).collect();
    assert_eq!(of_first, [&(0, false)]);
}

/// What is far enough from what was written before not to wait.
fn tens(turn: u16) -> u16 {
    turn % 10 * 10
}

#[test]
fn living_relays_that_swap_partners_are_no_accident_and_write_nothing_to_their_disks() {
    let mut relays = Relays::new(false);
    for turn in 0..40u16 {
        let (first, second) = if turn % 2 == 0 { (3, 4) } else { (4, 3) };
        relays.pair(&[(0, first), (1, second)]);
        for n in [0, 1, 2] {
            relays.write(n, tens(turn));
        }
        relays.run(3);
        for reader in [3, 4] {
            assert_eq!(relays.knows(reader), Some(summary(tens(turn), 1)), "turn {turn}");
        }
    }
    assert_eq!(relays.duplicates, 0);
    for process in &relays.all {
        assert_eq!(process.persisted, [1], "{}: one more than the disk said, once", process.name);
    }
}

/// By any of three, of which two have partners: the third takes the place of the one that died, with what it has written since its start.
#[test]
fn who_takes_the_place_of_a_relay_that_died_is_read_at_once() {
    for (dead, left) in [(0, 1), (1, 0)] {
        for silent in [false, true] {
            let mut relays = Relays::new(false);
            relays.pair(&[(0, 3), (1, 4)]);
            (0..3).for_each(|n| relays.write(n, 50));
            relays.run(5);
            let place = if dead == 0 { 3 } else { 4 };
            let rest = (left, if left == 0 { 3 } else { 4 });
            if silent {
                // Nothing arrives, and nobody knows why.
                relays.sessions.remove(&(dead, place));
                relays.run(4);
            }
            (0..3).filter(|n| *n != dead).for_each(|n| relays.write(n, 0));
            relays.pair(&[rest, (2, place)]);
            relays.run(1);
            assert_eq!((relays.knows(3), relays.knows(4)), (Some(summary(0, 1)), Some(summary(0, 1))), "at once");
            assert_eq!((relays.duplicates, &relays.all[2].persisted[..]), (0, &[1][..]), "no disk was waited for");
        }
    }
}

#[test]
fn a_relay_that_returns_with_a_wiped_disk_is_known_by_its_name() {
    let mut relays = Relays::new(false);
    relays.pair(&[(0, 3)]);
    relays.write(0, 50);
    relays.run(5);
    // Others are read meanwhile.
    for other in [1, 2, 1] {
        relays.pair(&[(other, 3)]);
        relays.run(5);
    }
    relays.all[0] = relays.process(A, "a1", 99, 1, false);
    relays.write(0, 60);
    relays.pair(&[(0, 3)]);
    relays.run(12);
    assert_eq!(relays.knows(3), Some(summary(60, 1)));
    assert_eq!(
        (&relays.all[0].persisted[..], relays.duplicates),
        (&[1, 2][..], 0),
        "above what b1 has read of its name"
    );
}

#[test]
fn two_living_processes_of_one_name_are_an_accident() {
    let mut relays = Relays::new(false);
    relays.all[1].name = "a1";
    for _ in 0..3 {
        relays.pair(&[(0, 3)]);
        relays.run(2);
        relays.pair(&[(1, 3)]);
        relays.run(2);
    }
    assert!(relays.duplicates > 0 && relays.all[0].state.duplicate() && relays.all[1].state.duplicate());
    assert!(!relays.all[2].state.duplicate());
}

/// An earlier version at the other end has one relay that leads, and one place for whoever writes here: relays that lead in turn go above one
/// another, as often as they like.
#[test]
fn an_earlier_version_reads_relays_that_lead_in_turn() {
    let mut relays = Relays::new(true);
    for turn in 0..12u16 {
        let leads = usize::from(turn % 3);
        let now = relays.now();
        relays.all[leads].state.handle_lead(now);
        relays.pair(&[(leads, 3)]);
        relays.write(leads, tens(turn));
        relays.run(3);
        assert_eq!(relays.knows(3), Some(summary(tens(turn), 1)), "turn {turn}");
    }
    assert_eq!(relays.duplicates, 0);
}

/// Relays that only listen cost nothing, and the bounds of a session hold for each.
#[test]
fn a_session_that_stands_costs_what_it_did() {
    let mut relays = Relays::new(false);
    relays.pair(&[(0, 3), (1, 4)]);
    (0..3).for_each(|n| relays.write(n, 50));
    relays.run(60);
    let before = relays.sent;
    relays.run(600);
    let each = (relays.sent - before) / 4;
    assert!(each < 60 * 60, "{each} bytes of messages from each end in ten minutes");
}

/// A process that stood still finds in its sockets what was said meanwhile, with the ages of then (`partner::Pulse::late`).
#[test]
fn what_waited_to_be_read_is_older_than_it_says() {
    let (mut pair, waited) = (Pair::ready(), Duration::from_secs(25));
    pair.write(0, key(1), Some(summary(10, 1)));
    pair.run(1_000);
    let now = pair.now();
    pair.ends[0].handle_local(key(1), Some(summary(0, 1)), now);
    let Some(Action::Send(_, delta)) = pair.ends[0].poll_action() else { panic!("it is urgent") };
    let later = now + waited;
    pair.ends[1].handle_late(A, &delta, waited, later);
    let Some(Action::Record { body, age, .. }) = pair.ends[1].poll_action() else { panic!("news") };
    assert_eq!((body, age), (Some(summary(0, 1)), waited), "it was said before all that others have heard since");
    let age = |pair: &Pair| pair.ends[1].records(A, later).map(|(.., age)| age).max();
    assert_eq!(age(&pair), Some(waited));
    let own = pair.ends[0].own();
    let (incarnation, lag) = (own.incarnation, Duration::from_millis(1));
    let beat = Message::Beat { incarnation, head: own.seq, lag, root: 0 }.encode();
    pair.ends[1].handle_late(A, &beat, Duration::from_secs(20), later);
    assert_eq!(age(&pair), Some(Duration::from_secs(20) + lag), "so is the word that nothing is new");
    pair.ends[1].handle_bytes(A, &beat, later);
    assert_eq!(age(&pair), Some(lag));
}
