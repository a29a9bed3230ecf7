//! Handshakes under watch (ADR 0037): a SYN that a client of this node sends is noted with the site that it goes to, and that the client goes on.
//!
//! A client acknowledges what it got, whichever way it got it: replies of another site need not pass this node. Whoever reads the array judges
//! what was not acknowledged in time, and empties its place.

use bascule_ebpf_common::forward::{SERVICE_EXCEPTIONS, WATCHED_ANSWERED, Watched};

use crate::maps;
use crate::request::Request;
use crate::service::Kind;

/// Notes a packet of a client that goes to `site`, of a service that several sites have.
#[inline(always)]
pub(crate) fn note(request: &Request, site: u8) {
    if request.found.service.flags & SERVICE_EXCEPTIONS == 0 || !matches!(request.work.kind, Kind::Tcp(_)) {
        return;
    }
    let (place, tag) = Watched::place(request.work.hash, request.work.client_port);
    let Some(word) = maps::WATCHED.get_ptr_mut(place) else { return };
    // SAFETY: a valid map value, read at once. Of two that write it at a time one counts; what it says belongs together.
    let known = unsafe { word.read_volatile() };
    let next = if request.work.kind.opens() {
        if known != 0 {
            return;
        }
        Watched { service: request.found.slot as u16, site, answered: false, tag }.to_word()
    } else {
        if known & WATCHED_ANSWERED != 0 || Watched::tag(known) != tag {
            return;
        }
        known | WATCHED_ANSWERED
    };
    // SAFETY: as above, written at once.
    unsafe { word.write_volatile(next) };
}
