//! Faults between two sites of real daemons under audited flows (docs/sites-faults.md): wall clocks that jump (F23), and all relays of a site
//! killed (F4). Nodes n1 (relay) and n2 are one site, n3 (relay) is the other; clients come in at n2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, ensure};
use bascule_lab::audit::{AuditReport, AuditServer, Flows, Load};
use bascule_lab::bascule::Bascule;
use bascule_lab::sites::{init, issue, page, share};
use bascule_lab::{Netns, Stamp, Wall, sleep_until, wait_for};
use bascule_suite::cluster::Cluster;
use bascule_suite::pair::{PATIENCE, VIP, WHOLE, config, knock, secrets, serve, wait_page, wait_page_for};
use serde_json::{Value, json};

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
/// Services of several sites.
const SERVICES: [&str; 3] = ["web", "shop", "flows"];

/// New connections to `shop`, one after the other, until they are to end.
struct Newcomers {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Newcomers {
    fn start(client: &Netns) -> Self {
        let (stop, opened) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, counts) = (Arc::clone(&stop), Arc::clone(&opened));
        let thread = client.spawn("newcomers", move || {
            while !told.load(Ordering::Relaxed) {
                let next = Stamp::now() + PACE;
                let number = counts.load(Ordering::Relaxed);
                let _who =
                    knock().with_context(|| format!("new connection {number}")).inspect_err(|e| println!("{e:#}"))?;
                let _before = counts.fetch_add(1, Ordering::Relaxed);
                sleep_until(next);
            }
            Ok(())
        });
        Self { stop, opened, thread: Some(thread) }
    }

    /// Waits for some more. One that nobody answers ends all of them.
    fn more(&self, after: &str) -> Result<()> {
        let wanted = self.opened.load(Ordering::Relaxed) + 25;
        let over = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let more = || self.opened.load(Ordering::Relaxed) >= wanted;
        wait_for(PATIENCE, "new connections", || (more() || over()).then_some(()))
            .with_context(|| format!("after {after}"))?;
        ensure!(more(), "a new connection was lost after {after}");
        Ok(())
    }

    /// How many there were; the error is the one that nobody answered.
    fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        thread.join().map_err(|_| anyhow!("the client panicked"))??;
        Ok(self.opened.load(Ordering::Relaxed))
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Both sites at peace, half of all new connections at each, with flows that live in both. What goes first is dropped first.
struct Scene {
    newcomers: Newcomers,
    flows: Flows,
    _servers: Vec<AuditServer>,
    dir: PathBuf,
    authority: PathBuf,
    wall: Wall,
    cluster: Cluster,
}

/// The file of node `n`, with the service of the audited flows.
fn file(dir: &Path, n: usize) -> Value {
    let mut file = config(dir, n);
    let mut flows = file["services"][1].clone();
    (flows["name"], flows["number"], flows["port"]) = (json!("flows"), json!(9), json!(FLOWS));
    for endpoint in flows["endpoints"].as_array_mut().into_iter().flatten() {
        endpoint["port"] = json!(AUDIT);
    }
    file["services"].as_array_mut().expect("a list").push(flows);
    file
}

impl Scene {
    /// The daemons of the first site live by [`Scene::wall`].
    fn start(name: &str) -> Result<Self> {
        let mut cluster = Cluster::new(name, 3)?;
        let dir = cluster.lab.directory().to_owned();
        secrets(&dir)?;
        let authority = init(&dir.join("authority"))?;
        let wall = Wall::new(&cluster.lab)?;
        let mut servers = Vec::new();
        for n in [3, 1, 2] {
            issue(&authority, if n == 3 { "2" } else { "1" }, &format!("n{n}"), &dir.join(format!("pki-n{n}")))?;
            let host = &mut cluster.hosts[n - 1];
            let wall = (n != 3).then_some(&wall);
            host.daemon = Some(Bascule::start_by(&cluster.lab, &host.netns, &file(&dir, n), wall)?);
            serve(&host.netns, u8::try_from(n)?)?;
            servers.push(AuditServer::start(&host.netns, u32::try_from(n)?, AUDIT)?);
        }
        let half =
            |page: &Value, site: &str| SERVICES.iter().all(|service| (share(page, service, site) - 0.5).abs() < 0.01);
        for n in [1, 2, 3] {
            let other = if n == 3 { "dc-a" } else { "dc-b" };
            wait_page_for(WHOLE, &mut cluster, n, "a session, and half of the share there", |page| {
                page["sites"][0]["session"] == true && half(page, other)
            })?;
        }
        // A slow start brings a table a second: it is over when none has come for three.
        let mut last = (tables(&cluster)?, Stamp::now());
        wait_for(PATIENCE, "tables that stay", || {
            let now = tables(&cluster).ok()?;
            if now != last.0 {
                last = (now, Stamp::now());
            }
            (Stamp::now().since(last.1) > Duration::from_secs(3)).then_some(())
        })?;
        cluster.client.tool("ip", &["route", "add", VIP, "via", "10.9.0.2"])?;
        let target = format!("{VIP}:{FLOWS}").parse()?;
        let flows =
            Flows::start(&cluster.client, Load { target, paced: ALIVE, every: EVERY, full_speed: 0, window: 1 })?;
        let open = flows.wait_open(PATIENCE)?;
        let look = flows.look()?;
        ensure!(open == ALIVE && look.on(3) > 0 && look.on(3) < ALIVE, "{open} open, {} at n3: {look:?}", look.on(3));
        let newcomers = Newcomers::start(&cluster.client);
        newcomers.more("the start")?;
        Ok(Self { newcomers, flows, _servers: servers, dir, authority, wall, cluster })
    }

    /// Every flow has said something twice more and been answered, and new ones are.
    fn lives(&self, after: &str) -> Result<()> {
        let wanted = self.flows.least() + 2;
        wait_for(PATIENCE, "two turns of every flow", || (self.flows.least() >= wanted).then_some(()))
            .with_context(|| format!("after {after}: {:?}", self.flows.look()))?;
        ensure!(self.flows.broken() == 0, "after {after}: {}", self.flows.look()?.describe(&[]));
        self.newcomers.more(after)
    }

    /// What became of all of it.
    fn end(self) -> Result<AuditReport> {
        let opened = self.newcomers.end()?;
        let audit = self.flows.finish();
        println!("{opened} new connections; {}; the client was late by {:?} at most", audit.describe(&[]), audit.late);
        ensure!(audit.broken(&[]).is_empty(), "{}", audit.describe(&[]));
        Ok(audit)
    }
}

/// Tables of every service so far on every node that runs, by its own count.
fn tables(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let mut counted = BTreeMap::new();
    for (n, host) in (1..).zip(&cluster.hosts) {
        let Some(daemon) = &host.daemon else { continue };
        let (_, page) = daemon.get("/metrics")?;
        let lines = page.lines().filter(|line| line.starts_with("bascule_sites_tables_total{"));
        let of = lines.filter_map(|line| line.rsplit_once(' '));
        counted.extend(of.map(|(of, count)| (format!("n{n} {of}"), count.to_owned())));
    }
    Ok(counted)
}

/// No table since. A machine that stood still may have moved shares by itself: then that is told and not judged.
fn unmoved(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>, audit: &AuditReport) -> Result<()> {
    ensure!(before.len() >= SERVICES.len() && before.len() == now.len(), "{before:?}, {now:?}");
    let moves: Vec<_> = now.iter().filter(|(of, count)| before.get(*of) != Some(*count)).collect();
    if audit.late >= STALL {
        println!("the machine stood still for {:?}: moves are not judged: {moves:?}", audit.late);
        return Ok(());
    }
    ensure!(moves.is_empty(), "{moves:?}, before {before:?}");
    Ok(())
}

/// Seconds of the wall clock of the machine since 1970.
fn today() -> Result<i64> {
    Ok(i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_secs())?)
}

/// The day and the minute of it that a line of a log begins with (`2026-11-30T07:45:03.5Z ...`).
fn written(line: &str) -> Option<(&str, i64)> {
    let (day, time) = line.split_once('T')?;
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<i64>().ok();
    Some((day, number(0..2)? * 60 + number(3..5)?))
}

/// Does this line say that its clock was `ahead` of the machine's as it was written, a minute or two ago at most?
fn is_ahead(line: &str, ahead: i64) -> Result<bool> {
    const DAY: i64 = 24 * 60;
    let Some((day, minute)) = written(line) else { return Ok(false) };
    let wanted = (today()? + ahead) / 60;
    let apart = (wanted - minute).rem_euclid(DAY);
    let old = wanted < DAY;
    Ok(day.starts_with("1970-01-01") == old && apart.min(DAY - apart) <= 2)
}

/// F23. The relay and the node of one site believe that it is an hour ago, 1970, and an hour later than it is, and certificates are replaced
/// by each of these clocks: both ends of a session look at them anew.
#[test]
fn wall_clocks_of_a_site_that_jump_move_nothing_and_lose_no_session_and_no_flow() -> Result<()> {
    let mut scene = Scene::start("sitesw")?;
    let before = tables(&scene.cluster)?;
    let ended = |cluster: &mut Cluster| -> Result<Vec<Value>> {
        let of = |n| Ok(page(cluster.daemon(n)).context("a page")?["state"]["counters"]["ended"].clone());
        [1, 3].into_iter().map(of).collect()
    };
    let ends = ended(&mut scene.cluster)?;
    let of_1970 = 60 - today()?;
    for (name, ahead) in
        [("an hour back", -3600), ("1970", of_1970), ("an hour ahead", 3600), ("as it was", 0), ("1970 again", of_1970)]
    {
        let said = scene.cluster.daemon(1).process.log().len();
        let renewed = |page: &Value| page["state"]["counters"]["renewed"].as_u64().unwrap_or_default();
        let counts = [1, 3].map(|n| page(scene.cluster.daemon(n)).map(|page| renewed(&page)).unwrap_or_default());
        scene.wall.set(ahead)?;
        issue(&scene.authority, "1", "n1", &scene.dir.join("pki-n1"))?;
        for (n, count) in [1, 3].into_iter().zip(counts) {
            wait_page(&mut scene.cluster, n, &format!("other certificates, {name}"), |page| renewed(page) > count)?;
        }
        // The clock did jump: what the relay wrote meanwhile bears its time.
        let line = wait_for(PATIENCE, "a line of the relay about it", || {
            let log = scene.cluster.daemon(1).process.log();
            let news = log.get(said..)?.lines().rfind(|line| line.contains("goes on with other certificates"));
            news.map(str::to_owned)
        })?;
        ensure!(is_ahead(&line, ahead)?, "{name}: {line}");
        for n in [1, 2, 3] {
            wait_page(&mut scene.cluster, n, &format!("its session, {name}"), |page| {
                page["sites"][0]["session"] == true && page["sites"][0]["path"]["path"]["carriage"] == "up"
            })?;
        }
        scene.lives(name)?;
    }
    ensure!(ended(&mut scene.cluster)? == ends, "sessions ended: {:?}, before {ends:?}", ended(&mut scene.cluster)?);
    for (n, reason) in [1, 2, 3].into_iter().flat_map(|n| ["not-yet-valid", "expired"].map(|reason| (n, reason))) {
        let refused = format!("bascule_sites_refused_total{{plane=\"state\",reason=\"{reason}\"}}");
        let count = scene.cluster.daemon(n).metric(&refused);
        ensure!(count.unwrap_or_default() == 0.0, "n{n}: {refused} {count:?}");
    }
    let now = tables(&scene.cluster)?;
    unmoved(&before, &now, &scene.end()?)
}

/// F4. The only relay of a site dies and comes back: the site is blind meanwhile, and that is all.
#[test]
fn all_relays_of_a_site_dead_lose_no_flow_and_move_nothing() -> Result<()> {
    let mut scene = Scene::start("sitesk")?;
    scene.cluster.daemon(1).process.sigkill()?;
    let killed = scene.cluster.hosts[0].daemon.take();
    ensure!(killed.is_some(), "it ran");
    let before = tables(&scene.cluster)?;
    wait_page(&mut scene.cluster, 2, "no relay that leads", |page| {
        page["leader"].is_null() && page["sites"][0]["session"] == false
    })?;
    scene.lives("the death of the relay")?;
    wait_page(&mut scene.cluster, 2, "the verdict of a site that is not heard", |page| {
        SERVICES.iter().all(|name| {
            let of = |service: &&Value| service["name"] == *name;
            let service = page["services"].as_array().and_then(|services| services.iter().find(of));
            let sites = service.and_then(|service| service["sites"].as_array());
            sites.into_iter().flatten().any(|site| site["name"] == "dc-b" && site["verdict"] == "blind")
        })
    })?;
    scene.lives("the site is blind")?;
    let seen = scene.flows.look()?;
    ensure!(
        seen.on(1) > 0 && seen.on(3) > 0,
        "flows at the node whose daemon is dead, and in the other site: {seen:?}"
    );

    // A relay again: a session, and nothing moves by that either.
    let file = file(&scene.dir, 1);
    scene.cluster.start(1, &file)?;
    wait_page(&mut scene.cluster, 2, "a session again", |page| {
        page["leader"] == "n1" && page["sites"][0]["session"] == true
    })?;
    scene.lives("the return of the relay")?;
    let mut now = tables(&scene.cluster)?;
    // Its own tables begin anew; clients come in elsewhere.
    now.retain(|of, _| !of.starts_with("n1 "));
    unmoved(&before, &now, &scene.end()?)
}

#[test]
fn a_clock_that_did_not_jump_is_seen() -> Result<()> {
    let minute = (today()? / 60).rem_euclid(24 * 60);
    let line = format!("2026-11-30T{:02}:{:02}:03.5Z  INFO a line", minute / 60, minute % 60);
    ensure!(is_ahead(&line, 0)?, "{line}");
    for ahead in [-3600, 3600, 60 - today()?] {
        ensure!(!is_ahead(&line, ahead)?, "{line} is no clock that is {ahead} s ahead");
    }
    ensure!(is_ahead("1970-01-01T00:01:00.1Z  INFO a line", 60 - today()?)?);
    ensure!(!is_ahead("no line of a log", 0)?);
    Ok(())
}
