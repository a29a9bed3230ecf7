//! A look at one candidate of this node after another: who has the flow by the tables, who by its sockets.
//!
//! A loop in the code would be verified once for every way through it; a callback of `bpf_loop` is verified once. What one turn leaves to the
//! next lies in the work, and never in the stack: there the verifier takes the first value for the only one. `NOTES`: the packet belongs to the
//! flow, and the tables learn of it; else (an ICMP error) they are only read.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::generated::bpf_loop;
use bascule_ebpf_common::forward::{PacketDrop, Tally};

use crate::flow::{self, Entry};
use crate::home::{self, Step};
use crate::local::{self, MAX_CANDIDATES, OWN};
use crate::packet::Packet;
use crate::request::Request;
use crate::socket::{self, Socket};

/// What the callbacks are given, and what the last of them says.
pub(crate) struct Search<P> {
    packet: P,
    pub(crate) request: *mut Request<'static>,
    step: Step,
}

impl<P> Search<P> {
    #[inline(always)]
    pub(crate) fn new(packet: P, request: &mut Request) -> Self {
        Self { packet, request: core::ptr::from_mut(request).cast(), step: Step::recover() }
    }

    /// Calls `each` with 0, 1 and so on, at most `most` times, until it gives 1.
    #[inline(always)]
    pub(crate) fn run(&mut self, most: u32, each: extern "C" fn(u32, *mut c_void) -> c_long) {
        // SAFETY: the callback takes a `Search` of this type, which lives, and so does its request.
        unsafe { bpf_loop(most, each as *mut c_void, core::ptr::from_mut(self).cast(), 0) };
    }
}

/// Who has the flow by the tables. If nobody has it open, what the candidates could be is in the work.
#[inline(always)]
pub(crate) fn tables<const NOTES: bool>(request: &mut Request) -> Step {
    local::gather(request);
    local::start_key(request);
    request.work.free = MAX_CANDIDATES;
    request.work.half = MAX_CANDIDATES;
    request.work.closed = MAX_CANDIDATES;
    request.work.foreign = 0;
    request.work.collided = false;
    let mut search = Search::new((), request);
    search.run(u32::from(MAX_CANDIDATES), in_table::<NOTES>);
    search.step
}

/// Looks candidate `index` up in the flow and half-open tables, and notes what it could be; 1 ends the search.
extern "C" fn in_table<const NOTES: bool>(index: u32, search: *mut c_void) -> c_long {
    // SAFETY: `tables` gives a live `Search` of a live request.
    let search = unsafe { &mut *search.cast::<Search<()>>() };
    // SAFETY: as above.
    let request = unsafe { &mut *search.request };
    let index = index as u8;
    if index >= request.work.candidates {
        return 1;
    }
    let Some(target) = local::target(request, index) else { return 0 };
    let target = local::aim_key(request, &target);
    let entry = flow::look::<NOTES>(request);
    if entry == Entry::Own {
        search.step = Step::deliver(target.slot, Tally::FlowHit);
        return 1;
    }
    let first_ready = target.ready && request.work.free == MAX_CANDIDATES;
    if entry == Entry::Foreign {
        request.work.foreign |= 1 << (index & 7);
        // It would have been taken: the rows behind the own one may stand in for it.
        request.work.collided |= first_ready && index < OWN;
        local::widen(request);
        return 0;
    }
    if first_ready && (index < OWN || request.work.collided) {
        request.work.free = index;
    }
    if request.work.half == MAX_CANDIDATES && flow::half_open(request) {
        request.work.half = index;
    }
    if request.work.closed == MAX_CANDIDATES && entry == Entry::Closed {
        request.work.closed = index;
    }
    0
}

/// Who has the flow by its sockets, or by a SYN cookie that the packet carries.
#[inline(always)]
pub(crate) fn sockets<P: Packet, const NOTES: bool>(packet: &P, request: &mut Request) -> Step {
    let mut search = Search::new(core::ptr::from_ref(packet), request);
    search.run(u32::from(OWN), by_socket::<P, NOTES>);
    search.step
}

/// Asks the sockets of candidate `index`; 1 ends the search.
extern "C" fn by_socket<P: Packet, const NOTES: bool>(index: u32, search: *mut c_void) -> c_long {
    // SAFETY: `sockets` gives a live `Search` of a live packet and request.
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
    // What comes late of a closed flow does not open it again.
    let closed = NOTES && request.work.closed == index;
    let socket = socket::find(packet, request, &target);
    let why = match socket {
        Socket::Remembers if home::is_first_to_ask(request) => return 0,
        Socket::Knows | Socket::Remembers if closed => Tally::FlowHit,
        Socket::None if closed && !target.has_sockets() => Tally::FlowHit,
        Socket::Knows | Socket::Remembers => Tally::SocketHit,
        Socket::Listens if NOTES && flow::acknowledges(request) && socket::has_cookie(packet, request, &target) => {
            Tally::CookieHit
        }
        Socket::Listens | Socket::None => return 0,
    };
    // What is over is not opened again: its endpoint's answer needs an address, as that to an orphan does.
    let over = NOTES && socket == Socket::Remembers && why == Tally::SocketHit;
    if over {
        let _refused = flow::enter_orphan(request, aimed.slot);
    }
    search.step = if !NOTES || over || why == Tally::FlowHit || flow::enter(request, aimed.slot) {
        Step::deliver(aimed.slot, why)
    } else {
        Step::drop(PacketDrop::FlowTable)
    };
    1
}
