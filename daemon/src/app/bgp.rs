//! The BGP room's place in the process: its thread, its configuration, and what a planned restart leaves for the next run.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bascule_bgp::graceful::{FormerRun, RestartMarker};
use bascule_bgp::wire::{Family, FamilySet};
use bascule_core::node::io::LinkInfo;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::announce::{self, BgpRoom, Config, Kept, Order, to_bgp};
use crate::config::{self, Loaded};
use crate::net::rt::boot_now;

/// Name of what a planned restart leaves behind, beside the admin socket: there the daemon may write, and one node's is not another's.
const MARKER: &str = "bgp-restart";
/// Names the boot of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// BGP listens here when the configuration does not say otherwise (RFC 4271 section 4), and only when a neighbor may dial us.
const LISTEN: &str = "[::]:179";

/// The way into the room.
#[derive(Clone)]
pub(super) struct RoomSender {
    orders: mpsc::Sender<Order>,
    /// The node's own addresses at the start: a router id that is chosen from them stays, or every session would be reset.
    own: Vec<IpAddr>,
}

impl RoomSender {
    /// Waits while the queue is full; false when the room has ended.
    pub(super) async fn send(&self, order: Order) -> bool {
        self.orders.send(order).await.is_ok()
    }

    pub(super) async fn config(&self, loaded: &Loaded) -> bool {
        self.send(Order::Config(room_config(loaded, &self.own).map(Box::new))).await
    }
}

/// The running room.
pub(super) struct Room {
    pub(super) sender: RoomSender,
    ended: oneshot::Receiver<Result<Option<Kept>>>,
    marker: PathBuf,
}

/// How the room ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// For good.
    Stop,
    /// To come back.
    Restart,
}

impl Room {
    /// Starts the room on its thread. `links` are those that exist.
    pub(super) fn spawn(
        seed: u64,
        loaded: &Loaded,
        links: Vec<LinkInfo>,
        former: Option<FormerRun>,
        ports: impl FnOnce(mpsc::Receiver<Order>) -> announce::Ports,
    ) -> Result<Self> {
        let own: Vec<IpAddr> = links.iter().flat_map(|link| &link.addresses).map(|net| net.addr()).collect();
        let (orders, inbox) = mpsc::channel(announce::ORDER_QUEUE);
        let (done, ended) = oneshot::channel();
        let room = BgpRoom::new(seed, room_config(loaded, &own), links, former, ports(inbox))?;
        std::thread::Builder::new().name("bascule-bgp".to_owned()).spawn(move || {
            let _app_waits = done.send(room.run().map_err(|error| anyhow!(error)));
        })?;
        Ok(Self { sender: RoomSender { orders, own }, ended, marker: marker_path(loaded) })
    }

    /// Resolves when the room ends by itself, which is a fault.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.ended).await {
            Ok(Ok(_)) => anyhow!("the BGP room ended by itself"),
            Ok(Err(error)) => error,
            Err(_) => anyhow!("the BGP room panicked"),
        }
    }

    /// Ends it. A neighbor that takes nothing cannot hold this up for longer than `within`.
    pub(super) async fn end(self, how: End, node: &str, within: Duration) {
        let order = match how {
            End::Stop => Order::Stop { text: format!("bascule on {node} stops"), within },
            End::Restart => Order::Restart { within },
        };
        if !self.sender.send(order).await {
            warn!("the BGP room has ended before it was told to");
            return;
        }
        // The room keeps its own time; the second is for a thread that the machine does not run.
        match tokio::time::timeout(within + Duration::from_secs(1), self.ended).await {
            Ok(Ok(Ok(Some(kept)))) => leave_marker(&self.marker, kept),
            Ok(Ok(Ok(None))) => {}
            Ok(Ok(Err(error))) => error!(%error, "the BGP room failed"),
            Ok(Err(_)) | Err(_) => error!("the BGP room did not end in time; its connections end with the process"),
        }
    }
}

/// What the room is told of a configuration.
fn room_config(loaded: &Loaded, own: &[IpAddr]) -> Option<Config> {
    let mut bgp: config::Bgp = loaded.bgp.clone()?;
    bgp.choose_router_id(own.iter().copied());
    let listen = bgp.listen.unwrap_or_else(|| LISTEN.parse().expect("a constant address"));
    Some(Config { speaker: bgp.speaker, listen })
}

fn boot_id() -> Result<String> {
    let text = std::fs::read_to_string(BOOT_ID).with_context(|| format!("reading {BOOT_ID}"))?;
    Ok(text.trim().to_owned())
}

fn marker_path(loaded: &Loaded) -> PathBuf {
    let name = match loaded.instance {
        0 => MARKER.to_owned(),
        further => format!("{MARKER}-{further}"),
    };
    loaded.admin.socket.with_file_name(name)
}

fn leave_marker(path: &Path, kept: Kept) {
    let written = boot_id().and_then(|boot_id| {
        let (restart_time, families) = (kept.restart_time, kept.families);
        let marker = RestartMarker { boot_id, written: to_bgp(boot_now()), restart_time, families };
        std::fs::write(path, marker.to_string()).with_context(|| format!("writing {}", path.display()))
    });
    match written {
        Ok(()) => info!(seconds = kept.restart_time, "neighbors keep our routes for the restart"),
        Err(error) => error!(%error, "the next run will not know of this restart: neighbors drop our routes"),
    }
}

/// Reads what a planned restart left behind, and removes it: it counts once. `forwarding`: families of which every address still stands.
pub(super) fn former_run(loaded: &Loaded, forwarding: FamilySet) -> Option<FormerRun> {
    let path = marker_path(loaded);
    let file = path.display().to_string();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(%error, file, "not read: neighbors are not told of the restart");
            return None;
        }
    };
    if let Err(error) = std::fs::remove_file(&path) {
        warn!(%error, file, "not removed: it will be read again, and refused by its time");
    }
    let former = text.parse().map_err(anyhow::Error::from).and_then(|marker: RestartMarker| {
        let boot_id = boot_id()?;
        Ok(FormerRun::new(&marker, &boot_id, forwarding, to_bgp(boot_now())))
    });
    match former {
        Ok(Some(former)) => Some(former),
        Ok(None) => {
            info!("a planned restart is too long ago: neighbors have dropped our routes");
            None
        }
        Err(error) => {
            warn!(%error, file, "refused: neighbors are not told of the restart");
            None
        }
    }
}

/// Families that went on forwarding over a restart: `stood`, the anycast addresses of the former run, is what is wanted now. An address
/// that is missing did not forward; for one that is not wanted any more neighbors must not wait.
pub(super) fn still_forwarding(wanted: &[IpAddr], stood: &BTreeSet<IpAddr>) -> FamilySet {
    let wanted: BTreeSet<IpAddr> = wanted.iter().copied().collect();
    let differs = |family: &Family| {
        wanted.symmetric_difference(stood).any(|address| address.is_ipv4() == (*family == Family::Ipv4))
    };
    Family::ALL.into_iter().filter(|family| !differs(family)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_forwards_only_when_every_address_of_it_stood() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let wanted = [ip("10.9.0.1"), ip("10.9.0.2"), ip("2001:db8::1")];
        let held = |addresses: &[IpAddr]| addresses.iter().copied().collect();
        let v6 = FamilySet::EMPTY.with(Family::Ipv6);
        let both = v6.with(Family::Ipv4);
        assert_eq!(still_forwarding(&wanted, &held(&wanted)), both);
        assert_eq!(still_forwarding(&wanted, &held(&wanted[1..])), v6);
        assert_eq!(still_forwarding(&wanted[1..], &held(&wanted)), v6, "one that is not wanted any more");
    }
}
