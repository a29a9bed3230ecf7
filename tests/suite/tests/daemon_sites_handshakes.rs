//! What the data path saw (F15) with real daemons: n1 is a site, n2 another one, and half of each service belongs to each. Clients come in at n1.
//! The endpoint of the other site drops or resets SYNs from outside, while its checks, which come from inside, say that it is ready. And what the
//! handshakes that succeed say of the path.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::sites::{init, issue, page, share};
use bascule_lab::{Netns, Stamp, sleep_until, wait_for};
use bascule_suite::cluster::Cluster;
use bascule_suite::fence::boot_ns;
use bascule_suite::pair::{VIP, WHOLE, secrets, wait_page_for as wait_page};
use serde_json::{Value, json};

/// Whose SYNs will be dropped, whose will be reset, and one to which nothing happens; endpoints are 100 above.
const SHOP: u16 = 7001;
const TILL: u16 = 7002;
const CALM: u16 = 7003;
/// Services whose replies come back through the node of the request: nearly all of the one that comes in at n1 belongs to the other site, and of the
/// one that comes in at n2 to this one.
const EAST: u16 = 7004;
const WEST: u16 = 7005;
/// Their address at n2.
const VIP2: &str = "10.9.7.101";
/// Connections a second with each of the two, in which traffic speaks for the path: twice what is needed.
const MANY: u64 = 400;
/// Connections a second, of which the other site gets a half: 50.
const BROUGHT: u64 = 100;
/// From the first lost SYN to a table without the site (sites.md, F15): a SYN has failed after 1 s and is judged two looks of 0.25 s later at the most,
/// and enough of them, 20 of 64, are half a second at this rate.
const BOUND: Duration = Duration::from_secs(3);
/// What a busy machine adds: clients and daemons share its cores.
const ALLOWANCE: Duration = Duration::from_secs(2);
/// The first ejection.
const EJECTED: Duration = Duration::from_secs(30);
/// The protocol's own waits (a relay listens for 3 s and learns for 10 s before it speaks, an ejection of 30 s) on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that gives its number to everybody and then everything back, until the process ends.
fn serve(netns: &Netns, port: u16, number: u8) -> Result<()> {
    let listener = netns.run(|| TcpListener::bind(("0.0.0.0", port)))?;
    let _ends_with_the_process = netns.spawn("server", move || {
        for mut stream in listener.incoming().flatten() {
            let _ends_with_its_client = std::thread::spawn(move || {
                let mut one = [number];
                while stream.write_all(&one).is_ok() && stream.read_exact(&mut one).is_ok() {}
            });
        }
    });
    Ok(())
}

/// A new connection and whose it is. Who gets no answer within half a second leaves, after one SYN.
fn connect(vip: &str, port: u16) -> Option<(u8, TcpStream)> {
    let to: SocketAddr = format!("{vip}:{port}").parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut number = [0];
    stream.read_exact(&mut number).ok()?;
    Some((number[0], stream))
}

/// Clients that connect at a rate, whatever becomes of it; dropped, they stop.
struct Load {
    stop: Arc<AtomicBool>,
    /// Who answered; 0: nobody.
    answers: Arc<Mutex<Vec<u8>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many connections a second to a port, from as many threads as wait for answers that do not come.
    fn start(client: &Netns, port: u16, rate: u64) -> Self {
        Self::with(client, VIP, port, rate, rate * 2 / 3 + 1)
    }

    /// The same to an address, from `count` threads: 4 keep the time where nearly all are answered.
    fn with(client: &Netns, vip: &'static str, port: u16, rate: u64, count: u64) -> Self {
        let mut new = Self { stop: Arc::default(), answers: Arc::default(), threads: Vec::new() };
        let begin = Stamp::now();
        for n in 0..count {
            let (stop, answers) = (Arc::clone(&new.stop), Arc::clone(&new.answers));
            new.threads.push(client.spawn("clients", move || {
                for turn in 0.. {
                    let due = begin + Duration::from_micros((turn * count + n) * 1_000_000 / rate);
                    sleep_until(due);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = connect(vip, port).map_or(0, |(number, _)| number);
                    answers.lock().expect("nobody panics with it").push(answer);
                }
            }));
        }
        new
    }

    /// The next `count` answers.
    fn next(&self, count: usize) -> Result<Vec<u8>> {
        let from = self.answers.lock().expect("nobody panics with it").len();
        Ok(wait_for(PATIENCE, "answers", || {
            let all = self.answers.lock().expect("nobody panics with it");
            (all.len() >= from + count).then(|| all[from..].to_vec())
        })?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// The file of node `n`.
fn config(dir: &Path, n: usize) -> Value {
    let (here, other) = if n == 1 { ("dc-a", "dc-b") } else { ("dc-b", "dc-a") };
    let site = |id: usize| {
        json!({
            "id": id, "prefixes": ["10.9.7.0/24"],
            "relays": [{ "name": format!("n{id}"), "address": format!("10.9.0.{id}:7845") }],
            "gateways": [{ "name": format!("n{id}"), "id": id, "address": format!("10.9.0.{id}") }],
        })
    };
    let mut sites = json!({ "dc-a": site(1), "dc-b": site(2) });
    sites[other]["secretFile"] = json!(dir.join("pair.key"));
    let weighted = |name: &str, number: u32, vip: &str, port: u16, [a, b]: [u32; 2]| {
        json!({
            "name": name, "number": number, "vip": vip, "port": port, "protocol": "tcp",
            "check": { "tcp": {} },
            "endpoints": [{ "name": format!("e{n}"), "address": format!("10.9.0.{n}"), "port": port + 100, "node": format!("n{n}") }],
            "sites": { "mode": "weighted", "each": { "dc-a": { "weight": a }, "dc-b": { "weight": b } } },
        })
    };
    let service = |name: &str, number: u32, port: u16| weighted(name, number, VIP, port, [50, 50]);
    let mut through = [weighted("east", 4, VIP, EAST, [5, 95]), weighted("west", 5, VIP2, WEST, [95, 5])];
    through.iter_mut().for_each(|service| service["return"] = json!("viaIngress"));
    let [east, west] = through;
    json!({
        "node": format!("n{n}"),
        // XDP on veth wants checksums that the lab's clients leave to their cards.
        "forwarding": {
            "nodes": [{ "name": format!("n{n}"), "id": n, "addresses": [format!("10.9.0.{n}")] }],
            "keyFile": dir.join("forward.keys"), "hook": "tc",
        },
        "site": {
            "name": here, "domain": "sites.test", "certificates": dir.join(format!("pki-n{n}")),
            "relay": format!("n{n}"), "incarnation": dir.join(format!("incarnation-n{n}")),
            "quietProbes": true,
        },
        "sites": sites,
        "services": [service("shop", 1, SHOP), service("till", 2, TILL), service("calm", 3, CALM), east, west],
    })
}

fn service<'a>(page: &'a Value, name: &str) -> &'a Value {
    let found = page["services"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    found.unwrap_or(&Value::Null)
}

/// How a service at site B stands.
fn standing<'a>(page: &'a Value, name: &str) -> &'a Value {
    let sites = service(page, name)["sites"].as_array();
    sites.and_then(|all| all.iter().find(|one| one["name"] == "dc-b")).unwrap_or(&Value::Null)
}

/// The change of a service's table for which the data path was the reason, once it is in force.
fn mismatch(cluster: &mut Cluster, name: &str) -> Result<Value> {
    let daemon = cluster.daemon(1);
    Ok(wait_for(PATIENCE, "a change by the data path that is in force", || {
        let (_, body) = daemon.get(&format!("/why?service={name}")).ok()?;
        let why: Value = serde_json::from_str(&body).ok()?;
        let last = why["changes"].as_array()?.iter().rev().find(|c| c["why"]["verdict"] == "mismatch")?.clone();
        last["applied"].is_u64().then_some(last)
    })?)
}

/// What new connections to a service find from now on in the other site; its checks find it as it was.
fn fault(netns: &Netns, port: u16, verdict: &str) -> Result<()> {
    let endpoint = (port + 100).to_string();
    netns.tool("nft", &["add", "table", "inet", "hole"])?;
    let chain = "{ type filter hook input priority 0 ; }";
    netns.tool("nft", &["add", "chain", "inet", "hole", "in", chain])?;
    let rule = format!("iifname != lo tcp dport {endpoint} tcp flags & (syn | ack) == syn counter {verdict}");
    netns.tool("nft", &["add", "rule", "inet", "hole", "in", &rule])?;
    Ok(())
}

/// Two sites of one node each, whose services serve. Clients of the one address come in at n1, of the other one at n2.
fn two_sites(name: &str) -> Result<Cluster> {
    let mut cluster = Cluster::new(name, 2)?;
    let dir = cluster.lab.directory().to_owned();
    secrets(&dir)?;
    let authority = init(&dir.join("authority"))?;
    for n in [2, 1] {
        for port in [SHOP, TILL, CALM, EAST, WEST] {
            serve(&cluster.hosts[n - 1].netns, port + 100, u8::try_from(n)?)?;
        }
        // A node sends on what comes back through it for others.
        cluster.hosts[n - 1].netns.sysctl("net/ipv4/ip_forward", "1")?;
        issue(&authority, &n.to_string(), &format!("n{n}"), &dir.join(format!("pki-n{n}")))?;
        let config = config(&dir, n);
        cluster.start(n, &config)?;
    }
    for (vip, node) in [(VIP, "10.9.0.1"), (VIP2, "10.9.0.2")] {
        cluster.client.tool("ip", &["route", "add", vip, "via", node])?;
    }
    Ok(cluster)
}

#[test]
fn a_site_that_is_ready_and_serves_nobody_loses_new_connections_within_the_bound_and_is_tried_again() -> Result<()> {
    let mut cluster = two_sites("shakes")?;
    let names = ["shop", "till", "calm"];
    wait_page(WHOLE, &mut cluster, 1, "half of everything in the other site", |page| {
        names.iter().all(|name| (share(page, name, "dc-b") - 0.5).abs() < 0.01)
    })?;

    let client = cluster.client.clone();
    let calm = Load::start(&client, CALM, BROUGHT / 4);
    for (name, port, verdict) in [("shop", SHOP, "drop"), ("till", TILL, "reject with tcp reset")] {
        let load = Load::start(&client, port, BROUGHT);
        let seen = load.next(300)?;
        ensure!(seen.contains(&1) && seen.contains(&2), "{name}: {seen:?}");
        // Connections that exist, in both sites.
        let mut held =
            client.run(|| (0..16).map(|_| connect(VIP, port).context("a connection")).collect::<Result<Vec<_>>>())?;
        ensure!(held.iter().any(|(number, _)| *number == 2), "{name}: none of 16 connections is at n2");
        let before = page(cluster.daemon(1)).context("a page")?;
        let begun = boot_ns();
        fault(&cluster.hosts[1].netns, port, verdict)?;
        let told = mismatch(&mut cluster, name)?;
        let took = Duration::from_nanos(told["applied"].as_u64().context("a time")?.saturating_sub(begun));
        println!("{name} ({verdict}): no new connection goes there {took:?} after its endpoint stopped answering");
        ensure!(took >= Duration::from_secs(1) && took <= BOUND + ALLOWANCE, "{took:?}: {told:#}");
        ensure!(told["why"]["rule"] == "facts" && told["after"] == json!({ "1": 1.0 }), "{told:#}");

        ensure!(standing(&before, name)["ejections"] == 0, "nobody was suspected: {before:#}");
        let counted = standing(&before, name)["handshakes"]["answered"].as_u64().context("a count")?;
        ensure!(counted > 50, "{name}: handshakes there are counted: {before:#}");

        // All that begins now is answered here. What began before has half a second to give up.
        let all = wait_for(PATIENCE, "answers by this site alone", || {
            load.next(150).ok().filter(|seen| seen.iter().all(|number| *number == 1))
        })?;
        // It said ready all the time, and nothing else moved: no other service, no connection that exists.
        let after = page(cluster.daemon(1)).context("a page")?;
        let there = standing(&after, name);
        ensure!(there["verdict"] == "mismatch" && there["summary"]["ready"] == 1, "{after:#}");
        ensure!(there["ejections"] == 1 && there["ejected"].as_f64() > Some(10.0), "{after:#}");
        // The first service still grows back when the second one fails.
        for other in names.iter().filter(|other| **other != name && **other != "shop") {
            let tables = |page: &Value| service(page, other)["tables"].as_u64();
            ensure!(tables(&after) == tables(&before), "{other} moved: {before:#} {after:#}");
        }
        for (number, stream) in &mut held {
            let mut back = [0];
            let both = stream.write_all(&[77]).and_then(|()| stream.read_exact(&mut back));
            both.with_context(|| format!("{name}: a connection at endpoint {number}"))?;
            ensure!(back == [77], "{name}: endpoint {number} gave {back:?}");
        }
        let seen = calm.next(50)?;
        ensure!(seen.contains(&2) && !seen.contains(&0), "another service is served by both: {seen:?}");
        let metric = |cluster: &mut Cluster, line: &str| cluster.daemon(1).metric(line).unwrap_or_default();
        let failed =
            format!("bascule_sites_service_handshakes_total{{result=\"failed\",service=\"{name}\",site=\"dc-b\"}}");
        let ejections = format!("bascule_sites_service_ejections_total{{service=\"{name}\",site=\"dc-b\"}}");
        let (failed, ejections) = (metric(&mut cluster, &failed), metric(&mut cluster, &ejections));
        ensure!(failed >= 13.0 && ejections == 1.0, "{failed} {ejections}");
        let words = (cluster.daemon(1).ctl(&["sites"])?, cluster.daemon(1).ctl(&["why", name])?);
        ensure!(words.0.contains("(out for "), "{}", words.0);
        ensure!(words.1.contains("dc-b is mismatch: it says ready, and handshakes with it fail"), "{}", words.1);
        // The site itself serves whom it can: its own clients are not asked to leave by what those of another site see.
        let theirs = page(cluster.daemon(2)).context("a page")?;
        ensure!(standing(&theirs, name)["ejections"] == 0, "{theirs:#}");
        println!("{} connections in a row were answered by this site", all.len());

        // It serves again: after its time it is tried, and stays.
        cluster.hosts[1].netns.tool("nft", &["delete", "table", "inet", "hole"])?;
        let tried =
            wait_page(PATIENCE, &mut cluster, 1, "the site to be tried again", |page| share(page, name, "dc-b") > 0.0)?;
        let out = Duration::from_nanos(boot_ns().saturating_sub(told["decided"].as_u64().context("a time")?));
        ensure!(out >= EJECTED, "{out:?}: {tried:#}");
        wait_for(PATIENCE, "an answer of the other site", || load.next(50).ok().filter(|seen| seen.contains(&2)))?;
        let now = page(cluster.daemon(1)).context("a page")?;
        ensure!(standing(&now, name)["ejections"] == 1, "{now:#}");
        println!("tried again {:.1} s after it was left out", out.as_secs_f64());
    }
    Ok(())
}

#[test]
fn probes_are_few_while_handshakes_speak_for_the_path_and_many_again_without_them() -> Result<()> {
    let mut cluster = two_sites("quiet")?;
    let ends = [(1, "east", "dc-b"), (2, "west", "dc-a")];
    for (n, name, other) in ends {
        let what = format!("nearly all of {name} in {other}");
        wait_page(WHOLE, &mut cluster, n, &what, |page| share(page, name, other) > 0.9)?;
    }
    let suppressed = |page: &Value| page["sites"][0]["path"]["path"]["suppressed"].as_bool();
    let client = cluster.client.clone();
    let one = Load::with(&client, VIP, EAST, MANY, 4);
    // Traffic of one end alone speaks for nobody: the other one goes on asking for probes.
    let answered = |page: &Value| standing(page, "east")["handshakes"]["prompt"].as_u64();
    let from = page(cluster.daemon(1)).as_ref().and_then(answered).unwrap_or_default();
    wait_page(PATIENCE, &mut cluster, 1, "2000 prompt handshakes", |page| {
        assert_eq!(suppressed(page), Some(false), "n2 has seen nothing");
        answered(page) >= Some(from + 2000)
    })?;
    let two = Load::with(&client, VIP2, WEST, MANY, 4);
    let begun = Stamp::now();
    // Both ends, over a time in which at full rate each of two flows had sent ten times more.
    let mut last: Option<(Stamp, u64)> = None;
    let daemon = cluster.daemon(1);
    let rate = wait_for(PATIENCE, "a second in which probes are few", || {
        let page = page(daemon)?;
        let sent = page["sites"][0]["path"]["counters"]["sent"].as_u64()?;
        let (at, before) = *last.get_or_insert((Stamp::now(), sent));
        let (span, quiet) = (Stamp::now().since(at).as_secs_f64(), suppressed(&page) == Some(true));
        if span < 1.5 {
            return None;
        }
        last = Some((Stamp::now(), sent));
        let rate = (sent - before) as f64 / span;
        (quiet && rate < 8.0).then_some(rate)
    })?;
    println!(
        "{rate:.1} probes a second after {:.1} s of traffic at both ends",
        Stamp::now().since(begun).as_secs_f64()
    );
    for (n, _, other) in ends {
        let daemon = cluster.daemon(n);
        let gauge = format!("bascule_sites_path_quiet{{site=\"{other}\"}}");
        wait_for(PATIENCE, "the gauge", || (daemon.metric(&gauge) == Some(1.0)).then_some(()))?;
        wait_for(PATIENCE, "the word for it", || daemon.ctl(&["sites"]).ok().filter(|text| text.contains("(quiet)")))?;
    }
    drop((one, two));
    for (n, ..) in ends {
        let shown =
            wait_page(PATIENCE, &mut cluster, n, "probes at full rate", |page| suppressed(page) == Some(false))?;
        let path = &shown["sites"][0]["path"]["path"];
        ensure!(path["carriage"] == "up" && path["brownoutIn"].is_null() && path["brownoutOut"].is_null(), "{path:#}");
    }
    Ok(())
}
