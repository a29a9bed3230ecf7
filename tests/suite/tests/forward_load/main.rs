//! The forwarding programs in this kernel: that they load, what they cost the verifier, and one packet of each kind through both hooks.
//!
//! The rules case by case are the fixtures' work; here each node of a pair runs the same object and one's output is the other's input.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::needless_range_loop,
    reason = "helpers of tests: a failure ends the test, numbers are small, and `hook` names one of two"
)]

mod frames;
mod stage;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use bascule_ebpf_common::forward::*;
use bascule_lab::forward::BUDGETS;
use bascule_suite::fence::{Ground, boot_ns};

use frames::{sum, tcp, tcp_from, udp};
use stage::{ACK, DROP, Family, PASS, PORT, SEND, SYN, Stage, V4, V6, key, node_address};

fn on_ground(body: impl Fn(&Path) -> Result<()> + Send + 'static) {
    Ground::run(move |ground| body(ground.root())).unwrap();
}

#[test]
fn programs_load_within_their_budget() {
    on_ground(|dir| {
        let stage = Stage::new(dir, 1, false)?;
        for (name, most, kib) in BUDGETS {
            let info = stage.ebpf.program(name).context(name)?.info()?;
            let (verified, xlated) = (info.verified_instruction_count().unwrap(), info.size_translated().unwrap());
            println!(
                "{name}: {verified} verified instructions (budget {most}), {xlated} bytes translated (budget {kib} KiB), {} \
                 jited",
                info.size_jitted()
            );
            assert!(verified <= most && xlated <= kib * 1024, "{name}");
        }
        assert_eq!(stage.ebpf.programs().count(), BUDGETS.len());
        Ok(())
    });
}

#[test]
fn what_names_no_service_passes_as_it_came() {
    on_ground(|dir| {
        let mut stage = Stage::new(dir, 1, false)?;
        for f in [V4, V6] {
            for frame in [
                tcp(f.client, f.endpoint, PORT, SYN, 64, 1460),
                tcp(f.client, f.vip, PORT + 1, SYN, 64, 1460),
                udp(f.client, f.endpoint, DEFAULT_TUNNEL_PORT, 64),
                vec![0xff; 60],
            ] {
                for hook in 0..2 {
                    let (verdict, out) = stage.run(hook, &frame)?;
                    assert_eq!((verdict, &out), (PASS[hook], &frame), "{hook}");
                }
            }
        }
        assert_eq!(stage.tally(Tally::Passed as u32)?, 12);
        Ok(())
    });
}

#[test]
fn a_packet_reaches_the_endpoint_of_another_node() {
    on_ground(|dir| {
        for v6 in [false, true] {
            let (mut near, mut home) = (Stage::new(dir, 1, v6)?, Stage::new(dir, 2, v6)?);
            for f in [V4, V6] {
                for hook in 0..2 {
                    let sent = [
                        (tcp(f.client, f.vip, PORT, SYN, 64, 1460), tcp(f.client, f.endpoint, 8443, SYN, 63, mss(f))),
                        (tcp(f.client, f.vip, PORT, ACK, 64, 0), tcp(f.client, f.endpoint, 8443, ACK, 63, 0)),
                        (udp(f.client, f.vip, PORT, 64), udp(f.client, f.endpoint, 8443, 63)),
                    ];
                    for (frame, delivered) in &sent {
                        let (verdict, outer) = near.run(hook, frame)?;
                        assert_eq!(verdict, SEND[hook]);
                        check_outer(&outer, frame, v6);
                        let (verdict, out) = home.run(hook, &outer)?;
                        assert_eq!(verdict, PASS[hook]);
                        assert_eq!(out[14..], delivered[14..], "hook {hook} v6 {v6}");
                        assert_eq!(out[12..14], delivered[12..14]);
                    }
                }
            }
            assert_eq!(near.tally(Tally::Encapsulated as u32)?, 12);
            assert_eq!(home.tally(Tally::Decapsulated as u32)?, 12);
            assert_eq!(home.tally(Tally::MssClamped as u32)?, 4);
            // The second hook finds what the first one entered: a SYN over a live flow, the ACK and the datagram.
            assert_eq!(home.tally(Tally::FlowNew as u32)?, 4);
            assert_eq!(home.tally(Tally::FlowHit as u32)?, 8);
            // Half-open entries ended with the handshakes.
            assert_eq!(home.lru::<Half>("HALF")?.len(), 0);
            let flows = home.lru::<Flow>("FLOWS")?;
            assert_eq!(flows.len(), 4);
            for (_, flow) in flows {
                assert_eq!((flow.ingress, flow.vip_port), (1, PORT.to_be()));
            }
            assert_eq!(near.lru::<Flow>("FLOWS")?.len() + near.lru::<Half>("HALF")?.len(), 0);
        }
        Ok(())
    });
}

/// Handshakes that are watched.
fn watched(stage: &mut Stage) -> Result<Vec<Watched>> {
    let words = stage.array::<u64>("WATCHED")?;
    let all: Vec<u64> = words.iter().collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter_map(Watched::from_word).collect())
}

fn forget_watched(stage: &mut Stage) -> Result<()> {
    let mut words = stage.array::<u64>("WATCHED")?;
    (0..MAX_WATCHED).try_for_each(|place| Ok(words.set(place, 0, 0)?))
}

/// The pin of what [`tcp`] sends.
fn pin(family: Family) -> FlowKey {
    FlowKey {
        client: key(family.client),
        endpoint: key(family.vip),
        client_port: 40_000u16.to_be(),
        endpoint_port: PORT.to_be(),
        protocol: 6,
        pad: [0; 3],
    }
}

/// ADR 0037. The row leads to another site or to a node of this one; what the client sends next is an answer, whichever way that came.
#[test]
fn a_syn_is_noted_with_its_site_until_its_client_goes_on() {
    on_ground(|dir| {
        let mut stage = Stage::new(dir, 1, false)?;
        let config = stage.array::<Config>("CONFIG")?.get(&0, 0)?;
        stage.config(&Config { site: 1, flags: CONFIG_SITES, ..config })?;
        let there = Site { count: 1, flags: SITE_REACHABLE, ..Site::default() };
        stage.array::<Site>("SITES")?.set(3, there, 0)?;
        let gateway = stage.array::<Node>("NODES")?.get(&3, 0)?;
        stage.array::<Node>("NODES")?.set(3, Node { site: 3, ..gateway }, 0)?;
        for (home, site) in [(SITE_BASE | 3, 3), (2, 1)] {
            stage.array::<u64>("ROWS")?.set(0, Row { home, ..Row::default() }.word(), 0)?;
            for f in [V4, V6] {
                let service = stage.array::<Service>("SERVICES")?.get(&f.slot, 0)?;
                for hook in 0..2 {
                    forget_watched(&mut stage)?;
                    let syn = tcp(f.client, f.vip, PORT, SYN, 64, 1460);
                    // Only of services that several sites have.
                    stage.run(hook, &syn)?;
                    assert_eq!(watched(&mut stage)?, []);
                    let shared = Service { flags: SERVICE_EXCEPTIONS, ..service };
                    stage.array::<Service>("SERVICES")?.set(f.slot, shared, 0)?;
                    // Whoever goes on without a SYN was not watched; datagrams have no handshakes.
                    for frame in [tcp(f.client, f.vip, PORT, ACK, 64, 0), udp(f.client, f.vip, PORT, 64)] {
                        stage.run(hook, &frame)?;
                    }
                    assert_eq!(watched(&mut stage)?, []);
                    stage.run(hook, &syn)?;
                    let noted = watched(&mut stage)?;
                    let [one] = noted[..] else { panic!("{noted:?}") };
                    assert_eq!((u32::from(one.service), one.site, one.answered), (f.slot, site, false));
                    // The same SYN again is no news, and neither is what the client sends from another port.
                    stage.run(hook, &syn)?;
                    stage.run(hook, &tcp_from(40_001, f.client, f.vip, PORT, ACK, 64, 0))?;
                    assert_eq!(watched(&mut stage)?, [one]);
                    stage.run(hook, &tcp(f.client, f.vip, PORT, ACK, 64, 0))?;
                    assert_eq!(watched(&mut stage)?, [Watched { answered: true, ..one }]);
                    // Until somebody has read it.
                    stage.run(hook, &syn)?;
                    assert_eq!(watched(&mut stage)?, [Watched { answered: true, ..one }]);
                    // Where the answer came back through this node it has pinned the flow before its client goes on.
                    forget_watched(&mut stage)?;
                    stage.run(hook, &syn)?;
                    assert_eq!(watched(&mut stage)?, [one]);
                    stage.hash::<FlowKey, u32>("EXCEPTIONS")?.insert(pin(f), 3, 0)?;
                    stage.run(hook, &tcp(f.client, f.vip, PORT, ACK, 64, 0))?;
                    assert_eq!(watched(&mut stage)?, [Watched { answered: true, ..one }]);
                    stage.hash::<FlowKey, u32>("EXCEPTIONS")?.remove(&pin(f))?;
                    stage.array::<Service>("SERVICES")?.set(f.slot, service, 0)?;
                }
            }
        }
        Ok(())
    });
}

fn mss(family: Family) -> u16 {
    if family.vip.is_ipv4() { 1400 } else { 1300 }
}

/// The outer headers as the text of the format has them.
fn check_outer(outer: &[u8], frame: &[u8], v6: bool) {
    assert_eq!(outer[..12], [2, 0, 0, 0, 2, 2, 2, 0, 0, 0, 1, 1]);
    let overhead = if v6 { 64 } else { 44 };
    assert_eq!(outer.len(), frame.len() + overhead);
    // ECT(0), as the frames inside carry it.
    let class = 0x02;
    let udp_length = u16::try_from(outer.len() - 14 - if v6 { 40 } else { 20 }).unwrap();
    if v6 {
        assert_eq!(outer[12..14], [0x86, 0xdd]);
        assert_eq!((outer[14], outer[15] & 0xf0), (0x60, class << 4));
        assert_eq!(outer[18..22], [udp_length.to_be_bytes()[0], udp_length.to_be_bytes()[1], 17, 8]);
        assert_eq!(
            (&outer[22..38], &outer[38..54]),
            (&node_address(1, true).addr[..], &node_address(2, true).addr[..])
        );
    } else {
        assert_eq!(outer[12..16], [8, 0, 0x45, class]);
        assert_eq!(outer[16..18], (udp_length + 20).to_be_bytes());
        assert_eq!(outer[18..24], [0, 0, 0x40, 0, 8, 17]);
        assert_eq!(sum(&outer[14..34]), 0);
        assert_eq!(outer[26..34], [10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let at = 14 + overhead - 24;
    assert!(u16::from_be_bytes([outer[at], outer[at + 1]]) >= 49_152);
    assert_eq!(outer[at + 2..at + 4], DEFAULT_TUNNEL_PORT.to_be_bytes());
    assert_eq!(outer[at + 4..at + 6], udp_length.to_be_bytes());
    assert_eq!(outer[at + 6..at + 8], [0, 0]);
    assert_eq!((outer[at + 8], outer[at + 9]), (0x10, 0));
    assert_eq!(outer[at + 12..at + 14], 9u16.to_be_bytes());
}

#[test]
fn encapsulation_that_lies_is_dropped_for_its_reason() {
    on_ground(|dir| {
        let (mut near, mut home) = (Stage::new(dir, 1, false)?, Stage::new(dir, 2, false)?);
        let (_, good) = near.run(0, &tcp(V4.client, V4.vip, PORT, SYN, 64, 1460))?;
        let lie = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        for (frame, reason) in [
            (lie(29, 99), PacketDrop::EncapPeer),
            (lie(29, 3), PacketDrop::EncapTag),
            (lie(57, good[57] ^ 1), PacketDrop::EncapTag),
            (lie(42, 0x11), PacketDrop::EncapTag),
            (lie(42, 0x20), PacketDrop::EncapFormat),
            (lie(39, good[39] ^ 1), PacketDrop::EncapFormat),
            (lie(45, good[45] ^ 1), PacketDrop::EncapService),
            (lie(14 + 44, 0x75), PacketDrop::EncapFormat),
        ] {
            for hook in 0..2 {
                let before = home.tally(reason as u32)?;
                assert_eq!(home.run(hook, &frame)?.0, DROP[hook], "{reason:?}");
                assert_eq!(home.tally(reason as u32)?, before + 1, "{reason:?}");
            }
        }
        assert_eq!(home.run(0, &good)?.0, PASS[0]);
        Ok(())
    });
}

#[test]
fn an_unknown_packet_walks_the_chain_and_ends_as_an_orphan() {
    on_ground(|dir| {
        let (mut near, mut home) = (Stage::new(dir, 1, false)?, Stage::new(dir, 2, false)?);
        let mut older = Stage::new(dir, 3, false)?;
        for stage in [&mut near, &mut home, &mut older] {
            let minutes = (boot_ns() / 60_000_000_000) as u16;
            let row = Row { home: 2, previous: 3, older: 0, stamp: minutes };
            stage.array::<u64>("ROWS")?.set(0, row.word(), 0)?;
        }
        for hook in 0..2 {
            let (_, first) = near.run(hook, &tcp(V4.client, V4.vip, PORT, ACK, 64, 0))?;
            let (verdict, second) = home.run(hook, &first)?;
            assert_eq!((verdict, home.tally(Tally::NextHop as u32)?), (SEND[hook], 1 + hook as u64));
            assert_eq!(second[26..34], [10, 0, 0, 2, 10, 0, 0, 3]);
            // Index 1 of 1; the node on which the client's packet arrived has taken the used hop's place.
            assert_eq!((second[43], &second[50..52]), (0x05, &[0, 1][..]));
            assert_eq!(second.len(), first.len());
            // Node 3 has no endpoint and its row names nobody new.
            assert_eq!(older.run(hook, &second)?.0, DROP[hook]);
            assert_eq!(older.tally(PacketDrop::NoEndpoint as u32)?, 1 + hook as u64);
        }
        Ok(())
    });
}

#[test]
fn a_socket_of_the_endpoint_knows_its_flow_although_the_table_does_not() {
    Ground::run(|ground| {
        let mut home = Stage::new(ground.root(), 2, false)?;
        for f in [V4, V6] {
            for address in [f.client, f.endpoint] {
                ground.address(&format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 }), "lo")?;
            }
            let listener = std::net::TcpListener::bind(SocketAddr::new(f.endpoint, 8443))?;
            let client = connect(f.client, SocketAddr::new(f.endpoint, 8443))?;
            let port = client.local_addr()?.port();
            for hook in 0..2 {
                let known = tcp_from(port, f.client, f.vip, PORT, ACK, 64, 0);
                let before = home.tally(Tally::SocketHit as u32)? + home.tally(Tally::FlowHit as u32)?;
                let (verdict, out) = home.run(hook, &known)?;
                assert_eq!(verdict, PASS[hook]);
                // At the node where it arrives, the stack counts the hops.
                assert_eq!(out[14..], tcp_from(port, f.client, f.endpoint, 8443, ACK, 64, 0)[14..]);
                assert_eq!(home.tally(Tally::SocketHit as u32)? + home.tally(Tally::FlowHit as u32)?, before + 1);
            }
            drop((client, listener));
        }
        assert_eq!((home.tally(Tally::SocketHit as u32)?, home.tally(Tally::FlowHit as u32)?), (2, 2));
        // A listener alone knows nothing: one orphan a second and CPU gets the stack's answer.
        let stranger = tcp(V4.client, V4.vip, PORT, ACK, 64, 0);
        let verdicts: Vec<u32> = (0..16).map(|_| Ok(home.run(0, &stranger)?.0)).collect::<Result<_>>()?;
        assert_eq!(verdicts[0], PASS[0]);
        assert!(home.tally(PacketDrop::OrphanRate as u32)? > 0, "{verdicts:?}");
        assert_eq!(home.tally(Tally::Orphan as u32)? + home.tally(PacketDrop::OrphanRate as u32)?, 16);
        Ok(())
    })
    .unwrap();
}

fn connect(from: IpAddr, to: SocketAddr) -> Result<std::net::TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    bind(raw, &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    connect(raw, &SockaddrStorage::from(to))?;
    Ok(fd.into())
}
