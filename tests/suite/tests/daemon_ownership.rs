//! The daemon on a LAN: who owns, who answers, what a fault leaves behind.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_lab::{Direction, Filter, PlantedOwner, Sniffer, Stamp, wait_for};
use bascule_suite::cluster::{Cluster, PORT, SOON, VIP, VIP6};

/// Asks the VIP from a node's own namespace, as a client.
fn reaches(cluster: &Cluster, n: usize, vip: IpAddr) -> Result<u32> {
    let prober =
        bascule_lab::UdpProber::start(&cluster.hosts[n - 1].netns, vip, PORT, bascule_lab::ProbeOptions::default())?;
    Ok(prober.wait_answer(SOON, Stamp(0), None)?)
}

#[test]
fn one_owner_serves_both_families_and_every_backup_is_a_client() -> Result<()> {
    let mut cluster = Cluster::new("own", 3)?;
    cluster.start_all()?;
    for vip in [VIP, VIP6] {
        let prober = cluster.probe(vip)?;
        ensure!(prober.wait_answer(SOON, Stamp(0), None)? == 1, "n1 is the first rank");
        for n in [2, 3] {
            ensure!(reaches(&cluster, n, vip)? == 1, "n{n} reaches {vip} as a client");
        }
    }
    ensure!(!cluster.hosts[1].netns.has_address("eth0", VIP), "a Backup has no VIP on its link");
    Ok(())
}

#[test]
fn sigkill_moves_the_vip_and_a_restart_removes_what_was_left() -> Result<()> {
    let mut cluster = Cluster::new("kill", 3)?;
    cluster.start_all()?;
    let foreign: ipnet::IpNet = "10.9.0.222/32".parse()?;
    cluster.hosts[0].netns.add_address("eth0", foreign)?;
    let prober = cluster.probe(VIP)?;
    prober.wait_answer(SOON, Stamp(0), Some(1))?;
    let killed = cluster.daemon(1).process.sigkill()?;
    prober.wait_answer(SOON, killed, Some(2))?;
    ensure!(cluster.hosts[0].netns.has_address("eth0", VIP), "the dead owner's kernel still has the address, fenced");
    let config = cluster.config(1, &[cluster.group()])?;
    cluster.start(1, &config)?;
    cluster.daemon(1).wait_role(SOON, "web", "backup")?;
    ensure!(!cluster.hosts[0].netns.has_address("eth0", VIP), "the restart removed its own leftover");
    ensure!(cluster.hosts[0].netns.has_address("eth0", foreign.addr()), "and nothing foreign");
    ensure!(reaches(&cluster, 1, VIP)? == 2, "the ex-owner reaches the VIP as a client");
    ensure!(cluster.daemon(2).role("web").as_deref() == Some("active"), "nothing is taken back");
    Ok(())
}

/// A full neighbour table would drop what needs an entry. The table is one for the whole machine, so that no test fills it: nothing asks for
/// an entry, and adverts arrive.
#[test]
fn adverts_to_the_group_need_no_entry_of_the_neighbour_table() -> Result<()> {
    let mut cluster = Cluster::new("nud", 2)?;
    cluster.start_all()?;
    cluster.daemon(1).wait_role(SOON, "web", "active")?;
    cluster.wait_metric(2, "bascule_adverts_heard_total", |heard| heard >= 20.0)?;
    for node in [0, 1] {
        let entries = cluster.hosts[node].netns.tool("ip", &["neigh", "show", "nud", "all"])?;
        for group in ["224.0.0.18 ", "ff02::12 "] {
            ensure!(!entries.contains(group), "{group}has an entry: {entries}");
        }
    }
    Ok(())
}

#[test]
fn address_of_a_dead_owner_is_gone_by_itself() -> Result<()> {
    let mut cluster = Cluster::new("lft", 1)?;
    cluster.start_all()?;
    let killed = cluster.daemon(1).process.sigkill()?;
    let netns = cluster.hosts[0].netns.clone();
    let gone = || (!netns.has_address("eth0", VIP) && !netns.has_address("eth0", VIP6)).then_some(());
    wait_for(Duration::from_secs(20), "the addresses to expire", gone)?;
    let took = Stamp::now().since(killed);
    ensure!(took <= Duration::from_secs(11), "valid_lft is 10 s, and it took {took:?}");
    Ok(())
}

#[test]
fn frozen_owner_is_silent_before_its_successor_speaks_and_stays_backup() -> Result<()> {
    let mut cluster = Cluster::new("stop", 3)?;
    cluster.start_all()?;
    let sniffer = Sniffer::start(&[&cluster.lan], &[VIP, VIP6])?;
    let prober = cluster.probe(VIP)?;
    prober.wait_answer(SOON, Stamp(0), Some(1))?;
    let stopped = cluster.daemon(1).process.stop();
    prober.wait_answer(SOON, stopped, Some(2))?;
    let successor = cluster.hosts[1].port.mac();
    let first = sniffer.first_announcement(VIP, stopped, |mac| mac == successor).expect("n2 announced");
    cluster.wait_adverts(2)?;
    cluster.daemon(1).process.cont();
    cluster.daemon(1).wait_role(SOON, "web", "backup")?;
    for vip in [VIP, VIP6] {
        let dual = sniffer.dual_frames(vip, successor, first.at, Stamp::now(), None);
        ensure!(dual.claims.is_empty() && dual.served.is_empty(), "two owners of {vip}: {dual:?}");
    }
    ensure!(sniffer.lost() == 0, "the sniffer saw everything");
    cluster.wait_metric(1, "bascule_fence_closed_total", |v| v >= 1.0)?;
    ensure!(cluster.daemon(2).role("web").as_deref() == Some("active"));
    Ok(())
}

#[test]
fn a_fence_that_something_takes_off_a_link_stands_again_and_no_owner_changes() -> Result<()> {
    let mut cluster = Cluster::new("healed", 2)?;
    cluster.start_all()?;
    let before = cluster.daemon(1).group("web").expect("state")["term"].clone();
    let netns = cluster.hosts[0].netns.clone();
    let inode = netns.run(|| std::fs::metadata("/proc/thread-self/ns/net").map(|of| of.ino()))?;
    let dir = bascule::dataplane::pin_root(0).join(inode.to_string());
    let ifindex = netns.ifindex("eth0")?;
    // What keeps a node from answering. Without the other one no advert counts, and an owner steps back by itself within three of them.
    let pin = dir.join(format!("link-{ifindex}-ingress"));
    std::fs::remove_file(&pin)?;
    cluster.wait_metric(1, "bascule_fence_healed_total", |healed| healed >= 1.0)?;
    wait_for(SOON, "the link", || pin.exists().then_some(()))?;
    cluster.wait_adverts(1)?;
    ensure!(cluster.daemon(1).group("web").expect("state")["term"] == before, "it owns as before");
    // What stands is the fence: it closes without adverts.
    let stopped = cluster.daemon(1).process.stop();
    let prober = cluster.probe(VIP)?;
    prober.wait_answer(SOON, stopped, Some(2))?;
    cluster.daemon(1).process.cont();
    Ok(cluster.daemon(1).wait_role(SOON, "web", "backup")?)
}

#[test]
fn address_deleted_by_hand_is_back_at_once() -> Result<()> {
    let mut cluster = Cluster::new("del", 1)?;
    cluster.start_all()?;
    for vip in [VIP, VIP6] {
        let before = cluster.daemon(1).metric("bascule_address_restored_total").unwrap_or(0.0);
        cluster.hosts[0].netns.delete_address("eth0", vip)?;
        cluster.wait_metric(1, "bascule_address_restored_total", |v| v > before)?;
        let netns = cluster.hosts[0].netns.clone();
        wait_for(SOON, "the address to be back", || netns.has_address("eth0", vip).then_some(()))?;
    }
    Ok(())
}

#[test]
fn one_way_loss_ends_with_one_owner() -> Result<()> {
    let mut cluster = Cluster::new("oneway", 2)?;
    cluster.start_all()?;
    let cut = cluster.hosts[0].port.cut(Direction::FromNode, Filter::Vrrp)?;
    cluster.daemon(2).wait_role(SOON, "web", "active")?;
    cluster.daemon(1).wait_role(SOON, "web", "backup")?;
    cluster.wait_metric(1, "bascule_one_way_total", |v| v >= 1.0)?;
    ensure!(cut.dropped()? > 0, "the cut dropped adverts");
    let moves = cluster.daemon(1).group("web").expect("state")["term"].clone();
    cluster.wait_adverts(2)?;
    ensure!(
        cluster.daemon(1).group("web").expect("state")["term"] == moves,
        "it stays Backup while it hears the other"
    );
    Ok(())
}

#[test]
fn planted_owner_is_reported_and_answered() -> Result<()> {
    let mut cluster = Cluster::new("rival", 1)?;
    cluster.start_all()?;
    let planted = PlantedOwner::plant(&cluster.lab, &cluster.lan, "10.9.0.66/24".parse()?, VIP)?;
    planted.announce()?;
    cluster.wait_metric(1, "bascule_rival_claims_total", |v| v >= 1.0)?;
    let mine = cluster.hosts[0].port.mac();
    let client = cluster.client.clone();
    let healed = || {
        let neighbors = client.tool("ip", &["neigh", "show", &VIP.to_string()]).ok()?;
        (neighbors.is_empty() || neighbors.contains(&mine.to_string())).then_some(())
    };
    wait_for(SOON, "the client's neighbour entry to be the owner's again", healed)?;
    Ok(())
}

#[test]
fn foreign_holder_keeps_its_address() -> Result<()> {
    let mut cluster = Cluster::new("inuse", 1)?;
    let _planted = PlantedOwner::plant(&cluster.lab, &cluster.lan, "10.9.0.66/24".parse()?, VIP)?;
    let mut group = cluster.group();
    group["conflictProbe"] = true.into();
    let config = cluster.config(1, &[group])?;
    cluster.start(1, &config)?;
    let daemon = cluster.daemon(1);
    wait_for(SOON, "the condition address_in_use", || {
        let group = daemon.group("web")?;
        group["condition"].as_str()?.contains("address_in_use").then_some(())
    })?;
    ensure!(daemon.role("web").as_deref() == Some("initialize"));
    Ok(())
}
