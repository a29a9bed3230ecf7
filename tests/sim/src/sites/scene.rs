//! Rows of the fault matrix (sites.md section 5) that can be judged without packets, as scripts of faults from a seed.

mod relays;

use std::fmt;

use bascule_core::site::state::version::Speaks;

use super::link::{Buffer, Loss, MS, SEC};
use crate::rng::Rng;

/// A row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// A whole site goes off.
    F3,
    /// Relays are killed, stop or stand still: all at once, one after the other, or one at a time while its site has another.
    F4,
    /// The daemon that holds the lease does not run for a while.
    F5,
    /// The WAN between two sites is cut; both see the witness.
    F7,
    /// A site is cut off from everybody, the witness too.
    F8,
    /// The witness is gone.
    F9,
    /// The witness comes and goes while two sites are cut from each other.
    F10,
    /// Loss, random or in bursts, one way or both.
    F11,
    /// The round trip grows fourfold, or a buffer before a link fills.
    F12,
    /// One direction is cut.
    F14,
    /// A site says that it is ready and serves nobody.
    F15,
    /// A path goes and comes back each second.
    F18,
    /// A site's API server is gone for an hour: nothing new is said.
    F22,
    /// Clocks of all sites differ and run at different rates.
    F23,
    /// A site comes back with a wiped disk.
    F25,
    /// Datagrams are repeated, delayed, forged.
    F26,
    /// Relays are upgraded one after the other, over two versions.
    F32,
    /// Nothing is ready at all sites but one, which is sick.
    F33,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::F3,
        Self::F4,
        Self::F5,
        Self::F7,
        Self::F8,
        Self::F9,
        Self::F10,
        Self::F11,
        Self::F12,
        Self::F14,
        Self::F15,
        Self::F18,
        Self::F22,
        Self::F23,
        Self::F25,
        Self::F26,
        Self::F32,
        Self::F33,
    ];

    /// Rows in which new flows go where nobody serves them until the policy acts: with it off their bound must be missed.
    pub const STEERED: [Self; 8] =
        [Self::F3, Self::F7, Self::F8, Self::F10, Self::F14, Self::F15, Self::F25, Self::F33];

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.to_string().eq_ignore_ascii_case(name))
    }

    /// What happens, in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::F3 => "whole site off",
            Self::F4 => "relays killed",
            Self::F5 => "lease holder frozen",
            Self::F7 => "WAN cut, witness seen by both",
            Self::F8 => "site cut off, witness too",
            Self::F9 => "witness down",
            Self::F10 => "witness flaps, WAN cut",
            Self::F11 => "loss",
            Self::F12 => "round trip x 4, buffer fills",
            Self::F14 => "one direction cut",
            Self::F15 => "ready but black-holing",
            Self::F18 => "path flaps at 1 Hz",
            Self::F22 => "API server down for 1 h",
            Self::F23 => "clocks differ",
            Self::F25 => "wiped disk",
            Self::F26 => "repeated and forged datagrams",
            Self::F32 => "relays upgraded one by one",
            Self::F33 => "last site is sick",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What happens to the world. Sites are counted from 0.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// Packets from one site to another.
    Loss(usize, usize, Loss),
    /// One-way delay of all links, times this many.
    Slower(u64),
    /// A buffer before a link fills.
    Buffer(usize, usize, Buffer),
    /// A site's process dies; its disk may go with it.
    Kill(usize),
    /// It starts.
    Start(usize, bool),
    /// The witness is there or not, for one site or (`None`) at all.
    Witness(Option<usize>, bool),
    /// All nodes that are relays are there, or their daemons are dead.
    Relays(bool),
    /// The same of one of them, of a site.
    Relay(usize, usize, bool),
    /// That one stops in order.
    Stop(usize, usize),
    /// Its daemon does not run, or does again; its kernel does, and the rest of its site.
    Freeze(usize, usize, bool),
    /// A site's endpoints are ready or not.
    Ready(usize, bool),
    /// It answers nobody although it says that it is ready.
    BlackHole(usize, bool),
    /// It says nothing new.
    Mute(usize, bool),
    /// Datagrams are repeated and forged.
    Noise(bool),
    /// A site's daemon does not run; its kernel does.
    Pause(usize, bool),
    /// A site's relays are other ones, which speak up to this version.
    Upgrade(usize, u8),
}

/// A script.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Its row.
    pub class: Class,
    /// The seed.
    pub seed: u64,
    /// Sites.
    pub sites: usize,
    /// Faults in order of time, in nanoseconds.
    pub faults: Vec<(u64, Fault)>,
    /// End of the run.
    pub end: u64,
    /// After a fault the traffic may still be wrong for so long.
    pub settle: u64,
    /// Tables of all sites together from the first fault on, at most.
    pub tables: Option<u64>,
    /// Moves of the activePassive service, at most.
    pub moves: Option<u64>,
    /// Longest time without an owner of the activePassive service that could be one, where there is one.
    pub vacant: Option<u64>,
    /// Who has something ready changes while relays are gone.
    pub news: bool,
    /// Ways that are slow, and by when that must weigh as much as it can.
    pub slow: Option<(Slow, u64)>,
    /// A site that nobody reaches, and while every node elsewhere must know it.
    pub dead: Option<Dead>,
    /// From the first fault on no table is written to the data path: what the bounds are then missed by is what the policy holds.
    pub policy_off: bool,
}

/// A site that is off, or cut off from all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dead {
    /// Which.
    pub site: usize,
    /// It must be known to be, from then on ..
    pub from: u64,
    /// .. to the end of the fault.
    pub until: u64,
}

/// Which ways are slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slow {
    /// All of them.
    All,
    /// That between two sites.
    Between(usize, usize),
}

impl Slow {
    /// Is the way between these two sites one?
    pub fn has(self, a: usize, b: usize) -> bool {
        match self {
            Self::All => true,
            Self::Between(x, y) => (a.min(b), a.max(b)) == (x.min(y), x.max(y)),
        }
    }
}

/// A slow way weighs 0.3 by then (F12).
const SLOW: u64 = 15 * SEC;
/// Another owner of an activePassive VIP: the lease's 5 s and 1.5 s (issue 6, Shows 2).
const TAKE_OVER: u64 = 6500 * MS;
/// No path to a site, and each other site has said so: silence of 0.6 s, a second in which a change may wait for its turn (`state::reach`), the way
/// there and a slot.
const DEAD: u64 = 2200 * MS;
/// A session over a link that is cut lasts for so long (`wan`): until then it reaches the site.
const SESSION: u64 = 15 * SEC + 200 * MS;
/// News of a site that has lost its leading relay count everywhere by then, although another relay heard them at once: silence within the site
/// takes 3 s, a call of the next one as long as a round trip, the doubt at the other end 2 s and a look more; a relay that leads again says nothing
/// new for the first 10 s of its process, of which it waits and is looked for in 3 s.
pub(super) const LATE: u64 = 9 * SEC;
/// The newest version of what relays say to one another.
pub(super) const THIS: u8 = Speaks::OURS.newest;
/// When faults begin: everybody has learned and grown by then.
pub const START: u64 = 30 * SEC;

impl Scene {
    /// From a seed; the class is drawn unless given.
    pub fn new(seed: u64, class: Option<Class>) -> Self {
        let mut rng = Rng::new(seed ^ 0x5175);
        let class = class.unwrap_or_else(|| rng.pick(&Class::ALL));
        let sites = 3;
        let (a, at) = (rng.index(sites), START + rng.below(SEC));
        let b = (a + 1 + rng.index(sites - 1)) % sites;
        let mut scene = Self {
            class,
            seed,
            sites,
            faults: Vec::new(),
            end: at + 60 * SEC,
            settle: 600 * MS,
            tables: None,
            moves: None,
            vacant: None,
            news: false,
            slow: None,
            dead: None,
            policy_off: false,
        };
        let cut = |x: usize, y: usize, loss| [Fault::Loss(x, y, loss), Fault::Loss(y, x, loss)];
        let others = || (0..sites).filter(move |o| *o != a);
        let heal = at + rng.between(15, 30) * SEC;
        let mut put = |when: u64, fault: Fault| scene.faults.push((when, fault));
        match class {
            Class::F3 => {
                put(at, Fault::Kill(a));
                others().for_each(|o| cut(a, o, Loss::All).into_iter().for_each(|f| put(at, f)));
                put(at, Fault::Witness(Some(a), false));
                others().for_each(|o| cut(a, o, Loss::None).into_iter().for_each(|f| put(heal, f)));
                put(heal, Fault::Witness(Some(a), true));
                put(heal, Fault::Start(a, false));
            }
            Class::F4 if rng.chance(500) => {
                scene.news = rng.chance(500);
                (scene.faults, scene.end) = relays::singly(&mut rng, at, sites, scene.news);
            }
            Class::F4 if rng.chance(500) => {
                // The one that leads, then the one that took over; they return in the other order, and the first takes its place again.
                for site in 0..sites {
                    let at = at + rng.below(3 * SEC);
                    let turns = [(0, 0, false), (20, 1, false), (50, 1, true), (70, 0, true)];
                    turns.into_iter().for_each(|(s, relay, there)| put(at + s * SEC, Fault::Relay(site, relay, there)));
                }
                scene.end = at + 100 * SEC;
            }
            Class::F4 => {
                put(at, Fault::Relays(false));
                put(at + 50 * SEC, Fault::Relays(true));
            }
            Class::F5 => {
                // The first site of the order holds the lease: nothing has happened yet.
                put(at, Fault::Pause(0, true));
                put(at + rng.between(200, 60_000) * MS, Fault::Pause(0, false));
            }
            Class::F7 => {
                cut(a, b, Loss::All).into_iter().for_each(|f| put(at, f));
                cut(a, b, Loss::None).into_iter().for_each(|f| put(heal, f));
            }
            Class::F8 => {
                others().for_each(|o| cut(a, o, Loss::All).into_iter().for_each(|f| put(at, f)));
                put(at, Fault::Witness(Some(a), false));
                others().for_each(|o| cut(a, o, Loss::None).into_iter().for_each(|f| put(heal, f)));
                put(heal, Fault::Witness(Some(a), true));
            }
            Class::F9 => put(at, Fault::Witness(None, false)),
            Class::F10 => {
                cut(0, 1, Loss::All).into_iter().for_each(|f| put(at, f));
                for i in 0..10 {
                    put(at + (60 * i + 5) * SEC, Fault::Witness(None, false));
                    put(at + (60 * i + 35) * SEC, Fault::Witness(None, true));
                }
            }
            Class::F11 => {
                let share = rng.pick(&[0.02, 0.05, 0.1, 0.2]);
                let loss = if rng.chance(500) { Loss::Random(share) } else { Loss::bursts(share) };
                put(at, Fault::Loss(a, b, loss));
                if rng.chance(500) {
                    put(at, Fault::Loss(b, a, loss));
                }
                cut(a, b, Loss::None).into_iter().for_each(|f| put(at + 45 * SEC, f));
            }
            Class::F12 if rng.chance(500) => {
                put(at, Fault::Slower(4));
                scene.slow = Some((Slow::All, at + SLOW));
            }
            Class::F12 => {
                put(at, Fault::Buffer(a, b, Buffer::draw(&mut rng, at)));
                scene.slow = Some((Slow::Between(a, b), at + SLOW));
            }
            Class::F14 => {
                put(at, Fault::Loss(a, b, Loss::All));
                put(heal, Fault::Loss(a, b, Loss::None));
            }
            Class::F15 => {
                put(at, Fault::BlackHole(a, true));
                put(at + 20 * SEC, Fault::BlackHole(a, false));
            }
            Class::F18 => {
                for i in 0..600 {
                    let loss = if i % 2 == 0 { Loss::All } else { Loss::None };
                    cut(a, b, loss).into_iter().for_each(|f| put(at + i * SEC / 2, f));
                }
            }
            Class::F22 => put(at, Fault::Mute(a, true)),
            Class::F23 => {}
            Class::F25 => {
                put(at, Fault::Kill(a));
                put(at + 2 * SEC, Fault::Start(a, false));
                put(at + 20 * SEC, Fault::Kill(a));
                put(at + 23 * SEC, Fault::Start(a, true));
                put(at + 55 * SEC, Fault::Ready(a, false));
                put(at + 62 * SEC, Fault::Ready(a, true));
            }
            Class::F26 => put(at, Fault::Noise(true)),
            Class::F32 => {
                // All begin with the last version; some leave this one out.
                let order = [a, b, 3 - a - b];
                for (turn, site) in (0..).zip(order.into_iter().chain(order)) {
                    let newest = if turn < 3 && rng.chance(700) { THIS } else { THIS + 1 };
                    put(at + turn * 15 * SEC, Fault::Upgrade(site, newest));
                }
            }
            Class::F33 => {
                put(at, Fault::Loss(a, b, Loss::Random(0.2)));
                put(at + 10 * SEC, Fault::Ready(a, false));
                others().filter(|o| *o != b).for_each(|o| put(at + 10 * SEC, Fault::Ready(o, false)));
                put(at + 40 * SEC, Fault::Ready(a, true));
            }
        }
        match class {
            Class::F4 | Class::F9 | Class::F22 | Class::F23 | Class::F26 | Class::F32 => {
                (scene.tables, scene.moves) = (Some(0), Some(0));
            }
            Class::F7 => scene.moves = Some(0),
            Class::F10 => {
                scene.moves = Some(1);
                scene.end = at + 600 * SEC;
            }
            Class::F18 => {
                scene.tables = Some(6);
                scene.end = at + 310 * SEC;
                scene.settle = u64::MAX / 2;
            }
            Class::F15 => scene.settle = 3 * SEC,
            Class::F25 => scene.end = at + 75 * SEC,
            _ => {}
        }
        if scene.news {
            (scene.tables, scene.moves, scene.settle) = (None, None, LATE);
        }
        if matches!(class, Class::F3 | Class::F5 | Class::F8) {
            scene.vacant = Some(TAKE_OVER);
        }
        scene.dead = match class {
            // The kernel of a process that dies ends its sessions.
            Class::F3 => Some(Dead { site: a, from: at + DEAD, until: heal }),
            Class::F8 => Some(Dead { site: a, from: at + SESSION + DEAD, until: heal }),
            _ => None,
        };
        if class == Class::F9 {
            scene.vacant = Some(0);
        }
        if class == Class::F5 {
            scene.end = at + 90 * SEC;
        }
        if class == Class::F22 {
            scene.end = at + 600 * SEC;
        }
        if class == Class::F32 {
            scene.end = at + 130 * SEC;
        }
        scene.faults.sort_by_key(|(when, _)| *when);
        scene
    }

    /// The same, and the run ends so many nanoseconds after the first fault: for a fault that stays.
    #[must_use]
    pub fn lasting(mut self, span: u64) -> Self {
        self.end = self.faults.first().map_or(START, |(at, _)| *at) + span;
        self
    }
}
