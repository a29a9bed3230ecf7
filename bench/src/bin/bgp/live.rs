//! (d) 10,000 VIPs to four neighbors through the running daemon: CPU of the thread that speaks BGP, kernel and sockets included, from a
//! gate that decides about all of them and from sessions that come up. The neighbors decode everything and must hold exactly the table.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bascule_bgp::wire::{DecodeContext, Family as Afi, Update};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::scripted::{Identity, ScriptedPeer, UPDATE};
use bascule_lab::router::{Family, Routed};
use bascule_lab::{Lab, Report, Stamp, wait_for};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::gate::{GATE, GateServer, NODE, PATIENCE, ROUTER};

const PEERS: u8 = 4;
/// Addresses of a VIP.
const EACH: usize = 250;
/// Bounds of the issue.
const FULL_TABLE_MS: f64 = 200.0;
const WITHDRAW_ALL_MS: f64 = 100.0;

/// A neighbor that keeps what it is told, over any number of sessions.
struct Holder {
    held: Arc<AtomicUsize>,
    sessions: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Holder {
    fn start(listener: ScriptedPeer, number: u8) -> Self {
        let (held, sessions, stop) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (into, count, end) = (Arc::clone(&held), Arc::clone(&sessions), Arc::clone(&stop));
        let thread = Some(std::thread::spawn(move || hold(&listener, number, &into, &count, &end)));
        Self { held, sessions, stop, thread }
    }

    fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => bail!("a neighbor panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn hold(
    listener: &ScriptedPeer,
    number: u8,
    held: &AtomicUsize,
    sessions: &AtomicUsize,
    stop: &AtomicBool,
) -> Result<()> {
    let context =
        DecodeContext { four_octet_as: true, families: Afi::ALL.into_iter().collect(), ..DecodeContext::default() };
    let identity = Identity { asn: ROUTER, id: Ipv4Addr::new(10, 0, 0, 100 + number), four_octet: true, hold_time: 0 };
    let goes_on = || !stop.load(Ordering::Relaxed);
    while goes_on() {
        let Ok((_, mut session)) = listener.accept(Duration::from_millis(100)) else { continue };
        session.establish(identity, PATIENCE)?;
        let mut table: BTreeSet<IpNet> = BTreeSet::new();
        held.store(0, Ordering::Release);
        sessions.fetch_add(1, Ordering::Release);
        while goes_on() {
            match session.hear(Duration::from_millis(100)) {
                Ok(Some(heard)) if heard.kind == UPDATE => {
                    let update = Update::decode(&heard.body, &context);
                    ensure!(update.errors.is_empty(), "an UPDATE with errors: {:?}", update.errors);
                    for prefix in update.withdrawn() {
                        ensure!(table.remove(&prefix), "{prefix} was withdrawn and never announced");
                    }
                    table.extend(update.announced());
                    held.store(table.len(), Ordering::Release);
                }
                Ok(None) => break,
                // A NOTIFICATION, which the end of the connection follows, or silence.
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Half of them IPv4, half IPv6.
fn addresses(vips: usize) -> Result<Vec<IpAddr>> {
    let each = u32::try_from(vips / 2)?;
    let v4 = (1..=each).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a09_0000 + n)));
    let v6 = (1..=each).map(|n| IpAddr::V6(Ipv6Addr::from_bits((0xfd09_u128 << 112) + u128::from(n))));
    Ok(v4.chain(v6).collect())
}

/// The threads of a daemon, by their names.
struct Threads {
    speaker: PathBuf,
    driver: PathBuf,
}

impl Threads {
    fn of(daemon: &Bascule) -> Result<Self> {
        let tasks = format!("/proc/{}/task", daemon.process.pid());
        let named = |name: &str| -> Result<PathBuf> {
            for task in std::fs::read_dir(&tasks)? {
                let task = task?.path();
                if std::fs::read_to_string(task.join("comm"))?.trim() == name {
                    return Ok(task.join("schedstat"));
                }
            }
            bail!("the daemon has no thread {name}")
        };
        Ok(Self { speaker: named("bascule-bgp")?, driver: named("bascule-loop")? })
    }

    /// CPU time of the speaker's thread and of the driver's, ms: the first field of schedstat is in nanoseconds.
    fn spent(&self) -> Result<(f64, f64)> {
        let read = |file: &PathBuf| -> Result<f64> {
            let text = std::fs::read_to_string(file)?;
            let ns: f64 = text.split_whitespace().next().context("schedstat")?.parse()?;
            Ok(ns / 1e6)
        };
        Ok((read(&self.speaker)?, read(&self.driver)?))
    }
}

fn resident_mb(daemon: &Bascule) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// The slowest of some runs of one phase.
#[derive(Default)]
struct Phase {
    speaker: f64,
    driver: f64,
    wall: f64,
}

impl Phase {
    fn time(&mut self, threads: &Threads, work: impl FnOnce() -> Result<Stamp>) -> Result<()> {
        let before = threads.spent()?;
        let began = work()?;
        self.wall = self.wall.max(Stamp::now().since(began).as_secs_f64() * 1e3);
        let after = threads.spent()?;
        self.speaker = self.speaker.max(after.0 - before.0);
        self.driver = self.driver.max(after.1 - before.1);
        Ok(())
    }
}

pub(crate) fn measure(report: &mut Report, vips: usize, runs: usize) -> Result<()> {
    let lab = Lab::new("live")?;
    let net = Routed::build(&lab, 1, PEERS)?;
    let mut holders = Vec::new();
    let mut neighbors = Vec::new();
    for number in 0..PEERS {
        let link = net.link(0, number.into());
        holders.push(Holder::start(ScriptedPeer::listen(&net.routers[usize::from(number)])?, number));
        neighbors.push(json!({
            "name": format!("r{number}"), "address": link.router_address(Family::Ipv4), "remoteAs": ROUTER, "connectRetry": "1s",
            "families": ["ipv4", "ipv6"], "nextHop6": link.node_address(Family::Ipv6),
        }));
    }
    // A list has at most 256 items.
    let vip = |(number, some): (usize, &[IpAddr])| json!({ "name": format!("v{number}"), "addresses": some, "announce": "bgp", "scope": "all", "gates": ["app"] });
    let virtual_ips: Vec<Value> = addresses(vips)?.chunks(EACH).enumerate().map(vip).collect();
    let gate = GateServer::start(&net.nodes[0])?;
    let daemon = Bascule::start(
        &lab,
        &net.nodes[0],
        &json!({
            "node": "n1", "fence": "off",
            "bgp": { "asn": NODE, "routerId": "10.0.0.1", "neighbors": neighbors },
            "gates": [{
                "name": "app", "http": { "url": format!("http://127.0.0.1:{GATE}/") },
                "interval": "100ms", "timeout": "100ms", "rise": 1, "fall": 1,
            }],
            "vips": virtual_ips,
        }),
    )?;
    let all_hold = |count: usize| {
        let what = format!("four neighbors with {count} prefixes");
        let there = || holders.iter().all(|h| h.held.load(Ordering::Acquire) == count).then_some(());
        wait_for(PATIENCE, &what, there).with_context(|| {
            let held: Vec<_> = holders.iter().map(|h| h.held.load(Ordering::Acquire)).collect();
            format!("{held:?}\n{}", daemon.process.tail())
        })
    };
    all_hold(vips)?;
    let threads = Threads::of(&daemon)?;
    let (mut withdraw, mut announce, mut full) = (Phase::default(), Phase::default(), Phase::default());
    for _ in 0..runs.max(1) {
        withdraw.time(&threads, || gate.turn(false).and_then(|at| all_hold(0).map(|()| at)))?;
        announce.time(&threads, || gate.turn(true).and_then(|at| all_hold(vips).map(|()| at)))?;
        full.time(&threads, || {
            let began = Stamp::now();
            let before: Vec<_> = holders.iter().map(|h| h.sessions.load(Ordering::Acquire)).collect();
            for number in 0..PEERS {
                daemon.ctl(&["bgp", "reset", &format!("r{number}")])?;
            }
            wait_for(PATIENCE, "four new sessions", || {
                let newer = |(h, before): (&Holder, &usize)| h.sessions.load(Ordering::Acquire) > *before;
                holders.iter().zip(&before).all(newer).then_some(())
            })?;
            all_hold(vips).map(|()| began)
        })?;
    }
    let scene = format!("{vips} VIPs, {PEERS} peers, live");
    report.at_most(&scene, "sessions come up: full table", full.speaker, "ms CPU", FULL_TABLE_MS, runs);
    report.at_most(&scene, "announce-all by a gate", announce.speaker, "ms CPU", FULL_TABLE_MS, runs);
    report.at_most(&scene, "withdraw-all by a gate", withdraw.speaker, "ms CPU", WITHDRAW_ALL_MS, runs);
    for (metric, phase) in [("full table", full), ("announce-all", announce), ("withdraw-all", withdraw)] {
        report.note(&scene, &format!("{metric}: real-time thread"), phase.driver, "ms CPU", runs);
        report.note(&scene, &format!("{metric}: until the last neighbor knows"), phase.wall, "ms", runs);
    }
    report.note(&scene, "RSS of the daemon", resident_mb(&daemon)?, "MB", 1);
    holders.into_iter().try_for_each(Holder::finish)
}
