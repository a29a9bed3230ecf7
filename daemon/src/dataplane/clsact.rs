//! The way onto a link before tcx: a filter of ours in the `clsact` qdisc, next to whatever else is there.

use std::io;
use std::mem::ManuallyDrop;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcHandle as Handle, TcMessage};

use super::rtnl::request;

/// Where filters of one kind of ours go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    /// Any number is as good; ours are easy to recognise in `tc filter show`.
    handle: TcHandle,
    /// Priorities tried in order. Low, because a filter before ours may end the chain; several, because one priority holds one kind of
    /// filter and protocol only.
    first: u16,
    last: u16,
}

/// The fence: before everything.
pub(super) const FENCE: Seat = Seat { handle: TcHandle::new(0, 0xba5c), first: 1, last: 8 };
/// Forwarding: behind the fence, before everybody else.
pub(super) const FORWARD: Seat = Seat { handle: TcHandle::new(0, 0xba5d), first: 9, last: 16 };

/// Adds the qdisc if there is none. True: we made it.
pub(super) fn ensure_qdisc(link: &str) -> Result<bool, TcError> {
    match qdisc_add_clsact(link) {
        Ok(()) => Ok(true),
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Puts the program into the qdisc: in place of our filter of a former run (without a gap), else as a new filter.
///
/// # Errors
/// The last refusal of the kernel when no priority would have it.
pub(super) fn attach(
    program: &mut SchedClassifier,
    link: &str,
    direction: TcAttachType,
    seat: Seat,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Seat { handle, first, last } = seat;
    for priority in first..=last {
        // Without NLM_F_CREATE the kernel replaces what has this priority and handle, and refuses when nothing has.
        let candidate = SchedClassifierLink::attached(link, direction, priority, handle, None)?;
        if let Ok(id) = program.attach_to_link(candidate) {
            return keep(program, id);
        }
    }
    let mut refusal: Option<ProgramError> = None;
    for priority in first..=last {
        let options = TcAttachOptions::Netlink(NlOptions { priority, handle, classid: None });
        match program.attach_with_options(link, direction, options) {
            Ok(id) => return keep(program, id),
            Err(e) => refusal = Some(e),
        }
    }
    Err(refusal.expect("a seat has priorities").into())
}

/// Takes the filter out of aya's hands, which would delete it when the daemon ends.
fn keep(
    program: &mut SchedClassifier,
    id: SchedClassifierLinkId,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let _stays = ManuallyDrop::new(program.take_link(id)?);
    Ok(())
}

/// Deletes our filter by the program's name; false: there was none.
pub(super) fn detach(link: &str, direction: TcAttachType, program: &str) -> Result<bool, TcError> {
    match qdisc_detach_program(link, direction, program) {
        Ok(()) => Ok(true),
        Err(TcError::IoError(e)) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        // No qdisc at all: the dump itself is refused.
        Err(TcError::NetlinkError(e)) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Deletes the qdisc if no filter of anybody hangs in it; false: it is in use.
pub(super) fn remove_empty_qdisc(ifindex: u32) -> io::Result<bool> {
    for minor in [Handle::MIN_INGRESS, Handle::MIN_EGRESS] {
        let parent = Handle { major: Handle::CLSACT.major, minor };
        let dump = RouteNetlinkMessage::GetTrafficFilter(message(ifindex, Handle::UNSPEC, parent)?);
        if !request(dump, NLM_F_DUMP)?.is_empty() {
            return Ok(false);
        }
    }
    // The handle of the one clsact qdisc of a link is ffff:0, its parent ffff:fff1 (linux/pkt_sched.h).
    let handle = Handle { major: Handle::CLSACT.major, minor: 0 };
    request(RouteNetlinkMessage::DelQueueDiscipline(message(ifindex, handle, Handle::CLSACT)?), NLM_F_ACK)?;
    Ok(true)
}

fn message(ifindex: u32, handle: Handle, parent: Handle) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(i32::try_from(ifindex).map_err(io::Error::other)?);
    message.header.handle = handle;
    message.header.parent = parent;
    Ok(message)
}
