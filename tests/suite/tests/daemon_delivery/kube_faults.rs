//! An API server that does what sick ones do, while flows live and Services come: addresses, owners and flows stay what they are.
//!
//! In a test each fault lasts seconds, in the drill `api-faults` as long as issue 5 says (`BASCULE_API_FAULTS` names the file of its report).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bascule_lab::apiserver::{Front, Mood};
use bascule_lab::{Report, Stamp, Wall, sleep_until, wait_for};
use serde_json::{Value, json};

use crate::kube::{Kube, START, pods, service};
use crate::kube_allocator::{API, SERVICES, Scene};
use crate::kube_history::wrongs;
use crate::talk::Talk;
use crate::yard::{PORT, Pod};

/// Flows that live through all of it.
const FLOWS: u8 = 3;
/// Bytes of an exchange each way, and the time from one to the next.
const BYTES: u64 = 1_000;
const PACE: Duration = Duration::from_millis(50);
/// Three adverts and a bit: so late a thread that wants to run may have cost an election.
const STALL: Duration = Duration::from_millis(250);
/// How far the wall clocks of all nodes jump, there and back (issue 5, "Shows" 4).
const JUMP_S: i64 = 3_600;
/// In the path of a write of an address.
const GIVEN: &str = "/namespaces/shop/services/";
/// Services that come during each fault.
const BURST: usize = 4;

/// How long each fault lasts.
struct Lengths {
    fails: Duration,
    frozen: Duration,
    conflicts: Duration,
    report: Option<PathBuf>,
}

impl Lengths {
    fn of_environment() -> Self {
        let report = std::env::var_os("BASCULE_API_FAULTS").map(PathBuf::from);
        let seconds = |short, long| Duration::from_secs(if report.is_some() { long } else { short });
        Self { fails: seconds(3, 300), frozen: seconds(4, 60), conflicts: seconds(2, 30), report }
    }
}

/// What became of a flow: exchanges, and how late its thread was at worst.
type Lived = (u64, Duration);

/// A connection that says something all the time. It fails when its server changes or no byte comes for some seconds.
struct Flow {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Lived>>>,
}

impl Flow {
    fn start(kube: &Kube, vip: IpAddr) -> Result<Self> {
        let mut talk = Talk::open(&kube.yard.client, vip, PORT)?;
        let first = talk.exchange(BYTES, BYTES)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut exchanges, mut late) = (0, Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let number = talk.exchange(BYTES, BYTES).with_context(|| format!("{vip}, {exchanges} exchanges"))?;
                ensure!(number == first, "{vip}: pod {first} became {number}");
                exchanges += 1;
                let next = Stamp::now() + PACE;
                sleep_until(next);
                late = late.max(Stamp::now().since(next));
            }
            Ok((exchanges, late))
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    fn end(mut self) -> Result<Lived> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        thread.join().map_err(|_| anyhow!("a flow panicked"))?
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Changes of role of all shards, as every node has counted them.
fn transitions(kube: &Kube) -> Result<BTreeMap<String, String>> {
    let mut counted = BTreeMap::new();
    for n in 1..=3 {
        let (_, page) = kube.yard.daemon(n).get("/metrics")?;
        let lines = page.lines().filter(|line| line.starts_with("bascule_vip_transitions_total{"));
        counted.extend(
            lines.filter_map(|line| line.rsplit_once(' ')).map(|(of, n_of)| (format!("n{n} {of}"), n_of.to_owned())),
        );
    }
    Ok(counted)
}

/// The scene, its front and what has come of it so far.
struct Run<'a> {
    scene: &'a Scene,
    front: &'a Front,
    pod: &'a Pod,
    made: usize,
    report: Report,
}

impl Run<'_> {
    /// A few Services more, which nobody may tell the allocator of at once.
    fn burst(&mut self) -> Result<Vec<String>> {
        let names: Vec<String> = (self.made..self.made + BURST).map(|n| format!("f-{n:02}")).collect();
        self.made += BURST;
        for name in &names {
            self.scene.service(name, "edge", None, json!({}))?;
            self.scene.slice(name, self.pod, 1)?;
        }
        Ok(names)
    }

    fn served(&mut self, fault: &str, since: Stamp, names: &[String]) -> Result<()> {
        let addresses: Vec<IpAddr> = names.iter().map(|name| self.scene.address(name)).collect::<Result<_>>()?;
        let took = Stamp::now().since(since);
        println!("{fault}: {BURST} Services that came meanwhile have addresses {took:?} after its end, polled");
        self.report.note(fault, "its end to addresses of what came meanwhile", took.as_secs_f64(), "s", 1);
        self.scene.serves(addresses[0], self.pod)
    }

    /// The fault for so long, with Services that come in it.
    fn fault(&mut self, name: &str, mood: Mood, length: Duration) -> Result<()> {
        self.front.set(mood);
        let until = Stamp::now() + length;
        let names = self.burst()?;
        sleep_until(until);
        self.front.set(Mood::Well);
        self.served(name, Stamp::now(), &names)
    }

    /// Who holds the Lease of the allocators, and what his wall clock said last.
    fn lease(&self) -> Option<(String, String)> {
        let lease = "/apis/coordination.k8s.io/v1/namespaces/bascule-system/leases/bascule-allocator";
        let (_, lease) = self.scene.api.request("GET", lease, None).ok()?;
        let text = |field: &str| lease["spec"][field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Some((text("holderIdentity")?, text("renewTime")?))
    }

    fn holder(&self) -> Option<String> {
        Some(self.lease()?.0)
    }

    /// The wall clocks of all nodes jump ahead and back. Who gives goes on giving, and his Lease says that his clock did jump.
    fn clocks(&mut self, wall: &Wall) -> Result<()> {
        let (holder, before) = self.lease().context("a holder")?;
        for (name, ahead) in [("wall clocks an hour ahead", JUMP_S), ("wall clocks an hour back", 0)] {
            wall.set(ahead)?;
            let names = self.burst()?;
            let since = Stamp::now();
            let mut last = self.lease().context("a holder")?.1;
            wait_for(START, "a Lease by that clock", || {
                let (_, now) = self.lease()?;
                // A renewal is later than the one before, if only by a microsecond: what a clock that went back leaves of two seconds.
                let back = now != last && second(&now) == second(&last);
                let jumped = if ahead == 0 { back } else { jumped(&now, &before)? };
                last = now;
                jumped.then_some(())
            })?;
            self.served(name, since, &names)?;
            ensure!(self.holder().as_ref() == Some(&holder), "{name}: {:?} gives and not {holder}", self.holder());
        }
        Ok(())
    }

    /// The writes of the one that gives are held until another one gives, and then come through: both have decided for the same Services.
    fn two_at_once(&mut self) -> Result<()> {
        let leader = self.scene.leader()?;
        let before = self.holder().context("a holder")?;
        let address = IpAddr::from([10, 9, 0, leader]);
        self.front.set_for(address, Some(Mood::WritesFrozen));
        let mut names = self.burst()?;
        wait_for(START, "a write of an address to be held", || (self.front.held(GIVEN) > 0).then_some(()))?;
        wait_for(START, "another one to hold the Lease", || self.holder().filter(|holder| *holder != before))?;
        // The one that came gives; the one that went learns of these as well.
        names.extend(self.burst()?);
        for name in &names {
            let _given = self.scene.address(name)?;
        }
        let held = self.front.held(GIVEN);
        self.front.set_for(address, None);
        let since = Stamp::now();
        wait_for(START, "what was held to come through", || (self.front.held("") == 0).then_some(()))?;
        println!("two at once: {held} writes of the one that was parted came through late");
        self.report.at_least(
            "two allocators at once",
            "writes of the first that came late",
            count(held),
            "writes",
            1.0,
            1,
        );
        self.served("two allocators at once", since, &names)
    }
}

/// A time as the API writes it (2026-01-31T23:59:59.000000Z), without what is finer than seconds.
fn second(time: &str) -> Option<&str> {
    time.get(..19)
}

/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// Minutes since midnight.
fn minutes(time: &str) -> Option<u32> {
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<u32>().ok();
    Some(number(11..13)? * 60 + number(14..16)?)
}

/// Is this clock 50 minutes ahead of the other one, and less than half a day? Also over midnight.
fn jumped(now: &str, before: &str) -> Option<bool> {
    let ahead = (minutes(now)? + DAY - minutes(before)?) % DAY;
    Some((50..DAY / 2).contains(&ahead))
}

#[test]
fn a_clock_may_jump_over_the_end_of_a_day_and_of_a_month() {
    let jumped = |now: &str, before: &str| jumped(now, before).expect("two times");
    assert!(jumped("2026-12-01T00:05:10.000000Z", "2026-11-30T23:05:08.000000Z"));
    assert!(jumped("2026-11-30T12:51:10.000000Z", "2026-11-30T12:01:08.000000Z"));
    assert!(!jumped("2026-11-30T12:50:10.000000Z", "2026-11-30T12:01:08.000000Z"));
    assert!(!jumped("2026-11-30T23:59:59.000000Z", "2026-12-01T00:00:00.000000Z"), "it went back");
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}

#[test]
fn a_sick_api_server_costs_no_address_no_flow_and_no_move() -> Result<()> {
    let lengths = Lengths::of_environment();
    let _turn = crate::kube::turn();
    let mut scene = Scene::new("kfault")?;
    let (one, two) = (scene.kube.yard.pod(1)?, scene.kube.yard.pod(2)?);
    let front = scene.api.front(&scene.host, API.parse()?)?;
    scene.kube.kubeconfig = Some(front.kubeconfig("front", &scene.token)?);
    scene.pool("edge", "10.9.0.101", "10.9.0.199")?;
    let begin = scene.api.must("GET", SERVICES, None)?;
    let begin = begin["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned();
    for n in 0..FLOWS {
        let (name, pod, node) =
            if n % 2 == 0 { (format!("live-{n}"), &one, 1) } else { (format!("live-{n}"), &two, 2) };
        scene.service(&name, "edge", None, json!({}))?;
        scene.slice(&name, pod, node)?;
        scene.kube.add(service(&name, n), pods(&[(pod, node)]));
    }
    let wall = Wall::new(scene.kube.yard.crew.lab())?;
    scene.kube.yard.crew.wall = Some(wall.clone());
    scene.kube.start()?;
    let flows: Vec<Flow> = (0..FLOWS)
        .map(|n| {
            let vip = scene.address(&format!("live-{n}"))?;
            wait_for(START, "bytes through the VIP", || {
                Talk::open(&scene.kube.yard.client, vip, PORT).ok()?.exchange(1, 1).ok()
            })?;
            Flow::start(&scene.kube, vip)
        })
        .collect::<Result<_>>()?;
    let (owners, roles) = (scene.kube.wait_owners(|_| true)?, transitions(&scene.kube)?);

    let mut run = Run { scene: &scene, front: &front, pod: &one, made: 0, report: Report::new() };
    run.fault("watches cut and refused with 410", Mood::Gone, Duration::from_secs(2))?;
    run.fault("connections cut", Mood::Cut, Duration::from_secs(2))?;
    run.fault("503", Mood::Fails(503), lengths.fails)?;
    run.fault("429", Mood::Fails(429), Duration::from_secs(2))?;
    run.fault("frozen", Mood::Frozen, lengths.frozen)?;
    run.fault("writes answered with 409", Mood::Conflicts, lengths.conflicts)?;
    ensure!(front.conflicts() > 0, "nobody wrote while all writes were conflicts");
    run.clocks(&wall)?;
    run.two_at_once()?;
    let mut report = run.report;

    let lived = flows.into_iter().map(Flow::end).collect::<Vec<_>>();
    let lost = lived.iter().filter(|flow| flow.is_err()).count();
    let late = lived.iter().flatten().map(|(_, late)| *late).max().unwrap_or_default();
    let now = transitions(&scene.kube)?;
    let moves: Vec<_> = now.iter().filter(|(of, n)| roles.get(*of) != Some(*n)).collect();
    let history = format!("{SERVICES}?watch=1&resourceVersion={begin}&timeoutSeconds=2");
    let history = scene.api.must("GET", &history, None)?;
    let lines = history.as_str().context("the lines of a watch")?.lines();
    let events: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let wrongs = wrongs(&events);
    // A machine that stood still for as long as a Backup waits has moved VIPs by itself: then moves are told and not judged.
    let stalled = late >= STALL;
    println!("{} events of Services; exchanges of the flows: {lived:?}", events.len());
    for (what, value) in [("duplicate or changed addresses", wrongs.len()), ("lost flows", lost)] {
        report.at_most("all of it", what, count(value), "", 0.0, 1);
    }
    if stalled {
        println!("the machine stood still for {late:?}: moves are not judged: {moves:?}");
        report.note("all of it", "moves (the machine stood still: not judged)", count(moves.len()), "", 1);
    } else {
        report.at_most("all of it", "moves", count(moves.len()), "", 0.0, 1);
    }
    if let Some(file) = &lengths.report {
        report.write(file)?;
    }
    ensure!(wrongs.is_empty(), "{wrongs:?}");
    ensure!(lost == 0, "{lived:?}\n{}", scene.kube.told());
    ensure!(stalled || moves.is_empty() && scene.kube.wait_owners(|_| true)? == owners, "{moves:?}");
    ensure!(events.len() > FLOWS.into(), "the history is empty");
    Ok(())
}
