//! The daemon with a data plane: what it shows, what a restart keeps, what a stop leaves, and traffic through two nodes.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::{Lab, tool, wait_for};
use bascule_suite::cluster::{Cluster, SOON};
use serde_json::{Value, json};

const VIP: &str = "10.9.7.100";
const PORT: u16 = 7000;
const ENDPOINT_PORT: u16 = 7100;
const CHECK_PORT: u16 = 7200;

fn key_file(lab: &Lab) -> Result<String> {
    let path = lab.directory().join("forward.keys");
    if !path.exists() {
        let key = "00112233445566778899aabbccddeeff";
        std::fs::write(&path, format!("0:{key}\nflow:{key}{key}\n"))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    Ok(path.display().to_string())
}

/// Node `n` of `count`; every node carries one endpoint, a process of its own.
fn config(lab: &Lab, n: usize, count: usize) -> Result<Value> {
    let nodes: Vec<Value> = (1..=count)
        .map(|n| json!({ "name": format!("n{n}"), "id": n, "addresses": [format!("10.9.0.{n}")] }))
        .collect();
    let endpoints: Vec<Value> = (1..=count)
        .map(|n| {
            json!({ "name": format!("e{n}"), "address": format!("10.9.0.{n}"), "port": ENDPOINT_PORT, "node": format!("n{n}") })
        })
        .collect();
    Ok(json!({
        "node": format!("n{n}"),
        "forwarding": { "nodes": nodes, "keyFile": key_file(lab)? },
        "services": [{ "name": "dns", "vip": VIP, "port": PORT, "protocol": "udp", "endpoints": endpoints }],
    }))
}

fn page(daemon: &Bascule) -> Option<Value> {
    let (status, body) = daemon.get("/services").ok()?;
    (status == 200).then(|| serde_json::from_str(&body).ok())?
}

/// Programs on eth0, tables built, every node reached.
fn wait_on(daemon: &Bascule) -> Result<Value> {
    let mut last = Value::Null;
    let on = wait_for(SOON, "the data plane", || {
        last = page(daemon)?;
        let table = last["balance"]["services"][0]["nodes"]["rows"].as_u64()?;
        let lost = last["conditions"].as_array()?.iter().any(|c| c.as_str().is_some_and(|c| c.contains("no way to")));
        (last["on"] == true && table > 0 && last["devices"][0]["device"] == "eth0" && !lost).then(|| last.clone())
    });
    on.with_context(|| format!("{last:#}"))
}

fn link_ids(cluster: &Cluster, n: usize) -> Result<Vec<u32>> {
    let netns = cluster.hosts[n - 1].netns.clone();
    let index = netns.ifindex("eth0")?;
    let links = netns.run(move || bascule_suite::devices::forward_links(index))?;
    Ok(links.iter().map(|link| link.id).collect())
}

#[test]
fn it_shows_services_and_traces_and_keeps_its_links_over_kill_and_stop() -> Result<()> {
    let mut cluster = Cluster::new("fwd", 2)?;
    for n in 1..=2 {
        let config = config(&cluster.lab, n, 2)?;
        cluster.start(n, &config)?;
    }
    wait_on(cluster.daemon(2))?;
    let shown = wait_on(cluster.daemon(1))?;
    ensure!(shown["devices"][0]["ingress"] == "xdp" && shown["devices"][0]["egress"] == "tcx", "{shown:#}");
    let endpoints = &shown["balance"]["services"][0]["endpoints"];
    ensure!(endpoints[0]["slot"].is_u64() && endpoints[1]["slot"].is_null(), "only its own has a slot: {endpoints}");
    let table = cluster.daemon(1).ctl(&["services"])?;
    ensure!(table.contains("eth0 (xdp in, tcx out)") && table.contains("2/2 ready"), "{table}");
    cluster.wait_metric(1, "bascule_forward_on", |on| on == 1.0)?;
    let swapped = "bascule_forward_tables_total{work=\"swapped\"}";
    cluster.wait_metric(1, swapped, |swaps| swaps >= 1.0)?;

    // Some client is for each node, and both say the same of it.
    let (mut here, mut there) = (false, false);
    for client in 1..=40 {
        let from = format!("192.0.2.{client}:4000");
        let words = ["trace", &format!("{VIP}:{PORT}"), "--from", &from, "--protocol", "udp"];
        let (one, two) = (cluster.daemon(1).ctl(&words)?, cluster.daemon(2).ctl(&words)?);
        ensure!(one.lines().next() == two.lines().next(), "another hash or row:\n{one}\n{two}");
        here |= one.contains("first packet: opens a flow to 10.9.0.1 port 7100");
        there |= one.contains("first packet: encapsulated to node 2 (10.9.0.2)");
        ensure!(one.contains("opens a flow") != two.contains("opens a flow"), "one home:\n{one}\n{two}");
    }
    ensure!(here && there, "both nodes are homes");
    let stranger = cluster.daemon(1).ctl(&["trace", "10.9.7.99:1", "--from", "192.0.2.1:1"])?;
    ensure!(stranger.contains("passes: no service"), "{stranger}");

    let before = link_ids(&cluster, 1)?;
    ensure!(before.len() == 2, "{before:?}");
    cluster.daemon(1).process.sigkill()?;
    ensure!(link_ids(&cluster, 1)? == before, "a killed daemon leaves its programs");
    let config1 = config(&cluster.lab, 1, 2)?;
    cluster.start(1, &config1)?;
    wait_on(cluster.daemon(1))?;
    ensure!(link_ids(&cluster, 1)? == before, "the same links");
    cluster.daemon(1).process.sigterm()?;
    cluster.daemon(1).process.wait(SOON)?;
    ensure!(link_ids(&cluster, 1)? == before, "a stop leaves them, too");

    // Without the section the next run takes them away.
    let plain = json!({ "node": "n1", "vips": [cluster.group()] });
    cluster.start(1, &plain)?;
    cluster.daemon(1).wait_role(SOON, "web", "active")?;
    let netns = cluster.hosts[0].netns.clone();
    wait_for(SOON, "the programs to go", || {
        let index = netns.ifindex("eth0").ok()?;
        let names = netns.run(move || bascule_suite::devices::program_names(index)).ok()?;
        (!names.iter().any(|name| name.starts_with("bascule_xdp") || name.starts_with("bascule_tc"))).then_some(())
    })?;
    let (status, _) = cluster.daemon(1).get("/services")?;
    ensure!(status == 200);
    Ok(())
}

#[test]
fn a_reload_moves_rows_and_a_dead_endpoint_takes_no_new_flows() -> Result<()> {
    let mut cluster = Cluster::new("fwdr", 2)?;
    let mut both = config(&cluster.lab, 1, 2)?;
    // Nobody listens on the other node.
    both["services"][0]["check"] =
        json!({ "tcp": { "port": CHECK_PORT }, "interval": "200ms", "timeout": "100ms", "rise": 1, "fall": 2 });
    let _listener = cluster.hosts[0].netns.run(|| TcpListener::bind(("0.0.0.0", CHECK_PORT)))?;
    cluster.start(1, &both)?;
    let state = |daemon: &Bascule, of: usize| {
        page(daemon).map(|page| page["balance"]["services"][0]["endpoints"][of]["serving"].clone())
    };
    // Before its first check nobody serves.
    wait_for(SOON, "e1 to pass its check", || (state(cluster.daemon(1), 0)? == true).then_some(()))?;
    wait_for(SOON, "e2 to fail its check", || (state(cluster.daemon(1), 1)? == false).then_some(()))?;
    ensure!(state(cluster.daemon(1), 0).context("a page")? == true, "e1 still answers");
    let failed = "bascule_forward_checks_total{endpoint=\"e2\",result=\"failed\",service=\"dns\"}";
    cluster.wait_metric(1, failed, |n| n >= 1.0)?;
    let mut one = both.clone();
    one["services"][0]["endpoints"].as_array_mut().context("endpoints")?.pop();
    cluster.daemon(1).rewrite(&one)?;
    wait_for(SOON, "e2 to be gone", || {
        let page = page(cluster.daemon(1))?;
        (page["balance"]["services"][0]["endpoints"].as_array()?.len() == 1).then_some(())
    })?;
    Ok(())
}

/// A process on the node that answers every datagram with its number.
fn answerer(cluster: &Cluster, n: u8) -> Result<()> {
    let netns = cluster.hosts[usize::from(n) - 1].netns.clone();
    let socket = netns.run(move || UdpSocket::bind(("0.0.0.0", ENDPOINT_PORT)))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _gone = socket.send_to(&[n], from);
        }
    });
    Ok(())
}

#[test]
fn datagrams_reach_the_endpoint_of_their_home_through_either_node() -> Result<()> {
    let mut cluster = Cluster::new("fwdt", 2)?;
    // By tc: what XDP sends into a veth arrives only where an XDP program stands at its other end. And veth leaves checksums to a card
    // that is not there.
    tool(Some(&cluster.client), "ethtool", &["-K", "eth0", "tx", "off"], None)?;
    for host in &cluster.hosts {
        tool(Some(&host.netns), "ethtool", &["-K", "eth0", "tx", "off"], None)?;
    }
    for n in 1..=2u8 {
        answerer(&cluster, n)?;
        let mut config = config(&cluster.lab, n.into(), 2)?;
        config["forwarding"]["hook"] = json!("tc");
        cluster.start(n.into(), &config)?;
    }
    for n in 1..=2 {
        wait_on(cluster.daemon(n))?;
    }
    let vip: IpAddr = VIP.parse()?;
    let client = cluster.client.clone();
    let mut answers: [Vec<u8>; 2] = Default::default();
    for via in 1..=2 {
        let gateway = format!("10.9.0.{via}");
        tool(Some(&client), "ip", &["route", "replace", VIP, "via", &gateway], None)?;
        for source in 20_000..20_020u16 {
            let answer = client.run(move || -> std::io::Result<u8> {
                let socket = UdpSocket::bind(("0.0.0.0", source))?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                socket.connect((vip, PORT))?;
                let mut answer = [0];
                for _ in 0..10 {
                    socket.send(b"?")?;
                    if socket.recv(&mut answer).is_ok() {
                        return Ok(answer[0]);
                    }
                }
                Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
            });
            let answer = answer.with_context(|| {
                format!("port {source} via n{via}:\n{:#}", page(cluster.daemon(via)).unwrap_or_default())
            });
            answers[via - 1].push(answer?);
        }
    }
    ensure!(answers[0] == answers[1], "the same home through either node: {answers:?}");
    ensure!(answers[0].contains(&1) && answers[0].contains(&2), "both endpoints serve: {answers:?}");
    let flows = cluster.daemon(1).ctl(&["flows", "--vip", &format!("{VIP}:{PORT}")])?;
    ensure!(flows.contains("10.9.0.1:7100"), "{flows}");
    Ok(())
}

/// Loading all programs takes a second, on a machine with twenty busy threads ten.
const BOOT: Duration = Duration::from_secs(60);

/// The other node's session, as the daemon says, and the devices that carry its programs. In this order: what stands when a session is up
/// stood before.
fn session_and_devices(daemon: &Bascule) -> Option<(bool, Value)> {
    let (_, bfd) = daemon.get("/bfd").ok()?;
    let bfd: Value = serde_json::from_str(&bfd).ok()?;
    Some((bfd["peers"][0]["state"] == "up", page(daemon)?))
}

fn session_with(n: usize) -> Value {
    json!({ "peers": [{ "address": format!("10.9.0.{n}"), "transmitInterval": "100ms", "receiveInterval": "100ms" }] })
}

/// Without it the others would send packets for flows to a node that has no programs yet.
#[test]
fn a_node_that_boots_has_no_session_before_its_programs_stand() -> Result<()> {
    let mut cluster = Cluster::new("fwdb", 2)?;
    let mut files = Vec::new();
    for n in 1..=2usize {
        let mut file = config(&cluster.lab, n, 2)?;
        file["bfd"] = session_with(3 - n);
        // Its tables wait for the first word of a check that nobody answers: 3 s and more, in which a session would long be up.
        file["services"][0]["check"] = json!({ "tcp": { "port": CHECK_PORT }, "interval": "5s", "timeout": "3s" });
        file["services"][0]["endpoints"][1]["address"] = json!("10.9.0.250");
        files.push(file);
    }
    let _e1 = cluster.hosts[0].netns.run(|| TcpListener::bind(("0.0.0.0", CHECK_PORT)))?;
    cluster.start(1, &files[0])?;
    cluster.start(2, &files[1])?;
    let mut early = None;
    let up = wait_for(BOOT, "the session", || {
        let (up, page) = session_and_devices(cluster.daemon(2))?;
        let stands = page["devices"].as_array().is_some_and(|devices| !devices.is_empty());
        (up && !stands).then(|| early = Some(page));
        up.then_some(())
    });
    up.with_context(|| cluster.daemon(2).process.tail())?;
    ensure!(early.is_none(), "a session before the programs: {early:#?}");
    let begun = "BFD with nodes of the data plane begins";
    ensure!(cluster.daemon(2).process.log().contains(begun), "{}", cluster.daemon(2).process.tail());

    // Programs of a former run forward: nobody has to wait for the next daemon's.
    cluster.daemon(2).process.sigkill()?;
    cluster.start(2, &files[1])?;
    let up =
        wait_for(BOOT, "the session of the next daemon", || session_and_devices(cluster.daemon(2))?.0.then_some(()));
    up.with_context(|| cluster.daemon(2).process.tail())?;
    ensure!(!cluster.daemon(2).process.log().contains(begun), "{}", cluster.daemon(2).process.tail());
    Ok(())
}

#[test]
fn a_node_that_cannot_forward_says_so_and_has_sessions_all_the_same() -> Result<()> {
    let mut cluster = Cluster::new("fwdc", 2)?;
    // A bridge has no native XDP, and no other way is allowed.
    let netns = cluster.hosts[1].netns.clone();
    tool(Some(&netns), "ip", &["link", "add", "br0", "type", "bridge"], None)?;
    for n in 1..=2usize {
        let mut file = config(&cluster.lab, n, 2)?;
        file["bfd"] = session_with(3 - n);
        if n == 2 {
            file["forwarding"]["interfaces"] = json!(["br0"]);
            file["forwarding"]["hook"] = json!("xdp");
        }
        cluster.start(n, &file)?;
    }
    let mut last = None;
    let up = wait_for(BOOT, "the session", || {
        last = session_and_devices(cluster.daemon(2));
        last.as_ref()?.0.then_some(())
    });
    up.with_context(|| cluster.daemon(2).process.tail())?;
    let (_, page) = last.context("a page")?;
    ensure!(page["devices"].as_array().is_some_and(Vec::is_empty), "{page:#}");
    ensure!(page["conditions"].to_string().contains("br0"), "the condition was there first: {page:#}");
    Ok(())
}
