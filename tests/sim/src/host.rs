//! One node: its kernel, and the process of its daemon with a driver around the very [`Node`].
//!
//! The driver keeps the calling contract: it reads until nothing is left, lets timers expire with a time taken before the last look at
//! the sockets, and carries out actions in order. It can be held up or killed between any two of these steps.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use bascule_core::node::Node;
use bascule_core::node::config::NodeConfig;
use bascule_core::node::io::{Action, Input};
use bascule_core::time::Instant;
use bascule_core::wire::vrrp::Advert;

use crate::clock::Clock;
use crate::faults::{Blow, Point};
use crate::kernel::Kernel;
use crate::lan::Packet;
use crate::mutant::Mutant;
use crate::world::Netlink;

/// Something that waits to be read by the daemon.
#[derive(Debug)]
pub enum Rx {
    /// A packet of the network.
    Packet(Rc<Packet>),
    /// Anything else.
    Told(Input<'static>),
}

/// Where the driver's turn stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Waiting.
    Idle,
    /// The turn began at this time; nothing was read yet.
    Read(Instant),
    /// Everything was read; timers expire with this time.
    Expire(Instant),
    /// Actions are carried out; afterwards the driver reads on in the turn that began then, or the turn ends.
    Act(Option<Instant>),
}

/// The daemon.
#[derive(Debug)]
pub struct Process {
    /// The machine.
    pub node: Node,
    /// What it has not read yet.
    pub inbox: VecDeque<Rx>,
    /// Where its turn stands.
    pub phase: Phase,
    /// Taken from the machine and not carried out yet.
    pub held: VecDeque<Action>,
    /// Stopped by a signal.
    pub frozen: bool,
    /// A wake-up is on its way at this time.
    pub wake_at: Option<u64>,
    /// Blows that wait for their point.
    pub traps: Vec<(Point, Blow)>,
    /// Calls of `handle_timeout` and actions since the start, for the bound on work.
    pub work: u64,
    /// `Action::Stopped` was seen.
    pub stopped: bool,
    /// What its netlink thread has to do yet, in order.
    pub(crate) netlink: VecDeque<Netlink>,
    /// Its netlink thread is busy until then.
    pub netlink_free: u64,
}

/// One node.
#[derive(Debug)]
pub struct Host {
    /// Index, and port on the LAN.
    pub index: usize,
    /// Clock of daemon and kernel.
    pub clock: Clock,
    /// Kernel.
    pub kernel: Kernel,
    /// Daemon, when it runs.
    pub process: Option<Process>,
    /// Configuration that a start reads.
    pub config: NodeConfig,
    /// Its gates answer well.
    pub gate: bool,
    /// The daemon knows its carrier to be up.
    pub carrier: bool,
    /// Counts processes: what belongs to an earlier one is void.
    pub generation: u64,
    /// Deliberately out of the election.
    pub drained: bool,
}

impl Process {
    /// A daemon that was just started.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            node: Node::new(seed, now),
            inbox: VecDeque::new(),
            phase: Phase::Idle,
            held: VecDeque::new(),
            frozen: false,
            wake_at: None,
            traps: Vec::new(),
            work: 0,
            stopped: false,
            netlink: VecDeque::new(),
            netlink_free: 0,
        }
    }

    /// The blow that waits at this point, if any.
    pub fn trap(&mut self, point: Point) -> Option<Blow> {
        let at = self.traps.iter().position(|(p, _)| *p == point)?;
        Some(self.traps.remove(at).1)
    }

    /// The actions that the machine owes, in the order in which this driver (or a wrong one) carries them out.
    pub fn take_actions(&mut self, mutant: Option<Mutant>) {
        let from = self.held.len();
        while let Some(action) = self.node.poll_action() {
            self.work += 1;
            self.held.push_back(action);
        }
        let late = |action: &Action| match (mutant, action) {
            (Some(Mutant::OpensLate), Action::Fence(w)) => opens(w),
            (Some(Mutant::ClosesLate), Action::Fence(w)) => closes(w),
            _ => false,
        };
        let tail: Vec<Action> = self.held.drain(from..).collect();
        let (last, first): (Vec<Action>, Vec<Action>) = tail.into_iter().partition(late);
        self.held.extend(first.into_iter().chain(last));
    }

    /// Feeds what was read, packets as `received`, everything with the given time.
    pub fn feed(&mut self, rx: Rx, mutant: Option<Mutant>, now: Instant) {
        match rx {
            Rx::Told(input) => self.node.handle_input(input, now),
            Rx::Packet(packet) => {
                let altered = mutant.and_then(|m| alter(&packet, m, self));
                self.node.handle_input(altered.as_ref().unwrap_or(&packet).input(), now);
            }
        }
    }
}

fn opens(write: &bascule_core::fence::FenceWrite) -> bool {
    use bascule_core::fence::{FenceRole, FenceWrite};
    matches!(write, FenceWrite::Ctl(_, ctl) if ctl.role == FenceRole::Active)
}

fn closes(write: &bascule_core::fence::FenceWrite) -> bool {
    use bascule_core::fence::{FenceRole, FenceWrite};
    matches!(write, FenceWrite::Ctl(_, ctl) if ctl.role != FenceRole::Active)
}

/// What a mutant makes of an advert on its way in.
fn alter(packet: &Packet, mutant: Mutant, process: &Process) -> Option<Packet> {
    let crate::lan::Body::Vrrp { src, dst, payload } = &packet.body else { return None };
    let mut advert = Advert::parse(payload, *src, *dst).ok()?;
    let status = process.node.status(Instant::ZERO);
    let group = status.groups.iter().find(|g| g.vrid == advert.vrid)?;
    let mut shown = *src;
    match mutant {
        Mutant::TieBothWin if advert.priority == group.priority => {
            // Each side is shown a rival with the lowest address there is: both stay.
            shown = lowest(*src);
        }
        Mutant::NoSkew if advert.priority > 0 => {
            // The learned interval is cut so that three of it and the skew make three of the real one, as far as centiseconds go.
            let cut = u32::from(advert.interval.get()) * 768 / (1024 - u32::from(group.priority));
            advert.interval = bascule_core::types::Centis::new(u16::try_from(cut).ok()?.max(1))?;
        }
        _ => return None,
    }
    let payload = advert.encode(shown, *dst);
    Some(Packet { body: crate::lan::Body::Vrrp { src: shown, dst: *dst, payload }, ..packet.clone() })
}

fn lowest(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { IpAddr::from([10, 9, 0, 1]) } else { IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]) }
}
