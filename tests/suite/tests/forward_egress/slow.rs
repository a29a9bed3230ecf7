//! What the fast programs leave: both hooks, the tail call included, from the node a packet lands on to the one that delivers it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::DevMapHash;
use bascule_ebpf_common::forward::*;
use bascule_suite::fence::{Ground, boot_ns};

use crate::frames::{sum, transport_sum};
use crate::shapes::{fragments, icmp, tcp, udp, with_extras};
use crate::stage::{ACK, DROP, Family, PASS, PORT, SEND, SYN, Stage, V4, V6};
use crate::{ENDPOINT_PORT, client, flow, flow_key, leave, node, on_ground, sides, slot};

/// XDP_REDIRECT (linux/bpf.h).
const XDP_REDIRECT: u32 = 4;

fn both(dir: &Path) -> Result<[Stage; 2]> {
    Ok([node(dir, 1, false)?, node(dir, 2, false)?])
}

/// Sends a frame through the node it lands on and the home: what the second makes of it.
fn deliver(nodes: &mut [Stage; 2], hook: usize, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
    let (verdict, outer) = nodes[0].run(hook, frame)?;
    assert_eq!(verdict, SEND[hook]);
    nodes[1].run(hook, &outer)
}

fn to_vip(f: Family) -> ((IpAddr, u16), (IpAddr, u16), (IpAddr, u16)) {
    (client(f), (f.vip, PORT), (f.endpoint, ENDPOINT_PORT))
}

#[test]
fn options_and_extension_headers_go_the_same_way() {
    on_ground(|_, dir| {
        let mut nodes = both(dir)?;
        for f in [V4, V6] {
            let (from, vip, endpoint) = to_vip(f);
            let [h, l] = if f.vip.is_ipv4() { 1400u16 } else { 1300 }.to_be_bytes();
            for hook in 0..2 {
                let sent = with_extras(&tcp(from, vip, SYN, &[2, 4, 5, 0xb4], 64));
                let (verdict, out) = deliver(&mut nodes, hook, &sent)?;
                let want = with_extras(&tcp(from, endpoint, SYN, &[2, 4, h, l], 63));
                assert_eq!((verdict, &out[14..]), (PASS[hook], &want[14..]), "{hook}");
                let sent = with_extras(&udp(from, vip, b"question", 64));
                let (verdict, out) = deliver(&mut nodes, hook, &sent)?;
                assert_eq!(
                    (verdict, &out[14..]),
                    (PASS[hook], &with_extras(&udp(from, endpoint, b"question", 63))[14..])
                );
            }
        }
        Ok(())
    });
}

#[test]
fn fragments_follow_their_first_to_the_endpoint() {
    on_ground(|_, dir| {
        let mut nodes = both(dir)?;
        let body: Vec<u8> = (0..200).collect();
        let mut id = 100;
        for f in [V4, V6] {
            let (from, vip, endpoint) = to_vip(f);
            for hook in 0..2 {
                id += 1;
                let sent = fragments(&udp(from, vip, &body, 64), 96, id);
                let want = fragments(&udp(from, endpoint, &body, 63), 96, id);
                let before = nodes[0].tally(PacketDrop::FragmentOrder as u32)?;
                assert_eq!(nodes[0].run(hook, &sent[1])?.0, DROP[hook]);
                assert_eq!(nodes[0].tally(PacketDrop::FragmentOrder as u32)?, before + 1);
                for part in 0..2 {
                    let (verdict, out) = deliver(&mut nodes, hook, &sent[part])?;
                    assert_eq!((verdict, &out[14..]), (PASS[hook], &want[part][14..]), "hook {hook} part {part}");
                }
                // Those of somebody else pass, in any order.
                let other = fragments(&udp(from, (f.endpoint, PORT), &body, 64), 96, id);
                for part in [1, 0] {
                    assert_eq!(nodes[0].run(hook, &other[part])?, (PASS[hook], other[part].clone()));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn echo_is_answered_in_place_while_a_node_serves() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 1, false)?;
        for f in [V4, V6] {
            let (request, reply) = if f.vip.is_ipv4() { (8, 0) } else { (128, 129) };
            let entry = if f.vip.is_ipv4() { 11 } else { 13 };
            let ask = icmp(f.client, f.vip, request, 0, [1, 2, 0, 9], b"are you there?", 61);
            for hook in 0..2 {
                let (verdict, out) = stage.run(hook, &ask)?;
                let mut want = icmp(f.vip, f.client, reply, 0, [1, 2, 0, 9], b"are you there?", 64);
                want[..6].copy_from_slice(&ask[6..12]);
                want[6..12].copy_from_slice(&ask[..6]);
                assert_eq!((verdict, out), (SEND[hook], want));
                let elsewhere = icmp(f.client, f.endpoint, request, 0, [1, 2, 0, 9], b"are you there?", 61);
                assert_eq!(stage.run(hook, &elsewhere)?, (PASS[hook], elsewhere));
                let stray = icmp(f.client, f.vip, reply, 0, [1, 2, 0, 9], b"I am", 61);
                assert_eq!(stage.run(hook, &stray)?, (PASS[hook], stray));
            }
            let mut service = stage.array::<Service>("SERVICES")?.get(&entry, 0)?;
            service.nodes = 0;
            stage.array::<Service>("SERVICES")?.set(entry, service, 0)?;
            for hook in 0..2 {
                assert_eq!(stage.run(hook, &ask)?, (PASS[hook], ask.clone()), "nobody serves");
            }
            service.nodes = Table { base: 0, rows: 1, epoch: 9 }.word();
            stage.array::<Service>("SERVICES")?.set(entry, service, 0)?;
        }
        assert_eq!(stage.tally(Tally::EchoAnswered as u32)?, 4);
        let mut config = stage.array::<Config>("CONFIG")?.get(&0, 0)?;
        config.icmp_rate = 0;
        stage.config(&config)?;
        let ask = icmp(V4.client, V4.vip, 8, 0, [0; 4], b"flood", 61);
        assert_eq!(stage.run(0, &ask)?.0, DROP[0]);
        assert_eq!(stage.tally(PacketDrop::IcmpRate as u32)?, 1);
        Ok(())
    });
}

#[test]
fn what_does_not_fit_is_answered_with_what_would() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 1, false)?;
        let mut entry = stage.array::<Node>("NODES")?.get(&2, 0)?;
        entry.mtu = 1400;
        stage.array::<Node>("NODES")?.set(2, entry, 0)?;
        let body = vec![0x5a; 1349];
        for f in [V4, V6] {
            let (from, vip, _) = to_vip(f);
            let header = if f.vip.is_ipv4() { 28 } else { 48 };
            // 1356 bytes and the 44 in front of them are 1400.
            let fits = udp(from, vip, &body[..1356 - header], 64);
            for hook in 0..2 {
                assert_eq!(stage.run(hook, &fits)?.0, SEND[hook]);
                for big in [udp(from, vip, &body[..1357 - header], 64), with_extras(&fits)] {
                    let (told, dropped) =
                        (stage.tally(Tally::TooBigSent as u32)?, stage.tally(PacketDrop::TooBig as u32)?);
                    let (verdict, out) = stage.run(hook, &big)?;
                    assert_eq!(verdict, SEND[hook]);
                    check_too_big(f, &big, &out);
                    assert_eq!(stage.tally(Tally::TooBigSent as u32)?, told + 1);
                    assert_eq!(stage.tally(PacketDrop::TooBig as u32)?, dropped + 1);
                }
            }
        }
        // Routers may cut it: it goes, and says so on the outside.
        let (from, vip, _) = to_vip(V4);
        let mut loose = udp(from, vip, &body[..1329], 64);
        loose[20] = 0;
        let mut header = loose[..34].to_vec();
        crate::shapes::fix_header(&mut header);
        loose[..34].copy_from_slice(&header);
        let (verdict, out) = stage.run(0, &loose)?;
        assert_eq!((verdict, &out[20..22]), (SEND[0], &[0, 0][..]));
        // Nobody is told more often than the rate allows.
        let mut config = stage.array::<Config>("CONFIG")?.get(&0, 0)?;
        config.icmp_rate = 0;
        stage.config(&config)?;
        let big = udp(from, vip, &body, 64);
        assert_eq!(stage.run(0, &big)?.0, DROP[0]);
        Ok(())
    });
}

fn check_too_big(f: Family, big: &[u8], out: &[u8]) {
    assert_eq!((&out[..6], &out[6..12], &out[12..14]), (&big[6..12], &big[..6], &big[12..14]));
    if f.vip.is_ipv4() {
        assert_eq!(out.len(), 14 + 20 + 8 + 96);
        assert_eq!((out[14], &out[16..18], out[23]), (0x45, &124u16.to_be_bytes()[..], 1));
        assert_eq!(sum(&out[14..34]), 0);
        assert_eq!((&out[26..30], &out[30..34]), (&big[30..34], &big[26..30]));
        assert_eq!(out[34..36], [3, 4]);
        assert_eq!(out[38..42], [0, 0, 5, 0x4c], "1356");
        assert_eq!(sum(&out[34..]), 0);
        assert_eq!(out[42..], big[14..110]);
    } else {
        assert_eq!(out.len(), 14 + 40 + 8 + 96);
        assert_eq!((&out[18..20], out[20]), (&104u16.to_be_bytes()[..], 58));
        assert_eq!((&out[22..38], &out[38..54]), (&big[38..54], &big[22..38]));
        assert_eq!(out[54..56], [2, 0]);
        assert_eq!(out[58..62], [0, 0, 5, 0x4c]);
        assert_eq!(transport_sum(f.vip, f.client, 58, &out[54..]), 0);
        assert_eq!(out[62..], big[14..110]);
    }
}

#[test]
fn an_error_reaches_the_endpoint_also_after_two_table_changes() {
    on_ground(|_, dir| {
        let [near, home] = both(dir)?;
        let mut nodes = [near, home, node(dir, 3, false)?];
        let minutes = (boot_ns() / 60_000_000_000) as u16;
        for f in [V4, V6] {
            for protocol in [6, 17] {
                // An idle flow is over, also for errors.
                let seen_s = u32::try_from(boot_ns() / 1_000_000_000)?;
                let flow = Flow { seen_s, ..flow(f, protocol) };
                nodes[1].hash::<FlowKey, Flow>("FLOWS")?.insert(flow_key(f, protocol), flow, 0)?;
            }
        }
        // Now at home on node 2; and after node 1 itself and node 3 were its home in turn.
        for row in [
            Row { home: 2, ..Row::default() },
            Row { home: 3, previous: 2, older: 0, stamp: minutes },
            Row { home: 1, previous: 3, older: 2, stamp: minutes },
        ] {
            for stage in &mut nodes {
                stage.array::<u64>("ROWS")?.set(0, row.word(), 0)?;
            }
            for f in [V4, V6] {
                let (kind, router) =
                    if f.vip.is_ipv4() { (3, "192.0.2.254".parse()?) } else { (2, "2001:db8:1::fe".parse()?) };
                let [endpoint, vip] = sides(f);
                for (sent, seen) in [
                    (tcp(endpoint, client(f), ACK, &[], 60), tcp(vip, client(f), ACK, &[], 60)),
                    (udp(endpoint, client(f), b"answer", 60), udp(vip, client(f), b"answer", 60)),
                ] {
                    let error = icmp(router, f.vip, kind, 4, [0, 0, 5, 0x14], &seen[14..], 64);
                    let want = icmp(router, f.endpoint, kind, 4, [0, 0, 5, 0x14], &sent[14..], 63);
                    for hook in 0..2 {
                        let (mut verdict, mut frame) = nodes[0].run(hook, &error)?;
                        let mut hops = 0;
                        while verdict == SEND[hook] {
                            let to = usize::from(frame[33]) - 1;
                            (verdict, frame) = nodes[to].run(hook, &frame)?;
                            hops += 1;
                        }
                        assert!(hops <= 3, "{hops}");
                        assert_eq!((verdict, &frame[14..]), (PASS[hook], &want[14..]), "{row:?} hook {hook}");
                    }
                }
            }
        }
        assert_eq!(nodes[1].tally(Tally::IcmpError as u32)?, 24);
        // A flow that nobody has, and quotes that are not the VIP's.
        let strange = udp((V4.vip, PORT), ("192.0.2.99".parse()?, 9), b"answer", 60);
        let error = icmp(V4.client, V4.vip, 3, 4, [0; 4], &strange[14..], 64);
        nodes[0].array::<u64>("ROWS")?.set(0, Row { home: 2, ..Row::default() }.word(), 0)?;
        nodes[1].array::<u64>("ROWS")?.set(0, Row { home: 2, ..Row::default() }.word(), 0)?;
        let (_, outer) = nodes[0].run(0, &error)?;
        assert_eq!(nodes[1].run(0, &outer)?.0, DROP[0]);
        let [endpoint, _] = sides(V4);
        let foreign = icmp(V4.client, V4.vip, 3, 4, [0; 4], &udp(endpoint, client(V4), b"x", 60)[14..], 64);
        assert_eq!(nodes[0].run(0, &foreign)?, (PASS[0], foreign));
        Ok(())
    });
}

#[test]
fn odd_packets_of_others_pass_as_they_came() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 1, false)?;
        let mut state = 11u64;
        let mut dice = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        for n in 0..10_000u32 {
            let mut frame: Vec<u8> = (0..64 + dice() % 120).map(|_| dice() as u8).collect();
            if n % 2 == 0 {
                frame[12..15].copy_from_slice(&[8, 0, 0x40 | 5 + dice() as u8 % 11]);
                frame[23] = [1, 2, 6, 17, 132][dice() as usize % 5];
            } else {
                frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
                frame[20] = [0, 43, 44, 58, 60, 6, 17][dice() as usize % 7];
            }
            let hook = n as usize % 2;
            assert_eq!(stage.run(hook, &frame)?, (PASS[hook], frame));
        }
        Ok(())
    });
}

/// A ground whose node routes to the clients over `va`: the MAC of `va` and of the client.
fn routes(ground: &Ground) -> Result<(u32, Vec<u8>)> {
    ground.ip("link add va address 02:00:00:00:00:0a type veth peer name vb")?;
    ground.ip("link set va up")?;
    ground.ip("link set vb up")?;
    ground.ip("addr add 192.0.2.1/24 dev va")?;
    ground.ip("addr add 2001:db8:1::1/64 dev va nodad")?;
    ground.ip("neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev va nud permanent")?;
    ground.ip("neigh add 2001:db8:1::7 lladdr 02:00:00:00:00:07 dev va nud permanent")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    Ok((ground.ifindex("va")?, vec![2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 10]))
}

#[test]
fn a_reply_goes_back_through_the_node_of_its_request() {
    on_ground(|ground, dir| {
        let (va, macs) = routes(ground)?;
        for v6 in [false, true] {
            let dir = dir.join(v6.to_string());
            let (mut near, mut home) = (node(&dir, 1, v6)?, node(&dir, 2, v6)?);
            let mut devices = DevMapHash::try_from(near.ebpf.map_mut("DEVICES").context("map")?)?;
            devices.insert(va, va, None, 0)?;
            for f in [V4, V6] {
                for protocol in [6, 17] {
                    let slot = slot(f, protocol);
                    let mut service = home.array::<Service>("SERVICES")?.get(&slot, 0)?;
                    service.returns = RETURN_VIA_INGRESS;
                    home.array::<Service>("SERVICES")?.set(slot, service, 0)?;
                    let entry = Flow { ingress: 1, flags: FLOW_VIA_INGRESS, ..flow(f, protocol) };
                    home.hash::<FlowKey, Flow>("FLOWS")?.insert(flow_key(f, protocol), entry, 0)?;
                }
                let [from, to] = sides(f);
                let c = client(f);
                let kind = if f.vip.is_ipv4() { 3 } else { 1 };
                let quote = |side| udp(c, side, b"question", 60)[14..].to_vec();
                let body: Vec<u8> = (0..200).collect();
                let [first, later] = fragments(&udp(from, c, &body, 64), 96, 5);
                let [first_out, later_out] = fragments(&udp(to, c, &body, 63), 96, 5);
                let cases = [
                    (tcp(from, c, ACK, &[], 64), tcp(to, c, ACK, &[], 63)),
                    (udp(from, c, b"answer", 64), udp(to, c, b"answer", 63)),
                    (with_extras(&udp(from, c, b"answer", 64)), with_extras(&udp(to, c, b"answer", 63))),
                    (first, first_out),
                    (later, later_out),
                    (
                        icmp(f.endpoint, f.client, kind, 1, [0; 4], &quote(from), 64),
                        icmp(f.vip, f.client, kind, 1, [0; 4], &quote(to), 63),
                    ),
                ];
                for (n, (before, after)) in cases.iter().enumerate() {
                    let (verdict, outer) = leave(&home, before)?;
                    assert_eq!(verdict, 7, "case {n}");
                    assert_eq!(outer.len(), before.len() + if v6 { 64 } else { 44 });
                    assert_eq!(outer[..12], [2, 0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 2]);
                    let shim = outer.len() - (before.len() - 14) - 16;
                    assert_eq!((outer[shim], outer[shim + 1], &outer[shim + 8..shim + 12]), (0x18, 0, &[0; 4][..]));
                    let (verdict, out) = near.run(0, &outer)?;
                    assert_eq!((verdict, &out[..12], &out[12..]), (XDP_REDIRECT, &macs[..], &after[12..]), "case {n}");
                    let (verdict, out) = near.run(1, &outer)?;
                    assert_eq!((verdict, &out[12..]), (7, &after[12..]), "case {n}");
                    // A lie about it.
                    let mut forged = outer.clone();
                    forged[shim + 15] ^= 1;
                    for hook in 0..2 {
                        assert_eq!(near.run(hook, &forged)?.0, DROP[hook]);
                    }
                }
            }
            assert_eq!(home.tally(Tally::ReplyVia as u32)?, 12);
            assert_eq!(near.tally(Tally::Decapsulated as u32)?, 24);
            assert_eq!(near.tally(PacketDrop::EncapTag as u32)?, 24);
            // The ingress node died: straight to the client.
            let mut entry = home.array::<Node>("NODES")?.get(&1, 0)?;
            entry.flags |= NODE_DEAD;
            home.array::<Node>("NODES")?.set(1, entry, 0)?;
            let [from, to] = sides(V4);
            let reply = tcp(from, client(V4), ACK, &[], 64);
            assert_eq!(leave(&home, &reply)?, (-1, tcp(to, client(V4), ACK, &[], 64)));
            // An unresolved neighbour: the stack forwards what XDP took the encapsulation off.
            entry.flags &= !NODE_DEAD;
            home.array::<Node>("NODES")?.set(1, entry, 0)?;
            ground.ip("neigh del 192.0.2.7 dev va")?;
            let (_, outer) = leave(&home, &reply)?;
            let bare = [&outer[..12], &tcp(to, client(V4), ACK, &[], 63)[12..]].concat();
            assert_eq!(near.run(0, &outer)?, (PASS[0], bare));
            assert_eq!(near.run(1, &outer)?.0, 7);
            ground.ip("neigh replace 192.0.2.7 lladdr 02:00:00:00:00:07 dev va nud permanent")?;
        }
        Ok(())
    });
}
