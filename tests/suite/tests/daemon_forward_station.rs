//! Frames for other stations, which a switch shows to every node while it does not know where they are.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_lab::{tool, wait_for};
use bascule_suite::cluster::{Cluster, SOON};
use serde_json::json;

const VIP: &str = "10.9.7.100";
const PORT: u16 = 7000;
const ENDPOINT_PORT: u16 = 7100;
/// Nobody's.
const NOBODY: &str = "02:00:00:00:00:99";
/// How often a datagram is sent before its answer is missed.
const TRIES: usize = 20;

/// What the endpoint on node 2 has received when a datagram to the right station, node 1, has come: each node that takes a frame sends it
/// there, where the stack itself drops a frame that is not for it.
fn received(hook: &str) -> Result<Vec<Vec<u8>>> {
    let mut cluster = Cluster::new(&format!("fwst{}", &hook[..1]), 2)?;
    let [node, other] = [0, 1].map(|n| cluster.hosts[n].netns.clone());
    let client = cluster.client.clone();
    for netns in [&node, &other, &client] {
        // veth leaves checksums to a card that is not there.
        tool(Some(netns), "ethtool", &["-K", "eth0", "tx", "off"], None)?;
    }
    for host in &cluster.hosts {
        // What XDP sends into a veth arrives where the other end polls.
        tool(Some(cluster.lan.netns()), "ethtool", &["-K", host.port.name(), "gro", "on"], None)?;
    }
    let keys = cluster.lab.directory().join("forward.keys");
    let key = "00112233445566778899aabbccddeeff";
    std::fs::write(&keys, format!("0:{key}\nflow:{key}{key}\n"))?;
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let endpoint = other.run(|| UdpSocket::bind(("10.9.0.2", ENDPOINT_PORT)))?;
    endpoint.set_read_timeout(Some(Duration::from_millis(500)))?;
    let nodes = json!([
        { "name": "n1", "id": 1, "addresses": ["10.9.0.1"] },
        { "name": "n2", "id": 2, "addresses": ["10.9.0.2"] },
    ]);
    let endpoints = json!([{ "address": "10.9.0.2", "port": ENDPOINT_PORT, "node": "n2" }]);
    for n in 1..=2 {
        let config = json!({
            "node": format!("n{n}"),
            "forwarding": { "nodes": nodes, "keyFile": keys, "hook": hook },
            "services": [{ "name": "dns", "vip": VIP, "port": PORT, "protocol": "udp", "endpoints": endpoints }],
        });
        cluster.start(n, &config)?;
    }
    for n in 1..=2 {
        cluster.wait_metric(n, "bascule_forward_on", |on| on == 1.0)?;
        let daemon = cluster.daemon(n);
        wait_for(SOON, "programs on the device, and a way to the other node", || {
            let (_, body) = daemon.get("/services").ok()?;
            let page: serde_json::Value = serde_json::from_str(&body).ok()?;
            let stands = page["devices"][0]["ingress"].as_str()?.starts_with(hook);
            (stands && !page["conditions"].to_string().contains("no way to")).then_some(())
        })?;
    }

    let vip: IpAddr = VIP.parse()?;
    tool(Some(&client), "ip", &["route", "replace", VIP, "dev", "eth0"], None)?;
    let station = |mac: &str| tool(Some(&client), "ip", &["neigh", "replace", VIP, "lladdr", mac, "dev", "eth0"], None);
    let socket = client.run(|| UdpSocket::bind(("0.0.0.0", 20_000)))?;
    socket.connect((vip, PORT))?;
    station(NOBODY)?;
    for _ in 0..TRIES {
        socket.send(b"flooded")?;
    }
    station(&node.mac("eth0")?.to_string())?;
    let mut seen = Vec::new();
    let mut buffer = [0; 64];
    for _ in 0..TRIES {
        socket.send(b"right")?;
        // The same way for both kinds: what was taken of the first is read before the second.
        while let Ok(length) = endpoint.recv(&mut buffer) {
            seen.push(buffer[..length].to_vec());
            if seen.last().is_some_and(|last| last == b"right") {
                return Ok(seen);
            }
        }
    }
    Err(anyhow::anyhow!("nothing arrived, {seen:?}")).with_context(|| cluster.daemon(1).process.tail())
}

#[test]
fn xdp_leaves_frames_for_other_stations_alone() -> Result<()> {
    let seen = received("xdp")?;
    ensure!(seen == [b"right"], "{seen:?}");
    Ok(())
}

#[test]
fn tc_leaves_frames_for_other_stations_alone() -> Result<()> {
    let seen = received("tc")?;
    ensure!(seen == [b"right"], "{seen:?}");
    Ok(())
}
