//! Every field of a Service that matters, by bytes that a client outside the nodes sends and receives through its VIP.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, ensure};
use bascule_core::service::Affinity;
use bascule_core::service::translate::SliceEndpoint;
use bascule_lab::{Stamp, wait_for};

use crate::kube::{Kube, SHOWS, endpoint, only, pods, service, slice, vip};
use crate::talk::{Datagrams, Server, Talk};
use crate::yard::{ENDPOINT_PORT, PORT};

/// Port of the pods of another slice: the same name stands for another number there.
const OTHER_PORT: u16 = 7101;
/// Enough connections that two pods of three are both chosen, but for one run in a million.
const MANY: usize = 24;

#[test]
fn fields_of_services_by_bytes_through_their_vips() -> Result<()> {
    let mut kube = Kube::new("kfields")?;
    let all = [kube.yard.pod(1)?, kube.yard.pod(2)?, kube.yard.pod(3)?];
    let [one, two, three] = &all;
    let on = [(one, 1), (two, 2), (three, 3)];
    let _other = Server::start(&two.netns, two.number, OTHER_PORT)?;

    kube.add(service("cluster", 1), pods(&on));
    let mut local = service("local", 2);
    local.service.local = true;
    kube.add(local, pods(&[(two, 2), (three, 3)]));
    let mut allowed = service("allowed", 3);
    allowed.service.sources = vec!["10.8.0.0/24".parse()?, "fd00::/8".parse()?];
    kube.add(allowed, pods(&on));
    let mut denied = service("denied", 4);
    denied.service.sources = vec!["192.0.2.0/24".parse()?];
    kube.add(denied, pods(&on));
    let mut sticky = service("sticky", 5);
    sticky.service.affinity = Affinity::ClientIp;
    kube.add(sticky, pods(&on));
    let named = vec![slice(ENDPOINT_PORT, vec![endpoint(one, 1)]), slice(OTHER_PORT, vec![endpoint(two, 2)])];
    kube.add(service("named", 6), named);
    let unready = |e: SliceEndpoint| SliceEndpoint { ready: Some(false), serving: Some(false), ..e };
    let mut published = service("published", 7);
    published.service.publish_not_ready = true;
    kube.add(published, vec![slice(ENDPOINT_PORT, vec![unready(endpoint(three, 3))])]);
    let terminating =
        |e: SliceEndpoint| SliceEndpoint { ready: Some(false), serving: Some(true), terminating: Some(true), ..e };
    kube.add(service("terminating", 8), vec![slice(ENDPOINT_PORT, vec![terminating(endpoint(one, 1))])]);
    kube.add(service("unready", 9), vec![slice(ENDPOINT_PORT, vec![unready(endpoint(one, 1))])]);
    let mut foreign = service("foreign", 10);
    foreign.service.class = Some("io.cilium/bgp".into());
    kube.add(foreign, pods(&on));
    kube.start()?;

    let answers = kube.talks(1, MANY)?;
    only(&answers, &[one, two, three])?;
    ensure!(answers.iter().collect::<BTreeSet<_>>().len() > 1, "Cluster: spread over pods: {answers:?}");
    let asked = Datagrams::open(&kube.yard.client, vip(1), PORT)?.ask(1_200)?;
    only(&[asked], &[one, two, three])?;
    let answers = kube.talks(2, MANY)?;
    only(&answers, &[two, three])?;
    ensure!(answers.iter().collect::<BTreeSet<_>>().len() == 2, "Local: by all of its pods, whoever owns: {answers:?}");
    only(&kube.talks(3, 2)?, &[one, two, three])?;
    ensure!(Talk::open(&kube.yard.client, vip(4), PORT).is_err(), "loadBalancerSourceRanges: no byte for others");
    let denied = Datagrams::open(&kube.yard.client, vip(4), PORT)?;
    ensure!(denied.0.send(b"?").is_ok() && denied.0.recv(&mut [0; 16]).is_err(), "nor a datagram");
    let answers = kube.talks(5, MANY)?;
    ensure!(answers.iter().all(|number| *number == answers[0]), "ClientIP: one pod for a client: {answers:?}");
    let answers = kube.talks(6, MANY)?;
    only(&answers, &[one, two])?;
    ensure!(answers.iter().collect::<BTreeSet<_>>().len() == 2, "each pod at its own port: {answers:?}");
    only(&kube.talks(7, 2)?, &[three])?;
    only(&kube.talks(8, 2)?, &[one])?;
    ensure!(Talk::open(&kube.yard.client, vip(9), PORT).is_err(), "no endpoint is ready: refused or dropped");

    // The foreign class: no node has the address, none steers it.
    ensure!(Talk::open(&kube.yard.client, vip(10), PORT).is_err(), "nobody answers for a foreign class");
    for node in &kube.yard.crew.nodes {
        ensure!(!node.netns.has_address("eth0", vip(10)), "n{} touches a foreign Service", node.id);
    }
    let shown = kube.yard.daemon(1).ctl(&["services"])?;
    ensure!(shown.contains("shop/cluster") && !shown.contains("shop/foreign"), "{shown}");
    let status = kube.yard.daemon(2).ctl(&["status"])?;
    ensure!(status.contains("cluster   9 services, 9 VIPs") && status.contains("1 not_ours"), "{status}");
    for (line, wanted) in [
        ("bascule_cluster_services", 9.0),
        ("bascule_cluster_vips", 9.0),
        ("bascule_cluster_source{source=\"file\"}", 1.0),
        ("bascule_cluster_refused{reason=\"not_ours\"}", 1.0),
        ("bascule_cluster_may_own", 1.0),
    ] {
        let _value = kube.yard.crew.wait_metric(3, line, |value| (value - wanted).abs() < 0.5)?;
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_not_ready_gets_no_new_connection_and_keeps_its_own() -> Result<()> {
    let mut kube = Kube::new("kready")?;
    let (one, two) = (kube.yard.pod(1)?, kube.yard.pod(2)?);
    kube.add(service("web", 1), pods(&[(&one, 1), (&two, 2)]));
    kube.start()?;
    // A connection to the pod that is about to be unready.
    let mut held = loop {
        let mut talk = Talk::open(&kube.yard.client, vip(1), PORT)?;
        if talk.exchange(10, 10)? == one.number {
            break talk;
        }
    };
    let web = kube.service("web")?;
    Arc::make_mut(&mut web.slices[0]).endpoints[0].ready = Some(false);
    kube.tell()?;
    let told = Stamp::now();
    for n in 1..=3 {
        kube.yard.crew.wait_page(n, SHOWS, "the endpoint not to serve", |page| {
            let services = page["balance"]["services"].as_array().cloned().unwrap_or_default();
            let serves = |e: &serde_json::Value| {
                e["serving"] == true
                    && e["name"].as_str().is_some_and(|name| name.starts_with(&one.addresses[0].to_string()))
            };
            services.iter().all(|s| !s["endpoints"].as_array().is_some_and(|all| all.iter().any(serves)))
        })?;
    }
    println!("{:?} from the change of the slice to the last node's table, polled", Stamp::now().since(told));
    only(&kube.talks(1, 20)?, &[&two])?;
    ensure!(held.exchange(100_000, 100_000)? == one.number, "what it has stays");
    // Both gone: refused, and back with one.
    Arc::make_mut(&mut kube.service("web")?.slices[0]).endpoints[1].ready = Some(false);
    kube.tell()?;
    wait_for(SHOWS, "new connections to be refused", || {
        Talk::open(&kube.yard.client, vip(1), PORT).is_err().then_some(())
    })?;
    Arc::make_mut(&mut kube.service("web")?.slices[0]).endpoints[0].ready = Some(true);
    kube.tell()?;
    wait_for(SHOWS, "new connections", || Talk::open(&kube.yard.client, vip(1), PORT).ok()?.exchange(1, 1).ok())?;
    only(&kube.talks(1, 5)?, &[&one])?;
    ensure!(held.exchange(10_000, 10_000)? == one.number, "the first connection lived through all of it");
    drop(held);
    // A VIP more is announced by its owner at once, one less is withdrawn; the others notice nothing.
    let owners = kube.wait_owners(|_| true)?;
    let before: Vec<f64> = (1..=3).filter_map(|n| kube.yard.daemon(n).metric("bascule_cluster_vips")).collect();
    ensure!(before == [1.0; 3], "{before:?}");
    kube.add(service("more", 2), pods(&[(&two, 2)]));
    kube.tell()?;
    wait_for(SHOWS, "the new VIP to serve", || Talk::open(&kube.yard.client, vip(2), PORT).ok()?.exchange(1, 1).ok())?;
    ensure!(kube.wait_owners(|_| true)? == owners, "no shard moves for it");
    kube.intent.services.retain(|service| service.service.name != "more");
    kube.tell()?;
    wait_for(SHOWS, "the VIP to go", || {
        let there = |n: u8| kube.yard.node(n).netns.has_address("eth0", vip(2));
        (!(1..=3).any(there)).then_some(())
    })?;
    only(&kube.talks(1, 2)?, &[&one])?;
    ensure!(kube.wait_owners(|_| true)? == owners);
    Ok(())
}
