//! Two sites of real daemons: nodes n1 (relay) and n2 are one, n3 (relay) is the other; a LAN is the wide area between them. Certificates
//! are made by `bascule pki`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::sites::{self, init, issue, page};
use bascule_lab::{Direction, Filter, Netns, wait_for};
use bascule_suite::cluster::Cluster;
use bascule_suite::pair::{
    PATIENCE, SHELF, VIP, WHOLE, answers, config, connect, live, secrets, serve, wait_page, wait_page_for,
    wait_services,
};
use serde_json::{Value, json};

/// Largest segments that the ends of connections may send, as their kernel has them, and its own words.
fn segments(netns: &Netns, which: &str) -> Result<(String, Vec<u32>)> {
    let text = netns.tool("ss", &["-Htin", "state", "established", which])?;
    let sizes = text.split_whitespace().filter_map(|word| word.strip_prefix("mss:")?.parse().ok()).collect();
    Ok((text, sizes))
}

/// Share of a site in what a page says of the service `web`.
fn share(page: &Value, site: &str) -> f64 {
    sites::share(page, "web", site)
}

fn halves(page: &Value) -> bool {
    (share(page, "dc-b") - 0.5).abs() < 0.01
}

const REFUSED: &str = "bascule_sites_refused_total{plane=\"state\",reason=";

#[test]
fn two_sites_meet_and_a_cut_path_moves_the_share_but_dead_relays_do_not() -> Result<()> {
    let mut cluster = Cluster::new("sites", 3)?;
    let dir = cluster.lab.directory().to_owned();
    secrets(&dir)?;
    let (ours, theirs) = (init(&dir.join("authority"))?, init(&dir.join("stranger"))?);
    issue(&ours, "1", "n1", &dir.join("pki-n1"))?;
    issue(&ours, "1", "n2", &dir.join("pki-n2"))?;
    // Rightly named, but nobody's authority has signed it.
    issue(&theirs, "2", "n3", &dir.join("pki-n3"))?;
    for n in [1, 2, 3] {
        let config = config(&dir, n);
        cluster.start(n, &config)?;
    }

    // A wrong certificate: refused, counted, and nothing comes of it.
    let refused = wait_for(PATIENCE, "a refusal that is counted", || {
        let daemon = cluster.hosts[0].daemon.as_ref()?;
        let count = |reason: &str| daemon.metric(&format!("{REFUSED}\"{reason}\"}}")).unwrap_or_default();
        let all = count("unknown-authority") + count("theirs");
        (all >= 1.0).then_some(all)
    })?;
    let alone = page(cluster.daemon(1)).context("a page")?;
    ensure!(refused >= 1.0 && alone["sites"][0]["session"] == false, "{alone:#}");
    ensure!(share(&alone, "dc-b") == 0.0, "nothing is known of a site that was refused: {alone:#}");
    // Paths have a secret of their own: what the certificate says is nothing to them.
    wait_page(&mut cluster, 1, "the path", |page| page["sites"][0]["path"]["path"]["carriage"] == "up")?;

    // The right one: sessions come up, facts reach the node that is no relay, and shares are what the file says.
    cluster.daemon(3).process.sigterm()?;
    cluster.daemon(3).process.wait(PATIENCE)?;
    issue(&ours, "2", "n3", &dir.join("pki-n3"))?;
    let config3 = config(&dir, 3);
    cluster.start(3, &config3)?;
    for n in [1, 2, 3] {
        let shown = wait_page_for(WHOLE, &mut cluster, n, "a session, a path and half of the share there", |page| {
            let site = &page["sites"][0];
            let other = if n == 3 { "dc-a" } else { "dc-b" };
            site["session"] == true
                && site["path"]["path"]["carriage"] == "up"
                && site["path"]["path"]["flowsUp"].as_u64() >= Some(2)
                && (share(page, other) - 0.5).abs() < 0.01
        })?;
        ensure!(shown["leads"] == (n != 2) && shown["leader"] == if n == 3 { "n3" } else { "n1" }, "{shown:#}");
    }
    // Packets follow: new connections that arrive at n2 are answered by both sites.
    for n in 1..=3_u8 {
        serve(&cluster.hosts[usize::from(n) - 1].netns, n)?;
    }
    cluster.client.tool("ip", &["route", "add", VIP, "via", "10.9.0.2"])?;
    let both = wait_for(PATIENCE, "both sites to answer", || {
        answers(&cluster.client, 24).ok().filter(|seen| seen.contains(&3) && seen.len() > 1)
    })?;
    println!("answered by the endpoints {both:?}");
    let (shown, table) = (page(cluster.daemon(2)).context("a page")?, cluster.daemon(2).ctl(&["sites"])?);
    let line = table.lines().find(|line| line.starts_with("service web ")).with_context(|| table.clone())?;
    // The very number of the page, which is half within a hundredth: a table may come between the two.
    let elsewhere: f64 = line.split_whitespace().nth(3).context("a share")?.parse()?;
    let half = share(&shown, "dc-b") * 100.0;
    ensure!(halves(&shown) && (elsewhere - half).abs() < 0.25 && line.contains(" % elsewhere"), "{half} {table}");
    ensure!(table.contains("no relay, n1 leads") && table.contains("dc-b"), "{table}");

    // A slow start brings a table a second: it is over when none has come for three.
    wait_for(PATIENCE, "tables that stay", || {
        let (_, body) = cluster.daemon(2).get("/why?service=web").ok()?;
        let why: Value = serde_json::from_str(&body).ok()?;
        let last = why["changes"].as_array()?.last()?["decided"].as_u64()?;
        (why["now"].as_u64()? >= last + 3_000_000_000).then_some(())
    })?;

    // The only relay of this site dies: what is known stays, and nothing moves.
    let tables = |page: &Value| page["services"][0]["tables"].as_u64();
    let before = page(cluster.daemon(2)).context("a page")?;
    cluster.daemon(1).process.sigkill()?;
    let after = wait_page(&mut cluster, 2, "no relay that leads", |page| page["leader"].is_null())?;
    ensure!(after["sites"][0]["session"] == false && halves(&after), "{after:#}");
    let blind = wait_page(&mut cluster, 2, "the verdict of a site that is not heard", |page| {
        let sites = page["services"][0]["sites"].as_array();
        sites.into_iter().flatten().any(|s| s["name"] == "dc-b" && s["verdict"] == "blind")
    })?;
    ensure!(halves(&blind) && tables(&blind) == tables(&before), "no table since: {before:#} {blind:#}");

    // The way between the sites is cut: the share comes home by what this node sees by itself, and `why` tells it.
    let wire = cluster.hosts[2].port.cut(Direction::Both, Filter::All)?;
    let home = wait_page(&mut cluster, 2, "the share to come home", |page| share(page, "dc-a") == 1.0)?;
    let seen = answers(&cluster.client, 12)?;
    ensure!(!seen.contains(&3), "n3 is cut off, and was answered by {seen:?}");
    ensure!(wire.dropped()? > 0 && home["sites"][0]["path"]["path"]["carriage"]["down"].is_string(), "{home:#}");
    // Packets know it as well: the site is not asked for flows that nobody here has.
    wait_services(&mut cluster, 2, "not sent: the path is down")?;
    let told = wait_for(PATIENCE, "a timeline of it", || {
        let (_, body) = cluster.daemon(2).get("/why?service=web").ok()?;
        let why: Value = serde_json::from_str(&body).ok()?;
        let last = why["changes"].as_array()?.iter().rev().find(|c| c["why"]["verdict"] == "path-down")?.clone();
        last["applied"].is_u64().then_some(last)
    })?;
    let at = |key: &str| told[key].as_u64().map(Duration::from_nanos).context("a time");
    let (noticed, applied) = (at("detected")? - at("cause")?, at("applied")? - at("detected")?);
    println!("path down noticed after {noticed:?}, in force {applied:?} later");
    // Five intervals of 100 ms without a word, and what a busy machine adds; the bound itself is the simulator's.
    ensure!(noticed >= Duration::from_millis(400) && noticed < Duration::from_secs(3), "{told:#}");
    ensure!(told["why"]["rule"] == "facts" && told["after"] == json!({ "1": 1.0 }), "{told:#}");
    let words = cluster.daemon(2).ctl(&["why", "web"])?;
    ensure!(words.contains("dc-b is path-down") && words.contains("-> 0.0 %"), "{words}");
    let error = cluster.daemon(2).ctl(&["why", "nothing"]).expect_err("no such service");
    ensure!(error.to_string().contains("no site was chosen for nothing"), "{error}");
    // It carries again, and then loses a third of what comes: an alarm that names the direction.
    wire.heal()?;
    wait_page(&mut cluster, 2, "the path again", |page| page["sites"][0]["path"]["path"]["carriage"] == "up")?;
    let shown = wait_services(&mut cluster, 2, "  sent ")?;
    ensure!(!shown.contains("not sent"), "{shown}");
    let wire = cluster.hosts[2].port.lose(Direction::FromNode, Filter::All, 0.33)?;
    let lossy =
        wait_page(&mut cluster, 2, "a brownout", |page| !page["sites"][0]["path"]["path"]["brownoutIn"].is_null())?;
    ensure!(lossy["sites"][0]["path"]["path"]["carriage"] == "up" && wire.heal()? > 0, "{lossy:#}");
    Ok(())
}

/// An operator takes parts of a site out of use: new connections go elsewhere, those that exist live, and what returns takes part again.
#[test]
fn a_drain_moves_new_connections_and_nothing_else_and_can_be_taken_back() -> Result<()> {
    let mut cluster = Cluster::new("sitesd", 3)?;
    let dir = cluster.lab.directory().to_owned();
    secrets(&dir)?;
    let authority = init(&dir.join("authority"))?;
    // F13: the switch's end of the way to n3 carries less than any link says, both ways, and nobody is told. Only probes can find out.
    cluster.lan.netns().tool("ip", &["link", "set", cluster.hosts[2].port.name(), "mtu", "1400"])?;
    for n in [3, 1, 2] {
        issue(&authority, if n == 3 { "2" } else { "1" }, &format!("n{n}"), &dir.join(format!("pki-n{n}")))?;
        let config = config(&dir, n);
        cluster.start(n, &config)?;
        serve(&cluster.hosts[n - 1].netns, u8::try_from(n)?)?;
    }
    wait_page(&mut cluster, 2, "a part of the share there", |page| share(page, "dc-b") > 0.2)?;
    // What a switch's port sends is what its MTU says. What it takes is four bytes more, for a VLAN tag.
    for (n, size) in [(1, 1400), (2, 1400), (3, 1404)] {
        wait_services(&mut cluster, n, &format!("  {size}"))?;
    }
    cluster.client.tool("ip", &["route", "add", VIP, "via", "10.9.0.2"])?;
    wait_for(PATIENCE, "every endpoint to answer", || {
        answers(&cluster.client, 24).ok().filter(|seen| seen.len() == 3)
    })?;
    let mut held = (0..24).map(|_| connect(&cluster.client)).collect::<Result<Vec<_>>>()?;
    ensure!(held.iter().any(|(number, _)| *number == 3), "none of 24 connections is at n3");
    // Less 44 bytes of encapsulation, 40 of headers and 12 of a time stamp. Whoever speaks for the VIP tells clients what fits into the narrowest
    // way that he knows: n1 and n2 to n3, and n3 to them; so does n3 its endpoint.
    for (number, stream) in &held {
        let (text, sizes) = segments(&cluster.client, &format!("sport = :{}", stream.local_addr()?.port()))?;
        ensure!(sizes == [if *number == 3 { 1308 } else { 1304 }], "a connection with n{number}: {sizes:?}\n{text}");
    }
    let (text, sizes) = segments(&cluster.hosts[2].netns, &format!("sport = :{SHELF}"))?;
    ensure!(!sizes.is_empty() && sizes.iter().all(|size| *size == 1308), "{sizes:?}\n{text}");

    // Refused: where nobody writes, and where too little would be left.
    let refused = |cluster: &mut Cluster, n: usize, words: &[&str]| match cluster.daemon(n).ctl(words) {
        Err(error) => Ok(error.to_string()),
        Ok(done) => Err(anyhow::anyhow!("{words:?} on n{n}: {done}")),
    };
    let elsewhere = refused(&mut cluster, 2, &["drain", "site"])?;
    ensure!(elsewhere.contains("orders are given on the relay that leads: ask on n1"), "{elsewhere}");
    let short = refused(&mut cluster, 1, &["drain", "site"])?;
    let numbers =
        "the site is not drained: of web 1 of 3 endpoints would be left, 2 are needed; --force drains all the same";
    ensure!(short.contains(numbers), "{short}");
    let unknown = refused(&mut cluster, 1, &["drain", "service", "nothing"])?;
    ensure!(unknown.contains("nothing is no service of several sites"), "{unknown}");

    // A service at the other site: new connections avoid it, its connections live, and both sites know why.
    let said = cluster.daemon(3).ctl(&["drain", "service", "shop", "--within", "4"])?;
    ensure!(said.contains("service shop is drained; connections that exist have 4 s"), "{said}");
    wait_for(PATIENCE, "nothing new at n3", || answers(&cluster.client, 24).ok().filter(|seen| !seen.contains(&3)))?;
    live(&mut held)?;
    let drains = "bascule_sites_drains{site=\"dc-b\"}";
    for n in [3, 1, 2] {
        cluster.wait_metric(n, drains, |drains| drains >= 1.0)?;
        let why = cluster.daemon(n).ctl(&["why", "shop"])?;
        ensure!(why.contains("dc-b is draining") && why.contains("dc-b drains service shop: "), "n{n}: {why}");
    }
    wait_page(&mut cluster, 3, "the end of its time", |page| page["drains"][0]["seconds"] == 0)?;
    let seen = answers(&cluster.client, 24)?;
    ensure!(!seen.contains(&3), "the order is in force beyond its time: {seen:?}");
    live(&mut held)?;

    // Taken back: it takes part again, slowly.
    cluster.daemon(3).ctl(&["drain", "service", "shop", "--off"])?;
    wait_for(PATIENCE, "new connections at n3", || answers(&cluster.client, 24).ok().filter(|seen| seen.contains(&3)))?;
    let gone = refused(&mut cluster, 3, &["drain", "service", "shop", "--off"])?;
    ensure!(gone.contains("service shop: there is no such order"), "{gone}");

    // A node of this site: told by n1, obeyed by n2, where the connections arrive.
    cluster.daemon(1).ctl(&["drain", "node", "n1"])?;
    wait_for(PATIENCE, "nothing new at n1", || answers(&cluster.client, 24).ok().filter(|seen| !seen.contains(&1)))?;
    live(&mut held)?;
    cluster.daemon(1).ctl(&["drain", "node", "n1", "--off"])?;
    wait_for(PATIENCE, "new connections at n1", || answers(&cluster.client, 24).ok().filter(|seen| seen.contains(&1)))?;
    for n in [1, 2, 3] {
        wait_page(&mut cluster, n, "no drain", |page| page["drains"] == json!([]))?;
    }
    live(&mut held)?;

    // By the file of n3. The relay that would tell n2 of it stands still: n2 goes on sending, and each of its connections is served.
    wait_page(&mut cluster, 2, "a part of the share there", |page| sites::share(page, "shop", "dc-b") > 0.2)?;
    let mut file = config(&dir, 3);
    let drained = |page: &Value| {
        let shop = page["services"].as_array()?.iter().find(|service| service["name"] == "shop")?;
        let sites = shop["sites"].as_array()?;
        Some(sites.iter().find(|site| site["name"] == "dc-b")?["verdict"] == "draining")
    };
    cluster.daemon(1).process.freeze(true)?;
    file["services"][1]["draining"] = json!(true);
    cluster.daemon(3).rewrite(&file)?;
    wait_page(&mut cluster, 3, "a drain by the file", |page| drained(page) == Some(true))?;
    wait_services(&mut cluster, 3, "draining")?;
    let late = answers(&cluster.client, 48)?;
    let unheard = page(cluster.daemon(2)).context("a page")?;
    ensure!(late.contains(&3) && drained(&unheard) == Some(false), "n2 has heard of it: {late:?} {unheard:#}");
    // It hears of it.
    cluster.daemon(1).process.freeze(false)?;
    wait_page(&mut cluster, 2, "the word of it", |page| drained(page) == Some(true))?;
    wait_for(PATIENCE, "nothing new at n3", || answers(&cluster.client, 24).ok().filter(|seen| !seen.contains(&3)))?;
    live(&mut held)?;
    // The end of it.
    file["services"][1]["draining"] = json!(false);
    cluster.daemon(3).rewrite(&file)?;
    wait_for(PATIENCE, "new connections at n3", || answers(&cluster.client, 24).ok().filter(|seen| seen.contains(&3)))?;
    live(&mut held)
}

/// A file that changes how a service is spread changes it at once; one that changes who this site is waits for the next start.
#[test]
fn policies_change_live_and_the_identity_of_a_site_does_not() -> Result<()> {
    let mut cluster = Cluster::new("sitesr", 1)?;
    let dir = cluster.lab.directory().to_owned();
    secrets(&dir)?;
    let authority = init(&dir.join("authority"))?;
    let mut file = config(&dir, 1);
    file["services"].as_array_mut().expect("a list").truncate(1);
    file["sites"]["dc-a"]["gateways"] = json!([{ "name": "n1", "id": 1, "address": "10.9.0.1" }]);
    file["forwarding"]["nodes"] = json!([{ "name": "n1", "id": 1, "addresses": ["10.9.0.1"] }]);
    file["services"][0]["endpoints"] = json!([{ "name": "e1", "address": "10.9.0.1", "port": 7100, "node": "n1" }]);
    cluster.start(1, &file)?;
    // Without a certificate there is no relay, and the daemon says so and goes on.
    wait_page(&mut cluster, 1, "the condition", |page| page["conditions"].to_string().contains("certificate: "))?;
    wait_page(&mut cluster, 1, "all of the share here", |page| share(page, "dc-a") == 1.0)?;
    issue(&authority, "1", "n1", &dir.join("pki-n1"))?;
    wait_page(&mut cluster, 1, "the relay", |page| page["state"]["leads"] == true && page["conditions"] == json!([]))?;

    file["services"][0]["sites"] = json!({ "capacityPerEndpoint": 30 });
    cluster.daemon(1).rewrite(&file)?;
    let local = wait_page(&mut cluster, 1, "another mode", |page| page["services"][0]["mode"] == "localFirst")?;
    ensure!(share(&local, "dc-a") == 1.0, "{local:#}");
    wait_page(&mut cluster, 1, "its capacity", |page| page["services"][0]["sites"][0]["summary"]["capacity"] == 30)?;

    file["site"]["pathPort"] = json!(9000);
    // Without an authority that is refused as a whole.
    file["services"][0]["sites"] = json!({ "mode": "activePassive" });
    cluster.daemon(1).rewrite(&file)?;
    cluster.wait_metric(1, "bascule_config_reload_total{result=\"refused\"}", |refused| refused >= 1.0)?;
    let applied = "bascule_config_reload_total{result=\"applied\"}";
    let before = cluster.wait_metric(1, applied, |_| true)?;
    file["services"][0]["sites"] = json!({ "mode": "localFirst" });
    cluster.daemon(1).rewrite(&file)?;
    cluster.wait_metric(1, applied, |count| count > before)?;
    let same = wait_page(&mut cluster, 1, "a page", |_| true)?;
    ensure!(
        same["services"][0]["sites"][0]["summary"]["capacity"] == 30,
        "nothing of both sections is taken: {same:#}"
    );
    Ok(())
}
