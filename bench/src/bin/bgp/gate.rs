//! (b) A health gate fails: until the route is out of the router's kernel. (c) It is ready again: until the UPDATE is on the wire.
//!
//! The gate asks this program, and a single answer decides it. Times count from the moment just before the deciding answer is written,
//! so they hold the whole of the decision and all that follows; the daemon's own account is not asked.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::scripted::{Identity, ScriptedPeer, ScriptedSession, UPDATE};
use bascule_lab::router::{Change, Config, Family, Kind, Neighbor, RouteWatch, Routed, host};
use bascule_lab::{Lab, Netns, Report, Samples, Stamp, fifo, sleep_until, wait_for};
use serde_json::json;

/// From the decision to the route's end in the router's kernel, ms.
const WITHDRAWN_MS: f64 = 20.0;
/// From the decision to the UPDATE on the wire, ms.
const WIRE_MS: f64 = 10.0;
/// A session, a route, a probe of the gate: all come within this or not at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where the gate asks.
pub(crate) const GATE: u16 = 8080;
pub(crate) const NODE: u32 = 65010;
pub(crate) const ROUTER: u32 = 65001;

/// Answers the gate's probes, and remembers when it first answered otherwise than before.
pub(crate) struct GateServer {
    healthy: Arc<AtomicBool>,
    turns: Arc<Mutex<Vec<(bool, Stamp)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GateServer {
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, GATE))).context("the gate's port")?;
        listener.set_nonblocking(true).context("the gate's port")?;
        let (healthy, turns, stop) =
            (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (say, into, end) = (Arc::clone(&healthy), Arc::clone(&turns), Arc::clone(&stop));
        let thread = Some(netns.spawn("gate", move || {
            let mut last = true;
            while !end.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A probe that goes away is the daemon's loss, not this program's.
                    Ok((stream, _)) => drop(answer(stream, &say, &mut last, &into)),
                    Err(_) => sleep_until(Stamp::now() + Duration::from_micros(500)),
                }
            }
        }));
        Ok(Self { healthy, turns, stop, thread })
    }

    /// From now on the gate hears this. Gives the moment just before the first such answer.
    pub(crate) fn turn(&self, healthy: bool) -> Result<Stamp> {
        let before = self.turns.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.healthy.store(healthy, Ordering::Release);
        let turned = wait_for(PATIENCE, "a probe of the gate", || {
            self.turns.lock().unwrap_or_else(PoisonError::into_inner).get(before).copied()
        })?;
        Ok(turned.1)
    }
}

impl Drop for GateServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    mut stream: std::net::TcpStream,
    healthy: &AtomicBool,
    last: &mut bool,
    turns: &Mutex<Vec<(bool, Stamp)>>,
) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut request = [0; 4096];
    if stream.read(&mut request)? == 0 {
        return Ok(());
    }
    let now = healthy.load(Ordering::Acquire);
    let status = if now { "200 OK" } else { "503 Service Unavailable" };
    if now != *last {
        *last = now;
        turns.lock().unwrap_or_else(PoisonError::into_inner).push((now, Stamp::now()));
    }
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// A second neighbour that only notes when UPDATEs arrive, and whether they announce.
struct Wire {
    updates: Arc<Mutex<Vec<(bool, Stamp)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    fn start(mut session: ScriptedSession) -> Self {
        let (updates, stop) = (Arc::<Mutex<Vec<(bool, Stamp)>>>::default(), Arc::<AtomicBool>::default());
        let (into, end) = (Arc::clone(&updates), Arc::clone(&stop));
        let thread = Some(std::thread::spawn(move || {
            fifo();
            while !end.load(Ordering::Relaxed) {
                match session.hear(Duration::from_millis(100)) {
                    Ok(Some(heard)) if heard.kind == UPDATE => {
                        let at = Stamp::now();
                        // RFC 4271 4.3: the length of withdrawn routes, these, the length of attributes. With neither: End-of-RIB.
                        let field = |from: usize| heard.body.get(from..from + 2).is_some_and(|length| length != [0, 0]);
                        if field(0) || field(2) {
                            into.lock().unwrap_or_else(PoisonError::into_inner).push((!field(0), at));
                        }
                    }
                    Ok(None) => return,
                    Ok(Some(_)) | Err(_) => {}
                }
            }
        }));
        Self { updates, stop, thread }
    }

    /// The first UPDATE since then that announces, or that withdraws.
    fn wait(&self, announces: bool, since: Stamp) -> Result<Stamp> {
        let what = if announces { "an UPDATE that announces" } else { "an UPDATE that withdraws" };
        Ok(wait_for(PATIENCE, what, || {
            let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
            updates.iter().find(|(kind, at)| *kind == announces && *at > since).map(|(_, at)| *at)
        })?)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `samples` failures and recoveries of a gate, with a router of this kind.
pub(crate) fn measure(report: &mut Report, router: Kind, samples: usize) -> Result<()> {
    let lab = Lab::new("gate")?;
    let net = Routed::build(&lab, 1, 2)?;
    let vip: IpAddr = "10.9.0.100".parse()?;
    let (real, scripted) = (net.link(0, 0), net.link(0, 1));
    let (near, far) = (real.node_address(Family::Ipv4), real.router_address(Family::Ipv4));
    let mut neighbor = Neighbor::new(far, near, NODE);
    neighbor.passive = true;
    let config = Config::new(ROUTER, Ipv4Addr::new(10, 0, 0, 101)).neighbor(neighbor);
    let foreign = router.start(&lab, &net.routers[0], &config)?;
    let listener = ScriptedPeer::listen(&net.routers[1])?;
    let gate = GateServer::start(&net.nodes[0])?;
    let neighbor = |name: &str, address: IpAddr| json!({ "name": name, "address": address, "remoteAs": ROUTER, "connectRetry": "1s" });
    let daemon = json!({
        "node": "n1",
        "bgp": { "asn": NODE, "routerId": "10.0.0.1", "neighbors": [
            neighbor("real", far), neighbor("scripted", scripted.router_address(Family::Ipv4)),
        ]},
        "gates": [{
            "name": "app", "http": { "url": format!("http://127.0.0.1:{GATE}/") },
            "interval": "100ms", "timeout": "100ms", "rise": 1, "fall": 1,
        }],
        "vips": [{ "name": "web", "addresses": [vip], "announce": "bgp", "scope": "all", "gates": ["app"] }],
    });
    let watch = RouteWatch::start(&net.routers[0])?;
    let daemon = Bascule::start(&lab, &net.nodes[0], &daemon)?;
    let accepted = listener.accept(PATIENCE).with_context(|| daemon.process.tail())?;
    let mut session = accepted.1;
    let identity = Identity { asn: ROUTER, id: Ipv4Addr::new(10, 0, 0, 102), four_octet: true, hold_time: 0 };
    session.establish(identity, PATIENCE).with_context(|| daemon.process.tail())?;
    let wire = Wire::start(session);
    let prefix = host(vip);
    watch.wait(prefix, Change::Set, Stamp(0), PATIENCE).with_context(|| foreign.log())?;
    wire.wait(true, Stamp(0))?;
    let ms = |later: Stamp, earlier: Stamp| later.since(earlier).as_secs_f64() * 1e3;
    let (mut gone, mut pulled, mut sent, mut back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..samples {
        let at = gate.turn(false)?;
        pulled.push(ms(wire.wait(false, at)?, at));
        gone.push(ms(watch.wait(prefix, Change::Gone, at, PATIENCE)?.at, at));
        let at = gate.turn(true)?;
        sent.push(ms(wire.wait(true, at)?, at));
        back.push(ms(watch.wait(prefix, Change::Set, at, PATIENCE)?.at, at));
    }
    anyhow::ensure!(!watch.overrun(), "the kernel dropped notices of routes");
    let scene = format!("health gate, router {}", router.name());
    let mut row = |metric: &str, values: Vec<f64>, limit: Option<f64>| {
        let (runs, values) = (values.len(), Samples(values));
        report.note(&scene, &format!("{metric}, median"), values.median().unwrap_or(f64::MAX), "ms", runs);
        let (word, worst) = match values.p99() {
            Some(p99) => ("p99", p99),
            None => ("maximum", values.max().unwrap_or(f64::MAX)),
        };
        match limit {
            Some(limit) => report.at_most(&scene, &format!("{metric}, {word}"), worst, "ms", limit, runs),
            None => report.note(&scene, &format!("{metric}, {word}"), worst, "ms", runs),
        }
    };
    row("gate fails to withdrawal on the wire", pulled, Some(WITHDRAWN_MS));
    // FRR lets what it has heard wait for 50 ms before it works on it (its bgpd's work queue): no speaker is faster with it.
    let limit = (router != Kind::Frr).then_some(WITHDRAWN_MS);
    row("gate fails to route withdrawn in the kernel", gone, limit);
    row("gate ready to UPDATE on the wire", sent, Some(WIRE_MS));
    row("gate ready to route in the kernel", back, None);
    Ok(())
}
