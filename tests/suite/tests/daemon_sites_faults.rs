//! Faults between two sites of real daemons under audited flows (docs/sites-faults.md): wall clocks that jump (F23), and all relays of a site
//! killed (F4). Nodes n1 (relay) and n2 are one site, n3 (relay) is the other; clients come in at n2.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::sites::{init, issue, page, share};
use bascule_lab::{Wall, wait_for};
use bascule_suite::cluster::Cluster;
use bascule_suite::pair::{PATIENCE, WHOLE, config, secrets, wait_page, wait_page_for};
use bascule_suite::traffic::{SERVICES, Traffic, settled, tables, unmoved, with_flows};
use serde_json::Value;

/// Both sites at peace, half of all new connections at each, with flows that live in both. What goes first is dropped first.
struct Scene {
    traffic: Traffic,
    dir: PathBuf,
    authority: PathBuf,
    wall: Wall,
    cluster: Cluster,
}

impl Scene {
    /// The daemons of the first site live by [`Scene::wall`].
    fn start(name: &str) -> Result<Self> {
        let mut cluster = Cluster::new(name, 3)?;
        let dir = cluster.lab.directory().to_owned();
        secrets(&dir)?;
        let authority = init(&dir.join("authority"))?;
        let wall = Wall::new(&cluster.lab)?;
        for n in [3, 1, 2] {
            issue(&authority, if n == 3 { "2" } else { "1" }, &format!("n{n}"), &dir.join(format!("pki-n{n}")))?;
            let host = &mut cluster.hosts[n - 1];
            let wall = (n != 3).then_some(&wall);
            host.daemon = Some(Bascule::start_by(&cluster.lab, &host.netns, &with_flows(config(&dir, n)), wall)?);
        }
        let half =
            |page: &Value, site: &str| SERVICES.iter().all(|service| (share(page, service, site) - 0.5).abs() < 0.01);
        for n in [1, 2, 3] {
            let other = if n == 3 { "dc-a" } else { "dc-b" };
            wait_page_for(WHOLE, &mut cluster, n, "a session, and half of the share there", |page| {
                page["sites"][0]["session"] == true && half(page, other)
            })?;
        }
        settled(&cluster, &[1, 2, 3])?;
        let traffic = Traffic::start(&cluster, 2, &[3])?;
        Ok(Self { traffic, dir, authority, wall, cluster })
    }
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
    let before = tables(&scene.cluster, &[1, 2, 3])?;
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
        scene.traffic.lives(name)?;
    }
    ensure!(ended(&mut scene.cluster)? == ends, "sessions ended: {:?}, before {ends:?}", ended(&mut scene.cluster)?);
    for (n, reason) in [1, 2, 3].into_iter().flat_map(|n| ["not-yet-valid", "expired"].map(|reason| (n, reason))) {
        let refused = format!("bascule_sites_refused_total{{plane=\"state\",reason=\"{reason}\"}}");
        let count = scene.cluster.daemon(n).metric(&refused);
        ensure!(count.unwrap_or_default() == 0.0, "n{n}: {refused} {count:?}");
    }
    let now = tables(&scene.cluster, &[1, 2, 3])?;
    unmoved(&before, &now, &scene.traffic.end()?)
}

/// F4. The only relay of a site dies and comes back: the site is blind meanwhile, and that is all.
#[test]
fn all_relays_of_a_site_dead_lose_no_flow_and_move_nothing() -> Result<()> {
    let mut scene = Scene::start("sitesk")?;
    scene.cluster.daemon(1).process.sigkill()?;
    let killed = scene.cluster.hosts[0].daemon.take();
    ensure!(killed.is_some(), "it ran");
    // Its own tables begin anew when it comes back; clients come in elsewhere.
    let before = tables(&scene.cluster, &[2, 3])?;
    wait_page(&mut scene.cluster, 2, "no relay that leads", |page| {
        page["leader"].is_null() && page["sites"][0]["session"] == false
    })?;
    scene.traffic.lives("the death of the relay")?;
    wait_page(&mut scene.cluster, 2, "the verdict of a site that is not heard", |page| {
        SERVICES.iter().all(|name| {
            let of = |service: &&Value| service["name"] == *name;
            let service = page["services"].as_array().and_then(|services| services.iter().find(of));
            let sites = service.and_then(|service| service["sites"].as_array());
            sites.into_iter().flatten().any(|site| site["name"] == "dc-b" && site["verdict"] == "blind")
        })
    })?;
    scene.traffic.lives("the site is blind")?;
    let seen = scene.traffic.flows.look()?;
    ensure!(
        seen.on(1) > 0 && seen.on(3) > 0,
        "flows at the node whose daemon is dead, and in the other site: {seen:?}"
    );

    // A relay again: a session, and nothing moves by that either.
    let file = with_flows(config(&scene.dir, 1));
    scene.cluster.start(1, &file)?;
    wait_page(&mut scene.cluster, 2, "a session again", |page| {
        page["leader"] == "n1" && page["sites"][0]["session"] == true
    })?;
    scene.traffic.lives("the return of the relay")?;
    let now = tables(&scene.cluster, &[2, 3])?;
    unmoved(&before, &now, &scene.traffic.end()?)
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
