//! The home step: does this node hold the flow of a packet, does it open it, or who else is asked.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::generated::bpf_loop;
use bascule_ebpf_common::forward::{
    BUCKET_ORPHAN, HOP_ACCEPT, PacketDrop, SERVICE_ASK, SHIM_LOOKAHEAD, SHIM_REMOTE, ShimHead, Tally,
};

use crate::clock;
use crate::deliver;
use crate::encap::{self, Onward};
use crate::flow::{self, Entry};
use crate::local::{self, MAX_CANDIDATES, OWN};
use crate::maps;
use crate::packet::Packet;
use crate::request::{Request, alive};
use crate::rows::Place;
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
    pub(crate) why: u32,
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
        Self { way: Way::Deliver, id: slot, why: why as u32 }
    }

    #[inline(always)]
    fn onward(hop: u16, why: Tally) -> Self {
        Self { way: Way::Onward, id: hop, why: why as u32 }
    }

    #[inline(always)]
    fn recover() -> Self {
        Self { way: Way::Recover, ..Self::drop(PacketDrop::NoEndpoint) }
    }

    #[inline(always)]
    fn drop(reason: PacketDrop) -> Self {
        Self { way: Way::Drop, id: 0, why: reason as u32 }
    }

    /// The reason of a drop.
    #[inline(always)]
    pub(crate) fn reason(self) -> PacketDrop {
        // SAFETY: `drop` alone makes steps of this way, of a reason's own number.
        unsafe { core::mem::transmute::<u32, PacketDrop>(self.why) }
    }
}

/// Runs the home step and carries it out.
#[inline(always)]
pub(crate) fn step<P: Packet>(packet: &P, request: &mut Request) -> Verdict {
    request.work.chain.settle(request.config.node);
    let step = decide(packet, request);
    match step.way {
        Way::Deliver => {
            maps::count(step.why);
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
    let mut search = Search { packet: (), request: core::ptr::from_mut(request).cast(), step: Step::recover() };
    // A loop in the code would be verified once for every way through it; the helper's callback is verified once.
    // SAFETY: the callback takes the `Search` that it is given.
    unsafe {
        bpf_loop(u32::from(MAX_CANDIDATES), in_table as *mut c_void, (&raw mut search).cast(), 0);
    }
    if search.step.way != Way::Recover {
        return search.step;
    }
    if !may_open(request) {
        return match request.work.kind {
            Kind::Tcp(_) => Step::recover(),
            Kind::Udp | Kind::Quic => ask_on(request),
        };
    }
    let free = request.work.free;
    let Some(target) = local::target(request, free) else { return ask_on(request) };
    let slot = local::aim_key(request, &target).slot;
    let entered = match request.work.kind {
        Kind::Tcp(_) => flow::enter_half(request, slot),
        Kind::Udp | Kind::Quic => flow::enter(request, slot),
    };
    if !entered {
        return Step::drop(PacketDrop::FlowTable);
    }
    if request.work.collided {
        maps::tally(Tally::Collision);
    }
    request.found.count_new();
    Step::deliver(slot, Tally::FlowNew)
}

/// A look at one candidate after another: what the callbacks are given, and what they say.
struct Search<P> {
    packet: P,
    request: *mut Request<'static>,
    step: Step,
}

/// Looks candidate `index` up in the flow and half-open tables; 1 ends the search.
extern "C" fn in_table(index: u32, search: *mut c_void) -> c_long {
    // SAFETY: `in_tables` gives a live `Search` of a live request.
    let search = unsafe { &mut *search.cast::<Search<()>>() };
    // SAFETY: as above.
    let request = unsafe { &mut *search.request };
    let index = index as u8;
    if index >= request.work.candidates {
        return 1;
    }
    let Some(target) = local::target(request, index) else { return 0 };
    let target = local::aim_key(request, &target);
    match flow::look(request) {
        Entry::Own => {
            search.step = Step::deliver(target.slot, Tally::FlowHit);
            return 1;
        }
        Entry::Foreign => {
            request.work.foreign |= 1 << (index & 7);
            // It would have been taken.
            request.work.collided |= target.ready && request.work.free == MAX_CANDIDATES;
            local::widen(request);
        }
        Entry::Free if flow::half_open(request) => {
            flow::leave_half(request);
            search.step = enter(request, target.slot, Tally::FlowHit);
            return 1;
        }
        // The rows behind the own one stand in for endpoints that would have been taken.
        Entry::Free
            if target.ready && request.work.free == MAX_CANDIDATES && (index < OWN || request.work.collided) =>
        {
            request.work.free = index;
        }
        Entry::Free => {}
    }
    0
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
fn enter(request: &mut Request, slot: u16, why: Tally) -> Step {
    if flow::enter(request, slot) { Step::deliver(slot, why) } else { Step::drop(PacketDrop::FlowTable) }
}

/// Finds a TCP flow that the tables do not know: an endpoint's socket does, or it carries a SYN cookie.
#[inline(never)]
fn recover<P: Packet>(packet: &P, request: &mut Request, step: &mut Step) {
    *step = by_sockets(packet, request);
}

#[inline(always)]
fn by_sockets<P: Packet>(packet: &P, request: &mut Request) -> Step {
    let mut search = Search {
        packet: core::ptr::from_ref(packet),
        request: core::ptr::from_mut(request).cast(),
        step: Step::recover(),
    };
    // SAFETY: the callback takes the `Search` that it is given.
    unsafe {
        bpf_loop(u32::from(OWN), by_socket::<P> as *mut c_void, (&raw mut search).cast(), 0);
    }
    if search.step.way == Way::Recover { ask_on(request) } else { search.step }
}

/// Asks the sockets of candidate `index`; 1 ends the search.
extern "C" fn by_socket<P: Packet>(index: u32, search: *mut c_void) -> c_long {
    // SAFETY: `by_sockets` gives a live `Search` of a live packet and request.
    let search = unsafe { &mut *search.cast::<Search<*const P>>() };
    // SAFETY: as above.
    let (packet, request) = unsafe { (&*search.packet, &mut *search.request) };
    let index = index as u8;
    // The socket that would answer there is another VIP's.
    if request.work.foreign >> (index & 7) & 1 != 0 {
        return 0;
    }
    let Some(target) = local::target(request, index) else { return 0 };
    let aimed = local::aim_key(request, &target);
    let why = match socket::find(packet, request, &target) {
        Socket::Knows => Tally::SocketHit,
        Socket::Listens if flow::acknowledges(request) && socket::has_cookie(packet, request, &target) => {
            Tally::CookieHit
        }
        Socket::Listens | Socket::None => return 0,
    };
    search.step = enter(request, aimed.slot, why);
    1
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
        let home = Place::new(&raw const request.found.service.nodes, (request.work.hash >> 32) as u32).row().home;
        if home != request.config.node && !chain.names(home) && alive(home) {
            return Step::onward(home, Tally::LookAhead);
        }
    }
    Step::drop(PacketDrop::NoEndpoint)
}

/// Sends the packet on to the node that `step` names.
#[inline(always)]
pub(crate) fn pass_on<P: Packet>(packet: &P, request: &mut Request, step: Step) -> Verdict {
    let (hop, ahead) = (step.id, step.why == Tally::LookAhead as u32);
    let chain = &request.work.chain;
    let head = chain.head(&request.found);
    let head = ShimHead {
        flags: head.flags | if ahead { SHIM_LOOKAHEAD } else { 0 },
        index: head.index + if ahead { 0 } else { 1 },
        accept: hop & HOP_ACCEPT != 0,
        // The hop in this place is used by now, or there is none: it says from here on where the client's packet arrived.
        hops: [chain.ingress, head.hops[1]],
        ..head
    };
    let onward = Onward { to: hop & !HOP_ACCEPT, first: chain.outer.is_none(), head };
    let verdict = encap::send(packet, request, onward);
    if let Verdict::Send(_) = verdict {
        maps::count(step.why);
    }
    verdict
}
