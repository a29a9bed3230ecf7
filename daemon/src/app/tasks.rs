//! The asynchronous side: netlink, probes, reload, reports, the watchdog. Each task owns one queue end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use bascule_core::announce::route::Want;
use bascule_core::bfd::config::PeerConfig;
use bascule_core::election::lease::Word;
use bascule_core::node::config::NodeConfig;
use bascule_core::node::io::{ElectorId, LinkInfo};
use bascule_core::wire::bfd::State;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::bgp::RoomSender;
use super::electors::Stores;
use super::forward::{self, ForwardSender};
use super::intent::Merger;
use super::kept::NeighborsSender;
use super::sessions::Sessions;
use super::sites::SitesSender;
use crate::announce::{self, Order};
use crate::config::{self, Loaded};
use crate::dataplane::Opening;
use crate::driver::world::{Told, Work, World};
use crate::handle::intent::IntentHandle;
use crate::handle::sites::SitesHandle;
use crate::handle::{NodeHandle, Publisher};
use crate::metrics::Metrics;
use crate::net::netlink::{NetEvent, Netlink};
use crate::net::rt::EventFd;
use crate::{admin, health, logging};

/// The way into the loop: queues an input, then wakes it.
#[derive(Clone)]
pub(super) struct WorldSender {
    queue: mpsc::Sender<World>,
    wake: EventFd,
}

impl WorldSender {
    pub(super) fn new(queue: mpsc::Sender<World>, wake: EventFd) -> Self {
        Self { queue, wake }
    }

    /// Waits while the queue is full; false when the loop has ended.
    async fn send(&self, world: World) -> bool {
        let sent = self.queue.send(world).await.is_ok();
        self.wake.wake();
        sent
    }

    pub(super) async fn config(&self, config: NodeConfig) -> Result<()> {
        let sent = self.send(World::Config(Box::new(config))).await;
        if sent { Ok(()) } else { Err(anyhow!("the event loop has ended")) }
    }
}

impl WorldSender {
    /// A loop that has ended needs no words any more.
    pub(super) async fn word(&self, elector: ElectorId, word: Word) {
        let _ended = self.send(World::Word(elector, word)).await;
    }

    /// A loop that has ended has no fence any more.
    pub(super) async fn fence_gap(&self, gap: Option<String>) {
        let _ended = self.send(World::FenceGap(gap)).await;
    }

    pub(super) async fn forwarded(&self, opening: Opening) -> Result<()> {
        let sent = self.send(World::Forwarded(opening)).await;
        if sent { Ok(()) } else { Err(anyhow!("the event loop has ended")) }
    }

    pub(super) async fn bfd(&self, peers: Vec<PeerConfig>) -> Result<()> {
        let sent = self.send(World::Bfd(peers)).await;
        if sent { Ok(()) } else { Err(anyhow!("the event loop has ended")) }
    }
}

/// What the loop must hear of a netlink event; `None` for the end of the initial state.
fn to_world(event: NetEvent) -> Option<World> {
    match event {
        NetEvent::Link(info) => Some(World::Link(info)),
        NetEvent::LinkGone(id) => Some(World::LinkGone(id)),
        NetEvent::AddressLost { link, address } => Some(World::AddressLost { link, address }),
        NetEvent::Synced => None,
    }
}

/// Collects the initial state, up to its end: as it came, and the links alone.
pub(super) async fn first_links(events: &mut mpsc::Receiver<NetEvent>) -> Result<(Vec<NetEvent>, Vec<LinkInfo>)> {
    let (mut all, mut links) = (Vec::new(), Vec::new());
    loop {
        let event = events.recv().await.ok_or_else(|| anyhow!("netlink ended before it told the links"))?;
        match &event {
            NetEvent::Synced => return Ok((all, links)),
            NetEvent::Link(link) => links.push(link.clone()),
            NetEvent::LinkGone(gone) => links.retain(|link| link.id != *gone),
            NetEvent::AddressLost { .. } => {}
        }
        all.push(event);
    }
}

/// Passes the initial state on.
pub(super) async fn tell_links(events: Vec<NetEvent>, world: &WorldSender) -> Result<()> {
    for input in events.into_iter().filter_map(to_world) {
        if !world.send(input).await {
            return Err(anyhow!("the event loop has ended"));
        }
    }
    Ok(())
}

/// Passes on what the kernel says about links and addresses.
pub(super) async fn links(
    mut events: mpsc::Receiver<NetEvent>,
    world: WorldSender,
    room: RoomSender,
    forward: ForwardSender,
) {
    while let Some(event) = events.recv().await {
        let orders = match &event {
            NetEvent::Link(link) => Some((Order::Link(link.clone()), forward::Order::Link(link.clone()))),
            NetEvent::LinkGone(link) => Some((Order::LinkGone(*link), forward::Order::LinkGone(*link))),
            NetEvent::AddressLost { .. } | NetEvent::Synced => None,
        };
        if let Some((order, forward_order)) = orders {
            forward.send(forward_order).await;
            // A room that has ended is noticed by the app; the loop must hear of the link all the same.
            room.send(order).await;
        }
        if let Some(input) = to_world(event)
            && !world.send(input).await
        {
            return;
        }
    }
}

/// How long the routes of the start are waited for. Neighbors that kept those of a former run drop what was not announced by then.
const SETTLE: Duration = Duration::from_secs(10);
/// From one look at the node to the next while its routes settle.
const LOOK: Duration = Duration::from_millis(50);

/// Tells the room when the routes of the start are known: the configuration is in force, and the gates have let every anycast VIP be
/// announced, or had their time.
pub(super) async fn synced(node: NodeHandle, room: RoomSender) {
    let settled = async {
        loop {
            if let Ok(status) = node.status().await
                && !status.node.is_empty()
                && status.anycast.iter().all(|vip| vip.route != Want::Withdraw)
            {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    // Over means that a gate is closed: then its routes are not wanted, and that is known.
    let _over = tokio::time::timeout(SETTLE, settled).await;
    // The loop sends the wishes of a turn at its end: the answer to another request comes after that.
    if node.status().await.is_ok() {
        room.send(Order::Synced).await;
    }
}

/// Carries out address work in its order; probes run beside it.
pub(super) async fn work(mut queue: mpsc::Receiver<Work>, netlink: Netlink, world: WorldSender) {
    while let Some(work) = queue.recv().await {
        match work {
            Work::Install { slot, link, addresses, lifetime } => {
                let done = netlink.install(link, &addresses, lifetime).await.map_err(|e| e.to_string());
                world.send(World::Installed(slot, done)).await;
            }
            Work::Remove { slot, link, addresses } => match netlink.remove(link, &addresses).await {
                Ok(()) => {
                    world.send(World::Removed(slot)).await;
                }
                Err(error) => {
                    error!(%error, link = link.0, ?addresses, "addresses not removed; they stay fenced and end by their lifetime");
                }
            },
            Work::Hold { id, link, addresses } => {
                let done = netlink.hold(link, &addresses).await.map_err(|e| e.to_string());
                world.send(World::Held(id, done)).await;
            }
            Work::Release { id, link, addresses } => {
                let done = netlink.remove(link, &addresses).await.map_err(|e| e.to_string());
                world.send(World::Released(id, done)).await;
            }
            Work::Renew { addresses, lifetime } => {
                if let Err(error) = netlink.renew(&addresses, lifetime).await {
                    error!(%error, "addresses not renewed; tried again with the next renewal");
                }
            }
            Work::Close(socket) => drop(tokio::task::spawn_blocking(move || drop(socket))),
            Work::Probe { gate, kind, timeout } => {
                let world = world.clone();
                tokio::spawn(async move {
                    let (ok, detail) = health::probe(&kind, timeout).await;
                    world.send(World::Probed { gate, ok, detail }).await;
                });
            }
        }
    }
}

/// Logs, counts and publishes what the node and the BGP room tell, until both have ended.
pub(super) async fn report(
    mut node: mpsc::Receiver<Told>,
    mut bgp: mpsc::Receiver<announce::Told>,
    publisher: Publisher,
    metrics: Metrics,
    forward: ForwardSender,
) {
    loop {
        tokio::select! {
            Some(Told { unix_ms, event }) = node.recv() => {
                metrics.observe(&event);
                logging::log_event(&event);
                if let bascule_core::node::event::Event::Bfd(change) = &event
                    && let Some(session) = session(change.from, change.to, change.remote_state)
                {
                    forward.send(forward::Order::Path(change.remote, session)).await;
                }
                publisher.publish(event, unix_ms);
            }
            Some(announce::Told { unix_ms, event }) = bgp.recv() => {
                metrics.observe_bgp(&event);
                logging::log_bgp(&event);
                // One for each batch of prefixes: a metric, and no news to a reader.
                if !matches!(event, bascule_bgp::event::Event::Sent { .. }) {
                    publisher.publish(event, unix_ms);
                }
            }
            else => return,
        }
    }
}

/// What a change of a BFD session says about the node at its other end; `None`: nothing new.
fn session(from: State, to: State, remote: State) -> Option<forward::Session> {
    match (from, to) {
        (_, State::Up) => Some(forward::Session::Up),
        // Between Down and Init nothing comes and nothing goes.
        (State::Down | State::Init | State::AdminDown, _) => None,
        (State::Up, State::AdminDown) => Some(forward::Session::Left),
        (State::Up, State::Down | State::Init) if remote == State::AdminDown => Some(forward::Session::Left),
        (State::Up, State::Down | State::Init) => Some(forward::Session::Lost),
    }
}

/// Whoever must hear of a new configuration or of another intent of the cluster.
#[derive(Clone)]
pub(super) struct Rooms {
    pub(super) world: WorldSender,
    pub(super) sessions: Sessions,
    pub(super) forward: ForwardSender,
    pub(super) bgp: RoomSender,
    pub(super) sites: SitesSender,
    pub(super) neighbors: NeighborsSender,
}

/// Whoever must hear of another file.
pub(super) struct Listeners {
    pub(super) merger: Merger,
    pub(super) stores: watch::Sender<Stores>,
}

/// SIGHUP or a changed file: a good configuration is applied as a difference, a bad one is refused and the last good one stays.
pub(super) async fn reload(path: PathBuf, mut current: Loaded, told: Listeners, metrics: Metrics) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            error!(%error, "SIGHUP cannot be heard: no reload");
            return;
        }
    };
    let mut watched = watch(&path, &current);
    // The file may have changed between the first load and the watch: look once without being told.
    let mut asked = Asked::Look;
    loop {
        match config::load(&path) {
            Ok(next) if next == current && asked != Asked::Signal => {}
            Ok(next) => {
                let Some(next) = apply(&path, &current, next, &told, &metrics).await else { return };
                if next.secret_files() != current.secret_files() {
                    watched = watch(&path, &next);
                }
                current = next;
            }
            Err(errors) => {
                metrics.config_reload(false);
                error!(file = %path.display(), "configuration refused, the last good one stays");
                for line in errors.to_string().lines() {
                    error!("{line}");
                }
            }
        }
        asked = tokio::select! {
            received = hangup.recv() => { if received.is_none() { return } Asked::Signal },
            changed = next_change(&mut watched) => { if !changed { watched = None } Asked::Look },
        };
    }
}

/// Why the file is read again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// SIGHUP: applied and logged even when nothing changed, so that the operator sees an answer.
    Signal,
    /// It may have changed.
    Look,
}

fn watch(path: &Path, loaded: &Loaded) -> Option<mpsc::Receiver<()>> {
    match config::watch(path, &loaded.secret_files()) {
        Ok(changes) => Some(changes),
        Err(error) => {
            warn!(%error, "the file cannot be watched: reload by SIGHUP only");
            None
        }
    }
}

/// Applies a good file; what can only change with a start keeps its present value. `None` when the loop has ended.
async fn apply(path: &Path, current: &Loaded, mut next: Loaded, told: &Listeners, metrics: &Metrics) -> Option<Loaded> {
    for warning in &next.warnings {
        warn!("{warning}");
    }
    if next.node.fence != current.node.fence {
        // Loading or unloading the programs under a live owner would drop what it owns.
        warn!("a change of `fence` takes effect with the next start");
        next.node.fence = current.node.fence;
    }
    if next.admin != current.admin || next.log != current.log || next.peer_port != current.peer_port {
        warn!("changes of admin, log and peers.port take effect with the next start");
    }
    if source_of(&next) != source_of(current) {
        warn!("a change of where the intent of the cluster is read takes effect with the next start");
        next.kubernetes.clone_from(&current.kubernetes);
    }
    let gives = |file: &Loaded| {
        super::allocator::wanted(file).map(|s| (s.classes.clone(), s.unclassed, s.lease_namespace.clone()))
    };
    if gives(&next) != gives(current) {
        warn!("a change of who gives addresses, and to which classes, takes effect with the next start");
    }
    if Stores::of(&next) != Stores::of(current) {
        warn!("another way to the API server or to etcd takes effect for VIPs that join from now on");
        told.stores.send_replace(Stores::of(&next));
    }
    metrics.config_reload(true);
    info!(file = %path.display(), "configuration applied");
    told.merger.file(next.clone()).await.ok()?;
    Some(next)
}

/// What the tasks that bring intents were started with. Services that are left alone from now on need none of it.
fn source_of(loaded: &Loaded) -> Option<(Option<&Path>, config::Source, &Path)> {
    let kubernetes = loaded.kubernetes.as_ref()?;
    let services = kubernetes.services.as_ref()?;
    Some((kubernetes.kubeconfig.as_deref(), services.source, &services.intent_file))
}

async fn next_change(watched: &mut Option<mpsc::Receiver<()>>) -> bool {
    match watched {
        Some(changes) => changes.recv().await.is_some(),
        None => std::future::pending().await,
    }
}

/// The text of `/metrics`: gauges from a snapshot of this moment, or marked unknown when the loop does not answer.
pub(super) fn scrape(metrics: Metrics, intent: IntentHandle, sites: SitesHandle) -> admin::Scrape {
    Arc::new(move |status, bfd, bgp, forward| {
        match status {
            Some(status) => metrics.update(status),
            None => metrics.unknown(),
        }
        metrics.update_bfd(bfd);
        metrics.update_bgp(bgp);
        metrics.update_forward(forward);
        metrics.update_cluster(intent.get().as_deref());
        metrics.update_allocator(intent.allocator().as_ref());
        metrics.update_reports(intent.reports().as_ref());
        metrics.update_sites(sites.get().as_deref());
        metrics.render()
    })
}
