//! What goes into a node and what comes out of it.

use core::net::IpAddr;
use core::time::Duration;

use ipnet::IpNet;

use super::config::{LeaseConfig, NodeConfig};
use super::event::Event;
use crate::announce::l2::FrameKind;
use crate::announce::route::RouteWish;
use crate::election::lease::{Command as ElectorCommand, Word};
use crate::fence::FenceWrite;
use crate::types::{LinkId, Mac, Slot, Term};

/// A network link as the node needs to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    /// Its index.
    pub id: LinkId,
    /// Its name.
    pub name: String,
    /// Its hardware address; zero when it has none.
    pub mac: Mac,
    /// Operational, together with everything it stands on (bond, VLAN, bridge, macvlan).
    pub up: bool,
    /// Its own addresses with their prefixes, without any that carry our protocol marker.
    pub addresses: Vec<IpNet>,
}

/// State of the fence on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceState {
    /// Loaded and attached.
    Ready,
    /// Cannot be armed, and why.
    Unavailable(String),
}

/// What an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Move a group, named by its name or by one of its addresses, to a node.
    Move {
        /// Group name or address.
        vip: String,
        /// Node name.
        to: String,
    },
    /// Give everything away and stay out.
    Drain,
    /// Take part again.
    Undrain,
    /// Give everything away, then end with [`Action::Stopped`].
    Stop,
    /// End with [`Action::Stopped`] for a run that follows at once: groups are given away as by `Stop`, but addresses and routes of
    /// anycast VIPs stay as they are.
    Restart,
}

/// Names a lease elector of this node. Words with an old one are ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ElectorId(pub u64);

/// What is asked of a lease elector's driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Run it from now on, with the standing `Fit`.
    Start {
        /// Whose, for logs.
        group: String,
        /// On what.
        lease: LeaseConfig,
        /// Its claims count from the term after this one.
        term: Term,
    },
    /// Tell it. After `Stop` it ends by itself.
    Tell(ElectorCommand),
}

/// Something happened in the world.
#[derive(Clone, PartialEq, Debug)]
pub enum Input<'a> {
    /// A new configuration, valid as a whole.
    Config(Box<NodeConfig>),
    /// A link appeared or changed.
    Link(LinkInfo),
    /// A link is gone.
    LinkGone(LinkId),
    /// The fence was loaded, or could not be.
    Fence(FenceState),
    /// A VRRP message arrived.
    Vrrp {
        /// Where.
        link: LinkId,
        /// IP source.
        src: IpAddr,
        /// IP destination.
        dst: IpAddr,
        /// TTL or hop limit.
        ttl: u8,
        /// IP payload.
        payload: &'a [u8],
    },
    /// An ARP frame, NS or NA arrived: the whole Ethernet frame.
    Neighbor {
        /// Where.
        link: LinkId,
        /// The frame.
        frame: &'a [u8],
    },
    /// A datagram arrived on the peer channel.
    Peer {
        /// Where.
        link: LinkId,
        /// IP source.
        src: IpAddr,
        /// The datagram.
        payload: &'a [u8],
    },
    /// The addresses of a slot are on the link: `Action::Install` is done.
    Installed(Slot),
    /// They could not be added; the driver tries again by itself with the next renewal.
    InstallFailed {
        /// Which slot.
        slot: Slot,
        /// The kernel's words.
        error: String,
    },
    /// The addresses of an `Action::Remove` of this slot are off the link.
    Removed(Slot),
    /// `Action::Hold` was carried out, or could not be.
    Held {
        /// Number of the action.
        id: u64,
        /// The kernel's words, when it refused.
        result: Result<(), String>,
    },
    /// `Action::Release` was carried out, or could not be.
    Released {
        /// Number of the action.
        id: u64,
        /// The kernel's words, when it refused.
        result: Result<(), String>,
    },
    /// The kernel reports that an address with our marker is gone from a link.
    AddressLost {
        /// Where.
        link: LinkId,
        /// Which.
        address: IpAddr,
    },
    /// An advert could not be sent, or left when the fence had closed.
    SendFailed {
        /// Whose.
        slot: Slot,
        /// The kernel's words.
        error: String,
    },
    /// An advert of ours met a fence that another node's advert had closed.
    Deposed(Slot),
    /// A lease elector says something.
    Word {
        /// Which.
        elector: ElectorId,
        /// What.
        word: Word,
    },
    /// A probe ended.
    Probed {
        /// Gate name.
        gate: String,
        /// Healthy?
        ok: bool,
        /// What was seen, for people.
        detail: String,
    },
    /// An operator's request; its answer carries the same number.
    Command {
        /// Chosen by the driver.
        id: u64,
        /// What is asked.
        command: Command,
    },
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub enum Action {
    /// Change the fence. Must be done before any later action; when it fails, feed `Input::Fence(Unavailable)`.
    Fence(FenceWrite),
    /// Send a VRRP message with TTL 255.
    SendVrrp {
        /// Whose.
        slot: Slot,
        /// Out of which link.
        link: LinkId,
        /// IP source.
        src: IpAddr,
        /// IP destination.
        dst: IpAddr,
        /// IP payload.
        payload: Vec<u8>,
    },
    /// Send an Ethernet frame.
    SendFrame {
        /// Out of which link.
        link: LinkId,
        /// Why.
        kind: FrameKind,
        /// The address it is about.
        address: IpAddr,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Send a datagram to the peer port; a multicast destination is meant on `link`.
    SendPeer {
        /// Out of which link.
        link: LinkId,
        /// From which own address.
        src: IpAddr,
        /// To whom.
        dst: IpAddr,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// Put addresses on a link (idempotent), then feed `Input::Installed`.
    Install {
        /// Whose.
        slot: Slot,
        /// Where.
        link: LinkId,
        /// Which.
        addresses: Vec<IpAddr>,
        /// After so long without a renewal they are gone.
        lifetime: Duration,
    },
    /// Take addresses off a link, then feed `Input::Removed`: the fence guards them until then. Failing that, they leave by their lifetime
    /// and stay guarded.
    Remove {
        /// Whose.
        slot: Slot,
        /// Where.
        link: LinkId,
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Put addresses of an anycast VIP on the loopback link (idempotent), for good: they end by `Release` only. Then feed `Input::Held`.
    Hold {
        /// Whose.
        id: u64,
        /// Where.
        link: LinkId,
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Take them off, then feed `Input::Released`.
    Release {
        /// Whose.
        id: u64,
        /// Where.
        link: LinkId,
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Wishes about routes that changed, for the speaker. The latest wish of an address holds; none may be lost.
    Routes(Vec<RouteWish>),
    /// Prolong the lifetime of these addresses, in one batch.
    Renew {
        /// Which, and where.
        addresses: Vec<(LinkId, IpAddr)>,
        /// From now on.
        lifetime: Duration,
    },
    /// For the driver of a lease elector; what it says is fed as `Input::Word`. None may be lost.
    Elect {
        /// Which.
        elector: ElectorId,
        /// What.
        order: Box<Order>,
    },
    /// Run a probe, then feed `Input::Probed`.
    Probe {
        /// Gate name.
        gate: String,
        /// What to ask.
        kind: crate::health::ProbeKind,
        /// Failed when there is no answer by then.
        timeout: Duration,
    },
    /// Log it, count it, show it.
    Report(Event),
    /// The answer to a command.
    CommandDone {
        /// Number of the command.
        id: u64,
        /// What came of it, in words.
        result: Result<String, String>,
    },
    /// Everything is given up: the process may end.
    Stopped,
}
