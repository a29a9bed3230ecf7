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

use super::rtnl::{dump_raw, request};

/// Fields of `tcmsg` and its length, bytes (linux/rtnetlink.h).
const TCM_IFINDEX: usize = 4;
const TCM_HANDLE: usize = 8;
const TCM_PARENT: usize = 12;
const TCM_INFO: usize = 16;
const TCM_LENGTH: usize = 20;
/// Attributes of linux/rtnetlink.h and linux/pkt_cls.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;
/// Without the flags for nesting and byte order (linux/netlink.h).
const NLA_TYPE_MASK: u16 = 0x3fff;

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
///
/// # Errors
/// Also when an `ingress` qdisc has its place: the kernel would take filters for the way out all the same, and ask them about what comes in.
pub(super) fn ensure_qdisc(link: &str, ifindex: u32) -> Result<bool, TcError> {
    match qdisc_add_clsact(link) {
        Ok(()) => Ok(true),
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => match is_clsact(ifindex)? {
            true => Ok(false),
            false => Err(TcError::IoError(io::Error::other("an ingress qdisc, which has no way out, is in its place"))),
        },
        Err(e) => Err(e),
    }
}

/// Is it clsact what stands in its place on the link? An `ingress` qdisc has the same handle and parent.
fn is_clsact(ifindex: u32) -> io::Result<bool> {
    let all = dump_raw(RouteNetlinkMessage::GetQueueDiscipline(message(ifindex, Handle::UNSPEC, Handle::UNSPEC)?))?;
    Ok(all.iter().any(|payload| {
        let there = word(payload, TCM_IFINDEX) == Some(ifindex);
        let placed = word(payload, TCM_PARENT) == Some(u32::from(Handle::CLSACT));
        let kind = attribute(payload.get(TCM_LENGTH..).unwrap_or_default(), TCA_KIND);
        there && placed && kind == Some(b"clsact\0")
    }))
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

/// Is our filter there, with this program?
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn stands(ifindex: u32, direction: TcAttachType, seat: Seat, program: u32) -> io::Result<bool> {
    if !is_clsact(ifindex)? {
        return Ok(false);
    }
    let minor = if direction == TcAttachType::Egress { Handle::MIN_EGRESS } else { Handle::MIN_INGRESS };
    let parent = Handle { major: Handle::CLSACT.major, minor };
    let dump = RouteNetlinkMessage::GetTrafficFilter(message(ifindex, Handle::UNSPEC, parent)?);
    match dump_raw(dump) {
        Ok(filters) => Ok(filters.iter().any(|payload| is_ours(payload, seat, program))),
        // No qdisc at all: the dump itself is refused.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads `tcmsg` (linux/rtnetlink.h) and the two attributes that are needed: what hangs beside ours in a chain may be anything.
fn is_ours(payload: &[u8], seat: Seat, program: u32) -> bool {
    let (handle, info) = (word(payload, TCM_HANDLE), word(payload, TCM_INFO));
    // The priority is the upper half of `tcm_info`.
    let priority = info.and_then(|info| u16::try_from(info >> 16).ok());
    let seated =
        handle == Some(u32::from(seat.handle)) && priority.is_some_and(|p| (seat.first..=seat.last).contains(&p));
    let id = attribute(payload.get(TCM_LENGTH..).unwrap_or_default(), TCA_OPTIONS)
        .and_then(|options| attribute(options, TCA_BPF_ID))
        .and_then(|id| id.try_into().ok().map(u32::from_ne_bytes));
    seated && id == Some(program)
}

fn word(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes)
}

/// The value of the first attribute of a kind (`rtattr` of linux/rtnetlink.h), before any damaged one.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (&[l0, l1, k0, k1], _) = bytes.split_first_chunk::<4>()?;
        let (length, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
        let value = bytes.get(4..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    fn filter(handle: u32, priority: u32, id: u32) -> Vec<u8> {
        let mut payload = vec![0; TCM_LENGTH];
        payload[TCM_HANDLE..TCM_HANDLE + 4].copy_from_slice(&handle.to_ne_bytes());
        payload[TCM_INFO..TCM_INFO + 4].copy_from_slice(&(priority << 16 | 0x300).to_ne_bytes());
        payload.extend(nla(1, b"bpf\0"));
        payload.extend(nla(TCA_OPTIONS, &nla(TCA_BPF_ID, &id.to_ne_bytes())));
        payload
    }

    #[test]
    fn a_filter_is_ours_by_handle_priority_and_program() {
        assert!(is_ours(&filter(0xba5c, 1, 7), FENCE, 7));
        assert!(is_ours(&filter(0xba5c, 8, 7), FENCE, 7));
        assert!(is_ours(&filter(0xba5d, 9, 7), FORWARD, 7));
        for (handle, priority, id) in [(0xba5c, 9, 7), (0xba5c, 1, 8), (0xba5d, 1, 7), (0, 1, 7)] {
            assert!(!is_ours(&filter(handle, priority, id), FENCE, 7), "{handle:#x} {priority} {id}");
        }
        let whole = filter(0xba5c, 1, 7);
        (0..whole.len()).for_each(|end| assert!(!is_ours(&whole[..end], FENCE, 7), "{end}"));
    }
}
