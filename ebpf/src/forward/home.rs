//! The home step: does this node hold the flow of a packet, does it open it, or who else is asked.

use core::ffi::{c_long, c_void};

use bascule_ebpf_common::forward::{
    BUCKET_ORPHAN, CONFIG_HOLDS, CONFIG_SITES, HOP_ACCEPT, PacketDrop, SERVICE_ASK, SHIM_FINAL, SHIM_LAST, SHIM_REMOTE,
    ShimHead, Tally,
};

use crate::clock;
use crate::deliver;
use crate::encap::{self, Onward};
use crate::flow;
use crate::local::{self, MAX_CANDIDATES, OWN};
use crate::maps;
use crate::packet::{Packet, forgotten};
use crate::parse::{ACK, IPPROTO_TCP, RST};
use crate::request::{Request, alive};
use crate::rows::{self, Place};
use crate::search::{self, Search};
use crate::service::Kind;
use crate::verdict::Verdict;

/// What the step decided. Every way writes every field: of one left out the compiler makes a register never written, which the verifier
/// refuses to read.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Step {
    pub(crate) way: Way,
    /// Slot of the endpoint (0: the stack as it is), or hop with its accept bit.
    pub(crate) id: u16,
    /// Slot in the tallies that says why.
    why: u16,
    /// The hop after that one; 0: none.
    pub(crate) then: u16,
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Way {
    /// To an endpoint here.
    Deliver,
    /// To another node, by the chain or by the own row.
    Onward,
    /// Nobody of this site knows it: other sites are asked, or it goes back to the one it came from.
    Abroad,
    /// Nowhere.
    Drop,
    /// The tables do not know: ask the sockets.
    Recover,
}

impl Step {
    #[inline(always)]
    pub(crate) fn deliver(slot: u16, why: Tally) -> Self {
        Self { way: Way::Deliver, id: slot, why: why as u16, then: 0 }
    }

    #[inline(always)]
    pub(crate) fn onward(hop: u16, then: u16, why: Tally) -> Self {
        Self { way: Way::Onward, id: hop, why: why as u16, then }
    }

    #[inline(always)]
    pub(crate) fn recover() -> Self {
        Self { way: Way::Recover, ..Self::drop(PacketDrop::NoEndpoint) }
    }

    #[inline(always)]
    pub(crate) fn abroad() -> Self {
        Self { way: Way::Abroad, ..Self::drop(PacketDrop::NoEndpoint) }
    }

    #[inline(always)]
    pub(crate) fn drop(reason: PacketDrop) -> Self {
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
    take(packet, request, step)
}

/// Carries a step out.
#[inline(always)]
pub(crate) fn take<P: Packet>(packet: &P, request: &mut Request, step: Step) -> Verdict {
    match step.way {
        Way::Deliver => {
            maps::count(step.why());
            deliver::to(packet, request, step.id)
        }
        Way::Onward => pass_on(packet, request, step),
        Way::Abroad => Verdict::Slow(maps::ABROAD),
        Way::Drop | Way::Recover => Verdict::Drop(step.reason()),
    }
}

/// Decides; the packet is only read.
///
/// What is decided goes by way of the map: what follows is verified once, and not once for each way that leads to it.
#[inline(always)]
pub(crate) fn decide<P: Packet>(packet: &P, request: &mut Request) -> Step {
    let mut open = !look(request);
    if open && matches!(request.work.kind, Kind::Tcp(_)) && !may_open(request) {
        open = !recover(packet, request);
    }
    if open {
        request.work.asked = elsewhere(request);
    }
    forgotten(&request.work.step)
}

/// The tables: a known flow, or one that may be opened. A function of its own, as `recover` is: what each looks up would not fit into the
/// stack beside what its callers hold. It says whether that decides. (With nothing to give it may end with a pointer into its frame in the
/// register of results, which the verifier refuses.)
#[inline(never)]
fn look(request: &mut Request) -> bool {
    let step = in_tables(request);
    request.work.step = step;
    step.way != Way::Recover
}

#[inline(always)]
fn in_tables(request: &mut Request) -> Step {
    let step = search::tables::<true>(request);
    if step.way != Way::Recover {
        return step;
    }
    // Nobody has the flow open: it is whose SYN-ACK the client answers, else whose closed flow gets the last of it, else it may be new.
    let half = request.work.half != MAX_CANDIDATES;
    let closed = !half && request.work.closed != MAX_CANDIDATES && !yields(request);
    if !half && !closed && !may_open(request) {
        return Step::recover();
    }
    let work = &request.work;
    request.work.aimed.slot = u16::from(if half {
        work.half
    } else if closed {
        work.closed
    } else {
        work.free
    });
    let index = forgotten(&request.work.aimed.slot) as u8;
    let Some(target) = local::target(request, index) else { return Step::recover() };
    let slot = local::aim_key(request, &target).slot;
    if closed {
        return Step::deliver(slot, Tally::FlowHit);
    }
    if half {
        flow::leave_half(request);
    }
    let entered = match request.work.kind {
        Kind::Tcp(_) if !half => flow::enter_half(request, slot),
        Kind::Tcp(_) | Kind::Udp | Kind::Quic => flow::enter(request, slot),
    };
    if !entered {
        return Step::drop(PacketDrop::FlowTable);
    }
    if half {
        return Step::deliver(slot, Tally::FlowHit);
    }
    if request.work.collided {
        maps::tally(Tally::Collision);
    }
    request.found.count_new(slot);
    Step::deliver(slot, Tally::FlowNew)
}

/// Must the closed flow of a packet give way unless its socket lives? While other sites can be asked: the client may use its port again, and a row
/// that has another site as its home leads what opens a flow there and segments here first. What may be left over of an abort stays.
#[inline(always)]
fn yields(request: &Request) -> bool {
    may_leave(request) && request.work.closed < OWN && request.work.kind.flags() & (ACK | RST) != RST
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

/// Finds a TCP flow that the tables do not know: an endpoint's socket does, or it carries a SYN cookie. It says whether that decides.
#[inline(never)]
fn recover<P: Packet>(packet: &P, request: &mut Request) -> bool {
    let step = search::sockets::<P, true>(packet, request);
    request.work.step = step;
    step.way != Way::Recover
}

/// Nobody here knows the packet. A function of its own, as the others, and with something to give as [`look`] has.
#[inline(never)]
fn elsewhere(request: &mut Request) -> u16 {
    let step = ask_on(request);
    request.work.step = step;
    step.id
}

/// The next node, or the end.
#[inline(always)]
fn ask_on(request: &mut Request) -> Step {
    let step = others(request);
    if step.way == Way::Onward {
        return step;
    }
    let lives = matches!(request.work.kind, Kind::Tcp(_)) && !request.work.kind.opens();
    if lives && may_leave(request) {
        return Step::abroad();
    }
    end(request)
}

/// May the packet, of a flow that nobody of this site knows, go to another one? Not twice.
#[inline(always)]
pub(crate) fn may_leave(request: &Request) -> bool {
    request.config.flags & CONFIG_SITES != 0 && request.work.chain.flags & SHIM_FINAL == 0
}

/// Is a packet looked for here that no other site was asked for yet? What is only remembered of its tuple has no claim then.
#[inline(always)]
pub(crate) fn is_first_to_ask(request: &Request) -> bool {
    may_leave(request) && request.work.chain.flags & SHIM_REMOTE == 0
}

/// The end of a chain.
#[inline(always)]
pub(crate) fn end(request: &mut Request) -> Step {
    let chain = &request.work.chain;
    if chain.flags & (SHIM_REMOTE | SHIM_FINAL) == SHIM_REMOTE {
        return Step::drop(PacketDrop::RemoteMiss);
    }
    // What would open a flow found no endpoint that takes one.
    if request.work.kind.opens() || !matches!(request.work.kind, Kind::Tcp(_)) {
        return Step::drop(PacketDrop::NoEndpoint);
    }
    if request.config.flags & CONFIG_HOLDS != 0 {
        return Step::drop(PacketDrop::RemoteMiss);
    }
    // The first candidate at which no other VIP holds the tuple: the socket that would answer there is that VIP's.
    request.work.free = MAX_CANDIDATES;
    Search::new((), request).run(u32::from(MAX_CANDIDATES), unheld);
    if request.work.free == MAX_CANDIDATES {
        return Step::drop(PacketDrop::NoEndpoint);
    }
    if !clock::take(BUCKET_ORPHAN, request.config.orphan_rate) {
        return Step::drop(PacketDrop::OrphanRate);
    }
    request.found.count_orphan();
    let slot = forgotten(&request.work.aimed).slot;
    // So that the endpoint's reset leaves as the VIP's: the reverse map does not speak to clients inside. Without it nothing is lost but that.
    let _refused = flow::enter_orphan(request, slot);
    Step::deliver(slot, Tally::Orphan)
}

/// Is candidate `index` one at which no other VIP holds the tuple? It is aimed at then, and 1 ends the search.
extern "C" fn unheld(index: u32, search: *mut c_void) -> c_long {
    // SAFETY: `end` gives a live `Search` of a live request.
    let search = unsafe { &mut *search.cast::<Search<()>>() };
    // SAFETY: as above.
    let request = unsafe { &mut *search.request };
    let index = index as u8;
    if request.work.foreign >> (index & 7) & 1 != 0 {
        return 0;
    }
    let Some(target) = local::target(request, index) else { return 0 };
    local::aim_key(request, &target);
    request.work.free = index;
    1
}

/// The next node of the chain, to which the own row adds whom it lacks; else a drop.
///
/// Any node may have lost what it knew of the row's past: the one where the packet arrived, and each that it asks. So everybody who knows
/// nothing of a flow says whom else he would ask, as far as the list has room.
#[inline(always)]
pub(crate) fn others(request: &mut Request) -> Step {
    let (chain, service) = (&request.work.chain, &request.found.service);
    if chain.index >= SHIM_LAST {
        return Step::drop(PacketDrop::NoEndpoint);
    }
    // Only a TCP flow that lives is looked for where the row was before.
    let lives = service.protocol == IPPROTO_TCP && !request.work.kind.opens();
    let listed = !chain.used_up();
    let first = if listed { chain.hop(chain.place) } else { 0 };
    let second = if chain.place == 0 && chain.count > 1 { chain.hop(1) } else { 0 };
    let id = second & !HOP_ACCEPT;
    let useless = lives && (id == request.config.node || id == first & !HOP_ACCEPT || !alive(id));
    let then = if useless { 0 } else { second };
    // The last one that is asked asks nobody.
    let room = chain.index + 1 < SHIM_LAST;
    let lacks = if listed { lives && then == 0 && room } else { true };
    let turns = if lacks { 1 + 2 * u16::from(lives) } else { 0 };
    request.work.glance = Glance { ids: 0, first, then, turns, listed, room };
    let turns = u32::from(forgotten(&request.work.glance.turns));
    if turns != 0 {
        let row = Place::new(&raw const service.nodes, (request.work.hash >> 32) as u32).row();
        request.work.glance.ids = rows::current(row, service.drain_minutes).0;
        Search::new((), request).run(turns, look_at);
    }
    let (first, then) = (forgotten(&request.work.glance.first), forgotten(&request.work.glance.then));
    if first == 0 {
        return Step::drop(PacketDrop::NoEndpoint);
    }
    let listed = forgotten(&request.work.glance.listed);
    Step::onward(first, then, if listed { Tally::NextHop } else { Tally::LookAhead })
}

/// A walk over the ids of the own row. It lies in the map: of what callbacks carry on in the stack the verifier takes the first value for the
/// only one, and the kernel leaves out the code for the others.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Glance {
    /// The ids, 16 bits each from the lowest; shifted by one place each time.
    ids: u64,
    /// The next two hops, with their accept bits; 0: none yet.
    first: u16,
    then: u16,
    /// Ids that may be added.
    turns: u16,
    /// The chain named the first.
    listed: bool,
    /// Whoever comes after the first may be asked too.
    room: bool,
}

/// Is the next id of the row one to ask?
extern "C" fn look_at(_: u32, search: *mut c_void) -> c_long {
    // SAFETY: `others` gives a live `Search` of a live request.
    let search = unsafe { &mut *search.cast::<Search<()>>() };
    // SAFETY: as above.
    let request = unsafe { &mut *search.request };
    let id = request.work.glance.ids as u16;
    request.work.glance.ids >>= 16;
    let first = request.work.glance.first;
    if id == request.config.node || id == first & !HOP_ACCEPT || request.work.chain.asked(id) || !alive(id) {
        return 0;
    }
    // Two at most: the oldest is left out.
    if first == 0 {
        request.work.glance.first = id;
    } else if request.work.glance.then == 0 && request.work.glance.room {
        request.work.glance.then = id;
    }
    0
}

/// Sends the packet on to the node that `step` names.
#[inline(always)]
pub(crate) fn pass_on<P: Packet>(packet: &P, request: &mut Request, step: Step) -> Verdict {
    let hop = step.id;
    let chain = &request.work.chain;
    let head = ShimHead {
        index: chain.index + 1,
        count: if step.then == 0 { 1 } else { 2 },
        accept: hop & HOP_ACCEPT != 0,
        // The first place is used by now, or empty: it says from here on where the client's packet arrived. A second one that is free says
        // who was asked first, once that is not the sender any more.
        hops: [
            chain.ingress,
            if step.then != 0 {
                step.then
            } else if chain.index == 1 {
                chain.sender
            } else {
                0
            },
        ],
        ..chain.head(&request.found)
    };
    let onward = Onward { to: hop & !HOP_ACCEPT, first: chain.outer.is_none(), site: 0, head };
    let verdict = encap::send(packet, request, onward);
    if let Verdict::Send(_) = verdict {
        maps::count(step.why());
    }
    verdict
}
