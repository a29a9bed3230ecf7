//! The daemon in an operator's hands: moves, drains, upgrades, reloads, gates, and what it shows.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_lab::{Frame, Kind, Mac, Netns, Sniffer, Stamp, tool, wait_for};
use bascule_suite::cluster::{Cluster, PORT, SOON, VIP, VIP6};
use serde_json::json;

#[test]
fn planned_move_loses_nothing_and_shows_one_owner() -> Result<()> {
    let mut cluster = Cluster::new("move", 3)?;
    cluster.start_all()?;
    let sniffer = Sniffer::start(&[&cluster.lan], &[VIP, VIP6])?;
    let prober = cluster.probe(VIP)?;
    prober.wait_answer(SOON, Stamp(0), Some(1))?;
    let asked = Stamp::now();
    // From a node that is neither the owner nor the target.
    cluster.daemon(2).ctl(&["move", "web", "--to", "n3"])?;
    cluster.daemon(3).wait_role(SOON, "web", "active")?;
    prober.wait_answer(SOON, asked, Some(3))?;
    let successor = cluster.hosts[2].port.mac();
    let first = sniffer.first_announcement(VIP, asked, |mac| mac == successor).expect("n3 announced");
    let netns = cluster.hosts[0].netns.clone();
    wait_for(SOON, "the drain of n1 to end", || (!netns.has_address("eth0", VIP)).then_some(()))?;
    let dual = sniffer.dual_frames(VIP, successor, first.at, Stamp::now(), None);
    ensure!(dual.claims.is_empty(), "n1 claimed after n3 announced: {dual:?}");
    let (sent, lost) = prober.finish().lost(asked, Stamp::now());
    ensure!(lost == 0, "{lost} of {sent} probes lost");
    Ok(())
}

/// Whatever the neighbour table of this client says, it opens connections to the VIP at this MAC: as one whose SYN was on its way when
/// the VIP moved. Everything else goes where the table says.
fn send_syns_to(client: &Netns, mac: Mac) -> Result<()> {
    let script = format!(
        "add table netdev stale\n\
         add chain netdev stale out {{ type filter hook egress device eth0 priority 0; }}\n\
         add rule netdev stale out ip daddr {VIP} tcp flags & (syn | ack) == syn ether daddr set {mac}\n"
    );
    tool(Some(client), "nft", &["-f", "-"], Some(&script))?;
    Ok(())
}

/// Opens a connection to the VIP with one SYN and asks who is there.
fn who(client: &Netns) -> std::io::Result<u32> {
    client.run(|| {
        // Shorter than the first retransmission (1 s, RFC 6298).
        let mut stream = TcpStream::connect_timeout(&(VIP, PORT).into(), Duration::from_millis(900))?;
        stream.set_read_timeout(Some(SOON))?;
        let mut probe = [0; 12];
        stream.write_all(&probe)?;
        stream.read_exact(&mut probe)?;
        Ok(u32::from_be_bytes([probe[8], probe[9], probe[10], probe[11]]))
    })
}

#[test]
fn a_syn_on_its_way_to_the_predecessor_opens_its_connection_at_the_successor() -> Result<()> {
    let mut cluster = Cluster::new("syn", 2)?;
    for (n, role) in [(1, "active"), (2, "backup")] {
        let mut group = cluster.group();
        group["drainTime"] = json!("5s");
        let config = cluster.config(n, &[group])?;
        cluster.start(n, &config)?;
        cluster.daemon(n).wait_role(SOON, "web", role)?;
    }
    let (old, new) = (cluster.hosts[0].port.mac(), cluster.hosts[1].port.mac());
    let client = cluster.client.clone();
    let from = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 200));
    let sniffer = Sniffer::start(&[&cluster.lan], &[from])?;
    send_syns_to(&client, old)?;
    ensure!(who(&client)? == 1, "before the move the owner answers");

    cluster.daemon(1).ctl(&["move", "web", "--to", "n2"])?;
    cluster.daemon(2).wait_role(SOON, "web", "active")?;
    wait_for(SOON, "the client to hear the successor's announcement", || {
        let known = client.tool("ip", &["neigh", "show", &VIP.to_string()]).ok()?;
        known.contains(&new.to_string()).then_some(())
    })?;
    let asked = Stamp::now();
    ensure!(who(&client)? == 2, "the successor answers what reached the predecessor");
    let to_vip = |f: &Frame| matches!(f.kind, Kind::Ip { destination, protocol: 6, .. } if destination == VIP);
    let arrived = sniffer.carried(asked, |f| to_vip(f) && f.dst == old);
    let handed = sniffer.carried(asked, |f| to_vip(f) && f.dst == new && f.src == old);
    ensure!((arrived.len(), handed.len()) == (1, 1), "one SYN, handed on once: {arrived:?}, {handed:?}");

    // When the drain is over the predecessor is a stranger like any other.
    let netns = cluster.hosts[0].netns.clone();
    wait_for(SOON, "the drain of n1 to end", || (!netns.has_address("eth0", VIP)).then_some(()))?;
    ensure!(who(&client).is_err(), "nobody hands it on any more");
    Ok(())
}

#[test]
fn drain_gives_away_and_undrain_takes_nothing_back() -> Result<()> {
    let mut cluster = Cluster::new("drain", 2)?;
    cluster.start_all()?;
    cluster.daemon(1).ctl(&["drain"])?;
    cluster.daemon(2).wait_role(SOON, "web", "active")?;
    cluster.daemon(1).wait_role(SOON, "web", "initialize")?;
    cluster.daemon(1).ctl(&["drain", "--off"])?;
    cluster.daemon(1).wait_role(SOON, "web", "backup")?;
    ensure!(cluster.daemon(2).role("web").as_deref() == Some("active"));
    Ok(())
}

#[test]
fn upgrade_of_the_running_owner_loses_nothing_and_leaves_nothing() -> Result<()> {
    let mut cluster = Cluster::new("upgr", 2)?;
    cluster.start_all()?;
    let prober = cluster.probe(VIP)?;
    prober.wait_answer(SOON, Stamp(0), Some(1))?;
    let begun = Stamp::now();
    cluster.daemon(1).process.sigterm()?;
    let status = cluster.daemon(1).process.wait(SOON)?;
    ensure!(status.success(), "an orderly stop: {status:?}\n{}", cluster.daemon(1).process.tail());
    ensure!(!cluster.hosts[0].netns.has_address("eth0", VIP) && !cluster.hosts[0].netns.has_address("eth0", VIP6));
    let config = cluster.config(1, &[cluster.group()])?;
    cluster.start(1, &config)?;
    cluster.daemon(1).wait_role(SOON, "web", "backup")?;
    prober.wait_answer(SOON, begun, Some(2))?;
    let (sent, lost) = prober.finish().lost(begun, Stamp::now());
    ensure!(lost == 0, "{lost} of {sent} probes lost");
    Ok(())
}

#[test]
fn reload_keeps_the_last_good_file_and_unchanged_groups_never_notice() -> Result<()> {
    let mut cluster = Cluster::new("reload", 1)?;
    cluster.start_all()?;
    let term = |cluster: &mut Cluster| cluster.daemon(1).group("web").expect("state")["term"].clone();
    let before = term(&mut cluster);
    let mut bad = cluster.config(1, &[cluster.group()])?;
    bad["vips"][0]["vrid"] = json!(0);
    cluster.daemon(1).rewrite(&bad)?;
    cluster.wait_metric(1, "bascule_config_reload_total{result=\"refused\"}", |v| v >= 1.0)?;
    ensure!(cluster.daemon(1).role("web").as_deref() == Some("active"), "the last good file stays");
    let second =
        json!({ "name": "db", "addresses": ["10.9.0.101"], "vrid": 52, "priority": 200, "conflictProbe": false });
    let both = cluster.config(1, &[cluster.group(), second])?;
    cluster.daemon(1).rewrite(&both)?;
    cluster.daemon(1).wait_role(SOON, "db", "active")?;
    ensure!(term(&mut cluster) == before, "the unchanged group made no new claim");
    Ok(())
}

/// A local service for a gate to probe. It accepts: an accept queue that fills up would look like a dead service.
struct Service {
    listener: TcpListener,
    thread: JoinHandle<()>,
}

impl Service {
    fn start(netns: &Netns) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind("127.0.0.1:8080"))?;
        let accepting = listener.try_clone()?;
        let thread = std::thread::spawn(move || while accepting.accept().is_ok() {});
        Ok(Self { listener, thread })
    }

    /// Returns when the port is closed.
    fn end(self) -> Result<()> {
        // Linux lets go of whoever waits in accept(2).
        nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both)?;
        self.thread.join().expect("it only accepts");
        Ok(())
    }
}

#[test]
fn closed_gate_moves_ownership_and_sick_nodes_keep_what_nobody_else_wants() -> Result<()> {
    let mut cluster = Cluster::new("gate", 2)?;
    let mut services = Vec::new();
    for (n, role) in [(1, "active"), (2, "backup")] {
        services.push(Service::start(&cluster.hosts[n - 1].netns)?);
        let mut group = cluster.group();
        group["gates"] = json!(["local"]);
        let mut config = cluster.config(n, &[group])?;
        config["gates"] = json!([{ "name": "local", "tcp": { "address": "127.0.0.1:8080" },
            "interval": "100ms", "timeout": "100ms", "rise": 1, "fall": 2 }]);
        cluster.start(n, &config)?;
        // The first to wait out its Active_Down_Interval owns: one after the other.
        cluster.wait_metric(n, "bascule_health_state{gate=\"local\"}", |v| v >= 1.0)?;
        cluster.daemon(n).wait_role(SOON, "web", role)?;
    }
    let mut services = services.into_iter();
    services.next().expect("two").end()?;
    cluster.daemon(2).wait_role(SOON, "web", "active")?;
    cluster.daemon(1).wait_role(SOON, "web", "backup")?;
    services.next().expect("two").end()?;
    cluster.wait_metric(2, "bascule_health_state{gate=\"local\"}", |v| v < 1.0)?;
    cluster.wait_adverts(2)?;
    ensure!(cluster.daemon(2).role("web").as_deref() == Some("active"), "whenAllFail: keep");
    Ok(())
}

#[test]
fn without_a_fence_there_is_no_claim_and_no_readiness() -> Result<()> {
    let mut cluster = Cluster::new("nofence", 1)?;
    let config = cluster.config(1, &[cluster.group()])?;
    // A time namespace with a shifted CLOCK_BOOTTIME: the kernel's clock is not the daemon's, deadlines would lie.
    let binary = bascule_lab::bascule::binary()?;
    let wrapper = cluster.lab.directory().join("shifted");
    let script =
        format!("#!/bin/sh\nexec unshare --time --boottime 100000 --fork --kill-child {} \"$@\"\n", binary.display());
    std::fs::write(&wrapper, script)?;
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let daemon = bascule_lab::bascule::Bascule::start_binary(&cluster.lab, &cluster.hosts[0].netns, &config, &wrapper)?;
    cluster.hosts[0].daemon = Some(daemon);
    let daemon = cluster.daemon(1);
    wait_for(SOON, "the fence's condition", || {
        let group = daemon.group("web")?;
        group["condition"].as_str()?.starts_with("fence:").then_some(())
    })?;
    let (code, body) = daemon.get("/ready")?;
    ensure!(code == 503, "not ready: {code} {body}");
    ensure!(daemon.role("web").as_deref() == Some("initialize"));
    Ok(())
}

#[test]
fn status_and_probes_tell_the_truth() -> Result<()> {
    let mut cluster = Cluster::new("show", 2)?;
    cluster.start_all()?;
    let table = cluster.daemon(1).ctl(&["status"])?;
    ensure!(table.contains("web") && table.contains("active") && table.contains(&VIP.to_string()), "{table}");
    for path in ["/live", "/ready"] {
        let (code, body) = cluster.daemon(2).get(path)?;
        ensure!(code == 200, "{path}: {code} {body}");
    }
    cluster.wait_metric(1, &format!("bascule_vip_held{{group=\"web\",vip=\"{VIP}\"}}"), |v| v >= 1.0)?;
    let daemon = cluster.daemon(2);
    wait_for(SOON, "the Backup to name the owner", || (daemon.group("web")?["owner"] == "10.9.0.1").then_some(()))?;
    cluster.daemon(1).process.stop();
    let daemon = cluster.daemon(2);
    daemon.wait_role(SOON, "web", "active")?;
    let events = daemon.ctl(&["events", "--json"])?;
    ensure!(events.contains("active_down"), "{events}");
    cluster.daemon(1).process.cont();
    Ok(())
}

#[test]
fn second_nic_never_answers() -> Result<()> {
    let mut cluster = Cluster::new("twonic", 1)?;
    let other = cluster.lab.bridge("other", &bascule_lab::BridgeOptions::default())?;
    let port = other.attach(&cluster.hosts[0].netns, "eth1", &["10.8.0.1/24".parse()?])?;
    let (asker, _port) = cluster.lab.host("asker", &other, &["10.8.0.2/24".parse()?])?;
    cluster.start_all()?;
    let sniffer = Sniffer::start(&[&other], &[VIP, VIP6])?;
    // The asker believes that the VIP is on its own link and asks for it there.
    asker.tool("ip", &["route", "add", &format!("{VIP}/32"), "dev", "eth0"])?;
    let begun = Stamp::now();
    let asked = asker.tool("arping", &["-c", "3", "-w", "2", "-I", "eth0", &VIP.to_string()]);
    ensure!(asked.is_err(), "an answer came through the second NIC: {asked:?}");
    let claims = sniffer.frames(begun, |f| f.claims() && f.src == port.mac() && f.speaks_for() == Some(VIP));
    ensure!(claims.is_empty(), "{claims:?}");
    let requests = sniffer.frames(begun, |f| matches!(f.kind, bascule_lab::Kind::ArpRequest { .. }));
    ensure!(!requests.is_empty(), "the question was on the wire");
    Ok(())
}
