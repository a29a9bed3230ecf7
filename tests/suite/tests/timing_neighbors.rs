//! The kernel's neighbour tables overflow, which is one fault for the whole machine: alone, one test at a time.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use bascule::net::neighbors::table_full;
use bascule_core::types::Family;
use bascule_lab::{Lab, Netns, wait_for};
use bascule_suite::cluster::{Cluster, SOON};
use serde_json::{Value, json};

/// So many more neighbours than the tables have room for.
const BEYOND: u32 = 300;

/// A machine with more neighbours than its kernel has room for: in a namespace that has nothing to do with the nodes, since the tables are one for
/// all. Reachable ones, which the kernel does not take away for others, kept so until this is dropped.
struct Crowd {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    fn start(lab: &Lab) -> Result<Self> {
        let netns = lab.netns("crowd")?;
        netns.tool("ip", &["link", "add", "s0", "type", "veth", "peer", "name", "s1"])?;
        netns.set_link("s1", true)?;
        netns.set_link("s0", true)?;
        let mut files = Vec::new();
        for (family, first) in [("ipv4", "10.88.0.0".parse::<IpAddr>()?), ("ipv6", "fd88::".parse()?)] {
            let mut lines = String::new();
            let room = std::fs::read_to_string(format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"))?;
            for n in 1..=room.trim().parse::<u32>()? + BEYOND {
                let address: IpAddr = match first {
                    IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + n).into(),
                    IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + u128::from(n)).into(),
                };
                writeln!(lines, "neigh replace {address} dev s0 lladdr 02:00:00:00:00:01 nud reachable")?;
            }
            let file = lab.directory().join(format!("crowd-{family}"));
            std::fs::write(&file, lines)?;
            files.push(file.display().to_string());
        }
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // It ends where the table is full, at the first refusal: that is what is wanted.
                for file in &files {
                    let _refused = netns.tool("ip", &["-batch", file]);
                }
            }
        });
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// Waits until both tables have refused more neighbours than they had.
fn wait_full() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let before = table_full(family).context("the first network namespace shows its neighbour tables")?;
        wait_for(SOON, "a full neighbour table", || table_full(family).filter(|now| *now > before + 20))?;
    }
    Ok(())
}

fn peers(netns: &Netns) -> Result<Vec<IpAddr>> {
    let all = netns.addresses("eth0")?.into_iter().map(|net| net.addr());
    Ok(all.filter(|a| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()) || a.is_ipv4()).collect())
}

fn term(cluster: &mut Cluster, n: usize) -> Result<(String, Value)> {
    let group = cluster.daemon(n).group("web").context("the state has the group")?;
    Ok((group["role"].as_str().unwrap_or_default().to_owned(), group["term"].clone()))
}

/// Nodes that begin while the tables are full have nothing but what they keep: unicast adverts of both families, messages of the peer channel
/// and a BFD session have to get through, and go on.
#[test]
fn unicast_peers_and_bfd_do_not_notice_full_neighbour_tables() -> Result<()> {
    let mut cluster = Cluster::new("nudfull", 2)?;
    let _crowd = Crowd::start(&cluster.lab)?;
    wait_full()?;
    // The fault is real: an ordinary neighbour of this machine cannot be reached.
    ensure!(cluster.client.tool("ping", &["-c", "2", "-i", "0.2", "-W", "1", "10.9.0.1"]).is_err(), "there was room");

    // Adverts of IPv6 come from link-local addresses.
    let own: Vec<Vec<IpAddr>> = cluster.hosts.iter().map(|host| peers(&host.netns)).collect::<Result<_>>()?;
    for n in [1, 2] {
        let mut group = cluster.group();
        group["unicastPeers"] = json!(own[2 - n]);
        let mut config = cluster.config(n, std::slice::from_ref(&group))?;
        config["bfd"] = json!({ "peers": [{ "address": format!("10.9.0.{}", 3 - n) }] });
        cluster.start(n, &config)?;
        let role = if n == 1 { "active" } else { "backup" };
        cluster.daemon(n).wait_role(SOON, "web", role)?;
    }
    for n in [1, 2] {
        cluster.wait_metric(n, r#"bascule_neighbors_kept{state="resolved"}"#, |kept| kept >= 2.0)?;
        let peer = format!(r#"bascule_bfd_state{{peer="10.9.0.{}"}}"#, 3 - n);
        cluster.wait_metric(n, &peer, |state| (state - 3.0).abs() < 0.5)?;
    }
    let before = [term(&mut cluster, 1)?, term(&mut cluster, 2)?];
    for _ in 0..3 {
        wait_full()?;
        cluster.wait_adverts(1)?;
    }
    ensure!([term(&mut cluster, 1)?, term(&mut cluster, 2)?] == before, "no owner changed");
    for n in [1, 2] {
        let fell = format!(r#"bascule_bfd_transitions_total{{peer="10.9.0.{}",to="down"}}"#, 3 - n);
        ensure!(cluster.daemon(n).metric(&fell).unwrap_or(0.0) == 0.0, "the session of n{n} went down");
    }
    Ok(())
}
