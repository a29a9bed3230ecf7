//! Faults: what, to whom, when.

use crate::rng::Rng;
use crate::scenario::{Class, MS, NodeSpec, SEC};

/// Whom a fault meets; found out when it strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A given node.
    Node(usize),
    /// The owner of a group, or node 0 when there is none. Once found, a run's victim stays the same.
    Owner(usize),
    /// The owner of a group at the time of the fault, whoever it was before.
    OwnerNow(usize),
    /// The victim found before.
    Victim,
}

/// A point of the driver's turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// Wherever it is.
    Now,
    /// After taking the time, before reading the sockets.
    Read,
    /// After reading, before timers expire.
    Expire,
    /// Before the next write to the fence.
    Fence,
    /// Before the next advert.
    Advert,
    /// Before the next announcement.
    Frame,
    /// Before the next message to a peer.
    Peer,
    /// Before the next addition or removal of addresses.
    Address,
    /// After the next release has left.
    Released,
    /// After the next grant has left.
    Granted,
}

/// What happens to a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after so many nanoseconds.
    Hold(u64),
}

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A blow at a point of the turn.
    Strike(Point, Blow),
    /// The daemon is started again.
    Start,
    /// `bascule stop`.
    Stop,
    /// `bascule drain`, or its end.
    Drain(bool),
    /// `bascule move`: group, node that shall own it.
    Move(usize, usize),
    /// The link is cut or joined again; `carrier` tells the node of it.
    Link {
        /// Joined?
        up: bool,
        /// The node sees its carrier go.
        carrier: bool,
    },
    /// Adverts of the node are lost on their way out, or in.
    OneWay {
        /// What it sends is lost.
        out: bool,
        /// What it should receive is lost.
        into: bool,
    },
    /// Loss, duplication (permille) and extra jitter (nanoseconds) for everything.
    Weather {
        /// Lost.
        loss: u64,
        /// Delivered twice.
        duplicate: u64,
        /// Added to the jitter.
        jitter: u64,
    },
    /// The nodes in the mask are on the other segment; zero joins the LAN.
    Split(u64),
    /// The node's gate answers well, or not.
    Gate(bool),
    /// The node's configuration: intervals (centiseconds) or priorities change, a group is dropped or comes back.
    Reload(Change),
}

/// A change of configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// New advert interval in centiseconds.
    Interval(u16),
    /// The rank order is turned by so many places.
    Ranks(usize),
    /// Preemption.
    Preempt(bool),
    /// The last address of each group goes or comes.
    Address(bool),
    /// The last group goes or comes.
    Group(bool),
}

/// A fault with its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When, in the world's time.
    pub at: u64,
    /// Whom.
    pub target: Target,
    /// What.
    pub fault: Fault,
    /// How long its own effect lasts.
    pub lasts: u64,
}

const POINTS: [Point; 7] =
    [Point::Read, Point::Expire, Point::Fence, Point::Advert, Point::Frame, Point::Peer, Point::Address];

struct Plan<'a> {
    rng: &'a mut Rng,
    list: Vec<Planned>,
    a: u64,
}

impl Plan<'_> {
    fn add(&mut self, at: u64, target: Target, fault: Fault, lasts: u64) {
        self.list.push(Planned { at, target, fault, lasts });
    }

    fn point(&mut self) -> Point {
        if self.rng.chance(400) { Point::Now } else { self.rng.pick(&POINTS) }
    }

    /// The owner at that time, or this node.
    fn victim_of(&mut self, node: usize, groups: usize) -> Target {
        if self.rng.chance(600) { Target::OwnerNow(self.rng.index(groups)) } else { Target::Node(node) }
    }

    fn victim(&mut self, nodes: usize, groups: usize) -> Target {
        if self.rng.chance(700) { Target::Owner(self.rng.index(groups)) } else { Target::Node(self.rng.index(nodes)) }
    }
}

/// The faults of a run, from `from` on. `a` is the advert interval in nanoseconds.
pub fn plan(rng: &mut Rng, class: Class, nodes: &[NodeSpec], from: u64, a: u64) -> Vec<Planned> {
    let (count, groups) = (nodes.len(), nodes[0].config.groups.len());
    let at = from + rng.between(0, 4 * a + 300 * MS);
    let mut p = Plan { rng, list: Vec::new(), a };
    match class {
        Class::Quiet => {}
        Class::Kill => kill(&mut p, count, groups, at),
        Class::Pause => {
            let (point, victim) = (p.point(), p.victim(count, groups));
            let lasts = p.rng.between(100 * MS, 8 * SEC);
            p.add(at, victim, Fault::Strike(point, Blow::Hold(lasts)), lasts + SEC);
        }
        Class::Stall => {
            // Some from the very start: a claim can be held up too.
            let mut at = if p.rng.chance(300) { 100 * MS } else { at };
            let mut victim = p.victim(count, groups);
            for _ in 0..p.rng.between(3, 25) {
                let (point, lasts) = (p.point(), p.rng.between(5 * MS, 200 * MS));
                p.add(at, victim, Fault::Strike(point, Blow::Hold(lasts)), lasts + SEC);
                at += lasts + p.rng.between(0, 2 * p.a + 20 * MS);
                victim = Target::Victim;
            }
            if p.rng.chance(500) {
                // The last advert misses the fence, and the daemon's own reckoning does not tell: it counts from its decision.
                let lasts = p.rng.between(18 * p.a, 26 * p.a) / 10;
                p.add(at + 5 * p.a, victim, Fault::Strike(Point::Advert, Blow::Hold(lasts)), lasts + SEC);
            }
        }
        Class::Stop => {
            let victim = p.victim(count, groups);
            if p.rng.chance(600) {
                let point = if p.rng.chance(500) { Point::Released } else { p.point() };
                let lasts = p.rng.between(5 * MS, 3 * SEC);
                p.add(at, victim, Fault::Strike(point, Blow::Hold(lasts)), lasts + SEC);
                p.add(at + 1, Target::Victim, Fault::Stop, lasts + 3 * SEC);
            } else {
                p.add(at, victim, Fault::Stop, 3 * SEC);
            }
            if p.rng.chance(600) {
                let again = at + p.rng.between(4 * SEC, 8 * SEC);
                p.add(again, Target::Victim, Fault::Start, 2 * SEC);
            }
        }
        Class::Move => moves(&mut p, count, groups, at),
        Class::Cut => {
            let (victim, carrier) = (p.victim(count, groups), p.rng.chance(300));
            p.add(at, victim, Fault::Link { up: false, carrier }, 0);
            let back = at + p.rng.between(100 * MS, 12 * SEC);
            p.add(back, Target::Victim, Fault::Link { up: true, carrier }, 4 * p.a);
        }
        Class::OneWay => {
            let (victim, out) = (p.victim(count, groups), p.rng.chance(500));
            p.add(at, victim, Fault::OneWay { out, into: !out }, 0);
            let back = at + p.rng.between(10 * p.a, 10 * p.a + 5 * SEC);
            p.add(back, Target::Victim, Fault::OneWay { out: false, into: false }, 4 * p.a);
        }
        Class::Loss => {
            let (loss, duplicate) = (p.rng.between(20, 500), p.rng.between(0, 100));
            let jitter = p.rng.between(0, p.a / 10);
            p.add(at, Target::Node(0), Fault::Weather { loss, duplicate, jitter }, 0);
            let back = at + p.rng.between(10 * p.a, 20 * p.a + 5 * SEC);
            p.add(back, Target::Node(0), Fault::Weather { loss: 0, duplicate: 0, jitter: 0 }, 4 * p.a);
        }
        Class::Partition => {
            let mut at = at;
            for _ in 0..p.rng.between(1, 2) {
                let mask = p.rng.between(1, (1 << count) - 2);
                p.add(at, Target::Node(0), Fault::Split(mask), 0);
                at += p.rng.between(8 * p.a, 12 * p.a + 4 * SEC);
                p.add(at, Target::Node(0), Fault::Split(0), 4 * p.a);
                at += 6 * p.a + SEC;
            }
        }
        Class::Gates => {
            let mut at = at;
            for _ in 0..p.rng.between(2, 12) {
                let (node, ok) = (p.rng.index(count), p.rng.chance(400));
                p.add(at, Target::Node(node), Fault::Gate(ok), SEC);
                if p.rng.chance(500) {
                    // A node that stands still while it is displaced, or while it takes over.
                    let (point, lasts) = (p.point(), p.rng.between(5 * MS, 6 * p.a));
                    let when = at + p.rng.between(300 * MS, 700 * MS);
                    let whom = p.victim_of(node, groups);
                    p.add(when, whom, Fault::Strike(point, Blow::Hold(lasts)), lasts + SEC);
                }
                at += p.rng.between(50 * MS, 1500 * MS);
            }
            if p.rng.chance(800) {
                (0..count).for_each(|node| p.add(at, Target::Node(node), Fault::Gate(true), 2 * SEC));
            }
        }
        Class::Reload => reload(&mut p, count, groups, at),
    }
    p.list
}

fn kill(p: &mut Plan<'_>, count: usize, groups: usize, at: u64) {
    let (point, victim) = (p.point(), p.victim(count, groups));
    p.add(at, victim, Fault::Strike(point, Blow::Kill), 0);
    if p.rng.chance(600) {
        let again = at + p.rng.between(10 * MS, 6 * SEC);
        p.add(again, Target::Victim, Fault::Start, 2 * SEC);
    } else {
        // Long enough to see the addresses go by themselves.
        p.add(at + 6 * SEC, Target::Victim, Fault::Gate(true), 0);
    }
}

fn moves(p: &mut Plan<'_>, count: usize, groups: usize, mut at: u64) {
    let mut drained = None;
    let slow = p.rng.chance(500).then(|| p.rng.index(count));
    for _ in 0..p.rng.between(1, 5) {
        let node = p.rng.index(count);
        if let Some(slow) = slow {
            let (point, lasts) = (p.point(), p.rng.between(5 * MS, 500 * MS));
            p.add(at, Target::Node(slow), Fault::Strike(point, Blow::Hold(lasts)), lasts + SEC);
        }
        match drained {
            Some(node) if p.rng.chance(600) => {
                p.add(at, Target::Node(node), Fault::Drain(false), SEC);
                drained = None;
            }
            None if p.rng.chance(400) => {
                p.add(at, Target::Node(node), Fault::Drain(true), 2 * SEC);
                drained = Some(node);
            }
            _ => {
                let (group, to) = (p.rng.index(groups), p.rng.index(count));
                if slow.is_none() && p.rng.chance(400) {
                    // The predecessor, held up at the worst of times.
                    let lasts = p.rng.between(5 * MS, 500 * MS);
                    p.add(at, Target::Owner(group), Fault::Strike(Point::Granted, Blow::Hold(lasts)), lasts + SEC);
                }
                p.add(at, Target::Node(node), Fault::Move(group, to), 3 * SEC);
            }
        }
        at += p.rng.between(20 * MS, 3 * SEC);
    }
}

fn reload(p: &mut Plan<'_>, count: usize, groups: usize, mut at: u64) {
    let (mut fewer_addresses, mut fewer_groups) = (false, false);
    for _ in 0..p.rng.between(1, 4) {
        let change = match p.rng.below(5) {
            0 => Change::Interval(p.rng.pick(&[1, 5, 10, 30, 100])),
            1 => Change::Ranks(p.rng.index(count)),
            2 => Change::Preempt(p.rng.chance(500)),
            3 => {
                fewer_addresses = !fewer_addresses;
                Change::Address(!fewer_addresses)
            }
            _ => {
                fewer_groups = !fewer_groups;
                Change::Group(!fewer_groups)
            }
        };
        // An operator rolls a change out node by node; the nodes disagree for a while.
        for node in 0..count {
            let when = at + p.rng.between(0, 300 * MS);
            p.add(when, Target::Node(node), Fault::Reload(change), 4 * p.a + SEC);
            if p.rng.chance(150) {
                // It may be displaced by a changed rank while it stands still, or displace.
                let (point, lasts) = (p.point(), p.rng.between(5 * MS, 6 * p.a));
                let whom = p.victim_of(node, groups);
                let when = when + p.rng.between(0, 4 * p.a);
                p.add(when, whom, Fault::Strike(point, Blow::Hold(lasts)), lasts + SEC);
            }
        }
        at += p.rng.between(SEC, 3 * SEC);
    }
}
