//! Services whose last step is somebody else's: `delegate` (a DNAT rule stands in for kube-proxy), `none`, and SCTP, which is never ours.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::{Netns, tool};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::frames::Tap;
use crate::talk::{Datagrams, Server, Talk};
use crate::yard::{ENDPOINT_PORT, Hook, PORT, Pod, SOON, VIPS, Yard, ip};

const SCTP: u8 = 132;

/// What kube-proxy does on every node: the VIP becomes the pod.
fn proxy(node: &Netns, pod: &Pod) -> Result<()> {
    let [v4, v6] = pod.addresses;
    let [vip4, vip6] = VIPS;
    let script = format!(
        "table inet proxy {{\nchain pre {{\ntype nat hook prerouting priority dstnat; policy accept;\n\
         ip daddr {vip4} meta l4proto {{ tcp, udp, sctp }} th dport {PORT} dnat ip to {v4}:{ENDPOINT_PORT}\n\
         ip6 daddr {vip6} meta l4proto {{ tcp, udp, sctp }} th dport {PORT} dnat ip6 to [{v6}]:{ENDPOINT_PORT}\n}}\n}}\n"
    );
    tool(Some(node), "nft", &["-f", "-"], Some(&script))?;
    Ok(())
}

fn delegated(yard: &Yard, protocol: &str, pod: &Pod) -> Vec<Value> {
    let mut services = yard.services(protocol, &[(pod, 2)]);
    for service in &mut services {
        service["delivery"] = json!("delegate");
    }
    services
}

/// An SCTP packet with an INIT chunk (RFC 9260 sections 3.1 and 3.3.2); a node's connection tracking looks at its checksum.
fn init(from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 9]);
    // CRC32c (RFC 9260 appendix A), bit by bit.
    let mut sum = u32::MAX;
    for byte in &packet {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0x82f6_3b78 };
        }
    }
    packet[8..12].copy_from_slice(&(!sum).to_le_bytes());
    packet
}

/// The INIT reaches the pod through node `via`.
fn sctp_arrives(yard: &Yard, pod: &Pod, family: usize, via: u8) -> Result<()> {
    yard.via(via)?;
    let vip: IpAddr = VIPS[family].parse()?;
    let tap = Tap::open(&pod.netns, "eth0")?;
    let domain = if vip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = yard.client.run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(SCTP)))))?;
    let from = 20_000 + u16::from(via);
    socket.send_to(&init(from, PORT), &std::net::SocketAddr::from((vip, 0)).into())?;
    let arrived = |all: &[crate::frames::Seen]| {
        all.iter().any(|s| {
            s.protocol == SCTP
                && s.destination == pod.addresses[family]
                && s.payload[..4] == [from.to_be_bytes(), ENDPOINT_PORT.to_be_bytes()].concat()
        })
    };
    ensure!(arrived(&tap.collect(SOON, arrived)), "{vip} through n{via}\n{}", yard.counted());
    Ok(())
}

fn delegate(name: &str, hook: Hook) -> Result<()> {
    let mut yard = Yard::new(name, 2, hook)?;
    let pod = yard.pod(2)?;
    for node in &yard.crew.nodes {
        proxy(&node.netns, &pod)?;
    }
    let services = ["tcp", "udp", "sctp"].map(|protocol| delegated(&yard, protocol, &pod)).concat();
    yard.apply(&services)?;
    for (family, vip) in VIPS.into_iter().enumerate() {
        let address = vip.parse()?;
        for via in 1..=2 {
            yard.via(via)?;
            let why = || format!("{vip} through n{via}\n{}", yard.counted());
            let mut talk = Talk::open(&yard.client, address, PORT).with_context(why)?;
            for (up, down) in [(1, 1), (1_000_000, 1), (1, 1_000_000)] {
                ensure!(talk.exchange(up, down).with_context(why)? == pod.number);
            }
            ensure!(Datagrams::open(&yard.client, address, PORT)?.ask(1200).with_context(why)? == pod.number);
            sctp_arrives(&yard, &pod, family, via)?;
        }
    }
    let verdict = |n, what: &str| yard.metric(n, &format!("bascule_forward_verdicts_total{{verdict=\"{what}\"}}"));
    ensure!(verdict(1, "encapsulated") > 0 && verdict(2, "decapsulated") > 0, "steered home: {}", yard.counted());
    let too_big = (1..=2).map(|n| yard.metric(n, "bascule_forward_drops_total{reason=\"too_big\"}")).sum::<u64>();
    ensure!(too_big == 0, "the MSS of both sides is lowered here, too: {}", yard.counted());
    Ok(())
}

#[test]
fn a_delegated_service_is_steered_home_and_finished_by_the_nodes_own_rules() -> Result<()> {
    delegate("dgate", Hook::Tc)
}

#[test]
fn a_delegated_service_is_steered_by_xdp() -> Result<()> {
    delegate("dgatex", Hook::Xdp)
}

#[test]
fn a_service_without_delivery_passes_to_the_node_that_has_its_address() -> Result<()> {
    let mut yard = Yard::new("dnone", 2, Hook::Tc)?;
    let other = yard.pod(1)?;
    let mut services: Vec<Value> = yard.services("tcp", &[]);
    for service in &mut services {
        service["delivery"] = json!("none");
        service.as_object_mut().context("an object")?.remove("endpoints");
    }
    // Another service, so that there is a table to wait for; on other VIPs, of course.
    let mut steered = yard.services("udp", &[(&other, 1)]);
    for (service, vip) in steered.iter_mut().zip(["10.9.7.101", "fd09:7::101"]) {
        service["vip"] = json!(vip);
    }
    services.extend(steered);
    let node = yard.node(2).netns.clone();
    let [v4, v6] = VIPS;
    ip(&node, &format!("addr add {v4}/32 dev lo"))?;
    ip(&node, &format!("addr add {v6}/128 dev lo nodad"))?;
    let _server = Server::start(&node, 99, PORT)?;
    yard.apply(&services)?;
    yard.via(2)?;
    for vip in VIPS {
        let mut talk = Talk::open(&yard.client, vip.parse()?, PORT)?;
        ensure!(talk.exchange(100_000, 100_000)? == 99, "the node itself answers");
    }
    let flows = yard.daemon(2).ctl(&["flows", "--vip", VIPS[0]])?;
    ensure!(!flows.contains("10.8.0.2"), "no flow is kept: {flows}");
    Ok(())
}
