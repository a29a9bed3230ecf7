//! One TCP connection of a session: its part of the state machine, what waits to be written on it, and what was agreed on it.

use core::net::Ipv6Addr;
use core::net::SocketAddr;

use crate::io::Conn;
use crate::rib::Batch;
use crate::session::State;
use crate::session::negotiate::Negotiated;
use crate::time::Instant;
use crate::wire::{Framer, Notification, Open, encode_keepalive};

/// Own end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalEnd {
    /// Address and port.
    pub address: SocketAddr,
    /// The neighbor is on the same subnet.
    pub on_link: bool,
    /// Own link-local address there.
    pub link_local: Option<Ipv6Addr>,
}

/// What a parked connection may have sent before we read it: one OPEN, which never exceeds this (RFC 8654 section 4).
const EARLY_BYTES: usize = 4096;

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    /// Being dialled.
    Connecting,
    /// Accepted while the session was held in Idle: its OPEN follows when that time is over.
    Parked,
    /// OPEN sent.
    OpenSent,
    /// The neighbor's OPEN was accepted.
    OpenConfirm,
    /// Routes flow.
    Established,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: Conn,
    /// By us.
    pub(super) dialled: bool,
    pub(super) phase: Phase,
    pub(super) local: Option<LocalEnd>,
    pub(super) framer: Framer,
    /// Arrived while parked.
    pub(super) early: Vec<u8>,
    /// What we sent.
    pub(super) offer: Option<Open>,
    pub(super) agreed: Option<Negotiated>,
    /// The neighbor's OPEN, unanswered until the Established connection beside this one has proven that it stays.
    pub(super) deferred: Option<Box<Open>>,
    /// Whole messages that come before any UPDATE.
    control: Vec<u8>,
    /// A KEEPALIVE is among them: a second one behind a shut window would say nothing more.
    keepalive_queued: bool,
    /// Bytes of the write in flight that the kernel has not taken.
    pub(super) in_flight: usize,
    pub(super) unacknowledged: Option<usize>,
    pub(super) watched: bool,
    /// Routes in the write in flight.
    pub(super) batch: Option<Batch>,
    pub(super) established: Option<Instant>,
}

impl Link {
    pub(super) fn new(conn: Conn, dialled: bool, phase: Phase, local: Option<LocalEnd>) -> Self {
        Self {
            conn,
            dialled,
            phase,
            local,
            framer: Framer::new(),
            early: Vec::new(),
            offer: None,
            agreed: None,
            deferred: None,
            control: Vec::new(),
            keepalive_queued: false,
            in_flight: 0,
            unacknowledged: None,
            watched: false,
            batch: None,
            established: None,
        }
    }

    pub(super) const fn state(&self) -> State {
        match self.phase {
            Phase::Parked => State::Idle,
            Phase::Connecting => State::Connect,
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm => State::OpenConfirm,
            Phase::Established => State::Established,
        }
    }

    /// A TCP connection on which OPENs are exchanged.
    pub(super) fn is_open(&self) -> bool {
        self.phase >= Phase::OpenSent
    }

    /// Keeps bytes for later; false when there are more than an OPEN could have.
    pub(super) fn keep_early(&mut self, bytes: &[u8]) -> bool {
        let fits = self.early.len() + bytes.len() <= EARLY_BYTES;
        if fits {
            self.early.extend_from_slice(bytes);
        }
        fits
    }

    /// Queues a whole message.
    pub(super) fn queue(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.control);
    }

    /// Queues a KEEPALIVE, unless one waits already.
    pub(super) fn queue_keepalive(&mut self) {
        if !self.keepalive_queued {
            encode_keepalive(&mut self.control);
            self.keepalive_queued = true;
        }
    }

    /// Takes what is queued, when the last write is done.
    pub(super) fn take_control(&mut self) -> Vec<u8> {
        self.keepalive_queued = false;
        core::mem::take(&mut self.control)
    }

    /// The last bytes of this connection.
    pub(super) fn last_words(&mut self, notification: Option<&Notification>) -> Vec<u8> {
        // With a write in flight, what is queued behind it (a KEEPALIVE, nothing else) is worth less than the room: one last write only.
        let mut bytes = if self.in_flight == 0 && notification.is_some() { self.take_control() } else { Vec::new() };
        if let Some(notification) = notification {
            notification.encode(&mut bytes);
        }
        bytes
    }
}
