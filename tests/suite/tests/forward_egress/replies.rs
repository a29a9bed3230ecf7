//! Replies of an endpoint, frame by frame.

use anyhow::Result;
use bascule_ebpf_common::forward::*;

use crate::shapes::{fragments, icmp, routed, tagged, tcp, udp, with_extras};
use crate::stage::{ACK, Family, PORT, SYN, Stage, V4, V6, key, node_address};
use crate::{
    ENDPOINT_PORT, client, endpoint_stats, flow, flow_key, half, leave, node, on_ground, sides, slot,
};

const NEXT: i32 = -1;
const FIN: u8 = 1;
const RST: u8 = 4;

fn reverse(stage: &mut Stage, f: Family, protocol: u8) -> Result<()> {
    let reverse = ReverseKey { address: key(f.endpoint), port: ENDPOINT_PORT.to_be(), protocol, pad: [0; 5] };
    let service = u16::try_from(slot(f, protocol))?;
    let entry = ReverseEntry { vip: key(f.vip), port: PORT.to_be(), service, pad: 0 };
    Ok(stage.hash::<ReverseKey, ReverseEntry>("REVERSE")?.insert(reverse, entry, 0)?)
}

fn with_flows(stage: &mut Stage) -> Result<()> {
    for f in [V4, V6] {
        for protocol in [6, 17] {
            stage.hash::<FlowKey, Flow>("FLOWS")?.insert(flow_key(f, protocol), flow(f, protocol), 0)?;
        }
    }
    Ok(())
}

/// Replies that TCP and UDP send, before and after.
fn pairs(f: Family) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let [from, to] = sides(f);
    let c = client(f);
    vec![
        (6, tcp(from, c, ACK, &[], 63), tcp(to, c, ACK, &[], 63)),
        (17, udp(from, c, b"an answer", 63), udp(to, c, b"an answer", 63)),
    ]
}

#[test]
fn each_table_gives_the_vip_back() {
    on_ground(|_, dir| {
        for table in [Tally::ReplyFlow, Tally::ReplyHalf, Tally::ReplyReverse] {
            let mut stage = node(&dir.join(table.name()), 2, false)?;
            for f in [V4, V6] {
                for (protocol, before, after) in pairs(f) {
                    assert_eq!(leave(&stage, &before)?, (NEXT, before.clone()), "nobody knows it yet");
                    match table {
                        Tally::ReplyFlow => stage
                            .hash::<FlowKey, Flow>("FLOWS")?
                            .insert(flow_key(f, protocol), flow(f, protocol), 0)?,
                        Tally::ReplyHalf => {
                            let half = Half { service: u16::try_from(slot(f, protocol))?, ..half(f) };
                            stage.hash::<FlowKey, Half>("HALF")?.insert(flow_key(f, protocol), half, 0)?;
                        }
                        _ => reverse(&mut stage, f, protocol)?,
                    }
                    for _ in 0..2 {
                        assert_eq!(leave(&stage, &before)?, (NEXT, after.clone()), "{}", table.name());
                    }
                    let tags = |frame: &[u8]| tagged(&tagged(frame, 0x8100, 7), 0x88a8, 9);
                    assert_eq!(leave(&stage, &tags(&before))?.1, tags(&after));
                    assert_eq!(leave(&stage, &with_extras(&before))?.1, with_extras(&after));
                    if let Tally::ReplyFlow = table {
                        let stats = endpoint_stats(&mut stage, slot(f, protocol))?;
                        assert_eq!((stats.replies, stats.syn_acks, stats.resets), (4, 0, 0));
                        let extras = with_extras(&before).len() - before.len();
                        assert_eq!(stats.reply_bytes, 4 * (before.len() as u64 - 14) + extras as u64);
                    }
                }
            }
            assert_eq!(stage.tally(table as u32)?, 16, "{}", table.name());
        }
        Ok(())
    });
}

#[test]
fn the_reverse_map_is_not_for_the_inside() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 2, false)?;
        for f in [V4, V6] {
            reverse(&mut stage, f, 6)?;
            let [from, to] = sides(f);
            // A node; then a range under slot 0, which no service has.
            if f.client.is_ipv4() {
                let peer = ("10.0.0.3".parse()?, 5);
                let frame = tcp(from, peer, ACK, &[], 64);
                assert_eq!(leave(&stage, &frame)?.1, frame);
            }
            let frame = tcp(from, client(f), ACK, &[], 64);
            assert_eq!(leave(&stage, &frame)?.1, tcp(to, client(f), ACK, &[], 64));
            let mut data = [0u8; 20];
            data[4..].copy_from_slice(&key(f.client).addr);
            let prefix = if f.client.is_ipv4() { 32 + 96 + 24 } else { 32 + 48 };
            let mut sources: aya::maps::LpmTrie<_, [u8; 20], u32> =
                aya::maps::LpmTrie::try_from(stage.ebpf.map_mut("SOURCES").unwrap())?;
            sources.insert(&aya::maps::lpm_trie::Key::new(prefix, data), 1, 0)?;
            assert_eq!(leave(&stage, &frame)?.1, frame);
        }
        assert_eq!(node_address(3, false), key("10.0.0.3".parse()?));
        Ok(())
    });
}

#[test]
fn mss_of_a_syn_ack_is_lowered_wherever_it_stands() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 2, false)?;
        for f in [V4, V6] {
            stage.hash::<FlowKey, Half>("HALF")?.insert(flow_key(f, 6), half(f), 0)?;
        }
        let mut clamped = 0;
        for f in [V4, V6] {
            let limit: u16 = if f.client.is_ipv4() { 1400 } else { 1300 };
            let [h, l] = limit.to_be_bytes();
            let [hb, lb] = 1460u16.to_be_bytes();
            let late = |high: u8, low: u8| [vec![1; 35], vec![2, 4, high, low, 1]].concat();
            let cases: Vec<(Vec<u8>, Vec<u8>)> = vec![
                (vec![2, 4, hb, lb], vec![2, 4, h, l]),
                (vec![1, 2, 4, hb, lb, 1, 1, 1], vec![1, 2, 4, h, l, 1, 1, 1]),
                (vec![1, 1, 1, 2, 4, hb, lb, 0], vec![1, 1, 1, 2, 4, h, l, 0]),
                (vec![4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0xff, 0xff], {
                    vec![4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, h, l]
                }),
                (vec![3, 3, 7, 2, 4, hb, lb, 1], vec![3, 3, 7, 2, 4, h, l, 1]),
                (late(hb, lb), late(h, l)),
                // Low enough, absent, behind the end of the list, of a wrong length, cut off by the header's end, or behind nonsense.
                (vec![2, 4, h, l], vec![2, 4, h, l]),
                (vec![2, 4, 2, 24], vec![2, 4, 2, 24]),
                (vec![], vec![]),
                (vec![1, 3, 3, 7], vec![1, 3, 3, 7]),
                (vec![0, 2, 4, hb, lb, 0, 0, 0], vec![0, 2, 4, hb, lb, 0, 0, 0]),
                (vec![2, 6, hb, lb, 0, 0, 1, 1], vec![2, 6, hb, lb, 0, 0, 1, 1]),
                (vec![1, 1, 2, 4], vec![1, 1, 2, 4]),
                (vec![9, 0, 2, 4, hb, lb, 1, 1], vec![9, 0, 2, 4, hb, lb, 1, 1]),
                (vec![9, 200, 2, 4, hb, lb, 1, 1], vec![9, 200, 2, 4, hb, lb, 1, 1]),
            ];
            let [from, to] = sides(f);
            for (before, after) in cases {
                clamped += u64::from(before != after);
                let frame = tcp(from, client(f), SYN | ACK, &before, 64);
                assert_eq!(leave(&stage, &frame)?.1, tcp(to, client(f), SYN | ACK, &after, 64), "{before:?}");
            }
            // Not a SYN-ACK: nobody reads its options.
            let frame = tcp(from, client(f), ACK, &[2, 4, hb, lb], 64);
            assert_eq!(leave(&stage, &frame)?.1, tcp(to, client(f), ACK, &[2, 4, hb, lb], 64));
            assert_eq!(endpoint_stats(&mut stage, f.slot)?.syn_acks, 15);
        }
        assert_eq!((clamped, stage.tally(Tally::MssClamped as u32)?), (12, 12));
        // 0: unclamped.
        let mut service = stage.array::<Service>("SERVICES")?.get(&V4.slot, 0)?;
        service.mss4 = 0;
        stage.array::<Service>("SERVICES")?.set(V4.slot, service, 0)?;
        let [from, to] = sides(V4);
        let frame = tcp(from, client(V4), SYN | ACK, &[2, 4, 0xff, 0xff], 64);
        assert_eq!(leave(&stage, &frame)?.1, tcp(to, client(V4), SYN | ACK, &[2, 4, 0xff, 0xff], 64));
        Ok(())
    });
}

#[test]
fn the_end_of_a_flow_is_noted_and_a_syn_is_nobodys_reply() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 2, false)?;
        with_flows(&mut stage)?;
        let [from, to] = sides(V4);
        let mut send = |flags: u8, before: u8| -> Result<Flow> {
            let entry = Flow { flags: before, ..flow(V4, 6) };
            stage.hash::<FlowKey, Flow>("FLOWS")?.insert(flow_key(V4, 6), entry, 0)?;
            let frame = tcp(from, client(V4), flags, &[], 64);
            assert_eq!(leave(&stage, &frame)?.1, tcp(to, client(V4), flags, &[], 64));
            Ok(stage.hash::<FlowKey, Flow>("FLOWS")?.get(&flow_key(V4, 6), 0)?)
        };
        assert_eq!(send(ACK, 0)?.flags, 0);
        assert_ne!(send(ACK, 0)?.seen_s, 0);
        assert_eq!(send(ACK | FIN, 0)?.flags, FLOW_FIN_ENDPOINT);
        assert_eq!(
            send(ACK | FIN, FLOW_FIN_CLIENT)?.flags,
            FLOW_FIN_CLIENT | FLOW_FIN_ENDPOINT | FLOW_CLOSING
        );
        assert_eq!(send(RST, 0)?.flags, FLOW_CLOSING);
        assert_eq!(send(RST | ACK, FLOW_FIN_CLIENT)?.flags, FLOW_FIN_CLIENT | FLOW_CLOSING);
        assert_eq!(endpoint_stats(&mut stage, V4.slot)?.resets, 2);
        let syn = tcp(from, client(V4), SYN, &[], 64);
        assert_eq!(leave(&stage, &syn)?, (NEXT, syn));
        Ok(())
    });
}

#[test]
fn udp_without_a_checksum_gets_none_and_a_sum_of_zero_is_ones() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 2, false)?;
        with_flows(&mut stage)?;
        let [from, to] = sides(V4);
        let mut before = udp(from, client(V4), b"none", 64);
        let mut after = udp(to, client(V4), b"none", 64);
        before[40..42].fill(0);
        after[40..42].fill(0);
        assert_eq!(leave(&stage, &before)?.1, after);
        for f in [V4, V6] {
            let at = if f.client.is_ipv4() { 40 } else { 60 };
            let [from, to] = sides(f);
            // One payload of two bytes in 65536 sums up to zero.
            let payload = (0..=u16::MAX)
                .map(u16::to_be_bytes)
                .find(|p| udp(to, client(f), p, 64)[at..at + 2] == [0, 0])
                .expect("there is one");
            let mut after = udp(to, client(f), &payload, 64);
            after[at..at + 2].fill(0xff);
            assert_eq!(leave(&stage, &udp(from, client(f), &payload, 64))?.1, after);
        }
        Ok(())
    });
}

#[test]
fn errors_quote_what_the_client_sent() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 2, false)?;
        with_flows(&mut stage)?;
        let mut expected = 0;
        for f in [V4, V6] {
            let [inside, outside] = sides(f);
            let kinds: &[u8] = if f.client.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
            let router = if f.client.is_ipv4() { "10.0.0.2".parse()? } else { "fd00::2".parse()? };
            for &kind in kinds {
                for (from, back) in [(f.endpoint, f.vip), (router, router)] {
                    let quotes = [
                        (tcp(client(f), inside, ACK, &[], 60), tcp(client(f), outside, ACK, &[], 60)),
                        (udp(client(f), inside, b"question", 60), udp(client(f), outside, b"question", 60)),
                        (
                            with_extras(&udp(client(f), inside, b"question", 60)),
                            with_extras(&udp(client(f), outside, b"question", 60)),
                        ),
                    ];
                    for (delivered, sent) in quotes {
                        // All of it, and the least that RFC 792 asks for, which ends before the checksum of TCP.
                        let header = delivered.len() - if delivered[23] == 6 || delivered[20] == 6 { 27 } else { 16 };
                        for end in [delivered.len(), header + 8] {
                            let before = icmp(from, f.client, kind, 1, [0, 0, 5, 0], &delivered[14..end], 64);
                            let after = icmp(back, f.client, kind, 1, [0, 0, 5, 0], &sent[14..end], 64);
                            assert_eq!(leave(&stage, &before)?, (NEXT, after), "{kind} {end}");
                            expected += 1;
                        }
                    }
                }
            }
            // Not an error, not to the client, of an unknown flow.
            let quote = udp(client(f), inside, b"question", 60);
            let other = udp(client(f), (f.endpoint, 9), b"question", 60);
            for frame in [
                icmp(f.endpoint, f.client, if f.client.is_ipv4() { 0 } else { 129 }, 0, [0; 4], &quote[14..], 64),
                icmp(f.endpoint, router, 3, 1, [0; 4], &quote[14..], 64),
                icmp(f.endpoint, f.client, 3, 1, [0; 4], &other[14..], 64),
                icmp(f.endpoint, f.client, 3, 1, [0; 4], &quote[14..30], 64),
            ] {
                assert_eq!(leave(&stage, &frame)?, (NEXT, frame));
            }
        }
        assert_eq!(stage.tally(Tally::IcmpError as u32)?, expected);
        Ok(())
    });
}

#[test]
fn later_fragments_follow_the_first() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 2, false)?;
        with_flows(&mut stage)?;
        for f in [V4, V6] {
            let [from, to] = sides(f);
            let body: Vec<u8> = (0..200).collect();
            let before = fragments(&udp(from, client(f), &body, 64), 96, 77);
            let after = fragments(&udp(to, client(f), &body, 64), 96, 77);
            assert_eq!(leave(&stage, &before[1])?.1, before[1], "its first one was not seen");
            assert_eq!(leave(&stage, &before[0])?.1, after[0]);
            assert_eq!(leave(&stage, &before[1])?.1, after[1]);
            let other = fragments(&udp(from, client(f), &body, 64), 96, 78);
            assert_eq!(leave(&stage, &other[1])?.1, other[1], "another datagram");
        }
        Ok(())
    });
}

#[test]
fn what_is_not_a_reply_leaves_as_it_came() {
    on_ground(|_, dir| {
        let mut stage = node(dir, 2, false)?;
        with_flows(&mut stage)?;
        let [from, _] = sides(V4);
        let mut frames = vec![vec![0xff; 60], routed(&tcp((V4.endpoint, 9), client(V4), ACK, &[], 64))];
        // A client on this node, of a VIP that another node serves.
        frames.push(tcp(("10.0.0.2".parse()?, 50_000), (V4.vip, PORT), SYN, &[], 64));
        frames.push(udp((V4.vip, PORT), client(V4), b"of the VIP's own", 64));
        // Cut off everywhere.
        let whole = tcp(from, client(V4), ACK, &[2, 4, 5, 0xb4], 64);
        frames.extend((34..54).map(|end| whole[..end].to_vec()));
        // Splitmix64: frames of noise behind each EtherType.
        let mut state = 7u64;
        let mut dice = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        for n in 0..20_000u32 {
            let length = 34 + dice() as usize % 200;
            let mut frame: Vec<u8> = (0..length.max(54)).map(|_| dice() as u8).collect();
            match n % 4 {
                0 => frame[12..15].copy_from_slice(&[8, 0, 0x45]),
                1 => frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
                2 => frame[12..16].copy_from_slice(&[0x81, 0, 0, 7]),
                _ => {}
            }
            frames.push(frame);
        }
        for frame in frames {
            let (verdict, out) = leave(&stage, &frame)?;
            assert_eq!((verdict, &out), (NEXT, &frame));
        }
        let touched: u64 = [Tally::ReplyFlow, Tally::ReplyHalf, Tally::ReplyReverse, Tally::IcmpError]
            .into_iter()
            .map(|t| stage.tally(t as u32).unwrap())
            .sum();
        assert_eq!(touched, 0);
        // Forwarding off: not even a reply.
        let mut config = stage.array::<Config>("CONFIG")?.get(&0, 0)?;
        config.node = 0;
        stage.config(&config)?;
        let frame = tcp(from, client(V4), ACK, &[], 64);
        assert_eq!(leave(&stage, &frame)?.1, frame);
        Ok(())
    });
}
