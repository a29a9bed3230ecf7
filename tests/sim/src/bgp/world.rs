//! The event queue, the two kernels and the two drivers.

mod wire;

use std::collections::{BTreeMap, VecDeque};

use bascule_bgp::graceful::FormerRun;
use bascule_bgp::io::{Action, BfdState, CLOSE_LINGER, Conn, Input};
use bascule_bgp::speaker::Speaker;
use bascule_bgp::wire::FamilySet;

use crate::bgp::check::{Broken, Violation};
use crate::bgp::mutant::Mutant;
use crate::bgp::node::Node;
use crate::bgp::scenario::{MS, SECOND, Scenario, address};
use crate::bgp::tap::Tap;
use crate::bgp::tcp::{End, In, Tcp};
use crate::rng::Rng;

/// Turns at one moment that no honest timer needs.
const BUSY: u32 = 50;

/// Result of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Events handled.
    pub events: u64,
    /// Sessions that came up, on either node.
    pub sessions: u64,
    /// What broke first.
    pub violation: Option<Violation>,
}

#[derive(Debug)]
pub(super) enum Ev {
    Start(usize),
    /// The start of this run is known.
    Synced(usize, u64),
    Fault(usize),
    Thaw(usize),
    Timer(usize, u64),
    Syn(usize),
    Refused(usize),
    /// The first item on the way from this end may have arrived.
    Wake(usize, usize),
    /// Bytes of this end are acknowledged.
    Ack(usize, usize, usize),
    Rst(usize, usize),
    Linger(usize, usize),
    Feed(usize, u64, Box<Input<'static>>),
    Started,
    Quiet,
    End,
}

pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) mutant: Option<Mutant>,
    trace: bool,
    pub(super) rng: Rng,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Ev>,
    sequence: u64,
    pub(super) nodes: [Node; 2],
    pub(super) tcps: Vec<Tcp>,
    pub(super) link_until: u64,
    /// Established connections at the beginning of the quiet time.
    pub(super) quiet: Option<[Option<Conn>; 2]>,
    pub(super) withdrawals: u64,
    sessions: u64,
}

impl World {
    pub(super) fn new(scenario: Scenario, mutant: Option<Mutant>, trace: bool) -> Self {
        let [a, b] = scenario.configs.clone();
        let nodes =
            [Node::new(a, scenario.clock_ppm[0], 1000 * SECOND), Node::new(b, scenario.clock_ppm[1], 77_777 * SECOND)];
        let mut world = Self {
            rng: Rng::new(scenario.seed ^ 0x0077_6f72_6c64),
            mutant,
            trace,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            tcps: Vec::new(),
            link_until: 0,
            quiet: None,
            withdrawals: 0,
            sessions: 0,
            scenario,
        };
        for node in 0..2 {
            world.at(world.scenario.start[node], Ev::Start(node));
            let routes: Vec<_> = (0..6).map(|_| world.prefix(node)).collect();
            world.nodes[node].wishes = routes.into_iter().map(|prefix| (prefix, false)).collect();
        }
        for index in 0..world.scenario.faults.len() {
            world.at(world.scenario.faults[index].at, Ev::Fault(index));
        }
        world.schedule_verdicts();
        world
    }

    pub(super) fn at(&mut self, at: u64, event: Ev) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    pub(super) fn say(&self, words: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} {}", self.now as f64 / 1e9, words());
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        let mut events = 0;
        let mut violation = None;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            events += 1;
            if matches!(event, Ev::End) {
                violation = self.end().err();
                break;
            }
            if let Err(broken) = self.handle(event) {
                violation = Some(broken);
                break;
            }
        }
        let violation = violation.map(|(node, what)| Violation { at_ms: self.now / MS, node, what });
        Outcome { events, sessions: self.sessions, violation }
    }

    fn handle(&mut self, event: Ev) -> Result<(), (usize, Broken)> {
        match event {
            Ev::Start(node) => self.start(node),
            Ev::Synced(node, run) => self.synced(node, run),
            Ev::Fault(index) => self.fault(self.scenario.faults[index]),
            Ev::Thaw(node) => self.thaw(node),
            Ev::Timer(node, timer) if self.nodes[node].timer == timer && !self.nodes[node].frozen(self.now) => {
                self.fire(node)
            }
            Ev::Timer(..) => Ok(()),
            Ev::Syn(tcp) => self.syn(tcp),
            Ev::Refused(tcp) => {
                let end = &mut self.tcps[tcp].ends[0];
                let error = "Connection refused".to_owned();
                let failed = Input::ConnectFailed { conn: end.conn, error };
                let node = end.node;
                if core::mem::take(&mut end.open) { self.deliver(node, In::Input(failed)) } else { Ok(()) }
            }
            Ev::Wake(tcp, from) => self.wake(tcp, from),
            Ev::Ack(tcp, end, bytes) => {
                let side = &mut self.tcps[tcp].ends[end];
                side.in_kernel -= bytes.min(side.in_kernel);
                let node = side.node;
                if side.gone { Ok(()) } else { self.deliver(node, In::Room(tcp, end)) }
            }
            Ev::Rst(tcp, end) => {
                let side = &self.tcps[tcp].ends[end];
                let (node, conn) = (side.node, side.conn);
                if side.open { self.deliver(node, In::Closed(conn, Some("Connection reset by peer"))) } else { Ok(()) }
            }
            Ev::Linger(tcp, end) => {
                self.tcps[tcp].ends[end].unsent.clear();
                self.fin(tcp, end);
                Ok(())
            }
            Ev::Feed(node, run, input) if self.nodes[node].runs == run => self.deliver(node, In::Input(*input)),
            Ev::Feed(..) => Ok(()),
            Ev::Started => self.started(),
            Ev::Quiet => self.quiet(),
            Ev::End => Ok(()),
        }
    }

    /// A process starts.
    fn start(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        if self.nodes[node].speaker.is_some() || self.now < self.nodes[node].power_until {
            return Ok(());
        }
        let local = self.nodes[node].clock(self.now);
        let this = &mut self.nodes[node];
        this.runs += 1;
        this.speaker = Some(Speaker::new(self.scenario.seed ^ (this.runs << 8) ^ node as u64, local));
        (this.routes, this.synced, this.leaving, this.former) = (BTreeMap::new(), false, None, None);
        let run = this.runs;
        self.say(|| format!("node {node} starts run {run}"));
        let former = self.nodes[node].marker.take().and_then(|m| FormerRun::new(&m, "boot", FamilySet::ALL, local));
        if let Some(former) = former {
            self.nodes[node].former = Some(former);
            if self.mutant != Some(Mutant::RestartUnsaid) {
                self.deliver(node, In::Input(Input::Restarted(former)))?;
            }
        }
        if self.mutant == Some(Mutant::SyncedEarly) {
            self.deliver(node, In::Input(Input::Synced))?;
        }
        let config = Box::new(self.nodes[node].config.clone());
        self.deliver(node, In::Input(Input::Config(config)))?;
        self.feed_bfd(node)?;
        let early: Vec<_> = self.nodes[node].wishes.clone().into_iter().step_by(2).collect();
        self.announce(node, &early)?;
        let at = self.now + self.rng.below(2 * SECOND);
        self.at(at, Ev::Synced(node, run));
        Ok(())
    }

    fn synced(&mut self, node: usize, run: u64) -> Result<(), (usize, Broken)> {
        if self.nodes[node].runs != run || self.nodes[node].speaker.is_none() {
            return Ok(());
        }
        if self.nodes[node].frozen(self.now) {
            let at = self.nodes[node].frozen_until;
            self.at(at, Ev::Synced(node, run));
            return Ok(());
        }
        self.nodes[node].synced = true;
        self.nodes[node].owes_routes = true;
        self.catch_up(node)?;
        self.deliver(node, In::Input(Input::Synced))
    }

    pub(super) fn feed_bfd(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        let state = if self.nodes[node].bfd_up { BfdState::Up } else { BfdState::Down };
        self.deliver(node, In::Input(Input::Bfd { neighbor: "peer".to_owned(), state }))
    }

    /// A process ends; what its kernel still does is the caller's.
    pub(super) fn process_ends(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.speaker = None;
        this.inbox.clear();
        this.listens.clear();
        this.leaving = None;
        this.frozen_until = 0;
        this.taps.values_mut().for_each(|tap| tap.ended = true);
    }

    /// The kernel or the driver has something for a speaker.
    pub(super) fn deliver(&mut self, node: usize, input: In) -> Result<(), (usize, Broken)> {
        if self.nodes[node].frozen(self.now) {
            self.nodes[node].inbox.push_back(input);
            return Ok(());
        }
        self.process(node, input)
    }

    fn thaw(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        if self.nodes[node].frozen(self.now) || self.nodes[node].speaker.is_none() {
            return Ok(());
        }
        if self.mutant == Some(Mutant::ExpiresBeforeRead) {
            self.fire(node)?;
        }
        while let Some(input) = self.nodes[node].inbox.pop_front() {
            self.process(node, input)?;
        }
        self.catch_up(node)?;
        self.fire(node)
    }

    fn fire(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        let local = self.nodes[node].clock(self.now);
        let this = &mut self.nodes[node];
        let Some(speaker) = &mut this.speaker else { return Ok(()) };
        this.fired = if this.fired.0 == local { (local, this.fired.1 + 1) } else { (local, 0) };
        if this.fired.1 > BUSY {
            return Err((node, Broken::BusyLoop));
        }
        speaker.handle_timeout(local);
        self.turn(node)
    }

    fn process(&mut self, node: usize, input: In) -> Result<(), (usize, Broken)> {
        let local = self.nodes[node].clock(self.now);
        let this = &mut self.nodes[node];
        let Some(speaker) = &mut this.speaker else {
            if let In::Room(tcp, end) = input {
                self.flush(tcp, end);
            }
            return Ok(());
        };
        match input {
            In::Input(input) => {
                if let Input::ConnectFailed { conn, .. } = &input {
                    if let Some(tap) = this.taps.get_mut(conn).filter(|tap| !tap.ended) {
                        tap.ended = true;
                    } else {
                        return Ok(());
                    }
                }
                speaker.handle_input(input, local);
            }
            In::Bytes(conn, mut bytes) => {
                let Some(tap) = this.taps.get_mut(&conn).filter(|tap| !tap.ended) else { return Ok(()) };
                tap.read(conn, &bytes).map_err(|broken| (node, broken))?;
                if self.mutant == Some(Mutant::IdentifierReversed) && node == 0 && bytes.len() > 28 && bytes[18] == 1 {
                    bytes[24..28].reverse();
                }
                speaker.handle_input(Input::Received { conn, bytes: &bytes }, local);
            }
            In::Accepted { tcp } => {
                let conn = self.tcps[tcp].ends[1].conn;
                this.conns.insert(conn, (tcp, 1));
                this.taps.insert(conn, Tap { arrived: self.now, ..Tap::default() });
                let (remote, end) = (address(1 - node), (address(node), 179).into());
                let accepted = Input::Accepted { conn, remote, local: end, on_link: true, link_local: None };
                speaker.handle_input(accepted, local);
            }
            In::Connected(conn) => {
                if this.taps.get(&conn).is_none_or(|tap| tap.ended) {
                    return Ok(());
                }
                let end = (address(node), 40_000).into();
                let connected = Input::Connected { conn, local: end, on_link: true, link_local: None };
                speaker.handle_input(connected, local);
            }
            In::Room(tcp, end) => return self.room(node, tcp, end),
            In::Closed(conn, error) => {
                let Some(tap) = this.taps.get_mut(&conn).filter(|tap| !tap.ended) else { return Ok(()) };
                tap.ended = true;
                if let Some((tcp, end)) = this.conns.get(&conn) {
                    self.tcps[*tcp].ends[*end].open = false;
                    self.tcps[*tcp].ends[*end].unsent.clear();
                }
                speaker.handle_input(Input::Closed { conn, error: error.map(str::to_owned) }, local);
            }
        }
        self.turn(node)
    }

    /// Carries out what the speaker owes, checks, and arms its timer.
    fn turn(&mut self, node: usize) -> Result<(), (usize, Broken)> {
        let mut follow = VecDeque::new();
        loop {
            while let Some(action) = self.nodes[node].speaker.as_mut().and_then(Speaker::poll_action) {
                self.act(node, action, &mut follow).map_err(|broken| (node, broken))?;
            }
            // The writes that the kernel took at once.
            let Some((conn, pending, unacknowledged)) = follow.pop_front() else { break };
            let local = self.nodes[node].clock(self.now);
            if let Some(speaker) = &mut self.nodes[node].speaker {
                speaker.handle_input(Input::Written { conn, pending, unacknowledged }, local);
            }
        }
        self.nodes[node].check(self.now).map_err(|broken| (node, broken))?;
        let established = self.nodes[node].established();
        if core::mem::replace(&mut self.nodes[node].session, established) != established && established.is_some() {
            self.sessions += 1;
        }
        self.nodes[node].timer += 1;
        let (timer, next) = (self.nodes[node].timer, self.nodes[node].speaker.as_ref().and_then(Speaker::poll_timeout));
        if let Some(next) = next {
            let late = self.rng.below(2 * MS);
            let at = self.nodes[node].world_time(next) + late;
            self.at(at, Ev::Timer(node, timer));
        }
        Ok(())
    }

    pub(super) fn act(
        &mut self,
        node: usize,
        action: Action,
        follow: &mut VecDeque<(Conn, usize, Option<usize>)>,
    ) -> Result<(), Broken> {
        match action {
            Action::Connect { conn, .. } => {
                self.say(|| format!("node {node} dials {conn:?}"));
                self.nodes[node].taps.insert(conn, Tap { arrived: self.now, ..Tap::default() });
                let tcp = self.tcps.len();
                let ends = [End::new(node, conn, true), End::new(1 - node, Conn(0), false)];
                self.tcps.push(Tcp { ends, forgotten: false });
                self.nodes[node].conns.insert(conn, (tcp, 0));
                let at = self.arrival();
                self.at(at, Ev::Syn(tcp));
            }
            Action::Listen { remote, .. } => {
                self.nodes[node].listens.insert(remote);
            }
            Action::Unlisten { remote } => {
                self.nodes[node].listens.remove(&remote);
            }
            Action::Write { conn, bytes } => self.write(node, conn, bytes, follow)?,
            Action::WatchAcknowledged { conn } => {
                let (tcp, end) = self.own(node, conn)?;
                let side = &mut self.tcps[tcp].ends[end];
                side.watched = true;
                follow.push_back((conn, side.unsent.len(), Some(side.in_kernel)));
            }
            // Both ends of the simulated network take any key.
            Action::Rekey { conn, .. } => {
                self.own(node, conn)?;
            }
            Action::Close { conn } => {
                let (tcp, end) = self.own(node, conn)?;
                self.say(|| format!("node {node} closes {conn:?}"));
                if let Some(tap) = self.nodes[node].taps.get_mut(&conn) {
                    tap.ended = true;
                }
                self.tcps[tcp].ends[end].open = false;
                if self.tcps[tcp].ends[end].unsent.is_empty() {
                    self.fin(tcp, end);
                } else {
                    let nanos = u64::try_from(CLOSE_LINGER.as_nanos()).unwrap_or(u64::MAX);
                    self.at(self.now + nanos, Ev::Linger(tcp, end));
                }
            }
            Action::Report(event) => self.say(|| format!("node {node} {event:?}")),
            Action::Stopped => self.stopped(node),
        }
        Ok(())
    }
}
