//! What goes into the machine and what comes out of it.

use core::net::IpAddr;
use core::time::Duration;

use serde::Serialize;

use super::config::PeerConfig;
use crate::node::io::LinkInfo;
use crate::types::LinkId;
use crate::wire::bfd::{Diag, LEN, State};

/// Something happened in the world.
#[derive(Clone, PartialEq, Debug)]
pub enum Input<'a> {
    /// Every session that there shall be; applied as a difference.
    Config(Vec<PeerConfig>),
    /// A link appeared or changed.
    Link(LinkInfo),
    /// A link is gone.
    LinkGone(LinkId),
    /// A datagram arrived on one of the two ports.
    Packet {
        /// Where.
        link: LinkId,
        /// IP source.
        src: IpAddr,
        /// IP destination.
        dst: IpAddr,
        /// TTL or hop limit.
        ttl: u8,
        /// It came to the port of multihop sessions.
        multihop: bool,
        /// The datagram.
        payload: &'a [u8],
    },
    /// The source port of [`Action::Send`] is taken by somebody else: choose another one.
    PortTaken {
        /// The session.
        peer: String,
    },
    /// The packet of [`Action::Send`] could not be sent.
    SendFailed {
        /// The session.
        peer: String,
        /// The kernel's words.
        error: String,
    },
    /// Take every session down, tell the peers, then end with [`Action::Stopped`].
    Stop,
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub enum Action {
    /// Send a packet with TTL 255. Failing that, feed `PortTaken` or `SendFailed`.
    Send {
        /// The session.
        peer: String,
        /// Out of which link; by routing when absent.
        link: Option<LinkId>,
        /// From which own address; by routing when absent.
        src: Option<IpAddr>,
        /// To whom.
        dst: IpAddr,
        /// To the port of multihop sessions.
        multihop: bool,
        /// UDP source port, always the same one for a session.
        source_port: u16,
        /// The packet.
        payload: [u8; LEN],
    },
    /// Nothing leaves from this source port any more.
    ClosePort(u16),
    /// Log it, count it, show it.
    Report(BfdEvent),
    /// Tell those who follow the session.
    Update(BfdUpdate),
    /// Every peer knows, or was given the time to notice: the process may end.
    Stopped,
}

/// A session changed its state.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BfdEvent {
    /// The session.
    pub peer: String,
    /// The peer's address.
    pub remote: IpAddr,
    /// Before.
    pub from: State,
    /// Now.
    pub to: State,
    /// Our reason.
    pub diag: Diag,
    /// The peer's state, as last heard.
    pub remote_state: State,
    /// The peer's reason, as last heard.
    pub remote_diag: Diag,
    /// Detection time that expired, in seconds; absent for every other reason.
    pub detection: Option<f64>,
    /// How long after that deadline it was declared, in seconds.
    pub lateness: Option<f64>,
}

/// What a session means for the rooms that follow it (RFC 5882 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// Both sides hear each other.
    Up,
    /// Not up: never was, or failed.
    Down,
    /// One side was taken down by its operator: this says nothing about the path (RFC 5882 section 3.2).
    AdminDown,
}

/// The latest state of one session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BfdUpdate {
    /// The session.
    pub peer: String,
    /// Where it stands.
    pub state: PathState,
    /// How often it went from Up to Down and not by an operator. A reader that saw only the latest of several updates finds here that
    /// the path failed meanwhile.
    pub failures: u64,
}

/// Seconds of a duration, for [`BfdEvent`] and status.
pub(super) fn seconds(d: Duration) -> f64 {
    d.as_secs_f64()
}
