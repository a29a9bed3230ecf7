//! Puts the process together: rooms, queues, threads, and the order in which they begin and end.
//!
//! Start: configuration, admin socket (it also proves that no second daemon runs here), fence, leftovers of a crashed run, links, BGP room,
//! loop; BFD with nodes of the data plane once this node forwards. The leftover addresses go before the fence forgets what it guarded: until then it is what keeps them silent.
//! End: the loop gives everything away, routes first; then the BGP sessions are closed, then the addresses go, then the fence.

mod allocator;
mod bgp;
mod electors;
mod forward;
mod guard;
mod intent;
mod kept;
mod neighbors;
mod report;
mod sessions;
mod sites;
mod tasks;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bascule_core::announce::route::LINGER;
use bascule_core::node::config::FencePolicy;
use bascule_core::node::io::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::config::{self, Loaded};
use crate::dataplane::{self, Fence, FenceGuard, FenceOptions};
use crate::driver::electors::ELECTOR_QUEUE;
use crate::driver::world::{EVENT_QUEUE, ROUTE_QUEUE, WORK_QUEUE, WORLD_QUEUE};
use crate::driver::{BFD_UPDATE_QUEUE, Driver, Ports};
use crate::handle::{self, NodeHandle};
use crate::metrics::Metrics;
use crate::net::netlink::Netlink;
use crate::net::rt::{self, EventFd};
use crate::{admin, announce, logging, systemd};

use sessions::Sessions;

/// SCHED_FIFO priority of the loop: above ordinary real-time work, below the kernel's own threads (50 is where they start).
const RT_PRIORITY: u8 = 49;
/// What neighbors have to take withdrawals and the end of their sessions. With the moment that the node serves after a withdrawal
/// (`bascule_core::announce::route::LINGER`) a stuck neighbor holds up a stop for 3 s more than the drain.
const ROOM_GRACE: Duration = STOP_GRACE.saturating_sub(LINGER);
/// A stop that takes longer than hand-over, release and drain together is stuck: the process ends and the fence does the rest.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What makes a start impossible: the configuration, the admin socket, netlink, the sockets of the loop. A fence that cannot be armed
/// under `fence: required` is no such error: the process stays up, not ready, and says why.
pub fn run(path: PathBuf) -> Result<()> {
    let loaded = config::load(&path)?;
    let format = match loaded.log.format {
        config::LogFormat::Text => logging::LogFormat::Text,
        config::LogFormat::Json => logging::LogFormat::Json,
    };
    logging::init(format, &loaded.log.level)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(path, loaded))
}

async fn serve(path: PathBuf, loaded: Loaded) -> Result<()> {
    let wake = EventFd::new().context("creating the wake-up of the event loop")?;
    let wake_up = {
        let wake = wake.clone();
        Arc::new(move || wake.wake())
    };
    let (node, mut port) = handle::channel(wake_up);
    let known = intent::begin(&loaded);
    let merged = intent::Merged::new(loaded.clone(), known.clone(), node.intent().clone());
    // What the file and the intent of the last run come to: what follows must not take away what still holds.
    let whole = merged.effective();
    let room_port = port.bgp.take().context("the BGP room's end of the queue is taken")?;
    let forward_port = port.forward.take().context("the forwarding room's end of the queue is taken")?;
    let instance = loaded.instance;
    if instance != 0 {
        info!(instance, socket = %loaded.admin.socket.display(), "one of several daemons on this node");
    }
    let metrics = Metrics::new(&loaded.node.node, instance);
    let (stop_admin, admin_stopped) = oneshot::channel::<()>();
    let listeners = admin::Listeners::bind(&loaded.admin.socket, loaded.admin.http).await?;
    let shutdown = async {
        // An error means that the sender is gone, which is the end too.
        let _ended = admin_stopped.await;
    };
    let admin = tokio::spawn(admin::serve(
        listeners,
        node.clone(),
        tasks::scrape(metrics.clone(), node.intent().clone(), node.sites().clone()),
        shutdown,
    ));

    let fence = open_fence(loaded.node.fence, instance);
    let (netlink, mut net_events) = Netlink::start_as(instance).context("opening netlink")?;
    let anycast: Vec<IpAddr> = whole.node.anycast.iter().flat_map(|v| v.addresses.clone()).collect();
    let stood = netlink.standing().await.context("looking for addresses of a former run")?;
    for (link, address) in netlink.sweep(&anycast).await.context("removing addresses of a former run")? {
        info!(link = link.0, %address, "removed an address that a former run left behind");
    }
    let fence = fence.and_then(|mut fence| {
        if let Some(fence) = fence.as_mut() {
            fence.clear().map_err(|e| e.to_string())?;
            fence.forward(&forward::Frames::all(&whole)).map_err(|e| e.to_string())?;
        }
        Ok(fence)
    });

    let (first_events, links) = tasks::first_links(&mut net_events).await?;
    let (wishes_tx, wishes) = mpsc::channel(ROUTE_QUEUE);
    let (bfd_tx, bfd) = mpsc::channel(BFD_UPDATE_QUEUE);
    let (bgp_events, bgp_events_rx) = mpsc::channel(announce::EVENT_QUEUE);
    let former = bgp::former_run(&loaded, bgp::still_forwarding(&anycast, &stood));
    let room_ports = |orders| announce::Ports { handle: room_port, orders, wishes, bfd, events: bgp_events };
    let (forward, decided) = forward::spawn(forward_port, links.clone(), instance)?;
    let mut room = bgp::Room::spawn(random_seed()?, &whole, links, former, room_ports)?;

    let (world_tx, world) = mpsc::channel(WORLD_QUEUE);
    let (work, work_rx) = mpsc::channel(WORK_QUEUE);
    let (events, events_rx) = mpsc::channel(EVENT_QUEUE);
    let world_tx = tasks::WorldSender::new(world_tx, wake.clone());
    let reporter =
        tokio::spawn(tasks::report(events_rx, bgp_events_rx, node.publisher(), metrics.clone(), forward.clone()));
    let worker = tokio::spawn(tasks::work(work_rx, netlink.clone(), world_tx.clone()));
    let (electors_tx, orders) = mpsc::channel(ELECTOR_QUEUE);
    let (stores, stores_rx) = watch::channel(electors::Stores::of(&loaded));
    let identity = electors::Identity::of(&loaded.node.node, instance)?;
    let allocator = allocator::Running::start(&loaded, &identity, node.intent())?;
    let (sites, sites_tx) = sites::Running::start(&whole, &forward, node.forward(), node.sites())?;
    let mut electors = tokio::spawn(electors::run(orders, identity, stores_rx, world_tx.clone()));
    let (routes, bfd) = (Some(wishes_tx), Some(bfd_tx));
    let ports =
        Ports { node: port, world, work, electors: electors_tx, events, routes, bfd, wake, metrics: metrics.clone() };
    let peer_port = loaded.peer_port;
    // What puts the fence on a link again has to end before it is taken away.
    let (fence, watched) = match fence.map(|fence| fence.map(guarded).transpose()) {
        Ok(Ok(Some((fence, guard)))) => (Ok(Some(fence)), Some(guard)),
        Ok(Ok(None)) => (Ok(None), None),
        Ok(Err(error)) | Err(error) => (Err(error), None),
    };
    let driver = spawn_driver(fence, peer_port, ports)?;
    let guard = watched.map(|watched| guard::Running::start(watched, world_tx.clone(), metrics.clone())).transpose()?;
    // Links first: a group that is told of its interface a moment too late would report that it has none.
    tasks::tell_links(first_events, &world_tx).await?;
    let sessions = Sessions::new(world_tx.clone(), *decided.borrow());
    if loaded.forwarding.is_none() {
        remove_forwarding(instance);
    }
    let (sender, room_of) = (room.sender.clone(), world_tx.clone());
    let (sessions_of, forward_of) = (sessions.clone(), forward.clone());
    let (kept, neighbors) = kept::Running::start(instance, metrics.clone(), node.neighbors().clone())?;
    let rooms = tasks::Rooms {
        world: room_of,
        sessions: sessions_of,
        forward: forward_of,
        bgp: sender,
        sites: sites_tx,
        neighbors,
    };
    tokio::spawn(intent::health(merged.health()));
    let merger = intent::Merger::new(merged, rooms);
    merger.begin().await?;
    tokio::spawn(sessions.begin(decided));
    tokio::spawn(intent::Sources::new(merger.clone(), known, node.intent().clone()).run(loaded.clone()));
    tokio::spawn(report::run(loaded.clone(), node.clone()));
    tokio::spawn(tasks::links(net_events, world_tx.clone(), room.sender.clone(), forward.clone()));
    tokio::spawn(tasks::synced(node.clone(), room.sender.clone()));
    tokio::spawn(neighbors::run(metrics.clone()));
    let name = loaded.node.node.clone();
    let told = tasks::Listeners { merger, stores };
    tokio::spawn(tasks::reload(path, loaded, told, metrics));
    systemd::notify_ready();
    let watched = node.clone();
    tokio::spawn(systemd::watchdog(move || admin::is_live(&watched)));

    let (ended, why) = until_stopped(&node, driver, &mut room).await;
    let how = if matches!(why, Why::Restart) { bgp::End::Restart } else { bgp::End::Stop };
    tokio::join!(room.end(how, &name, ROOM_GRACE), allocator.stop(ROOM_GRACE), sites.stop(ROOM_GRACE));
    // What was owned is closed by now, and may be released.
    if tokio::time::timeout(STOP_GRACE, &mut electors).await.is_err() {
        warn!("a lease could not be released in time; it runs out");
        electors.abort();
    }
    // In this order: the loop is over, so nobody installs addresses any more; what it asked for last is carried out; then the fence goes.
    drop(world_tx);
    if tokio::time::timeout(STOP_GRACE, worker).await.is_err() {
        warn!("the last address changes were not carried out in time; their lifetime ends within 10 s");
    }
    if let Some(guard) = guard {
        guard.stop(STOP_GRACE).await;
    }
    let fence = ended?;
    if fence.is_some() {
        drop(fence);
        // Forwarding stays: what arrives here goes on to where its connections are, whether a daemon runs or not.
        match dataplane::clean_fence(&dataplane::pin_root(instance), &mut dataplane::CleanReport::default()) {
            Ok(()) => info!("fence removed"),
            Err(error) => warn!(%error, "the fence could not be removed; `bascule clean` does it"),
        }
    }
    kept.stop(STOP_GRACE).await;
    let _told = tokio::time::timeout(STOP_GRACE, reporter).await;
    let _nobody_listens = stop_admin.send(());
    let _closed = tokio::time::timeout(STOP_GRACE, admin).await;
    info!("stopped");
    match why {
        Why::Told | Why::Restart => Ok(()),
        Why::RoomFailed(error) => Err(error),
    }
}

/// The fence as the policy wants it: `Ok(None)` when it is off, `Err` with the reason when it cannot be had.
fn open_fence(policy: FencePolicy, instance: u8) -> Result<Option<Fence>, String> {
    if policy == FencePolicy::Off {
        return Ok(None);
    }
    Fence::open(&FenceOptions::of(instance)).map(Some).map_err(|e| e.to_string())
}

/// With the guard that looks after it.
fn guarded(mut fence: Fence) -> Result<(Fence, FenceGuard), String> {
    let guard = fence.guard().map_err(|e| e.to_string())?;
    Ok((fence, guard))
}

/// A node without a data plane must not go on with that of a former run, whose tables nobody keeps any more.
fn remove_forwarding(instance: u8) {
    match dataplane::clean_forward(&dataplane::pin_root(instance)) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => {
            info!(links = removed.links, filters = removed.filters, "removed the data plane of a former run")
        }
        // Nothing of it can stand where nothing of it can be looked for.
        Err(error) => tracing::debug!(%error, "no look for a data plane of a former run"),
    }
}

type DriverThread = oneshot::Receiver<Result<Option<Fence>>>;

/// Starts the loop on its own thread, real-time where permitted.
fn spawn_driver(fence: Result<Option<Fence>, String>, peer_port: u16, ports: Ports) -> Result<DriverThread> {
    let (done, ended) = oneshot::channel();
    let (opened, opened_rx) = std::sync::mpsc::sync_channel(1);
    let seed = random_seed()?;
    std::thread::Builder::new().name("bascule-loop".to_owned()).spawn(move || {
        match rt::become_realtime(RT_PRIORITY) {
            Ok(sched) => info!(?sched, "event loop runs"),
            Err(error) => {
                warn!(%error, "event loop runs without real-time scheduling: adverts may be late on a busy node")
            }
        }
        match Driver::new(seed, fence, peer_port, ports) {
            Ok(driver) => {
                let _starter_waits = opened.send(Ok(()));
                let _app_waits = done.send(Ok(driver.run()));
            }
            Err(error) => {
                let _starter_waits = opened.send(Err(anyhow!(error)));
            }
        }
    })?;
    opened_rx.recv().context("the event loop ended before it began")??;
    Ok(ended)
}

/// Why the process ends.
enum Why {
    /// By a signal, or by the loop itself.
    Told,
    /// `bascule restart`.
    Restart,
    /// The BGP room ended by itself: a daemon without it would look well and announce nothing.
    RoomFailed(anyhow::Error),
}

/// Waits for SIGTERM, SIGINT or a planned restart, then for the loop to give everything away; also ends when the loop or the BGP room
/// ends by itself.
async fn until_stopped(
    node: &NodeHandle,
    mut driver: DriverThread,
    room: &mut bgp::Room,
) -> (Result<Option<Fence>>, Why) {
    let panicked = |ended: Result<Result<Option<Fence>>, oneshot::error::RecvError>| {
        ended.context("the event loop panicked").and_then(|ended| ended)
    };
    let signals = signal(SignalKind::terminate()).and_then(|t| Ok((t, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => return (Err(error.into()), Why::Told),
    };
    let why = tokio::select! {
        ended = &mut driver => return (panicked(ended), Why::Told),
        _ = terminate.recv() => { info!("SIGTERM: giving everything away"); Why::Told }
        _ = interrupt.recv() => { info!("SIGINT: giving everything away"); Why::Told }
        () = node.bgp().restart_asked() => { info!("planned restart: giving owned addresses away"); Why::Restart }
        error = room.failed() => { error!(%error, "giving everything away"); Why::RoomFailed(error) }
    };
    systemd::notify_stopping();
    let command = if matches!(why, Why::Restart) { Command::Restart } else { Command::Stop };
    if let Err(error) = node.command(command).await {
        error!(%error, "the event loop does not take the stop");
    }
    // The longest drains of groups and of routes follow one another; each was validated to at most a minute.
    let longest = Duration::from_secs(120) + STOP_GRACE;
    let ended = match tokio::time::timeout(longest, driver).await {
        Ok(ended) => panicked(ended),
        Err(_) => Err(anyhow!("the event loop did not give everything away within {longest:?}")),
    };
    (ended, why)
}

/// Nonces must not be guessed: from the kernel's generator, never from the time.
fn random_seed() -> Result<u64> {
    let mut bytes = [0u8; 8];
    let mut file = std::fs::File::open("/dev/urandom").context("opening /dev/urandom")?;
    std::io::Read::read_exact(&mut file, &mut bytes).context("reading /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}
