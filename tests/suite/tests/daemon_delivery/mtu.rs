//! "Too big": what a router beyond says reaches the endpoint that sent it, and what does not fit between nodes is told to the client.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::{Netns, wait_for};

use crate::talk::{Datagrams, Talk};
use crate::yard::{Hook, PORT, Pod, SOON, VIPS, Yard, ip};

/// MTU of the client's link from some moment on: below the segments that fit between nodes, above IPv6's least.
const NARROW: u32 = 1300;

/// The MTU that a host has learnt for the way to `to`.
fn learnt(netns: &Netns, to: &str) -> Result<Option<u32>> {
    let route = ip(netns, &format!("route get {to}"))?;
    let mut words = route.split_whitespace();
    Ok(words.find(|word| *word == "mtu").and_then(|_| words.next()).and_then(|mtu| mtu.parse().ok()))
}

/// Narrows the link between router and client, on the router's side only: the client may send what it likes.
fn narrow(yard: &Yard, mtu: u32) -> Result<()> {
    ip(&yard.router, &format!("link set eth1 mtu {mtu}")).map(drop)
}

/// Forgets what was learnt of paths.
fn forget(netns: &Netns) -> Result<()> {
    ip(netns, "route flush cache")?;
    ip(netns, "-6 route flush cache").map(drop)
}

/// A connection of each family.
fn talks(yard: &Yard) -> Result<Vec<(IpAddr, &'static str, Talk)>> {
    let clients = ["10.8.0.2", "fd08::2"];
    let open = |(vip, client): (&str, &'static str)| {
        let vip = vip.parse()?;
        Ok((vip, client, Talk::open(&yard.client, vip, PORT)?))
    };
    VIPS.into_iter().zip(clients).map(open).collect()
}

/// Every connection gets a transfer through, although its way became narrow; the endpoint learnt it, through the node that the router uses.
fn narrow_and_transfer(yard: &Yard, pod: &Pod, talks: &mut [(IpAddr, &'static str, Talk)], at: u8) -> Result<()> {
    yard.via(at)?;
    forget(&pod.netns)?;
    narrow(yard, NARROW)?;
    for (vip, client, talk) in talks.iter_mut() {
        let number =
            talk.exchange(10, 500_000).with_context(|| format!("{vip}, errors at n{at}\n{}", yard.counted()))?;
        ensure!(number == pod.number, "another endpoint answers");
        let mtu = learnt(&pod.netns, client)?;
        ensure!(mtu == Some(NARROW), "{vip}: the endpoint has learnt {mtu:?} by errors at n{at}\n{}", yard.counted());
    }
    narrow(yard, 1500)
}

#[test]
fn a_routers_too_big_reaches_the_endpoint_from_any_node_and_after_two_table_changes() -> Result<()> {
    let mut yard = Yard::new("dptb", 3, Hook::Tc)?;
    let pod = yard.pod(2)?;
    let services = yard.services("tcp", &[(&pod, 2)]);
    yard.apply(&services)?;
    let mut talks = talks(&yard)?;
    for (_, _, talk) in &mut talks {
        talk.exchange(10, 10)?;
    }
    for at in 1..=3 {
        narrow_and_transfer(&yard, &pod, &mut talks, at)?;
    }
    // The endpoint drains, and another one takes all rows; then a third one on another node does.
    let mut successors = Vec::new();
    for home in [3, 1] {
        let next = yard.pod(home)?;
        let mut moved = yard.services("tcp", &[(&pod, 2), (&next, home)]);
        for service in &mut moved {
            service["endpoints"][0]["draining"] = true.into();
        }
        yard.apply(&moved)?;
        let fresh = |vip: &str| Talk::open(&yard.client, vip.parse().ok()?, PORT).ok()?.exchange(1, 1).ok();
        for vip in VIPS {
            wait_for(SOON, "new flows to go to the new home", || (fresh(vip)? == next.number).then_some(()))?;
        }
        successors.push(next);
    }
    for at in 1..=3 {
        narrow_and_transfer(&yard, &pod, &mut talks, at)?;
    }
    Ok(())
}

#[test]
fn a_client_learns_what_fits_between_nodes_and_its_datagrams_go_on() -> Result<()> {
    let mut yard = Yard::new("dbig", 2, Hook::Tc)?;
    let pod = yard.pod(2)?;
    let services = yard.services("udp", &[(&pod, 2)]);
    yard.apply(&services)?;
    for (vip, fits, headers) in [(VIPS[0], 1456, 28), (VIPS[1], 1456, 48)] {
        let socket = Datagrams::open(&yard.client, vip.parse()?, PORT)?;
        ensure!(learnt(&yard.client, vip)?.is_none(), "nothing is known before");
        // Whole packets, never cut: larger than what fits by one byte, they are refused once that is known.
        socket.never_cut()?;
        ensure!(socket.ask(fits - headers).with_context(|| yard.counted())? == pod.number, "what fits goes through");
        ensure!(learnt(&yard.client, vip)?.is_none(), "and teaches nothing");
        let too_big = wait_for(SOON, "the client to be told", || socket.0.send(&vec![0; fits - headers + 1]).err());
        let too_big = too_big.with_context(|| yard.counted())?;
        ensure!(too_big.raw_os_error() == Some(libc::EMSGSIZE), "{too_big}");
        ensure!(learnt(&yard.client, vip)? == Some(u32::try_from(fits)?), "{vip}: {:?}", learnt(&yard.client, vip)?);
        ensure!(socket.ask(fits - headers).with_context(|| yard.counted())? == pod.number, "and it adapts");
        drop(socket);
        // A datagram of several packets is cut by its sender: first too coarsely, then as it was told.
        forget(&yard.client)?;
        let socket = Datagrams::open(&yard.client, vip.parse()?, PORT)?;
        for length in [1473, 4000, 9000, 30_000] {
            let number = socket.ask(length).with_context(|| format!("{vip}: {length} bytes\n{}", yard.counted()))?;
            ensure!(number == pod.number);
        }
    }
    Ok(())
}
