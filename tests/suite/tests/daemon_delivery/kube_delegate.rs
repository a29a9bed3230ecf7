//! Pods whose network namespace the node cannot find: the stack delivers to them, and our programs again when it can be found.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::{tool, wait_for};

use crate::kube::{Kube, START, pods, service, vip};
use crate::talk::{Datagrams, Talk};
use crate::yard::{ENDPOINT_PORT, PORT, Pod, ip};

/// Where a pod is reached through something of its own that is no place for it: the next hop is another address at the other end of its link,
/// as behind the routing device of many a CNI.
const HOP: &str = "169.254.7.1";

/// The nodes' own rules, as kube-proxy's: the VIP becomes the pod, and each connection counts.
fn proxy(kube: &Kube, n: u8, vip: IpAddr, pod: &Pod) -> Result<()> {
    let to = pod.addresses[0];
    let script = format!(
        "table ip proxy {{\nchain pre {{\ntype nat hook prerouting priority dstnat; policy accept;\n\
         ip daddr {vip} meta l4proto {{ tcp, udp }} th dport {PORT} counter dnat to {to}:{ENDPOINT_PORT}\n}}\n}}\n"
    );
    tool(Some(&kube.yard.node(n).netns), "nft", &["-f", "-"], Some(&script))?;
    Ok(())
}

/// Connections and datagrams that these rules took.
fn taken(kube: &Kube, n: u8) -> Result<u64> {
    let listed = tool(Some(&kube.yard.node(n).netns), "nft", &["list", "table", "ip", "proxy"], None)?;
    let count = listed.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    count.context("a counter")?.parse().context("a number")
}

/// The pod's address by this way from now on.
fn route(kube: &Kube, pod: &Pod, way: &str) -> Result<()> {
    let IpAddr::V4(address) = pod.addresses[0] else { anyhow::bail!("IPv4 first") };
    ip(&kube.yard.node(1).netns, &format!("route replace {address}/32 {way} dev v{}", pod.number)).map(drop)
}

/// `bascule services` of the pod's node says this, or does not.
fn says(kube: &Kube, words: &str, wanted: bool) -> Result<()> {
    let mut last = String::new();
    let said = wait_for(START, "the services to say it", || {
        last = kube.yard.daemon(1).ctl(&["services"]).ok()?;
        (last.contains(words) == wanted).then_some(())
    });
    said.with_context(|| format!("{words}: {wanted}\n{last}\n{}", kube.told()))
}

/// New connections and datagrams get bytes from the pod. `by_rules`: whether the node's own rules took them.
fn served(kube: &Kube, pod: &Pod, by_rules: bool) -> Result<()> {
    let before = taken(kube, 1)?;
    for _ in 0..4 {
        let why = || format!("{}\n{}", kube.yard.counted(), kube.told());
        let mut talk = Talk::open(&kube.yard.client, vip(1), PORT).with_context(why)?;
        ensure!(talk.exchange(50_000, 50_000).with_context(why)? == pod.number, "another pod");
        ensure!(Datagrams::open(&kube.yard.client, vip(1), PORT)?.ask(1_000).with_context(why)? == pod.number);
    }
    let after = taken(kube, 1)?;
    let right = if by_rules { after >= before + 8 } else { after == before };
    ensure!(right, "{before} and then {after} by the node's rules, wanted by them: {by_rules}\n{}", kube.told());
    Ok(())
}

#[test]
fn pods_that_cannot_be_placed_are_served_by_the_stack_until_they_can() -> Result<()> {
    let mut kube = Kube::new("kdeleg")?;
    let pod = kube.yard.pod(1)?;
    ip(&pod.netns, &format!("addr add {HOP}/32 dev eth0"))?;
    for n in 1..=3 {
        proxy(&kube, n, vip(1), &pod)?;
    }
    kube.add(service("web", 1), pods(&[(&pod, 1)]));
    kube.start()?;
    served(&kube, &pod, false)?;
    let mut direct = Talk::open(&kube.yard.client, vip(1), PORT)?;
    ensure!(direct.exchange(10_000, 10_000)? == pod.number);

    // The route hides it.
    route(&kube, &pod, &format!("via {HOP} onlink"))?;
    says(&kube, "the stack delivers to 1 of its endpoints here (delegate)", true)?;
    says(&kube, "1/1 ready, 1 delegated", true)?;
    let _both_ports =
        kube.yard.crew.wait_metric(1, "bascule_forward_endpoints_delegated", |v| (v - 2.0).abs() < 0.5)?;
    served(&kube, &pod, true)?;
    let mut handed = Talk::open(&kube.yard.client, vip(1), PORT)?;
    ensure!(handed.exchange(10_000, 10_000)? == pod.number);
    ensure!(direct.exchange(100_000, 100_000)? == pod.number, "what our programs had stays theirs");

    // A restart finds it so, and loses neither.
    kube.yard.crew.daemon_mut(1).process.sigkill()?;
    kube.yard.crew.node_mut(1).daemon = None;
    let config = kube.config(1, false)?;
    kube.yard.crew.start(1, &config)?;
    says(&kube, "1/1 ready, 1 delegated", true)?;
    served(&kube, &pod, true)?;
    ensure!(handed.exchange(100_000, 100_000)? == pod.number && direct.exchange(100_000, 100_000)? == pod.number);

    // It can be found again.
    route(&kube, &pod, "")?;
    says(&kube, "delegate", false)?;
    let _none = kube.yard.crew.wait_metric(1, "bascule_forward_endpoints_delegated", |v| v < 0.5)?;
    served(&kube, &pod, false)?;
    ensure!(handed.exchange(100_000, 100_000)? == pod.number, "what the stack has stays the stack's");
    ensure!(direct.exchange(100_000, 100_000)? == pod.number);
    let log = kube.yard.daemon(1).process.tail();
    ensure!(log.contains("our programs deliver to all endpoints here again"), "{log}");
    Ok(())
}
