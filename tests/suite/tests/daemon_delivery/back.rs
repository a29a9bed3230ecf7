//! The way of replies: straight from the endpoint's node, or through the node on which the request arrived.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::frames::Tap;
use crate::talk::{Datagrams, Talk};
use crate::yard::{Hook, PORT, Pod, VIPS, Yard, ip};

/// Exchanges over TCP and UDP in both families; gives the nodes whose frames brought replies to the router.
fn bringers(yard: &Yard, pod: &Pod) -> Result<Vec<u8>> {
    let mut bringers = Vec::new();
    for vip in VIPS {
        let address = vip.parse()?;
        let tap = Tap::open(&yard.router, "eth0")?;
        let mut talk = Talk::open(&yard.client, address, PORT).with_context(|| format!("{vip}\n{}", yard.counted()))?;
        let number = talk.exchange(200_000, 200_000).with_context(|| format!("{vip}\n{}", yard.counted()))?;
        ensure!(number == pod.number);
        let datagrams = Datagrams::open(&yard.client, address, PORT)?;
        for length in [1, 512, 1300] {
            let number = datagrams.ask(length).with_context(|| format!("{vip}: {length} bytes\n{}", yard.counted()))?;
            ensure!(number == pod.number);
        }
        let seen = tap.collect(Duration::ZERO, |_| false);
        let replies: Vec<_> = seen.iter().filter(|s| s.source == address).collect();
        ensure!(
            replies.iter().any(|s| s.protocol == 6) && replies.iter().any(|s| s.protocol == 17),
            "{vip}: replies of both"
        );
        for reply in replies {
            let from = |node: &&crate::yard::CrewNode| node.port.mac().0 == reply.source_mac;
            let node = yard.crew.nodes.iter().position(|node| from(&node)).context("a reply of no node")?;
            bringers.push(u8::try_from(node + 1)?);
        }
    }
    bringers.sort_unstable();
    bringers.dedup();
    Ok(bringers)
}

/// Both protocols, both ways back, with the endpoint on node 2 and requests through node 1, then through node 3.
fn both_ways(name: &str, hook: Hook, over_v6: bool) -> Result<()> {
    let mut yard = Yard::new(name, 3, hook)?;
    yard.over_v6 = over_v6;
    let pod = yard.pod(2)?;
    let mut services = yard.services("tcp", &[(&pod, 2)]);
    services.extend(yard.services("udp", &[(&pod, 2)]));
    yard.apply(&services)?;
    ensure!(bringers(&yard, &pod)? == [2], "straight from the endpoint's node");
    for service in &mut services {
        service["return"] = json!("viaIngress");
    }
    yard.apply(&services)?;
    for via in [1, 3] {
        yard.via(via)?;
        let through = |yard: &Yard| yard.metric(2, "bascule_forward_verdicts_total{verdict=\"reply_via\"}");
        bascule_lab::wait_for(crate::yard::SOON, "replies through a node", || {
            let datagrams = Datagrams::open(&yard.client, VIPS[0].parse().ok()?, PORT).ok()?;
            datagrams.ask(1).ok()?;
            (through(&yard) > 0).then_some(())
        })?;
        ensure!(bringers(&yard, &pod)? == [via], "through the node of the request, n{via}\n{}", yard.counted());
    }
    // Answers beyond what fits between nodes: the endpoint's node knows the size by its route to the clients, and tells the endpoint.
    let mtu = if over_v6 { 1436 } else { 1456 };
    for (family, gateway) in [("-4", "10.9.0.254"), ("-6", "fd09::fe")] {
        ip(&yard.node(2).netns, &format!("{family} route replace default via {gateway} mtu {mtu}"))?;
    }
    for vip in VIPS {
        let datagrams = Datagrams::open(&yard.client, vip.parse()?, PORT)?;
        for length in [1465, 4000, 20_000] {
            let number = datagrams.ask(length).with_context(|| format!("{vip}: {length} bytes\n{}", yard.counted()))?;
            ensure!(number == pod.number);
        }
    }
    // The node of the endpoint is the node of the request, too.
    yard.via(2)?;
    ensure!(bringers(&yard, &pod)? == [2]);
    Ok(())
}

#[test]
fn replies_go_straight_or_through_the_node_of_their_request() -> Result<()> {
    both_ways("dback", Hook::Tc, false)
}

#[test]
fn replies_go_back_over_an_ipv6_underlay() -> Result<()> {
    both_ways("dback6", Hook::Tc, true)
}

#[test]
fn replies_go_back_by_xdp() -> Result<()> {
    both_ways("dbackx", Hook::Xdp, false)
}
