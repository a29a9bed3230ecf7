//! Keeps entries of the kernel's neighbour tables for what this daemon depends on (ADR 0041). Never on the loop's thread: rtnetlink waits for a
//! lock that anybody may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bascule_bgp::config::NeighborConfig;
use bascule_core::bfd::config::PeerConfig;
use bascule_core::neighbor::{Keeper, News, Place, Seen};
use bascule_core::node::config::GroupConfig;
use bascule_core::types::LinkId;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::Loaded;
use crate::handle::neighbors::{NeighborsHandle, NeighborsView};
use crate::metrics::Metrics;
use crate::net::NetError;
use crate::net::netlink::{Entries, Target};

/// From one look at the entries to the next.
const LOOK: Duration = Duration::from_secs(1);
/// Changes of links and routes within this time are one.
const SETTLE: Duration = Duration::from_millis(200);
/// Looks after which routes are asked for again though none was told to have changed.
const ROUTES: u32 = 30;

/// What has to be kept.
#[derive(Clone)]
pub(super) struct NeighborsSender(watch::Sender<Option<BTreeSet<Target>>>);

impl NeighborsSender {
    /// The configuration in force. A keeper that has ended keeps nothing any more.
    pub(super) fn config(&self, loaded: &Loaded) {
        let wanted = Some(targets(loaded));
        let _other = self.0.send_if_modified(|now| std::mem::replace(now, wanted.clone()) != wanted);
    }
}

/// The running task.
pub(super) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When a netlink socket cannot be opened.
    pub(super) fn start(
        instance: u8,
        metrics: Metrics,
        handle: NeighborsHandle,
    ) -> Result<(Self, NeighborsSender), NetError> {
        let entries = Entries::open(instance)?;
        let (sender, wanted) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let keeping =
            Keeping { entries, keeper: Keeper::default(), metrics, handle, error: None, told_unmanaged: false };
        let task = tokio::spawn(keeping.run(wanted, stopped));
        Ok((Self { stop, task }, NeighborsSender(sender)))
    }

    /// Lets go of every entry; gives up after `within`.
    pub(super) async fn stop(self, within: Duration) {
        let _ended = self.stop.send(());
        if tokio::time::timeout(within, self.task).await.is_err() {
            warn!("kept entries of the neighbour table were not let go of in time; the next start does it");
        }
    }
}

/// Whom packets of this daemon go to, one by one. The groups' own are left out: frames to a group need no entry.
fn targets(loaded: &Loaded) -> BTreeSet<Target> {
    let groups = loaded.node.groups.iter().filter(|group| group.lease.is_none()).flat_map(peers);
    let bfd = loaded.bfd.iter().map(session);
    let bgp = loaded.bgp.iter().flat_map(|bgp| &bgp.speaker.neighbors).map(neighbor);
    let nodes = loaded.forwarding.iter().flat_map(|forwarding| &forwarding.config.nodes);
    // Encapsulation goes to the first address of a node.
    let nodes = nodes.filter_map(|node| node.addresses.first()).map(|address| Target {
        address: *address,
        links: Vec::new(),
        beside: None,
        source: None,
    });
    groups.chain(bfd).chain(bgp).chain(nodes).collect()
}

fn peers(group: &GroupConfig) -> impl Iterator<Item = Target> + '_ {
    let links: Vec<String> = group.interface.iter().chain(&group.further_interfaces).cloned().collect();
    // Where no interface is named, the node finds the link in the same way.
    let beside = group.shard.map(|shard| shard.node).or(group.addresses.first().copied()).filter(|_| links.is_empty());
    group.unicast_peers.iter().map(move |peer| Target { address: *peer, links: links.clone(), beside, source: None })
}

fn session(peer: &PeerConfig) -> Target {
    // A multihop session is routed, whatever link is named.
    let links = peer.interface.iter().filter(|_| peer.multihop.is_none()).cloned().collect();
    Target { address: peer.remote, links, beside: None, source: peer.local }
}

fn neighbor(neighbor: &NeighborConfig) -> Target {
    let transport = &neighbor.transport;
    let links = transport.interface.iter().cloned().collect();
    Target { address: neighbor.address, links, beside: None, source: transport.source }
}

struct Keeping {
    entries: Entries,
    keeper: Keeper,
    metrics: Metrics,
    handle: NeighborsHandle,
    /// The last refusal, while there are any.
    error: Option<String>,
    told_unmanaged: bool,
}

impl Keeping {
    async fn run(mut self, mut wanted: watch::Receiver<Option<BTreeSet<Target>>>, mut stop: oneshot::Receiver<()>) {
        match self.entries.ours().await {
            Ok(left) => self.keeper = Keeper::new(left),
            Err(error) => warn!(%error, "what a former run kept in the neighbour table is not known; it stays"),
        }
        // What a former run kept is needed until it is known what is wanted.
        let begun = tokio::select! {
            begun = wanted.changed() => begun.is_ok(),
            _ = &mut stop => false,
        };
        if begun {
            self.keep(&mut wanted, &mut stop).await;
        }
        if let Err(error) = self.look(&BTreeMap::new()).await {
            warn!(%error, "kept entries of the neighbour table were not let go of; the next start does it");
        }
    }

    /// Until it shall stop, or nobody wants anything any more.
    async fn keep(&mut self, wanted: &mut watch::Receiver<Option<BTreeSet<Target>>>, stop: &mut oneshot::Receiver<()>) {
        let mut places = BTreeSet::new();
        let mut left = 0;
        let mut failed = false;
        loop {
            let looked = self.turn(wanted, &mut places, &mut left).await;
            match (&looked, failed) {
                (Err(error), false) => {
                    warn!(%error, "entries of the neighbour table are not looked after; tried again")
                }
                (Ok(()), true) => info!("entries of the neighbour table are looked after again"),
                (Ok(()), false) | (Err(_), true) => {}
            }
            failed = looked.is_err();
            tokio::select! {
                _ = &mut *stop => return,
                changed = wanted.changed() => {
                    if changed.is_err() { return }
                    left = 0;
                }
                changed = self.entries.changed() => {
                    // An error of the socket lasts: without its news the looks go on.
                    tokio::time::sleep(if changed.is_ok() { SETTLE } else { LOOK }).await;
                    left = 0;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// One look. `left`: how many there may be before the routes are asked for again.
    async fn turn(
        &mut self,
        wanted: &mut watch::Receiver<Option<BTreeSet<Target>>>,
        places: &mut BTreeSet<Place>,
        left: &mut u32,
    ) -> Result<(), NetError> {
        if *left == 0 {
            let targets = wanted.borrow_and_update().clone();
            let mut now = BTreeSet::new();
            self.entries.begin();
            for target in targets.iter().flatten() {
                now.extend(self.entries.place(target).await?);
            }
            *places = now;
            *left = ROUTES;
        }
        *left -= 1;
        let links: BTreeSet<LinkId> = places.iter().map(|place| place.link).collect();
        let mut carriers = BTreeMap::new();
        for link in links {
            carriers.extend(self.entries.carrier(link).await?.map(|carrier| (link, carrier)));
        }
        let on_links = places.iter().filter_map(|place| Some((*place, *carriers.get(&place.link)?))).collect();
        self.look(&on_links).await
    }

    async fn look(&mut self, wanted: &BTreeMap<Place, u32>) -> Result<(), NetError> {
        let mut seen: BTreeMap<Place, Seen> = BTreeMap::new();
        for place in self.keeper.reads(wanted) {
            seen.extend(self.entries.entry(place).await?.map(|entry| (place, entry)));
        }
        let mut error = None;
        for (place, step) in self.keeper.look(wanted, &seen) {
            match self.entries.step(place, step).await {
                Ok(()) => self.keeper.done(place),
                Err(refused) => {
                    self.metrics.neighbor_refused();
                    if self.keeper.refused(place) {
                        warn!(error = %refused, ?step, "a full neighbour table may cost this neighbour");
                    }
                    error = Some(refused.to_string());
                }
            }
        }
        self.error = error;
        for news in self.keeper.news() {
            tell(news);
        }
        if self.entries.unmanaged() && !std::mem::replace(&mut self.told_unmanaged, true) {
            info!("this kernel does not resolve kept neighbours by itself (Linux 5.16 does); the daemon asks for them");
        }
        let standing = self.keeper.standing();
        self.metrics.neighbors_kept(standing);
        self.handle.set(NeighborsView::new(standing, self.error.clone()));
        Ok(())
    }
}

fn tell(news: News) {
    match news {
        News::Kept(Place { link, address }) => {
            info!(%address, link = link.0, "its entry of the neighbour table is kept");
        }
        News::Released(Place { link, address }) => {
            info!(%address, link = link.0, "its entry of the neighbour table is not kept any more");
        }
        News::Moved { place: Place { link, address }, from, to } => {
            info!(%address, link = link.0, %from, %to, "the neighbour has another MAC");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_sessions_neighbors_and_nodes_are_kept_and_groups_without_peers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("forward.key");
        std::fs::write(&key, format!("0:{}\nflow:{}\n", "aa".repeat(16), "bb".repeat(16))).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = "vips:\n\
             - { name: api, addresses: [198.51.100.100], interface: eth0, vrid: 51, nodes: [n1, n2], unicastPeers: [198.51.100.1, 198.51.100.2] }\n\
             - { name: web, addresses: [198.51.100.101], interface: eth0, vrid: 52, nodes: [n1, n2] }\n\
             bfd: { peers: [{ address: 192.0.2.1, interface: eth1 }] }\n\
             bgp: { asn: 65001, routerId: 198.51.100.1, neighbors: [{ name: tor, address: 203.0.113.1, remoteAs: 65000 }] }\n\
             forwarding: { keyFile: forward.key, nodes: [{ name: n1, id: 1, addresses: [198.51.100.1] }, \
             { name: n2, id: 2, addresses: [198.51.100.9] }] }\n";
        let loaded = crate::config::parse(text, "bascule.yaml", dir.path(), "n1").unwrap();
        let target = |address: &str, links: &[&str]| Target {
            address: address.parse().unwrap(),
            links: links.iter().map(|link| (*link).to_owned()).collect(),
            beside: None,
            source: None,
        };
        let all = [
            target("192.0.2.1", &["eth1"]),
            target("198.51.100.1", &[]),
            target("198.51.100.1", &["eth0"]),
            target("198.51.100.2", &["eth0"]),
            target("198.51.100.9", &[]),
            target("203.0.113.1", &[]),
        ];
        assert_eq!(targets(&loaded), BTreeSet::from(all));
    }
}
