//! Clients that must not notice a fault between two sites, and tables that it must not change: audited flows that live in both sites, new
//! connections one after the other, and what every node counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bascule_lab::audit::{AuditReport, AuditServer, Flows, Load};
use bascule_lab::{Netns, Stamp, sleep_until, wait_for};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::pair::{PATIENCE, VIP, knock, serve};

/// What audited flows connect to (the service `flows`), and where its endpoints listen.
const FLOWS: u16 = 7002;
const AUDIT: u16 = 7102;
/// Flows that live through all of it, and how often each says something.
const ALIVE: usize = 40;
const EVERY: Duration = Duration::from_millis(100);
/// From one new connection to the next.
const PACE: Duration = Duration::from_millis(20);
/// Half of what makes a path down (five intervals of 100 ms): a machine that stood still for so long may have moved shares by itself.
const STALL: Duration = Duration::from_millis(250);
/// Services of several sites: those of [`crate::pair::file`], and that of the audited flows.
pub const SERVICES: [&str; 3] = ["web", "shop", "flows"];

/// A node's file with the service of the audited flows.
///
/// # Panics
/// When it is none of [`crate::pair::file`].
pub fn with_flows(mut file: Value) -> Value {
    let mut flows = file["services"][1].clone();
    (flows["name"], flows["number"], flows["port"]) = (json!("flows"), json!(9), json!(FLOWS));
    for endpoint in flows["endpoints"].as_array_mut().into_iter().flatten() {
        endpoint["port"] = json!(AUDIT);
    }
    file["services"].as_array_mut().expect("a list").push(flows);
    file
}

/// New connections to `shop`, one after the other, until they are to end.
struct Newcomers {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    /// Those that came to nothing.
    lost: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Newcomers {
    fn start(client: &Netns) -> Self {
        let (stop, opened, lost) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (told, counts, losses) = (Arc::clone(&stop), Arc::clone(&opened), Arc::clone(&lost));
        let thread = client.spawn("newcomers", move || {
            while !told.load(Ordering::Relaxed) {
                let next = Stamp::now() + PACE;
                let number = counts.load(Ordering::Relaxed);
                match knock() {
                    Ok(_who) => drop(counts.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        let text = format!("new connection {number}: {error:#}");
                        losses.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    }
                }
                sleep_until(next);
            }
        });
        Self { stop, opened, lost, thread: Some(thread) }
    }

    fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for some more, and for none that is lost.
    fn more(&self, after: &str) -> Result<()> {
        let wanted = self.opened.load(Ordering::Relaxed) + 25;
        let more = || self.opened.load(Ordering::Relaxed) >= wanted;
        wait_for(PATIENCE, "new connections", || (more() || !self.lost().is_empty()).then_some(()))
            .with_context(|| format!("after {after}"))?;
        self.none_lost(after)
    }

    fn none_lost(&self, after: &str) -> Result<()> {
        let lost = self.lost();
        ensure!(lost.is_empty(), "lost after {after}: {lost:?}");
        Ok(())
    }

    /// How many there were; the error is what was lost of them.
    fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        thread.join().map_err(|_| anyhow!("the client panicked"))?;
        self.none_lost("all")?;
        Ok(self.opened.load(Ordering::Relaxed))
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// All clients. What goes first is dropped first.
pub struct Traffic {
    newcomers: Newcomers,
    /// The flows.
    pub flows: Flows,
    _servers: Vec<AuditServer>,
}

impl Traffic {
    /// Servers at every node, and clients that come in at node `by`. Both sites have some of the flows; `away`: nodes of the other one.
    ///
    /// # Errors
    /// When one of the clients is not answered, or all flows live in one site.
    pub fn start(cluster: &Cluster, by: usize, away: &[u32]) -> Result<Self> {
        let mut servers = Vec::new();
        for (n, host) in (1..).zip(&cluster.hosts) {
            serve(&host.netns, u8::try_from(n)?)?;
            servers.push(AuditServer::start(&host.netns, n, AUDIT)?);
        }
        cluster.client.tool("ip", &["route", "add", VIP, "via", &format!("10.9.0.{by}")])?;
        let target = format!("{VIP}:{FLOWS}").parse()?;
        let flows =
            Flows::start(&cluster.client, Load { target, paced: ALIVE, every: EVERY, full_speed: 0, window: 1 })?;
        let (open, look) = (flows.wait_open(PATIENCE)?, flows.look()?);
        let there: usize = away.iter().map(|server| look.on(*server)).sum();
        ensure!(open == ALIVE && there > 0 && there < ALIVE, "{open} open, {there} at {away:?}: {look:?}");
        let newcomers = Newcomers::start(&cluster.client);
        newcomers.more("the start")?;
        Ok(Self { newcomers, flows, _servers: servers })
    }

    /// Every flow has said something twice more and been answered, and new ones are.
    ///
    /// # Errors
    /// When one was lost.
    pub fn lives(&self, after: &str) -> Result<()> {
        let wanted = self.flows.least() + 2;
        wait_for(PATIENCE, "two turns of every flow", || (self.flows.least() >= wanted).then_some(()))
            .with_context(|| format!("after {after}: {:?}", self.flows.look()))?;
        ensure!(self.flows.broken() == 0, "after {after}: {}", self.flows.look()?.describe(&[]));
        self.newcomers.more(after)
    }

    /// What became of all of it.
    ///
    /// # Errors
    /// With those that were lost.
    pub fn end(self) -> Result<AuditReport> {
        let opened = self.newcomers.end()?;
        let audit = self.flows.finish();
        println!("{opened} new connections; {}; the client was late by {:?} at most", audit.describe(&[]), audit.late);
        ensure!(audit.broken(&[]).is_empty(), "{}", audit.describe(&[]));
        Ok(audit)
    }
}

/// Tables of every service so far on some nodes, by their own count.
pub type Tables = BTreeMap<String, String>;

/// Counts of these nodes, which run.
///
/// # Errors
/// When one does not tell.
pub fn tables(cluster: &Cluster, nodes: &[usize]) -> Result<Tables> {
    let mut counted = BTreeMap::new();
    for n in nodes {
        let daemon = cluster.hosts[n - 1].daemon.as_ref().with_context(|| format!("n{n} does not run"))?;
        let (_, page) = daemon.get("/metrics")?;
        let lines = page.lines().filter(|line| line.starts_with("bascule_sites_tables_total{"));
        let of = lines.filter_map(|line| line.rsplit_once(' '));
        counted.extend(of.map(|(of, count)| (format!("n{n} {of}"), count.to_owned())));
    }
    ensure!(counted.len() == nodes.len() * SERVICES.len(), "{counted:?}");
    Ok(counted)
}

/// Waits for tables that stay, and gives them: a slow start brings one a second, and is over when none has come for three.
///
/// # Errors
/// When there is always another one.
pub fn settled(cluster: &Cluster, nodes: &[usize]) -> Result<Tables> {
    let mut last = (tables(cluster, nodes)?, Stamp::now());
    wait_for(PATIENCE, "tables that stay", || {
        let now = tables(cluster, nodes).ok()?;
        if now != last.0 {
            last = (now, Stamp::now());
        }
        (Stamp::now().since(last.1) > Duration::from_secs(3)).then_some(())
    })?;
    Ok(last.0)
}

/// Tables that are other ones by now.
pub fn moves(before: &Tables, now: &Tables) -> Vec<String> {
    let moved = now.iter().filter(|(of, count)| before.get(*of) != Some(*count));
    moved.map(|(of, count)| format!("{of}: {:?}, then {count}", before.get(of))).collect()
}

/// The machine did its work in time. One that stood still may have moved shares by itself: then what moved is told and not judged.
pub fn on_time(audit: &AuditReport) -> bool {
    audit.late < STALL
}

/// No table since.
///
/// # Errors
/// With those that are other ones, if the machine was [`on_time`].
pub fn unmoved(before: &Tables, now: &Tables, audit: &AuditReport) -> Result<()> {
    ensure!(before.len() == now.len(), "{before:?}, {now:?}");
    let moves = moves(before, now);
    if !on_time(audit) {
        println!("the machine stood still for {:?}: moves are not judged: {moves:?}", audit.late);
        return Ok(());
    }
    ensure!(moves.is_empty(), "{moves:?}, before {before:?}");
    Ok(())
}
