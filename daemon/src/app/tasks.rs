//! The asynchronous side: netlink, probes, reload, reports, the watchdog. Each task owns one queue end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use bascule_core::bfd::config::PeerConfig;
use bascule_core::node::config::NodeConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::{self, Loaded};
use crate::driver::world::{Told, Work, World};
use crate::handle::Publisher;
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

/// Passes on the initial state, up to its end.
pub(super) async fn first_links(events: &mut mpsc::Receiver<NetEvent>, world: &WorldSender) -> Result<()> {
    loop {
        let event = events.recv().await.ok_or_else(|| anyhow!("netlink ended before it told the links"))?;
        let Some(input) = to_world(event) else { return Ok(()) };
        if !world.send(input).await {
            return Err(anyhow!("the event loop has ended"));
        }
    }
}

/// Passes on what the kernel says about links and addresses.
pub(super) async fn links(mut events: mpsc::Receiver<NetEvent>, world: WorldSender) {
    while let Some(event) = events.recv().await {
        if let Some(input) = to_world(event)
            && !world.send(input).await
        {
            return;
        }
    }
}

/// Carries out address work in its order; probes run beside it.
pub(super) async fn work(mut queue: mpsc::Receiver<Work>, netlink: Netlink, world: WorldSender) {
    while let Some(work) = queue.recv().await {
        match work {
            Work::Install { slot, link, addresses } => {
                let done = netlink.install(link, &addresses).await.map_err(|e| e.to_string());
                world.send(World::Installed(slot, done)).await;
            }
            Work::Remove { slot, link, addresses } => match netlink.remove(link, &addresses).await {
                Ok(()) => {
                    world.send(World::Removed(slot)).await;
                }
                Err(error) => {
                    error!(%error, link = link.0, ?addresses, "addresses not removed; they stay fenced and end within 10 s");
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
            Work::Renew(held) => {
                if let Err(error) = netlink.renew(&held).await {
                    error!(%error, "addresses not renewed; tried again with the next renewal");
                }
            }
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

/// Logs, counts and publishes what the node tells.
pub(super) async fn report(mut events: mpsc::Receiver<Told>, publisher: Publisher, metrics: Metrics) {
    while let Some(Told { unix_ms, event }) = events.recv().await {
        metrics.observe(&event);
        logging::log_event(&event);
        if !matches!(event, bascule_core::node::event::Event::AdvertLateness { .. }) {
            publisher.publish(event, unix_ms);
        }
    }
}

/// SIGHUP or a changed file: a good configuration is applied as a difference, a bad one is refused and the last good one stays.
pub(super) async fn reload(path: PathBuf, mut current: Loaded, world: WorldSender, metrics: Metrics) {
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
                let Some(next) = apply(&path, &current, next, &world, &metrics).await else { return };
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
async fn apply(
    path: &Path,
    current: &Loaded,
    mut next: Loaded,
    world: &WorldSender,
    metrics: &Metrics,
) -> Option<Loaded> {
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
    metrics.config_reload(true);
    info!(file = %path.display(), "configuration applied");
    world.config(next.node.clone()).await.ok()?;
    world.bfd(next.bfd.clone()).await.ok()?;
    Some(next)
}

async fn next_change(watched: &mut Option<mpsc::Receiver<()>>) -> bool {
    match watched {
        Some(changes) => changes.recv().await.is_some(),
        None => std::future::pending().await,
    }
}

/// The text of `/metrics`: gauges from a snapshot of this moment, or marked unknown when the loop does not answer.
pub(super) fn scrape(metrics: Metrics) -> admin::Scrape {
    Arc::new(move |status, bfd| {
        match status {
            Some(status) => metrics.update(status),
            None => metrics.unknown(),
        }
        metrics.update_bfd(bfd);
        metrics.render()
    })
}
