//! The home step: does this node hold the flow of a packet, does it open it, or who else is asked.

use bascule_ebpf_common::forward::{
    BUCKET_ORPHAN, HOP_ACCEPT, PacketDrop, SERVICE_ASK, SHIM_LOOKAHEAD, SHIM_REMOTE, ShimHead, Tally,
};

use crate::clock;
use crate::deliver;
use crate::encap::{self, Onward};
use crate::flow::{self, Entry};
use crate::local::{self, Local, MAX_CANDIDATES};
use crate::maps;
use crate::packet::Packet;
use crate::parse::{ACK, FIN, RST, SYN};
use crate::request::{Request, alive};
use crate::rows::Place;
use crate::service::Kind;
use crate::socket::{self, Socket};
use crate::verdict::Verdict;

/// What the step decided.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// To the endpoint in this slot (0: the stack as it is); the tally says why.
    Deliver(u16, Tally),
    /// To this node, by the chain or by look-ahead; its hop with the accept bit.
    Onward(u16, Tally),
    /// Nowhere.
    Drop(PacketDrop),
    /// The tables do not know: ask the sockets. One bit for each candidate that another VIP holds.
    Recover(u32),
}

/// Runs the home step and carries it out.
#[inline(always)]
pub(crate) fn step<P: Packet>(packet: &P, request: &mut Request) -> Verdict {
    request.work.chain.settle(request.config.node);
    match decide(packet, request) {
        Step::Deliver(slot, why) => {
            maps::tally(why);
            deliver::to(packet, request, slot)
        }
        Step::Onward(hop, why) => pass_on(packet, request, hop, why),
        Step::Drop(reason) => Verdict::Drop(reason),
        Step::Recover(_) => Verdict::Drop(PacketDrop::NoEndpoint),
    }
}

/// Decides; the packet is only read.
#[inline(always)]
pub(crate) fn decide<P: Packet>(packet: &P, request: &mut Request) -> Step {
    let mut step = Step::Drop(PacketDrop::NoEndpoint);
    look(request, &mut step);
    if let Step::Recover(foreign) = step {
        recover(packet, request, foreign, &mut step);
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
    let local = Local::new(request);
    local::start_key(request);
    // Which candidates another VIP holds, one bit each; and the first that may take a new flow.
    let mut foreign = 0u32;
    let mut free = MAX_CANDIDATES;
    for index in 0..MAX_CANDIDATES {
        if local::is_further(index) && foreign == 0 {
            break;
        }
        let Some(target) = local.target(index) else { continue };
        local::aim_key(request, &target);
        match flow::look(request) {
            Entry::Own => return Step::Deliver(target.slot, Tally::FlowHit),
            Entry::Foreign => foreign |= 1 << (index & 7),
            Entry::Free if target.ready && free == MAX_CANDIDATES => free = index,
            Entry::Free => {}
        }
    }
    if !may_open(request) {
        return match request.work.kind {
            Kind::Tcp(_) => Step::Recover(foreign),
            Kind::Udp | Kind::Quic => ask_on(request, &local),
        };
    }
    let Some(target) = local.target(free) else { return ask_on(request, &local) };
    local::aim_key(request, &target);
    let entered = match request.work.kind {
        Kind::Tcp(_) => flow::enter_half(request, &target),
        Kind::Udp | Kind::Quic => flow::enter(request, &target),
    };
    if !entered {
        return Step::Drop(PacketDrop::FlowTable);
    }
    if foreign & ((1 << (free & 7)) - 1) != 0 {
        maps::tally(Tally::Collision);
    }
    request.found.count_new();
    Step::Deliver(target.slot, Tally::FlowNew)
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

/// Finds a TCP flow that the table does not know: half-open, known to an endpoint's socket, or carrying a SYN cookie.
#[inline(never)]
fn recover<P: Packet>(packet: &P, request: &mut Request, foreign: u32, step: &mut Step) {
    *step = by_sockets(packet, request, foreign);
}

#[inline(always)]
fn by_sockets<P: Packet>(packet: &P, request: &mut Request, foreign: u32) -> Step {
    let local = Local::new(request);
    let acknowledges = request.work.kind.flags() & (ACK | SYN | RST | FIN) == ACK;
    for index in 0..MAX_CANDIDATES {
        if local::is_further(index) && foreign == 0 {
            break;
        }
        // The socket that would answer there is another VIP's.
        if foreign >> (index & 7) & 1 != 0 {
            continue;
        }
        let Some(target) = local.target(index) else { continue };
        local::aim_key(request, &target);
        let why = if acknowledges && flow::half_open(request) {
            Tally::FlowHit
        } else {
            match socket::find(packet, request, &target) {
                Socket::Knows => Tally::SocketHit,
                Socket::Listens if acknowledges && socket::has_cookie(packet, request, &target) => Tally::CookieHit,
                Socket::Listens | Socket::None => continue,
            }
        };
        if !flow::enter(request, &target) {
            return Step::Drop(PacketDrop::FlowTable);
        }
        return Step::Deliver(target.slot, why);
    }
    ask_on(request, &local)
}

/// Nobody here knows the packet: the next node of the chain, a look at the own table, the end.
#[inline(always)]
fn ask_on(request: &Request, local: &Local) -> Step {
    let chain = &request.work.chain;
    if !chain.used_up() {
        return Step::Onward(chain.hop(chain.index), Tally::NextHop);
    }
    if !chain.looked_ahead() {
        let home = Place::new(&raw const request.found.service.nodes, (request.work.hash >> 32) as u32).row().home;
        if home != request.config.node && !chain.names(home) && alive(home) {
            return Step::Onward(home, Tally::LookAhead);
        }
    }
    if chain.flags & SHIM_REMOTE != 0 {
        return Step::Drop(PacketDrop::RemoteMiss);
    }
    // What would open a flow found no endpoint that takes one.
    if request.work.kind.opens() || !matches!(request.work.kind, Kind::Tcp(_)) {
        return Step::Drop(PacketDrop::NoEndpoint);
    }
    for index in 0..3 {
        if let Some(target) = local.target(index) {
            if !clock::take(BUCKET_ORPHAN, request.config.orphan_rate) {
                return Step::Drop(PacketDrop::OrphanRate);
            }
            request.found.count_orphan();
            return Step::Deliver(target.slot, Tally::Orphan);
        }
    }
    Step::Drop(PacketDrop::NoEndpoint)
}

/// Sends the packet on to the node of `hop`.
#[inline(always)]
fn pass_on<P: Packet>(packet: &P, request: &mut Request, hop: u16, why: Tally) -> Verdict {
    let ahead = matches!(why, Tally::LookAhead);
    let epoch = Place::new(&raw const request.found.service.nodes, 0).table.epoch;
    let chain = &request.work.chain;
    let head = chain.head(&request.found, epoch);
    let head = ShimHead {
        flags: head.flags | if ahead { SHIM_LOOKAHEAD } else { 0 },
        index: head.index + if ahead { 0 } else { 1 },
        accept: hop & HOP_ACCEPT != 0,
        // The hop in this place is used by now, or there is none: it says from here on where the client's packet arrived.
        hops: [chain.ingress, head.hops[1]],
        ..head
    };
    let onward = Onward { to: hop & !HOP_ACCEPT, first: chain.outer.is_none(), head };
    let verdict = encap::send(packet, request, &onward);
    if let Verdict::Send(_) = verdict {
        maps::tally(why);
    }
    verdict
}
