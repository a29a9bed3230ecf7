//! Handshakes under watch (ADR 0037): a SYN that a client of this node sends is noted with the site that it goes to, and that the client goes on.
//!
//! A client acknowledges what it got, whichever way it got it: replies of another site need not pass this node. Whoever reads the array judges
//! what was not acknowledged in time, and empties its place.

use bascule_ebpf_common::forward::{SERVICE_EXCEPTIONS, WATCHED_ANSWERED, Watched};

use crate::maps;
use crate::request::Request;
use crate::service::Kind;

/// The place and the tag of the handshake that a packet belongs to, of a TCP service that several sites have.
#[inline(always)]
fn place(request: &Request) -> Option<(*mut u64, u32)> {
    if request.found.service.flags & SERVICE_EXCEPTIONS == 0 || !matches!(request.work.kind, Kind::Tcp(_)) {
        return None;
    }
    let (place, tag) = Watched::place(request.work.hash, request.work.client_port);
    Some((maps::WATCHED.get_ptr_mut(place)?, tag))
}

/// Notes a SYN of a client that goes to `site`; nothing of other packets.
#[inline(always)]
pub(crate) fn note(request: &Request, site: u8) {
    if !request.work.kind.opens() {
        return;
    }
    let Some((word, tag)) = place(request) else { return };
    // SAFETY: a valid map value, read at once and written at once. Of two that write it at a time one counts; what it says belongs together.
    unsafe {
        if word.read_volatile() == 0 {
            let service = request.found.slot as u16;
            word.write_volatile(Watched { service, site, answered: false, tag }.to_word());
        }
    }
}

/// Notes that the client of a handshake has gone on, whichever way its packet takes: that it is pinned may be what the answer taught.
#[inline(always)]
pub(crate) fn goes_on(request: &Request) {
    if request.work.kind.opens() {
        return;
    }
    let Some((word, tag)) = place(request) else { return };
    // SAFETY: as above.
    unsafe {
        let known = word.read_volatile();
        if known & WATCHED_ANSWERED == 0 && Watched::tag(known) == tag {
            word.write_volatile(known | WATCHED_ANSWERED);
        }
    }
}
