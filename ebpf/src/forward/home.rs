//! The home step: does this node hold the flow of a packet, does it open it, or who else is asked.

use bascule_ebpf_common::forward::{
    BUCKET_ORPHAN, HOP_ACCEPT, PacketDrop, SERVICE_ASK, SHIM_LOOKAHEAD, SHIM_REMOTE, ShimHead, Tally,
};

use crate::clock;
use crate::deliver;
use crate::encap::{self, Onward};
use crate::flow::{self, Entry};
use crate::local::{self, MAX_CANDIDATES, OWN, Target};
use crate::maps;
use crate::packet::Packet;
use crate::parse::IPPROTO_TCP;
use crate::request::{Request, alive};
use crate::rows::{self, Place};
use crate::service::Kind;
use crate::socket::{self, Socket};
use crate::verdict::Verdict;

/// What the step decided. Every way writes every field: of one left out the compiler makes a register never written, which the verifier
/// refuses to read.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) way: Way,
    /// Slot of the endpoint (0: the stack as it is), or hop with its accept bit.
    pub(crate) id: u16,
    /// Slot in the tallies that says why.
    why: u16,
    /// With look-ahead: the node to ask after that one; 0: none.
    then: u16,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Way {
    /// To an endpoint here.
    Deliver,
    /// To another node, by the chain or by look-ahead.
    Onward,
    /// Nowhere.
    Drop,
    /// The tables do not know: ask the sockets.
    Recover,
}

impl Step {
    #[inline(always)]
    fn deliver(slot: u16, why: Tally) -> Self {
        Self { way: Way::Deliver, id: slot, why: why as u16, then: 0 }
    }

    #[inline(always)]
    fn onward(hop: u16, why: Tally) -> Self {
        Self { way: Way::Onward, id: hop, why: why as u16, then: 0 }
    }

    #[inline(always)]
    fn drop(reason: PacketDrop) -> Self {
        Self { way: Way::Drop, id: 0, why: reason as u16, then: 0 }
    }

    /// Slot in the tallies that says why.
    #[inline(always)]
    pub(crate) fn why(self) -> u32 {
        u32::from(self.why)
    }

    /// The reason of a drop.
    #[inline(always)]
    pub(crate) fn reason(self) -> PacketDrop {
        // SAFETY: `drop` alone makes steps of this way, of a reason's own number.
        unsafe { core::mem::transmute::<u32, PacketDrop>(self.why()) }
    }
}

/// Runs the home step and carries it out.
#[inline(always)]
pub(crate) fn step<P: Packet>(packet: &P, request: &mut Request) -> Verdict {
    request.work.chain.settle(request.config.node);
    let step = decide(packet, request);
    match step.way {
        Way::Deliver => {
            maps::count(step.why());
            deliver::to(packet, request, step.id)
        }
        Way::Onward => pass_on(packet, request, step),
        Way::Drop | Way::Recover => Verdict::Drop(step.reason()),
    }
}

/// Decides; the packet is only read.
#[inline(always)]
pub(crate) fn decide<P: Packet>(packet: &P, request: &mut Request) -> Step {
    let mut step = Step::drop(PacketDrop::NoEndpoint);
    look(request, &mut step);
    if step.way == Way::Recover {
        recover(packet, request, &mut step);
    }
    step
}

/// The tables: a known flow, or one that may be opened. A function of its own, as `recover` is: what each looks up would not fit into the
/// stack beside what its callers hold.
#[inline(never)]
fn look(request: &mut Request, step: &mut Step) {
    *step = in_tables(request);
}

#[inline(always)]
fn in_tables(request: &mut Request) -> Step {
    local::gather(request);
    local::start_key(request);
    request.work.free = MAX_CANDIDATES;
    request.work.foreign = 0;
    request.work.collided = false;
    for index in 0..MAX_CANDIDATES {
        if index >= request.work.candidates {
            break;
        }
        let Some(target) = local::target(request, index) else { continue };
        local::aim_key(request, &target);
        match flow::look(request) {
            Entry::Own => return Step::deliver(target.slot, Tally::FlowHit),
            Entry::Foreign => {
                request.work.foreign |= 1 << (index & 7);
                // It would have been taken.
                request.work.collided |= target.ready && request.work.free == MAX_CANDIDATES;
                local::widen(request);
            }
            Entry::Free if flow::half_open(request) => {
                flow::leave_half(request);
                return enter(request, &target, Tally::FlowHit);
            }
            // The rows behind the own one stand in for endpoints that would have been taken.
            Entry::Free
                if target.ready && request.work.free == MAX_CANDIDATES && (index < OWN || request.work.collided) =>
            {
                request.work.free = index;
            }
            Entry::Free => {}
        }
    }
    if !may_open(request) {
        return match request.work.kind {
            Kind::Tcp(_) => Step { way: Way::Recover, ..Step::drop(PacketDrop::NoEndpoint) },
            Kind::Udp | Kind::Quic => ask_on(request),
        };
    }
    let free = request.work.free;
    let Some(target) = local::target(request, free) else { return ask_on(request) };
    local::aim_key(request, &target);
    let entered = match request.work.kind {
        Kind::Tcp(_) => flow::enter_half(request, &target),
        Kind::Udp | Kind::Quic => flow::enter(request, &target),
    };
    if !entered {
        return Step::drop(PacketDrop::FlowTable);
    }
    if request.work.collided {
        maps::tally(Tally::Collision);
    }
    request.found.count_new();
    Step::deliver(target.slot, Tally::FlowNew)
}

/// May the packet open a flow here?
#[inline(always)]
fn may_open(request: &Request) -> bool {
    let chain = &request.work.chain;
    let opens = match request.work.kind {
        Kind::Tcp(_) | Kind::Quic => request.work.kind.opens(),
        Kind::Udp => request.found.service.flags & SERVICE_ASK == 0 || chain.accept || chain.used_up(),
    };
    opens && chain.flags & SHIM_REMOTE == 0
}

/// Enters the flow of the key in the work, and delivers.
#[inline(always)]
fn enter(request: &mut Request, target: &Target, why: Tally) -> Step {
    if flow::enter(request, target) { Step::deliver(target.slot, why) } else { Step::drop(PacketDrop::FlowTable) }
}

/// Finds a TCP flow that the tables do not know: an endpoint's socket does, or it carries a SYN cookie.
#[inline(never)]
fn recover<P: Packet>(packet: &P, request: &mut Request, step: &mut Step) {
    *step = by_sockets(packet, request);
}

#[inline(always)]
fn by_sockets<P: Packet>(packet: &P, request: &mut Request) -> Step {
    for index in 0..OWN {
        // The socket that would answer there is another VIP's.
        if request.work.foreign >> (index & 7) & 1 != 0 {
            continue;
        }
        let Some(target) = local::target(request, index) else { continue };
        local::aim_key(request, &target);
        let why = match socket::find(packet, request, &target) {
            Socket::Knows => Tally::SocketHit,
            Socket::Listens if flow::acknowledges(request) && socket::has_cookie(packet, request, &target) => {
                Tally::CookieHit
            }
            Socket::Listens | Socket::None => continue,
        };
        return enter(request, &target, why);
    }
    ask_on(request)
}

/// Nobody here knows the packet: the next node of the chain, a look at the own table, the end.
#[inline(always)]
fn ask_on(request: &Request) -> Step {
    let step = others(request);
    if step.way == Way::Onward {
        return step;
    }
    let chain = &request.work.chain;
    if chain.flags & SHIM_REMOTE != 0 {
        return Step::drop(PacketDrop::RemoteMiss);
    }
    // What would open a flow found no endpoint that takes one.
    if request.work.kind.opens() || !matches!(request.work.kind, Kind::Tcp(_)) {
        return Step::drop(PacketDrop::NoEndpoint);
    }
    for index in 0..OWN {
        if let Some(target) = local::target(request, index) {
            if !clock::take(BUCKET_ORPHAN, request.config.orphan_rate) {
                return Step::drop(PacketDrop::OrphanRate);
            }
            request.found.count_orphan();
            return Step::deliver(target.slot, Tally::Orphan);
        }
    }
    Step::drop(PacketDrop::NoEndpoint)
}

/// The next node of the chain, or a look at the own table; else a drop.
#[inline(always)]
pub(crate) fn others(request: &Request) -> Step {
    let chain = &request.work.chain;
    if !chain.used_up() {
        return Step::onward(chain.hop(chain.index), Tally::NextHop);
    }
    if !chain.looked_ahead() {
        return ahead(request);
    }
    Step::drop(PacketDrop::NoEndpoint)
}

/// Whom the own row names that nobody has asked: its home, and for a TCP flow that lives also who held the row before. The node on which
/// the packet arrived may have started a moment ago, with a row that has a home and no past.
#[inline(always)]
fn ahead(request: &Request) -> Step {
    let (chain, service) = (&request.work.chain, &request.found.service);
    let row = Place::new(&raw const service.nodes, (request.work.hash >> 32) as u32).row();
    let ids = rows::current(row, service.drain_minutes);
    let lives = service.protocol == IPPROTO_TCP && !request.work.kind.opens();
    let (mut first, mut then) = (0, 0);
    for place in 0..3 {
        let id = ids.at(place);
        if (place > 0 && !lives) || id == request.config.node || chain.names(id) || !alive(id) {
            continue;
        }
        if first == 0 {
            first = id;
        } else if then == 0 {
            then = id;
        }
    }
    if first == 0 {
        return Step::drop(PacketDrop::NoEndpoint);
    }
    Step { then, ..Step::onward(first, Tally::LookAhead) }
}

/// Sends the packet on to the node that `step` names.
#[inline(always)]
pub(crate) fn pass_on<P: Packet>(packet: &P, request: &mut Request, step: Step) -> Verdict {
    let (hop, ahead) = (step.id, step.why() == Tally::LookAhead as u32);
    let chain = &request.work.chain;
    let head = chain.head(&request.found);
    // The first place is used by now, or empty: it says from here on where the client's packet arrived. The second one is free unless the
    // chain had two hops.
    let extended = ahead && step.then != 0 && head.count < 2;
    let head = ShimHead {
        flags: head.flags | if ahead { SHIM_LOOKAHEAD } else { 0 },
        index: if extended { 1 } else { head.index + if ahead { 0 } else { 1 } },
        count: if extended { 2 } else { head.count },
        accept: hop & HOP_ACCEPT != 0,
        hops: [chain.ingress, if extended { step.then } else { head.hops[1] }],
        ..head
    };
    let onward = Onward { to: hop & !HOP_ACCEPT, first: chain.outer.is_none(), head };
    let verdict = encap::send(packet, request, &onward);
    if let Verdict::Send(_) = verdict {
        maps::count(step.why());
    }
    verdict
}
