//! What crosses between the driver's thread and the asynchronous rest of the process.

use std::net::IpAddr;
use std::time::Duration;

use bascule_core::announce::route::RouteWish;
use bascule_core::bfd::config::PeerConfig;
use bascule_core::election::lease::Word;
use bascule_core::health::ProbeKind;
use bascule_core::node::config::NodeConfig;
use bascule_core::node::event::Event;
use bascule_core::node::io::{ElectorId, LinkInfo};
use bascule_core::types::{LinkId, Slot};

use crate::dataplane::Opening;
use crate::net::raw::NeighborSocket;

/// Inputs that may wait for the driver. The senders are tasks that wait when it is full: nothing is lost.
pub const WORLD_QUEUE: usize = 1024;
/// Address work that may wait for the netlink task. When it is full the driver reports the installation as failed, and the group
/// gives the addresses away: a node that cannot install addresses must not own them.
pub const WORK_QUEUE: usize = 256;
/// Events on their way to logs, metrics and readers. When it is full the newest is dropped and counted: a blocked log must not
/// delay an advert.
pub const EVENT_QUEUE: usize = 4096;
/// Batches of wishes about routes that may wait for the BGP room. When it is full the driver keeps the latest wish of each address and
/// sends it with the next turn: nothing is lost, and an advert never waits for a router.
pub const ROUTE_QUEUE: usize = 64;

/// Wishes about routes, in their order.
pub type Routes = Vec<RouteWish>;

/// What the world tells the driver.
#[derive(Debug)]
pub enum World {
    /// A new, valid configuration.
    Config(Box<NodeConfig>),
    /// Every BFD session that there shall be.
    Bfd(Vec<PeerConfig>),
    /// Frames that the data plane serves whoever owns their VIP: the fence lets them in.
    Forwarded(Opening),
    /// A link appeared or changed.
    Link(LinkInfo),
    /// A link is gone.
    LinkGone(LinkId),
    /// An address with our marker is gone.
    AddressLost {
        /// Where.
        link: LinkId,
        /// Which.
        address: IpAddr,
    },
    /// The addresses of a slot are on the link, or could not be put there.
    Installed(Slot, Result<(), String>),
    /// The addresses of a slot are off the link.
    Removed(Slot),
    /// The addresses of an anycast VIP are on the loopback link, or could not be put there.
    Held(u64, Result<(), String>),
    /// They are off it, or could not be taken off.
    Released(u64, Result<(), String>),
    /// A lease elector says something.
    Word(ElectorId, Word),
    /// Links that the fence was put on have it no more, and it cannot be put on again: why. `None`: it stands on all of them.
    FenceGap(Option<String>),
    /// A probe ended.
    Probed {
        /// Gate.
        gate: String,
        /// Healthy.
        ok: bool,
        /// In words.
        detail: String,
    },
}

/// What the driver asks of the asynchronous side, in order.
#[derive(Debug)]
pub enum Work {
    /// Put addresses on a link, then answer with [`World::Installed`].
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
    /// Take addresses off a link, then answer with [`World::Removed`].
    Remove {
        /// Whose.
        slot: Slot,
        /// Where.
        link: LinkId,
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Put addresses on a link without an end of their lifetime, then answer with [`World::Held`].
    Hold {
        /// Whose.
        id: u64,
        /// Where.
        link: LinkId,
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Take them off, then answer with [`World::Released`].
    Release {
        /// Whose.
        id: u64,
        /// Where.
        link: LinkId,
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Prolong lifetimes in one batch.
    Renew {
        /// Which, and where.
        addresses: Vec<(LinkId, IpAddr)>,
        /// From now on.
        lifetime: Duration,
    },
    /// Close a socket: that blocks.
    Close(NeighborSocket),
    /// Run a probe, then answer with [`World::Probed`].
    Probe {
        /// Gate.
        gate: String,
        /// What to ask.
        kind: ProbeKind,
        /// Failed without an answer by then.
        timeout: Duration,
    },
}

/// An event with the wall clock of its moment.
#[derive(Debug)]
pub struct Told {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// What happened.
    pub event: Event,
}
