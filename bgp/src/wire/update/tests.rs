//! Encoder and decoder against one another.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::encode::{EncodedAttributes, announce, end_of_rib, withdraw};
use super::{Disposition, Update};
use crate::wire::attr::{AsPath, Attributes, LargeCommunity, Origin, Segment, SegmentKind};
use crate::wire::header::{Framer, MAX_LEN, MAX_LEN_EXTENDED};
use crate::wire::{DecodeContext, EncodeError, Family, FamilySet, Message, NextHop};

const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fn context(four_octet_as: bool, ibgp: bool) -> DecodeContext {
    DecodeContext { four_octet_as, ibgp, families: FamilySet::ALL, ..DecodeContext::default() }
}

/// Every message of a stream, with its whole length.
fn messages(bytes: &[u8], max_len: usize, context: &DecodeContext) -> Vec<(usize, Update)> {
    let mut framer = Framer::new();
    framer.push(bytes);
    let mut all = Vec::new();
    while let Some(frame) = framer.next(max_len).expect("well framed") {
        match Message::decode(&frame, context).expect("our own messages are well formed") {
            Message::Update(update) => all.push((frame.wire_len(), *update)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(framer.pending(), 0);
    all
}

fn prefixes(family: Family, count: u32) -> Vec<IpNet> {
    let one = |n: u32| match family {
        Family::Ipv4 => IpNet::new(Ipv4Addr::from(0x0a00_0000 + n).into(), 32),
        Family::Ipv6 => IpNet::new(Ipv6Addr::from(u128::from(GLOBAL) + u128::from(n) + 1).into(), 128),
    };
    (0..count).map(|n| one(n).unwrap()).collect()
}

fn next_hops() -> [NextHop; 3] {
    [
        NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
        NextHop::V6 { global: GLOBAL, link_local: None },
        NextHop::V6 { global: GLOBAL, link_local: Some(LOCAL) },
    ]
}

#[test]
fn a_table_is_packed_into_full_messages_and_nothing_is_lost() {
    let attributes = Attributes { as_path: AsPath::sequence([64512]), ..Attributes::default() };
    let encoded = EncodedAttributes::new(&attributes, true).unwrap();
    for next_hop in next_hops() {
        let all = prefixes(next_hop.family(), 3000);
        for max in [MAX_LEN, MAX_LEN_EXTENDED] {
            let mut out = Vec::new();
            assert_eq!(announce(&mut out, &encoded, next_hop, &all, max, usize::MAX), all.len());
            let read = messages(&out, max, &context(true, false));
            assert_eq!(read.iter().flat_map(|(_, update)| update.announced()).collect::<Vec<_>>(), all);
            assert!(read[..read.len() - 1].iter().all(|(len, _)| *len > max - 17 && *len <= max), "{next_hop:?} {max}");
            assert!(read.iter().all(|(_, update)| update.attributes == attributes));

            let mut out = Vec::new();
            assert_eq!(withdraw(&mut out, next_hop.family(), &all, max, usize::MAX), all.len());
            let read = messages(&out, max, &context(true, false));
            assert_eq!(read.iter().flat_map(|(_, update)| update.withdrawn()).collect::<Vec<_>>(), all);
            assert!(read.iter().all(|(_, update)| update.announced().next().is_none() && update.end_of_rib.is_none()));
        }
    }
}

#[test]
fn a_budget_is_kept_and_the_rest_goes_on_where_it_ended() {
    let encoded = EncodedAttributes::new(&Attributes::default(), true).unwrap();
    for next_hop in next_hops() {
        let all = prefixes(next_hop.family(), 900);
        let mut done = 0;
        let mut read = Vec::new();
        while done < all.len() {
            let mut out = b"what is there already".to_vec();
            let before = out.len();
            let count = announce(&mut out, &encoded, next_hop, &all[done..], MAX_LEN, 5000);
            assert!(count > 0 && out.len() <= before + 5000);
            done += count;
            read.extend(messages(&out[before..], MAX_LEN, &context(true, false)));
        }
        assert_eq!(read.iter().flat_map(|(_, update)| update.announced()).collect::<Vec<_>>(), all);
    }
}

#[test]
fn a_budget_too_small_for_one_prefix_appends_nothing() {
    let encoded = EncodedAttributes::new(&Attributes::default(), true).unwrap();
    for next_hop in next_hops() {
        let all = prefixes(next_hop.family(), 2);
        for budget in 0..50 {
            let mut out = Vec::new();
            let count = announce(&mut out, &encoded, next_hop, &all, MAX_LEN, budget);
            assert!(out.len() <= budget);
            assert_eq!(count == 0, out.is_empty(), "{budget}");
            assert_eq!(withdraw(&mut out, next_hop.family(), &all, MAX_LEN, 0), 0);
        }
    }
}

#[test]
fn a_prefix_of_another_family_ends_the_run() {
    let encoded = EncodedAttributes::new(&Attributes::default(), true).unwrap();
    let mixed = [prefixes(Family::Ipv4, 2), prefixes(Family::Ipv6, 2)].concat();
    let mut out = Vec::new();
    assert_eq!(announce(&mut out, &encoded, next_hops()[0], &mixed, MAX_LEN, 9999), 2);
    assert_eq!(announce(&mut out, &encoded, next_hops()[1], &mixed, MAX_LEN, 9999), 0);
    assert_eq!(withdraw(&mut out, Family::Ipv6, &mixed[2..], MAX_LEN, 9999), 2);
}

#[test]
fn end_of_rib_is_known_as_such_and_an_empty_update_of_another_family_is_not() {
    for family in Family::ALL {
        let mut out = Vec::new();
        end_of_rib(&mut out, family);
        assert!(out.len() <= super::encode::END_OF_RIB_LEN);
        let read = messages(&out, MAX_LEN, &context(true, false));
        assert_eq!(read[0].1.end_of_rib, Some(family));
        assert_eq!(read[0].1.disposition, Disposition::Accept);
        let other = if family == Family::Ipv4 { Family::Ipv6 } else { Family::Ipv4 };
        let only = DecodeContext { families: FamilySet::EMPTY.with(other), ..context(true, false) };
        assert_eq!(messages(&out, MAX_LEN, &only)[0].1.end_of_rib, None);
    }
}

#[test]
fn attributes_that_leave_no_room_are_refused() {
    let of = |count| Attributes { communities: vec![1; count], ..Attributes::default() };
    let fits = EncodedAttributes::new(&of(1000), true).unwrap();
    for next_hop in next_hops() {
        let one = prefixes(next_hop.family(), 1);
        assert_eq!(announce(&mut Vec::new(), &fits, next_hop, &one, MAX_LEN, MAX_LEN), 1);
    }
    assert!(EncodedAttributes::new(&of(1010), true).is_err());
    assert!(EncodedAttributes::new(&of(20_000), true).is_err());
}

/// RFC 7606 section 5.1: one kind of thing in a message, the MP attribute first and no NEXT_HOP beside it, codes ascending.
#[test]
fn s5_1_layout_of_every_message_we_send() {
    let attributes = Attributes {
        as_path: AsPath::sequence([65001]),
        med: Some(5),
        communities: vec![0xffff_0000],
        ..Attributes::default()
    };
    let encoded = EncodedAttributes::new(&attributes, true).unwrap();
    let (before, after) = ("40010100 4002060201 0000fde9", "800404 00000005 c00804 ffff0000");
    let (v4, v6) = (prefixes(Family::Ipv4, 1), prefixes(Family::Ipv6, 1));
    let v6_octets = "80 20010db8000000000000000000000002";
    let next_hop = "10 20010db8000000000000000000000001 00";
    let sent = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        assert_eq!(out[..19], [&[0xff; 16][..], &u16::try_from(out.len()).unwrap().to_be_bytes(), &[2]].concat());
        out[19..].iter().map(|octet| format!("{octet:02x}")).collect::<String>()
    };
    let announced = |hop: NextHop, prefixes: &[IpNet]| {
        sent(&|out| assert_eq!(announce(out, &encoded, hop, prefixes, MAX_LEN, MAX_LEN), prefixes.len()))
    };
    let withdrawn = |family: Family, prefixes: &[IpNet]| {
        sent(&|out| assert_eq!(withdraw(out, family, prefixes, MAX_LEN, MAX_LEN), prefixes.len()))
    };
    for (what, found, expected) in [
        ("v4", announced(next_hops()[0], &v4), format!("0000 0022 {before} 400304 c0000201 {after} 20 0a000000")),
        (
            "v6",
            announced(next_hops()[1], &v6),
            format!("0000 0044 800e26 000201 {next_hop} {v6_octets} {before} {after}"),
        ),
        ("withdrawn v4", withdrawn(Family::Ipv4, &v4), "0005 20 0a000000 0000".to_owned()),
        ("withdrawn v6", withdrawn(Family::Ipv6, &v6), format!("0000 0017 800f14 000201 {v6_octets}")),
        ("end of v4", sent(&|out| end_of_rib(out, Family::Ipv4)), "0000 0000".to_owned()),
        ("end of v6", sent(&|out| end_of_rib(out, Family::Ipv6)), "0000 0006 800f03 000201".to_owned()),
    ] {
        assert_eq!(found, expected.replace(' ', ""), "{what}");
    }
    // The extended length is for values of 256 octets and more.
    assert!(announced(next_hops()[1], &prefixes(Family::Ipv6, 13))[8..].starts_with("800ef2"));
    assert!(announced(next_hops()[1], &prefixes(Family::Ipv6, 14))[8..].starts_with("900e0103"));
}

#[test]
fn a_set_of_as_numbers_is_not_sent() {
    for kind in [SegmentKind::Set, SegmentKind::ConfedSet] {
        let as_path = AsPath { segments: vec![Segment { kind, asns: vec![65001] }] };
        let attributes = Attributes { as_path, ..Attributes::default() };
        assert_eq!(EncodedAttributes::new(&attributes, true), Err(EncodeError::AsSet));
    }
}

prop_compose! {
    fn any_path()(segments in prop::collection::vec(prop::collection::vec(1..=u32::MAX, 1..6), 0..4)) -> AsPath {
        let sequence = |asns| Segment { kind: SegmentKind::Sequence, asns };
        AsPath { segments: segments.into_iter().map(sequence).collect() }
    }
}

prop_compose! {
    fn any_attributes()(
        origin in 0..3_u8,
        as_path in any_path(),
        med in any::<Option<u32>>(),
        local_pref in any::<Option<u32>>(),
        communities in prop::collection::vec(any::<u32>(), 0..100),
        ext_communities in prop::collection::vec(any::<[u8; 8]>(), 0..40),
        large in prop::collection::vec(any::<[u32; 3]>(), 0..30),
    ) -> Attributes {
        let one = |[global, local1, local2]: [u32; 3]| LargeCommunity { global, local1, local2 };
        Attributes {
            origin: Origin::from_number(origin).unwrap(),
            as_path, med, local_pref, communities, ext_communities,
            large_communities: large.into_iter().map(one).collect(),
        }
    }
}

proptest! {
    #[test]
    fn what_is_announced_is_read_back(
        attributes in any_attributes(), four_octet_as: bool, hop in 0..3_usize, count in 1..40_u32,
    ) {
        let next_hop = next_hops()[hop];
        let all = prefixes(next_hop.family(), count);
        let encoded = EncodedAttributes::new(&attributes, four_octet_as).unwrap();
        let mut out = Vec::new();
        prop_assert_eq!(announce(&mut out, &encoded, next_hop, &all, MAX_LEN, usize::MAX), all.len());
        let ibgp = attributes.local_pref.is_some();
        for (_, update) in messages(&out, MAX_LEN, &context(four_octet_as, ibgp)) {
            prop_assert_eq!(&update.disposition, &Disposition::Accept);
            let expected = update.next_hop.map_or_else(|| update.mp_reach.as_ref().unwrap().next_hop, NextHop::V4);
            prop_assert_eq!(expected, next_hop);
            prop_assert_eq!(update.as_path().asns().collect::<Vec<_>>(), attributes.as_path.asns().collect::<Vec<_>>());
            prop_assert_eq!(
                Attributes { as_path: attributes.as_path.clone(), ..update.attributes }, attributes.clone());
        }
    }

    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), four_octet_as: bool, ibgp: bool) {
        let _ = Update::decode(&body, &context(four_octet_as, ibgp));
    }
}
