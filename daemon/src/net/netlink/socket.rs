//! One netlink socket: requests with a deadline each, and the stream of events.
//!
//! Requests are answered in the system call that sends them, so a socket with one request at a time needs no bookkeeping of pending ones,
//! and a reply that cannot be decoded cannot leave a waiter behind.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkMessage,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use tokio::time::timeout;

use super::ways::is_absence;
use crate::net::{NetError, enlarge};

/// Longest wait for an answer. The kernel answers at once; it may wait for its big lock while devices come and go.
const ANSWER: Duration = Duration::from_secs(2);
/// Size of the largest datagram that the kernel builds for a dump (32 KiB, `netlink_dump`), doubled.
const DATAGRAM: usize = 64 << 10;
/// Receive buffer in bytes: ten thousand events and more before the kernel has to drop some.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Requests in one datagram: what is said of each that is refused, about 1 KiB of buffer, must fit the default receive buffer (208 KiB).
const BATCH: usize = 64;
/// Dumps are repeated when the table changes under them, this often in all.
const DUMP_TRIES: u32 = 8;
/// Length of `nlmsghdr`.
const HEADER: usize = 16;

/// One message as it came.
pub(super) struct Raw<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    sequence: u32,
    pub(super) payload: &'a [u8],
}

/// Splits a datagram into its messages, up to the first damaged one.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(word(0)).ok().filter(|l| *l >= HEADER)?;
        let payload = bytes.get(HEADER..length)?;
        let raw = Raw { kind: half(4), flags: half(6), sequence: word(8), payload };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(raw)
    })
}

pub(super) struct NetlinkSocket {
    socket: TokioSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    /// Opens a socket that hears the multicast groups of the mask (`RTMGRP_*`), in the network namespace of the calling thread.
    pub(super) fn open(groups: u32) -> Result<Self, NetError> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            socket.socket_mut().set_cap_ack(true)?;
            // SAFETY: the descriptor belongs to `socket`, which outlives the borrow.
            let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
            enlarge(&fd, RECEIVE_BUFFER)?;
            Ok(socket)
        };
        let socket = open().map_err(NetError::system::<io::Error>("open a netlink socket"))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Waits for the next datagram. ENOBUFS means that events were lost.
    pub(super) async fn next(&mut self) -> io::Result<&[u8]> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer).await?;
        Ok(&self.buffer)
    }

    /// Sends changes, many in one datagram, and returns the kernel's answer to each.
    pub(super) async fn change(
        &mut self,
        what: &'static str,
        requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Result<Vec<io::Result<()>>, NetError> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let part: Vec<_> = requests.by_ref().take(BATCH).collect();
            let exchange = timeout(ANSWER, self.exchange(part)).await;
            let part = exchange.map_err(|_| NetError::Timeout { what, after: ANSWER })?;
            answers.extend(part.map_err(NetError::system(what))?);
        }
        Ok(answers)
    }

    /// The kernel takes the requests of a datagram in their order and always tells what it refuses: only the last is asked to be acknowledged,
    /// and with its answer all others are known.
    async fn exchange(&mut self, requests: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let last = requests.len() - 1;
        let mut answers: Vec<io::Result<()>> = requests.iter().map(|_| Ok(())).collect();
        for (index, (request, flags)) in requests.into_iter().enumerate() {
            let ack = if index == last { NLM_F_ACK } else { 0 };
            self.encode(&mut bytes, request, NLM_F_REQUEST | ack | flags);
        }
        self.socket.send(&bytes).await?;
        let mut waiting = true;
        while waiting {
            for raw in messages(self.next().await?) {
                // Late answers to a request that timed out have other numbers.
                let index = usize::try_from(raw.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if raw.kind == NLMSG_ERROR
                    && let Some(answer) = answers.get_mut(index)
                {
                    *answer = error_code(raw.payload);
                    waiting &= index != last;
                }
            }
        }
        Ok(answers)
    }

    /// Asks for one object; `None` when there is none.
    pub(super) async fn ask(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Option<Vec<u8>>, NetError> {
        let answer = timeout(ANSWER, self.ask_once(request)).await;
        match answer.map_err(|_| NetError::Timeout { what, after: ANSWER })? {
            Ok(object) => Ok(Some(object)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(NetError::system(what)(error)),
        }
    }

    async fn ask_once(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes, request, NLM_F_REQUEST);
        let sequence = self.sequence;
        self.socket.send(&bytes).await?;
        loop {
            for raw in messages(self.next().await?).filter(|raw| raw.sequence == sequence) {
                if raw.kind == NLMSG_ERROR {
                    error_code(raw.payload)?;
                } else {
                    return Ok(raw.payload.to_vec());
                }
            }
        }
    }

    /// Asks for a whole table and returns the payload of each message.
    pub(super) async fn dump(
        &mut self,
        what: &'static str,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<Vec<u8>>, NetError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let all = timeout(ANSWER, self.dump_once(request)).await;
            match all.map_err(|_| NetError::Timeout { what, after: ANSWER })? {
                Ok(Some(all)) => return Ok(all),
                Ok(None) if tries < DUMP_TRIES => {}
                Ok(None) => return Err(NetError::system(what)(io::Error::from(io::ErrorKind::Interrupted))),
                Err(error) => return Err(NetError::system(what)(error)),
            }
        }
    }

    /// `None` when the table changed under the dump, which may then miss entries.
    async fn dump_once(&mut self, request: &RouteNetlinkMessage) -> io::Result<Option<Vec<Vec<u8>>>> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes, request.clone(), NLM_F_REQUEST | NLM_F_DUMP);
        let sequence = self.sequence;
        self.socket.send(&bytes).await?;
        let (mut all, mut whole) = (Vec::new(), true);
        loop {
            for raw in messages(self.next().await?).filter(|raw| raw.sequence == sequence) {
                whole &= raw.flags & NLM_F_DUMP_INTR == 0;
                match raw.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        error_code(raw.payload)?;
                        return Ok(whole.then_some(all));
                    }
                    _ => all.push(raw.payload.to_vec()),
                }
            }
        }
    }

    fn encode(&mut self, bytes: &mut Vec<u8>, request: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let at = bytes.len();
        bytes.resize(at + message.buffer_len(), 0);
        message.serialize(&mut bytes[at..]);
    }
}

/// The answer at the front of NLMSG_ERROR and NLMSG_DONE: 0 or a negative errno; an empty one is success.
fn error_code(payload: &[u8]) -> io::Result<()> {
    let code = payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}
