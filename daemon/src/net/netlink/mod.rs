//! Links and addresses of this network namespace: what there is, what changes, and our own addresses on them.
//!
//! Leaves every decision to `bascule-core`. Events are never trusted alone: the whole state is read again every 30 s and after every loss.

mod addresses;
mod entries;
mod parse;
mod socket;
mod state;
mod tc;
#[cfg(test)]
mod tests;
mod watch;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bascule_core::node::io::LinkInfo;
use bascule_core::types::LinkId;
use tokio::sync::mpsc;

pub use entries::{Entries, Target};
pub use parse::{LAST_MARKER, MARKER};
use socket::NetlinkSocket;
pub use tc::TcEvents;
pub use ways::{Change, Way, Ways, Whereabouts};

use super::NetError;

/// Events that may wait for the driver. When it is full the watcher waits; what the kernel then drops is found by the next full reading.
const EVENTS: usize = 256;

/// Something happened to a link or an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetEvent {
    /// A link appeared or changed, its addresses and what it stands on included.
    Link(LinkInfo),
    /// A link is gone.
    LinkGone(LinkId),
    /// An address with our marker is gone from a link without our asking: removed by hand, expired, flushed with its link, or its marker
    /// was taken. May be said twice; never of what [`Netlink::remove`] and [`Netlink::sweep`] took off.
    AddressLost {
        /// Where.
        link: LinkId,
        /// Which.
        address: IpAddr,
    },
    /// Every link that exists at the start has been reported. Said once.
    Synced,
}

/// The requesting side; cheap to clone. Every call is bounded by 2 s a datagram.
#[derive(Clone)]
pub struct Netlink {
    requests: Arc<tokio::sync::Mutex<NetlinkSocket>>,
    shared: Arc<Mutex<Shared>>,
    /// On addresses of this instance.
    marker: u8,
}

/// What the requesting side and the watcher both know.
#[derive(Debug)]
struct Shared {
    /// On addresses of this instance.
    marker: u8,
    /// Addresses that we put on links, and whether the kernel has confirmed them.
    installed: BTreeMap<(LinkId, IpAddr), bool>,
    /// Host addresses of links that somebody else put there.
    foreign: BTreeSet<(LinkId, IpAddr)>,
    /// Removals that we asked for and whose event has not come yet: an address may be back on its link by then.
    removing: BTreeMap<(LinkId, IpAddr), u32>,
    /// This kernel reports markers. Not known before the first message that carries one; loopback addresses do since Linux 5.18.
    markers: bool,
}

impl Default for Shared {
    fn default() -> Self {
        let (installed, foreign, removing) = Default::default();
        Self { marker: MARKER, installed, foreign, removing, markers: false }
    }
}

impl Shared {
    /// Before the request is sent, so that its event finds it.
    fn removal_asked(&mut self, key: (LinkId, IpAddr)) {
        self.installed.remove(&key);
        *self.removing.entry(key).or_default() += 1;
    }

    /// The event came, or never will. True when there was such a removal.
    fn removal_done(&mut self, key: (LinkId, IpAddr)) -> bool {
        let Some(count) = self.removing.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.removing.remove(&key);
        }
        true
    }
}

impl Netlink {
    /// Starts to watch the network namespace of the calling thread. Reports every link, then [`NetEvent::Synced`], then changes, until
    /// the receiver is dropped. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a netlink socket cannot be opened.
    pub fn start() -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        Self::start_as(0)
    }

    /// Like [`Self::start`], for one of several daemons of this network namespace: addresses of the others are neither swept nor taken
    /// for those of the node.
    ///
    /// # Errors
    /// As for [`Self::start`]. Numbers above 7 count as 7.
    pub fn start_as(instance: u8) -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        let marker = MARKER.saturating_add(instance).min(LAST_MARKER);
        let requests = Arc::new(tokio::sync::Mutex::new(NetlinkSocket::open(0)?));
        let shared = Arc::new(Mutex::new(Shared { marker, ..Shared::default() }));
        let (sender, events) = mpsc::channel(EVENTS);
        let watcher = watch::Watcher::open(Arc::clone(&shared), sender)?;
        tokio::spawn(watcher.run());
        Ok((Self { requests, shared, marker }, events))
    }
}

/// The lock is held for a few lines at a time and never across an await; a panic under it leaves valid data.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
