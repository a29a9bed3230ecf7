//! Bytes.

use core::net::IpAddr;
use core::time::Duration;

use proptest::prelude::*;

use crate::site::SiteId;
use crate::site::state::message::{Cursor, MAX, Message, RECORDS};
use crate::site::state::record::{Body, Key, Record};
use crate::site::state::version::Speaks;
use crate::site::summary::{ServiceId, Summary};

fn record() -> impl Strategy<Value = Record> {
    let (seq, age) = (1..u64::MAX / 4, 0u64..u64::MAX / 2);
    let summary = (any::<u16>(), any::<u16>(), any::<bool>(), any::<u32>(), any::<u32>()).prop_map(
        |(ready, expected, draining, capacity, demand)| {
            Body::Service(Summary { ready, expected, draining, capacity, demand })
        },
    );
    let vip = (any::<u32>(), any::<u64>()).prop_map(|(service, term)| Body::Vip { service: ServiceId(service), term });
    let order = (proptest::option::of(any::<u32>()), any::<u32>())
        .prop_map(|(s, seconds)| Body::Order { service: s.map(ServiceId), seconds });
    let kind = prop_oneof![
        (any::<u32>(), summary).prop_map(|(id, body)| (Key::Service(ServiceId(id)), body)),
        (any::<IpAddr>(), vip).prop_map(|(ip, body)| (Key::Vip(ip.to_canonical()), body)),
        (any::<u32>(), order).prop_map(|(id, body)| (Key::Order(id), body)),
    ];
    (kind, seq, age, any::<bool>()).prop_map(|((key, body), seq, age, there)| Record {
        key,
        seq,
        age: Duration::from_millis(age),
        body: there.then_some(body),
    })
}

fn message() -> impl Strategy<Value = Message> {
    let cursor = (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(incarnation, instance, seq)| Cursor {
        incarnation,
        instance,
        seq,
    });
    let records = || proptest::collection::vec(record(), 0..20);
    let head = 1..u64::MAX / 4;
    prop_oneof![
        (cursor.clone(), cursor, 1..=Speaks::OURS.newest).prop_map(|(own, read, newest)| {
            let speaks = Speaks { oldest: 1, newest };
            Message::Hello { own, read, speaks }
        }),
        "[ -~]{0,64}".prop_map(|build| Message::About { build }),
        (any::<u64>(), head.clone(), records()).prop_map(|(incarnation, head, records)| Message::Delta {
            incarnation,
            head,
            records
        }),
        (any::<u64>(), head, any::<u32>(), any::<bool>(), records()).prop_map(
            |(incarnation, head, part, last, records)| Message::Snapshot { incarnation, head, part, last, records }
        ),
        (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(incarnation, head, lag, root)| {
            Message::Beat { incarnation, head, lag: Duration::from_millis(u64::from(lag)), root }
        }),
        Just(Message::Resync),
        any::<u64>().prop_map(|instance| Message::Contested { instance }),
        (any::<u32>(), any::<u32>()).prop_map(|(s, amount)| Message::Ask { service: ServiceId(s), amount }),
        (any::<u32>(), any::<u32>()).prop_map(|(s, amount)| Message::Lend { service: ServiceId(s), amount }),
        proptest::collection::btree_map((1..=254u8).prop_map(SiteId), any::<bool>(), 0..=254)
            .prop_map(|sites| Message::Reach { sites }),
    ]
}

proptest! {
    #[test]
    fn every_message_survives(message in message()) {
        prop_assert_eq!(Message::parse(&message.encode()), Ok(message));
    }

    #[test]
    fn no_cut_message_is_one(message in message(), cut in 1usize..200) {
        let bytes = message.encode();
        let cut = cut.min(bytes.len());
        prop_assert!(Message::parse(&bytes[..bytes.len() - cut]).is_err());
    }

    #[test]
    fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), tag in 0u8..14) {
        for newer in [false, true] {
            let _ = Message::read(&bytes, newer);
            let _ = Message::read(&[&[tag], &bytes[..]].concat(), newer);
        }
    }
}

#[test]
fn a_count_that_the_bytes_cannot_hold_reserves_nothing() {
    let mut bytes = vec![2, 1, 1];
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(Message::parse(&bytes).is_err());
    assert!(Message::parse(&vec![0; MAX + 1]).is_err());
}

#[test]
fn sites_that_cannot_be_or_are_named_twice_are_no_message() {
    let whole = [12, 2, 3, 1, 4, 0];
    let sites = [(SiteId(3), true), (SiteId(4), false)].into();
    assert_eq!(Message::parse(&whole), Ok(Message::Reach { sites }));
    for bad in [
        &[12, 1, 0, 1][..],
        &[12, 1, 255, 1],
        &[12, 2, 3, 1, 3, 0],
        &[12, 2, 4, 1, 3, 0],
        &[12, 1, 3, 2],
        &[12, 3, 3, 1, 4, 0],
        &[12, 1, 3, 1, 4, 0],
        &[12, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ] {
        assert!(Message::parse(bad).is_err(), "{bad:?}");
    }
    let all = (1..=254).map(|site| (SiteId(site), true)).collect();
    assert_eq!(Message::Reach { sites: all }.encode().len(), 1 + 2 + 2 * 254, "all that there can be");
}

#[test]
fn a_full_part_of_a_snapshot_fits_and_a_summary_is_small() {
    let body =
        Some(Body::Service(Summary { ready: 900, expected: 1000, draining: false, capacity: 100_000, demand: 90_000 }));
    let one = |seq| Record { key: Key::Service(ServiceId(60_000)), seq, age: Duration::from_secs(3600), body };
    let part =
        |n: u64| Message::Delta { incarnation: 9, head: 5_000_000, records: (0..n).map(|i| one(i * 4000)).collect() };
    let bytes = part(RECORDS as u64).encode().len();
    assert!(bytes <= MAX, "{bytes}");
    assert!(bytes / RECORDS <= 24, "{} bytes a record", bytes / RECORDS);
}
