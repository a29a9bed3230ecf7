//! Where an endpoint lives: a process of the node, a pod behind a veth, a pod behind a bridge, a host on no node at all.

use anyhow::{Context as _, Result, ensure};
use bascule_lab::tool;
use serde_json::{Value, json};

use crate::talk::{Datagrams, Talk};
use crate::yard::{ENDPOINT_PORT, Hook, PORT, Pod, VIPS, Yard};

/// Opens connections and asks by datagrams from many ports through every node, until each endpoint has served both families and protocols;
/// the others are known by number.
fn all_serve(yard: &Yard, pods: &[&Pod]) -> Result<()> {
    let wanted: std::collections::BTreeSet<u8> = pods.iter().map(|pod| pod.number).collect();
    for via in 1..=u8::try_from(yard.crew.nodes.len())? {
        yard.via(via)?;
        for vip in VIPS {
            let address = vip.parse()?;
            let why = || format!("{vip} through n{via}\n{}", yard.counted());
            let (mut tcp, mut udp) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            // Each endpoint has a fair share of ports: that one of four misses sixty is less likely than one in ten millions.
            for _ in 0..60 {
                if tcp != wanted {
                    let mut talk = Talk::open(&yard.client, address, PORT).with_context(why)?;
                    tcp.insert(talk.exchange(2000, 2000).with_context(why)?);
                }
                if udp != wanted {
                    udp.insert(Datagrams::open(&yard.client, address, PORT)?.ask(200).with_context(why)?);
                }
            }
            ensure!(tcp == wanted && udp == wanted, "{wanted:?} served, {tcp:?} by TCP, {udp:?} by UDP: {}", why());
        }
    }
    Ok(())
}

/// Without these rules a host behind a router would answer the client itself, from an address the client never asked.
fn masquerade(yard: &Yard, services: &[Value]) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), yard.config(1, services)?.to_string())?;
    let program = bascule_lab::bascule::binary()?.display().to_string();
    let config = file.path().display().to_string();
    let script = tool(None, &program, &["render", "masquerade", "--config", &config], None)?;
    for node in &yard.crew.nodes {
        tool(Some(&node.netns), "nft", &["-f", "-"], Some(&script))?;
    }
    Ok(())
}

fn every_place(name: &str, hook: Hook) -> Result<()> {
    let mut yard = Yard::new(name, 2, hook)?;
    let (process, pod, bridged) = (yard.process(1)?, yard.pod(2)?, yard.bridged_pod(1)?);
    let far = yard.far()?;
    let endpoints = [(&process, 1), (&pod, 2), (&bridged, 1), (&far, 0)];
    let mut services = yard.services("tcp", &endpoints);
    services.extend(yard.services("udp", &endpoints));
    masquerade(&yard, &services)?;
    yard.apply(&services)?;
    all_serve(&yard, &[&process, &pod, &bridged, &far])
}

#[test]
fn endpoints_of_every_place_serve_through_either_node() -> Result<()> {
    every_place("dplace", Hook::Tc)
}

#[test]
fn endpoints_of_every_place_serve_by_xdp() -> Result<()> {
    every_place("dplacex", Hook::Xdp)
}

#[test]
fn hosts_inside_reach_an_endpoint_by_its_own_address_too() -> Result<()> {
    let mut yard = Yard::new("dinner", 1, Hook::Tc)?;
    let pod = yard.pod(1)?;
    let mut services = yard.services("tcp", &[(&pod, 1)]);
    services.extend(yard.services("udp", &[(&pod, 1)]));
    // The endpoint answers for one VIP only, so that the reverse map would make every answer to the outside that VIP's.
    yard.apply_with(&services, |config| config["forwarding"]["clusterRanges"] = json!(["10.8.0.0/24", "fd08::/64"]))?;
    for (own, vip) in pod.addresses.into_iter().zip(VIPS) {
        for (address, port) in [(own, ENDPOINT_PORT), (vip.parse()?, PORT)] {
            let why = || format!("{address}\n{}", yard.counted());
            let mut talk = Talk::open(&yard.client, address, port).with_context(why)?;
            ensure!(talk.exchange(10_000, 10_000).with_context(why)? == pod.number);
            ensure!(Datagrams::open(&yard.client, address, port)?.ask(100).with_context(why)? == pod.number);
        }
    }
    Ok(())
}
