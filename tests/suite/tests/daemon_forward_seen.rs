//! What a running data plane shows: each probe of a device, each counter, moved by a fault of its own; and what it must leave alone.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::TcAttachType;
use bascule_ebpf_common::forward::PacketDrop;
use bascule_lab::forward::{FLEET_VIP, Fleet, ipv4, send_frame, unless_void};
use bascule_lab::wait_for;
use bascule_suite::devices::foreign_tcx;
use serde_json::{Value, json};

const FLOWS: u32 = 16_384;
const SOON: Duration = Duration::from_secs(20);

fn probe(name: &str) -> String {
    format!("bascule_forward_probe{{device=\"eth0\",probe=\"{name}\"}}")
}

fn conditions(fleet: &mut Fleet, n: u16) -> Result<Vec<String>> {
    let (_, body) = fleet.daemon(n).get("/services")?;
    let page: Value = serde_json::from_str(&body)?;
    let said = page["conditions"].as_array().context("conditions")?;
    Ok(said.iter().filter_map(|c| c.as_str().map(str::to_owned)).collect())
}

/// The probe fails: metric, condition and command line say so.
fn fails(fleet: &mut Fleet, n: u16, name: &str, words: &str) -> Result<()> {
    fleet.crew.wait_metric(n, &probe(name), |ok| ok == 0.0)?;
    let said = conditions(fleet, n)?;
    ensure!(said.iter().any(|c| c.starts_with("eth0: ") && c.contains(words)), "{name}: {said:?}");
    let table = fleet.daemon(n).ctl(&["services"])?;
    ensure!(table.lines().any(|line| line.starts_with("! eth0: ") && line.contains(words)), "{name}: {table}");
    ensure!(fleet.wait_on(n)?["on"] == true, "{name}: the node goes on");
    Ok(())
}

fn passes(fleet: &mut Fleet, n: u16, names: &[&str]) -> Result<()> {
    for name in names {
        fleet.crew.wait_metric(n, &probe(name), |ok| ok == 1.0)?;
    }
    Ok(())
}

#[test]
fn probes_of_a_device_end_as_conditions_and_metrics_and_never_as_a_dead_node() -> Result<()> {
    let mut fleet = Fleet::new("fprobe", 2, "auto")?;
    for (file, value) in
        [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/eth0/rp_filter", "0")]
    {
        fleet.crew.node(1).netns.sysctl(file, value)?;
    }
    fleet.start_all(FLOWS)?;
    passes(&mut fleet, 1, &["native_xdp", "headroom", "tcx", "tc_order", "rp_filter", "ip_forward"])?;
    let nothing = wait_for(SOON, "nothing to say", || conditions(&mut fleet, 1).ok()?.is_empty().then_some(()));
    nothing.with_context(|| format!("{:?}", conditions(&mut fleet, 1)))?;

    fleet.crew.node(1).netns.sysctl("net/ipv4/conf/eth0/rp_filter", "1")?;
    fails(&mut fleet, 1, "rp_filter", "rp_filter of eth0 is strict")?;
    fleet.crew.node(1).netns.sysctl("net/ipv4/conf/eth0/rp_filter", "2")?;
    fleet.crew.node(1).netns.sysctl("net/ipv4/ip_forward", "0")?;
    fails(&mut fleet, 1, "ip_forward", "net.ipv4.ip_forward is 0")?;
    passes(&mut fleet, 1, &["rp_filter"])?;

    let netns = fleet.crew.node(1).netns.clone();
    let index = netns.ifindex("eth0")?;
    let foreign = netns.run(move || foreign_tcx(index, TcAttachType::Egress))?;
    fails(&mut fleet, 1, "tc_order", "before ours may end the egress chain")?;
    drop(foreign);
    passes(&mut fleet, 1, &["tc_order"])?;

    // A driver without room is not to be had here: what the program counts on one is.
    let maps = fleet.pins(1)?.into_iter().find(|name| name.starts_with("maps-")).context("a set of maps")?;
    let map = MapData::from_pin(fleet.pin_dir(1)?.join(maps).join("TALLIES"))?;
    let mut tallies: PerCpuArray<_, u64> = PerCpuArray::try_from(Map::PerCpuArray(map))?;
    let slot = PacketDrop::Headroom as u32;
    let more = tallies.get(&slot, 0)?.iter().map(|count| count + 1).collect::<Vec<_>>();
    tallies.set(slot, PerCpuValues::try_from(more)?, 0)?;
    fails(&mut fleet, 1, "headroom", "leaves no room before a frame")?;
    let on_tc = "bascule_forward_device{device=\"eth0\",egress=\"tcx\",ingress=\"tcx\"}";
    fleet.crew.wait_metric(1, on_tc, |is| is == 1.0)?;
    ensure!(fleet.fresh(8)? == 8, "and traffic goes on, by tc");
    // The chain of arriving frames is looked at as well, now that we stand there.
    let netns = fleet.crew.node(1).netns.clone();
    let _foreign = netns.run(move || foreign_tcx(index, TcAttachType::Ingress))?;
    fails(&mut fleet, 1, "tc_order", "before ours may end the ingress chain")
}

#[test]
fn a_device_without_native_xdp_says_so_and_a_configured_way_is_not_asked_for_another() -> Result<()> {
    let mut fleet = Fleet::new("fbridge", 2, "tc")?;
    fleet.start_all(FLOWS)?;
    passes(&mut fleet, 1, &["tcx", "tc_order"])?;
    ensure!(fleet.daemon(1).metric(&probe("native_xdp")).is_none(), "nobody asked for XDP");
    // A bridge in the place of the card: no driver of that kind has XDP.
    let netns = &fleet.crew.node(2).netns;
    for words in ["link add br0 type bridge", "link set br0 up"] {
        netns.tool("ip", &words.split(' ').collect::<Vec<_>>())?;
    }
    let mut config = fleet.config(2, FLOWS);
    config["forwarding"]["hook"] = json!("auto");
    config["forwarding"]["interfaces"] = json!(["br0"]);
    fleet.daemon(2).rewrite(&config)?;
    let line = "bascule_forward_probe{device=\"br0\",probe=\"native_xdp\"}";
    fleet.crew.wait_metric(2, line, |ok| ok == 0.0)?;
    let said = conditions(&mut fleet, 2)?;
    ensure!(said.iter().any(|c| c == "br0: xdp: the driver has none"), "{said:?}");
    ensure!(fleet.daemon(2).metric(&probe("tcx")).is_none(), "eth0 carries nothing any more");
    Ok(())
}

/// Who reaches an endpoint directly is answered by the endpoint, whatever the reverse map knows; who stands outside is answered by the VIP.
#[test]
fn replies_to_hosts_inside_are_left_alone() -> Result<()> {
    let mut fleet = Fleet::new("finside", 2, "tc")?;
    fleet.start_all(FLOWS)?;
    let client = fleet.client.clone();
    // A new port each time: no flow may know it.
    let direct = move |port: u16| {
        client.run(move || -> std::io::Result<SocketAddr> {
            let socket = UdpSocket::bind(("0.0.0.0", port))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send_to(&[0; 12], (Ipv4Addr::new(10, 9, 0, 1), 7100))?;
            Ok(socket.recv_from(&mut [0; 12])?.1)
        })
    };
    let reverse = "bascule_forward_verdicts_total{verdict=\"reply_reverse\"}";
    ensure!(direct(21_000)?.to_string() == "10.9.0.1:7100", "private ranges are inside by default");
    ensure!(fleet.crew.wait_metric(1, reverse, |_| true)? == 0.0);
    let (_, body) = fleet.daemon(1).get("/services")?;
    ensure!(
        serde_json::from_str::<Value>(&body)?["inside"].as_array().context("inside")?.contains(&json!("10.0.0.0/8"))
    );

    let mut config = fleet.config(1, FLOWS);
    config["forwarding"]["clusterRanges"] = json!(["192.0.2.0/24"]);
    fleet.daemon(1).rewrite(&config)?;
    let outside = wait_for(SOON, "the client to be outside", || {
        let table = fleet.daemon(1).ctl(&["services"]).ok()?;
        table.contains("inside: 10.9.0.1/32, 10.9.0.2/32, 192.0.2.0/24").then_some(())
    });
    outside?;
    ensure!(direct(21_001)?.to_string() == format!("{FLEET_VIP}:7000"), "what the map is for");
    fleet.crew.wait_metric(1, reverse, |replies| replies == 1.0)?;

    // A start sweeps what nobody names: these it names.
    fleet.daemon(1).process.sigkill()?;
    fleet.start(1, FLOWS)?;
    fleet.wait_on(1)?;
    ensure!(direct(21_002)?.to_string() == "10.9.0.1:7100", "the default again");
    Ok(())
}

#[test]
fn another_size_of_the_map_of_flows_takes_effect_at_once_and_loses_nothing() -> Result<()> {
    let (_, toll) = unless_void(|| {
        let mut fleet = Fleet::new("fsize", 2, "auto")?;
        fleet.start_all(FLOWS)?;
        let links = fleet.links(1)?;
        let traffic = fleet.traffic(4, 20)?;
        for flows in [32_768, FLOWS] {
            let config = fleet.config(1, flows);
            fleet.daemon(1).rewrite(&config)?;
            let capacity = "bascule_forward_map_capacity{map=\"flows\"}";
            fleet.crew.wait_metric(1, capacity, |size| size == f64::from(flows))?;
            fleet.wait_on(1)?;
            let pins = fleet.pins(1)?;
            let count = |prefix: &str| pins.iter().filter(|name| name.starts_with(prefix)).count();
            ensure!((count("maps-"), count("load-"), count("link-")) == (1, 1, 2), "{pins:?}");
        }
        let toll = traffic.finish()?;
        let ids = |of: &[bascule_lab::forward::DeviceLink]| of.iter().map(|link| link.id).collect::<Vec<_>>();
        ensure!(ids(&fleet.links(1)?) == ids(&links), "under the links that stood");
        Ok(((), toll))
    })?;
    ensure!(toll.broken.is_empty() && toll.datagrams.1 == 0 && toll.datagrams.0 > 100, "{toll:?}");
    Ok(())
}

/// Services beside the fleet's own, each with one fault.
fn faulty(fleet: &Fleet, n: u16) -> Value {
    let mut config = fleet.config(n, FLOWS);
    let endpoint = |port: u16| json!([{ "name": "x", "address": "10.9.0.1", "port": port, "node": "n1" }]);
    let services = config["services"].as_array_mut().expect("services");
    services.push(json!({ "name": "closed", "vip": FLEET_VIP, "port": 7010, "endpoints": endpoint(7110) }));
    services.push(json!({ "name": "mute", "vip": FLEET_VIP, "port": 7011, "endpoints": endpoint(7111) }));
    let private = json!({ "name": "private", "vip": FLEET_VIP, "port": 7012, "endpoints": endpoint(7110), "sources": ["192.0.2.0/24"] });
    services.push(private);
    config
}

fn connect(fleet: &Fleet, port: u16) -> std::io::Result<TcpStream> {
    let to = SocketAddr::from((FLEET_VIP, port));
    fleet.client.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(500)))
}

#[test]
fn every_counter_of_forwarding_is_moved_by_its_fault() -> Result<()> {
    let mut fleet = Fleet::new("fcount", 2, "tc")?;
    for n in 1..=2 {
        let config = faulty(&fleet, n);
        fleet.crew.start(n, &config)?;
    }
    for n in 1..=2 {
        fleet.wait_on(n)?;
    }
    fleet.crew.node(1).netns.tool("nft", &["add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in tcp dport 7111 drop"])?;
    // Either node is the home of a flow with a chance of one half: of 16 all miss one of them once in 32,768 runs.
    let traffic = fleet.traffic(16, 16)?;
    let tcp = |service: &str, event: &str| {
        let endpoint = if service == "audit" { "e1" } else { "x" };
        format!("bascule_forward_endpoint_tcp_total{{endpoint=\"{endpoint}\",event=\"{event}\",service=\"{service}\"}}")
    };
    for line in [
        "bascule_forward_service_packets_total{service=\"echo\"}",
        "bascule_forward_service_bytes_total{service=\"audit\"}",
        "bascule_forward_service_new_flows_total{service=\"audit\"}",
        "bascule_forward_endpoint_packets_total{direction=\"sent\",endpoint=\"e1\",service=\"echo\"}",
        "bascule_forward_endpoint_packets_total{direction=\"received\",endpoint=\"e1\",service=\"audit\"}",
        "bascule_forward_endpoint_bytes_total{direction=\"sent\",endpoint=\"e1\",service=\"audit\"}",
        "bascule_forward_hops_total{nodes=\"0\"}",
        "bascule_forward_verdicts_total{verdict=\"encapsulated\"}",
        "bascule_forward_map_entries{map=\"flows\"}",
        "bascule_forward_map_entries{map=\"rows\"}",
        "bascule_forward_tables_total{work=\"swapped\"}",
        &tcp("audit", "syn"),
        &tcp("audit", "syn_ack"),
    ] {
        fleet.crew.wait_metric(1, line, |count| count > 0.0)?;
    }

    // Passive evidence: an endpoint that refuses, and one that does not answer, whatever a check would say.
    let refused = connect(&fleet, 7010).expect_err("nobody listens");
    ensure!(refused.kind() == std::io::ErrorKind::ConnectionRefused, "{refused}: the RST comes from the VIP");
    fleet.crew.wait_metric(1, &tcp("closed", "reset"), |resets| resets >= 1.0)?;
    ensure!(connect(&fleet, 7011).is_err());
    fleet.crew.wait_metric(1, &tcp("mute", "syn"), |syns| syns >= 1.0)?;
    ensure!(fleet.crew.wait_metric(1, &tcp("mute", "syn_ack"), |_| true)? == 0.0);
    fleet.crew.wait_metric(1, "bascule_forward_map_entries{map=\"half_open\"}", |entries| entries > 0.0)?;

    let refused = "bascule_forward_drops_total{reason=\"source_range\"}";
    ensure!(connect(&fleet, 7012).is_err());
    let by_either =
        wait_for(SOON, refused, || (1..=2).any(|n| fleet.daemon(n).metric(refused) > Some(0.0)).then_some(()));
    by_either?;

    // An ACK of a connection that nobody knows.
    let mut segment = Vec::new();
    for word in [33_333u16, 7001, 0, 1, 0, 1, 0x5010, 1024, 0, 0] {
        segment.extend(word.to_be_bytes());
    }
    let to = fleet.crew.node(1).netns.mac("eth0")?;
    for _ in 0..8 {
        send_frame(&fleet.client, "eth0", to, &ipv4(6, (Ipv4Addr::new(10, 9, 0, 200), FLEET_VIP), 64, &segment))?;
    }
    let orphans = "bascule_forward_service_orphans_total{service=\"audit\"}";
    let by_either =
        wait_for(SOON, orphans, || (1..=2).any(|n| fleet.daemon(n).metric(orphans) >= Some(8.0)).then_some(()));
    by_either?;

    // An endpoint less: its rows move. A node that nobody finds: what is for it is dropped.
    let moved = fleet.crew.wait_metric(1, "bascule_forward_rows_moved_total", |_| true)?;
    let mut config = faulty(&fleet, 1);
    let nodes = config["forwarding"]["nodes"].as_array_mut().context("nodes")?;
    nodes.push(json!({ "name": "n9", "id": 9, "addresses": ["10.9.0.99"] }));
    let endpoints = &mut config["services"][0]["endpoints"];
    *endpoints = json!([{ "name": "e9", "address": "10.9.0.99", "port": 7100, "node": "n9" }]);
    fleet.daemon(1).rewrite(&config)?;
    fleet.crew.wait_metric(1, "bascule_forward_rows_moved_total", |rows| rows > moved)?;
    fleet.crew.wait_metric(1, "bascule_forward_drops_total{reason=\"unresolved\"}", |drops| drops > 0.0)?;
    let said = conditions(&mut fleet, 1)?;
    ensure!(said.iter().any(|c| c.contains("no way to the node at 10.9.0.99")), "{said:?}");
    drop(traffic.finish()?);
    Ok(())
}
