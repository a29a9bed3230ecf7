//! What goes into a speaker and what comes out of it.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use ipnet::IpNet;

use crate::config::{Secret, SpeakerConfig, Transport};
use crate::event::Event;
use crate::graceful::FormerRun;
use crate::time::Instant;

/// How long a driver keeps a closed connection for bytes that the neighbor does not take. Its window may be shut for good: a NOTIFICATION
/// is worth a wait, and not a leak.
pub const CLOSE_LINGER: Duration = Duration::from_secs(3);

/// One TCP connection or one attempt at it. Chosen by the speaker for what it dials, by the driver (from [`Conn::INBOUND`] on) for what
/// it accepts; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn(pub u64);

impl Conn {
    /// First number of accepted connections.
    pub const INBOUND: u64 = 1 << 63;
}

/// A route that this node wants announced, before any policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Host route of a VIP.
    pub prefix: IpNet,
    /// Name of the VIP it belongs to; policies match it.
    pub vip: String,
    /// Announced with GRACEFUL_SHUTDOWN (RFC 8326), to internal neighbors with LOCAL_PREF 0: about to be withdrawn.
    pub draining: bool,
    /// When the decision was made, for the latency from decision to wire.
    pub since: Instant,
}

/// Something happened in the world.
#[derive(Clone, PartialEq, Debug)]
pub enum Input<'a> {
    /// A new configuration, valid as a whole; applied as a difference.
    Config(Box<SpeakerConfig>),
    /// These routes are wanted from now on (an existing one of the same prefix is replaced).
    Announce(Vec<Route>),
    /// These are not wanted any more, with the time of the decision.
    Withdraw(Vec<IpNet>, Instant),
    /// Every route of the start is known (and the marker of a former run was read): End-of-RIB may be sent.
    Synced,
    /// This run follows a planned restart; fed before the first `Config`. OPENs then say so (RFC 4724 section 3).
    Restarted(FormerRun),
    /// The connection that was dialled stands.
    Connected {
        /// Which.
        conn: Conn,
        /// Own end: next hop of the session.
        local: SocketAddr,
        /// The neighbor is on the same subnet as `local`, so that a link-local next hop may be sent (RFC 2545 section 3).
        on_link: bool,
        /// Own link-local address on that link, where there is one.
        link_local: Option<core::net::Ipv6Addr>,
    },
    /// It could not be made, in the kernel's words.
    ConnectFailed {
        /// Which.
        conn: Conn,
        /// Why.
        error: String,
    },
    /// A neighbor dialled us. The speaker closes it when nobody of this address is expected.
    Accepted {
        /// Number chosen by the driver, at least [`Conn::INBOUND`].
        conn: Conn,
        /// The other end.
        remote: IpAddr,
        /// Own end.
        local: SocketAddr,
        /// As in `Connected`.
        on_link: bool,
        /// As in `Connected`.
        link_local: Option<core::net::Ipv6Addr>,
    },
    /// Bytes arrived.
    Received {
        /// On which.
        conn: Conn,
        /// Any number of them.
        bytes: &'a [u8],
    },
    /// The kernel took bytes of this connection; `pending` of ours are still unsent in the driver. The speaker writes on when it is 0.
    Written {
        /// Which.
        conn: Conn,
        /// Not yet taken by the kernel.
        pending: usize,
        /// Not yet acknowledged by the neighbor (`SIOCOUTQ`), asked only while [`Action::WatchAcknowledged`] is on.
        unacknowledged: Option<usize>,
    },
    /// The other end closed, or the connection broke.
    Closed {
        /// Which.
        conn: Conn,
        /// In words; `None` for an orderly end.
        error: Option<String>,
    },
    /// BFD changed its mind about the neighbor of this name.
    Bfd {
        /// Neighbor.
        neighbor: String,
        /// Its state.
        state: BfdState,
    },
    /// An operator's request.
    Command(Command),
}

/// What BFD thinks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BfdState {
    /// The path works.
    Up,
    /// It does not.
    Down,
    /// The neighbor (or nobody) wants no opinion: not a failure (RFC 5882 section 4.2).
    AdminDown,
}

/// What an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Close a session and start anew: Cease, subcode 4.
    Reset {
        /// Its name.
        neighbor: String,
    },
    /// Drain and end: GRACEFUL_SHUTDOWN, wait `drain`, withdraw, flush, Cease with `text`; then [`Action::Stopped`].
    Shutdown {
        /// How long routers get to move traffic away.
        drain: Duration,
        /// Shutdown Communication (RFC 9003), at most 255 bytes.
        text: String,
    },
    /// End for a planned restart: where graceful restart was negotiated close without a NOTIFICATION, elsewhere as `Shutdown` without
    /// drain; then [`Action::Stopped`].
    Restart,
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub enum Action {
    /// Dial, then feed `Connected` or `ConnectFailed`.
    Connect {
        /// Its number.
        conn: Conn,
        /// To whom.
        remote: SocketAddr,
        /// How.
        transport: Transport,
        /// Whether the TTL default is that of an external neighbor.
        external: bool,
    },
    /// Accept connections from this address with this transport (MD5 keys must stand before the first segment), on the driver's own
    /// listening address and port. Replaces an earlier entry of the same address.
    Listen {
        /// Who may dial.
        remote: IpAddr,
        /// How.
        transport: Transport,
        /// Whether the TTL default is that of an external neighbor.
        external: bool,
    },
    /// Accept them no more.
    Unlisten {
        /// Who.
        remote: IpAddr,
    },
    /// Write; feed `Written` when the kernel took all of it (or part, with what is pending). One is outstanding per connection, but for
    /// the last one: a NOTIFICATION of at most 4 kB right before `Close` may follow at once and is queued behind it.
    Write {
        /// On which.
        conn: Conn,
        /// At most 64 kB at once; the next comes only after `Written` with nothing pending.
        bytes: Vec<u8>,
    },
    /// Report `unacknowledged` at once, with every `Written`, and whenever it falls, until the connection ends.
    WatchAcknowledged {
        /// Which.
        conn: Conn,
    },
    /// Sign and check every segment with this key from now on, in place of another one. Failing that, feed `Closed`.
    Rekey {
        /// Which; dialled or standing.
        conn: Conn,
        /// The new one.
        password: Secret,
    },
    /// Close after what was written has left, or after [`CLOSE_LINGER`] without that; nothing more is fed for it.
    Close {
        /// Which.
        conn: Conn,
    },
    /// Log it, count it, show it.
    Report(Event),
    /// Every session is closed: the room may end.
    Stopped,
}
