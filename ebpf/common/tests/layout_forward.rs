//! The golden layout of the forwarding maps, and what both sides compute alike.

use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::mem::offset_of;

use bascule_ebpf_common::VipKey;
use bascule_ebpf_common::forward::*;

macro_rules! describe {
    ($out:ident, $t:ident: $($f:ident),*) => {
        write!($out, "{} size={} align={}", stringify!($t), size_of::<$t>(), align_of::<$t>()).unwrap();
        $( write!($out, " {}@{}", stringify!($f), offset_of!($t, $f)).unwrap(); )*
        $out.push('\n');
    };
}

fn layout() -> String {
    let mut out = format!("bascule forward abi v{FORWARD_VERSION}\n");
    describe!(out, ServiceKey: vip, port, protocol, pad);
    describe!(
        out, Service: nodes, endpoints, flags, number, port, protocol, delivery, returns, pad0, drain_minutes, mss4, mss6, pad1, vip,
        pad2
    );
    describe!(out, SourceKey: prefix, slot, address);
    describe!(out, Node: address, flags, ifindex, source_mac, next_mac, mtu, site, pad0, pad1);
    describe!(out, Site: gateways, count, flags);
    describe!(out, Key: key, valid);
    describe!(
        out, Config: flow_key, address4, address6, node, tunnel_port, site, key_slot, flags, orphan_rate, icmp_rate, remote_rate,
        udp_idle_s
    );
    describe!(out, Endpoint: address, port, protocol, pad0, flags, netns, service, pad1);
    describe!(out, ReverseKey: address, port, protocol, pad);
    describe!(out, ReverseEntry: vip, port, service, pad);
    describe!(out, FlowKey: client, endpoint, client_port, endpoint_port, protocol, pad);
    describe!(out, Flow: vip, vip_port, service, endpoint, ingress, seen_s, flags, site, pad);
    describe!(out, Half: vip, vip_port, service, endpoint, ingress);
    describe!(out, FragmentKey: source, destination, id, protocol, pad);
    describe!(out, Shim: version_flags, hops_used, service, epoch, origin_site, second_site, hops, tag);
    describe!(out, ServiceStats: packets, bytes, new_flows, orphans, asked);
    describe!(out, EndpointStats: packets, bytes, syns, syn_acks, resets, replies, reply_bytes, new_flows);
    describe!(out, Bucket: filled_ns, tokens);
    // Of linux/bpf.h: the index of the device, and the program that runs there.
    out.push_str("kernel bpf_devmap_val size=8\n");
    out.push_str("word Row home@0 previous@16 older@32 stamp@48\nword Table base@0 rows@32 epoch@48\n");
    out.push_str("word Watched service@0 site@16 answered@24 tag@32\n");
    for (name, kind, entries, key, value) in [
        ("CONFIG", "array", 1, "u32", "Config"),
        ("KEYS", "array", MAX_KEYS, "u32", "Key"),
        ("SERVICE_KEYS", "hash", MAX_SERVICE_KEYS, "ServiceKey", "u32"),
        ("SERVICES", "mmap_array", MAX_SERVICES, "u32", "Service"),
        ("SOURCES", "lpm_trie", MAX_SOURCES, "SourceKey", "u32"),
        ("ROWS", "mmap_array", MAX_ROWS, "u32", "u64"),
        ("NODES", "array", MAX_NODES, "u32", "Node"),
        ("SITES", "array", MAX_SITES, "u32", "Site"),
        ("PEERS", "hash", MAX_PEERS, "VipKey", "u32"),
        ("ENDPOINTS", "array", MAX_ENDPOINTS, "u32", "Endpoint"),
        ("REVERSE", "hash", MAX_REVERSE, "ReverseKey", "ReverseEntry"),
        ("FLOWS", "lru_hash", DEFAULT_FLOWS, "FlowKey", "Flow"),
        ("HALF", "lru_hash", MAX_HALF, "FlowKey", "Half"),
        ("EXCEPTIONS", "lru_hash", MAX_EXCEPTIONS, "FlowKey", "u32"),
        ("HANDOVER", "percpu_array", 1, "u32", "u32"),
        ("FRAGMENTS", "lru_hash", MAX_FRAGMENTS, "FragmentKey", "u32"),
        ("BUCKETS", "percpu_array", MAX_BUCKETS, "u32", "Bucket"),
        ("TALLIES", "percpu_array", TALLIES, "u32", "u64"),
        ("SERVICE_STATS", "percpu_array", MAX_SERVICES, "u32", "ServiceStats"),
        ("ENDPOINT_STATS", "percpu_array", MAX_ENDPOINTS, "u32", "EndpointStats"),
        ("WATCHED", "mmap_array", MAX_WATCHED, "u32", "u64"),
        ("OWN_MACS", "hash", MAX_MACS, "u64", "u32"),
        ("DEVICES", "devmap_hash", MAX_DEVICES, "u32", "bpf_devmap_val"),
        ("FORWARD_STAMP", "array", 1, "u32", "u64"),
    ] {
        writeln!(out, "map {name} {kind} {entries} {key} {value}").unwrap();
    }
    // Those of one load of the programs: made anew by each, never taken over by another.
    for name in ["SLOW_XDP", "SLOW_TC"] {
        writeln!(out, "load {name} prog_array 1 u32 u32").unwrap();
    }
    for reason in PacketDrop::ALL {
        writeln!(out, "drop {} {}", reason as u32, reason.name()).unwrap();
    }
    for tally in Tally::ALL {
        writeln!(out, "tally {} {}", tally as u32, tally.name()).unwrap();
    }
    writeln!(out, "tally {} hops {HOP_BUCKETS}", Tally::Hops as u32).unwrap();
    out
}

#[test]
fn layout_matches_the_golden_file() {
    let golden = include_str!("../layout-forward-v1.txt");
    let layout = layout();
    assert_eq!(layout, golden, "write a new golden file; raise FORWARD_VERSION when a release had the old one");
    assert_eq!(FORWARD_STAMP >> 32, u64::from(FORWARD_VERSION));
    assert_ne!(FORWARD_STAMP & 0xffff_ffff, 0);
}

#[test]
fn hashes_are_siphash_over_the_little_endian_bytes() {
    let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
    let words = [1u64, u64::MAX, 0x0123_4567_89ab_cdef, 0, 42];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut reference = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
    reference.write(&bytes);
    assert_eq!(siphash13(key, words), reference.finish());
    let mut reference = siphasher::sip::SipHasher24::new_with_keys(key[0], key[1]);
    reference.write(&bytes);
    assert_eq!(siphash24(key, words), reference.finish());
}

#[test]
fn the_flow_hash_reads_the_bytes_on_the_wire() {
    let key = [7, 9];
    let tuple = Tuple {
        client: VipKey::v4([192, 0, 2, 7]),
        vip: VipKey::v4([10, 9, 0, 100]),
        client_port: 40_000u16.to_be(),
        vip_port: 443u16.to_be(),
        protocol: 6,
    };
    let mut bytes = Vec::new();
    bytes.extend(tuple.client.addr);
    bytes.extend(tuple.vip.addr);
    bytes.extend(40_000u16.to_be_bytes());
    bytes.extend(443u16.to_be_bytes());
    bytes.extend([6, 0, 0, 0]);
    let mut reference = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
    reference.write(&bytes);
    assert_eq!(tuple.hash(key), reference.finish());
}

#[test]
fn rows_and_tables_survive_their_word() {
    let row = Row { home: 1, previous: 0x0fff, older: SITE_BASE | 3, stamp: 65_535 };
    assert_eq!(Row::from_word(row.word()), row);
    let table = Table { base: MAX_ROWS - 1, rows: 65_521, epoch: 9 };
    assert_eq!(Table::from_word(table.word()), table);
    assert!(is_site(row.older) && !is_site(row.previous) && site_of(row.older) == 3);
    assert!((0..=u32::MAX).step_by(65_537).all(|h| fast_range(h, 251) < 251));
    assert_eq!((fast_range(u32::MAX, 251), fast_range(0, 251)), (250, 0));
    assert!((0..=u16::MAX).all(|h| entropy_port(u64::from(h)) >= 49_152));
}

#[test]
fn a_sealed_shim_opens_only_on_its_own_path() {
    let key = [11, 13];
    let head = ShimHead {
        flags: SHIM_KEY | SHIM_REMOTE,
        index: 1,
        count: 2,
        accept: true,
        service: 513,
        epoch: 65_535,
        origin_site: 1,
        second_site: 2,
        hops: [3, 4 | HOP_ACCEPT],
    };
    let shim = head.seal(key, 99, 1, 2);
    assert_eq!(shim.open(), Some(head));
    assert!(shim.verify(key, 99, 1, 2));
    for (hash, from, to) in [(98, 1, 2), (99, 3, 2), (99, 1, 3), (99, 2, 1)] {
        assert!(!shim.verify(key, hash, from, to), "{hash} {from} {to}");
    }
    assert!(!shim.verify([11, 12], 99, 1, 2));
    // Every bit of the shim is under the tag or is the tag.
    // SAFETY: sixteen bytes without padding, every pattern valid.
    let bytes: [u8; 16] = unsafe { std::mem::transmute(shim) };
    for bit in 0..128 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        // SAFETY: as above.
        let flipped: Shim = unsafe { std::mem::transmute(flipped) };
        assert!(!flipped.verify(key, 99, 1, 2), "bit {bit}");
    }
    assert_eq!(Shim { version_flags: 0x20, ..shim }.open(), None);
    assert_eq!(Shim { hops_used: shim.hops_used | 0x40, ..shim }.open(), None);
}
