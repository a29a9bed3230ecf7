//! A random packet for a scene, as text.

use std::net::IpAddr;

use super::Dice;
use super::scene::{CLIENTS4, CLIENTS6, ENDPOINTS4, ENDPOINTS6, PORTS, Scene, Service};
use crate::forward::bytes::address_of;
use crate::forward::text::Side;

/// Side and text of the next packet.
pub(crate) fn packet(dice: &mut Dice, scene: &Scene) -> (Side, String) {
    let s = scene.services[usize::try_from(dice.roll(scene.services.len() as u64)).unwrap_or(0)].clone();
    let client = if s.v6 { dice.pick(&CLIENTS6) } else { dice.pick(&CLIENTS4) };
    if dice.one_in(10) {
        return (Side::Out, reply(dice, &s, client));
    }
    if dice.one_in(60) && !scene.acks.is_empty() {
        return (Side::In, cookie(dice, scene));
    }
    let encapsulated = dice.one_in(3);
    let mut eth = "eth".to_owned();
    // For another station, or for a group of them.
    if dice.one_in(24) {
        eth.push_str(dice.pick(&[" to 02:00:00:00:00:99", " to ff:ff:ff:ff:ff:ff", " to 02:00:00:00:01:11"]));
    }
    // An skb has its tag beside the data: with encapsulation the twin cannot show it by test_run.
    if dice.one_in(12) && !encapsulated {
        eth.push_str(dice.pick(&[" vlan 42", " qinq 7 vlan 42"]));
    }
    if dice.one_in(20) {
        eth.push_str(" tail 6");
    }
    let inner = if scene.errors && dice.one_in(12) { error(dice, &s, client) } else { request(dice, &s, client) };
    if !encapsulated {
        return (Side::In, format!("{eth} / {inner}"));
    }
    (Side::In, format!("{eth} / {} / {inner}", encap(dice, scene, &s)))
}

fn ttl(dice: &mut Dice) -> u64 {
    if dice.one_in(20) { dice.roll(3) } else { dice.pick(&[64, 63, 128, 255]) }
}

fn request(dice: &mut Dice, s: &Service, client: &str) -> String {
    let mut ip = format!("ip {client} > {} ttl {} tos {}", s.vip, ttl(dice), dice.pick(&[0, 0, 0xb8, 1, 2, 3, 0x2a]));
    if !s.v6 {
        ip.push_str(dice.pick(&["", " df", " id 0xbeef", " df id 7"]));
        ip.push_str(if dice.one_in(25) { " opt 01010101" } else { "" });
    } else if dice.one_in(4) {
        ip.push_str(" label 0x54321");
    }
    if dice.one_in(60) {
        ip.push_str(dice.pick(&[" len 39", " len 20", " len 9000", " len 0"]));
    }
    if s.v6 && dice.one_in(25) {
        ip.push_str(dice.pick(&[" / hop", " / dest extra 1", " / hop / route", " / frag id 5"]));
    }
    let port = dice.pick(&PORTS);
    // A port beside the service's names none.
    let to = if dice.one_in(40) { s.port + 1 } else { s.port };
    let size = if dice.one_in(30) { 1400 } else { dice.roll(60) };
    if s.tcp {
        let flags = dice.pick(&["S", "S", "SA", "A", "A", "PA", "PA", "FA", "R", "RA", "SEC", "PAU", "0"]);
        let mss = if flags.starts_with('S') {
            dice.pick(&["", " mss 1460 ws 7", " mss 9000", " opt 01020405b4010100"])
        } else {
            ""
        };
        let wrong = if dice.one_in(80) { dice.pick(&[" offset 4", " offset 15", " sum 0x1234"]) } else { "" };
        let data = if matches!(flags, "S" | "A" | "R") { String::new() } else { format!(" / count {size}") };
        return format!("{ip} / tcp {port} > {to} {flags} seq {} ack 77{mss}{wrong}{data}", dice.roll(1 << 32));
    }
    let wrong = if dice.one_in(80) {
        dice.pick(&[" len 7", " len 2000"])
    } else if dice.one_in(8) {
        " sum none"
    } else {
        ""
    };
    let data = if dice.one_in(2) {
        dice.pick(&[
            "quic initial",
            "quic 0rtt",
            "quic handshake",
            "quic short",
            "quic v2 initial",
            "quic v2 0rtt",
            "quic v2 retry",
        ])
        .to_owned()
    } else {
        format!("count {size}")
    };
    format!("{ip} / udp {port} > {to}{wrong} / {data}")
}

/// An ICMP error about a reply of the service.
fn error(dice: &mut Dice, s: &Service, client: &str) -> String {
    let (router, kind, header) = if s.v6 {
        ("2001:db8:f::1", dice.pick(&["icmp6 2 0 rest 1400", "icmp6 1 4", "icmp6 3 0"]), 40)
    } else {
        ("203.0.113.1", dice.pick(&["icmp 3 4 rest 1400", "icmp 11 0", "icmp 3 1"]), 20)
    };
    let l4 = if s.tcp {
        format!("tcp {} > {} A seq 5", s.port, dice.pick(&PORTS))
    } else {
        format!("udp {} > {} / text answer", s.port, dice.pick(&PORTS))
    };
    let cut = header + dice.pick(&[8, 8, 12, 100]);
    format!("ip {router} > {} ttl {} / {kind} / trunc {cut} / ip {} > {client} ttl 9 / {l4}", s.vip, ttl(dice), s.vip)
}

fn encap(dice: &mut Dice, scene: &Scene, s: &Service) -> String {
    if scene.sites && dice.one_in(2) {
        return over_sites(dice, scene, s);
    }
    let from = dice.pick(&[2, 2, 3, 4, 6]);
    let six = from == 6 || from == 2 && dice.one_in(2);
    let mut text = format!("encap {from} > 1");
    if six {
        text.push_str(" six");
    }
    if scene.second_key && dice.one_in(2) {
        text.push_str(" key 1");
    }
    text.push_str(if s.affinity { " affinity" } else { "" });
    let number = if dice.one_in(60) { 77 } else { s.number };
    text.push_str(&format!(" svc {number} epoch {}", dice.roll(65536)));
    let origin = if dice.one_in(8) { dice.pick(&[1, 2, 3]) } else { scene.site };
    text.push_str(&format!(" origin {origin}"));
    text.push_str(&format!(" tos {}", dice.pick(&[0, 3, 2, 0xb8])));
    let hop = |dice: &mut Dice| dice.pick(&["1", "2", "3", "4", "5", "7", "1+", "3+"]);
    let place = match dice.roll(10) {
        0..=2 => format!(" hops {},{}", hop(dice), hop(dice)),
        3 => format!(" hops {},0", hop(dice)),
        4 => format!(" index 1 hops {},{}", dice.pick(&["2", "3"]), hop(dice)),
        5 => format!(" index 2 hops {},1", dice.pick(&["2", "3"])),
        6 => format!(" index {} count {} hops 2,{}", dice.roll(4), dice.roll(4), hop(dice)),
        _ => String::new(),
    };
    text.push_str(&place);
    text.push_str(if dice.one_in(8) { " accept" } else { "" });
    text.push_str(if dice.one_in(20) { " remote" } else { "" });
    if dice.one_in(10) {
        text.push_str(&forged(dice));
    }
    text
}

/// Encapsulation from a node of another site, or inside this one of a packet from there.
fn over_sites(dice: &mut Dice, scene: &Scene, s: &Service) -> String {
    let key = if scene.second_key && dice.one_in(2) { " key 1" } else { "" };
    let affinity = if s.affinity { " affinity" } else { "" };
    let rest = format!("{key}{affinity} svc {} epoch {} tos {}", s.number, dice.roll(65536), dice.pick(&[0, 3, 2]));
    let second = dice.pick(&[0, 0, 1, 2, 3]);
    let ingress = dice.pick(&[40, 41, 41, 50, 1, 2, 9]);
    if dice.one_in(3) {
        let (from, index) = (dice.pick(&[2, 3, 4]), 1 + dice.roll(3));
        let flags = dice.pick(&["", "remote", "remote", "remote final"]);
        let (origin, hop) = (dice.pick(&[1, 2, 2, 3]), dice.pick(&["0", "1", "2", "3", "7"]));
        return format!(
            "encap {from} > 1{rest} origin {origin} second {second} {flags} index {index} hops {ingress},{hop}"
        );
    }
    let from = dice.pick(&[40, 41, 50]);
    let own = if from == 50 { 3 } else { 2 };
    let (flags, origin) = match dice.roll(10) {
        0 | 1 => ("remote final", if dice.one_in(8) { own } else { 1 }),
        2..=6 => ("remote", if dice.one_in(4) { dice.pick(&[1, 2, 3]) } else { own }),
        _ => ("", if dice.one_in(12) { dice.pick(&[1, 2, 3]) } else { own }),
    };
    let pair = if dice.one_in(20) { dice.pick(&[0, 2, 3]) } else { own };
    // The second place names who is said to have the flow.
    let named = dice.pick(&[0, 0, 1, 1, 2]);
    let text = format!(
        "encap {from} > 1 pair {pair}{rest} origin {origin} second {second} {flags} hops {ingress},{named} count 0"
    );
    if dice.one_in(15) { text + &forged(dice) } else { text }
}

/// One thing wrong with encapsulation.
fn forged(dice: &mut Dice) -> String {
    match dice.roll(7) {
        0 => format!(" tag {}", 1u64 << dice.roll(32)),
        1 => " sealed-from 3 sealed-to 4".to_owned(),
        2 => " sealed-from 2 sealed-to 2".to_owned(),
        3 => format!(" shim-version {}", dice.pick(&[0, 2, 3, 15])),
        4 => format!(" reserved {}", dice.pick(&[0x20, 0x40, 0x80])),
        5 => format!(" udplen {}", dice.pick(&[8, 23, 24, 40, 5000])),
        _ => format!(" len {}", dice.pick(&[20, 28, 43, 5000])),
    }
}

fn reply(dice: &mut Dice, s: &Service, client: &str) -> String {
    let endpoint = if s.v6 { dice.pick(&ENDPOINTS6) } else { dice.pick(&ENDPOINTS4) };
    let (endpoint, own) = match (s.delegate, s.tcp) {
        (true, _) => (s.vip, s.port),
        (false, true) => (endpoint, 8080),
        (false, false) => (endpoint, 5353),
    };
    let port = dice.pick(&PORTS);
    let size = dice.roll(60);
    if dice.one_in(8) {
        return refused(dice, s, client, (endpoint, own), port);
    }
    if s.tcp {
        let flags = dice.pick(&["SA", "SA", "A", "PA", "FA", "R", "RA", "S"]);
        let mss = if flags == "SA" { dice.pick(&["", " mss 1460 ws 7", " opt 01020405b4010100"]) } else { "" };
        return format!("eth / ip {endpoint} > {client} / tcp {own} > {port} {flags} ack 5{mss} / count {size}");
    }
    let sum = dice.pick(&["", "", " sum none"]);
    format!("eth / ip {endpoint} > {client} / udp {own} > {port}{sum} / count {size}")
}

/// An ICMP error about a request, from its endpoint or a router before it.
fn refused(dice: &mut Dice, s: &Service, client: &str, (endpoint, own): (&str, u16), port: u16) -> String {
    let router = if s.v6 { "fd01::fe" } else { "10.1.0.254" };
    let from = if dice.one_in(3) { router } else { endpoint };
    let (kind, header) = if s.v6 {
        (dice.pick(&["icmp6 1 4", "icmp6 2 0 rest 1300", "icmp6 128 0"]), 40)
    } else {
        (dice.pick(&["icmp 3 3", "icmp 3 4 rest 1300", "icmp 5 1"]), 20)
    };
    let l4 = if s.tcp { format!("tcp {port} > {own} A seq 5") } else { format!("udp {port} > {own} / text asked") };
    let cut = header + dice.pick(&[8, 12, 100]);
    format!("eth / ip {from} > {client} / {kind} / trunc {cut} / ip {client} > {endpoint} ttl 9 / {l4}")
}

/// A bare acknowledgement whose numbers carry a cookie, or one more than that.
fn cookie(dice: &mut Dice, scene: &Scene) -> String {
    let (key, sequence, acknowledged) = dice.pick(&scene.acks);
    let client: IpAddr = address_of(&key.client);
    let vip = if client.is_ipv4() { "192.0.2.10" } else { "2001:db8:a::10" };
    // A number or two off may still be a cookie, for another MSS.
    let wrong = if dice.one_in(3) { 1_000_000 } else { 0 };
    let ports = format!("{} > 80", u16::from_be(key.client_port));
    format!("eth / ip {client} > {vip} / tcp {ports} A seq {sequence} ack {}", acknowledged.wrapping_add(wrong))
}
